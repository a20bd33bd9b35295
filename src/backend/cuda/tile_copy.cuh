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

/* Blocks of a multiprocessor: 64 registers a thread. */
enum { NI_TILE_BLOCKS = 8 };

/* The first row of this thread's tile, of which a block has BANDS one below the other (threadIdx.y), the last band first: what
 * was written last lies in the cache still, and products begin where this ends. Negative: none. */
template <int BANDS = 1> static __device__ inline int64_t ni_tile_row(int64_t rows) {
    const int64_t group = ni_band();
    return (rows / NI_TILE_ROWS - 1 - (BANDS == 1 ? group : group * BANDS + threadIdx.y)) * NI_TILE_ROWS;
}

/* What all blocks of one copy share. */
typedef struct ni_copying {
    const ni_cuda_tile_copy &copy;
    const ni_scale_entry *table;
    float s_inner;
    ni_philox_shared drawn; /* of the copy's stream */
    bool tame; /* the copy, if not this tile: `s_inner` bears its rotation's factor, and the table others */
} ni_copying;

/* What tame copies' factors are multiplied by: under eight random bits tile.cuh wants numbers far smaller. */
static __host__ __device__ constexpr float ni_table_factor(int round) {
    return round == 8 ? NI_DRAWN_FACTOR : 1.0f;
}

static __host__ __device__ constexpr float ni_turn_factor(bool turned) {
    return turned ? 0.25f : 1.0f;
}

/* The same entry for a tile that is not tame. */
template <int ROUND>
static __device__ inline ni_scale_entry ni_whole_entry(const ni_copying &to, uint32_t byte, bool turned) {
    ni_scale_entry entry = to.table[byte];
    if (to.tame)
        entry.encode = ni_f32_mul(entry.encode, 1.0f / (ni_table_factor(ROUND) * ni_turn_factor(turned)));
    return entry;
}

/* ---- what is read first stays near ----
 *
 * Of X (to nearest) a product of this pass reads rows next, and columns are the backward pass's; of dY wgrad reads columns
 * next, and rows come when all layers of the group are through. */

template <int ROUND> static __device__ inline void ni_leave_row(uint64_t to, uint4 words) {
    if (ROUND)
        ni_stream_words(to, words);
    else
        ni_store_words(to, words);
}

template <int ROUND> static __device__ inline void ni_leave_pair(uint64_t to, uint32_t word) {
    if (ROUND)
        ni_store_word(to, word);
    else
        ni_stream_word(to, word);
}

/* ---- rows ---- */

/* The words that this half of a group of 16 needs. Lanes come in pairs, one for each half, and two rows are done at a
 * time: each lane draws for one of them. */
template <int ROUND>
static __device__ inline void ni_draw_rows(const ni_copying &to, uint32_t even_group, uint32_t odd_group, int half,
                                           uint32_t even[4], uint32_t odd[4]) {
    if (ROUND == 0)
        return;
    if (ROUND == 16) {
        const uint32_t purpose = half ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING;
        const ni_philox_words a = ni_philox_next(&to.copy.keys, &to.drawn, even_group, purpose),
                              b = ni_philox_next(&to.copy.keys, &to.drawn, odd_group, purpose);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            even[i] = a.w[i];
            odd[i] = b.w[i];
        }
        return;
    }
    const ni_philox_words mine =
        ni_philox_next(&to.copy.keys, &to.drawn, half ? odd_group : even_group, NI_PURPOSE_ROUNDING);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t other = __shfl_xor_sync(~0u, half ? mine.w[i] : mine.w[i + 2], 1);
        even[i] = half ? other : mine.w[i];
        odd[i] = half ? mine.w[i + 2] : other;
    }
}

