/* operand_layout.c: where the parts of an operand lie on a GPU without units for four bits: the canonical codes, and
 * behind them BF16 values that a tensor core multiplies.
 *
 *     value = code x inner scale       at most 8 significant bits for E2M1 x E4M3: exact in BF16
 *
 * What does not vary along the contraction (the scale of the tensor, of a row) stays outside of the sum. Against plain
 * numbers an operand is decoded whole and rounded to BF16, as on the CPU.
 */
#include "backend/cuda/alphas.h"
#include "backend/cuda/coded.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/mx_bytes.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/pow2_bytes.h"
#include "backend/cuda/rows.h"
#include "backend/ref/operand_parts.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

/* ---- where things lie ---- */

uint16_t *ni_cuda_values_of(const nb_operand *o) {
    return (uint16_t *)(void *)((char *)o->memory + ni_cuda_rounded(ni_canonical_bytes(o)));
}

/* Either way: across they lie in rows of whole vectors. */
static size_t value_bytes(const nb_operand *o) {
    return ni_cuda_rounded((size_t)(ni_cuda_across_matrix(o).stride * o->cols) * sizeof(uint16_t));
}

uint8_t *ni_cuda_bytes_beside(const nb_operand *o) {
    return (uint8_t *)(void *)((char *)ni_cuda_values_of(o) + value_bytes(o));
}

/* A weight that units for 8 bits may multiply. */
static bool may_have_both(const nb_operand *o) {
    const nb_quantizer *q = &o->quantizer;
    return o->side == NI_RIGHT && q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_F32 && q->block_rows == 1;
}

size_t ni_cuda_operand_bytes(nb_backend *be, const nb_operand *operand) {
    (void)be;
    if (ni_is_plain(operand))
        return 0;
    const size_t values =
        value_bytes(operand) + (may_have_both(operand) ? ni_cuda_rounded((size_t)(operand->rows * operand->cols)) : 0);
    const size_t mx = ni_cuda_mx_bytes(operand->rows, operand->cols); /* of small MXFP4 operands the larger one */
    const bool larger = operand->quantizer.scale_type == NB_SCALE_E8M0 && mx > values;
    const size_t behind =
        ni_is_pow2(&operand->quantizer) ? ni_cuda_pow2_room(&operand->quantizer, operand->rows, operand->cols) : 0;
    return ni_cuda_rounded(ni_canonical_bytes(operand)) + (larger ? mx : behind > values ? behind : values);
}

nb_status ni_cuda_check_coded(const nb_operand *o, const char *what, nb_error *err) {
    if (!o || !(o->form & NI_CUDA_UNCODED))
        return NB_OK;
    return nb_fail(err, NB_INTERNAL, "cuda: %s of an operand that was made to be multiplied only; expected `reread`",
                   what);
}

nb_status ni_cuda_fill_mx(nb_backend *be, nb_operand *const *operands, int count, bool cleared, nb_error *err) {
    ni_cuda_mx_making makings[2];
    for (int i = 0; i < count; i++)
        makings[i] =
            (ni_cuda_mx_making){ni_cuda_mx_place(ni_cuda_values_of(operands[i]), operands[i]->rows, operands[i]->cols),
                                ni_codes_of(operands[i]), cleared};
    return ni_cuda_status(be, ni_cuda_launch_mx_bytes(stream_of(be), makings, count), "bytes of MXFP4", err);
}

static nb_status fill_bytes(nb_backend *be, const nb_operand *o, nb_error *err) {
    const nb_qtensor codes = ni_codes_of(o);
    nb_operand copy = *o;
    nb_operand *const one[] = {&copy};
    if (o->quantizer.scale_type == NB_SCALE_E8M0)
        return ni_cuda_fill_mx(be, one, 1, false, err);
    return ni_cuda_status(be, ni_cuda_launch_fp8(stream_of(be), (uint8_t *)ni_cuda_values_of(o), &codes),
                          "bytes of codes", err);
}

nb_status ni_cuda_fill_values(nb_backend *be, const nb_operand *o, nb_error *err) {
    const nb_mat values = ni_cuda_value_matrix(o);
    const nb_qtensor codes = ni_codes_of(o);
    if (o->form & NI_CUDA_BYTES)
        return fill_bytes(be, o, err);
    if (o->form & NI_CUDA_POW2)
        return ni_cuda_fill_pow2(be, &o, 1, err);
    return ni_cuda_status(be,
                          ni_cuda_launch_decode(stream_of(be), &values, &codes, false, NULL,
                                                ni_cuda_is_whole_valued(o) || o->form & NI_CUDA_CARRIED),
                          "an operand's values", err);
}

/* ---- the canonical layout ---- */

static void copy_codes(nb_backend *be, const nb_qtensor *to, const nb_qtensor *from) {
    const nb_qtensor_size bytes = nb_qtensor_bytes(&from->quantizer, from->rows, from->cols);
    ni_cuda_copy(be, to->codes, from->codes, bytes.codes);
    ni_cuda_copy(be, to->scales, from->scales, bytes.scales);
    ni_cuda_copy(be, to->outer_scales, from->outer_scales, bytes.outer_scales);
    ni_cuda_copy(be, to->tensor_scale, from->tensor_scale, bytes.tensor_scale);
}

bool ni_cuda_lends_codes(const nb_operand *from, nb_qtensor *out) {
    *out = ni_codes_of(from);
    return !(from->form & NI_CUDA_UNCODED);
}

nb_status ni_cuda_canonical(nb_backend *be, const nb_qtensor *out, const nb_operand *from, nb_error *err) {
    NB_TRY(ni_check_canonical(out, from, err));
    NB_TRY(ni_cuda_check_coded(from, "canonical", err));
    const nb_qtensor codes = ni_codes_of(from);
    copy_codes(be, out, &codes);
    return NB_OK;
}

nb_status ni_cuda_take_codes(nb_backend *be, nb_operand *out, const nb_qtensor *from, nb_error *err) {
    static const uint32_t unknown = 0x7fc00000; /* NaN: the amax that the tensor's scale was made from */
    NB_TRY(ni_check_canonical(from, out, err));
    const nb_qtensor codes = ni_codes_of(out);
    ni_cuda_upload(be, out->memory, &unknown, sizeof unknown);
    copy_codes(be, &codes, from);
    ni_cuda_alphas_changed(be, codes.tensor_scale);
    out->form = ni_cuda_goes_as_pow2(be, out) ? NI_CUDA_POW2 : 0;
    out->outer = codes.tensor_scale;
    return ni_cuda_fill_values(be, out, err);
}
