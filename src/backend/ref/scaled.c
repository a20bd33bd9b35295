/* scaled.c: tensors under one scale, a number at a time.
 *
 *     encode   number = round(x * s),  s = max / amax or the power of two below;   *scale = fl(1 / s)
 *     decode   x = fl(number * *scale)
 *
 * The update of AdamW needs the amaxes of what it gives before it can round that. It is computed twice, as the authors'
 * LBAdamW does, instead of being kept in FP32.
 */
#include "backend/ref/scaled.h"
#include "backend/ref/ref.h"
#include "format/narrow.h"

float ni_scaled_set(const ni_scaled *t, uint32_t amax_bits) {
    if (!t->scale)
        return 1;
    float encode = ni_narrow_encode(t->dtype, t->rule, ni_f32_from(amax_bits));
    *t->scale = ni_vector_decode(encode);
    return encode;
}

float ni_scaled_encode_of(float scale) {
    return ni_vector_decode(scale); /* 1 / scale, as the decode scale is 1 / encode */
}

static uint32_t larger(uint32_t amax, float x) {
    uint32_t magnitude = ni_f32_magnitude(x);
    return magnitude > amax ? magnitude : amax;
}

static float value(const ni_scaled *t, float factor, int64_t i) {
    return ni_f32_mul(ni_narrow_load(t->data, t->dtype, i), factor);
}

static void store(const ni_scaled *t, float encode, int64_t i, float x) {
    ni_narrow_store(t->data, t->dtype, i, ni_f32_mul(x, encode));
}

void ni_ref_scaled_encode(nb_backend *be, const ni_scaled *to, const float *from, int64_t n) {
    (void)be;
    uint32_t amax = 0;
    for (int64_t i = 0; i < n; i++)
        amax = larger(amax, from[i]);
    float encode = ni_scaled_set(to, amax);
    for (int64_t i = 0; i < n; i++)
        store(to, encode, i, from[i]);
}

void ni_ref_scaled_decode(nb_backend *be, float *to, const ni_scaled *from, int64_t n) {
    (void)be;
    float factor = ni_scaled_factor(from);
    for (int64_t i = 0; i < n; i++)
        to[i] = value(from, factor, i);
}

void ni_ref_scaled_add(nb_backend *be, const ni_scaled *to, const ni_scaled *a, const ni_scaled *b, int64_t n) {
    (void)be;
    float of_a = ni_scaled_factor(a), of_b = ni_scaled_factor(b);
    uint32_t amax = 0;
    for (int64_t i = 0; i < n; i++)
        amax = larger(amax, value(a, of_a, i) + value(b, of_b, i));
    float encode = ni_scaled_set(to, amax);
    for (int64_t i = 0; i < n; i++)
        store(to, encode, i, value(a, of_a, i) + value(b, of_b, i));
}

void ni_ref_scaled_rescale(nb_backend *be, const ni_scaled *t, float scale, int64_t n) {
    (void)be;
    float factor = ni_scaled_factor(t), encode = ni_scaled_encode_of(scale);
    for (int64_t i = 0; i < n; i++)
        store(t, encode, i, value(t, factor, i));
    *t->scale = scale;
}

void ni_ref_scaled_join(nb_backend *be, const ni_scaled *to, const ni_scaled *from, int64_t n) {
    (void)be;
    for (int64_t i = 0; i < n; i++)
        store(to, 1, i, value(to, 1, i) + value(from, 1, i));
}

void ni_ref_scaled_sum_squares(nb_backend *be, double *out, const ni_scaled *x, int64_t n) {
    (void)be;
    float factor = ni_scaled_factor(x);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)value(x, factor, i) * (double)value(x, factor, i);
    *out = sum;
}

void ni_ref_scaled_encode_many(nb_backend *be, const ni_scaled *to, const float *const *from, const int64_t *n,
                               int32_t count) {
    ni_compose_encode(be, to, from, n, count);
}

void ni_ref_scaled_squares_many(nb_backend *be, double *out, const ni_scaled *x, const int64_t *n, int32_t count) {
    ni_compose_squares(be, out, x, n, count);
}

float ni_scaled_value(const ni_scaled *t, int64_t i) {
    return value(t, ni_scaled_factor(t), i);
}

void ni_scaled_adamw(const ni_adamw_tensor *tensor, const ni_adamw *step, ni_adamw_update *update) {
    enum { PARAM, M, V, KEPT, GRAD = KEPT, ALL };
    const ni_scaled *tensors[ALL] = {&tensor->param, &tensor->m, &tensor->v, &tensor->grad};
    float factor[ALL], encode[KEPT], x[ALL];
    uint32_t amax[KEPT] = {0};
    const ni_adamw_tensor one = ni_adamw_plain(NB_F32, &x[PARAM], &x[M], &x[V], &x[GRAD], 1, tensor->weight_decay);
    for (int t = 0; t < ALL; t++)
        factor[t] = ni_scaled_factor(tensors[t]);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < tensor->n; i++) {
            for (int t = 0; t < ALL; t++)
                x[t] = value(tensors[t], factor[t], i);
            update(NULL, &one, 1, step);
            for (int t = 0; t < KEPT; t++) {
                if (pass == 0)
                    amax[t] = larger(amax[t], x[t]);
                else
                    store(tensors[t], encode[t], i, x[t]);
            }
        }
        for (int t = 0; t < KEPT && pass == 0; t++)
            encode[t] = ni_scaled_set(tensors[t], amax[t]);
    }
}
