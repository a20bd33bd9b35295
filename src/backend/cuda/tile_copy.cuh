/* tile_copy.cuh: a tile of 16 x 256 BF16 numbers, in the registers of 128 threads and in shared memory, as a row copy and a
 * column copy: what kernels share that make NVFP4 operands of a matrix (quantize_tile.cu) or of what they compute
 * themselves (produce_swiglu.cu).
 */
#ifndef NI_BACKEND_CUDA_TILE_COPY_CUH
#define NI_BACKEND_CUDA_TILE_COPY_CUH

#include "backend/cuda/tile.cuh"

/* How the column copy is turned: not at all; by TransformerEngine's signs and rounded to BF16; as the quantizer says. */
enum { NI_NOT_TURNED, NI_FIXED_AND_ROUNDED, NI_AS_IT_SAYS };

enum {
    NI_TILE_COLS = 256,
    NI_TILE_ROWS = 16,
    NI_TILE_VECTORS = NI_TILE_COLS / 8,
    NI_TILE_PITCH = NI_TILE_COLS / 2 + 4
};

/* What all blocks of one copy share. */
typedef struct ni_copying {
    ni_cuda_tile_copy copy;
    const ni_scale_entry *table;
    float s_inner;
    ni_noise_key key;
    /* What a tile that is not tame multiplies both scales by: 4 where the table bears the rotation's factor, else 1. */
    float unfold;
} ni_copying;

/* ---- rows ---- */

/* The words that this half of a group of 16 needs. Lanes come in pairs, one for each half, and two rows are done at a
 * time: each lane draws for one of them. */
template <int ROUND>
static __device__ inline void ni_draw_rows(const ni_noise_key &key, uint32_t even_group, uint32_t odd_group, int half,
                                           uint32_t even[4], uint32_t odd[4]) {
    if (ROUND == 0)
        return;
    if (ROUND == 16) {
        const uint32_t purpose = half ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING;
        const ni_philox_words a = ni_philox(key.seed, key.tensor, even_group, key.step, key.micro_batch, purpose);
        const ni_philox_words b = ni_philox(key.seed, key.tensor, odd_group, key.step, key.micro_batch, purpose);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            even[i] = a.w[i];
            odd[i] = b.w[i];
        }
        return;
    }
    const ni_philox_words mine =
        ni_philox(key.seed, key.tensor, half ? odd_group : even_group, key.step, key.micro_batch, NI_PURPOSE_ROUNDING);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t other = __shfl_xor_sync(~0u, half ? mine.w[i] : mine.w[i + 2], 1);
        even[i] = half ? other : mine.w[i];
        odd[i] = half ? mine.w[i + 2] : other;
    }
}

/* Eight neighbours (half a block) at row r, column c. */
template <int ROUND, bool TAME>
static __device__ inline void ni_encode_row_eight(const ni_copying &to, const uint4 &in, int64_t r, int64_t c,
                                                  bool live, const uint32_t *words) {
    const uint32_t x[4] = {in.x, in.y, in.z, in.w};
    uint32_t q[4], signs[4], largest = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        largest = ni_larger_pair(largest, x[i]);
    largest = __vmaxu2(largest, __shfl_xor_sync(~0u, largest, 1));
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(ni_larger_half(largest)), 0.0f, to.s_inner);
    const ni_scale_entry entry = to.table[byte];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float low = ni_f32_mul(ni_low_of(x[i]), entry.encode), high = ni_f32_mul(ni_high_of(x[i]), entry.encode);
        signs[i] = TAME ? x[i] : ni_exact_pair(low, high); /* a NaN has the sign of the product */
        q[i] = ni_pair_up_to_six(
            ni_exact_pair(ni_on_grid<ROUND, TAME>(low, words, 2 * i), ni_on_grid<ROUND, TAME>(high, words, 2 * i + 1)));
    }
    if (!live)
        return;
    const ni_cuda_tile_copy &copy = to.copy;
    *(uint4 *)(copy.values + r * copy.stride + copy.at + c) =
        make_uint4(ni_pair_times(q[0], entry.value), ni_pair_times(q[1], entry.value), ni_pair_times(q[2], entry.value),
                   ni_pair_times(q[3], entry.value));
    if (!copy.codes)
        return;
    uint32_t codes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t pair = ni_pair_codes(q[i], signs[i]);
        codes |= (pair & 15u) << (8 * i) | (pair >> 16) << (8 * i + 4);
    }
    *(uint32_t *)(copy.codes + (r * copy.stride + copy.at + c) / 2) = byte ? codes : 0;
    if (c % 16 == 0)
        copy.scales[(r * copy.stride + copy.at + c) / 16] = byte;
}

