/* delayed.c: numbers rounded to eight bits under a scale that past ones gave. */
#include "backend/ref/delayed.h"
#include "backend/ref/dge_occ.h"

void ni_round_row_under(uint16_t *to, const uint16_t *from, int64_t n, nb_dtype type, float limit) {
    const float encode = ni_under_scale(type, limit), decode = ni_vector_decode(encode);
    for (int64_t i = 0; i < n; i++)
        to[i] = ni_bf16_even(ni_under(ni_bf16_value(from[i]) * encode, type) * decode);
}

void ni_ref_round_under(nb_backend *be, const nb_mat *out, const nb_mat *x, nb_dtype type, float *now,
                        const float *past) {
    (void)be;
    uint32_t amax = 0;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) {
            uint32_t bits = ni_f32_magnitude(ni_bf16_value(((const uint16_t *)x->data)[r * x->stride + c]));
            amax = bits > amax ? bits : amax;
        }
    if (now)
        *now = ni_f32_from(amax);
    for (int64_t r = 0; r < x->rows; r++)
        ni_round_row_under((uint16_t *)out->data + r * out->stride, (const uint16_t *)x->data + r * x->stride, x->cols,
                           type, ni_limit_of(past, amax));
}
