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

/* ---- attention: a block a few sampled queries of one head, which read its keys together ----
 *
 * Eight lanes take a key and hold eight numbers each of 64 dimensions; they add up their products with all queries of
 * the block, and each of them is left with the logit of one query. Logits are in FP32, what is summed over them in
 * double; a lane's exponentials are under the largest logit that it has met.
 */

enum { LOGIT_THREADS = 128, KEY_LANES = 8, LANE_DIMS = 64, MOST_CHUNKS = 4 };

static __device__ int64_t pitch(int64_t stride, int64_t heads, int64_t head_dim) {
    return stride ? stride : heads * head_dim;
}

/* Eight numbers of a row of `dim` from d on, 0 beyond it. ALIGNED: 16 bytes at a time. */
template <bool ALIGNED> static __device__ void load_dims(float x[8], const uint16_t *row, int dim, int d) {
    const ni_eight e = ALIGNED && d < dim ? ni_load_eight(row + d) : ni_eight{};
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = ALIGNED || d + i >= dim ? e.x[i] : ni_bf16_value(row[d + i]);
}

/* Logits that a lane met, or several: softmax under the largest of them. */
struct logit_sums {
    int64_t count;
    double largest, amax, sums[4], top, total, weighted; /* sum e^(l - top), sum e^(l - top) (l - top) */
};

static __device__ void meet(logit_sums *s, double l) {
    const double ll = l * l, less = l - s->top, e = exp(-fabs(less));
    s->largest = fmax(s->largest, l);
    s->amax = fmax(s->amax, fabs(l));
    s->sums[0] += l;
    s->sums[1] += ll;
    s->sums[2] += ll * l;
    s->sums[3] += ll * ll;
    if (s->count++ == 0) {
        s->top = l;
        s->total = 1;
    } else if (less > 0) {
        s->weighted = e * (s->weighted - less * s->total);
        s->total = e * s->total + 1;
        s->top = l;
    } else {
        s->weighted += e * less;
        s->total += e;
    }
}

static __device__ void join(logit_sums *a, const logit_sums &b) {
    const double top = a->count && a->top > b.top ? a->top : b.top;
    const double less_a = a->count ? a->top - top : 0, less_b = b.top - top, of_a = exp(less_a), of_b = exp(less_b);
    if (b.count == 0)
        return;
    a->weighted = of_a * (a->weighted + less_a * a->total) + of_b * (b.weighted + less_b * b.total);
    a->total = of_a * a->total + of_b * b.total;
    a->top = top;
    a->count += b.count;
    a->largest = fmax(a->largest, b.largest);
    a->amax = fmax(a->amax, b.amax);
    for (int i = 0; i < 4; i++)
        a->sums[i] += b.sums[i];
}

/* v[query] summed over the eight lanes of a key; a lane is left with that of query lane % 8 / (8 / QUERIES). */
template <int QUERIES> static __device__ float sum_of_lanes(float v[QUERIES]) {
#pragma unroll
    for (int mask = KEY_LANES / 2; mask; mask /= 2) {
        const int left = QUERIES * mask / (KEY_LANES / 2); /* sums that a lane has still; below 2 it keeps its one */
        const bool upper = threadIdx.x & mask;
        if (left < 2)
            v[0] += __shfl_xor_sync(~0u, v[0], mask);
#pragma unroll
        for (int i = 0; i < QUERIES / 2; i++)
            if (i < left / 2) {
                const float given = upper ? v[i] : v[i + left / 2], kept = upper ? v[i + left / 2] : v[i];
                v[i] = kept + __shfl_xor_sync(~0u, given, mask);
            }
    }
    return v[0];
}

/* Of all threads, by a tree over them. */
template <typename OP> static __device__ double over_block(double mine, double *room, OP op) {
    room[threadIdx.x] = mine;
    for (unsigned stride = NI_THREADS / 2; stride; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride)
            room[threadIdx.x] = op(room[threadIdx.x], room[threadIdx.x + stride]);
    }
    __syncthreads();
    const double all = room[0];
    __syncthreads();
    return all;
}

static __device__ double plus(double a, double b) {
    return a + b;
}

static __device__ double larger(double a, double b) {
    return fmax(a, b);
}

/* Which queries a block has: `most` of those that are sampled of one head of one sequence. */
struct sampled_queries {
    int64_t row0, head, first, count, position; /* position of the first; others follow by the stride */
};

static __device__ sampled_queries queries_of(const nb_attention &a, int64_t stride, int most) {
    const int64_t sampled = a.seq / stride, groups = (sampled + most - 1) / most, pair = blockIdx.x / groups,
                  at = blockIdx.x % groups * most;
    return {pair / a.heads * a.seq, pair % a.heads, pair * sampled + at, min((int64_t)most, sampled - at),
            stride - 1 + at * stride};
}

static __device__ ni_attention_stats stats_of(const logit_sums &s) {
    if (s.count < 2)
        return {0, 0, 0, 0, 0};
    return {s.largest, s.amax, moments_of(s.count, 0, 0, s.sums).excess_kurtosis, log(s.total) - s.weighted / s.total,
            1};
}

