/* norm_row.cuh: RMSNorm of a row that fits the registers of a warp, for who writes it (norm.cu) and who makes operands of it
 * (produce_norm.cu).
 */
#ifndef NI_BACKEND_CUDA_NORM_ROW_CUH
#define NI_BACKEND_CUDA_NORM_ROW_CUH

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

static __device__ inline float ni_norm_finished(const ni_cuda_norm &norm, int64_t at, float normed) {
    normed = ni_bf16_round(normed);
    return norm.add ? ni_bf16_round(ni_bf16_value(norm.add[at]) + normed) : normed;
}

/* ---- rows that fit registers: eight neighbours a lane, chunk after chunk of 256 ---- */

enum { NI_MOST_CHUNKS = 8 };

/* How many chunks a row has; 0: it is too long to be kept. */
static inline int ni_chunks_of(int64_t dim) {
    const int64_t chunks = ni_divide_up(dim, 256);
    return dim % 8 == 0 && chunks <= NI_MOST_CHUNKS ? (int)chunks : 0;
}

/* Cases of a switch over the chunks of a row; NI_FOR_CHUNKS: of any that is kept. */
#define NI_CHUNK_CASE(CHUNKS, LAUNCH)                                                                                  \
    case CHUNKS:                                                                                                       \
        LAUNCH(CHUNKS);                                                                                                \
        break;
#define NI_UP_TO_FOUR_CHUNKS(LAUNCH)                                                                                   \
    NI_CHUNK_CASE(1, LAUNCH)                                                                                           \
    NI_CHUNK_CASE(2, LAUNCH) NI_CHUNK_CASE(3, LAUNCH) NI_CHUNK_CASE(4, LAUNCH)
#define NI_FOR_CHUNKS(chunks, LAUNCH)                                                                                  \
    switch (chunks) {                                                                                                  \
        NI_UP_TO_FOUR_CHUNKS(LAUNCH)                                                                                   \
        NI_CHUNK_CASE(5, LAUNCH)                                                                                       \
        NI_CHUNK_CASE(6, LAUNCH)                                                                                       \
        NI_CHUNK_CASE(7, LAUNCH)                                                                                       \
    default:                                                                                                           \
        LAUNCH(8);                                                                                                     \
    }

static __device__ __forceinline__ void ni_expect_line(const uint16_t *at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

/* Chunks of a row as they lie; zeros beyond its end. */
template <int CHUNKS>
static __device__ __forceinline__ void ni_load_row(uint4 (&row)[CHUNKS], const uint16_t *from, int dim) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * lane + 256 * k;
        row[k] = c < dim ? *(const uint4 *)(from + c) : make_uint4(0, 0, 0, 0);
    }
}

static __device__ __forceinline__ void ni_load_factors(float (&w)[8], const float *from) {
    const float4 low = *(const float4 *)from, high = *(const float4 *)(from + 4);
    w[0] = low.x, w[1] = low.y, w[2] = low.z, w[3] = low.w;
    w[4] = high.x, w[5] = high.y, w[6] = high.z, w[7] = high.w;
}

static __device__ __forceinline__ uint4 ni_packed(const ni_eight &e) {
    return make_uint4(ni_pack_two(e.x[0], e.x[1]), ni_pack_two(e.x[2], e.x[3]), ni_pack_two(e.x[4], e.x[5]),
                      ni_pack_two(e.x[6], e.x[7]));
}

template <int CHUNKS>
static __device__ __forceinline__ float ni_kept_rstd(const uint4 (&row)[CHUNKS], int dim, float eps) {
    float squares = 0;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const ni_eight e = ni_eight_of(row[k]);
#pragma unroll
        for (int j = 0; j < 8; j++)
            squares += e.x[j] * e.x[j];
    }
    return 1.0f / sqrtf(ni_warp_sum(squares) / (float)dim + eps);
}

/* Numbers that lie at any address, plus eight. */
static __device__ __forceinline__ uint4 ni_added_to(const uint16_t *from, uint4 word) {
    ni_eight e = ni_eight_of(word);
#pragma unroll
    for (int j = 0; j < 8; j++)
        e.x[j] += ni_bf16_value(from[j]);
    return ni_packed(e);
}

/* row + change, where there is one, rounded and left in `sum`. */
template <int CHUNKS>
static __device__ __forceinline__ void ni_add_change(uint4 (&row)[CHUNKS], const uint4 (&change)[CHUNKS],
                                                     const ni_cuda_norm &norm, int64_t at, int dim) {
    const int lane = threadIdx.x % 32;
    if (!norm.change)
        return;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        ni_eight a = ni_eight_of(row[k]), b = ni_eight_of(change[k]);
#pragma unroll
        for (int j = 0; j < 8; j++)
            a.x[j] += b.x[j];
        row[k] = ni_packed(a);
        if (8 * lane + 256 * k < dim)
            *(uint4 *)(norm.sum + at + 8 * lane + 256 * k) = row[k];
    }
}

/* One row, whose x is in `row`: its sum, if it is one, its rstd and y, which stays there; unless `ALWAYS` norm.y may be
 * NULL. */
template <int CHUNKS, bool ALWAYS>
static __device__ __forceinline__ void ni_norm_terms(uint4 (&row)[CHUNKS], const uint4 (&change)[CHUNKS],
                                                     const ni_cuda_norm &norm, int64_t r, int dim) {
    const int lane = threadIdx.x % 32;
    ni_add_change(row, change, norm, r * dim, dim);
    const float rs = ni_kept_rstd(row, dim, norm.eps);
    if (lane == 0)
        norm.rstd[r] = rs;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * lane + 256 * k;
        if (c >= dim)
            break;
        ni_eight e = ni_eight_of(row[k]);
        float w[8];
        ni_load_factors(w, norm.w + c);
#pragma unroll
        for (int j = 0; j < 8; j++)
            e.x[j] = e.x[j] * rs * w[j];
        row[k] = ni_packed(e);
        if (norm.add)
            row[k] = ni_added_to(norm.add + r * dim + c, row[k]);
        if (ALWAYS || norm.y)
            *(uint4 *)(norm.y + r * dim + c) = row[k];
    }
}

template <int CHUNKS, bool ALWAYS = true>
static __device__ __forceinline__ void ni_norm_row(uint4 (&row)[CHUNKS], const ni_cuda_norm &norm, int64_t r, int dim) {
    uint4 change[CHUNKS];
    ni_load_row(row, norm.x + r * dim, dim);
    if (norm.change)
        ni_load_row(change, norm.change + r * dim, dim);
    ni_norm_terms<CHUNKS, ALWAYS>(row, change, norm, r, dim);
}

#endif