/* In each half of the word, the largest magnitude of the numbers there; a tame tensor's have signs still. */
template <bool TAME> static __device__ inline uint32_t ni_largest_of_eight(const uint4 &in) {
    if (TAME)
        return ni_larger_magnitudes(ni_larger_magnitudes(in.x, in.y), ni_larger_magnitudes(in.z, in.w));
    return ni_larger_pair(ni_larger_pair(ni_larger_pair(ni_larger_pair(0, in.x), in.y), in.z), in.w);
}

/* The scale bytes of two blocks of which this lane and its neighbour have eight numbers each. */
template <bool TAME>
static __device__ inline uint32_t ni_bytes_of_rows(const ni_copying &to, const uint4 &even, const uint4 &odd) {
    const uint32_t a = ni_largest_of_eight<TAME>(even), b = ni_largest_of_eight<TAME>(odd);
    const uint32_t low = __byte_perm(a, b, 0x5410), high = __byte_perm(a, b, 0x7632);
    uint32_t largest = TAME ? ni_larger_magnitudes(low, high) & NI_PAIR_MAGNITUDE : __vmaxu2(low, high);
    largest = __vmaxu2(largest, __shfl_xor_sync(~0u, largest, 1));
    return ni_scale_bytes(ni_low_of(largest), ni_high_of(largest), to.s_inner);
}

/* Eight neighbours (half a block) at row r, column c, to `values`. */
template <int ROUND, bool TAME>
static __device__ inline void ni_encode_row_eight(const ni_copying &to, const uint4 &in, uint64_t values, int64_t r,
                                                  int64_t c, uint8_t byte, bool live, const uint32_t *words) {
    const uint32_t x[4] = {in.x, in.y, in.z, in.w};
    uint32_t q[4], signs[4];
    const ni_scale_entry entry = TAME ? to.table[byte] : ni_whole_entry<ROUND>(to, byte, false);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (ROUND == 8 && TAME) {
            signs[i] = x[i];
            q[i] = ni_pair_drawn(ni_f32_mul(fabsf(ni_low_of(x[i])), entry.encode),
                                 ni_f32_mul(fabsf(ni_high_of(x[i])), entry.encode),
                                 ni_drawn_neighbours(words[i / 2], i % 2), x[i]);
            continue;
        }
        const float low = ni_f32_mul(ni_low_of(x[i]), entry.encode), high = ni_f32_mul(ni_high_of(x[i]), entry.encode);
        signs[i] = TAME ? x[i] : ni_exact_pair(low, high); /* a NaN has the sign of the product */
        q[i] = ni_pair_up_to_six(
            ni_exact_pair(ni_on_grid<ROUND, TAME>(low, words, 2 * i), ni_on_grid<ROUND, TAME>(high, words, 2 * i + 1)));
    }
    if (!live)
        return;
    const ni_cuda_tile_copy &copy = to.copy;
    ni_leave_row<ROUND>(values, make_uint4(ni_pair_times(q[0], entry.value), ni_pair_times(q[1], entry.value),
                                           ni_pair_times(q[2], entry.value), ni_pair_times(q[3], entry.value)));
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
    const uint32_t blocks = (uint32_t)(cols / 16), group = (uint32_t)r0 * blocks + (uint32_t)(c / 16),
                   stride = 2 * (uint32_t)to.copy.stride;
    const uint64_t values = ni_row_at(ni_global(to.copy.values + to.copy.at + c), (uint32_t)r0, stride);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t even[4], odd[4];
        ni_draw_rows<ROUND>(to, group + 4 * i * blocks, group + (4 * i + 4) * blocks, threadIdx.x & 1, even, odd);
        const uint32_t bytes = ni_bytes_of_rows<TAME>(to, in[i], in[i + 1]);
        ni_encode_row_eight<ROUND, TAME>(to, in[i], ni_row_at(values, 4 * i, stride), r0 + 4 * i, c, (uint8_t)bytes,
                                         live, even);
        ni_encode_row_eight<ROUND, TAME>(to, in[i + 1], ni_row_at(values, 4 * i + 4, stride), r0 + 4 * i + 4, c,
                                         (uint8_t)(bytes >> 8), live, odd);
    }
}