template <int ROUND, bool TAME>
static __device__ inline void ni_encode_rows(const ni_copying &to, const uint4 *in, int64_t r0, int64_t c, int64_t cols,
                                             bool live) {
    const uint32_t blocks = (uint32_t)(cols / 16), group = (uint32_t)r0 * blocks + (uint32_t)(c / 16);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t even[4], odd[4];
        ni_draw_rows<ROUND>(to.key, group + 4 * i * blocks, group + (4 * i + 4) * blocks, threadIdx.x & 1, even, odd);
        ni_encode_row_eight<ROUND, TAME>(to, in[i], r0 + 4 * i, c, live, even);
        ni_encode_row_eight<ROUND, TAME>(to, in[i + 1], r0 + 4 * i + 4, c, live, odd);
    }
}

/* ---- columns ---- */

/* Sixteen rows of two columns: turned, the maxima of both. A tame tensor's stay four times too large. */
template <int TURN, bool TAME>
static __device__ inline void ni_turn_columns(const ni_copying &to, const uint32_t *tile, uint32_t signs, float *a,
                                              float *b, uint32_t *amax_a, uint32_t *amax_b) {
    const bool rounded = TURN == NI_FIXED_AND_ROUNDED || to.copy.quantizer.hadamard_round_bf16;
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        uint32_t pair = tile[i * NI_TILE_PITCH];
        if (TURN == NI_FIXED_AND_ROUNDED && NI_FIXED_SIGNS >> i & 1u)
            pair ^= NI_PAIR_SIGNS;
        if (TURN == NI_AS_IT_SAYS)
            pair ^= (signs >> i & 1u) * NI_PAIR_SIGNS;
        if (TURN == NI_NOT_TURNED)
            largest = ni_larger_pair(largest, pair);
        a[i] = ni_low_of(pair);
        b[i] = ni_high_of(pair);
    }
    if (TURN != NI_NOT_TURNED) {
        ni_rotate_sixteen(a);
        ni_rotate_sixteen(b);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if (!TAME) {
                a[i] = ni_f32_mul(a[i], 0.25f);
                b[i] = ni_f32_mul(b[i], 0.25f);
            }
            if (rounded) {
                const uint32_t pair = ni_pack_two(a[i], b[i]);
                largest = ni_larger_pair(largest, pair);
                a[i] = ni_low_of(pair);
                b[i] = ni_high_of(pair);
            }
        }
    }
    if (TURN == NI_NOT_TURNED || rounded) {
        *amax_a = largest << 16;
        *amax_b = largest & 0xffff0000u;
        return;
    }
    uint32_t here_a = 0, here_b = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        here_a = max(here_a, ni_f32_magnitude(a[i]));
        here_b = max(here_b, ni_f32_magnitude(b[i]));
    }
    *amax_a = here_a;
    *amax_b = here_b;
}

template <int ROUND>
static __device__ inline void ni_draw_column(const ni_noise_key &key, uint32_t group, uint32_t *words) {
    if (ROUND == 0)
        return;
    const ni_philox_words first =
        ni_philox(key.seed, key.tensor, group, key.step, key.micro_batch, NI_PURPOSE_ROUNDING);
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = first.w[i];
    if (ROUND == 8)
        return;
    const ni_philox_words second =
        ni_philox(key.seed, key.tensor, group, key.step, key.micro_batch, NI_PURPOSE_ROUNDING_HI);
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[4 + i] = second.w[i];
}

