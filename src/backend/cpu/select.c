/* select.c: the references of choices over the threads. The k largest are found by radix, a byte of their keys at a
 * time. */
#include "backend/ref/select.h"
#include "backend/cpu/ops_kernels.h"
#include "backend/ref/numbers.h"
#include "backend/ref/ref.h"

#include <math.h>
#include <omp.h>

enum { BINS = 256, STRIP = 16 };

/* ---- the k largest ---- */

/* Where element i stands: which slice of a whole that is cut evenly. */
static int64_t slice_begin(int64_t n, int64_t slice, int64_t slices) {
    return n / slices * slice + (n % slices) * slice / slices;
}

/* The key of the k-th largest, and how many scores with that very key are among the k. */
static uint32_t key_of_rank(nb_backend *be, const float *scores, int64_t n, int64_t k, int64_t *ties) {
    int32_t threads = ni_cpu_team(be, 4 * (double)n);
    uint32_t key = 0, known = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t bins[BINS] = {0};
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : bins[:BINS])
        for (int64_t i = 0; i < n; i++) {
            uint32_t own = ni_score_key(scores[i]);
            if ((own & known) == key)
                bins[own >> shift & 255]++;
        }
        int bin = BINS - 1;
        for (; bins[bin] < k; bin--)
            k -= bins[bin];
        key |= (uint32_t)bin << shift;
        known |= 255u << shift;
    }
    *ties = k;
    return key;
}

/* How much of a slice is among the k largest: above the key, and at it. */
typedef struct slice_counts {
    int64_t above, at;
} slice_counts;

static slice_counts count_slice(const float *scores, int64_t begin, int64_t end, uint32_t key) {
    slice_counts c = {0, 0};
    for (int64_t i = begin; i < end; i++) {
        uint32_t own = ni_score_key(scores[i]);
        c.above += own > key;
        c.at += own == key;
    }
    return c;
}

static void write_slice(int32_t *out, const float *scores, int64_t begin, int64_t end, uint32_t key, int64_t ties) {
    for (int64_t i = begin; i < end; i++) {
        uint32_t own = ni_score_key(scores[i]);
        if (own > key || (own == key && ties-- > 0))
            *out++ = (int32_t)i;
    }
}

/* In the order of their indices. Slices are written side by side: where each begins is counted first. */
static void write_largest(nb_backend *be, int32_t *out, const float *scores, int64_t n, uint32_t key, int64_t ties) {
    int32_t slices = ni_cpu_team(be, 4 * (double)n);
    slice_counts *counts = ni_cpu_shared(be, (size_t)slices * sizeof *counts); /* within what is always there */
#pragma omp parallel for num_threads(slices) schedule(static)
    for (int32_t s = 0; s < slices; s++)
        counts[s] = count_slice(scores, slice_begin(n, s, slices), slice_begin(n, s + 1, slices), key);
#pragma omp parallel for num_threads(slices) schedule(static)
    for (int32_t s = 0; s < slices; s++) {
        int64_t above = 0, at = 0;
        for (int32_t before = 0; before < s; before++) {
            above += counts[before].above;
            at += counts[before].at;
        }
        int64_t taken = at < ties ? at : ties;
        write_slice(out + above + taken, scores, slice_begin(n, s, slices), slice_begin(n, s + 1, slices), key,
                    ties - taken);
    }
}

void ni_cpu_top_k(nb_backend *be, int32_t *out, const float *scores, int64_t n, int64_t k, bool by_index) {
    int64_t ties;
    if (k < 1)
        return;
    uint32_t key = key_of_rank(be, scores, n, k, &ties);
    write_largest(be, out, scores, n, key, ties);
    if (!by_index)
        ni_sort_by_score(out, scores, k);
}

void ni_cpu_count_common(nb_backend *be, int64_t *count, const int32_t *a, const int32_t *b, int64_t k) {
    ni_ref_count_common(be, count, a, b, k);
}

/* ---- hot channels ---- */

static nb_mat columns_of(const nb_mat *m, int64_t first, int64_t count) {
    nb_mat view = *m;
    view.data = (char *)m->data + (size_t)first * nb_dtype_size(m->dtype);
    view.cols = count;
    return view;
}

/* As the reference: rows in order within a chunk, chunks in order. */
static void errors_of_strip(const ni_cpu_kernels *kernels, double *errors, double *rms, const nb_mat *x,
                            const nb_mat *decoded) {
    double squares[STRIP] = {0}, sums[STRIP] = {0};
    for (int64_t first = 0; first < x->rows; first += NI_SUM_CHUNK) {
        double chunk_errors[STRIP], chunk_squares[STRIP];
        int64_t rows = x->rows - first < NI_SUM_CHUNK ? x->rows - first : NI_SUM_CHUNK;
        kernels->column_errors(chunk_errors, chunk_squares, x, decoded, first, rows);
        for (int c = 0; c < STRIP; c++) {
            sums[c] += chunk_errors[c];
            squares[c] += chunk_squares[c];
        }
    }
    for (int c = 0; c < STRIP; c++) {
        errors[c] = sums[c] / (double)x->rows;
        rms[c] = sqrt(squares[c] / (double)x->rows);
    }
}

/* Sixteen columns at a time: a cache line is read whole. */
void ni_cpu_column_errors(nb_backend *be, double *mean_abs_error, double *rms, const nb_mat *x, const nb_mat *decoded) {
    int32_t threads = ni_cpu_team(be, 4 * (double)x->rows * (double)x->cols);
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < x->cols; c += STRIP) {
        int64_t count = x->cols - c < STRIP ? x->cols - c : STRIP;
        nb_mat one = columns_of(x, c, count), other = columns_of(decoded, c, count);
        if (count == STRIP && x->dtype != NB_F64)
            errors_of_strip(kernels, mean_abs_error + c, rms + c, &one, &other);
        else
            ni_ref_column_errors(be, mean_abs_error + c, rms + c, &one, &other);
    }
}

void ni_cpu_hot_scores(nb_backend *be, float *scores, double *means, const double *facts, int64_t n, double keep,
                       bool normalized) {
    ni_ref_hot_scores(be, scores, means, facts, n, keep, normalized);
}
