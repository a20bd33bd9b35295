/* quantize_mx.cu: E2M1 codes under E8M0 scales of 32, to nearest, both ways from one reading and nothing besides: what
 * mx_bytes.cu makes bytes of. The bits are those of quantize_block.cu, which does the rest of MXFP4.
 *
 *     a tile       64 x 128, in shared memory as it was read; 256 threads, a thread 16 numbers of a row twice and then
 *                  16 rows of two columns
 *     rows         BF16 numbers stay pairs: a power of two times a pair, the grid and the codes cost an instruction for two
 *     columns      turned by 16 without signs, or not; in FP32. The rotation's factor goes into the scale, which is exact:
 *                  sums of BF16 numbers are multiples of 2^-133, and a quarter of such is an FP32 number
 *     finite       a block without Inf and NaN comes below 8 under its scale, so the grid needs no bound; one with them has
 *                  a byte of its own, and a path
 */
#include "backend/cuda/follow.cuh"
#include "backend/cuda/tile.cuh"
#include "format/e8m0.h"

enum { THREADS = 256, ROWS = 64, COLS = 128, WORDS = COLS / 2, LAST_FINITE = 253 };

/* Two neighbours of a row. */
template <typename T> struct pair_of;
template <> struct pair_of<uint16_t> { typedef uint32_t type; };
template <> struct pair_of<float> { typedef float2 type; };

/* Rows sixteen apart, which lanes of a warp read at once, lie in other banks. */
static __device__ int in_tile(int row, int word) {
    return row * WORDS + (word ^ (row / 16 % 4) << 3);
}

/* ---- scales ---- */

/* What makes an amax's exponent one larger: a fraction above this (format/e8m0.h; 6 is 1.5 x 4). */
static __device__ uint32_t fraction_of(nb_scale_rule rule) {
    return rule == NB_RULE_CEIL ? 0x400000u : rule == NB_RULE_CEIL_LOG2 ? 0u : 0x7fffffu;
}

static __device__ uint32_t byte_of(uint32_t amax, uint32_t fraction) {
    const int exponent = (int)(amax >> 23) - 2 + ((amax & 0x7fffffu) > fraction);
    if (amax >= NI_F32_INF_BITS)
        return amax == NI_F32_INF_BITS ? NI_E8M0_MAX : NI_E8M0_NAN;
    return (uint32_t)max(exponent, 0);
}

/* ---- pairs of BF16 ---- */

/* The larger magnitudes, whatever their signs; NaN where one is. */
static __device__ uint32_t larger_or_nan(uint32_t a, uint32_t b) {
#if __CUDA_ARCH__ >= 860
    uint32_t m;
    asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(m) : "r"(a), "r"(b));
    return m;
#else
    return ni_larger_pair(a & NI_PAIR_MAGNITUDE, b);
#endif
}

static __device__ uint32_t fused(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}

/* Both on E2M1's grid but for its end: 96 p has the ulp p / 2, p the power of two of y and at least 1 (tile.cuh). */
template <bool FINITE> static __device__ uint32_t pair_on_grid(uint32_t y) {
    uint32_t p = __vmaxu2(y & 0x7f807f80u, 0x3f803f80u);
    if (!FINITE)
        p = __vminu2(p, 0x41004100u);
    return fused(p, 0xc2c0c2c0u, fused(p, 0x42c042c0u, y));
}

/* The codes of a pair as the low halves of bytes 1 and 3; signs are those of y. */
static __device__ uint32_t spread_codes(uint32_t q, uint32_t y) {
    const uint32_t bits = ni_pair_times(ni_pair_up_to_six(q), 0x00800080u); /* the magnitude's code above six bits */
    return (bits | (y >> 6 & 0x02000200u)) << 2;
}

/* Bytes 0 and 2: two codes each, of four in four bytes. */
static __device__ uint32_t joined(uint32_t four) {
    return four | four >> 4;
}

