/* clamp_threshold.cuh: two order statistics of a row near its ends. Few numbers lie beyond both bounds; they are found
 * first, and the bounds are theirs of a rank: the rank-th of the lanes' own extremes is a threshold that at least rank
 * numbers are beyond, and seldom many more.
 */
#ifndef NI_BACKEND_CUDA_CLAMP_THRESHOLD_CUH
#define NI_BACKEND_CUDA_CLAMP_THRESHOLD_CUH

#include "backend/cuda/clamp.cuh"
#include "format/ieee.h"

/* All bits of a half that is `least` or below, or `most` or above. */
static __device__ uint32_t not_between(uint32_t pair, uint32_t least, uint32_t most) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t below, above;
    asm("set.le.u32.bf16x2 %0, %1, %2;" : "=r"(below) : "r"(pair), "r"(least));
    asm("set.ge.u32.bf16x2 %0, %1, %2;" : "=r"(above) : "r"(pair), "r"(most));
    return below | above;
#else
    return __vcmpleu2(keys_of(pair), keys_of(least)) | __vcmpgeu2(keys_of(pair), keys_of(most));
#endif
}

static __device__ bool is_nan_in(uint32_t pair) {
    return (pair & 0x7fffu) > 0x7f80u || (pair & 0x7fff0000u) > 0x7f800000u;
}

/* A lane's numbers are cut into so many parts of pairs. */
template <int GROUPS> constexpr int PARTS = GROUPS > 2 ? GROUPS / 2 : 1;

/* Keys of GROUPS halves of the parts' extremes, or of the smaller half where GROUPS is 1; `turned`: turned over. */
template <int GROUPS> static __device__ void keys_of_parts(uint32_t *keys, const uint32_t *pairs, uint32_t turned) {
#pragma unroll
    for (int p = 0; p < PARTS<GROUPS>; p++) {
        const uint32_t both = keys_of(pairs[p]) ^ turned;
        keys[2 * p] = GROUPS == 1 ? min(both & 0xffffu, both >> 16) : both & 0xffffu;
        if (GROUPS > 1)
            keys[2 * p + 1] = both >> 16;
    }
}

/* Smallest keys of parts of a lane's numbers, and smallest ones of the keys turned over; false: a NaN. */
template <int VECTORS, int GROUPS>
static __device__ bool extremes_of(uint32_t *least, uint32_t *most, const uint32_t *words, int64_t cols) {
    uint32_t low[PARTS<GROUPS>], high[PARTS<GROUPS>];
    bool any = false;
#pragma unroll
    for (int p = 0; p < PARTS<GROUPS>; p++) {
        low[p] = 0x7f807f80u;
        high[p] = 0xff80ff80u;
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (is_live(i, threadIdx.x % 32, cols)) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                low[i % PARTS<GROUPS>] = smaller_pair(low[i % PARTS<GROUPS>], words[4 * i + k]);
                high[i % PARTS<GROUPS>] = larger_pair(high[i % PARTS<GROUPS>], words[4 * i + k]);
            }
        }
    keys_of_parts<GROUPS>(least, low, 0);
    keys_of_parts<GROUPS>(most, high, ~0u);
#pragma unroll
    for (int p = 0; p < PARTS<GROUPS>; p++)
        any |= is_nan_in(low[p]);
    return !any;
}

/* The key at that rank of all lanes' least: the smallest is taken away that often, of equal ones the first lane's. */
static __device__ uint32_t threshold_of_lanes(uint32_t least, uint32_t rank) {
    uint32_t mine = least << 5 | threadIdx.x % 32, smallest = __reduce_min_sync(~0u, mine);
    for (uint32_t i = 0; i < rank; i++) {
        mine = mine == smallest ? ~0u : mine;
        smallest = __reduce_min_sync(~0u, mine);
    }
    return smallest >> 5;
}

/* Of all groups' least: bit by bit. */
template <int GROUPS> static __device__ uint32_t threshold_of_groups(const uint32_t *least, uint32_t rank) {
    uint32_t key = 0;
    for (uint32_t bit = 0x8000u; bit; bit >>= 1) {
        uint32_t below = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            below += __popc(__ballot_sync(~0u, least[g] < (key | bit)));
        if (below <= rank)
            key |= bit;
    }
    return key;
}

template <int GROUPS> static __device__ uint32_t threshold_of(const uint32_t *least, uint32_t rank) {
    return GROUPS == 1 ? threshold_of_lanes(least[0], rank) : threshold_of_groups<GROUPS>(least, rank);
}