template <int QUERIES, bool ALIGNED>
static __global__ void __launch_bounds__(LOGIT_THREADS)
    query_stats(ni_attention_stats *each, nb_attention a, const uint16_t *q, const uint16_t *k, int64_t stride) {
    constexpr int CHUNKS = KEY_LANES / QUERIES, KEYS = LOGIT_THREADS / KEY_LANES;
    __shared__ logit_sums room[LOGIT_THREADS];
    const sampled_queries which = queries_of(a, stride, QUERIES);
    const int lane = threadIdx.x % KEY_LANES, mine = lane / CHUNKS, dim = (int)a.head_dim;
    const int64_t k_pitch = pitch(a.k_stride, a.kv_heads, a.head_dim);
    const uint16_t *const keys = k + which.row0 * k_pitch + which.head / (a.heads / a.kv_heads) * a.head_dim;
    float x[QUERIES][CHUNKS][8];
#pragma unroll
    for (int i = 0; i < QUERIES; i++) {
        const int64_t row = which.row0 + which.position + min((int64_t)i, which.count - 1) * stride;
        const uint16_t *const query = q + row * pitch(a.q_stride, a.heads, a.head_dim) + which.head * a.head_dim;
#pragma unroll
        for (int j = 0; j < CHUNKS; j++)
            load_dims<ALIGNED>(x[i][j], query, dim, LANE_DIMS * j + 8 * lane);
    }
    /* Documents follow one another: the first query's begins before the others'. */
    const int64_t t = which.position + mine * stride, last = which.position + (which.count - 1) * stride;
    const bool lives = mine < which.count && lane % CHUNKS == 0;
    const int64_t begin = a.doc_start ? a.doc_start[which.row0 + which.position] : 0,
                  first = a.doc_start && lives ? a.doc_start[which.row0 + t] : 0;
    logit_sums sums = {0, -INFINITY, 0, {0, 0, 0, 0}, 0, 0, 0};
    for (int64_t s0 = begin; s0 <= last; s0 += KEYS) { /* lanes stay together */
        const int64_t s = s0 + threadIdx.x / KEY_LANES;
        float products[QUERIES] = {};
#pragma unroll
        for (int j = 0; j < CHUNKS; j++) {
            float y[8];
            load_dims<ALIGNED>(y, keys + min(s, last) * k_pitch, dim, LANE_DIMS * j + 8 * lane);
#pragma unroll
            for (int i = 0; i < QUERIES; i++)
#pragma unroll
                for (int d = 0; d < 8; d++)
                    products[i] = __fmaf_rn(x[i][j][d], y[d], products[i]);
        }
        const float product = sum_of_lanes<QUERIES>(products);
        if (lives && s >= first && s <= t)
            meet(&sums, (double)product * a.scale);
    }
    room[threadIdx.x] = sums;
    __syncthreads();
    if (threadIdx.x >= which.count)
        return;
    sums = room[threadIdx.x * CHUNKS];
    for (int i = 1; i < KEYS; i++)
        join(&sums, room[i * KEY_LANES + threadIdx.x * CHUNKS]);
    each[which.first + threadIdx.x] = stats_of(sums);
}

template <int QUERIES>
static void launch_queries(cudaStream_t on, ni_attention_stats *each, const nb_attention *a, const uint16_t *q,
                           const uint16_t *k, int64_t stride) {
    const int64_t groups = ni_divide_up(a->seq / stride, QUERIES) * a->batch * a->heads;
    const bool aligned =
        a->head_dim % 8 == 0 && a->q_stride % 8 == 0 && a->k_stride % 8 == 0 && ni_aligned(q) && ni_aligned(k);
    if (aligned)
        query_stats<QUERIES, true><<<(unsigned)groups, LOGIT_THREADS, 0, on>>>(each, *a, q, k, stride);
    else
        query_stats<QUERIES, false><<<(unsigned)groups, LOGIT_THREADS, 0, on>>>(each, *a, q, k, stride);
}

static __global__ void attention_total(ni_attention_stats *out, const ni_attention_stats *each, int64_t queries) {
    __shared__ double room[NI_THREADS];
    double logit_max = 0, amax = 0, kurtosis = 0, entropy = 0, count = 0;
    for (int64_t i = threadIdx.x; i < queries; i += NI_THREADS) {
        logit_max += each[i].logit_max;
        amax = fmax(amax, each[i].logit_amax);
        kurtosis += each[i].logit_kurtosis;
        entropy += each[i].entropy;
        count += (double)each[i].queries;
    }
    logit_max = over_block(logit_max, room, plus);
    amax = over_block(amax, room, larger);
    kurtosis = over_block(kurtosis, room, plus);
    entropy = over_block(entropy, room, plus);
    count = over_block(count, room, plus);
    const double n = count > 0 ? count : 1;
    if (threadIdx.x == 0)
        *out = {logit_max / n, amax, kurtosis / n, entropy / n, (int64_t)count};
}

int ni_cuda_launch_measure_attention(void *stream, const nb_attention *a, const void *q, const void *k, int64_t stride,
                                     ni_attention_stats *each, ni_attention_stats *stats) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t queries = a->batch * a->heads * (a->seq / stride);
    const uint16_t *const rows = (const uint16_t *)q, *const keys = (const uint16_t *)k;
    if (a->head_dim > MOST_CHUNKS * LANE_DIMS)
        return cudaErrorNotSupported;
    if (queries > 0 && a->head_dim <= LANE_DIMS)
        launch_queries<8>(on, each, a, rows, keys, stride);
    else if (queries > 0 && a->head_dim <= 2 * LANE_DIMS)
        launch_queries<4>(on, each, a, rows, keys, stride);
    else if (queries > 0)
        launch_queries<2>(on, each, a, rows, keys, stride);
    attention_total<<<1, NI_THREADS, 0, on>>>(stats, each, queries);
    return cudaGetLastError();
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
