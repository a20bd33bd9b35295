/* measure_sums.cu: gates, what stands for a tensor, and how rows of two weights are aligned. The order of the sums is
 * that of ops.inc, and every chunk of it is a thread's; chunks are added in order after that, and columns or rows last.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/ordered.cuh"

/* ---- by columns: sums [chunks, N, cols], then [N, cols], then [N] ---- */

enum { GATE = 4, PAIR = 3, ROW = 3 };

static __host__ __device__ int64_t chunks_of(int64_t n) {
    return (n + CHUNK - 1) / CHUNK;
}

/* Sum `k` of N. Of a gate the first two are the least and the greatest. */
template <int N> static __device__ double none(int k) {
    return N == GATE && k == 0 ? INFINITY : N == GATE && k == 1 ? -INFINITY : 0.0;
}

template <int N> static __device__ double joined(int k, double a, double b) {
    return N == GATE && k == 0 ? fmin(a, b) : N == GATE && k == 1 ? fmax(a, b) : plus(a, b);
}

static __global__ void gate_chunks(double *sums, nb_mat a, nb_mat bias) {
    for (NI_EACH(i, a.cols * chunks_of(a.rows))) {
        const int64_t c = i % a.cols, chunk = i / a.cols, end = min(a.rows, (chunk + 1) * CHUNK);
        const double offset = bias.data ? number(bias, 0, c) : 0.0;
        double least = INFINITY, greatest = -INFINITY, sum = 0, squares = 0;
#pragma unroll 8
        for (int64_t r = chunk * CHUNK; r < end; r++) {
            const double x = plus(number(a, r, c), offset);
            least = fmin(least, x);
            greatest = fmax(greatest, x);
            sum = plus(sum, x);
            squares = plus(squares, times(x, x));
        }
        const double all[GATE] = {least, greatest, sum, squares};
        for (int k = 0; k < GATE; k++)
            sums[(chunk * GATE + k) * a.cols + c] = all[k];
    }
}

static __device__ double wide(uint16_t x) {
    return (double)ni_bf16_value(x);
}

static __device__ double wide(float x) {
    return (double)x;
}

/* Rows are read ahead of their sums, eight at a time. */
template <typename X, typename Y>
static __global__ void pair_chunks(double *sums, const X *x, int64_t x_stride, const Y *y, int64_t y_stride,
                                   int64_t rows, int64_t cols) {
    enum { AHEAD = 8 };
    for (NI_EACH(i, cols * chunks_of(rows))) {
        const int64_t c = i % cols, chunk = i / cols, first = chunk * CHUNK;
        const int count = (int)min((int64_t)CHUNK, rows - first);
        const X *from = x + first * x_stride + c;
        const Y *stands = y + first * y_stride + c;
        double all[PAIR] = {0, 0, 0};
        for (int r = 0; r < count; r += AHEAD) {
            X of_x[AHEAD];
            Y of_y[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                of_x[k] = r + k < count ? *from : X(0);
                of_y[k] = r + k < count ? *stands : Y(0);
                from += x_stride;
                stands += y_stride;
            }
#pragma unroll
            for (int k = 0; k < AHEAD; k++) { /* zeros change no sum */
                const double u = wide(of_x[k]), v = wide(of_y[k]), d = plus(u, -v);
                all[0] = plus(all[0], times(u, u));
                all[1] = plus(all[1], times(d, d));
                all[2] = plus(all[2], times(u, v));
            }
        }
        for (int k = 0; k < PAIR; k++)
            sums[(chunk * PAIR + k) * cols + c] = all[k];
    }
}

template <typename X>
static void launch_pairs(cudaStream_t on, double *parts, const X *x, int64_t x_stride, const nb_mat *y) {
    const unsigned blocks = ni_grid(ni_divide_up(y->cols * chunks_of(y->rows), 128));
    if (y->dtype == NB_BF16)
        pair_chunks<<<blocks, 128, 0, on>>>(parts, x, x_stride, (const uint16_t *)y->data, y->stride, y->rows, y->cols);
    else
        pair_chunks<<<blocks, 128, 0, on>>>(parts, x, x_stride, (const float *)y->data, y->stride, y->rows, y->cols);
}

/* Chunks of each column, in order. */
template <int N> static __global__ void add_chunks(double *columns, const double *sums, int64_t cols, int64_t chunks) {
    for (NI_EACH(i, N * cols)) {
        const int k = (int)(i / cols);
        double all = none<N>(k);
#pragma unroll 8
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            all = joined<N>(k, all, sums[chunk * N * cols + i]);
        columns[i] = all;
    }
}

/* A warp a sum: lanes read 32 columns, and all of them add these up in order. */
template <int N> static __global__ void add_columns(double *out, const double *columns, int64_t cols) {
    const int k = threadIdx.x / 32, lane = threadIdx.x % 32;
    double all = none<N>(k);
    for (int64_t first = 0; first < cols; first += 32) {
        const int count = cols - first < 32 ? (int)(cols - first) : 32;
        const double mine = lane < count ? columns[k * cols + first + lane] : 0.0;
        for (int i = 0; i < count; i++)
            all = joined<N>(k, all, __shfl_sync(~0u, mine, i));
    }
    if (lane == 0)
        out[k] = all;
}

int64_t ni_cuda_column_sums(int64_t sums, int64_t rows, int64_t cols) {
    return sums * cols * (chunks_of(rows) + 1);
}