/* Which of a vector's eight numbers are not between, a bit each. */
static __device__ uint32_t outside(const uint32_t *words, uint32_t least, uint32_t most) {
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < 4; k++)
        bits |= not_between(words[k], least, most) & (0x00020001u << 2 * k);
    return (bits | bits >> 16) & 0xffu;
}

/* Lists those who are not between, and zeros of either sign with those at 0, key above and column below, columns
 * ascending; their number, of which `room` at most are listed. */
template <int VECTORS>
static __device__ int list_outside(uint32_t *list, uint16_t *numbers, int room, const uint16_t *from,
                                   const uint32_t *words, int64_t cols, uint32_t least, uint32_t most) {
    const int lane = threadIdx.x % 32;
    int found = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i += 3) { /* three sums over lanes in a word: each is 256 at most */
        uint32_t bits[3] = {0, 0, 0}, mine = 0;
#pragma unroll
        for (int j = 0; j < 3 && i + j < VECTORS; j++) {
            bits[j] = is_live(i + j, lane, cols) ? outside(words + 4 * (i + j), least, most) : 0;
            mine |= (uint32_t)__popc(bits[j]) << 10 * j;
        }
        uint32_t upto = mine;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const uint32_t other = __shfl_up_sync(~0u, upto, step);
            upto += lane >= step ? other : 0;
        }
        const uint32_t all = __shfl_sync(~0u, upto, 31);
        upto -= mine;
#pragma unroll
        for (int j = 0; j < 3 && i + j < VECTORS; j++) {
            int at = found + (int)(upto >> 10 * j & 1023u);
            for (uint32_t left = bits[j]; left && at < room; left &= left - 1) { /* seldom one; they lie in the cache */
                const int c = 256 * (i + j) + 8 * lane + __ffs((int)left) - 1;
                numbers[at] = from[c];
                list[at++] = (uint32_t)key_of(from[c]) << 16 | (uint32_t)c;
            }
            found += (int)(all >> 10 * j & 1023u);
        }
    }
    return found;
}

/* Keys at two ranks of `count` numbers, behind which lie seven NaN: the largest that no more than so many are smaller
 * than. Zeros of either sign count as one. */
static __device__ void keys_at(const uint16_t *numbers, int count, uint32_t low, uint32_t high, uint32_t *lo,
                               uint32_t *hi) {
    const int lane = threadIdx.x % 32;
    uint32_t at_low = 0, at_high = 0;
    for (int first = 0; first < count; first += 32) {
        const bool live = first + lane < count;
        const uint32_t mine = live ? numbers[first + lane] : 0x7fffu;
        uint32_t smaller = 0;
        for (int i = 0; i < count; i += 8) {
            const uint4 v = *(const uint4 *)(numbers + i);
            smaller = count_smaller(smaller, v.x, twice(mine));
            smaller = count_smaller(smaller, v.y, twice(mine));
            smaller = count_smaller(smaller, v.z, twice(mine));
            smaller = count_smaller(smaller, v.w, twice(mine));
        }
        const uint32_t rank = counted(smaller), key = live ? key_of((uint16_t)mine) : 0;
        at_low = rank <= low ? max(at_low, key) : at_low;
        at_high = rank <= high ? max(at_high, key) : at_high;
    }
    *lo = __reduce_max_sync(~0u, at_low);
    *hi = __reduce_max_sync(~0u, at_high);
}

static __device__ bool is_zero_key(uint32_t key) {
    return key == 0x7fffu || key == 0x8000u;
}

/* What lies beyond the bounds, less the bound. */
static __device__ void store_rest(const ni_sparse &rest, int64_t r, const uint32_t *list, int count, uint32_t lo,
                                  uint32_t hi) {
    const int lane = threadIdx.x % 32;
    int found = 0;
    for (int first = 0; first < count; first += 32) {
        const uint32_t mine = first + lane < count ? list[first + lane] : lo << 16, key = mine >> 16;
        const bool cut = key < lo || key > hi;
        const uint32_t all = __ballot_sync(~0u, cut);
        if (cut) {
            const float v = ni_bf16_value(bits_of((uint16_t)key)),
                        bound = ni_bf16_value(bits_of((uint16_t)(key < lo ? lo : hi)));
            const int64_t at = r * rest.room + found + __popc(all & ((1u << lane) - 1));
            rest.column[at] = (int32_t)(mine & 0xffffu);
            rest.value[at] = ni_bf16_even(ni_f32_sub(v, bound));
        }
        found += __popc(all);
    }
    if (lane == 0)
        rest.count[r] = found;
}

#endif
