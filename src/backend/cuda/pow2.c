/* pow2.c: operands whose scales are powers of two, multiplied as bytes by units of 8 bits (pow2_bytes.h): which they are,
 * and their products.
 */
#include "backend/cuda/coded.h"
#include "backend/cuda/joined.h"
#include "backend/cuda/list.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/pow2_bytes.h"
#include "backend/cuda/recode.h"
#include "backend/ref/operand_parts.h"
#include "format/vector_scales.h"

static bool in_sixteens(const nb_operand *o) {
    return o->rows > 0 && o->cols > 0 && o->rows % 16 == 0 && o->cols % 16 == 0 && o->rows <= INT32_MAX &&
           o->cols <= INT32_MAX;
}

bool ni_cuda_goes_as_pow2(nb_backend *be, const nb_operand *o) {
    return ni_cuda_units_of(ni_cuda_of(be), &o->quantizer, &o->other) == NI_UNITS_FP8_POW2 && in_sixteens(o);
}

nb_operand ni_cuda_pow2_as_made(const nb_operand *o) {
    nb_operand made = *o;
    if (!(o->form & NI_CUDA_BORROWED))
        return made;
    made.rows = o->cols;
    made.cols = o->rows;
    made.memory = o->numbers.data;
    made.quantizer.block_rows = o->quantizer.block_cols;
    made.quantizer.block_cols = o->quantizer.block_rows;
    return made;
}

static ni_cuda_pow2 parts_of(const nb_operand *made) {
    const nb_qtensor codes = ni_codes_of(made);
    return ni_cuda_pow2_place(&codes, ni_cuda_values_of(made));
}

nb_status ni_cuda_fill_pow2(nb_backend *be, const nb_operand *const *operands, int count, nb_error *err) {
    ni_cuda_pow2 parts[NI_CUDA_LIST_MOST];
    int code = cudaSuccess;
    for (int first = 0; first < count && !code; first += NI_CUDA_LIST_MOST) {
        const int now = count - first < NI_CUDA_LIST_MOST ? count - first : NI_CUDA_LIST_MOST;
        for (int i = 0; i < now; i++)
            parts[i] = parts_of(operands[first + i]);
        code = ni_cuda_launch_pow2_bytes(ni_cuda_of(be)->stream, parts, now);
    }
    return ni_cuda_status(be, code, "bytes both ways of codes", err);
}

nb_status ni_cuda_make_pow2_numbers(nb_backend *be, const ni_cuda_double_source *from, const uint32_t *amax,
                                    const nb_operand *out, nb_error *err) {
    const ni_cuda_pow2 parts = parts_of(out);
    return ni_cuda_status(
        be, ni_cuda_launch_pow2_numbers(ni_cuda_of(be)->stream, &parts, from->numbers, from->stride, amax),
        "quantize: bytes both ways", err);
}

bool ni_cuda_recodes_pow2(nb_backend *be, const ni_source *source, const ni_making *making) {
    const nb_operand *from = source->operand, *out = making->out;
    return from && !ni_is_plain(from) && !ni_is_plain(out) && !(from->form & NI_CUDA_UNCODED) && !making->stats &&
           ni_source_is_simple(source) && ni_making_is_whole(source, making) && in_sixteens(from) &&
           from->rows * from->cols / 8 <= INT32_MAX && ni_cuda_goes_as_pow2(be, out) &&
           ni_cuda_recodes(&from->quantizer, ni_making_quantizer(making));
}

/* The codes that are kept are those of its own rows. */
static ni_cuda_recoding recoding_of(const nb_operand *from, const ni_making *making) {
    nb_operand *const out = making->out;
    const ni_cuda_pow2 parts = parts_of(out);
    const bool turned = making->transpose;
    out->form = NI_CUDA_POW2;
    out->outer = parts.scale;
    return (ni_cuda_recoding){.from = ni_codes_of(from),
                              .bytes = turned ? parts.turned : parts.bytes,
                              .turned = turned ? parts.bytes : parts.turned,
                              .scale = parts.scale,
                              .rule = ni_making_quantizer(making)->rule};
}

nb_status ni_cuda_recode_pow2(nb_backend *be, const nb_operand *const *from, const ni_making *const *makings, int count,
                              nb_error *err) {
    ni_cuda_recoding list[NI_CUDA_LIST_MOST];
    uint32_t *const amaxes = ni_cuda_scratch(be, (size_t)count * sizeof *amaxes, "maxima of codes");
    for (int i = 0; i < count; i++)
        list[i] = recoding_of(from[i], makings[i]);
    return ni_cuda_status(be, amaxes ? ni_cuda_launch_recode(ni_cuda_of(be)->stream, list, count, amaxes) : 0,
                          "quantize: codes anew, both ways", err);
}

bool ni_cuda_borrow_pow2(nb_backend *be, nb_operand *out, const nb_operand *from) {
    if (!(from->form & NI_CUDA_POW2) || from->form & NI_CUDA_BORROWED || !ni_cuda_goes_as_pow2(be, out))
        return false;
    out->form = NI_CUDA_POW2 | NI_CUDA_BORROWED | NI_CUDA_UNCODED;
    out->numbers.data = from->memory;
    out->outer = from->outer;
    return true;
}