/* Of eight pairs of neighbours. */
static __device__ uint2 codes_of_row(const uint32_t *u) {
    uint32_t n[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        n[i] = joined(__byte_perm(u[2 * i], u[2 * i + 1], 0x7531));
    return make_uint2(__byte_perm(n[0], n[1], 0x6420), __byte_perm(n[2], n[3], 0x6420));
}

/* Of sixteen pairs whose halves are of two columns. */
static __device__ void codes_of_columns(const uint32_t *u, uint2 *a, uint2 *b) {
    uint32_t m[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        m[i] = __byte_perm(joined(__byte_perm(u[4 * i], u[4 * i + 1], 0x7351)),
                           joined(__byte_perm(u[4 * i + 2], u[4 * i + 3], 0x7351)), 0x6240);
    *a = make_uint2(__byte_perm(m[0], m[1], 0x5410), __byte_perm(m[2], m[3], 0x5410));
    *b = make_uint2(__byte_perm(m[0], m[1], 0x7632), __byte_perm(m[2], m[3], 0x7632));
}

/* ---- one number in FP32 ---- */

template <bool FINITE> static __device__ float on_grid(float y) {
    return ni_nearest_on_grid<FINITE>(y);
}

static __device__ float larger_magnitude(float a, float b) {
    return ni_larger_or_nan(a, fabsf(b));
}

/* ---- rows: a thread 16 numbers, two lanes a block ---- */

static __device__ uint32_t with_neighbour(uint32_t amax) {
    return max(amax, __shfl_xor_sync(~0u, amax, 1));
}

static __device__ uint32_t row_amax(const uint32_t *x) {
    uint32_t largest = x[0];
#pragma unroll
    for (int i = 1; i < 8; i++)
        largest = larger_or_nan(largest, x[i]);
    return with_neighbour(ni_larger_half(largest & NI_PAIR_MAGNITUDE));
}

static __device__ uint32_t row_amax(const float2 *x) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++)
        largest = larger_magnitude(larger_magnitude(largest, x[i].x), x[i].y);
    return with_neighbour(ni_f32_magnitude(largest));
}

template <bool FINITE> static __device__ uint32_t code_pair(uint32_t x, float encode) {
    const uint32_t half = __float_as_uint(encode) >> 16, y = ni_pair_times(x, half | half << 16);
    return spread_codes(pair_on_grid<FINITE>(y), y);
}

template <bool FINITE> static __device__ uint32_t code_pair(const float2 &x, float encode) {
    const float low = ni_f32_mul(x.x, encode), high = ni_f32_mul(x.y, encode);
    return spread_codes(ni_exact_pair(on_grid<FINITE>(low), on_grid<FINITE>(high)), ni_exact_pair(low, high));
}

template <bool FINITE, typename PAIR> static __device__ uint2 code_row(const PAIR *x, float encode) {
    uint32_t u[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        u[i] = code_pair<FINITE>(x[i], encode);
    return codes_of_row(u);
}

/* All lanes come. */
template <typename PAIR>
static __device__ void make_row(const PAIR *x, const ni_cuda_tile_copy &copy, int64_t r, int64_t c, bool live) {
    const uint32_t byte = byte_of(row_amax(x), fraction_of(copy.quantizer.rule));
    const float encode = ni_e8m0_inverse((uint8_t)byte);
    const uint2 codes = byte <= LAST_FINITE ? code_row<true>(x, encode) : code_row<false>(x, encode);
    const int64_t at = r * copy.stride + c;
    if (!live)
        return;
    *(uint2 *)(copy.codes + at / 2) = codes;
    if (c % 32 == 0)
        copy.scales[at / 32] = (uint8_t)byte;
}

/* ---- columns: a thread 16 rows of two, lanes eight apart a block ---- */

static __device__ void open_pair(uint32_t pair, float *a, float *b) {
    *a = ni_low_of(pair);
    *b = ni_high_of(pair);
}

static __device__ void open_pair(const float2 &pair, float *a, float *b) {
    *a = pair.x;
    *b = pair.y;
}

/* The byte of a column's block; `factor` is that of its rotation. */
static __device__ uint32_t column_byte(const float *x, float factor, uint32_t fraction) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++)
        largest = larger_magnitude(largest, x[i]);
    const uint32_t amax = ni_f32_magnitude(ni_f32_mul(largest, factor));
    return byte_of(max(amax, __shfl_xor_sync(~0u, amax, 8)), fraction);
}

