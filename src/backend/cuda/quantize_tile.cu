/* quantize_tile.cu: NVFP4 under a tensor scale, from one reading of a BF16 matrix straight into what a product reads:
 *
 *     the row copy      blocks along the rows of the source
 *     the column copy   blocks down its columns, rotated or not: what a product over the rows reads. Its values lie as
 *                       the source lies ([contraction, rows of the operand]), so nothing is transposed
 *
 * A block of 128 threads takes a tile of 16 x 256: rows are encoded out of the registers that were read, columns out of
 * shared memory, two a thread. Values are code x block scale, exact in BF16. Codes and scale bytes in the canonical
 * layout are written where somebody asks for them. What limits it is memory, so instructions are counted (grid.cuh, and):
 *
 *     scale        encode factors of all 128 bytes stand in a table, so nobody divides
 *     amax         max(|a + b|, |a - b|) = |a| + |b|, rounded alike: the last stage of the rotation needs no sums
 *
 * Bits are those of quantize.cu. A block with something in it that is not finite goes through its functions.
 */
#include "backend/cuda/quantize.h"

#include "backend/cuda/element.cuh"
#include "backend/cuda/grid.cuh"
#include "backend/cuda/launch.cuh"
#include "format/hadamard.h"
#include "format/noise.h"
#include "format/scale.h"

/* What stands before a rotation: no signs (or no rotation), TransformerEngine's, or a pattern of this pass. */
enum { NO_SIGNS, FIXED_SIGNS, ANY_SIGNS };

enum { TILE_THREADS = 128, TILE_COLS = 256, TILE_ROWS = 16, VECTORS = TILE_COLS / 8, BYTES = 128 };

/* ---- one number ---- */

static __device__ uint32_t exact_pair(float low, float high) {
    return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

static __device__ uint32_t times(uint32_t pair, uint32_t scale) {
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(pair), "r"(scale), "r"(0x80008000u));
    return product;
}

static __device__ float low_of(uint32_t pair) {
    return __uint_as_float(pair << 16);
}

static __device__ float high_of(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

static __device__ uint32_t larger_pair(uint32_t a, uint32_t b) {
    return __vmaxu2(a, b & 0x7fff7fffu);
}

/* ---- scales ---- */

/* What a scale byte says: the factor that elements are encoded with, and the byte's value twice in BF16. */
typedef struct scale_entry {
    float encode;
    uint32_t value;
} scale_entry;

static __device__ ni_tensor_scale tensor_scale_of(const ni_cuda_tile_copy &copy) {
    return ni_tensor_scale_of(ni_e4m3_target_of(copy.quantizer.rule), copy.quantizer.outer,
                              copy.amax ? ni_f32_from(*copy.amax) : 0.0f);
}

static __device__ void leave_scale(const ni_cuda_tile_copy &copy, const ni_tensor_scale &t) {
    if (blockIdx.x != 0 || threadIdx.x != 0)
        return;
    if (copy.tensor_scale)
        *copy.tensor_scale = t.sdec;
    if (copy.head)
        *copy.head = *copy.amax;
}

static __device__ void fill_table(scale_entry *table, float sdec) {
    for (int i = threadIdx.x; i < BYTES; i += blockDim.x) {
        const uint32_t value = __float_as_uint(ni_e4m3_value((uint8_t)i)) >> 16;
        table[i].encode = i ? ni_block_encode((uint8_t)i, sdec) : 0.0f;
        table[i].value = value | value << 16;
    }
}

static __device__ ni_noise_key noise_of(const ni_cuda_noise &n) {
    ni_noise_key key = {n.seed, n.tensor, n.signs, 0, 0};
    if (n.clock) {
        key.step = n.clock[0];
        key.micro_batch = n.clock[1];
    }
    return key;
}

static __device__ bool is_odd_block(uint32_t amax, uint8_t byte) {
    return amax >= NI_F32_INF_BITS || byte >= NI_E4M3_NAN;
}

/* ---- the path of what is not finite: as quantize.cu, one block of 16 ---- */

static __device__ __noinline__ void encode_odd_block(const ni_cuda_tile_copy &copy, const float *x, uint8_t byte, float sdec,
                                        const ni_noise_key &key, uint32_t group, uint8_t *codes) {
    const nb_quantizer &q = copy.quantizer;
    const bool random = q.round == NB_ROUND_STOCHASTIC;
    const float encode = ni_block_encode(byte, sdec);
    float u[NI_NOISE_GROUP];
    if (random)
        ni_noise_group(&key, group, q.sr_bits, u);
    for (int i = 0; i < 16; i++)
        codes[i] = byte ? ni_element_encode(q.element, q.round, ni_f32_mul(x[i], encode), random ? u[i] : 0.0f) : 0;
}

static __device__ uint16_t odd_value(uint8_t code, uint8_t byte) {
    return ni_bf16_even(ni_f32_mul(ni_e2m1_value(code), ni_e4m3_value(byte)));
}

/* ---- rows ---- */

/* The words that this half of a group of 16 needs. Lanes come in pairs, one for each half, and two rows are done at a
 * time: each lane draws for one of them. */
template <int ROUND> static __device__ void draw_rows(const ni_noise_key &key, uint32_t even_group, uint32_t odd_group, int half, uint32_t even[4], uint32_t odd[4]) {
    if (ROUND == 0)
        return;
    if (ROUND == 16) {
        const uint32_t purpose = half ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING;
        ni_philox_words a = ni_philox(key.seed, key.tensor, even_group, key.step, key.micro_batch, purpose);
        ni_philox_words b = ni_philox(key.seed, key.tensor, odd_group, key.step, key.micro_batch, purpose);
        for (int i = 0; i < 4; i++) {
            even[i] = a.w[i];
            odd[i] = b.w[i];
        }
        return;
    }
    const ni_philox_words mine = ni_philox(key.seed, key.tensor, half ? odd_group : even_group, key.step, key.micro_batch, NI_PURPOSE_ROUNDING);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t other = __shfl_xor_sync(~0u, half ? mine.w[i] : mine.w[i + 2], 1);
        even[i] = half ? other : mine.w[i];
        odd[i] = half ? mine.w[i + 2] : other;
    }
}

