/* quantize_four_six.cu: Four Over Six (four_six.cuh) of BF16 numbers, a row copy, a column copy or both of one reading, for
 * what its recipes ask for. Tiles of 16 x 256 in pairs, as in quantize_tile.cu; a thread takes sixteens of rows, or two
 * columns at a time. Encode factors of all 128 bytes stand in a table. Blocks that are too near to call, or wild, are left
 * out, and made by the rule of all (block.cuh) when a thread is through with its others: there its registers are free. Bits
 * are those of quantize.cu.
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/quantize_four_six.h"
#include "backend/cuda/tile_copy.cuh"

enum {
    THREADS = NI_TILE_THREADS,
    ACROSS = NI_TILE_COLS / 16,                 /* sixteens of a row */
    SIXTEENS = NI_TILE_ROWS * ACROSS / THREADS, /* of rows, a thread */
    BANDS = 4,                                  /* tiles that a block does, one below the other */
    BLOCKS = 5                                  /* of a multiprocessor */
};

/* What all threads of a block share of one copy. */
typedef struct shared_copy {
    ni_block_copy b;
    ni_scale_entry table[NI_TILE_BYTES];
} shared_copy;

static __device__ void open_shared(shared_copy *shared, const ni_cuda_tile_copy &copy, bool first) {
    ni_open_block_copy(&shared->b, copy);
    if (!first)
        return;
    if (copy.tensor_scale)
        *copy.tensor_scale = shared->b.scale.sdec;
    if (copy.head)
        *copy.head = *copy.amax;
}

/* ---- a block of sixteen ---- */

/* Sixteen neighbours on the contraction, in pairs. */
typedef struct sixteen {
    uint32_t w[8];
} sixteen;

/* By the rule of all. Codes and scale, where they are asked for, go to `at`, which counts the operand's numbers. */
static __device__ sixteen make_exactly(const ni_block_copy &b, const ni_cuda_tile_copy &copy, const sixteen &in,
                                       uint32_t group, int64_t at) {
    float x[16];
    ni_block_made made;
    sixteen out;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        x[2 * i] = ni_low_of(in.w[i]);
        x[2 * i + 1] = ni_high_of(in.w[i]);
    }
    ni_e4m3_rule<false>::make(b, copy.keys, x, group, 0, &made);
    if (copy.codes) {
        *(uint2 *)(copy.codes + at / 2) = made.codes;
        copy.scales[at / 16] = (uint8_t)made.scale;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        out.w[i] = made.values[i];
    return out;
}

static __device__ ni_near_scale scale_of(const shared_copy &shared, uint32_t byte) {
    const ni_scale_entry entry = shared.table[byte];
    return {entry.encode, ni_f32_mul(ni_high_of(entry.value), shared.b.unit)};
}

/* The same, as this file has it. False, and nothing is made: the block wants the rule of all. */
template <int ROUND>
static __device__ bool make_sixteen(const shared_copy &shared, const ni_cuda_tile_copy &copy, const sixteen &in,
                                    uint32_t group, int64_t at, sixteen *out) {
    const ni_block_copy &b = shared.b;
    const uint32_t *const w = in.w;
    ni_near_block near;
    float x[16];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        x[2 * i] = ni_low_of(w[i]);
        x[2 * i + 1] = ni_high_of(w[i]);
    }
    near.amax = ni_f32_from(ni_larger_half(ni_larger_of_four(ni_larger_of_four(0, make_uint4(w[0], w[1], w[2], w[3])),
                                                             make_uint4(w[4], w[5], w[6], w[7]))));
    near.bytes = ni_bytes_from(ni_f32_mul(ni_over_constant(near.amax, b.target.max, b.target.inverse), b.scale.s));
    near.of_six = scale_of(shared, near.bytes.six);
    near.of_four = scale_of(shared, near.bytes.four);
    if (!b.tame || !ni_is_near_amax(near.amax) || !ni_is_near(near))
        return false;
    ni_tell<ROUND == 0>(b.quantizer.four_six == NB_FOUR_SIX_MSE, x, &near);
    if (!near.told)
        return false;
    const uint32_t byte = near.four ? near.bytes.four : near.bytes.six, scale = shared.table[byte].value;
    uint32_t q[8];
    if (ROUND)
        ni_draw_nearly(near, x, w, copy.keys, b.drawn, group, q);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (!ROUND)
            q[i] = near.q[i];
        out->w[i] = ni_pair_times(q[i], scale);
    }
    if (copy.codes) {
        *(uint2 *)(copy.codes + at / 2) = byte ? ni_codes_of_neighbours(q, w) : make_uint2(0, 0);
        copy.scales[at / 16] = (uint8_t)byte;
    }
    return true;
}

