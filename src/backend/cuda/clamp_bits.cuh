/* clamp_bits.cuh: a clamped row on its way, into codes of E2M1 among others, and how any row is clamped: bit by bit.
 *
 * What takes such a row has
 *
 *     begin       its largest magnitude (the bits of a BF16 number) is known; false: it goes the other way, which
 *                 begins with the row as it lies, NaN among it
 *     put         eight numbers of a lane's vector, clamped and as they were; the codes alone are asked for, where
 *                 is_alone says so
 *     begin_wild, put_wild    the same of any row; of eight from column c on, which were cut, and what was cut off
 *     finish      lanes of the warp together
 */
#ifndef NI_BACKEND_CUDA_CLAMP_BITS_CUH
#define NI_BACKEND_CUDA_CLAMP_BITS_CUH

#include "backend/cuda/clamp.cuh"
#include "backend/cuda/vector.cuh"
#include "format/ieee.h"

enum { CLAMP_ROWS = 4 }; /* of a block: one a warp */

/* Eight numbers' cuts, a bit each, and their rests. */
typedef struct clamp_cuts {
    uint32_t bits;
    uint16_t rest[8];
} clamp_cuts;

/* The value at c (a half of a word), clamped; and whether something was cut off. */
static __device__ uint16_t clamped_half(uint16_t bits, float low, float high, uint16_t *rest, bool *cut) {
    const float v = ni_bf16_value(bits), clamped = v < low ? low : v > high ? high : v; /* NaN stays */
    *cut = v == v && v != clamped;
    *rest = ni_bf16_even(ni_f32_sub(v, clamped));
    return ni_bf16_even(clamped);
}

/* The largest magnitude of a row as it will be; all lanes have it. */
static __device__ uint32_t clamped_amax(const uint16_t *from, int count, float lo, float hi) {
    uint32_t amax = 0;
    for (int c = threadIdx.x % 32; c < count; c += 32) {
        uint16_t left;
        bool cut;
        amax = max(amax, (uint32_t)clamped_half(from[c], lo, hi, &left, &cut) & 0x7fffu);
    }
    __syncwarp();
    return ni_warp_max(amax);
}

/* ---- into codes ---- */

typedef struct clamped_codes {
    const ni_cuda_vector &v;
    int64_t cols;
    ni_scaling scaling;
    ni_vector_lane lane;

    __device__ bool begin(int64_t r, uint32_t amax) {
        lane = ni_vector_lane_of(v, r * cols);
        scaling = ni_vector_scaling_of<NB_ELEMENT_E2M1>(v, amax << 16);
        if (threadIdx.x % 32 == 0)
            v.row_scales[r] = scaling.decode;
        return ni_is_tame_row(amax << 16);
    }

    __device__ void begin_wild(int64_t r, const uint16_t *from, int count, float lo, float hi) {
        begin(r, clamped_amax(from, count, lo, hi));
    }

    __device__ bool is_alone() const {
        return !lane.bytes && !lane.values;
    }

    template <bool ALONE> __device__ void put(int i, const uint4 &clamped, const uint4 &) const {
        const ni_vector_lane codes = {lane.codes, NULL, NULL};
        ni_put_eight_up(ALONE ? codes : lane, i, clamped, ni_f32_mul(scaling.multiplier, NI_UP_FACTOR),
                        v.whole ? scaling.decode : 1.0f);
    }

    __device__ void put_wild(int64_t r, int c, const uint4 &clamped, const clamp_cuts &) const {
        ni_put_eight<NB_ELEMENT_E2M1, NB_ROUND_UP>(v, r * cols + c, ni_eight_of(clamped), scaling.multiplier,
                                                   scaling.decode);
    }

    __device__ void finish() const {
    }
} clamped_codes;

static __device__ clamped_codes clamped_into(const ni_cuda_vector &v, int64_t cols) {
    return {v, cols, {1.0f, 1.0f}, {NULL, NULL, NULL}};
}

/* ---- bit by bit: from the highest bit of a key, which stays set where no more keys than the rank are smaller ---- */

/* The largest key that no more than `rank` keys of a row are below: the key at that rank. */
static __device__ uint32_t key_at(const uint16_t *from, int cols, uint32_t rank) {
    uint32_t key = 0;
    for (uint32_t bit = 0x8000u; bit; bit >>= 1) {
        uint32_t below = 0;
#pragma unroll 1
        for (int c = 8 * (threadIdx.x % 32); c < cols; c += 256) {
            const uint4 v = *(const uint4 *)(from + c);
            const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int k = 0; k < 4; k++)
                below += __vsetltu2(keys_of(w[k]), twice(key | bit)); /* a count a half */
        }
        if (__reduce_add_sync(~0u, (below & 0xffffu) + (below >> 16)) <= rank)
            key |= bit;
    }
    return key;
}

/* Whatever the row holds; it is read again for each bit. */
template <typename T>
static __device__ __noinline__ void clamp_by_bits(const T &to, const ni_sparse &rest, const uint16_t *from, int64_t r,
                                                  int cols, uint32_t low, uint32_t high) {
    auto out = clamped_into(to, cols);
    const int lane = threadIdx.x % 32;
    const float lo = ni_bf16_value(bits_of((uint16_t)key_at(from, cols, low))),
                hi = ni_bf16_value(bits_of((uint16_t)key_at(from, cols, high)));
    int found = 0;
    out.begin_wild(r, from, cols, lo, hi);
#pragma unroll 1
    for (int first = 0; first < cols; first += 256) {
        const int c = first + 8 * lane;
        const uint4 v = c < cols ? *(const uint4 *)(from + c) : make_uint4(0, 0, 0, 0);
        const uint32_t in[4] = {v.x, v.y, v.z, v.w};
        uint32_t w[4];
        clamp_cuts cuts = {};
#pragma unroll
        for (int k = 0; k < 8; k++) {
            bool cut;
            const uint16_t half = clamped_half((uint16_t)(in[k / 2] >> (16 * (k % 2))), lo, hi, &cuts.rest[k], &cut);
            w[k / 2] = k % 2 ? w[k / 2] | (uint32_t)half << 16 : half;
            cuts.bits |= (uint32_t)(cut && c < cols) << k;
        }
        if (c < cols)
            out.put_wild(r, c, make_uint4(w[0], w[1], w[2], w[3]), cuts);
        if (!rest.count)
            continue;
        const int mine = __popc(cuts.bits);
        int before = mine; /* of lanes up to this one, then of those before it */
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(~0u, before, step);
            before += lane >= step ? other : 0;
        }
        const int all = __shfl_sync(~0u, before, 31);
        int64_t at = r * rest.room + found + before - mine;
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (cuts.bits >> k & 1u) {
                rest.column[at] = c + k;
                rest.value[at++] = cuts.rest[k];
            }
        found += all;
    }
    __syncwarp();
    out.finish();
    if (rest.count && lane == 0)
        rest.count[r] = found;
}

#endif