typedef struct row_block {
    int64_t r, c;  /* of this thread's eight */
    bool live;
} row_block;

template <int ROUND>
static __device__ void encode_row_eight(const ni_cuda_tile_copy &copy, const uint4 &in, const row_block &at, int64_t cols, const ni_tensor_scale &t,
                                        const scale_entry *table, const ni_noise_key &key, const uint32_t *words) {
    const uint32_t w[4] = {in.x, in.y, in.z, in.w};
    float x[8], q[8];
    uint32_t pair = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = low_of(w[i]);
        x[2 * i + 1] = high_of(w[i]);
        pair = larger_pair(pair, w[i]);
    }
    pair = __vmaxu2(pair, __shfl_xor_sync(~0u, pair, 1));
    const uint32_t amax = max(pair & 0xffffu, pair >> 16) << 16;
    const uint8_t byte = ni_block_scale_byte(t, ni_f32_from(amax));
    uint32_t codes = 0;
    uint4 out;
    if (is_odd_block(amax, byte)) {
        float whole[16]; /* both lanes of the pair are here */
        uint8_t all[16];
        const int half = threadIdx.x & 1;
        const unsigned both = 3u << (threadIdx.x & 30);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float other = __shfl_xor_sync(both, x[i], 1);
            whole[8 * half + i] = x[i];
            whole[8 * (1 - half) + i] = other;
        }
        encode_odd_block(copy, whole, byte, t.sdec, key, (uint32_t)((at.r * cols + at.c) / 16), all);
        uint16_t values[8];
        for (int i = 0; i < 8; i++) {
            const uint8_t code = all[8 * half + i];
            codes |= (uint32_t)code << (4 * i);
            values[i] = odd_value(code, byte);
        }
        out = make_uint4(values[0] | values[1] << 16, values[2] | values[3] << 16, values[4] | values[5] << 16, values[6] | values[7] << 16);
    } else {
        const scale_entry entry = table[byte];
        ni_encode_eight<ROUND>(x, entry.encode, byte ? 0x80000000u : 0, words, q);
        out = make_uint4(times(exact_pair(q[0], q[1]), entry.value), times(exact_pair(q[2], q[3]), entry.value),
                         times(exact_pair(q[4], q[5]), entry.value), times(exact_pair(q[6], q[7]), entry.value));
        if (copy.codes)
#pragma unroll
            for (int i = 0; i < 8; i++)
                codes |= ni_grid_code(q[i]) << (4 * i);
    }
    if (!at.live)
        return;
    *(uint4 *)(copy.values + at.r * copy.stride + copy.at + at.c) = out;
    if (!copy.codes)
        return;
    *(uint32_t *)(copy.codes + at.r * (copy.stride / 2) + (copy.at + at.c) / 2) = codes;
    if (at.c % 16 == 0)
        copy.scales[at.r * (copy.stride / 16) + (copy.at + at.c) / 16] = byte;
}

