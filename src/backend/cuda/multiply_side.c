/* multiply_side.c: one side of a product: what units for BF16 read of an operand, and what stays outside of their sum. */
#include "backend/cuda/multiply.h"
#include "backend/ref/operand_parts.h"
#include "format/vector_scales.h"

void *ni_cuda_take(ni_cuda_room *r, size_t bytes) {
    void *piece = r->at;
    r->at += ni_cuda_rounded(bytes);
    return r->at <= r->end ? piece : NULL;
}

size_t ni_cuda_decoded_bytes(const nb_operand *o) {
    return o && !ni_is_plain(o) ? ni_cuda_rounded((size_t)(o->rows * o->cols) * sizeof(uint16_t)) : 0;
}

ni_units ni_cuda_term_units(nb_backend *be, const nb_operand *a, const nb_operand *b, size_t *bytes) {
    *bytes = 0;
    if (!a || ni_is_plain(a) || ni_is_plain(b))
        return NI_UNITS_BF16;
    const nb_qtensor x = ni_codes_of(a), y = ni_codes_of(b);
    const ni_units units = ni_cuda_units_for(ni_cuda_of(be), &x, &y);
    if (units == NI_UNITS_FP8_POW2 && !(a->form & b->form & NI_CUDA_POW2)) /* made for another product */
        return NI_UNITS_BF16;
    *bytes = ni_cuda_coded_bytes(units, &x, &y);
    return units;
}

/* Bytes both ways, multiplied by what is none: powers of two are in the numbers, exactly; one scale stays outside. */
static nb_status decoded_pow2(nb_backend *be, ni_cuda_room *scratch, const nb_operand *o, ni_cuda_side *out,
                              nb_error *err) {
    const nb_operand made = ni_cuda_pow2_as_made(o);
    const nb_qtensor codes = ni_codes_of(&made);
    const bool one = ni_has_tensor_scale(&o->quantizer);
    *out =
        (ni_cuda_side){.numbers = nb_mat_of(ni_cuda_take(scratch, ni_cuda_decoded_bytes(o)), NB_BF16, o->rows, o->cols),
                       .outer = {one ? o->outer : NULL, 0}};
    if (!out->numbers.data)
        return nb_fail(err, NB_INTERNAL, "cuda: multiply took more scratch than it asked for");
    return ni_cuda_status(
        be,
        ni_cuda_launch_decode(ni_cuda_of(be)->stream, &out->numbers, &codes, o->form & NI_CUDA_BORROWED, NULL, !one),
        "multiply", err);
}

nb_status ni_cuda_side_of(nb_backend *be, ni_cuda_room *scratch, const nb_operand *o, const nb_operand *other,
                          ni_cuda_side *out, nb_error *err) {
    /* Then the numbers carry every scale. */
    const bool whole = ni_is_plain(other) && !ni_has_tensor_scale(&o->quantizer);
    *out = (ni_cuda_side){.numbers = o->numbers, .transposed = o->transposed, .outer = {o->factor, 0}};
    if (ni_is_plain(o))
        return NB_OK;
    if (o->form & NI_CUDA_POW2)
        return decoded_pow2(be, scratch, o, out, err);
    const nb_qtensor codes = ni_codes_of(o);
    const bool across = o->form & NI_CUDA_ACROSS;
    *out = (ni_cuda_side){.numbers = o->form & NI_CUDA_BORROWED ? o->numbers
                                     : across                   ? ni_cuda_across_matrix(o)
                                                                : ni_cuda_value_matrix(o),
                          .transposed = across};
    if (o->form & NI_CUDA_CARRIED)
        return NB_OK;
    if (!whole)
        out->outer =
            ni_has_row_scales(&o->quantizer) ? (ni_cuda_outer){codes.outer_scales, 1} : (ni_cuda_outer){o->outer, 0};
    if (whole == ni_cuda_is_whole_valued(o) && !(o->form & NI_CUDA_BYTES))
        return NB_OK;
    if (o->form & NI_CUDA_UNCODED && ni_has_column_scales(&o->quantizer)) /* in the numbers, whatever these meet */
        return NB_OK;
    if (o->form & NI_CUDA_UNCODED)
        return nb_fail(err, NB_INTERNAL, "cuda: multiply reads an operand that was made for another product");
    out->transposed = false;
    out->numbers = nb_mat_of(ni_cuda_take(scratch, ni_cuda_decoded_bytes(o)), NB_BF16, o->rows,
                             o->cols); /* made for another product */
    if (!out->numbers.data)
        return nb_fail(err, NB_INTERNAL, "cuda: multiply took more scratch than it asked for");
    return ni_cuda_status(be, ni_cuda_launch_decode(ni_cuda_of(be)->stream, &out->numbers, &codes, false, NULL, whole),
                          "multiply", err);
}

static bool have_two_factors(const ni_cuda_sides *s) {
    return s->a.outer.at && s->b.outer.at;
}

nb_status ni_cuda_sides_of(nb_backend *be, ni_cuda_room *scratch, const ni_term *t, ni_cuda_sides *out, nb_error *err) {
    const bool coded = !ni_is_plain(t->a) && !ni_is_plain(t->b);
    NB_TRY(ni_cuda_side_of(be, scratch, t->a, t->b, &out->a, err));
    NB_TRY(ni_cuda_side_of(be, scratch, t->b, t->a, &out->b, err));
    out->bare = !out->a.outer.step && !out->b.outer.step && (coded || !have_two_factors(out));
    return NB_OK;
}

nb_status ni_cuda_alpha_of(nb_backend *be, const ni_cuda_sides *sides, const float **alpha, nb_error *err) {
    const float *const a = sides->a.outer.at, *const b = sides->b.outer.at;
    *alpha = a ? a : b;
    return have_two_factors(sides) ? ni_cuda_alpha(be, a, b, alpha, err) : NB_OK;
}