/* ---- columns ---- */

/* Two columns of 16 numbers: BF16 in pairs, or, where they are turned as the quantizer says, FP32. A tame tensor's are
 * four times too large once they are turned. */
template <int TURN> struct ni_two_columns {
    uint32_t pairs[16];

    __device__ float low(int i) const {
        return ni_low_of(pairs[i]);
    }

    __device__ float high(int i) const {
        return ni_high_of(pairs[i]);
    }

    __device__ uint32_t signs(int i) const {
        return pairs[i];
    }
};

template <> struct ni_two_columns<NI_AS_IT_SAYS> {
    float a[16], b[16];

    __device__ float low(int i) const {
        return a[i];
    }

    __device__ float high(int i) const {
        return b[i];
    }

    __device__ uint32_t signs(int i) const {
        return ni_exact_pair(a[i], b[i]);
    }
};

/* Turns columns of whose numbers bits of `signs` negate some; FP32 after this. */
template <bool TAME> static __device__ inline void ni_turn_two(float *a, float *b) {
    ni_rotate_sixteen(a);
    ni_rotate_sixteen(b);
    if (!TAME)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            a[i] = ni_f32_mul(a[i], 0.25f);
            b[i] = ni_f32_mul(b[i], 0.25f);
        }
}

template <bool TAME, int TURN>
static __device__ inline void ni_load_columns(ni_two_columns<TURN> &x, const ni_copying &, const uint32_t *tile,
                                              int pitch, uint32_t) {
    float a[16], b[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const bool minus = NI_FIXED_SIGNS >> i & 1u;
        x.pairs[i] = tile[i * pitch];
        a[i] = minus ? -ni_low_of(x.pairs[i]) : ni_low_of(x.pairs[i]);
        b[i] = minus ? -ni_high_of(x.pairs[i]) : ni_high_of(x.pairs[i]);
    }
    if (TURN == NI_FIXED_AND_ROUNDED) {
        ni_turn_two<TAME>(a, b);
#pragma unroll
        for (int i = 0; i < 16; i++)
            x.pairs[i] = ni_pack_two(a[i], b[i]);
    }
}

template <bool TAME>
static __device__ inline void ni_load_columns(ni_two_columns<NI_AS_IT_SAYS> &x, const ni_copying &to,
                                              const uint32_t *tile, int pitch, uint32_t signs) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t pair = tile[i * pitch] ^ (signs >> i & 1u) * NI_PAIR_SIGNS;
        x.a[i] = ni_low_of(pair);
        x.b[i] = ni_high_of(pair);
    }
    ni_turn_two<TAME>(x.a, x.b);
    if (to.copy.quantizer.hadamard_round_bf16)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            x.a[i] = ni_bf16_round(x.a[i]);
            x.b[i] = ni_bf16_round(x.b[i]);
        }
}

template <bool TAME, int TURN>
static __device__ inline void ni_find_amaxes(const ni_two_columns<TURN> &x, uint32_t *amax_a, uint32_t *amax_b) {
    uint32_t largest = TAME ? x.pairs[0] : 0;
#pragma unroll
    for (int i = 0; i < 16; i++)
        largest = TAME ? ni_larger_magnitudes(largest, x.pairs[i]) : ni_larger_pair(largest, x.pairs[i]);
    largest &= NI_PAIR_MAGNITUDE;
    *amax_a = largest << 16;
    *amax_b = largest & 0xffff0000u;
}

template <bool TAME>
static __device__ inline void ni_find_amaxes(const ni_two_columns<NI_AS_IT_SAYS> &x, uint32_t *amax_a,
                                             uint32_t *amax_b) {
    *amax_a = *amax_b = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        *amax_a = max(*amax_a, ni_f32_magnitude(x.a[i]));
        *amax_b = max(*amax_b, ni_f32_magnitude(x.b[i]));
    }
}

