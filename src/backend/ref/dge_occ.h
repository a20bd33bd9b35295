/* dge_occ.h: scalar references for the differentiable gradient estimator and for outlier clamping with compensation
 * (arXiv:2501.17116). */
#ifndef NI_BACKEND_REF_DGE_OCC_H
#define NI_BACKEND_REF_DGE_OCC_H

#include "backend/ref/ref.h"
#include "format/bf16.h"

/* f'(x) on the E2M1 grid. x beyond +-6, which rounding can bring about by half an ulp, counts as +-6. */
float ni_dge_derivative(float x, float k, float cap);

/* Row `row` of an operand, as one of its own. */
nb_qtensor ni_qtensor_row(const nb_qtensor *q, int64_t row);

/* Refuses ranks and shapes that make no sense; every implementation of clamp_rows begins with it. */
nb_status ni_clamp_check(const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low, int64_t high,
                         bool whole, nb_error *err);

/* The clamp itself: every row of x, into out and rest. */
void ni_clamp_between(const nb_mat *out, const ni_sparse *rest, const nb_mat *x, float lo, float hi);

/* c[M,N] += s[M,K] b[K,N]; c F32, b BF16. Entries in order of their columns. */
void ni_ref_sparse_product(const nb_mat *c, const ni_sparse *s, const nb_mat *b);

/* Row `row` of a matrix or a sparse matrix, as one of its own. */
static inline nb_mat ni_mat_row(const nb_mat *m, int64_t row) {
    nb_mat one = *m;
    one.data = (char *)m->data + (size_t)(row * m->stride) * nb_dtype_size(m->dtype);
    one.rows = 1;
    return one;
}
static inline ni_sparse ni_sparse_row(const ni_sparse *s, int64_t row) {
    ni_sparse one = *s;
    one.rows = 1;
    one.count += row;
    one.column += row * s->room;
    if (s->exact)
        one.exact += row * s->room;
    else
        one.value += row * s->room;
    return one;
}

/* Entry `at` of the array, and what becomes of a residual there. */
static inline float ni_sparse_at(const ni_sparse *s, int64_t at) {
    return s->exact ? s->exact[at] : ni_bf16_value(s->value[at]);
}
static inline void ni_sparse_put(const ni_sparse *s, int64_t at, float residual) {
    if (s->exact)
        s->exact[at] = residual;
    else
        s->value[at] = ni_bf16_even(residual);
}

/* Key of a BF16 number whose unsigned order is the order of the numbers; NaNs of either sign lie outside. */
static inline uint16_t ni_bf16_key(uint16_t bits) {
    return bits & 0x8000 ? (uint16_t)~bits : (uint16_t)(bits | 0x8000);
}
static inline uint16_t ni_bf16_of_key(uint16_t key) {
    return key & 0x8000 ? (uint16_t)(key & 0x7fff) : (uint16_t)~key;
}

#endif
