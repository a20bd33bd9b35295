/* means.cu: what is split off a matrix and put back: means of its columns, a row off all rows, outer products; and norms
 * of columns. Sums are those of ops.inc to the bit: doubles, chunks of 256 rows in order, no operation fused.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "format/bf16.h"
#include "format/ieee.h"

enum { CHUNK = 256 };

static __device__ float number(const nb_mat &m, int64_t at) {
    return m.dtype == NB_BF16 ? ni_bf16_value(((const uint16_t *)m.data)[at]) : ((const float *)m.data)[at];
}

static __device__ void put(const nb_mat &m, int64_t at, float x) {
    if (m.dtype == NB_BF16)
        ((uint16_t *)m.data)[at] = ni_bf16_even(x);
    else
        ((float *)m.data)[at] = x;
}

/* ---- sums of columns, or of their squares: a thread a column, or two, of a chunk, then a thread a column ---- */

static __host__ __device__ int64_t chunks_of(int64_t rows) {
    return (rows + CHUNK - 1) / CHUNK;
}

size_t ni_cuda_column_chunks_bytes(int64_t rows, int64_t cols) {
    return (size_t)(chunks_of(rows) * cols) * sizeof(double);
}

template <bool SQUARES> static __device__ double plus(double sum, float x) {
    const double v = x;
    return __dadd_rn(sum, SQUARES ? __dmul_rn(v, v) : v);
}

/* f(chunk, its first row, the row behind it) */
template <typename F> static __device__ void each_chunk(int64_t rows, F f) {
    for (int64_t chunk = blockIdx.y; chunk < chunks_of(rows); chunk += gridDim.y)
        f(chunk, chunk * CHUNK, min(chunk * CHUNK + CHUNK, rows));
}

template <bool SQUARES> static __global__ void sum_chunks(double *partial, nb_mat x) {
    const int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (c >= x.cols)
        return;
    each_chunk(x.rows, [&](int64_t chunk, int64_t first, int64_t end) {
        double sum = 0;
#pragma unroll 8
        for (int64_t r = first; r < end; r++)
            sum = plus<SQUARES>(sum, number(x, r * x.stride + c));
        partial[chunk * x.cols + c] = sum;
    });
}

/* BF16, two neighbours a word. */
template <bool SQUARES> static __global__ void sum_pairs_of_chunks(double *partial, nb_mat x) {
    const int64_t c = 2 * (blockIdx.x * (int64_t)blockDim.x + threadIdx.x), stride = x.stride / 2;
    if (c >= x.cols)
        return;
    each_chunk(x.rows, [&](int64_t chunk, int64_t first, int64_t end) {
        const uint32_t *from = (const uint32_t *)x.data + first * stride + c / 2;
        double low = 0, high = 0;
#pragma unroll 8
        for (int64_t r = first; r < end; r++, from += stride) {
            const uint32_t pair = __ldg(from);
            low = plus<SQUARES>(low, __uint_as_float(pair << 16));
            high = plus<SQUARES>(high, __uint_as_float(pair & 0xffff0000u));
        }
        partial[chunk * x.cols + c] = low;
        partial[chunk * x.cols + c + 1] = high;
    });
}

static __device__ double added_chunks(const double *partial, int64_t rows, int64_t cols, int64_t c) {
    const int64_t chunks = chunks_of(rows);
    double sum = 0;
#pragma unroll 16
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        sum = __dadd_rn(sum, partial[chunk * cols + c]);
    return sum;
}

static __global__ void means_of_chunks(nb_mat means, const double *partial, int64_t rows) {
    for (NI_EACH(c, means.cols))
        put(means, c, (float)(added_chunks(partial, rows, means.cols, c) / (double)rows));
}

static __global__ void norms_of_chunks(float *norms, const double *partial, int64_t rows, int64_t cols) {
    for (NI_EACH(c, cols))
        norms[c] = ni_f32_add(norms[c], (float)sqrt(added_chunks(partial, rows, cols, c)));
}

