/* produce.c: which producers have a kernel that makes both operands of what they compute (produce.h); the others' matrices
 * are written, and operands made of them.
 */
#include "backend/cuda/produce.h"
#include "backend/cuda/alphas.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/rows.h"
#include "backend/ref/operand_parts.h"

static bool rounds(const nb_quantizer *q, nb_rounding round) {
    return q->round == round && (round != NB_ROUND_STOCHASTIC || q->sr_bits == 8);
}

/* A row copy and a column copy turned as they know it, and whoever reads the numbers asks for no maximum of them. */
static bool are_both_copies(nb_backend *be, const ni_produced *out, nb_rounding round) {
    const nb_mat *x = out->numbers;
    const ni_making *row = out->makings, *column = row + 1;
    const ni_source source = {.numbers = x};
    if (out->count != 2 || row->transpose || !column->transpose || x->stride != x->cols || x->amax || x->turned_amax ||
        !ni_cuda_delayed_copy(be, &source, row, NULL) || !ni_cuda_delayed_copy(be, &source, column, NULL))
        return false;
    const nb_quantizer *across = ni_making_quantizer(row), *down = ni_making_quantizer(column);
    return rounds(across, round) && rounds(down, round) && ni_cuda_is_turned_as_known(down);
}

static bool is_aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

/* Heads of one length for q and k, that lie whole in tiles. */
static bool are_turned_in_tiles(const ni_producer *from, const ni_produced *out) {
    const int64_t q = out[0].numbers->cols, k = out[1].numbers->cols, head_dim = q / from->heads[0];
    return head_dim * from->heads[0] == q && head_dim * from->heads[1] == k && ni_cuda_produces_turned(head_dim);
}

static bool is_fused(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count) {
    const bool slopes = from->kind == NI_PRODUCER_SWIGLU_SLOPES || from->kind == NI_PRODUCER_TURNED_BACK;
    for (int32_t i = 0; i < count; i++)
        if (!are_both_copies(be, &out[i], slopes ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN))
            return false;
    if (from->kind == NI_PRODUCER_TURNED_BACK && !are_turned_in_tiles(from, out))
        return false;
    if (from->kind == NI_PRODUCER_NORM && !ni_cuda_produces_norm(out->numbers->rows, out->numbers->cols))
        return false;
    const void *const read[] = {from->gate, from->up, from->dy, from->x, from->change, from->sum, from->w};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        if (!is_aligned(read[i]))
            return false;
    return true;
}

static uint16_t *kept(const ni_produced *out) {
    return out->kept ? out->numbers->data : NULL;
}

static nb_status produce_swiglu(nb_backend *be, const ni_producer *from, const ni_produced *out,
                                const ni_cuda_both_copies *copies, nb_error *err) {
    const ni_cuda *cuda = ni_cuda_of(be);
    const bool slopes = from->kind == NI_PRODUCER_SWIGLU_SLOPES;
    const ni_cuda_swiglu_tiles s = {.gate = from->gate,
                                    .up = from->up,
                                    .dy = from->dy,
                                    .y = slopes ? NULL : kept(&out[0]),
                                    .dgate = slopes ? kept(&out[0]) : NULL,
                                    .dup = slopes ? kept(&out[1]) : NULL,
                                    .rows = out->numbers->rows,
                                    .cols = out->numbers->cols};
    const int code = slopes ? ni_cuda_produce_swiglu_slopes(cuda->stream, cuda->tile_room, &s, copies)
                            : ni_cuda_produce_swiglu(cuda->stream, cuda->tile_room, &s, copies);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code, slopes ? "swiglu_backward into operands" : "swiglu_forward into operands", err);
}

static nb_status produce_norm(nb_backend *be, const ni_producer *from, const ni_produced *out,
                              const ni_cuda_both_copies *copies, nb_error *err) {
    const ni_cuda *cuda = ni_cuda_of(be);
    const ni_cuda_norm norm = {.y = kept(out),
                               .rstd = from->rstd,
                               .sum = from->sum,
                               .x = from->x,
                               .change = from->change,
                               .w = from->w,
                               .n = out->numbers->rows,
                               .dim = out->numbers->cols,
                               .eps = (float)from->eps};
    const int code = ni_cuda_produce_norm(cuda->stream, cuda->tile_room, &norm, copies);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code, "rmsnorm_forward into operands", err);
}

static nb_status produce_turned(nb_backend *be, const ni_producer *from, const ni_produced *out,
                                const ni_cuda_both_copies *copies, nb_error *err) {
    const ni_cuda *cuda = ni_cuda_of(be);
    const int64_t rows = out->numbers->rows, head_dim = out->numbers->cols / from->heads[0];
    ni_cuda_turned_tiles s = {.rows = rows,
                              .kept = {out[0].kept, out[1].kept},
                              .positions = from->positions,
                              .head_dim = (int32_t)head_dim,
                              .how = *from->rope,
                              .turns = ni_cuda_turns_of(be, from->rope, head_dim, rows)};
    for (int32_t i = 0; i < 3; i++) {
        s.x[i] = out[i].numbers->data;
        s.cols[i] = out[i].numbers->cols;
    }
    const int code = ni_cuda_produce_turned(cuda->stream, cuda->tile_room, &s, copies);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code, "rope back into operands", err);
}

nb_status ni_cuda_make_produced(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                                nb_error *err) {
    ni_cuda_both_copies copies[NI_PRODUCED_MOST];
    if (!is_fused(be, from, out, count))
        return ni_compose_produced(be, from, out, count, err);
    for (int32_t i = 0; i < count; i++) {
        const ni_source source = {.numbers = out[i].numbers};
        for (int32_t k = 0; k < 2; k++)
            NB_TRY(ni_check_making(&source, &out[i].makings[k], err));
        ni_cuda_delayed_copy(be, &source, &out[i].makings[0], &copies[i].row);
        ni_cuda_delayed_copy(be, &source, &out[i].makings[1], &copies[i].column);
    }
    return from->kind == NI_PRODUCER_NORM          ? produce_norm(be, from, out, copies, err)
           : from->kind == NI_PRODUCER_TURNED_BACK ? produce_turned(be, from, out, copies, err)
                                                   : produce_swiglu(be, from, out, copies, err);
}
