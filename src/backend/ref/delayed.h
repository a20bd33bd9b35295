/* delayed.h: parts of round_under that every backend has. */
#ifndef NI_BACKEND_REF_DELAYED_H
#define NI_BACKEND_REF_DELAYED_H

#include "backend/ref/ref.h"
#include "format/narrow.h"

/* What the scale is made from. */
static inline NI_HD float ni_limit_of(const float *past, uint32_t amax) {
    return past && *past > 0 && ni_f32_magnitude(*past) < NI_F32_INF_BITS ? *past : ni_f32_from(amax);
}

static inline NI_HD float ni_under_scale(nb_dtype type, float limit) {
    return ni_narrow_encode(type, NB_RULE_POW2, limit);
}

/* x in eight bits, and back; saturates, NaN stays. */
static inline NI_HD float ni_under(float x, nb_dtype type) {
    return type == NB_E4M3 ? ni_e4m3_value(ni_e4m3_even(x)) : ni_e5m2_value(ni_e5m2_even(x));
}

void ni_round_row_under(uint16_t *to, const uint16_t *from, int64_t n, nb_dtype type, float limit);

#endif
