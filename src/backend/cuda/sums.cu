/* sums.cu: sums in double of FP32, of one array or of many at once: a fixed number of blocks an array, so that the tree
 * depends on its length alone. And small arrays that become zero, many at once.
 */
#include "backend/cuda/follow.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/many.h"

/* Arrays of one launch: a row of the grid each. */
typedef struct summed {
    const float *x;
    int64_t n;
    bool fours; /* it may be read four at a time */
} summed;

typedef struct sum_list {
    summed at[NI_CUDA_LIST_MOST];
} sum_list;

static __device__ double sum_of_each(const float *x, int64_t n, bool squares) {
    double sum = 0;
    for (NI_EACH(i, n)) {
        const double v = x[i];
        sum += squares ? v * v : v;
    }
    return sum;
}

/* Several are asked for before the first is waited for. */
static __device__ double sum_of_fours(const float4 *x, int64_t fours, bool squares) {
    enum { AT_ONCE = 4 };
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    double a = 0, b = 0;
    for (int64_t first = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; first < fours; first += AT_ONCE * step) {
        float4 v[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i * step < fours)
                v[i] = x[first + i * step];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const double p = v[i].x, q = v[i].y, r = v[i].z, s = v[i].w;
            if (first + i * step >= fours)
                continue;
            a += squares ? p * p + q * q : p + q;
            b += squares ? r * r + s * s : r + s;
        }
    }
    return a + b;
}

static __global__ void __launch_bounds__(NI_THREADS)
    sum_parts(double *partial, const __grid_constant__ sum_list list, bool squares) {
    __shared__ double room[NI_WARPS];
    const summed &t = list.at[blockIdx.y];
    const double sum = ni_block_sum(
        t.fours ? sum_of_fours((const float4 *)t.x, t.n / 4, squares) : sum_of_each(t.x, t.n, squares), room);
    if (threadIdx.x == 0)
        partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/* A block an array. */
static __global__ void sum_of_parts(double *out, const double *partial) {
    __shared__ double room[NI_WARPS];
    double sum = 0;
    ni_wait_for_it();
    for (int i = threadIdx.x; i < NI_CUDA_SUM_BLOCKS; i += blockDim.x)
        sum += partial[blockIdx.x * NI_CUDA_SUM_BLOCKS + i];
    sum = ni_block_sum(sum, room);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

static int launch_sums(void *stream, double *out, const void *const *x, const int64_t *n, int32_t count, bool squares,
                       double *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    sum_list list;
    for (int32_t i = 0; i < count; i++)
        list.at[i] = {(const float *)x[i], n[i], n[i] % 4 == 0 && ni_aligned(x[i])};
    sum_parts<<<dim3(NI_CUDA_SUM_BLOCKS, (unsigned)count), NI_THREADS, 0, on>>>(partial, list, squares);
    const cudaError_t code = cudaGetLastError();
    return code != cudaSuccess
               ? code
               : ni_launch_following(on, sum_of_parts, dim3((unsigned)count), dim3(NI_THREADS), 0, out, partial);
}

int ni_cuda_launch_sum(void *stream, double *out, const float *x, int64_t n, bool squares, double *partial) {
    const void *const one = x;
    return launch_sums(stream, out, &one, &n, 1, squares, partial);
}

int ni_cuda_launch_squares(void *stream, double *out, const void *const *x, const int64_t *n, int32_t count,
                           double *partial) {
    return count ? launch_sums(stream, out, x, n, count, true, partial) : cudaSuccess;
}

/* ---- zeros ---- */

typedef struct clear_list {
    uint32_t *at[NI_CUDA_LIST_MOST];
    uint32_t words[NI_CUDA_LIST_MOST];
} clear_list;

static __global__ void clear(const __grid_constant__ clear_list list) {
    for (uint32_t i = threadIdx.x; i < list.words[blockIdx.x]; i += blockDim.x)
        list.at[blockIdx.x][i] = 0;
}

int ni_cuda_launch_clear(void *stream, void *const *at, const size_t *bytes, int32_t count) {
    clear_list list;
    for (int32_t i = 0; i < count; i++) {
        list.at[i] = (uint32_t *)at[i];
        list.words[i] = (uint32_t)(bytes[i] / sizeof(uint32_t));
    }
    if (count)
        clear<<<(unsigned)count, NI_THREADS, 0, (cudaStream_t)stream>>>(list);
    return cudaGetLastError();
}
