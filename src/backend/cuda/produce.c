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

/* A row copy and a column copy turned as they know it, whose tensor scales are known now. */
static bool are_both_copies(nb_backend *be, const ni_produced *out, nb_rounding round, ni_cuda_both_copies *copies) {
    const nb_mat *x = out->numbers;
    const ni_making *row = out->makings, *column = row + 1;
    const ni_source source = {.numbers = x};
    if (out->count != 2 || row->transpose || !column->transpose || x->stride != x->cols ||
        !ni_cuda_scaled_copy(be, &source, row, &copies->row) ||
        !ni_cuda_scaled_copy(be, &source, column, &copies->column))
        return false;
    const nb_quantizer *across = ni_making_quantizer(row), *down = ni_making_quantizer(column);
    return rounds(across, round) && rounds(down, round) && ni_cuda_is_turned_as_known(down);
}

/* Their scales are of the step before, and whoever reads the numbers asks for no maximum of them. */
static bool is_delayed(const ni_produced *out) {
    return out->makings[0].past && out->makings[1].past && !out->numbers->amax && !out->numbers->turned_amax;
}

static bool is_aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

/* Heads of one length for q and k, that lie whole in tiles. */
static bool are_turned_in_tiles(const ni_producer *from, const ni_produced *out) {
    const int64_t q = out[0].numbers->cols, k = out[1].numbers->cols, head_dim = q / from->heads[0];
    return head_dim * from->heads[0] == q && head_dim * from->heads[1] == k && ni_cuda_produces_turned(head_dim);
}

static bool is_fused(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                     ni_cuda_both_copies *copies) {
    const bool slopes = from->kind == NI_PRODUCER_SWIGLU_SLOPES || from->kind == NI_PRODUCER_TURNED_BACK;
    for (int32_t i = 0; i < count; i++)
        if (!are_both_copies(be, &out[i], slopes ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN, &copies[i]) ||
            !is_delayed(&out[i]))
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
                                const ni_cuda_both_copies *copies, bool turned, nb_error *err) {
    const ni_cuda *cuda = ni_cuda_of(be);
    const int64_t rows = out->numbers->rows, head_dim = out->numbers->cols / from->heads[0];
    ni_cuda_turned_tiles s = {.rows = rows, .turns = turned};
    if (turned) {
        s.positions = from->positions;
        s.by = (ni_cuda_angles){*from->rope, ni_cuda_turns_of(be, from->rope, head_dim, rows), (int32_t)head_dim, true};
    }
    for (int32_t i = 0; i < 3; i++) {
        s.x[i] = out[i].numbers->data;
        s.cols[i] = out[i].numbers->cols;
        s.kept[i] = turned && i < 2 && out[i].kept;
    }
    const int code = ni_cuda_produce_turned(cuda->stream, cuda->tile_room, &s, copies);
    ni_cuda_alphas_multiplied(be);
    return ni_cuda_status(be, code, turned ? "rope back into operands" : "quantize: rows and columns of three", err);
}

/* The producer by itself. */
static nb_status run(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count, nb_error *err) {
    ni_produced bare[NI_PRODUCED_MOST];
    for (int32_t i = 0; i < count; i++)
        bare[i] = (ni_produced){.numbers = out[i].numbers, .kept = true};
    return ni_compose_produced(be, from, bare, count, err);
}

static nb_status check(const ni_produced *out, int32_t count, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        for (int32_t k = 0; k < out[i].count; k++)
            NB_TRY(ni_check_making(&(ni_source){.numbers = out[i].numbers}, &out[i].makings[k], err));
    return NB_OK;
}

/* Of three matrices whose maxima the producer tells, one launch makes all operands. */
static bool are_three_known(nb_backend *be, const ni_produced *out, int32_t count, ni_cuda_both_copies *copies) {
    for (int32_t i = 0; i < count; i++)
        if (!are_both_copies(be, &out[i], NB_ROUND_STOCHASTIC, &copies[i]))
            return false;
    return count == 3;
}

nb_status ni_cuda_make_produced(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                                nb_error *err) {
    ni_cuda_both_copies copies[NI_PRODUCED_MOST];
    NB_TRY(check(out, count, err));
    if (!is_fused(be, from, out, count, copies)) {
        if (!are_three_known(be, out, count, copies))
            return ni_compose_produced(be, from, out, count, err);
        NB_TRY(run(be, from, out, count, err));
        return produce_turned(be, from, out, copies, false, err);
    }
    return from->kind == NI_PRODUCER_NORM          ? produce_norm(be, from, out, copies, err)
           : from->kind == NI_PRODUCER_TURNED_BACK ? produce_turned(be, from, out, copies, true, err)
                                                   : produce_swiglu(be, from, out, copies, err);
}
