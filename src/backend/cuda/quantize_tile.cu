/* quantize_tile.cu: NVFP4 under a tensor scale, from one reading of a BF16 matrix straight into what a product reads:
 *
 *     the row copy      blocks along the rows of the source
 *     the column copy   blocks down its columns, rotated or not: what a product over the rows reads. Its values lie as
 *                       the source lies ([contraction, rows of the operand]), so nothing is transposed
 *
 * A block of 128 threads takes a tile of 16 x 256: rows are encoded out of the registers that were read, columns out of
 * shared memory, two a thread. Values are code x block scale, exact in BF16. Codes and scale bytes in the canonical
 * layout are written where somebody asks for them. Memory and instructions bind it about alike, so both are counted:
 *
 *     scale        encode factors of all 128 bytes stand in a table, so nobody divides
 *     rotation     the factor of 1/4 is folded into the table where a tensor is tame (tile.cuh)
 *     the rest     two numbers an instruction wherever BF16 holds them exactly
 *
 * Bits are those of quantize.cu.
 */
#include "backend/cuda/alphas.cuh"
#include "backend/cuda/tile.cuh"

/* How the column copy is turned: not at all; by TransformerEngine's signs and rounded to BF16; as the quantizer says. */
enum { NOT_TURNED, FIXED_AND_ROUNDED, AS_IT_SAYS };

enum { TILE_COLS = 256, TILE_ROWS = 16, VECTORS = TILE_COLS / 8, PITCH = TILE_COLS / 2 + 4 };

/* What all blocks of one copy share. */
typedef struct copying {
    const ni_cuda_tile_copy &copy;
    const ni_scale_entry *table;
    float s_inner;
    const ni_philox_keys &keys;
    ni_philox_shared drawn;
    /* What a tile that is not tame multiplies both scales by: 4 where the table bears the rotation's factor, else 1. */
    float unfold;
} copying;

/* ---- rows ---- */

/* The words that this half of a group of 16 needs. Lanes come in pairs, one for each half, and two rows are done at a
 * time: each lane draws for one of them. */
template <int ROUND>
static __device__ void draw_rows(const copying &to, uint32_t even_group, uint32_t odd_group, int half, uint32_t even[4],
                                 uint32_t odd[4]) {
    if (ROUND == 0)
        return;
    if (ROUND == 16) {
        const uint32_t purpose = half ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING;
        const ni_philox_words a = ni_philox_next(&to.keys, &to.drawn, even_group, purpose),
                              b = ni_philox_next(&to.keys, &to.drawn, odd_group, purpose);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            even[i] = a.w[i];
            odd[i] = b.w[i];
        }
        return;
    }
    const ni_philox_words mine =
        ni_philox_next(&to.keys, &to.drawn, half ? odd_group : even_group, NI_PURPOSE_ROUNDING);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t other = __shfl_xor_sync(~0u, half ? mine.w[i] : mine.w[i + 2], 1);
        even[i] = half ? other : mine.w[i];
        odd[i] = half ? mine.w[i + 2] : other;
    }
}

/* In each half of the word, the largest magnitude of the numbers there; a tame tensor's have signs still. */
template <bool TAME> static __device__ uint32_t largest_of_eight(const uint4 &in) {
    if (TAME)
        return ni_larger_magnitudes(ni_larger_magnitudes(in.x, in.y), ni_larger_magnitudes(in.z, in.w));
    return ni_larger_pair(ni_larger_pair(ni_larger_pair(ni_larger_pair(0, in.x), in.y), in.z), in.w);
}

/* The scale bytes of two blocks of which this lane and its neighbour have eight numbers each. */
template <bool TAME> static __device__ uint32_t bytes_of_rows(const copying &to, const uint4 &even, const uint4 &odd) {
    const uint32_t a = largest_of_eight<TAME>(even), b = largest_of_eight<TAME>(odd);
    const uint32_t low = __byte_perm(a, b, 0x5410), high = __byte_perm(a, b, 0x7632);
    uint32_t largest = TAME ? ni_larger_magnitudes(low, high) & NI_PAIR_MAGNITUDE : __vmaxu2(low, high);
    largest = __vmaxu2(largest, __shfl_xor_sync(~0u, largest, 1));
    return ni_scale_bytes(ni_low_of(largest), ni_high_of(largest), to.s_inner);
}

