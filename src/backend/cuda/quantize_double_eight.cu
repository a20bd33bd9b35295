/* quantize_double_eight.cu: double blocks down columns (double_columns.cuh) and MXFP8 down the same columns of BF16 numbers,
 * from one reading: the same gradient for products in four and in eight bits. Values alone, so that a product is all that
 * reads them. Bits are those of quantize.cu.
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/double_columns.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/quantize_double_eight.h"
#include "format/e8m0_pair.h"

/* Largest magnitudes of sixteen rows, those of both columns in a word. */
typedef uint32_t eight_maxima[COLUMN_WARPS][COLUMN_PAIRS];

/* What blocks of two columns are encoded and decoded with: pairs of powers of two, which BF16 holds. */
typedef struct eight_scales {
    uint32_t encode, decode;
} eight_scales;

static __device__ eight_scales eight_scales_of(nb_scale_rule rule, uint32_t amax) {
    if (__vminu2(amax, NI_E8M0_PAIR_LEAST) == NI_E8M0_PAIR_LEAST &&
        __vmaxu2(amax, NI_E8M0_PAIR_MOST) == NI_E8M0_PAIR_MOST) {
        const uint32_t value = ni_e8m0_pair_value(rule, amax);
        return {ni_e8m0_pair_inverse(value), value};
    }
    const uint8_t a = ni_e8m0_of(rule, ni_low_of(amax), 448.0f), b = ni_e8m0_of(rule, ni_high_of(amax), 448.0f);
    return {ni_exact_pair(ni_e8m0_inverse(a), ni_e8m0_inverse(b)), ni_exact_pair(ni_e8m0_value(a), ni_e8m0_value(b))};
}

static __device__ uint32_t amax_of_pairs(const column_words<0> &in) {
    uint32_t amax = 0;
#pragma unroll
    for (int i = 0; i < 16; i++)
        amax = __vmaxu2(amax, in.pairs[i] & ~NI_PAIR_SIGNS);
    return amax;
}

/* Sixteen rows of two columns; a block has 32, so its other half lies in the warp beside. */
static __device__ void store_eights(const column_words<0> &in, const ni_cuda_tile_copy &copy,
                                    const eight_maxima &maxima, int64_t r, int64_t c) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t amax = __vmaxu2(maxima[warp][lane], maxima[warp ^ 1][lane]), stride = 2 * (uint32_t)copy.stride;
    const eight_scales scales = eight_scales_of(copy.quantizer.rule, amax);
    uint64_t to = ni_global(copy.values + r * copy.stride + c);
#pragma unroll
    for (int i = 0; i < 16; i++, to += stride) {
        const uint32_t encoded = ni_pair_times(in.pairs[i], scales.encode);
        float pair[2] = {ni_low_of(encoded), ni_high_of(encoded)};
        ni_through_e4m3(pair);
        ni_store_word(to, ni_pair_times(ni_exact_pair(pair[0], pair[1]), scales.decode));
    }
}

template <int ROUND, bool TURN>
static __global__ void __launch_bounds__(32 * COLUMN_WARPS, 4)
    double_and_eight_columns(const __grid_constant__ ni_cuda_double_source s,
                             const __grid_constant__ ni_cuda_tile_copy copy,
                             const __grid_constant__ ni_cuda_tile_copy eight) {
    __shared__ column_room room;
    __shared__ eight_maxima maxima;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t r0 = ni_band() * 128, c0 = (int64_t)blockIdx.x * 2 * COLUMN_PAIRS;
    if (r0 >= s.rows)
        return;
    ni_wait_for_it();
    ni_let_follow();
    const column_words<0> in = words_of_columns<0>(s, r0, c0);
    maxima[warp][lane] = amax_of_pairs(in);
    if (ROUND || TURN)
        share_words<TURN>(&room.words, copy, ni_tile_noise(copy.noise));
    __syncthreads();
    if (c0 + 2 * lane < s.cols)
        store_eights(in, eight, maxima, r0 + 16 * warp, c0 + 2 * lane);
    if (!double_column<0, ROUND, TURN, false, true>(in, s, copy, room, (const coded_tile *)NULL, r0, c0))
        wild_column<0, ROUND, TURN, false>(s, copy, room, (const coded_tile *)NULL, r0, c0);
}

template <int ROUND>
static int launch_both(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy,
                       const ni_cuda_tile_copy *eight) {
    return ni_launch_following(on,
                               copy->quantizer.hadamard_size ? double_and_eight_columns<ROUND, true>
                                                             : double_and_eight_columns<ROUND, false>,
                               column_grid(s), 32 * COLUMN_WARPS, 0, *s, *copy, *eight);
}

int ni_cuda_quantize_double_and_eight(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy,
                                      const ni_cuda_tile_copy *eight) {
    cudaStream_t on = (cudaStream_t)stream;
    if (s->rows * (s->cols / 16) > INT32_MAX || !s->numbers || s->wide || copy->codes || eight->codes)
        return cudaErrorInvalidValue;
    switch (copy->quantizer.round == NB_ROUND_STOCHASTIC ? copy->quantizer.sr_bits : 0) {
    case 0:
        return launch_both<0>(on, s, copy, eight);
    case 8:
        return launch_both<8>(on, s, copy, eight);
    default:
        return launch_both<16>(on, s, copy, eight);
    }
}
