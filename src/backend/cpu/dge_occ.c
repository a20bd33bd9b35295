/* dge_occ.c: the references of ref/dge_occ.h over the threads, a row at a time; quantiles by counting. */
#include "backend/cpu/dge_occ.h"
#include "backend/cpu/cpu.h"
#include "backend/ref/dge_occ.h"
#include "format/bf16.h"

#include <omp.h>
#include <string.h>

void nb_cpu_dge(nb_backend *be, void *dw, const void *w, const nb_qtensor *codes, double k, double cap) {
#pragma omp parallel for num_threads(nb_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < codes->rows; r++) {
        nb_qtensor one = nb_qtensor_row(codes, r);
        nb_ref_dge(be, (float *)dw + r * codes->cols, (const float *)w + r * codes->cols, &one, k, cap);
    }
}

/* ---- clamping: two counting passes over 16-bit keys give an order statistic without sorting ---- */

typedef struct counts {
    int64_t high[256]; /* keys by their upper byte */
    int64_t low[256];  /* of those with one upper byte, by their lower */
} counts;

static int rank_in(const int64_t *histogram, int64_t *rank) {
    int bin = 0;
    for (; *rank >= histogram[bin]; bin++)
        *rank -= histogram[bin];
    return bin;
}

static float order_statistic(const nb_mat *x, counts *c, int64_t rank) {
    int upper = rank_in(c->high, &rank);
    memset(c->low, 0, sizeof c->low);
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t i = 0; i < x->cols; i++) {
            uint16_t key = nb_bf16_key(((const uint16_t *)x->data)[r * x->stride + i]);
            c->low[key & 255] += key >> 8 == upper;
        }
    return nb_bf16_value(nb_bf16_of_key((uint16_t)(upper << 8 | rank_in(c->low, &rank))));
}

static void bounds(const nb_mat *x, int64_t low, int64_t high, float *lo, float *hi) {
    counts c;
    memset(c.high, 0, sizeof c.high);
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t i = 0; i < x->cols; i++)
            c.high[nb_bf16_key(((const uint16_t *)x->data)[r * x->stride + i]) >> 8]++;
    *lo = order_statistic(x, &c, low);
    *hi = order_statistic(x, &c, high);
}

nb_status nb_cpu_clamp_rows(nb_backend *be, const nb_mat *out, const nb_sparse *rest, const nb_mat *x, int64_t low,
                            int64_t high, bool whole, nb_error *err) {
    NB_TRY(nb_clamp_check(out, rest, x, low, high, whole, err));
    float all_lo = 0, all_hi = 0;
    if (whole)
        bounds(x, low, high, &all_lo, &all_hi);
#pragma omp parallel for num_threads(nb_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < x->rows; r++) {
        nb_mat from = nb_mat_row(x, r), to = nb_mat_row(out, r);
        nb_sparse one = rest ? nb_sparse_row(rest, r) : (nb_sparse){0};
        float lo = all_lo, hi = all_hi;
        if (!whole)
            bounds(&from, low, high, &lo, &hi);
        nb_clamp_between(&to, rest ? &one : NULL, &from, lo, hi);
    }
    return NB_OK;
}

/* ---- the sparse product ---- */

void nb_cpu_sparse_gemm(nb_backend *be, const nb_mat *c, const nb_sparse *s, const nb_mat *b) {
#pragma omp parallel for num_threads(nb_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < c->rows; r++) {
        nb_mat to = nb_mat_row(c, r);
        nb_sparse one = nb_sparse_row(s, r);
        nb_ref_sparse_gemm(be, &to, &one, b);
    }
}

void nb_cpu_sparse_add(nb_backend *be, const nb_mat *x, const nb_sparse *s) {
#pragma omp parallel for num_threads(nb_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < x->rows; r++) {
        nb_mat to = nb_mat_row(x, r);
        nb_sparse one = nb_sparse_row(s, r);
        nb_ref_sparse_add(be, &to, &one);
    }
}
