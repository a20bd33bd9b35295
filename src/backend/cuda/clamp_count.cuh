/* clamp_count.cuh: two order statistics near the ends of a row that a warp holds in registers, by counting. A guess is a
 * number; how many of the row lie beyond it says where the next guess goes, and a bound is found when no key lies between
 * one that is not too far in and one that is. Both ends go on at once: two numbers a comparison, one sum over lanes a guess.
 *
 *     the first guess    so many mean magnitudes from zero as in normal numbers
 *     the next ones      as their counts grow there, twice as far each time, until the bound lies between two guesses; then
 *                        between these by the logarithms of their counts, and from the seventh on now and then in the middle
 *
 * Normal numbers take four or five guesses, products of two of them (SwiGLU) six to ten. What is found does not depend
 * on how.
 */
#ifndef NI_BACKEND_CUDA_CLAMP_COUNT_CUH
#define NI_BACKEND_CUDA_CLAMP_COUNT_CUH

#include "backend/cuda/clamp.cuh"

/* One end of all rows: so many numbers lie beyond the bound. */
typedef struct clamp_end {
    uint32_t rank;
    float goal;     /* the logarithm of their count */
    float distance; /* of the first guess from zero, in mean magnitudes */
    float keys;     /* by so many keys further in counts of normal numbers double there */
} clamp_end;

/* Half of the lanes mind the lower end of the row, half the upper one. Keys run inwards, those of the upper end are turned
 * over: no more than the rank lie beyond `outer`, more beyond `inner`, and where it was guessed the logarithm of how many;
 * once nothing lies between them `at` is the bound, and stays. */
typedef struct bound_search {
    int outer, inner, at;
    float at_outer, at_inner, keys;
} bound_search;

#define NOT_COUNTED (-2.0f)

static __device__ bound_search search_from(const clamp_end &end, float mean) {
    const int key = key_of(ni_bf16_even(-end.distance * mean));
    return {0x007f, 0xff81, min(max(key, 0x0080), 0xff80), NOT_COUNTED, NOT_COUNTED, end.keys}; /* -Inf, beyond +Inf */
}

/* `count` numbers lie beyond s.at. */
static __device__ void search_on(bound_search &s, uint32_t count, const clamp_end &end, int turn) {
    const float here = __log2f((float)count + 0.5f);
    const bool too_far = count > end.rank;
    s.inner = too_far ? s.at : s.inner;
    s.at_inner = too_far ? here : s.at_inner;
    s.outer = too_far ? s.outer : s.at;
    s.at_outer = too_far ? s.at_outer : here;
    const int between = s.inner - s.outer,
              apart = __float2int_rn((float)between * __fdividef(end.goal - s.at_outer, s.at_inner - s.at_outer)),
              further = s.at + __float2int_rn(s.keys * (end.goal - here)),
              within = s.outer + (turn >= 7 && turn % 2 == 1 ? between / 2 : apart);
    s.keys *= 2.0f;
    s.at = s.at_outer == NOT_COUNTED || s.at_inner == NOT_COUNTED ? further : within;
    s.at = min(max(s.at, s.outer + 1), s.inner - 1);
}

/* Numbers below `low`, and those above `high` times 2^16, of the whole warp. */
template <int WORDS> static __device__ uint32_t count_beyond(const uint32_t *words, uint32_t low, uint32_t high) {
    uint32_t below[2] = {0, 0}, above[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        below[i % 2] = count_smaller(below[i % 2], words[i], low);
        above[i % 2] = count_larger(above[i % 2], words[i], high);
    }
    return __reduce_add_sync(~0u, counted(add_counts(below[0], below[1])) | counted(add_counts(above[0], above[1]))
                                                                                << 16);
}

static __device__ uint32_t add_magnitudes(uint32_t sum, uint32_t pair) {
    uint32_t more;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(more) : "r"(pair & NI_PAIR_MAGNITUDE), "r"(0x3f803f80u), "r"(sum));
    return more;
}

/* Roughly; NaN or Inf where one of them is. */
template <int WORDS> static __device__ float mean_magnitude(const uint32_t *words) {
    uint32_t sums[4] = {0, 0, 0, 0};
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        sums[i % 4] = add_magnitudes(sums[i % 4], words[i]);
#pragma unroll
    for (int k = 0; k < 4; k++)
        sum += ni_low_of(sums[k]) + ni_high_of(sums[k]);
#pragma unroll
    for (int lane = 16; lane; lane /= 2)
        sum += __shfl_xor_sync(~0u, sum, lane);
    return sum * (1.0f / (64 * WORDS));
}

/* Both bounds as the bits of BF16 numbers; false: Inf, NaN or zeros alone. */
template <int WORDS>
static __device__ bool bounds_by_counting(const uint32_t *words, const clamp_end &low, const clamp_end &high,
                                          uint32_t *lo, uint32_t *hi) {
    const bool upper = threadIdx.x & 16;
    const clamp_end mine = upper ? high : low;
    const float mean = mean_magnitude<WORDS>(words);
    if (!(mean > 0.0f && mean < INFINITY))
        return false;
    bound_search s = search_from(mine, mean);
    *lo = bits_of((uint16_t)__shfl_sync(~0u, s.at, 0));
    *hi = bits_of((uint16_t)__shfl_sync(~0u, s.at, 16)) ^ 0x8000u;
#pragma unroll 1
    for (int turn = 1; __any_sync(~0u, s.inner - s.outer != 1); turn++) {
        const uint32_t counts = count_beyond<WORDS>(words, twice(*lo), twice(*hi));
        search_on(s, upper ? counts >> 16 : counts & 0xffffu, mine, turn);
        *lo = bits_of((uint16_t)__shfl_sync(~0u, s.at, 0));
        *hi = bits_of((uint16_t)__shfl_sync(~0u, s.at, 16)) ^ 0x8000u;
    }
    return true;
}

#endif