/* ---- rows ---- */

/* A sixteen of a row of the source, and where it is made. */
typedef struct row_unit {
    const uint4 *from;
    uint32_t group;
    int64_t at;
    bool live;
} row_unit;

/* The last tile of a row may have fewer sixteens than others: `across` of them. */
static __device__ row_unit row_unit_of(const ni_cuda_tile_copy &copy, const uint32_t *tile, int64_t cols, int64_t r0,
                                       int64_t c0, uint32_t across, int k) {
    const uint32_t unit = (uint32_t)k * THREADS + threadIdx.x, row = unit * (65536 / across + 1) >> 16;
    const uint32_t block = unit - row * across;
    const int64_t r = r0 + row, c = c0 + 16 * block;
    return {(const uint4 *)(tile + row * NI_TILE_PITCH + 8 * block),
            (uint32_t)r * (uint32_t)(cols / 16) + (uint32_t)(c / 16), r * copy.stride + copy.at + c,
            row < NI_TILE_ROWS};
}

static __device__ sixteen words_of(const uint4 *from) {
    const uint4 a = from[0], b = from[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

template <int ROUND> static __device__ void leave_row(const ni_cuda_tile_copy &copy, int64_t at, const sixteen &out) {
    const uint64_t to = ni_global(copy.values + at);
    ni_leave_row<ROUND>(to, make_uint4(out.w[0], out.w[1], out.w[2], out.w[3]));
    ni_leave_row<ROUND>(to + 16, make_uint4(out.w[4], out.w[5], out.w[6], out.w[7]));
}

template <int ROUND>
static __device__ __noinline__ void make_row_exactly(const ni_block_copy *b, const ni_cuda_tile_copy *copy,
                                                     const uint4 *from, uint32_t group, int64_t at) {
    leave_row<ROUND>(*copy, at, make_exactly(*b, *copy, words_of(from), group, at));
}

template <int ROUND>
static __device__ void make_rows(const shared_copy &shared, const ni_cuda_tile_copy &copy, const uint32_t *tile,
                                 int64_t cols, int64_t r0, int64_t c0) {
    const uint32_t across = (uint32_t)min(cols - c0, (int64_t)NI_TILE_COLS) / 16;
    uint32_t left = 0; /* bits of units */
#pragma unroll 1
    for (int k = 0; k < SIXTEENS; k++) {
        const row_unit unit = row_unit_of(copy, tile, cols, r0, c0, across, k);
        sixteen out;
        if (!unit.live)
            break;
        if (make_sixteen<ROUND>(shared, copy, words_of(unit.from), unit.group, unit.at, &out))
            leave_row<ROUND>(copy, unit.at, out);
        else
            left |= 1u << k;
    }
#pragma unroll 1
    for (int k = 0; left >> k; k++) {
        const row_unit unit = row_unit_of(copy, tile, cols, r0, c0, across, k);
        if (left >> k & 1u)
            make_row_exactly<ROUND>(&shared.b, &copy, unit.from, unit.group, unit.at);
    }
}

/* ---- columns ---- */

/* Two columns of pairs: their own pairs, turned or not. */
template <bool TURNED> static __device__ void take_columns(const uint32_t *tile, sixteen *a, sixteen *b) {
    float x[16], y[16];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t even = tile[2 * i * NI_TILE_PITCH], odd = tile[(2 * i + 1) * NI_TILE_PITCH];
        if (!TURNED) {
            a->w[i] = __byte_perm(even, odd, 0x5410);
            b->w[i] = __byte_perm(even, odd, 0x7632);
            continue;
        }
        const bool minus[2] = {(bool)(NI_FIXED_SIGNS >> (2 * i) & 1u), (bool)(NI_FIXED_SIGNS >> (2 * i + 1) & 1u)};
        x[2 * i] = minus[0] ? -ni_low_of(even) : ni_low_of(even);
        y[2 * i] = minus[0] ? -ni_high_of(even) : ni_high_of(even);
        x[2 * i + 1] = minus[1] ? -ni_low_of(odd) : ni_low_of(odd);
        y[2 * i + 1] = minus[1] ? -ni_high_of(odd) : ni_high_of(odd);
    }
    if (!TURNED)
        return;
    ni_rotate_sixteen(x);
    ni_rotate_sixteen(y);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        a->w[i] = ni_pack_two(ni_f32_mul(x[2 * i], 0.25f), ni_f32_mul(x[2 * i + 1], 0.25f));
        b->w[i] = ni_pack_two(ni_f32_mul(y[2 * i], 0.25f), ni_f32_mul(y[2 * i + 1], 0.25f));
    }
}

