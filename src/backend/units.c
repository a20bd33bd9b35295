/* units.c: see units.h. */
#include "backend/units.h"

#include "format/vector_scales.h"

bool ni_has_fp4_units(int major, int minor) {
    return (major == 10 && (minor == 0 || minor == 3)) || (major == 12 && minor == 0);
}

bool ni_is_scaled_outside(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_NONE || ni_has_tensor_scale(q) || ni_has_row_scales(q);
}

bool ni_is_4bit(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 || q->element == NB_ELEMENT_INT4;
}

bool ni_is_in_blocks(const nb_quantizer *q, nb_scale_type type, int32_t block) {
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == type && q->block_cols == block &&
           (q->outer == NB_OUTER_NONE || q->outer == NB_OUTER_TENSOR);
}

bool ni_is_pow2(const nb_quantizer *q) {
    const bool wide = q->element == NB_ELEMENT_E4M3 || q->element == NB_ELEMENT_E5M2,
               vectors = ni_has_row_scales(q) || ni_has_column_scales(q);
    return q->hadamard_size == 0 &&
           ((wide && ni_has_tensor_scale(q)) || (q->rule == NB_RULE_POW2 && q->element == NB_ELEMENT_E2M1 && vectors));
}

/* The library has no product of two E5M2 operands. */
static bool are_both_e5m2(const nb_quantizer *a, const nb_quantizer *b) {
    return a->element == NB_ELEMENT_E5M2 && b->element == NB_ELEMENT_E5M2;
}

/* Bytes lie both ways, and carry scales that are not the tensor's. Both of four bits under scales outside of the sum:
 * multiplied exactly without carrying these. */
static bool carry_scales(const nb_quantizer *a, const nb_quantizer *b) {
    return ni_is_pow2(a) && ni_is_pow2(b) && !are_both_e5m2(a, b) &&
           !(ni_is_4bit(a) && ni_is_4bit(b) && ni_is_scaled_outside(a) && ni_is_scaled_outside(b));
}

ni_units ni_units_of(int major, int minor, const ni_permits *permits, const nb_quantizer *a, const nb_quantizer *b) {
    if (nb_quantizer_is_bf16(a) || nb_quantizer_is_bf16(b))
        return NI_UNITS_BF16;
    const bool fp8 = major == 9 && !permits->no_fp8;
    if (fp8 && !permits->exact_fp8 && carry_scales(a, b))
        return NI_UNITS_FP8_POW2;
    if (fp8 && ni_is_scaled_outside(a) && ni_is_scaled_outside(b) && !are_both_e5m2(a, b) &&
        (!permits->exact_fp8 || (ni_is_4bit(a) && ni_is_4bit(b))))
        return NI_UNITS_FP8;
    if (major == 9 && permits->mxfp4_fp8 && ni_is_in_blocks(a, NB_SCALE_E8M0, 32) &&
        ni_is_in_blocks(b, NB_SCALE_E8M0, 32))
        return NI_UNITS_FP8_MX;
    if (!permits->native_fp4 || !ni_has_fp4_units(major, minor))
        return NI_UNITS_BF16;
    if (ni_is_in_blocks(a, NB_SCALE_E4M3, 16) && ni_is_in_blocks(b, NB_SCALE_E4M3, 16))
        return NI_UNITS_NVFP4;
    return ni_is_in_blocks(a, NB_SCALE_E8M0, 32) && ni_is_in_blocks(b, NB_SCALE_E8M0, 32) ? NI_UNITS_MXFP4
                                                                                          : NI_UNITS_BF16;
}

bool ni_units_take(ni_units units, int64_t n, int64_t k) {
    const int64_t divisor = units == NI_UNITS_NVFP4 || units == NI_UNITS_MXFP4 ? 32 : 16;
    return units == NI_UNITS_BF16 || (n % divisor == 0 && k % divisor == 0);
}

bool ni_is_counted_width(int64_t cols) {
#define IS(width) || cols == (width)
    return false NI_COUNTED_WIDTHS(IS);
#undef IS
}
