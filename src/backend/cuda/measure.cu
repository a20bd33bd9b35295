/* measure.cu: what a tensor looks like, for the lens. Sums are in double; which elements a thread adds up depends on the
 * shape alone.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

static __device__ void join(ni_cuda_moment_sums *a, const ni_cuda_moment_sums &b) {
    for (int i = 0; i < 4; i++)
        a->sums[i] += b.sums[i];
    a->count += b.count;
    a->amax = fmax(a->amax, b.amax);
}

static __device__ ni_cuda_moment_sums block_total(ni_cuda_moment_sums mine, ni_cuda_moment_sums *room) {
    room[threadIdx.x] = mine;
    for (unsigned stride = NI_THREADS / 2; stride; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride)
            join(&room[threadIdx.x], room[threadIdx.x + stride]);
    }
    __syncthreads();
    return room[0];
}

/* From the number of elements and the raw sums of x, x^2, x^3, x^4: as ni_moments_of_sums. */
static __device__ ni_moments moments_of(int64_t count, int64_t nonfinite, double amax, const double sums[4]) {
    ni_moments m = {count, nonfinite, amax, 0, 0, 0};
    if (count == 0)
        return m;
    const double n = (double)count, mean = sums[0] / n, second = sums[1] / n, third = sums[2] / n, fourth = sums[3] / n;
    const double variance = second - mean * mean;
    const double centred = fourth - 4 * mean * third + 6 * mean * mean * second - 3 * mean * mean * mean * mean;
    m.mean = mean;
    m.rms = sqrt(second);
    if (variance > 1e-12 * second)
        m.excess_kurtosis = centred / (variance * variance) - 3;
    return m;
}

static __global__ void moment_total(ni_moments *out, const ni_cuda_moment_sums *partial, int64_t elements) {
    __shared__ ni_cuda_moment_sums room[NI_THREADS];
    ni_cuda_moment_sums mine = {};
    for (int i = threadIdx.x; i < NI_CUDA_SUM_BLOCKS; i += NI_THREADS)
        join(&mine, partial[i]);
    mine = block_total(mine, room);
    if (threadIdx.x == 0)
        *out = moments_of(mine.count, elements - mine.count, mine.amax, mine.sums);
}

/* ---- tiles of 16x16 ---- */

enum { TILE = 16, DOWN = 8 }; /* tiles that a warp walks down before it says what its columns' maxima are */