/* Two columns, the first of whose numbers lie at `at` of the operand; `group` of the first, and so many blocks a column. */
typedef struct column_unit {
    const uint32_t *tile;
    int64_t r0, c, at;
    uint32_t group, blocks;
} column_unit;

template <int ROUND>
static __device__ void leave_columns(const ni_cuda_tile_copy &copy, const column_unit &unit, const sixteen &a,
                                     const sixteen &b) {
    const uint32_t stride = 2 * (uint32_t)copy.stride;
    const uint64_t to = ni_global(copy.values + unit.c);
#pragma unroll
    for (int i = 0; i < 16; i++)
        ni_leave_pair<ROUND>(ni_row_at(to, (uint32_t)unit.r0 + (uint32_t)i, stride),
                             __byte_perm(a.w[i / 2], b.w[i / 2], i % 2 ? 0x7632 : 0x5410));
}

template <int ROUND, bool TURNED>
static __device__ __noinline__ void make_columns_exactly(const ni_block_copy *shared, const ni_cuda_tile_copy *copy,
                                                         const column_unit *unit) {
    sixteen a, b;
    take_columns<TURNED>(unit->tile, &a, &b);
    const sixteen of_a = make_exactly(*shared, *copy, a, unit->group, unit->at);
    take_columns<TURNED>(unit->tile, &a, &b);
    leave_columns<ROUND>(*copy, *unit, of_a,
                         make_exactly(*shared, *copy, b, unit->group + unit->blocks, unit->at + copy->contraction));
}

template <int ROUND, bool TURNED>
static __device__ void make_columns(const shared_copy &shared, const ni_cuda_tile_copy &copy, const uint32_t *tile,
                                    int64_t rows, int64_t cols, int64_t r0, int64_t c0) {
    const int64_t c = c0 + 2 * threadIdx.x;
    const uint32_t blocks = (uint32_t)(rows / 16);
    const column_unit unit = {
        tile + threadIdx.x, r0, c, c * copy.contraction + r0, (uint32_t)c * blocks + (uint32_t)(r0 / 16), blocks};
    sixteen a, b, of_a, of_b;
    if (c >= cols)
        return;
    take_columns<TURNED>(unit.tile, &a, &b);
    if (make_sixteen<ROUND>(shared, copy, a, unit.group, unit.at, &of_a) &&
        make_sixteen<ROUND>(shared, copy, b, unit.group + blocks, unit.at + copy.contraction, &of_b)) {
        leave_columns<ROUND>(copy, unit, of_a, of_b);
        return;
    }
    const column_unit again = unit;
    make_columns_exactly<ROUND, TURNED>(&shared.b, &copy, &again);
}

/* ---- the kernel ---- */