template <int ROUND>
static __device__ inline void ni_draw_column(const ni_copying &to, uint32_t group, uint32_t *words) {
    if (ROUND == 0)
        return;
    const ni_philox_words first = ni_philox_next(&to.copy.keys, &to.drawn, group, NI_PURPOSE_ROUNDING);
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = first.w[i];
    if (ROUND == 8)
        return;
    const ni_philox_words second = ni_philox_next(&to.copy.keys, &to.drawn, group, NI_PURPOSE_ROUNDING_HI);
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

/* Columns c and c + 1 of the tile whose first row is r0, `pitch` words a row; returns the largest magnitude of both. */
template <int ROUND, int TURN, bool TAME>
static __device__ inline uint32_t ni_encode_columns(const ni_copying &to, const uint32_t *tile, int64_t rows,
                                                    int64_t r0, int64_t c, uint32_t signs, int pitch = NI_TILE_PITCH) {
    const ni_cuda_tile_copy &copy = to.copy;
    ni_two_columns<TURN> x;
    uint32_t amax_a, amax_b, for_a[8], for_b[8], q[16], sign[16];
    ni_load_columns<TAME>(x, to, tile, pitch, signs);
    ni_find_amaxes<TAME>(x, &amax_a, &amax_b);
    constexpr bool turned = TURN != NI_NOT_TURNED;
    const float s_inner = !TAME && to.tame ? ni_f32_mul(to.s_inner, 1.0f / ni_turn_factor(turned)) : to.s_inner;
    const uint32_t bytes = ni_scale_bytes(ni_f32_from(amax_a), ni_f32_from(amax_b), s_inner);
    const ni_scale_entry entry_a = TAME ? to.table[bytes & 0xffu] : ni_whole_entry<ROUND>(to, bytes & 0xffu, turned),
                         entry_b = TAME ? to.table[bytes >> 8] : ni_whole_entry<ROUND>(to, bytes >> 8, turned);
    const uint32_t blocks = (uint32_t)(rows / 16), group = (uint32_t)c * blocks + (uint32_t)(r0 / 16);
    ni_draw_column<ROUND>(to, group, for_a);
    ni_draw_column<ROUND>(to, group + blocks, for_b);
    const uint32_t scales = __byte_perm(entry_a.value, entry_b.value, 0x5410), stride = 2 * (uint32_t)copy.stride;
    const uint64_t values = ni_row_at(ni_global(copy.values + c), (uint32_t)r0, stride);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        if (ROUND == 8 && TAME) {
            sign[i] = x.signs(i);
            q[i] =
                ni_pair_drawn(ni_f32_mul(fabsf(x.low(i)), entry_a.encode), ni_f32_mul(fabsf(x.high(i)), entry_b.encode),
                              ni_drawn_for_two(for_a[i / 4], for_b[i / 4], i % 4), sign[i]);
            ni_leave_pair<ROUND>(ni_row_at(values, (uint32_t)i, stride), ni_pair_times(q[i], scales));
            continue;
        }
        const int lane = ROUND == 16 ? i % 8 : i,
                  from = ROUND == 16 && i >= 8 ? 4 : 0; /* eight lanes in four words, or sixteen */
        const float y = ni_f32_mul(x.low(i), entry_a.encode), z = ni_f32_mul(x.high(i), entry_b.encode);
        sign[i] = TAME ? x.signs(i) : ni_exact_pair(y, z);
        q[i] = ni_pair_up_to_six(ni_exact_pair(ni_on_grid<ROUND, TAME>(y, for_a + from, lane),
                                               ni_on_grid<ROUND, TAME>(z, for_b + from, lane)));
        ni_leave_pair<ROUND>(ni_row_at(values, (uint32_t)i, stride), ni_pair_times(q[i], scales));
    }
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
