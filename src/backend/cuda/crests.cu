/* crests.cu: what is told of a map of crests, and of the scales of codes, for the lens: a block a map, many a launch. */
#include "backend/cuda/crests.h"
#include "backend/cuda/launch.cuh"

enum { THREADS = 1024, BINS = 2048 };

/* The bin that holds the value of `rank`, which becomes its rank in there. One warp asks. */
static __device__ unsigned bin_of_rank(const uint32_t *bins, uint32_t *rank) {
    enum { EACH = BINS / 32 };
    const int lane = threadIdx.x % 32;
    uint32_t mine = 0, before;
    for (int i = 0; i < EACH; i++)
        mine += bins[lane * EACH + i];
    before = mine;
    for (int s = 1; s < 32; s *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, before, s);
        before += lane >= s ? other : 0;
    }
    before -= mine;
    const int owner = __ffs((int)__ballot_sync(~0u, *rank < before + mine)) - 1;
    uint32_t left = *rank - before;
    unsigned bin = (unsigned)(lane * EACH);
    if (lane == owner)
        while (left >= bins[bin])
            left -= bins[bin++];
    *rank = __shfl_sync(~0u, left, owner);
    return __shfl_sync(~0u, bin, owner);
}

/* Bits of the value that would stand at `rank` if the values, none below 0, were sorted: 10 bits, 11 and 10. */
static __device__ uint32_t bits_of_rank(const uint32_t *values, int64_t count, uint32_t rank, uint32_t *bins,
                                        uint32_t *found) {
    uint32_t known = 0;
    for (int pass = 0; pass < 3; pass++) {
        const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, above = pass == 0 ? 31 : pass == 1 ? 21 : 10;
        for (int i = threadIdx.x; i < BINS; i += THREADS)
            bins[i] = 0;
        __syncthreads();
#pragma unroll 8
        for (int64_t i = threadIdx.x; i < count; i += THREADS) {
            const uint32_t bits = values[i];
            if (pass == 0 || bits >> above == known >> above)
                atomicAdd(&bins[bits >> shift & ((1u << (above - shift)) - 1)], 1u);
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            const unsigned bin = bin_of_rank(bins, &rank);
            if (threadIdx.x == 0) {
                found[0] = known | bin << shift;
                found[1] = rank;
            }
        }
        __syncthreads();
        known = found[0];
        rank = found[1];
    }
    return known;
}

/* The largest of each column of `width` at most THREADS columns; returns this thread's. */
static __device__ uint32_t largest_of_columns(float *out, const uint32_t *values, int64_t rows, int64_t cols, int width,
                                              uint32_t *room) {
    const int groups = THREADS / width, column = threadIdx.x % width, group = threadIdx.x / width;
    room[threadIdx.x] = 0;
    __syncthreads();
    uint32_t largest = 0;
#pragma unroll 8
    for (int64_t r = group; r < (group < groups ? rows : 0); r += groups)
        largest = max(largest, values[r * cols + column]);
    atomicMax(&room[column], largest);
    __syncthreads();
    if (threadIdx.x < width)
        out[threadIdx.x] = __uint_as_float(room[threadIdx.x]);
    __syncthreads();
    return largest;
}

static __global__ __launch_bounds__(THREADS) void summarize(ni_cuda_crest_maps maps) {
    __shared__ uint32_t bins[BINS], found[2], largest;
    const ni_crest_map m = maps.at[blockIdx.x];
    const uint32_t *const values = (const uint32_t *)(const void *)m.crests;
    uint32_t mine = 0;
    if (threadIdx.x == 0)
        largest = 0;
    for (int64_t c = 0; c < m.cols; c += THREADS)
        mine = max(mine, largest_of_columns(m.summary + 2 + c, values + c, m.rows, m.cols,
                                            m.cols - c < THREADS ? (int)(m.cols - c) : THREADS, bins));
    mine = __reduce_max_sync(~0u, mine);
    if (threadIdx.x % 32 == 0)
        atomicMax(&largest, mine);
    const uint32_t of_rank = bits_of_rank(values, m.rows * m.cols, maps.rank[blockIdx.x], bins, found);
    if (threadIdx.x == 0) {
        m.summary[0] = __uint_as_float(largest);
        m.summary[1] = __uint_as_float(of_rank);
    }
}

int ni_cuda_launch_crests(void *stream, const ni_crest_map *maps, int32_t count) {
    for (int32_t i = 0; i < count; i += NI_CUDA_CREST_MAPS) {
        const int32_t these = count - i < NI_CUDA_CREST_MAPS ? count - i : NI_CUDA_CREST_MAPS;
        ni_cuda_crest_maps list;
        for (int32_t j = 0; j < these; j++) {
            list.at[j] = maps[i + j];
            list.rank[j] = (uint32_t)ni_crest_rank(maps[i + j].rows * maps[i + j].cols);
        }
        summarize<<<(unsigned)these, THREADS, 0, (cudaStream_t)stream>>>(list);
    }
    return cudaGetLastError();
}

/* ---- scales ---- */

/* A lane has bins of its own: words of one bin lie in 32 banks. */
static __global__ __launch_bounds__(NI_THREADS) void count_exponents(unsigned long long *counts, const uint8_t *scales,
                                                                     int64_t head, int64_t n) {
    __shared__ uint32_t bins[NI_WARPS][NI_SCALE_EXPONENTS][32];
    const int lane = threadIdx.x % 32;
    uint32_t(*const mine)[32] = bins[threadIdx.x / 32];
    for (int i = 0; i < NI_SCALE_EXPONENTS; i++)
        mine[i][lane] = 0;
    const uint4 *const sixteens = (const uint4 *)(scales + head);
    for (NI_EACH(i, (n - head) / 16)) {
        const uint4 w = sixteens[i];
        const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int j = 0; j < 16; j++)
            mine[words[j / 4] >> (8 * (j % 4) + 3) & 15][lane]++;
    }
    const int64_t rest = (n - head) / 16 * 16;
    for (NI_EACH(i, n - rest)) /* before them and behind */
        mine[scales[i < head ? i : rest + i] >> 3 & 15][lane]++;
    __syncthreads();
    for (int bin = threadIdx.x / 32; bin < NI_SCALE_EXPONENTS; bin += NI_WARPS) {
        uint32_t found = 0;
        for (int w = 0; w < NI_WARPS; w++)
            found += bins[w][bin][lane];
        found = __reduce_add_sync(~0u, found);
        if (lane == 0 && found)
            atomicAdd(&counts[bin], (unsigned long long)found);
    }
}

int ni_cuda_launch_count_scales(void *stream, int64_t *counts, const uint8_t *scales, int64_t n) {
    const int64_t before = (int64_t)(-(uintptr_t)scales % 16), blocks = ni_divide_up(n, 32 * NI_THREADS);
    count_exponents<<<ni_grid(blocks), NI_THREADS, 0, (cudaStream_t)stream>>>((unsigned long long *)counts, scales,
                                                                              before < n ? before : n, n);
    return cudaGetLastError();
}
