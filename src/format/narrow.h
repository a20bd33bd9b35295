/* narrow.h: one number of a type that holds tensors between steps, and the scale of a tensor (arXiv:2310.18313
 * section 2). What a scaled tensor is: nb_scaled in nibble/backend.h.
 *
 * Finite numbers saturate; what is not finite stays so: Inf and NaN become NaN in the 8-bit types, whose casts
 * elsewhere hide an Inf behind their largest number.
 */
#ifndef NB_FORMAT_NARROW_H
#define NB_FORMAT_NARROW_H

#include "format/bf16.h"
#include "format/e4m3.h"
#include "format/e5m2.h"
#include "format/fp16.h"
#include "format/scale.h"
#include "nibble/format.h"

/* Largest number of a type that has a scale; 0 for one that has none. */
static inline NB_HD float nb_narrow_max(nb_dtype type) {
    return type == NB_F16 ? NB_FP16_MAX : type == NB_E4M3 ? 448.0f : type == NB_E5M2 ? 57344.0f : 0.0f;
}

static inline NB_HD float nb_narrow_load(const void *from, nb_dtype type, int64_t i) {
    switch (type) {
    case NB_BF16:
        return nb_bf16_value(((const uint16_t *)from)[i]);
    case NB_F16:
        return nb_fp16_value(((const uint16_t *)from)[i]);
    case NB_E4M3:
        return nb_e4m3_value(((const uint8_t *)from)[i]);
    case NB_E5M2:
        return nb_e5m2_value(((const uint8_t *)from)[i]);
    default:
        return ((const float *)from)[i];
    }
}

static inline NB_HD void nb_narrow_store(void *to, nb_dtype type, int64_t i, float x) {
    bool finite = nb_f32_magnitude(x) < NB_F32_INF_BITS;
    switch (type) {
    case NB_BF16:
        ((uint16_t *)to)[i] = nb_bf16_even(x);
        break;
    case NB_F16:
        if (finite && nb_f32_abs(x) > NB_FP16_MAX)
            x = x < 0 ? -NB_FP16_MAX : NB_FP16_MAX;
        ((uint16_t *)to)[i] = nb_fp16_even(x);
        break;
    case NB_E4M3:
        ((uint8_t *)to)[i] = finite ? nb_e4m3_even(x) : NB_E4M3_NAN;
        break;
    case NB_E5M2:
        ((uint8_t *)to)[i] = finite ? nb_e5m2_even(x) : NB_E5M2_NAN;
        break;
    default:
        ((float *)to)[i] = x;
    }
}

/* What the numbers of a tensor are multiplied by before they are stored, in a type that has a scale. */
static inline NB_HD float nb_narrow_encode(nb_dtype type, nb_scale_rule rule, float amax) {
    return nb_vector_encode(rule, nb_narrow_max(type), amax);
}

#endif
