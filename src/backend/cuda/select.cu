/* select.cu: choices, and what the lens follows: the k largest, columns, weights from step to step.
 *
 * Sums are those of ops.inc to the bit: doubles, chunks of 256 in order, each operation spelt so that none is fused.
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/ordered.cuh"
#include "backend/ref/select.h"

#include <cub/device/device_radix_sort.cuh>

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* ---- the k largest: a stable sort by keys whose order is that of the scores ---- */

static __global__ void score_keys(uint32_t *keys, int32_t *index, const float *scores, int64_t n) {
    for (NI_EACH(i, n)) {
        keys[i] = ni_score_key(scores[i]);
        index[i] = (int32_t)i;
    }
}

static size_t sort_bytes(int64_t n) {
    size_t pairs = 0, keys = 0;
    cub::DeviceRadixSort::SortPairsDescending(NULL, pairs, (const uint32_t *)NULL, (uint32_t *)NULL,
                                              (const int32_t *)NULL, (int32_t *)NULL, (int)n);
    cub::DeviceRadixSort::SortKeys(NULL, keys, (const int32_t *)NULL, (int32_t *)NULL, (int)n);
    return rounded(pairs > keys ? pairs : keys);
}

size_t ni_cuda_top_k_bytes(int64_t n) {
    return 4 * rounded((size_t)n * sizeof(uint32_t)) + sort_bytes(n);
}

int ni_cuda_launch_top_k(void *stream, int32_t *out, const float *scores, int64_t n, int64_t k, bool by_index,
                         void *scratch) {
    cudaStream_t on = (cudaStream_t)stream;
    const size_t list = rounded((size_t)n * sizeof(uint32_t));
    char *at = (char *)scratch;
    uint32_t *keys = (uint32_t *)at, *sorted = (uint32_t *)(at + list);
    int32_t *index = (int32_t *)(at + 2 * list), *order = (int32_t *)(at + 3 * list);
    size_t room = sort_bytes(n);
    if (k < 1)
        return cudaSuccess;
    score_keys<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(keys, index, scores, n);
    cudaError_t code =
        cub::DeviceRadixSort::SortPairsDescending(at + 4 * list, room, keys, sorted, index, order, (int)n, 0, 32, on);
    if (code == cudaSuccess && by_index)
        return cub::DeviceRadixSort::SortKeys(at + 4 * list, room, order, out, (int)k, 0, 32, on);
    if (code == cudaSuccess)
        code = cudaMemcpyAsync(out, order, (size_t)k * sizeof *out, cudaMemcpyDeviceToDevice, on);
    return code;
}

/* Each number of a is looked for in b. */
static __global__ void count_common(unsigned long long *count, const int32_t *a, const int32_t *b, int64_t k) {
    for (NI_EACH(i, k)) {
        int64_t low = 0, high = k;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (b[middle] < a[i])
                low = middle + 1;
            else
                high = middle;
        }
        if (low < k && b[low] == a[i])
            atomicAdd(count, 1ull);
    }
}

int ni_cuda_launch_count_common(void *stream, int64_t *count, const int32_t *a, const int32_t *b, int64_t k) {
    cudaStream_t on = (cudaStream_t)stream;
    cudaMemsetAsync(count, 0, sizeof *count, on);
    if (k > 0)
        count_common<<<ni_grid(ni_divide_up(k, NI_THREADS)), NI_THREADS, 0, on>>>((unsigned long long *)count, a, b, k);
    return cudaGetLastError();
}

/* ---- hot channels ---- */

static __global__ void column_errors(double *mean_abs_error, double *rms, nb_mat x, nb_mat decoded) {
    for (NI_EACH(c, x.cols)) {
        double errors = 0, squares = 0;
        for (int64_t first = 0; first < x.rows; first += CHUNK) {
            double chunk_errors = 0, chunk_squares = 0;
            for (int64_t r = first; r < x.rows && r < first + CHUNK; r++) {
                double v = number(x, r, c);
                chunk_errors = plus(chunk_errors, fabs(plus(v, -number(decoded, r, c))));
                chunk_squares = plus(chunk_squares, times(v, v));
            }
            errors = plus(errors, chunk_errors);
            squares = plus(squares, chunk_squares);
        }
        mean_abs_error[c] = errors / (double)x.rows;
        rms[c] = sqrt(squares / (double)x.rows);
    }
}

int ni_cuda_launch_column_errors(void *stream, double *mean_abs_error, double *rms, const nb_mat *x,
                                 const nb_mat *decoded) {
    if (x->cols > 0)
        column_errors<<<ni_grid(ni_divide_up(x->cols, 32)), 32, 0, (cudaStream_t)stream>>>(mean_abs_error, rms, *x,
                                                                                           *decoded);
    return cudaGetLastError();
}

static __device__ double of_x(const double *facts, int64_t n, int64_t c, bool normalized) {
    return times(facts[c], normalized ? facts[3 * n + c] : 1.0);
}

static __device__ double of_w(const double *facts, int64_t n, int64_t c, bool normalized) {
    return times(facts[2 * n + c], normalized ? facts[n + c] : 1.0);
}

static __global__ void hot_scores(float *scores, const double *facts, int64_t n, double keep, bool normalized) {
    for (NI_EACH(c, n)) {
        double fresh = times(1.0 - keep, plus(of_x(facts, n, c, normalized), of_w(facts, n, c, normalized)));
        scores[c] = (float)plus(keep > 0 ? times(keep, (double)scores[c]) : 0.0, fresh);
    }
}