template <bool FINITE>
static __device__ void code_columns(const float *a, const float *b, float for_a, float for_b, uint2 *of_a,
                                    uint2 *of_b) {
    uint32_t u[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float y = ni_f32_mul(a[i], for_a), z = ni_f32_mul(b[i], for_b);
        u[i] = spread_codes(ni_exact_pair(on_grid<FINITE>(y), on_grid<FINITE>(z)), ni_exact_pair(y, z));
    }
    codes_of_columns(u, of_a, of_b);
}

template <bool TURN, typename PAIR>
static __device__ void make_columns(const PAIR *tile, const ni_cuda_tile_copy &copy, int64_t rows, int64_t cols,
                                    int64_t r0, int64_t c0) {
    const int lane = threadIdx.x % 32, group = lane / 8, word = threadIdx.x / 32 * 8 + lane % 8;
    const int64_t r = r0 + 16 * group, c = c0 + 2 * word;
    const PAIR *const from = &tile[in_tile(16 * group, word)];
    const uint32_t fraction = fraction_of(copy.quantizer.rule);
    const float factor = TURN ? 0.25f : 1.0f;
    float a[16], b[16];
    uint2 of_a, of_b;
#pragma unroll
    for (int i = 0; i < 16; i++)
        open_pair(from[i * WORDS], &a[i], &b[i]);
    if (TURN) {
        ni_rotate_sixteen(a);
        ni_rotate_sixteen(b);
    }
    const uint32_t byte_a = column_byte(a, factor, fraction), byte_b = column_byte(b, factor, fraction);
    const float for_a = ni_f32_mul(ni_e8m0_inverse((uint8_t)byte_a), factor),
                for_b = ni_f32_mul(ni_e8m0_inverse((uint8_t)byte_b), factor);
    if (max(byte_a, byte_b) <= LAST_FINITE)
        code_columns<true>(a, b, for_a, for_b, &of_a, &of_b);
    else
        code_columns<false>(a, b, for_a, for_b, &of_a, &of_b);
    if (r >= rows || c >= cols)
        return;
    uint8_t *const codes = copy.codes + (c * rows + r) / 2, *const scales = copy.scales + (c * rows + r) / 32;
    *(uint2 *)codes = of_a;
    *(uint2 *)(codes + rows / 2) = of_b;
    if (group % 2 == 0) {
        scales[0] = (uint8_t)byte_a;
        scales[rows / 32] = (uint8_t)byte_b;
    }
}

/* ---- a tile ---- */

static __device__ void load_pairs(uint32_t *x, const uint16_t *from) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint4 v = __ldg((const uint4 *)from + i);
        x[4 * i] = v.x;
        x[4 * i + 1] = v.y;
        x[4 * i + 2] = v.z;
        x[4 * i + 3] = v.w;
    }
}

static __device__ void load_pairs(float2 *x, const float *from) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 v = __ldg((const float4 *)from + i);
        x[2 * i] = make_float2(v.x, v.y);
        x[2 * i + 1] = make_float2(v.z, v.w);
    }
}

static __device__ void keep_pairs(uint32_t *to, const uint32_t *x) {
    ((uint4 *)to)[0] = make_uint4(x[0], x[1], x[2], x[3]);
    ((uint4 *)to)[1] = make_uint4(x[4], x[5], x[6], x[7]);
}

static __device__ void keep_pairs(float2 *to, const float2 *x) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        ((float4 *)to)[i] = make_float4(x[2 * i].x, x[2 * i].y, x[2 * i + 1].x, x[2 * i + 1].y);
}