template <bool SQUARES> static void launch_chunks(cudaStream_t on, double *partial, const nb_mat *x) {
    const int64_t chunks = chunks_of(x->rows);
    const bool pairs = x->dtype == NB_BF16 && x->cols % 2 == 0 && x->stride % 2 == 0 && (uintptr_t)x->data % 4 == 0;
    const dim3 grid((unsigned)ni_divide_up(pairs ? x->cols / 2 : x->cols, NI_THREADS),
                    (unsigned)(chunks < 32768 ? chunks : 32768));
    if (pairs)
        sum_pairs_of_chunks<SQUARES><<<grid, NI_THREADS, 0, on>>>(partial, *x);
    else
        sum_chunks<SQUARES><<<grid, NI_THREADS, 0, on>>>(partial, *x);
}

int ni_cuda_launch_column_means(void *stream, const nb_mat *means, const nb_mat *x, double *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    if (x->cols == 0 || x->rows == 0)
        return cudaSuccess;
    launch_chunks<false>(on, partial, x);
    means_of_chunks<<<ni_grid(ni_divide_up(x->cols, 64)), 64, 0, on>>>(*means, partial, x->rows);
    return cudaGetLastError();
}

int ni_cuda_launch_column_norms(void *stream, float *norms, const nb_mat *x, double *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    if (x->cols == 0 || x->rows == 0)
        return cudaSuccess;
    launch_chunks<true>(on, partial, x);
    norms_of_chunks<<<ni_grid(ni_divide_up(x->cols, 64)), 64, 0, on>>>(norms, partial, x->rows, x->cols);
    return cudaGetLastError();
}

/* ---- residuals: a block 256 columns (of eight numbers where they lie so) of a row ---- */

static __global__ void subtract_row(nb_mat out, nb_mat x, nb_mat row) {
    const int64_t r = blockIdx.x, c = blockIdx.y * (int64_t)NI_THREADS + threadIdx.x;
    if (c < x.cols)
        put(out, r * out.stride + c, ni_f32_sub(number(x, r * x.stride + c), number(row, c)));
}

static __global__ void subtract_eights(nb_mat out, nb_mat x, nb_mat row) {
    const int64_t r = blockIdx.x, c = 8 * (blockIdx.y * (int64_t)NI_THREADS + threadIdx.x);
    if (c >= x.cols)
        return;
    ni_eight a = ni_load_eight((const uint16_t *)x.data + r * x.stride + c);
    const ni_eight b = ni_load_eight((const uint16_t *)row.data + c);
#pragma unroll
    for (int i = 0; i < 8; i++)
        a.x[i] = ni_f32_sub(a.x[i], b.x[i]);
    ni_store_eight((uint16_t *)out.data + r * out.stride + c, a);
}

static bool in_eights(const nb_mat *m) {
    return m->dtype == NB_BF16 && m->cols % 8 == 0 && m->stride % 8 == 0 && ni_aligned(m->data);
}

int ni_cuda_launch_subtract_row(void *stream, const nb_mat *out, const nb_mat *x, const nb_mat *row) {
    const bool eights = in_eights(out) && in_eights(x) && in_eights(row);
    const dim3 grid((unsigned)x->rows, (unsigned)ni_divide_up(eights ? x->cols / 8 : x->cols, NI_THREADS));
    if (x->rows * x->cols == 0)
        return cudaSuccess;
    if (eights)
        subtract_eights<<<grid, NI_THREADS, 0, (cudaStream_t)stream>>>(*out, *x, *row);
    else
        subtract_row<<<grid, NI_THREADS, 0, (cudaStream_t)stream>>>(*out, *x, *row);
    return cudaGetLastError();
}

/* ---- outer products ---- */

static __global__ void add_outer(nb_mat out, nb_mat in, ni_outer outer) {
    const int64_t r = blockIdx.x, c = blockIdx.y * (int64_t)NI_THREADS + threadIdx.x;
    if (c >= in.cols)
        return;
    float sum = ((const float *)in.data)[r * in.stride + c];
    for (int i = 0; i < outer.count; i++)
        sum = ni_f32_add(sum, ni_f32_mul(outer.left[i] ? outer.left[i][r] : 1.0f, outer.right[i][c]));
    put(out, r * out.stride + c, sum);
}

int ni_cuda_launch_outer(void *stream, const nb_mat *out, const nb_mat *in, const ni_outer *outer) {
    if (in->rows * in->cols > 0)
        add_outer<<<dim3((unsigned)in->rows, (unsigned)ni_divide_up(in->cols, NI_THREADS)), NI_THREADS, 0,
                    (cudaStream_t)stream>>>(*out, *in, *outer);
    return cudaGetLastError();
}