/* ---- columns ---- */

/* A pair of BF16 numbers of row i of a group, under its sign. TransformerEngine's pattern costs nothing where it says
 * that nothing turns. */
template <int SIGNS> static __device__ uint32_t signed_pair(uint32_t pair, int i, uint32_t signs) {
    if (SIGNS == FIXED_SIGNS)
        return NI_FIXED_SIGNS >> i & 1u ? pair ^ 0x80008000u : pair;
    return SIGNS == NO_SIGNS ? pair : pair ^ (signs >> i & 1u) * 0x80008000u;
}

/* The stages of format/hadamard.h up to `last`. */
static __device__ void rotate_sixteen(float *x, int last) {
#pragma unroll
    for (int half = 1; half < 16; half *= 2)
        if (half <= last)
#pragma unroll
            for (int i = 0; i < 16; i++)
                if (!(i & half)) {
                    const float a = x[i], b = x[i | half];
                    x[i] = ni_f32_add(a, b);
                    x[i | half] = ni_f32_sub(a, b);
                }
}

static __device__ float finished(float x, bool round) {
    x = ni_f32_mul(x, 0.25f);
    return round ? ni_bf16_round(x) : x;
}

static __device__ void finish_pair(float *x, bool round) {
    x[0] = ni_f32_mul(x[0], 0.25f);
    x[1] = ni_f32_mul(x[1], 0.25f);
    if (!round)
        return;
    const uint32_t pair = ni_pack_two(x[0], x[1]);
    x[0] = low_of(pair);
    x[1] = high_of(pair);
}

template <int ROUND>
static __device__ void encode_column(const ni_cuda_tile_copy &copy, float *x, uint32_t group, const ni_tensor_scale &t,
                                     const scale_entry *table, const ni_noise_key &key, float *q, uint32_t *value, uint8_t *byte_out, bool *odd) {
    if (copy.quantizer.hadamard_size) {
        rotate_sixteen(x, 8);
#pragma unroll
        for (int i = 0; i < 16; i += 2)
            finish_pair(&x[i], copy.quantizer.hadamard_round_bf16);
    }
    uint32_t amax = 0;
#pragma unroll
    for (int i = 0; i < 16; i++)
        amax = max(amax, ni_f32_magnitude(x[i]));
    const uint8_t byte = ni_block_scale_byte(t, ni_f32_from(amax));
    *byte_out = byte;
    *odd = is_odd_block(amax, byte);
    if (*odd) {
        uint8_t codes[16];
        float copied[16]; /* whose addresses are taken, so that x stays in registers */
#pragma unroll
        for (int i = 0; i < 16; i++)
            copied[i] = x[i];
        encode_odd_block(copy, copied, byte, t.sdec, key, group, codes);
#pragma unroll
        for (int i = 0; i < 16; i++)
            q[i] = ni_e2m1_value(codes[i]);
        return;
    }
    const scale_entry entry = table[byte];
    const uint32_t keep = byte ? 0x80000000u : 0;
    ni_philox_words low = {{0, 0, 0, 0}}, high = {{0, 0, 0, 0}};
    if (ROUND)
        low = ni_philox(key.seed, key.tensor, group, key.step, key.micro_batch, NI_PURPOSE_ROUNDING);
    if (ROUND == 16)
        high = ni_philox(key.seed, key.tensor, group, key.step, key.micro_batch, NI_PURPOSE_ROUNDING_HI);
    *value = entry.value;
    if (ROUND == 16) {
        ni_encode_eight<ROUND>(x, entry.encode, keep, low.w, q);
        ni_encode_eight<ROUND>(x + 8, entry.encode, keep, high.w, q + 8);
    } else {
        ni_encode_eight<ROUND>(x, entry.encode, keep, low.w, q);
        ni_encode_eight<ROUND>(x + 8, entry.encode, keep, low.w + 2, q + 8);
    }
}

