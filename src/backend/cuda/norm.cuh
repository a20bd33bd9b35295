/* norm.cuh: what norms and gates share: which rows are a warp's, and sums over rows (dw, dbias).
 *
 * Those are made in two steps: each warp adds up its rows in order in shared memory, each block the sums of its warps, and
 * a last kernel those of the blocks. Which rows are whose depends on the number of rows alone.
 */
#ifndef NI_BACKEND_CUDA_NORM_CUH
#define NI_BACKEND_CUDA_NORM_CUH

#include "backend/cuda/follow.cuh"
#include "backend/cuda/launch.cuh"

enum { NI_NORM_BLOCKS = 264 };

static inline int64_t ni_norm_blocks(int64_t n) {
    int64_t blocks = ni_divide_up(n, NI_WARPS);
    return blocks < NI_NORM_BLOCKS ? blocks : NI_NORM_BLOCKS;
}

/* for (NI_ROWS(r, n)): the rows of this warp. */
#define NI_ROWS(r, n)                                                                                                  \
    int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32;                                                     \
    r < (n);                                                                                                           \
    r += (int64_t)gridDim.x * NI_WARPS

static __device__ float ni_row_rstd(const uint16_t *x, int64_t dim, float eps, bool eights) {
    const int lane = threadIdx.x % 32;
    float squares = 0;
    if (eights)
        for (int64_t c = 8 * lane; c < dim; c += 256) {
            ni_eight e = ni_load_eight(x + c);
#pragma unroll
            for (int j = 0; j < 8; j++)
                squares += e.x[j] * e.x[j];
        }
    else
        for (int64_t c = lane; c < dim; c += 32)
            squares += ni_bf16_value(x[c]) * ni_bf16_value(x[c]);
    return 1.0f / sqrtf(ni_warp_sum(squares) / (float)dim + eps);
}

/* ---- sums over rows ---- */

/* sums [NI_WARPS, dim] of shared memory -> this block's row of partial. */
static __device__ void ni_leave_partial(float *partial, const float *sums, int64_t dim) {
    __syncthreads();
    for (int64_t c = threadIdx.x; c < dim; c += blockDim.x) {
        float sum = 0;
        for (int i = 0; i < NI_WARPS; i++)
            sum += sums[i * dim + c];
        partial[blockIdx.x * dim + c] = sum;
    }
}

static __device__ float *ni_clear_sums(float *sums, int64_t dim) {
    for (int64_t c = threadIdx.x; c < NI_WARPS * dim; c += blockDim.x)
        sums[c] = 0;
    __syncthreads();
    return sums + threadIdx.x / 32 * dim;
}

enum { NI_SUM_COLUMNS = 32, NI_SUM_PARTS = NI_THREADS / NI_SUM_COLUMNS };

/* A block adds up 32 columns: each of its parts every eighth row, then the parts in order. */
static __global__ void ni_add_partials(float *out, const float *partial, int blocks, int64_t dim) {
    __shared__ float parts[NI_SUM_PARTS][NI_SUM_COLUMNS];
    const int column = threadIdx.x % NI_SUM_COLUMNS, part = threadIdx.x / NI_SUM_COLUMNS;
    const int64_t c = blockIdx.x * (int64_t)NI_SUM_COLUMNS + column;
    float sum = 0;
    ni_wait_for_it();
    if (c < dim)
#pragma unroll 8
        for (int b = part; b < blocks; b += NI_SUM_PARTS)
            sum += partial[b * dim + c];
    parts[part][column] = sum;
    __syncthreads();
    if (part != 0 || c >= dim)
        return;
    sum = 0;
    for (int i = 0; i < NI_SUM_PARTS; i++)
        sum += parts[i][column];
    out[c] += sum;
}

static int ni_finish_sums(cudaStream_t on, float *out, const float *partial, int64_t blocks, int64_t dim) {
    return ni_launch_following(on, ni_add_partials, dim3((unsigned)ni_divide_up(dim, NI_SUM_COLUMNS)), dim3(NI_THREADS),
                               0, out, partial, (int)blocks, dim);
}

static size_t ni_sums_bytes(int64_t dim) {
    return NI_WARPS * (size_t)dim * sizeof(float);
}

/* More than 48 KB of shared memory must be asked for. */
template <typename Kernel> static int ni_room_for_sums(Kernel kernel, int64_t dim) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)ni_sums_bytes(dim));
}

#endif
