/* narrow.h: one number of a type that holds tensors between steps, and the scale of a tensor (arXiv:2310.18313
 * section 2). What a scaled tensor is: ni_scaled in backend/arguments.h.
 *
 * Finite numbers saturate; what is not finite stays so: Inf and NaN become NaN in the 8-bit types, whose casts
 * elsewhere hide an Inf behind their largest number. A NaN is stored as the positive quiet one of its type: what
 * machines keep of its sign and payload differs.
 */
#ifndef NI_FORMAT_NARROW_H
#define NI_FORMAT_NARROW_H

#include "format/bf16.h"
#include "format/e4m3.h"
#include "format/e5m2.h"
#include "format/fp16.h"
#include "format/scale.h"
#include "nibble/format.h"

/* Largest number of a type that has a scale; 0 for one that has none. */
static inline NI_HD float ni_narrow_max(nb_dtype type) {
    return type == NB_F16 ? NI_FP16_MAX : type == NB_E4M3 ? 448.0f : type == NB_E5M2 ? 57344.0f : 0.0f;
}

static inline NI_HD float ni_narrow_load(const void *from, nb_dtype type, int64_t i) {
    switch (type) {
    case NB_BF16:
        return ni_bf16_value(((const uint16_t *)from)[i]);
    case NB_F16:
        return ni_fp16_value(((const uint16_t *)from)[i]);
    case NB_E4M3:
        return ni_e4m3_value(((const uint8_t *)from)[i]);
    case NB_E5M2:
        return ni_e5m2_value(((const uint8_t *)from)[i]);
    default:
        return ((const float *)from)[i];
    }
}

static inline NI_HD void ni_narrow_store(void *to, nb_dtype type, int64_t i, float x) {
    bool finite = ni_f32_magnitude(x) < NI_F32_INF_BITS;
    if (type != NB_F32 && ni_f32_is_nan(x))
        x = ni_f32_from(0x7fc00000u);
    switch (type) {
    case NB_BF16:
        ((uint16_t *)to)[i] = ni_bf16_even(x);
        break;
    case NB_F16:
        if (finite && ni_f32_abs(x) > NI_FP16_MAX)
            x = x < 0 ? -NI_FP16_MAX : NI_FP16_MAX;
        ((uint16_t *)to)[i] = ni_fp16_even(x);
        break;
    case NB_E4M3:
        ((uint8_t *)to)[i] = finite ? ni_e4m3_even(x) : NI_E4M3_NAN;
        break;
    case NB_E5M2:
        ((uint8_t *)to)[i] = finite ? ni_e5m2_even(x) : NI_E5M2_NAN;
        break;
    default:
        ((float *)to)[i] = x;
    }
}

/* What the numbers of a tensor are multiplied by before they are stored, in a type that has a scale. */
static inline NI_HD float ni_narrow_encode(nb_dtype type, nb_scale_rule rule, float amax) {
    return ni_vector_encode(rule, ni_narrow_max(type), amax);
}

#endif
