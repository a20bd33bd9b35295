/* dge_occ.c: DGE and OCC over the threads, a row at a time; quantiles by counting. */
#include "backend/ref/dge_occ.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/ops_kernels.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"
#include "backend/ref/scaled.h"
#include "format/bf16.h"

#include <omp.h>
#include <string.h>

/* ---- DGE ---- */

enum { SPAN = 128, GROUP = 16 }; /* no block of scales is narrower than a group, save columns */

/* Scales of columns [c, c + n) of a row, one an element. */
static void scales_of(const nb_qtensor *codes, int64_t r, int64_t c, int64_t n, float *scale) {
    bool columns = codes->quantizer.block_cols == 1;
    for (int64_t i = 0; i < n; i++)
        scale[i] = columns || i % GROUP == 0 ? ni_decode_scale(codes, r, c + i, true) : scale[i - 1];
}

void ni_cpu_dge(nb_backend *be, void *dw, const ni_scaled *w, const nb_operand *codes, double k, double cap) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const float factor = ni_scaled_factor(w);
    nb_qtensor t = ni_codes_of(codes);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < codes->rows; r++)
        for (int64_t c = 0; c < codes->cols; c += SPAN) {
            int64_t at = r * codes->cols + c, n = codes->cols - c < SPAN ? codes->cols - c : SPAN;
            float scale[SPAN], decoded[SPAN];
            const float *weights = (const float *)w->data + at;
            scales_of(&t, r, c, n, scale);
            if (w->dtype != NB_F32) {
                kernels->decode(decoded, w->data, w->dtype, at, factor, n);
                weights = decoded;
            }
            kernels->dge((float *)dw + at, weights, scale, n, (float)k, (float)cap);
        }
}

/* ---- clamping ---- */

enum { KEYS = 65536 };

/* The key of a rank, from the histogram of all keys. */
static float number_of_rank(const uint32_t *histogram, int64_t rank) {
    int32_t key = 0;
    for (; rank >= histogram[key]; key++)
        rank -= histogram[key];
    return ni_bf16_value(ni_bf16_of_key((uint16_t)key));
}

/* Bounds over the whole matrix. Every thread counts its rows; counts are added without rounding. */
static nb_status bounds_of_all(nb_backend *be, const nb_mat *x, int64_t low, int64_t high, float bounds[2],
                               nb_error *err) {
    int32_t threads = ni_cpu_of(be)->threads;
    uint32_t *counts = ni_cpu_shared(be, (size_t)threads * KEYS * sizeof *counts);
    if (!counts)
        return nb_fail(err, NB_NO_MEMORY, "clamp_rows: no memory to count numbers");
    memset(counts, 0, (size_t)threads * KEYS * sizeof *counts);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < x->rows; r++) {
        uint32_t *mine = counts + (size_t)omp_get_thread_num() * KEYS;
        const uint16_t *row = (const uint16_t *)x->data + r * x->stride;
        for (int64_t i = 0; i < x->cols; i++)
            mine[ni_bf16_key(row[i])]++;
    }
    for (int32_t t = 1; t < threads; t++)
        for (int32_t key = 0; key < KEYS; key++)
            counts[key] += counts[(size_t)t * KEYS + (size_t)key];
    bounds[0] = number_of_rank(counts, low);
    bounds[1] = number_of_rank(counts, high);
    return NB_OK;
}

nb_status ni_cpu_clamp_rows(nb_backend *be, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                            int64_t high, bool whole, nb_error *err) {
    NB_TRY(ni_clamp_check(out, rest, x, low, high, whole, err));
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    size_t room = ((size_t)x->cols + 31) / 32 * 32 * sizeof(int16_t);
    float all[2] = {0, 0};
    if (whole)
        NB_TRY(bounds_of_all(be, x, low, high, all, err));
    bool failed = false;
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) reduction(|| : failed)
    for (int64_t r = 0; r < x->rows; r++) {
        const uint16_t *from = (const uint16_t *)x->data + r * x->stride;
        float bounds[2] = {all[0], all[1]};
        int16_t *keys = whole ? NULL : ni_cpu_scratch(be, omp_get_thread_num(), room);
        if (!whole && !keys) {
            failed = true;
            continue;
        }
        if (!whole)
            kernels->bounds_of_row(bounds, from, x->cols, low, high, keys);
        int32_t found = kernels->clamp_row((uint16_t *)out->data + r * out->stride, rest, rest ? r * rest->room : 0,
                                           from, x->cols, bounds[0], bounds[1]);
        if (rest)
            rest->count[r] = found;
    }
    return failed ? nb_fail(err, NB_NO_MEMORY, "clamp_rows: no memory for the keys of a row") : NB_OK;
}

/* ---- the sparse product ---- */

void ni_cpu_sparse_product(nb_backend *be, const nb_mat *c, const ni_sparse *s, const nb_mat *b) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < c->rows; r++)
        kernels->sparse_row((float *)c->data + r * c->stride, c->cols, s, r, b->data, b->stride);
}

void ni_cpu_sparse_add(nb_backend *be, const nb_mat *x, const ni_sparse *s) {
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < x->rows; r++) {
        nb_mat to = ni_mat_row(x, r);
        ni_sparse one = ni_sparse_row(s, r);
        ni_ref_sparse_add(be, &to, &one);
    }
}

/* ---- in one call ---- */

nb_status ni_cpu_make_clamped(nb_backend *be, const ni_clamping *c, const ni_making *making, nb_error *err) {
    return ni_compose_clamped(be, c, making, err);
}

nb_status ni_cpu_decode_with_rest(nb_backend *be, const nb_mat *out, const nb_operand *from, const ni_sparse *s,
                                  nb_error *err) {
    return ni_compose_decoded(be, out, from, s, err);
}

nb_status ni_cpu_make_compensated(nb_backend *be, const ni_clamping *c, const ni_making *making, const ni_making *dense,
                                  nb_error *err) {
    return ni_compose_compensated(be, c, making, dense, err);
}