static __global__ void hot_means(double *means, const double *facts, int64_t n, bool normalized) {
    double sum = 0;
    for (int64_t first = 0; first < n; first += CHUNK) {
        double chunk = 0;
        for (int64_t c = first; c < n && c < first + CHUNK; c++)
            chunk = plus(chunk, threadIdx.x ? of_w(facts, n, c, normalized) : of_x(facts, n, c, normalized));
        sum = plus(sum, chunk);
    }
    means[threadIdx.x] = sum / (double)n;
}

int ni_cuda_launch_hot_scores(void *stream, float *scores, double *means, const double *facts, int64_t n, double keep,
                              bool normalized) {
    cudaStream_t on = (cudaStream_t)stream;
    hot_means<<<1, 2, 0, on>>>(means, facts, n, normalized);
    if (n > 0)
        hot_scores<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(scores, facts, n, keep, normalized);
    return cudaGetLastError();
}

/* ---- weights and their bins ---- */

static __global__ void bin_distances(float *out, const float *w, const float *q, const float *widths, int64_t n) {
    for (NI_EACH(i, n))
        out[i] = widths[i] > 0 ? ni_f32_div(fabsf(ni_f32_sub(w[i], q[i])), widths[i]) : 0.0f;
}

int ni_cuda_launch_bin_distances(void *stream, float *out, const float *w, const float *q, const float *widths,
                                 int64_t n) {
    if (n > 0)
        bin_distances<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(out, w, q, widths,
                                                                                                     n);
    return cudaGetLastError();
}

static __global__ void add_flips(uint8_t *flips, const float *q, const float *q_before, const float *widths,
                                 int64_t n) {
    for (NI_EACH(i, n)) {
        bool moved = q[i] != q_before[i] && fabsf(ni_f32_sub(q[i], q_before[i])) >= ni_f32_mul(0.5f, widths[i]);
        if (moved && flips[i] < 255)
            flips[i]++;
    }
}

int ni_cuda_launch_add_flips(void *stream, uint8_t *flips, const float *q, const float *q_before, const float *widths,
                             int64_t n) {
    if (n > 0)
        add_flips<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(flips, q, q_before,
                                                                                                 widths, n);
    return cudaGetLastError();
}

/* ---- weights from step to step ---- */

static __global__ void track_codes(ni_cuda_tracked t, nb_mat w, nb_qtensor codes, bool first) {
    unsigned flips = 0;
    for (NI_EACH(i, w.rows * w.cols)) {
        int64_t r = i / w.cols, c = i % w.cols;
        float now = ((const float *)w.data)[r * w.stride + c], q = ni_decoded(codes, r, c, true);
        uint8_t code = ni_code_of(codes, r, c);
        if (first) {
            t.moved_w[i] = t.moved_q[i] = 0;
        } else {
            t.moved_w[i] = ni_f32_add(t.moved_w[i], fabsf(ni_f32_sub(now, t.w[i])));
            t.moved_q[i] = ni_f32_add(t.moved_q[i], fabsf(ni_f32_sub(q, t.q[i])));
            flips += code != t.codes[i] && (q != 0 || t.q[i] != 0);
        }
        t.w[i] = now;
        t.q[i] = q;
        t.codes[i] = code;
    }
    __syncwarp();
    flips = __reduce_add_sync(~0u, flips);
    if (threadIdx.x % 32 == 0 && flips)
        atomicAdd((unsigned long long *)t.flips, (unsigned long long)flips);
}

int ni_cuda_launch_track_codes(void *stream, const ni_cuda_tracked *t, const nb_mat *w, const nb_qtensor *codes,
                               bool first) {
    cudaStream_t on = (cudaStream_t)stream;
    if (first)
        cudaMemsetAsync(t->flips, 0, sizeof *t->flips, on);
    if (w->rows * w->cols > 0)
        track_codes<<<ni_grid(ni_divide_up(w->rows * w->cols, NI_THREADS)), NI_THREADS, 0, on>>>(*t, *w, *codes, first);
    return cudaGetLastError();
}

/* ---- counts by bins ---- */

enum { MOST_BINS = 16 };

static __device__ int ratio_bin(float moved_q, float moved_w, int bins) {
    float ratio = moved_w > 0 ? ni_f32_div(moved_q, moved_w) : 0.0f;
    int bin = ratio > 0;
    for (float limit = 0.5f; bin > 0 && bin < bins - 1 && ratio > limit; limit *= 2)
        bin++;
    return bin;
}

static __device__ int distance_bin(float w, float q, float width, int bins) {
    float bin = ni_f32_div(ni_f32_mul(20.0f, fabsf(ni_f32_sub(w, q))), width);
    if (!(width > 0) || isinf(width) || isnan(bin))
        return -1;
    return bin < (float)(bins - 1) ? (int)bin : bins - 1;
}

static __global__ void count_bins(unsigned long long *counts, const float *a, const float *b, const float *widths,
                                  int64_t n, int bins) {
    __shared__ unsigned here[MOST_BINS];
    if (threadIdx.x < MOST_BINS)
        here[threadIdx.x] = 0;
    __syncthreads();
    for (NI_EACH(i, n)) {
        int bin = widths ? distance_bin(a[i], b[i], widths[i], bins) : ratio_bin(a[i], b[i], bins);
        if (bin >= 0)
            atomicAdd(&here[bin], 1u);
    }
    __syncthreads();
    if ((int)threadIdx.x < bins && here[threadIdx.x])
        atomicAdd(&counts[threadIdx.x], (unsigned long long)here[threadIdx.x]);
}

int ni_cuda_launch_count_bins(void *stream, int64_t *counts, const float *a, const float *b, const float *widths,
                              int64_t n, int bins) {
    cudaStream_t on = (cudaStream_t)stream;
    cudaMemsetAsync(counts, 0, (size_t)bins * sizeof *counts, on);
    if (n > 0)
        count_bins<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>((unsigned long long *)counts, a, b,
                                                                                widths, n, bins);
    return cudaGetLastError();
}