static __device__ void clear(uint32_t *word) {
    if (word)
        *word = 0;
}

template <typename T, bool TURN>
static __global__ void __launch_bounds__(THREADS, 3)
    mx_tiles(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy row,
             const __grid_constant__ ni_cuda_tile_copy column) {
    typedef typename pair_of<T>::type pair;
    enum { PARTS = COLS / 16, UNITS = ROWS * PARTS / THREADS };
    __shared__ __align__(16) pair tile[ROWS * WORDS];
    const int64_t r0 = ni_band() * ROWS, c0 = blockIdx.x * (int64_t)COLS;
    pair x[UNITS][8];
    ni_wait_for_it();
    ni_let_follow();
    if (r0 >= s.rows)
        return;
#pragma unroll
    for (int k = 0; k < UNITS; k++) {
        const int unit = k * THREADS + (int)threadIdx.x, at_row = unit / PARTS, word = unit % PARTS * 8;
        const int64_t r = r0 + at_row, c = c0 + 2 * word;
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[k][i] = pair{};
        if (r < s.rows && c < s.cols)
            load_pairs(x[k], (const T *)s.numbers + r * s.stride + c);
    }
    if (threadIdx.x == 0 && r0 == 0 && c0 == 0) {
        clear(row.cleared);
        clear(column.cleared);
    }
#pragma unroll
    for (int k = 0; k < UNITS; k++) {
        const int unit = k * THREADS + (int)threadIdx.x, at_row = unit / PARTS, word = unit % PARTS * 8;
        const int64_t r = r0 + at_row, c = c0 + 2 * word;
        if (column.codes)
            keep_pairs(&tile[in_tile(at_row, word)], x[k]);
        if (row.codes)
            make_row(x[k], row, r, c, r < s.rows && c < s.cols);
    }
    if (!column.codes)
        return;
    __syncthreads();
    make_columns<TURN>(tile, column, s.rows, s.cols, r0, c0);
}

/* ---- which kernel ---- */

bool ni_cuda_mx_takes(const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool column) {
    const nb_quantizer *q = &copy->quantizer;
    const bool rule = q->rule == NB_RULE_FLOOR || q->rule == NB_RULE_CEIL || q->rule == NB_RULE_CEIL_LOG2;
    const bool turned =
        column && !s->wide && q->hadamard_size == 16 && q->hadamard_signs == NB_SIGNS_NONE && !q->hadamard_round_bf16;
    return s->numbers && !copy->values && copy->codes && q->element == NB_ELEMENT_E2M1 &&
           q->scale_type == NB_SCALE_E8M0 && q->block_rows == 1 && rule && q->round == NB_ROUND_EVEN &&
           (q->hadamard_size == 0 || turned) && (column ? s->rows : s->cols) % 32 == 0 &&
           (column ? copy->contraction == s->rows : copy->at == 0 && copy->stride == s->cols);
}

template <typename T, bool TURN>
static int launch(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                  const ni_cuda_tile_copy *column) {
    const dim3 grid = ni_band_grid(ni_divide_up(s->cols, COLS), ni_divide_up(s->rows, ROWS));
    return ni_launch_following(on, mx_tiles<T, TURN>, grid, THREADS, 0, *s, *row, *column);
}

int ni_cuda_quantize_mx(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *row,
                        const ni_cuda_tile_copy *column) {
    cudaStream_t on = (cudaStream_t)stream;
    const ni_cuda_tile_copy none = {};
    const bool turn = column && column->quantizer.hadamard_size;
    if (s->rows == 0 || s->cols == 0)
        return cudaSuccess;
    row = row ? row : &none;
    column = column ? column : &none;
    return s->wide ? launch<float, false>(on, s, row, column)
           : turn  ? launch<uint16_t, true>(on, s, row, column)
                   : launch<uint16_t, false>(on, s, row, column);
}