static __device__ void store_column_codes(const ni_cuda_tile_copy &copy, const float *q, uint8_t byte, int64_t row, int64_t block) {
    uint2 codes = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        codes.x |= ni_grid_code(q[i]) << (4 * i);
        codes.y |= ni_grid_code(q[i + 8]) << (4 * i);
    }
    *(uint2 *)(copy.codes + row * (copy.contraction / 2) + block * 8) = codes;
    copy.scales[row * (copy.contraction / 16) + block] = byte;
}

template <int ROUND, int SIGNS>
static __device__ void encode_columns(const ni_cuda_tile_copy &copy, const uint32_t *tile, int64_t rows, int64_t cols, int64_t r0, int64_t c0,
                                      const ni_tensor_scale &t, const scale_entry *table, const ni_noise_key &key, uint32_t signs) {
    const int64_t c = c0 + 2 * threadIdx.x, block = r0 / 16;
    float a[16], b[16], qa[16], qb[16];
    uint32_t va = 0, vb = 0;
    uint8_t byte_a, byte_b;
    bool odd_a, odd_b;
    if (c >= cols)
        return;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t pair = signed_pair<SIGNS>(tile[i * (TILE_COLS / 2 + 4) + threadIdx.x], i, signs);
        a[i] = low_of(pair);
        b[i] = high_of(pair);
    }
    const uint32_t group = (uint32_t)(c * (rows / 16) + block);
    encode_column<ROUND>(copy, a, group, t, table, key, qa, &va, &byte_a, &odd_a);
    encode_column<ROUND>(copy, b, group + (uint32_t)(rows / 16), t, table, key, qb, &vb, &byte_b, &odd_b);
    const uint32_t scales = __byte_perm(va, vb, 0x5410);
    uint16_t *to = copy.values + r0 * copy.stride + c;
    if (odd_a || odd_b) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            to[i * copy.stride] = ni_bf16_even(ni_f32_mul(qa[i], ni_e4m3_value(byte_a)));
            to[i * copy.stride + 1] = ni_bf16_even(ni_f32_mul(qb[i], ni_e4m3_value(byte_b)));
        }
    } else {
#pragma unroll
        for (int i = 0; i < 16; i++)
            *(uint32_t *)(to + i * copy.stride) = times(exact_pair(qa[i], qb[i]), scales);
    }
    if (copy.codes) {
        store_column_codes(copy, qa, byte_a, c, block);
        store_column_codes(copy, qb, byte_b, c + 1, block);
    }
}

/* ---- a tile ---- */