/* Eight neighbours (half a block) at row r, column c, to `values`. */
template <int ROUND, bool TAME>
static __device__ void encode_row_eight(const copying &to, const uint4 &in, uint64_t values, int64_t r, int64_t c,
                                        uint8_t byte, bool live, const uint32_t *words) {
    const uint32_t x[4] = {in.x, in.y, in.z, in.w};
    uint32_t q[4], signs[4];
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
    ni_store_words(values, make_uint4(ni_pair_times(q[0], entry.value), ni_pair_times(q[1], entry.value),
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
static __device__ void encode_rows(const copying &to, const uint4 *in, int64_t r0, int64_t c, int64_t cols, bool live) {
    const uint32_t blocks = (uint32_t)(cols / 16), group = (uint32_t)r0 * blocks + (uint32_t)(c / 16),
                   stride = 2 * (uint32_t)to.copy.stride;
    const uint64_t values = ni_row_at(ni_global(to.copy.values + to.copy.at + c), (uint32_t)r0, stride);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t even[4], odd[4];
        draw_rows<ROUND>(to, group + 4 * i * blocks, group + (4 * i + 4) * blocks, threadIdx.x & 1, even, odd);
        const uint32_t bytes = bytes_of_rows<TAME>(to, in[i], in[i + 1]);
        encode_row_eight<ROUND, TAME>(to, in[i], ni_row_at(values, 4 * i, stride), r0 + 4 * i, c, (uint8_t)bytes, live,
                                      even);
        encode_row_eight<ROUND, TAME>(to, in[i + 1], ni_row_at(values, 4 * i + 4, stride), r0 + 4 * i + 4, c,
                                      (uint8_t)(bytes >> 8), live, odd);
    }
}

/* ---- columns ---- */

/* Two columns of 16 numbers: BF16 in pairs, or, where they are turned as the quantizer says, FP32. A tame tensor's are
 * four times too large once they are turned. */
template <int TURN> struct two_columns {
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

template <> struct two_columns<AS_IT_SAYS> {
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
template <bool TAME> static __device__ void turn_two(float *a, float *b) {
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
static __device__ void load_columns(two_columns<TURN> &x, const copying &, const uint32_t *tile, uint32_t) {
    float a[16], b[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const bool minus = NI_FIXED_SIGNS >> i & 1u;
        x.pairs[i] = tile[i * PITCH];
        a[i] = minus ? -ni_low_of(x.pairs[i]) : ni_low_of(x.pairs[i]);
        b[i] = minus ? -ni_high_of(x.pairs[i]) : ni_high_of(x.pairs[i]);
    }
    if (TURN == FIXED_AND_ROUNDED) {
        turn_two<TAME>(a, b);
#pragma unroll
        for (int i = 0; i < 16; i++)
            x.pairs[i] = ni_pack_two(a[i], b[i]);
    }
}

template <bool TAME>
static __device__ void load_columns(two_columns<AS_IT_SAYS> &x, const copying &to, const uint32_t *tile,
                                    uint32_t signs) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t pair = tile[i * PITCH] ^ (signs >> i & 1u) * NI_PAIR_SIGNS;
        x.a[i] = ni_low_of(pair);
        x.b[i] = ni_high_of(pair);
    }
    turn_two<TAME>(x.a, x.b);
    if (to.copy.quantizer.hadamard_round_bf16)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            x.a[i] = ni_bf16_round(x.a[i]);
            x.b[i] = ni_bf16_round(x.b[i]);
        }
}

template <bool TAME, int TURN>
static __device__ void find_amaxes(const two_columns<TURN> &x, uint32_t *amax_a, uint32_t *amax_b) {
    uint32_t largest = TAME ? x.pairs[0] : 0;
#pragma unroll
    for (int i = 0; i < 16; i++)
        largest = TAME ? ni_larger_magnitudes(largest, x.pairs[i]) : ni_larger_pair(largest, x.pairs[i]);
    largest &= NI_PAIR_MAGNITUDE;
    *amax_a = largest << 16;
    *amax_b = largest & 0xffff0000u;
}

template <bool TAME>
static __device__ void find_amaxes(const two_columns<AS_IT_SAYS> &x, uint32_t *amax_a, uint32_t *amax_b) {
    *amax_a = *amax_b = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        *amax_a = max(*amax_a, ni_f32_magnitude(x.a[i]));
        *amax_b = max(*amax_b, ni_f32_magnitude(x.b[i]));
    }
}

template <int ROUND> static __device__ void draw_column(const copying &to, uint32_t group, uint32_t *words) {
    if (ROUND == 0)
        return;
    const ni_philox_words first = ni_philox_next(&to.keys, &to.drawn, group, NI_PURPOSE_ROUNDING);
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = first.w[i];
    if (ROUND == 8)
        return;
    const ni_philox_words second = ni_philox_next(&to.keys, &to.drawn, group, NI_PURPOSE_ROUNDING_HI);
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[4 + i] = second.w[i];
}

/* Codes of one column out of pairs: `shift` 0 or 16. */
static __device__ void store_column_codes(const ni_cuda_tile_copy &copy, const uint32_t *pairs, int shift, uint8_t byte,
                                          int64_t column, int64_t block) {
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
static __device__ uint32_t encode_columns(const copying &to, const uint32_t *tile, int64_t rows, int64_t r0, int64_t c,
                                          uint32_t signs) {
    const ni_cuda_tile_copy &copy = to.copy;
    two_columns<TURN> x;
    uint32_t amax_a, amax_b, for_a[8], for_b[8], q[16], sign[16];
    load_columns<TAME>(x, to, tile, signs);
    find_amaxes<TAME>(x, &amax_a, &amax_b);
    const uint32_t bytes =
        ni_scale_bytes(ni_f32_from(amax_a), ni_f32_from(amax_b), TAME ? to.s_inner : ni_f32_mul(to.s_inner, to.unfold));
    ni_scale_entry entry_a = to.table[bytes & 0xffu], entry_b = to.table[bytes >> 8];
    if (!TAME) {
        entry_a.encode = ni_f32_mul(entry_a.encode, to.unfold);
        entry_b.encode = ni_f32_mul(entry_b.encode, to.unfold);
    }
    const uint32_t blocks = (uint32_t)(rows / 16), group = (uint32_t)c * blocks + (uint32_t)(r0 / 16);
    draw_column<ROUND>(to, group, for_a);
    draw_column<ROUND>(to, group + blocks, for_b);
    const uint32_t scales = __byte_perm(entry_a.value, entry_b.value, 0x5410), stride = 2 * (uint32_t)copy.stride;
    const uint64_t values = ni_row_at(ni_global(copy.values + c), (uint32_t)r0, stride);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int lane = ROUND == 16 ? i % 8 : i,
                  from = ROUND == 16 && i >= 8 ? 4 : 0; /* eight lanes in four words, or sixteen */
        const float y = ni_f32_mul(x.low(i), entry_a.encode), z = ni_f32_mul(x.high(i), entry_b.encode);
        sign[i] = TAME ? x.signs(i) : ni_exact_pair(y, z);
        q[i] = ni_pair_up_to_six(ni_exact_pair(ni_on_grid<ROUND, TAME>(y, for_a + from, lane),
                                               ni_on_grid<ROUND, TAME>(z, for_b + from, lane)));
        ni_store_word(ni_row_at(values, (uint32_t)i, stride), ni_pair_times(q[i], scales));
    }
    const uint32_t largest = max(amax_a, amax_b),
                   own = TAME && TURN != NOT_TURNED ? ni_f32_bits(ni_f32_mul(ni_f32_from(largest), 0.25f)) : largest;
    if (!copy.codes)
        return own;
#pragma unroll
    for (int i = 0; i < 16; i++)
        q[i] = ni_pair_codes(q[i], sign[i]);
    store_column_codes(copy, q, 0, (uint8_t)bytes, c, r0 / 16);
    store_column_codes(copy, q, 16, (uint8_t)(bytes >> 8), c + 1, r0 / 16);
    return own;
}

/* ---- a tile ---- */

/* One block: both copies' scales, once for all tiles. Maxima that were found for them make room for the next. */
static __global__ void __launch_bounds__(2 * NI_TILE_THREADS)
    set_tile_scales(ni_tile_room *room, const __grid_constant__ ni_cuda_tile_copy row,
                    const __grid_constant__ ni_cuda_tile_copy column) {
    const int which = threadIdx.x / NI_TILE_THREADS, first = threadIdx.x % NI_TILE_THREADS;
    const ni_cuda_tile_copy &copy = which ? column : row;
    const bool exists = copy.values;
    ni_tensor_scale t = {};
    bool tame = false;
    if (exists) {
        t = ni_tile_scale(copy);
        tame = ni_is_tame(copy);
        if (first == 0)
            ni_leave_scale(copy, t);
    }
    __syncthreads();
    ni_multiply_alphas(row.values ? row.alphas : column.alphas);
    if (threadIdx.x < 2)
        room->amax[threadIdx.x] = 0;
    if (!exists)
        return;
    const float factor = copy.quantizer.hadamard_size && tame ? 0.25f : 1.0f;
    ni_tile_scale_of_copy *to = &room->copies[which];
    ni_fill_table(to->table, t.sdec, factor, first, NI_TILE_THREADS);
    if (first == 0) {
        const ni_noise_key key = ni_tile_noise(copy.noise);
        const ni_philox_keys keys = ni_philox_keys_of(key.seed, key.tensor);
        to->s_inner = ni_f32_mul(t.s_inner, factor);
        to->tame = tame;
        to->most_tame = ni_most_tame(copy);
        to->drawn = ni_philox_share(&keys, key.step, key.micro_batch);
    }
}

/* Whether any thread of the block has a number that a tame tile has not. Threads come together. */
static __device__ bool is_any_wild(uint32_t largest, uint32_t most_tame) {
    return __syncthreads_or(largest > most_tame || (largest && largest < NI_LEAST_TAME));
}

/* Keys of both copies' random bits in all rounds. */
typedef struct tile_keys {
    ni_philox_keys row, column;
} tile_keys;

/* Roundings: -1 no such copy, 0 to nearest, 8 or 16 random bits. */
template <int ROWS, int COLUMNS, int TURN>
static __global__ void __launch_bounds__(NI_TILE_THREADS, 5)
    quantize_tiles(const __grid_constant__ ni_cuda_tile_source s, const ni_tile_room *room,
                   const __grid_constant__ ni_cuda_tile_copy row, const __grid_constant__ ni_cuda_tile_copy column,
                   const __grid_constant__ tile_keys keys) {
    __shared__ __align__(16) uint32_t tile[COLUMNS >= 0 ? TILE_ROWS * PITCH : 4];
    __shared__ ni_scale_entry row_table[ROWS >= 0 ? NI_TILE_BYTES : 1], column_table[COLUMNS >= 0 ? NI_TILE_BYTES : 1];
    const int64_t band = blockIdx.y + (int64_t)blockIdx.z * gridDim.y, r0 = band * TILE_ROWS;
    const int vector = threadIdx.x % VECTORS, first = threadIdx.x / VECTORS;
    const int64_t c = (int64_t)blockIdx.x * TILE_COLS + 8 * vector;
    const bool live = c < s.cols;
    const uint32_t stride = 2 * (uint32_t)s.stride;
    uint4 in[4];
    if (r0 >= s.rows)
        return;
    /* Who is beyond the end of a row reads its beginning and leaves nothing. */
    const uint64_t from = ni_row_at(ni_global(s.numbers + (live ? c : 0)), (uint32_t)r0 + first, stride);
#pragma unroll
    for (int i = 0; i < 4; i++)
        in[i] = ni_load_words(ni_row_at(from, 4 * i, stride));
    if (ROWS >= 0)
        row_table[threadIdx.x] = room->copies[0].table[threadIdx.x];
    if (COLUMNS >= 0)
        column_table[threadIdx.x] = room->copies[1].table[threadIdx.x];
    if (COLUMNS >= 0)
#pragma unroll
        for (int i = 0; i < 4; i++)
            *(uint4 *)&tile[(first + 4 * i) * PITCH + 4 * vector] = in[i];
    bool wild = false;
    if (row.past || row.now || column.past || column.now) {
        uint32_t pairs = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            pairs = ni_larger_pair(ni_larger_pair(ni_larger_pair(ni_larger_pair(pairs, in[i].x), in[i].y), in[i].z),
                                   in[i].w);
        const uint32_t largest = ni_larger_half(pairs), most = min(ROWS >= 0 ? room->copies[0].most_tame : ~0u,
                                                                   COLUMNS >= 0 ? room->copies[1].most_tame : ~0u);
        wild = is_any_wild(largest, most);
        if (row.now)
            ni_join_amax(row.now, largest);
    } else {
        __syncthreads();
    }
    if (ROWS >= 0) {
        const copying rows = {row, row_table, room->copies[0].s_inner, keys.row, room->copies[0].drawn, 1.0f};
        if (room->copies[0].tame && !wild)
            encode_rows<ROWS, true>(rows, in, r0 + first, c, s.cols, live);
        else
            encode_rows<ROWS, false>(rows, in, r0 + first, c, s.cols, live);
    }
    if (COLUMNS >= 0) {
        const int64_t pair = (int64_t)blockIdx.x * TILE_COLS + 2 * threadIdx.x;
        const float unfold = TURN != NOT_TURNED && room->copies[1].tame ? 4.0f : 1.0f;
        const copying columns = {column,      column_table,          room->copies[1].s_inner,
                                 keys.column, room->copies[1].drawn, unfold};
        uint32_t signs = 0, largest = 0;
        if (TURN == AS_IT_SAYS) {
            const ni_noise_key key = ni_tile_noise(column.noise);
            signs = ni_signs_of(column.quantizer.hadamard_signs, &key).w[0];
        }
        if (pair < s.cols)
            largest = room->copies[1].tame && !wild
                          ? encode_columns<COLUMNS, TURN, true>(columns, tile + threadIdx.x, s.rows, r0, pair, signs)
                          : encode_columns<COLUMNS, TURN, false>(columns, tile + threadIdx.x, s.rows, r0, pair, signs);
        __syncwarp();
        if (column.now)
            ni_join_amax(column.now, largest);
    }
}

/* ---- which kernel ---- */

static int rounding_of(const ni_cuda_tile_copy *copy) {
    if (!copy)
        return -1;
    return copy->quantizer.round == NB_ROUND_STOCHASTIC ? copy->quantizer.sr_bits : 0;
}

static int turn_of(const ni_cuda_tile_copy *copy) {
    const nb_quantizer *q = &copy->quantizer;
    if (q->hadamard_size == 0)
        return NOT_TURNED;
    return q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16 ? FIXED_AND_ROUNDED : AS_IT_SAYS;
}

typedef void tile_kernel(ni_cuda_tile_source, const ni_tile_room *, ni_cuda_tile_copy, ni_cuda_tile_copy, tile_keys);

template <int ROWS, int COLUMNS> static tile_kernel *turned(int turn) {
    return turn == NOT_TURNED          ? quantize_tiles<ROWS, COLUMNS, NOT_TURNED>
           : turn == FIXED_AND_ROUNDED ? quantize_tiles<ROWS, COLUMNS, FIXED_AND_ROUNDED>
                                       : quantize_tiles<ROWS, COLUMNS, AS_IT_SAYS>;
}

/* NULL: no kernel makes these two at once. */
static tile_kernel *kernel_of(int rows, int columns, int turn) {
    if (columns < 0)
        return rows == 0   ? quantize_tiles<0, -1, NOT_TURNED>
               : rows == 8 ? quantize_tiles<8, -1, NOT_TURNED>
                           : quantize_tiles<16, -1, NOT_TURNED>;
    if (rows < 0)
        return columns == 0 ? turned<-1, 0>(turn) : columns == 8 ? turned<-1, 8>(turn) : turned<-1, 16>(turn);
    if (rows == 0 && columns == 0)
        return turned<0, 0>(turn);
    return rows == 8 && columns == 8 ? turned<8, 8>(turn) : NULL;
}

int ni_cuda_set_tile_scales(void *stream, void *room, const ni_cuda_tile_copy *row, const ni_cuda_tile_copy *column) {
    const ni_cuda_tile_copy none = {};
    set_tile_scales<<<1, 2 * NI_TILE_THREADS, 0, (cudaStream_t)stream>>>((ni_tile_room *)room, row ? *row : none,
                                                                         column ? *column : none);
    return cudaGetLastError();
}

int ni_cuda_quantize_tiles(void *stream, void *room, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *row,
                           const ni_cuda_tile_copy *column) {
    enum { MOST = 65535, MOST_STRIDE = INT32_MAX / 2 }; /* rows' bytes are multiplied as 32 bits */
    cudaStream_t on = (cudaStream_t)stream;
    ni_tile_room *const scales = (ni_tile_room *)room;
    const ni_cuda_tile_copy none = {}, &r = row ? *row : none, &c = column ? *column : none;
    const int rows = rounding_of(row), columns = rounding_of(column), turn = column ? turn_of(column) : NOT_TURNED;
    const int64_t bands = s->rows / TILE_ROWS, deep = ni_divide_up(bands, MOST);
    const dim3 grid((unsigned)ni_divide_up(s->cols, TILE_COLS), (unsigned)ni_divide_up(bands, deep), (unsigned)deep);
    const tile_keys keys = {ni_philox_keys_of(r.noise.seed, r.noise.tensor),
                            ni_philox_keys_of(c.noise.seed, c.noise.tensor)};
    tile_kernel *both = kernel_of(rows, columns, turn);
    if (s->rows > INT32_MAX || s->stride > MOST_STRIDE || r.stride > MOST_STRIDE || c.stride > MOST_STRIDE)
        return cudaErrorInvalidValue;
    const int code = ni_cuda_set_tile_scales(stream, room, row, column);
    if (code != cudaSuccess)
        return code;
    if (both) {
        both<<<grid, NI_TILE_THREADS, 0, on>>>(*s, scales, r, c, keys);
    } else {
        kernel_of(rows, -1, NOT_TURNED)<<<grid, NI_TILE_THREADS, 0, on>>>(*s, scales, r, c, keys);
        kernel_of(-1, columns, turn)<<<grid, NI_TILE_THREADS, 0, on>>>(*s, scales, r, c, keys);
    }
    return cudaGetLastError();
}
