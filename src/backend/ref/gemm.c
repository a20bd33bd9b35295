/* gemm.c: the plain matrix product as its definition. */
#include "backend/ref/gemm.h"

#include "format/bf16.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double load(const nb_mat *m, int64_t row, int64_t col) {
    int64_t i = row * m->stride + col;
    switch (m->dtype) {
    case NB_F32:
        return ((const float *)m->data)[i];
    case NB_BF16:
        return ni_bf16_value(((const uint16_t *)m->data)[i]);
    default:
        return ((const double *)m->data)[i];
    }
}

static void store(const nb_mat *m, int64_t row, int64_t col, double value) {
    int64_t i = row * m->stride + col;
    switch (m->dtype) {
    case NB_F32:
        ((float *)m->data)[i] = (float)value;
        break;
    case NB_BF16: /* value is an F32 sum: no double rounding */
        ((uint16_t *)m->data)[i] = ni_bf16_even((float)value);
        break;
    default:
        ((double *)m->data)[i] = value;
        break;
    }
}

static nb_status check_view(const char *name, const nb_mat *m, nb_error *err) {
    if (m->dtype != NB_F32 && m->dtype != NB_BF16 && m->dtype != NB_F64)
        return nb_fail(err, NB_UNSUPPORTED, "gemm: %s has a type that is not f32, bf16 or f64", name);
    if (m->rows < 0 || m->cols < 0 || m->stride < m->cols)
        return nb_fail(err, NB_BAD_USAGE, "gemm: %s is [%lld, %lld] with stride %lld; expected stride >= columns", name,
                       (long long)m->rows, (long long)m->cols, (long long)m->stride);
    if (!m->data && m->rows && m->cols)
        return nb_fail(err, NB_BAD_USAGE, "gemm: %s has no data", name);
    return NB_OK;
}

nb_status ni_gemm_check(const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b, bool trans_b, nb_error *err) {
    NB_TRY(check_view("A", a, err));
    NB_TRY(check_view("B", b, err));
    NB_TRY(check_view("C", c, err));
    int64_t m = trans_a ? a->cols : a->rows, ka = trans_a ? a->rows : a->cols;
    int64_t n = trans_b ? b->rows : b->cols, kb = trans_b ? b->cols : b->rows;
    if (ka != kb || c->rows != m || c->cols != n)
        return nb_fail(err, NB_BAD_USAGE,
                       "gemm: op(A) [%lld, %lld] times op(B) [%lld, %lld] does not give C [%lld, %lld]", (long long)m,
                       (long long)ka, (long long)kb, (long long)n, (long long)c->rows, (long long)c->cols);
    if ((a->dtype == NB_F64 || b->dtype == NB_F64) && c->dtype != NB_F64)
        return nb_fail(err, NB_UNSUPPORTED, "gemm: f64 operands need an f64 result");
    return NB_OK;
}

nb_status ni_ref_gemm(nb_backend *be, const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b, bool trans_b,
                      bool accumulate, nb_error *err) {
    (void)be;
    NB_TRY(ni_gemm_check(c, a, trans_a, b, trans_b, err));
    int64_t depth = trans_a ? a->rows : a->cols;
    bool in_double = c->dtype == NB_F64;
    for (int64_t i = 0; i < c->rows; i++) {
        for (int64_t j = 0; j < c->cols; j++) {
            double exact = 0;
            float sum = 0;
            for (int64_t k = 0; k < depth; k++) {
                double x = trans_a ? load(a, k, i) : load(a, i, k);
                double y = trans_b ? load(b, j, k) : load(b, k, j);
                if (in_double)
                    exact += x * y;
                else
                    sum += (float)x * (float)y;
            }
            if (accumulate && in_double)
                exact += load(c, i, j);
            else if (accumulate)
                sum += (float)load(c, i, j);
            store(c, i, j, in_double ? exact : sum);
        }
    }
    return NB_OK;
}

const char *ni_ref_gemm_kernel(nb_backend *be, nb_dtype a, nb_dtype b) {
    (void)be;
    return a == NB_F64 || b == NB_F64 ? "f64 scalar" : a == NB_F32 || b == NB_F32 ? "f32 scalar" : "bf16 scalar";
}

void ni_ref_gemm_sums(nb_backend *be, nb_dtype a, nb_dtype b, char *text, size_t size) {
    (void)be;
    (void)a;
    (void)b;
    snprintf(text, size, "scalar");
}

char *ni_ref_gemm_choices(nb_backend *be) {
    (void)be;
    return calloc(1, 1);
}

nb_status ni_ref_gemm_choose(nb_backend *be, const char *choices, nb_error *err) {
    (void)be;
    if (choices[0] == '\0')
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "products were chosen shape by shape by a library for GPUs: \"%.60s\"",
                   choices);
}

nb_status ni_ref_permit(nb_backend *be, const ni_permits *permits, nb_error *err) {
    if (!permits->native_fp4)
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "native_fp4: backend %s has no units for four bits; expected false", be->name);
}

nb_status ni_ref_gemm_take(nb_backend *be, nb_dtype a, nb_dtype b, const char *sums, nb_error *err) {
    (void)be;
    if (strcmp(sums, "scalar") == 0)
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "products of %s by %s: the reference has no sums \"%.63s\"; it has \"scalar\"",
                   nb_dtype_name(a), nb_dtype_name(b), sums);
}