/* Eight columns from c on of row r, 0 where there are none; how many there are. ALIGNED: 16 bytes at a time. */
template <bool BF16, bool ALIGNED> static __device__ int load_eight(float v[8], const nb_mat &x, int64_t r, int64_t c) {
    const int64_t left = r < x.rows ? x.cols - c : 0;
    const int count = left > 8 ? 8 : left > 0 ? (int)left : 0;
    const int64_t at = r * x.stride + c;
    if (ALIGNED && count == 8) {
        if (BF16) {
            const ni_eight e = ni_load_eight((const uint16_t *)x.data + at);
#pragma unroll
            for (int j = 0; j < 8; j++)
                v[j] = e.x[j];
        } else {
            const float4 a = ((const float4 *)((const float *)x.data + at))[0],
                         b = ((const float4 *)((const float *)x.data + at))[1];
            const float both[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
            for (int j = 0; j < 8; j++)
                v[j] = both[j];
        }
        return count;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        v[j] = j >= count ? 0.0f
               : BF16     ? ni_bf16_value(((const uint16_t *)x.data)[at + j])
                          : ((const float *)x.data)[at + j];
    return count;
}

/* Of a lane's numbers of one tile. */
struct tile_part {
    double squares;
    uint32_t largest; /* bits of a magnitude */
    int count;
};

static __device__ tile_part over_warp(tile_part p) {
    for (int s = 16; s; s /= 2)
        p.squares += __shfl_xor_sync(~0u, p.squares, s);
    p.largest = __reduce_max_sync(~0u, p.largest);
    p.count = __reduce_add_sync(~0u, p.count);
    return p;
}

static __device__ float crest_of(const tile_part &t) {
    return t.squares > 0 ? (float)((double)ni_f32_from(t.largest) / sqrt(t.squares / (double)t.count)) : 0.0f;
}

/* A warp a tile, a lane half a row of it; column_amax [cols] is 0 before. */
template <bool BF16, bool ALIGNED>
static __global__ __launch_bounds__(NI_THREADS, 4) void measure_tiles(ni_cuda_moment_sums *partial, nb_mat x,
                                                                      uint32_t *column_amax, float *tile_crest) {
    __shared__ ni_cuda_moment_sums room[NI_THREADS];
    const int lane = threadIdx.x % 32;
    const int64_t across = (x.cols + TILE - 1) / TILE, high = (x.rows + TILE - 1) / TILE;
    ni_cuda_moment_sums mine = {};
    uint32_t amax = 0;
    for (int64_t unit = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32; unit < across * ((high + DOWN - 1) / DOWN);
         unit += (int64_t)gridDim.x * NI_WARPS) {
        const int64_t first = unit / across * DOWN, column = unit % across * TILE + lane % 2 * 8;
        const int tiles = high - first < DOWN ? (int)(high - first) : DOWN;
        uint32_t maxima[8] = {};
        tile_part kept = {};
#pragma unroll 2
        for (int t = 0; t < tiles; t++) {
            float v[8];
            const int count = load_eight<BF16, ALIGNED>(v, x, (first + t) * TILE + lane / 2, column);
            tile_part part = {0, 0, count};
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const bool finite = ni_f32_magnitude(v[j]) < NI_F32_INF_BITS;
                const uint32_t magnitude = finite ? ni_f32_magnitude(v[j]) : 0;
                const double d = finite ? v[j] : 0.0f, square = d * d;
                part.count -= !finite;
                part.squares += square;
                part.largest = max(part.largest, magnitude);
                maxima[j] = max(maxima[j], magnitude);
                mine.sums[0] += d;
                mine.sums[2] += square * d;
                mine.sums[3] += square * square;
            }
            mine.sums[1] += part.squares;
            mine.count += part.count;
            part = over_warp(part);
            amax = max(amax, part.largest);
            if (lane == t)
                kept = part;
        }
        if (tile_crest && lane < tiles)
            tile_crest[(first + lane) * across + unit % across] = crest_of(kept);
        for (int j = 0; column_amax && j < 8; j++) {
            for (int s = 2; s < 32; s *= 2)
                maxima[j] = max(maxima[j], __shfl_xor_sync(~0u, maxima[j], s));
            if (lane < 2 && column + j < x.cols)
                atomicMax(&column_amax[column + j], maxima[j]);
        }
    }
    mine.amax = ni_f32_from(amax);
    mine = block_total(mine, room);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = mine;
}

template <bool BF16>
static void launch_tiles(cudaStream_t on, bool aligned, const nb_mat *x, ni_cuda_moment_sums *partial,
                         float *column_amax, float *tile_crest) {
    uint32_t *const maxima = (uint32_t *)(void *)column_amax;
    if (aligned)
        measure_tiles<BF16, true><<<NI_CUDA_SUM_BLOCKS, NI_THREADS, 0, on>>>(partial, *x, maxima, tile_crest);
    else
        measure_tiles<BF16, false><<<NI_CUDA_SUM_BLOCKS, NI_THREADS, 0, on>>>(partial, *x, maxima, tile_crest);
}

/* ---- a matrix ---- */

int ni_cuda_launch_measure(void *stream, const nb_mat *x, ni_cuda_moment_sums *partial, ni_moments *moments,
                           float *column_amax, float *tile_crest) {
    cudaStream_t on = (cudaStream_t)stream;
    const bool aligned = (uintptr_t)x->data % 16 == 0 && x->stride % (x->dtype == NB_BF16 ? 8 : 4) == 0;
    if (column_amax)
        cudaMemsetAsync(column_amax, 0, (size_t)x->cols * sizeof *column_amax, on);
    if (x->dtype == NB_BF16)
        launch_tiles<true>(on, aligned, x, partial, column_amax, tile_crest);
    else
        launch_tiles<false>(on, aligned, x, partial, column_amax, tile_crest);
    moment_total<<<1, NI_THREADS, 0, on>>>(moments, partial, x->rows * x->cols);
    return cudaGetLastError();
}