/* Roundings: -1 no such copy, 0 to nearest, 8 random bits. */
template <int ROWS, int COLUMNS, bool TURNED>
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    four_six_tiles(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy row,
                   const __grid_constant__ ni_cuda_tile_copy column) {
    enum { COPIES = (ROWS >= 0) + (COLUMNS >= 0) };
    __shared__ shared_copy shared[COPIES];
    __shared__ __align__(16) uint32_t tile[NI_TILE_ROWS * NI_TILE_PITCH];
    const int64_t group = (int64_t)blockIdx.y + (int64_t)blockIdx.z * gridDim.y,
                  c0 = (int64_t)blockIdx.x * NI_TILE_COLS;
    const bool opens = group == 0 && blockIdx.x == 0;
#pragma unroll 1
    for (int band = 0; band < BANDS; band++) {
        const int64_t r0 = (group * BANDS + band) * NI_TILE_ROWS;
        uint4 in[4];
        if (r0 >= s.rows)
            return;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int vector = k * THREADS + (int)threadIdx.x, r = vector / NI_TILE_VECTORS;
            const int64_t c = c0 + vector % NI_TILE_VECTORS * 8;
            in[k] = *(const uint4 *)((const uint16_t *)s.numbers + (r0 + r) * s.stride + (c < s.cols ? c : 0));
        }
        if (band == 0) {
            if (ROWS >= 0 && threadIdx.x == 0)
                open_shared(&shared[0], row, opens);
            if (COLUMNS >= 0 && threadIdx.x == 32)
                open_shared(&shared[COPIES - 1], column, opens);
        }
        __syncthreads(); /* the tile before this one is read */
        if (band == 0)
            for (int i = 0; i < COPIES; i++)
                ni_fill_table(shared[i].table, shared[i].b.scale.sdec, 1.0f, (int)threadIdx.x, THREADS);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int vector = k * THREADS + (int)threadIdx.x;
            *(uint4 *)&tile[vector / NI_TILE_VECTORS * NI_TILE_PITCH + vector % NI_TILE_VECTORS * 4] = in[k];
        }
        __syncthreads();
        if (ROWS >= 0)
            make_rows<(ROWS >= 0 ? ROWS : 0)>(shared[0], row, tile, s.cols, r0, c0);
        if (COLUMNS >= 0)
            make_columns<(COLUMNS >= 0 ? COLUMNS : 0), TURNED>(shared[COPIES - 1], column, tile, s.rows, s.cols, r0,
                                                               c0);
    }
}

/* ---- which kernel ---- */

bool ni_cuda_four_six_takes(const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    enum { MOST_STRIDE = INT32_MAX / 2 }; /* rows' bytes are multiplied as 32 bits */
    const nb_quantizer *q = &copy->quantizer;
    const bool turned = q->hadamard_size == 16 && q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16;
    return s->numbers && !s->wide && s->rows <= INT32_MAX && s->rows * (s->cols / 16) <= INT32_MAX && copy->values &&
           copy->stride <= MOST_STRIDE && q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3 &&
           q->outer == NB_OUTER_TENSOR && q->rule != NB_RULE_EDEN && q->block_rows == 1 &&
           (q->four_six == NB_FOUR_SIX_MSE || q->four_six == NB_FOUR_SIX_MAE) &&
           (q->round == NB_ROUND_EVEN || (q->round == NB_ROUND_STOCHASTIC && q->sr_bits == 8)) &&
           (q->hadamard_size == 0 || (columns && turned));
}

static int rounding_of(const ni_cuda_tile_copy *copy) {
    return !copy ? -1 : copy->quantizer.round == NB_ROUND_STOCHASTIC ? 8 : 0;
}

typedef void tile_kernel(ni_cuda_double_source, ni_cuda_tile_copy, ni_cuda_tile_copy);

template <int ROWS, int COLUMNS> static tile_kernel *turned(bool turn) {
    return turn ? four_six_tiles<ROWS, COLUMNS, true> : four_six_tiles<ROWS, COLUMNS, false>;
}

/* NULL: no kernel makes these two at once. */
static tile_kernel *kernel_of(int rows, int columns, bool turn) {
    if (columns < 0)
        return rows ? four_six_tiles<8, -1, false> : four_six_tiles<0, -1, false>;
    if (rows < 0)
        return columns ? turned<-1, 8>(turn) : turned<-1, 0>(turn);
    return rows != columns ? NULL : rows ? turned<8, 8>(turn) : turned<0, 0>(turn);
}

int ni_cuda_quantize_four_six(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                              const ni_cuda_tile_copy *column) {
    enum { MOST = 65535 };
    const ni_cuda_tile_copy none = {}, &r = row ? *row : none, &c = column ? *column : none;
    const int64_t bands = ni_divide_up(s->rows, NI_TILE_ROWS * BANDS), deep = ni_divide_up(bands, MOST);
    const dim3 grid((unsigned)ni_divide_up(s->cols, NI_TILE_COLS), (unsigned)ni_divide_up(bands, deep), (unsigned)deep);
    tile_kernel *const kernel =
        kernel_of(rounding_of(row), rounding_of(column), column && column->quantizer.hadamard_size);
    if (!kernel) {
        const int code = ni_cuda_quantize_four_six(stream, s, row, NULL);
        return code ? code : ni_cuda_quantize_four_six(stream, s, NULL, column);
    }
    kernel<<<grid, THREADS, 0, (cudaStream_t)stream>>>(*s, r, c);
    return cudaGetLastError();
}