/* Roundings: -1 no such copy, 0 to nearest, 8 or 16 random bits. */
template <int ROWS, int COLUMNS, int SIGNS>
static __global__ void __launch_bounds__(TILE_THREADS, 5) quantize_tiles(ni_cuda_tile_source s, ni_cuda_tile_copy row, ni_cuda_tile_copy column) {
    constexpr int PITCH = TILE_COLS / 2 + 4;
    __shared__ __align__(16) uint32_t tile[COLUMNS >= 0 ? TILE_ROWS * PITCH : 4];
    __shared__ scale_entry row_table[ROWS >= 0 ? BYTES : 1], column_table[COLUMNS >= 0 ? BYTES : 1];
    const int64_t across = (s.cols + TILE_COLS - 1) / TILE_COLS;
    const int64_t r0 = blockIdx.x / across * TILE_ROWS, c0 = blockIdx.x % across * TILE_COLS;
    const int vector = threadIdx.x % VECTORS, first = threadIdx.x / VECTORS;
    const int64_t c = c0 + 8 * vector;
    const bool live = c < s.cols;
    uint4 in[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        in[i] = live ? *(const uint4 *)(s.numbers + (r0 + first + 4 * i) * s.stride + c) : make_uint4(0, 0, 0, 0);
    ni_tensor_scale of_rows = {}, of_columns = {};
    if (ROWS >= 0) {
        of_rows = tensor_scale_of(row);
        fill_table(row_table, of_rows.sdec);
        leave_scale(row, of_rows);
    }
    if (COLUMNS >= 0) {
        of_columns = tensor_scale_of(column);
        fill_table(column_table, of_columns.sdec);
        leave_scale(column, of_columns);
#pragma unroll
        for (int i = 0; i < 4; i++)
            *(uint4 *)&tile[(first + 4 * i) * PITCH + 4 * vector] = in[i];
    }
    __syncthreads();
    if (ROWS >= 0) {
        const ni_noise_key key = noise_of(row.noise);
        const int64_t blocks = s.cols / 16;
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const row_block even = {r0 + first + 4 * i, c, live}, odd = {r0 + first + 4 * i + 4, c, live};
            uint32_t for_even[4], for_odd[4];
            draw_rows<ROWS>(key, (uint32_t)(even.r * blocks + c / 16), (uint32_t)(odd.r * blocks + c / 16), threadIdx.x & 1, for_even, for_odd);
            encode_row_eight<ROWS>(row, in[i], even, s.cols, of_rows, row_table, key, for_even);
            encode_row_eight<ROWS>(row, in[i + 1], odd, s.cols, of_rows, row_table, key, for_odd);
        }
    }
    if (COLUMNS >= 0) {
        const ni_noise_key key = noise_of(column.noise);
        const uint32_t signs = SIGNS == ANY_SIGNS ? ni_signs_of(column.quantizer.hadamard_signs, &key).w[0] : 0;
        encode_columns<COLUMNS, SIGNS>(column, tile, s.rows, s.cols, r0, c0, of_columns, column_table, key, signs);
    }
}

static int rounding_of(const ni_cuda_tile_copy *copy) {
    if (!copy)
        return -1;
    return copy->quantizer.round == NB_ROUND_STOCHASTIC ? copy->quantizer.sr_bits : 0;
}

typedef void tile_kernel(ni_cuda_tile_source, ni_cuda_tile_copy, ni_cuda_tile_copy);

template <int ROWS, int SIGNS> static tile_kernel *kernel_of(int columns) {
    return columns == 0   ? quantize_tiles<ROWS, 0, SIGNS>
           : columns == 8 ? quantize_tiles<ROWS, 8, SIGNS>
                          : quantize_tiles<ROWS, 16, SIGNS>;
}

template <int ROWS> static tile_kernel *kernel_of(int columns, int signs) {
    if (columns < 0)
        return quantize_tiles<ROWS, -1, NO_SIGNS>;
    return signs == NO_SIGNS      ? kernel_of<ROWS, NO_SIGNS>(columns)
           : signs == FIXED_SIGNS ? kernel_of<ROWS, FIXED_SIGNS>(columns)
                                  : kernel_of<ROWS, ANY_SIGNS>(columns);
}

static int signs_of(const nb_quantizer *q) {
    if (q->hadamard_size == 0 || q->hadamard_signs == NB_SIGNS_NONE)
        return NO_SIGNS;
    return q->hadamard_signs == NB_SIGNS_FIXED ? FIXED_SIGNS : ANY_SIGNS;
}

int ni_cuda_quantize_tiles(void *stream, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *row, const ni_cuda_tile_copy *column) {
    const unsigned grid = (unsigned)(ni_divide_up(s->cols, TILE_COLS) * (s->rows / TILE_ROWS));
    const ni_cuda_tile_copy none = {}, &r = row ? *row : none, &c = column ? *column : none;
    const int rows = rounding_of(row), columns = rounding_of(column), signs = column ? signs_of(&column->quantizer) : NO_SIGNS;
    tile_kernel *kernel = rows == 0   ? kernel_of<0>(columns, signs)
                          : rows == 8 ? kernel_of<8>(columns, signs)
                          : rows < 0  ? kernel_of<-1>(columns, signs)
                                      : kernel_of<16>(columns, signs);
    kernel<<<grid, TILE_THREADS, 0, (cudaStream_t)stream>>>(*s, r, c);
    return cudaGetLastError();
}

