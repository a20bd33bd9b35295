/* column_sums.cu: products of chosen columns, side by side in one matrix, into the columns of C: dW under OutControl. A
 * block has some rows of C in shared memory, so that memory is read and written in whole lines, whatever the order of the
 * columns; one launch for a group's layers.
 */
#include "backend/cuda/kernels.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/launch.cuh"
#include "format/ieee.h"

enum { ROOM = 16 * 1024, MOST_ROOM = 48 * 1024, MOST_ROWS = 8 };

typedef struct column_work {
    ni_cuda_column_sum sums[NI_CUDA_COLUMN_SUMS];
    int32_t first_block[NI_CUDA_COLUMN_SUMS + 1];
    int32_t each[NI_CUDA_COLUMN_SUMS]; /* rows of a block */
} column_work;
static_assert(sizeof(column_work) <= 4096, "a kernel's arguments");

/* Whether parts are all of C, so that nothing else has to be there before. */
static __host__ __device__ bool is_whole(const ni_cuda_column_sum &s) {
    int64_t width = 0;
    for (int part = 0; part < s.count; part++)
        width += s.widths[part];
    return !s.add && width == s.out.cols;
}

/* put(row, column, load(row, column)) of a block's rows: a thread has one column of all of them, loaded before the first
 * is put anywhere. */
template <typename L, typename P>
static __device__ __forceinline__ void each_column(int rows, int64_t cols, L load, P put) {
    for (int64_t c = threadIdx.x; c < cols; c += NI_THREADS) {
        float x[MOST_ROWS];
#pragma unroll
        for (int r = 0; r < MOST_ROWS; r++)
            x[r] = r < rows ? load(r, c) : 0.0f;
#pragma unroll
        for (int r = 0; r < MOST_ROWS; r++)
            if (r < rows)
                put(r, c, x[r]);
    }
}

static __global__ void __launch_bounds__(NI_THREADS) column_sums(const __grid_constant__ column_work w) {
    extern __shared__ float tile[];
    int at = 0;
    while ((int)blockIdx.x >= w.first_block[at + 1])
        at++;
    const ni_cuda_column_sum &s = w.sums[at];
    const int64_t r0 = ((int64_t)blockIdx.x - w.first_block[at]) * w.each[at], cols = s.out.cols, stride = s.out.stride;
    const int rows = (int)min((int64_t)w.each[at], s.out.rows - r0);
    float *const out = (float *)s.out.data + r0 * stride;
    const bool whole = is_whole(s);
    const auto in_tile = [&](int r, int64_t c, float x) { tile[r * cols + c] = x; };
    ni_wait_for_it();
    ni_let_follow();
    if (!whole) {
        each_column(
            rows, cols, [&](int r, int64_t c) { return s.add ? out[r * stride + c] : 0.0f; }, in_tile);
        __syncthreads();
    }
    for (int part = 0; part < s.count; part++) {
        const float *const from = (const float *)s.from.data + r0 * s.from.stride + s.first[part];
        const int32_t *const columns = s.columns[part];
        each_column(
            rows, s.widths[part], [&](int r, int64_t c) { return __ldcg(from + r * s.from.stride + c); },
            [&](int r, int64_t c, float x) {
                float *const to = &tile[r * cols + __ldg(columns + c)];
                *to = ni_f32_add(whole ? 0.0f : *to, x);
            });
    }
    __syncthreads();
    each_column(
        rows, cols, [&](int r, int64_t c) { return tile[r * cols + c]; },
        [&](int r, int64_t c, float x) { out[r * stride + c] = x; });
}

bool ni_cuda_columns_fit(const nb_mat *out) {
    return out->cols * (int64_t)sizeof(float) <= MOST_ROOM;
}

int ni_cuda_launch_column_sums(void *stream, const ni_cuda_column_sum *sums, int32_t count) {
    column_work w = {};
    size_t most = 0;
    int32_t listed = 0;
    for (int32_t i = 0; i < count; i++) {
        const int64_t bytes = sums[i].out.cols * (int64_t)sizeof(float), fit = bytes < ROOM ? ROOM / bytes : 1,
                      each = fit < MOST_ROWS ? fit : MOST_ROWS;
        if (sums[i].out.rows * bytes == 0)
            continue;
        w.sums[listed] = sums[i];
        w.each[listed] = (int32_t)each;
        w.first_block[listed + 1] = w.first_block[listed] + (int32_t)ni_divide_up(sums[i].out.rows, each);
        most = (size_t)(each * bytes) > most ? (size_t)(each * bytes) : most;
        listed++;
    }
    return listed ? ni_launch_following((cudaStream_t)stream, column_sums, dim3((unsigned)w.first_block[listed]),
                                        dim3(NI_THREADS), most, w)
                  : cudaGetLastError();
}