/* ---- by units of BF16 ---- */

static bool in_bf16(nb_backend *be, const nb_operand *o) {
    return ni_is_pow2(&o->quantizer) && o->quantizer.element == NB_ELEMENT_E2M1 && !nb_quantizer_is_bf16(&o->other) &&
           ni_cuda_units_of(ni_cuda_of(be), &o->quantizer, &o->other) == NI_UNITS_BF16;
}

bool ni_cuda_is_carried(nb_backend *be, const nb_operand *o) {
    return in_bf16(be, o) && ni_has_row_scales(&o->quantizer);
}

bool ni_cuda_borrow_carried(nb_backend *be, nb_operand *out, const nb_operand *from) {
    const bool whole = ni_has_row_scales(&from->quantizer) ? from->form & NI_CUDA_CARRIED : from->form == 0;
    if (!whole || from->form & NI_CUDA_BORROWED || !in_bf16(be, out) || !in_bf16(be, from))
        return false;
    out->form = NI_CUDA_ACROSS | NI_CUDA_BORROWED | NI_CUDA_UNCODED | NI_CUDA_CARRIED;
    out->numbers = ni_cuda_value_matrix(from);
    out->outer = NULL;
    return true;
}

/* ---- by units of 8 bits ---- */

/* One side of a product: its bytes in the order that the product wants them. */
static nb_mat bytes_of(const nb_operand *o, const ni_cuda_pow2 *parts) {
    const nb_dtype type = o->quantizer.element == NB_ELEMENT_E5M2 ? NB_E5M2 : NB_E4M3;
    return nb_mat_of(o->form & NI_CUDA_BORROWED ? parts->turned : parts->bytes, type, o->rows, o->cols);
}

static ni_cuda_pow2_mend mend_of(ni_cuda *cuda, const nb_mat *c, const nb_operand *a, const nb_operand *b) {
    const nb_operand first = ni_cuda_pow2_as_made(a), second = ni_cuda_pow2_as_made(b);
    return (ni_cuda_pow2_mend){.c = *c,
                               .a = parts_of(&first),
                               .b = parts_of(&second),
                               .a_turned = a->form & NI_CUDA_BORROWED,
                               .b_turned = b->form & NI_CUDA_BORROWED,
                               .mended = (uint32_t *)(void *)(cuda->words + NI_CUDA_MENDED)};
}

nb_status ni_cuda_multiply_pow2(nb_backend *be, const nb_mat *c, const nb_operand *a, const nb_operand *b,
                                bool accumulate, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    const ni_cuda_pow2_mend m = mend_of(cuda, c, a, b);
    const ni_cuda_product p = {.a = bytes_of(a, &m.a),
                               .b = bytes_of(b, &m.b),
                               .c = *c,
                               .trans_b = true,
                               .beta = accumulate ? cuda->words + NI_CUDA_ONE : NULL,
                               .scaling = NI_CUDA_SCALING_WORD,
                               .a_scale = m.a.scale,
                               .b_scale = m.b.scale};
    NB_TRY(ni_cuda_multiply_plain(be, &p, err));
    return ni_cuda_status(be, ni_cuda_launch_pow2_mend(cuda->stream, &m, cuda->multiprocessors),
                          "multiply: vectors too far apart for FP8", err);
}

/* What is not exact is summed before, in FP32, and C begins with it; of 8-bit codes all is exact. */
nb_status ni_cuda_multiply_pow2_joined(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count,
                                       float *room, uint32_t *found, bool *done, nb_error *err) {
    _Static_assert((int)NI_CUDA_JOINED_MOST == (int)NI_CUDA_APART_MOST, "terms of a sum");
    ni_cuda *cuda = ni_cuda_of(be);
    ni_cuda_pow2_apart m = {.room = room,
                            .rows = c->rows,
                            .cols = c->cols,
                            .count = count,
                            .found = found,
                            .mended = (uint32_t *)(void *)(cuda->words + NI_CUDA_MENDED)};
    ni_cuda_joined j = {.c = *c, .count = count, .room = room};
    for (int32_t i = 0; i < count; i++) {
        m.terms[i] = mend_of(cuda, c, terms[i].a, terms[i].b);
        j.terms[i] = (ni_cuda_joined_term){.a = bytes_of(terms[i].a, &m.terms[i].a),
                                           .b = bytes_of(terms[i].b, &m.terms[i].b),
                                           .alpha = m.terms[i].a.scale,
                                           .second = m.terms[i].b.scale};
        if (m.terms[i].a.wide || m.terms[i].b.wide)
            j.found = found;
    }
    *done = ni_cuda_can_join(&j);
    if (!*done)
        return NB_OK;
    if (j.found)
        NB_TRY(ni_cuda_status(be, ni_cuda_launch_pow2_apart(cuda->stream, &m, cuda->multiprocessors),
                              "multiply: vectors too far apart for FP8", err));
    return ni_cuda_status(be, ni_cuda_launch_joined_bytes(cuda->stream, &j, cuda->multiprocessors),
                          "multiply: products of bytes joined", err);
}