/* ---- maxima ---- */

/* A thread takes 16 rows of four columns. */
template <bool PLAIN, bool ROTATED, int SIGNS>
static __global__ void __launch_bounds__(TILE_THREADS) tile_amaxes(ni_cuda_tile_source s, uint32_t *plain, uint32_t *rotated, nb_quantizer q, ni_cuda_noise noise) {
    const int64_t across = s.cols / 4, pieces = across * (s.rows / 16), piece = blockIdx.x * (int64_t)TILE_THREADS + threadIdx.x;
    uint32_t pair = 0, largest = 0;
    if (piece < pieces) {
        const uint16_t *from = s.numbers + piece / across * 16 * s.stride + piece % across * 4;
        uint2 in[16];
#pragma unroll
        for (int i = 0; i < 16; i++)
            in[i] = *(const uint2 *)(from + i * s.stride);
        if (PLAIN)
#pragma unroll
            for (int i = 0; i < 16; i++)
                pair = larger_pair(larger_pair(pair, in[i].x), in[i].y);
        if (ROTATED) {
            const ni_noise_key key = noise_of(noise);
            const uint32_t signs = SIGNS == ANY_SIGNS ? ni_signs_of(q.hadamard_signs, &key).w[0] : 0;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float x[16], sum = 0;
#pragma unroll
                for (int i = 0; i < 16; i++) {
                    const uint32_t word = signed_pair<SIGNS>(k < 2 ? in[i].x : in[i].y, i, signs);
                    x[i] = k % 2 ? high_of(word) : low_of(word);
                }
                rotate_sixteen(x, 4);
                uint32_t here = 0;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sum = ni_f32_add(fabsf(x[i]), fabsf(x[i + 8]));
                    here = max(here, ni_f32_magnitude(sum));
                }
                if (here >= NI_F32_INF_BITS) /* Inf + Inf is Inf, but their difference is NaN */
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        here = max(here, ni_f32_magnitude(ni_f32_sub(fabsf(x[i]), fabsf(x[i + 8]))));
                largest = max(largest, here);
            }
            if (largest < NI_F32_INF_BITS)
                largest = ni_f32_magnitude(finished(ni_f32_from(largest), q.hadamard_round_bf16));
        }
    }
    __syncwarp();
    if (PLAIN)
        ni_join_amax(plain, max(pair & 0xffffu, pair >> 16) << 16);
    if (ROTATED)
        ni_join_amax(rotated, largest);
}

template <int SIGNS> static void launch_rotated(cudaStream_t on, unsigned grid, const ni_cuda_tile_source &s, uint32_t *plain, uint32_t *rotated, const nb_quantizer &q, const ni_cuda_noise &noise) {
    if (plain)
        tile_amaxes<true, true, SIGNS><<<grid, TILE_THREADS, 0, on>>>(s, plain, rotated, q, noise);
    else
        tile_amaxes<false, true, SIGNS><<<grid, TILE_THREADS, 0, on>>>(s, plain, rotated, q, noise);
}

int ni_cuda_tile_amaxes(void *stream, const ni_cuda_tile_source *s, uint32_t *plain, uint32_t *rotated, const nb_quantizer *q, const ni_cuda_noise *noise) {
    cudaStream_t on = (cudaStream_t)stream;
    const unsigned grid = (unsigned)ni_divide_up(s->cols / 4 * (s->rows / 16), TILE_THREADS);
    if (!rotated)
        tile_amaxes<true, false, NO_SIGNS><<<grid, TILE_THREADS, 0, on>>>(*s, plain, rotated, *q, *noise);
    else if (signs_of(q) == FIXED_SIGNS)
        launch_rotated<FIXED_SIGNS>(on, grid, *s, plain, rotated, *q, *noise);
    else if (signs_of(q) == NO_SIGNS)
        launch_rotated<NO_SIGNS>(on, grid, *s, plain, rotated, *q, *noise);
    else
        launch_rotated<ANY_SIGNS>(on, grid, *s, plain, rotated, *q, *noise);
    return cudaGetLastError();
}