template <int N> static void add_up(cudaStream_t on, double *out, double *parts, int64_t rows, int64_t cols) {
    double *const columns = parts + N * cols * chunks_of(rows);
    if (cols > 0)
        add_chunks<N><<<ni_grid(ni_divide_up(N * cols, 64)), 64, 0, on>>>(columns, parts, cols, chunks_of(rows));
    add_columns<N><<<1, 32 * N, 0, on>>>(out, columns, cols);
}

int ni_cuda_launch_measure_gate(void *stream, double *out, const nb_mat *a, const nb_mat *bias, double *parts) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t work = a->cols * chunks_of(a->rows);
    const nb_mat nothing = {};
    if (work > 0)
        gate_chunks<<<ni_grid(ni_divide_up(work, 128)), 128, 0, on>>>(parts, *a, bias ? *bias : nothing);
    add_up<GATE>(on, out, parts, a->rows, a->cols);
    return cudaGetLastError();
}

int ni_cuda_launch_measure_pair(void *stream, double *out, const nb_mat *x, const nb_mat *y, double *parts) {
    cudaStream_t on = (cudaStream_t)stream;
    if (x->cols > 0 && x->rows > 0 && x->dtype == NB_BF16)
        launch_pairs(on, parts, (const uint16_t *)x->data, x->stride, y);
    else if (x->cols > 0 && x->rows > 0)
        launch_pairs(on, parts, (const float *)x->data, x->stride, y);
    add_up<PAIR>(on, out, parts, x->rows, x->cols);
    return cudaGetLastError();
}

/* ---- by rows: sums [chunks, ROW, rows], then one number a row, then their mean ---- */

/* A warp 32 rows of one chunk: it reads 32 columns of all of them together, and a lane adds up those of its own. */
static __global__ void row_chunks(double *sums, nb_mat a, nb_mat b) {
    __shared__ float x[32][33], y[32][33];
    const int64_t bands = (a.rows + 31) / 32, r0 = blockIdx.x % bands * 32, chunk = blockIdx.x / bands,
                  end = min(a.cols, (chunk + 1) * CHUNK);
    const int lane = threadIdx.x, rows = a.rows - r0 < 32 ? (int)(a.rows - r0) : 32;
    double all[ROW] = {0, 0, 0};
    for (int64_t c0 = chunk * CHUNK; c0 < end; c0 += 32) {
        const int cols = end - c0 < 32 ? (int)(end - c0) : 32;
#pragma unroll 16
        for (int r = 0; r < rows; r++) {
            x[r][lane] = lane < cols ? (float)number(a, r0 + r, c0 + lane) : 0.0f;
            y[r][lane] = lane < cols ? (float)number(b, r0 + r, c0 + lane) : 0.0f;
        }
        __syncwarp();
        for (int c = 0; c < cols && lane < rows; c++) {
            const double u = x[lane][c], v = y[lane][c];
            all[0] = plus(all[0], times(u, v));
            all[1] = plus(all[1], times(u, u));
            all[2] = plus(all[2], times(v, v));
        }
        __syncwarp();
    }
    for (int k = 0; k < ROW && lane < rows; k++)
        sums[(chunk * ROW + k) * a.rows + r0 + lane] = all[k];
}

static __global__ void row_alignments(double *out, const double *sums, int64_t rows, int64_t chunks) {
    for (NI_EACH(r, rows)) {
        double all[ROW] = {0, 0, 0};
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            for (int k = 0; k < ROW; k++)
                all[k] = plus(all[k], sums[(chunk * ROW + k) * rows + r]);
        out[r] = all[1] > 0 && all[2] > 0 ? fabs(all[0]) / sqrt(times(all[1], all[2])) : 0.0;
    }
}

/* One block: a warp a chunk of rows, 32 chunks at a time. */
static __global__ void alignment_total(double *out, const double *parts, int64_t rows) {
    __shared__ double chunks[32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double sum = 0;
    for (int64_t first = 0; first < rows; first += 32 * CHUNK) {
        const int64_t r0 = first + warp * CHUNK, end = min(rows, r0 + CHUNK);
        double chunk = 0;
        for (int64_t r = r0; r < end; r += 32) {
            const int count = end - r < 32 ? (int)(end - r) : 32;
            const double mine = lane < count ? parts[r + lane] : 0.0;
            for (int i = 0; i < count; i++)
                chunk = plus(chunk, __shfl_sync(~0u, mine, i));
        }
        if (lane == 0)
            chunks[warp] = chunk;
        __syncthreads();
        for (int i = 0; i < 32 && first + i * CHUNK < rows; i++)
            sum = plus(sum, chunks[i]);
        __syncthreads();
    }
    if (threadIdx.x == 0)
        *out = sum / (double)rows;
}

int64_t ni_cuda_row_sums(int64_t rows, int64_t cols) {
    return rows * (ROW * chunks_of(cols) + 1);
}

int ni_cuda_launch_measure_alignment(void *stream, double *out, const nb_mat *a, const nb_mat *b, double *parts) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t chunks = chunks_of(a->cols), blocks = ni_divide_up(a->rows, 32) * chunks;
    double *const each = parts + a->rows * ROW * chunks;
    if (blocks > 0)
        row_chunks<<<(unsigned)blocks, 32, 0, on>>>(parts, *a, *b);
    if (a->rows > 0)
        row_alignments<<<ni_grid(ni_divide_up(a->rows, 64)), 64, 0, on>>>(each, parts, a->rows, chunks);
    alignment_total<<<1, 1024, 0, on>>>(out, each, a->rows);
    return cudaGetLastError();
}
