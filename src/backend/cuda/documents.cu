/* documents.cu: one block counts where documents begin, thread by thread in the order of positions, and writes the list
 * of them; a micro-batch has some ten thousand positions. */
#include "backend/cuda/documents.h"
#include "backend/cuda/launch.cuh"

enum { MOST_THREADS = 1024 };

static __device__ inline bool begins(const int32_t *doc_start, int32_t i, int32_t seq) {
    return doc_start[i] == i % seq;
}

/* The sum of `mine` over the threads before this one; *all: over all of them. */
static __device__ int32_t sum_before(int32_t mine, int32_t *all) {
    __shared__ int32_t of_warp[MOST_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int32_t sum = mine, before = 0;
    for (int step = 1; step < 32; step *= 2) {
        const int32_t left = __shfl_up_sync(0xffffffffu, sum, step);
        sum += lane >= step ? left : 0;
    }
    if (lane == 31)
        of_warp[warp] = sum;
    __syncthreads();
    *all = 0;
    for (int w = 0; w < MOST_THREADS / 32; w++) {
        before += w < warp ? of_warp[w] : 0;
        *all += of_warp[w];
    }
    return before + sum - mine;
}

static __global__ void __launch_bounds__(MOST_THREADS)
    list_documents(ni_cuda_attention a, ni_cuda_documents out, const int32_t *doc_start) {
    const int32_t tokens = (int32_t)(a.batch * a.seq), seq = (int32_t)a.seq, most = (int32_t)out.most,
                  each = (tokens + MOST_THREADS - 1) / MOST_THREADS, begin = min(tokens, (int32_t)threadIdx.x * each),
                  end = min(tokens, begin + each);
    int32_t mine = 0, all;
    for (int32_t i = begin; i < end; i++)
        mine += begins(doc_start, i, seq);
    int32_t at = sum_before(mine, &all);
    if (all > most)
        __trap();
    for (int32_t i = begin; i < end; i++)
        if (begins(doc_start, i, seq))
            out.first[at++] = i;
    for (int32_t d = all + (int32_t)threadIdx.x; d <= most; d += MOST_THREADS)
        out.first[d] = tokens;
    __syncthreads();
    for (int32_t d = (int32_t)threadIdx.x; d <= most; d += MOST_THREADS) {
        const int64_t first = out.first[d];
        if (d < most)
            out.lengths[d] = out.first[d + 1] - (int32_t)first;
        out.from_q[d] = first * a.q_stride;
        out.from_k[d] = first * a.k_stride;
        out.from_v[d] = first * a.v_stride;
        out.from_o[d] = first * a.o_stride;
        out.from_stats[d] = first * a.heads;
    }
}

int ni_cuda_launch_documents(const ni_cuda_attention *a, const ni_cuda_documents *out, void *stream) {
    list_documents<<<1, MOST_THREADS, 0, (cudaStream_t)stream>>>(*a, *out, a->doc_start);
    return cudaGetLastError();
}

/* ---- numbers of rows ---- */

template <bool BY_HEAD>
static __global__ void turn_stats(float *to, const float *from, int64_t n, int64_t heads, int64_t seq) {
    for (NI_EACH(i, n)) {
        const int64_t t = i % seq, h = i / seq % heads, b = i / seq / heads, other = (b * seq + t) * heads + h;
        if (BY_HEAD)
            to[i] = from[other];
        else
            to[other] = from[i];
    }
}

int ni_cuda_launch_stats_by_head(const ni_cuda_attention *a, float *to, const float *from, void *stream) {
    const int64_t n = a->batch * a->heads * a->seq;
    turn_stats<true>
        <<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(to, from, n, a->heads, a->seq);
    return cudaGetLastError();
}

int ni_cuda_launch_stats_by_position(const ni_cuda_attention *a, float *to, const float *from, void *stream) {
    const int64_t n = a->batch * a->heads * a->seq;
    turn_stats<false>
        <<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(to, from, n, a->heads, a->seq);
    return cudaGetLastError();
}
