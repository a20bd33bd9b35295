/* clamp.cu: clamping with a sparse rest (OCC): order statistics without sorting. BF16 has 65,536 values, ordered by a
 * 16-bit key.
 *
 *     rows that fit a warp's registers    clamp_warp.cu; where nobody wants a list of what is cut off, and rows are as
 *                                         long as those of models, clamp_counted.cu
 *     any other row                       a block counts the upper bytes of keys, then the lower bytes of those that
 *                                         share the upper one
 *     a whole tensor                      counts of all keys in memory
 */
#include "backend/cuda/clamp.cuh"
#include "format/ieee.h"

/* ---- a row of a block ---- */

enum { BINS = 256 };

/* The bin in which rank lies, and the rank within it; by a warp, eight bins a lane. */
static __device__ int find_bin(const uint32_t *counts, int64_t rank, int64_t *within) {
    const int lane = threadIdx.x % 32;
    uint32_t mine = 0;
    for (int i = 0; i < BINS / 32; i++)
        mine += counts[BINS / 32 * lane + i];
    uint32_t upto = mine;
    for (int step = 1; step < 32; step *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, upto, step);
        upto += lane >= step ? other : 0;
    }
    const uint32_t passed = __ballot_sync(~0u, rank >= (int64_t)upto); /* lanes whose bins all lie below */
    const int owner = passed == ~0u ? 31 : __popc(passed);
    int64_t rest = rank - __shfl_sync(~0u, upto - mine, owner);
    int bin = BINS / 32 * owner;
    while (bin < BINS - 1 && bin < BINS / 32 * (owner + 1) - 1 && rest >= (int64_t)counts[bin])
        rest -= counts[bin++];
    *within = rest;
    return bin;
}

/* A block finds both order statistics of one row. */
static __device__ void row_bounds(const uint16_t *x, int64_t n, int64_t low, int64_t high, float bound[2]) {
    __shared__ uint32_t upper[BINS], lower[2][BINS];
    __shared__ int bin[2];
    __shared__ int64_t within[2];
    for (int i = threadIdx.x; i < BINS; i += blockDim.x)
        upper[i] = lower[0][i] = lower[1][i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        atomicAdd(&upper[key_of(x[i]) >> 8], 1u);
    __syncthreads();
    const int warp = threadIdx.x / 32;
    if (warp < 2) {
        int64_t inside;
        const int found = find_bin(upper, warp ? high : low, &inside);
        bin[warp] = found;
        within[warp] = inside;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        uint16_t key = key_of(x[i]);
        for (int side = 0; side < 2; side++)
            if (key >> 8 == bin[side])
                atomicAdd(&lower[side][key & 255], 1u);
    }
    __syncthreads();
    for (int side = 0; side < 2; side++) {
        int64_t last;
        bound[side] = ni_bf16_value(bits_of((uint16_t)(bin[side] << 8 | find_bin(lower[side], within[side], &last))));
    }
}

/* Clamps a row and lists what was cut off, columns ascending: 256 columns at a time, each thread behind those before
 * it. */
static __device__ void clamp_row(uint16_t *to, const ni_sparse &rest, int64_t row, const uint16_t *from, int64_t cols,
                                 float lo, float hi) {
    __shared__ int warp_count[NI_WARPS];
    int found = 0;
    for (int64_t c0 = 0; c0 < cols; c0 += NI_THREADS) {
        int64_t c = c0 + threadIdx.x;
        float v = c < cols ? ni_bf16_value(from[c]) : 0.0f, clamped = v < lo ? lo : v > hi ? hi : v; /* NaN stays */
        bool cut = c < cols && v == v && v != clamped;
        if (c < cols)
            to[c] = ni_bf16_even(clamped);
        if (!rest.count)
            continue;
        uint32_t vote = __ballot_sync(~0u, cut);
        if (threadIdx.x % 32 == 0)
            warp_count[threadIdx.x / 32] = __popc(vote);
        __syncthreads();
        int before = found, total = 0;
        for (int i = 0; i < NI_WARPS; i++) {
            before += i < (int)threadIdx.x / 32 ? warp_count[i] : 0;
            total += warp_count[i];
        }
        if (cut) {
            int64_t at = row * rest.room + before + __popc(vote & ((1u << threadIdx.x % 32) - 1));
            rest.column[at] = (int32_t)c;
            if (rest.exact)
                rest.exact[at] = ni_f32_sub(v, clamped);
            else
                rest.value[at] = ni_bf16_even(ni_f32_sub(v, clamped));
        }
        found += total;
        __syncthreads();
    }
    if (rest.count && threadIdx.x == 0)
        rest.count[row] = found;
}

static __global__ void clamp_rows(nb_mat out, ni_sparse rest, nb_mat x, int64_t low, int64_t high) {
    const int64_t r = blockIdx.x;
    const uint16_t *from = (const uint16_t *)x.data + r * x.stride;
    float bound[2];
    row_bounds(from, x.cols, low, high, bound);
    clamp_row((uint16_t *)out.data + r * out.stride, rest, r, from, x.cols, bound[0], bound[1]);
}

/* The same over a whole tensor: counts of all 65,536 keys in memory. */
enum { KEYS = 1 << 16 };

static __global__ void count_keys(unsigned long long *counts, nb_mat x) {
    for (NI_EACH(i, x.rows * x.cols))
        atomicAdd(&counts[key_of(((const uint16_t *)x.data)[i / x.cols * x.stride + i % x.cols])], 1ull);
}

static __global__ void find_bounds(float *bound, const unsigned long long *counts, int64_t low, int64_t high) {
    int64_t rank = threadIdx.x ? high : low;
    int key = 0;
    while (key < KEYS - 1 && rank >= (int64_t)counts[key])
        rank -= (int64_t)counts[key++];
    bound[threadIdx.x] = ni_bf16_value(bits_of((uint16_t)key));
}

static __global__ void clamp_whole(nb_mat out, ni_sparse rest, nb_mat x, const float *bound) {
    const int64_t r = blockIdx.x;
    clamp_row((uint16_t *)out.data + r * out.stride, rest, r, (const uint16_t *)x.data + r * x.stride, x.cols, bound[0],
              bound[1]);
}

size_t ni_cuda_clamp_bytes(bool whole) {
    return whole ? KEYS * sizeof(unsigned long long) + 256 : 0;
}

int ni_cuda_launch_clamp(void *stream, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                         int64_t high, bool whole, void *scratch) {
    cudaStream_t on = (cudaStream_t)stream;
    ni_sparse none = {};
    if (x->rows * x->cols == 0)
        return cudaSuccess;
    if (!whole && !(rest && rest->exact) && ni_cuda_clamps_by_warps(x) && out->stride % 8 == 0 && ni_aligned(out->data))
        return ni_cuda_clamp_by_warps(on, out, rest ? rest : &none, x, low, high);
    if (!whole) {
        clamp_rows<<<(unsigned)x->rows, NI_THREADS, 0, on>>>(*out, rest ? *rest : none, *x, low, high);
        return cudaGetLastError();
    }
    unsigned long long *counts = (unsigned long long *)scratch;
    float *bound = (float *)(counts + KEYS);
    cudaMemsetAsync(counts, 0, KEYS * sizeof *counts, on);
    count_keys<<<ni_grid(ni_divide_up(x->rows * x->cols, NI_THREADS)), NI_THREADS, 0, on>>>(counts, *x);
    find_bounds<<<1, 2, 0, on>>>(bound, counts, low, high);
    clamp_whole<<<(unsigned)x->rows, NI_THREADS, 0, on>>>(*out, rest ? *rest : none, *x, bound);
    return cudaGetLastError();
}
