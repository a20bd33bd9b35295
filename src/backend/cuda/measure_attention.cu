/* measure_attention.cu: logits and entropy of attention, for the lens: a block a few sampled queries of one head, which
 * read its keys together.
 *
 * Eight lanes take a key and hold eight numbers each of 64 dimensions; they add up their products with all queries of
 * the block, and each of them is left with the logit of one query. Logits are in FP32, what is summed over them in
 * double; a lane's exponentials are under the largest logit that it has met.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

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
    const double ll = l * l, less = l - s->top, e = (double)expf(-fabsf((float)less)); /* logits are in FP32, too */
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

/* Of raw sums of x, x^2, x^3, x^4: as ni_moments_of_sums. */
static __device__ double excess_kurtosis(double n, const double sums[4]) {
    const double mean = sums[0] / n, second = sums[1] / n, third = sums[2] / n, fourth = sums[3] / n;
    const double variance = second - mean * mean;
    const double centred = fourth - 4 * mean * third + 6 * mean * mean * second - 3 * mean * mean * mean * mean;
    return variance > 1e-12 * second ? centred / (variance * variance) - 3 : 0;
}

static __device__ ni_attention_stats stats_of(const logit_sums &s) {
    if (s.count < 2)
        return {0, 0, 0, 0, 0};
    return {s.largest, s.amax, excess_kurtosis((double)s.count, s.sums), log(s.total) - s.weighted / s.total, 1};
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