/* Codes of one column out of pairs: `shift` 0 or 16. */
static __device__ inline void ni_store_column_codes(const ni_cuda_tile_copy &copy, const uint32_t *pairs, int shift,
                                                    uint8_t byte, int64_t column, int64_t block) {
    uint2 codes = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        codes.x |= (pairs[i] >> shift & 15u) << (4 * i);
        codes.y |= (pairs[i + 8] >> shift & 15u) << (4 * i);
    }
    *(uint2 *)(copy.codes + column * (copy.contraction / 2) + block * 8) = byte ? codes : make_uint2(0, 0);
    copy.scales[column * (copy.contraction / 16) + block] = byte;
}

/* Columns c and c + 1 of the tile whose first row is r0; returns the largest magnitude of both. */
template <int ROUND, int TURN, bool TAME>
static __device__ inline uint32_t ni_encode_columns(const ni_copying &to, const uint32_t *tile, int64_t rows,
                                                    int64_t r0, int64_t c, uint32_t signs) {
    const ni_cuda_tile_copy &copy = to.copy;
    float a[16], b[16];
    uint32_t amax_a, amax_b, for_a[8], for_b[8], q[16], sign[16];
    ni_turn_columns<TURN, TAME>(to, tile, signs, a, b, &amax_a, &amax_b);
    const uint32_t bytes =
        ni_scale_bytes(ni_f32_from(amax_a), ni_f32_from(amax_b), TAME ? to.s_inner : ni_f32_mul(to.s_inner, to.unfold));
    ni_scale_entry entry_a = to.table[bytes & 0xffu], entry_b = to.table[bytes >> 8];
    if (!TAME) {
        entry_a.encode = ni_f32_mul(entry_a.encode, to.unfold);
        entry_b.encode = ni_f32_mul(entry_b.encode, to.unfold);
    }
    const uint32_t group = (uint32_t)c * (uint32_t)(rows / 16) + (uint32_t)(r0 / 16);
    ni_draw_column<ROUND>(to.key, group, for_a);
    ni_draw_column<ROUND>(to.key, group + (uint32_t)(rows / 16), for_b);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int lane = ROUND == 16 ? i % 8 : i; /* of words: eight lanes in four, or sixteen */
        const uint32_t *const words_a = ROUND == 16 && i >= 8 ? for_a + 4 : for_a, *const words_b =
                                                                                       ROUND == 16 && i >= 8 ? for_b + 4
                                                                                                             : for_b;
        const float y = ni_f32_mul(a[i], entry_a.encode), z = ni_f32_mul(b[i], entry_b.encode);
        sign[i] = ni_exact_pair(TAME ? a[i] : y, TAME ? b[i] : z);
        q[i] = ni_pair_up_to_six(
            ni_exact_pair(ni_on_grid<ROUND, TAME>(y, words_a, lane), ni_on_grid<ROUND, TAME>(z, words_b, lane)));
    }
    const uint32_t scales = __byte_perm(entry_a.value, entry_b.value, 0x5410);
    uint16_t *const values = copy.values + r0 * copy.stride + c;
#pragma unroll
    for (int i = 0; i < 16; i++)
        *(uint32_t *)(values + i * copy.stride) = ni_pair_times(q[i], scales);
    const uint32_t largest = max(amax_a, amax_b),
                   own = TAME && TURN != NI_NOT_TURNED ? ni_f32_bits(ni_f32_mul(ni_f32_from(largest), 0.25f)) : largest;
    if (!copy.codes)
        return own;
#pragma unroll
    for (int i = 0; i < 16; i++)
        q[i] = ni_pair_codes(q[i], sign[i]);
    ni_store_column_codes(copy, q, 0, (uint8_t)bytes, c, r0 / 16);
    ni_store_column_codes(copy, q, 16, (uint8_t)(bytes >> 8), c + 1, r0 / 16);
    return own;
}

/* Whether any thread of the block has a number that a tame tile has not. Threads come together. */
static __device__ inline bool ni_is_any_wild(uint32_t largest, uint32_t most_tame) {
    return __syncthreads_or(largest > most_tame || (largest && largest < NI_LEAST_TAME));
}

#endif