/* ---- 16x16 tiles of an FP32 master ---- */

static __global__ void flat_amax(uint32_t *amax, const float4 *x, int64_t n) {
    uint32_t largest = 0;
    for (NI_EACH(i, n)) {
        const float4 v = x[i];
        largest = max(max(max(largest, ni_f32_magnitude(v.x)), max(ni_f32_magnitude(v.y), ni_f32_magnitude(v.z))), ni_f32_magnitude(v.w));
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

int ni_cuda_flat_amax(void *stream, uint32_t *amax, const float *x, int64_t n) {
    flat_amax<<<ni_grid(ni_divide_up(n / 4, 4 * NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(amax, (const float4 *)x, n / 4);
    return cudaGetLastError();
}

/* A thread holds 16 rows of four columns, four lanes a tile. */
static __global__ void __launch_bounds__(TILE_THREADS) quantize_weight(const float *w, int64_t rows, int64_t cols, ni_cuda_tile_copy copy) {
    __shared__ scale_entry table[BYTES];
    const int64_t across = cols / 4, pieces = across * (rows / 16), piece = blockIdx.x * (int64_t)TILE_THREADS + threadIdx.x;
    const bool live = piece < pieces;
    const int64_t r0 = live ? piece / across * 16 : 0, c = live ? piece % across * 4 : 0;
    float4 x[16];
    uint32_t amax = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        x[i] = *(const float4 *)(w + (r0 + i) * cols + c);
        amax = max(max(max(amax, ni_f32_magnitude(x[i].x)), max(ni_f32_magnitude(x[i].y), ni_f32_magnitude(x[i].z))), ni_f32_magnitude(x[i].w));
    }
    const ni_tensor_scale t = tensor_scale_of(copy);
    fill_table(table, t.sdec);
    __syncthreads();
    amax = max(amax, __shfl_xor_sync(~0u, amax, 1));
    amax = max(amax, __shfl_xor_sync(~0u, amax, 2));
    if (!live)
        return;
    leave_scale(copy, t);
    const uint8_t byte = ni_block_scale_byte(t, ni_f32_from(amax));
    const bool odd = is_odd_block(amax, byte);
    const scale_entry entry = table[byte & 0x7f];
    const uint32_t keep = byte ? 0x80000000u : 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float in[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
        float q[4];
        uint2 out;
        if (odd) {
            const float encode = ni_block_encode(byte, t.sdec);
            uint16_t values[4];
            for (int k = 0; k < 4; k++) {
                const uint8_t code = byte ? ni_e2m1_even(ni_f32_mul(in[k], encode)) : 0;
                q[k] = ni_e2m1_value(code);
                values[k] = odd_value(code, byte);
            }
            out = make_uint2(values[0] | values[1] << 16, values[2] | values[3] << 16);
        } else {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float y = ni_f32_mul(in[k], entry.encode);
                q[k] = __uint_as_float(__float_as_uint(ni_grid_nearest(fminf(fabsf(y), 6.0f))) | (__float_as_uint(y) & keep));
            }
            out = make_uint2(times(exact_pair(q[0], q[1]), entry.value), times(exact_pair(q[2], q[3]), entry.value));
        }
        *(uint2 *)(copy.values + (r0 + i) * copy.stride + c) = out;
        *(uint16_t *)(copy.codes + (r0 + i) * (copy.stride / 2) + c / 2) =
            (uint16_t)(ni_grid_code(q[0]) | ni_grid_code(q[1]) << 4 | ni_grid_code(q[2]) << 8 | ni_grid_code(q[3]) << 12);
        if (c % 16 == 0)
            copy.scales[(r0 + i) * (copy.stride / 16) + c / 16] = byte;
    }
}

int ni_cuda_quantize_weight(void *stream, const float *w, int64_t rows, int64_t cols, const ni_cuda_tile_copy *copy) {
    const unsigned grid = (unsigned)ni_divide_up(cols / 4 * (rows / 16), TILE_THREADS);
    quantize_weight<<<grid, TILE_THREADS, 0, (cudaStream_t)stream>>>(w, rows, cols, *copy);
    return cudaGetLastError();
}
