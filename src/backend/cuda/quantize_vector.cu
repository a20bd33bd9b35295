/* quantize_vector.cu: one FP32 scale a row or a tensor, from BF16 or FP32 numbers straight into codes and values, rounded
 * to nearest or up.
 *
 *     a scale a tensor            every thread takes eight numbers, four times
 *     a scale a row of BF16       a warp holds the row in registers, for the formats that recipes have there
 *     any other row               a block finds the maximum first, and reads again what the first level of the cache holds;
 *                                 of weights, rows of many matrices a launch
 *
 * Bits are those of quantize.cu; E2M1 comes of rounding with constants, 8-bit formats of the GPU's own conversion where it
 * has one.
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/grid.cuh"
#include "backend/cuda/tile.cuh"

static __device__ ni_eight load_eight(const uint16_t *from) {
    return ni_load_eight(from);
}

static __device__ ni_eight load_eight(const float *from) {
    const float4 a = *(const float4 *)from, b = *(const float4 *)(from + 4);
    return (ni_eight){{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

static __device__ uint32_t largest_of(const ni_eight &e) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        largest = max(largest, ni_f32_magnitude(e.x[i]));
    return largest;
}

/* ---- eight numbers ---- */

/* Ties toward +inf, zero without a sign: half a step more, then down to the grid. min before max: NaN becomes 6. */
static __device__ float e2m1_up(float y) {
    const float held = fmaxf(fminf(y, 6.0f), -6.0f), p = ni_grid_power_of(fabsf(held));
    return __fmaf_rn(p, -6291456.0f, __fmaf_rd(p, 6291456.0f, __fmaf_rd(p, 0.25f, held)));
}

static __device__ float e2m1_even(float y) {
    const float q = ni_grid_nearest(fminf(fabsf(y), 6.0f));
    return y != y ? 6.0f : copysignf(q, y);
}

static __device__ void two_of_halves(uint32_t pair, float *low, float *high) {
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(*low), "=f"(*high)
        : "r"(pair));
}

/* Two numbers as bytes, the first below. */
template <nb_element ELEMENT> static __device__ uint32_t bytes_of_two(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t pair;
    if constexpr (ELEMENT == NB_ELEMENT_E5M2)
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    else
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return ni_element_encode(ELEMENT, NB_ROUND_EVEN, low, 0.0f) |
           (uint32_t)ni_element_encode(ELEMENT, NB_ROUND_EVEN, high, 0.0f) << 8;
#endif
}

template <nb_element ELEMENT> static __device__ void values_of_two(uint32_t bytes, float *value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint32_t halves;
    if constexpr (ELEMENT == NB_ELEMENT_E5M2)
        asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)bytes));
    else
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)bytes));
    two_of_halves(halves, value, value + 1);
#else
    value[0] = ni_element_value(ELEMENT, (uint8_t)bytes);
    value[1] = ni_element_value(ELEMENT, (uint8_t)(bytes >> 8));
#endif
}

static __device__ uint32_t bytes_of_four(const float *x) {
    return bytes_of_two<NB_ELEMENT_E4M3>(x[0], x[1]) | bytes_of_two<NB_ELEMENT_E4M3>(x[2], x[3]) << 16;
}

/* Codes, and what they stand for. */
template <nb_element ELEMENT, nb_rounding ROUND>
static __device__ void encode_eight(const ni_eight &in, float multiplier, uint32_t *code, ni_eight *value) {
    constexpr bool WIDE = ELEMENT == NB_ELEMENT_E4M3 || ELEMENT == NB_ELEMENT_E5M2;
#pragma unroll
    for (int i = 0; i < 8; i += WIDE && ROUND == NB_ROUND_EVEN ? 2 : 1) {
        const float y = ni_f32_mul(in.x[i], multiplier);
        if (WIDE && ROUND == NB_ROUND_EVEN) {
            const uint32_t pair = bytes_of_two<ELEMENT>(y, ni_f32_mul(in.x[i + 1], multiplier));
            code[i] = pair & 0xffu;
            code[i + 1] = pair >> 8;
            values_of_two<ELEMENT>(pair, value->x + i);
        } else if (ELEMENT == NB_ELEMENT_E2M1) {
            value->x[i] = ROUND == NB_ROUND_UP ? e2m1_up(y) : e2m1_even(y);
            code[i] = ni_grid_code(value->x[i]);
        } else {
            code[i] = ni_element_encode(ELEMENT, ROUND, y, 0.0f);
            value->x[i] = ni_element_value(ELEMENT, (uint8_t)code[i]);
        }
    }
}

template <nb_element ELEMENT> static __device__ void store_codes(uint8_t *codes, int64_t at, const uint32_t *code) {
    if (ni_element_is_4bit(ELEMENT)) {
        uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            word |= code[i] << (4 * i);
        *(uint32_t *)(codes + at / 2) = word;
        return;
    }
    *(uint2 *)(codes + at) = make_uint2(code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24,
                                        code[4] | code[5] << 8 | code[6] << 16 | code[7] << 24);
}

/* Eight neighbours from `at` on, in all that is wanted of them. */
template <nb_element ELEMENT, nb_rounding ROUND>
static __device__ void put_eight(const ni_cuda_vector &v, int64_t at, const ni_eight &in, float multiplier,
                                 float inner) {
    ni_eight value;
    uint32_t code[8];
    encode_eight<ELEMENT, ROUND>(in, multiplier, code, &value);
    if (v.codes)
        store_codes<ELEMENT>(v.codes, at, code);
    if (ni_element_is_4bit(ELEMENT) && v.bytes) {
        *(uint2 *)(v.bytes + at) = make_uint2(bytes_of_four(value.x), bytes_of_four(value.x + 4));
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        value.x[i] = ni_f32_mul(value.x[i], inner);
    ni_store_eight(v.values + at, value);
}

/* ---- the same of E2M1 rounded up, mostly two numbers an instruction: tame rows ----
 *
 * As a half, y 2^-14 is an integer that counts the grid's steps by 512 (tile.cuh), so half a step is added and nine bits are
 * cut. What cvt cuts first is never missed above zero; below it a tie goes down in magnitude, so a negative y is taken one
 * ulp nearer to zero before. Zero has no sign. */

#define UP_FACTOR 0x1p-14f

/* A row whose maximum is neither Inf nor NaN nor so small that the factor's part of it is lost. */
static __device__ bool is_tame(uint32_t amax) {
    return amax >= 0x21800000u && amax <= 0x5d800000u; /* 2^-60, 2^60 */
}

/* Grid values as two halves; `multiplier` times UP_FACTOR. */
static __device__ uint32_t up_pair(uint32_t pair, float multiplier) {
    const float low = __fadd_rz(ni_f32_mul(ni_low_of(pair), multiplier), 0x1p-149f),
                high = __fadd_rz(ni_f32_mul(ni_high_of(pair), multiplier), 0x1p-149f);
    uint32_t halves, q;
    asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(high), "f"(low));
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(q) : "r"((halves + 0x01000100u) & 0x8e008e00u), "r"(0x74007400u), "r"(0u));
    return q;
}

/* Two halves as E4M3. */
static __device__ uint32_t bytes_of_halves(uint32_t pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t bytes;
    asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(bytes) : "r"(pair));
    return bytes;
#else
    float low, high;
    two_of_halves(pair, &low, &high);
    return bytes_of_two<NB_ELEMENT_E4M3>(low, high);
#endif
}

static __device__ uint32_t bytes_of_four_halves(uint32_t a, uint32_t b) {
    return __byte_perm(bytes_of_halves(a), bytes_of_halves(b), 0x5410);
}

/* Codes of four grid values, in bytes 0 and 2: times 2^-6 as E4M3 a magnitude is its code, above two bits. */
static __device__ uint32_t codes_of_four_halves(uint32_t a, uint32_t b) {
    uint32_t low, high;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(low) : "r"(a), "r"(0x24002400u));
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(high) : "r"(b), "r"(0x24002400u));
    const uint32_t bytes = bytes_of_four_halves(low, high),
                   codes = (bytes >> 2 & 0x07070707u) | (bytes >> 4 & 0x08080808u);
    return codes | codes >> 4;
}

static __device__ uint32_t scaled_pair(uint32_t pair, float inner) {
    float low, high;
    two_of_halves(pair, &low, &high);
    return ni_pack_two(ni_f32_mul(low, inner), ni_f32_mul(high, inner));
}

/* As put_eight. */
static __device__ void put_eight_up(const ni_cuda_vector &v, int64_t at, const uint4 &in, float multiplier,
                                    float inner) {
    const uint32_t q[4] = {up_pair(in.x, multiplier), up_pair(in.y, multiplier), up_pair(in.z, multiplier),
                           up_pair(in.w, multiplier)};
    if (v.codes)
        *(uint32_t *)(v.codes + at / 2) =
            __byte_perm(codes_of_four_halves(q[0], q[1]), codes_of_four_halves(q[2], q[3]), 0x6420);
    if (v.bytes)
        *(uint2 *)(v.bytes + at) = make_uint2(bytes_of_four_halves(q[0], q[1]), bytes_of_four_halves(q[2], q[3]));
    else
        ni_store_words(ni_global(v.values + at),
                       make_uint4(scaled_pair(q[0], inner), scaled_pair(q[1], inner), scaled_pair(q[2], inner),
                                  scaled_pair(q[3], inner)));
}

/* What a maximum says of a scale: the factor of the numbers, and the scale that is kept. */
typedef struct scaling {
    float multiplier, decode;
} scaling;

template <nb_element ELEMENT> static __device__ scaling scaling_of(const ni_cuda_vector &v, uint32_t amax) {
    const float multiplier = ni_vector_encode(v.quantizer.rule, ni_element_max(ELEMENT), ni_f32_from(amax));
    return (scaling){multiplier, ni_vector_decode(multiplier)};
}

/* ---- a scale a tensor, or none ---- */

enum { FLAT_EIGHTS = 4 };

/* `across` eights a row, or all of them in one. */
template <nb_element ELEMENT, nb_rounding ROUND>
static __global__ void __launch_bounds__(NI_THREADS)
    quantize_flat(const uint16_t *from, int64_t stride, uint32_t across, int64_t eights,
                  const __grid_constant__ ni_cuda_vector v) {
    const int64_t first = blockIdx.x * (int64_t)(FLAT_EIGHTS * NI_THREADS) + threadIdx.x;
    uint4 in[FLAT_EIGHTS];
#pragma unroll
    for (int i = 0; i < FLAT_EIGHTS; i++) {
        const int64_t at = first + i * NI_THREADS;
        const uint32_t r = across ? (uint32_t)at / across : 0, c = (uint32_t)at - r * across;
        if (at < eights)
            in[i] = *(const uint4 *)(across ? from + r * stride + 8 * c : from + 8 * at);
    }
    scaling s = {1.0f, 1.0f};
    if (v.quantizer.scale_type == NB_SCALE_F32) {
        s = scaling_of<ELEMENT>(v, *v.amax);
        if (blockIdx.x == 0 && threadIdx.x == 0)
            *v.tensor_scale = s.decode;
    }
#pragma unroll
    for (int i = 0; i < FLAT_EIGHTS; i++)
        if (first + i * NI_THREADS < eights)
            put_eight<ELEMENT, ROUND>(v, 8 * (first + i * NI_THREADS), ni_eight_of(in[i]), s.multiplier,
                                      v.whole ? s.decode : 1.0f);
}

template <nb_element ELEMENT, nb_rounding ROUND>
static void launch_flat(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const int64_t eights = s->rows * s->cols / 8;
    quantize_flat<ELEMENT, ROUND><<<(unsigned)ni_divide_up(eights, FLAT_EIGHTS * NI_THREADS), NI_THREADS, 0, on>>>(
        (const uint16_t *)s->numbers, s->stride, s->stride == s->cols ? 0 : (uint32_t)(s->cols / 8), eights, *v);
}

/* ---- a scale a row: a warp each ---- */

enum { WARP_ROWS = 4, MOST_VECTORS = 24 };

/* Lane l's vector i are the eight numbers from column 256 i + 8 l on. */
template <nb_element ELEMENT, nb_rounding ROUND, int VECTORS>
static __global__ void __launch_bounds__(32 * WARP_ROWS)
    quantize_in_warps(const uint16_t *from, int64_t stride, int64_t rows, int cols,
                      const __grid_constant__ ni_cuda_vector v) {
    const int lane = threadIdx.x % 32;
    const int64_t r = blockIdx.x * (int64_t)WARP_ROWS + threadIdx.x / 32;
    uint4 in[VECTORS];
    uint32_t pairs = 0;
    if (r >= rows)
        return;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int c = 256 * i + 8 * lane;
        in[i] = c < cols ? *(const uint4 *)(from + r * stride + c) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        pairs = ni_larger_of_four(pairs, in[i]);
    const uint32_t amax = ni_warp_max(ni_larger_half(pairs));
    const scaling s = scaling_of<ELEMENT>(v, amax);
    if (lane == 0)
        v.row_scales[r] = s.decode;
    if (ELEMENT == NB_ELEMENT_E2M1 && ROUND == NB_ROUND_UP && is_tame(amax)) {
        const float multiplier = ni_f32_mul(s.multiplier, UP_FACTOR), inner = v.whole ? s.decode : 1.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const int c = 256 * i + 8 * lane;
            if (c < cols)
                put_eight_up(v, r * cols + c, in[i], multiplier, inner);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int c = 256 * i + 8 * lane;
        if (c < cols)
            put_eight<ELEMENT, ROUND>(v, r * cols + c, ni_eight_of(in[i]), s.multiplier, v.whole ? s.decode : 1.0f);
    }
}

template <nb_element ELEMENT, nb_rounding ROUND, int VECTORS>
static void launch_vectors(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    quantize_in_warps<ELEMENT, ROUND, VECTORS><<<(unsigned)ni_divide_up(s->rows, WARP_ROWS), 32 * WARP_ROWS, 0, on>>>(
        (const uint16_t *)s->numbers, s->stride, s->rows, (int)s->cols, *v);
}

template <nb_element ELEMENT, nb_rounding ROUND>
static void launch_in_warps(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const int64_t vectors = ni_divide_up(s->cols, 256);
    if (vectors <= 4)
        launch_vectors<ELEMENT, ROUND, 4>(on, s, v);
    else if (vectors <= 8)
        launch_vectors<ELEMENT, ROUND, 8>(on, s, v);
    else
        launch_vectors<ELEMENT, ROUND, MOST_VECTORS>(on, s, v);
}

/* False: rows are too long, or of a format that no recipe has there. */
static bool quantize_by_warps(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const nb_quantizer *q = &v->quantizer;
    if (s->wide || s->cols > 256 * MOST_VECTORS)
        return false;
    if (q->element == NB_ELEMENT_E2M1)
        q->round == NB_ROUND_UP ? launch_in_warps<NB_ELEMENT_E2M1, NB_ROUND_UP>(on, s, v)
                                : launch_in_warps<NB_ELEMENT_E2M1, NB_ROUND_EVEN>(on, s, v);
    else if (q->element == NB_ELEMENT_E4M3 && q->round == NB_ROUND_EVEN)
        launch_in_warps<NB_ELEMENT_E4M3, NB_ROUND_EVEN>(on, s, v);
    else
        return false;
    return true;
}

/* ---- a block a row ---- */

/* The maximum of a row, for all threads of its block. */
template <typename T> static __device__ uint32_t amax_of_row(const T *row, int64_t cols) {
    __shared__ uint32_t parts[NI_THREADS / 32];
    uint32_t largest = 0;
    for (int64_t c = 8 * threadIdx.x; c < cols; c += 8 * blockDim.x)
        largest = max(largest, largest_of(load_eight(row + c)));
    largest = ni_warp_max(largest);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = largest;
    __syncthreads();
    for (unsigned i = 0; i < blockDim.x / 32; i++)
        largest = max(largest, parts[i]);
    return largest;
}

template <typename T, nb_element ELEMENT, nb_rounding ROUND>
static __device__ void quantize_row(const T *row, int64_t r, int64_t cols, const ni_cuda_vector &v) {
    scaling s = {1.0f, 1.0f};
    if (v.quantizer.scale_type == NB_SCALE_F32) {
        s = scaling_of<ELEMENT>(v, v.amax ? *v.amax : amax_of_row(row, cols));
        if (threadIdx.x == 0 && !v.amax)
            v.row_scales[r] = s.decode;
        else if (threadIdx.x == 0 && r == 0)
            *v.tensor_scale = s.decode;
    }
    for (int64_t c = 8 * threadIdx.x; c < cols; c += 8 * blockDim.x)
        put_eight<ELEMENT, ROUND>(v, r * cols + c, load_eight(row + c), s.multiplier, v.whole ? s.decode : 1.0f);
}

template <typename T, nb_element ELEMENT, nb_rounding ROUND>
static __global__ void __launch_bounds__(NI_THREADS)
    quantize_rows(const T *from, int64_t stride, int64_t cols, const __grid_constant__ ni_cuda_vector v) {
    quantize_row<T, ELEMENT, ROUND>(from + blockIdx.x * stride, blockIdx.x, cols, v);
}

template <typename T, nb_element ELEMENT, nb_rounding ROUND>
static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const unsigned threads = s->cols >= 8 * NI_THREADS ? NI_THREADS
                             : s->cols > 8 * 64        ? 128
                                                       : 64,
                   grid = (unsigned)s->rows;
    quantize_rows<T, ELEMENT, ROUND><<<grid, threads, 0, on>>>((const T *)s->numbers, s->stride, s->cols, *v);
}

/* ---- which of them ---- */

template <nb_element ELEMENT, nb_rounding ROUND>
static void launch(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const bool rows = v->quantizer.scale_type == NB_SCALE_F32 && !v->amax;
    if (!s->wide && !rows && s->rows * s->cols / 8 <= INT32_MAX)
        launch_flat<ELEMENT, ROUND>(on, s, v);
    else if (!rows || !quantize_by_warps(on, s, v))
        s->wide ? launch_rows<float, ELEMENT, ROUND>(on, s, v) : launch_rows<uint16_t, ELEMENT, ROUND>(on, s, v);
}

template <nb_element ELEMENT>
static void launch_element(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    v->quantizer.round == NB_ROUND_UP ? launch<ELEMENT, NB_ROUND_UP>(on, s, v)
                                      : launch<ELEMENT, NB_ROUND_EVEN>(on, s, v);
}

int ni_cuda_quantize_vector(void *stream, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    cudaStream_t on = (cudaStream_t)stream;
    switch (v->quantizer.element) {
    case NB_ELEMENT_E2M1:
        launch_element<NB_ELEMENT_E2M1>(on, s, v);
        break;
    case NB_ELEMENT_INT4:
        launch_element<NB_ELEMENT_INT4>(on, s, v);
        break;
    case NB_ELEMENT_E4M3:
        launch_element<NB_ELEMENT_E4M3>(on, s, v);
        break;
    default:
        launch_element<NB_ELEMENT_E5M2>(on, s, v);
        break;
    }
    return cudaGetLastError();
}

/* ---- weights: rows of many matrices a launch ---- */

enum { MOST_LISTED = 48, LISTED_THREADS = 128 };

typedef struct listed_rows {
    const float *from;
    uint16_t *values;
    uint8_t *codes;
    float *row_scales;
    int64_t stride;
    uint32_t cols, first_row;
    nb_scale_rule rule;
    bool whole;
} listed_rows;

typedef struct row_list {
    listed_rows at[MOST_LISTED];
    int count;
    uint32_t rows;
} row_list;

template <nb_rounding ROUND>
static __global__ void __launch_bounds__(LISTED_THREADS) quantize_many_rows(const __grid_constant__ row_list list) {
    int which = 0;
    while (which + 1 < list.count && blockIdx.x >= list.at[which + 1].first_row)
        which++;
    const listed_rows &l = list.at[which];
    const int64_t r = blockIdx.x - l.first_row;
    ni_cuda_vector v = {};
    v.quantizer.scale_type = NB_SCALE_F32;
    v.quantizer.rule = l.rule;
    v.values = l.values;
    v.codes = l.codes;
    v.row_scales = l.row_scales;
    v.whole = l.whole;
    quantize_row<float, NB_ELEMENT_E2M1, ROUND>(l.from + r * l.stride, r, l.cols, v);
}

static int launch_row_list(cudaStream_t on, row_list *list, nb_rounding round) {
    if (list->rows && round == NB_ROUND_UP)
        quantize_many_rows<NB_ROUND_UP><<<list->rows, LISTED_THREADS, 0, on>>>(*list);
    else if (list->rows)
        quantize_many_rows<NB_ROUND_EVEN><<<list->rows, LISTED_THREADS, 0, on>>>(*list);
    list->count = 0;
    list->rows = 0;
    return cudaGetLastError();
}

int ni_cuda_quantize_many_rows(void *stream, const ni_cuda_double_source *s, const ni_cuda_vector *v, int count) {
    cudaStream_t on = (cudaStream_t)stream;
    row_list list = {};
    int code = cudaSuccess;
    for (int i = 0; i < count && !code; i++) {
        if (list.count == MOST_LISTED || (i && v[i].quantizer.round != v[i - 1].quantizer.round) ||
            list.rows + s[i].rows > INT32_MAX)
            code = launch_row_list(on, &list, v[i - 1].quantizer.round);
        listed_rows l = {};
        l.from = (const float *)s[i].numbers;
        l.values = v[i].values;
        l.codes = v[i].codes;
        l.row_scales = v[i].row_scales;
        l.stride = s[i].stride;
        l.cols = (uint32_t)s[i].cols;
        l.first_row = list.rows;
        l.rule = v[i].quantizer.rule;
        l.whole = v[i].whole;
        list.at[list.count++] = l;
        list.rows += (uint32_t)s[i].rows;
    }
    return code || !count ? code : launch_row_list(on, &list, v[count - 1].quantizer.round);
}

/* ---- and back: four bits under a scale a row ---- */

enum { DECODED_EIGHTS = 4 };

typedef struct decoded_rows {
    uint16_t *to;
    const uint8_t *codes;
    const float *scales;
    int64_t stride, eights;
    uint32_t across, first_block;
} decoded_rows;

typedef struct decode_list {
    decoded_rows at[MOST_LISTED];
    int count;
    uint32_t blocks;
} decode_list;

static __global__ void __launch_bounds__(NI_THREADS) decode_many_rows(const __grid_constant__ decode_list list) {
    int which = 0;
    while (which + 1 < list.count && blockIdx.x >= list.at[which + 1].first_block)
        which++;
    const decoded_rows &t = list.at[which];
    const int64_t first = (int64_t)(blockIdx.x - t.first_block) * (DECODED_EIGHTS * NI_THREADS) + threadIdx.x;
    uint32_t codes[DECODED_EIGHTS];
#pragma unroll
    for (int i = 0; i < DECODED_EIGHTS; i++)
        codes[i] = first + i * NI_THREADS < t.eights ? ((const uint32_t *)t.codes)[first + i * NI_THREADS] : 0;
#pragma unroll
    for (int i = 0; i < DECODED_EIGHTS; i++) {
        const int64_t at = first + i * NI_THREADS;
        if (at >= t.eights)
            return;
        const uint32_t r = (uint32_t)at / t.across, c = ((uint32_t)at - r * t.across) * 8;
        const float scale = t.scales[r];
        ni_eight e;
#pragma unroll
        for (int k = 0; k < 8; k++)
            e.x[k] = ni_f32_mul(ni_element_value(NB_ELEMENT_E2M1, codes[i] >> (4 * k) & 15u), scale);
        ni_store_eight(t.to + r * t.stride + c, e);
    }
}

static int launch_decode_list(cudaStream_t on, decode_list *list) {
    if (list->blocks)
        decode_many_rows<<<list->blocks, NI_THREADS, 0, on>>>(*list);
    list->count = 0;
    list->blocks = 0;
    return cudaGetLastError();
}

int ni_cuda_decode_rows(void *stream, const nb_mat *out, const nb_qtensor *from, int count) {
    decode_list list = {};
    int code = cudaSuccess;
    for (int i = 0; i < count && !code; i++) {
        decoded_rows t = {};
        t.to = (uint16_t *)out[i].data;
        t.codes = from[i].codes;
        t.scales = from[i].outer_scales;
        t.stride = out[i].stride;
        t.across = (uint32_t)(from[i].cols / 8);
        t.eights = from[i].rows * t.across;
        t.first_block = list.blocks;
        list.at[list.count++] = t;
        list.blocks += (uint32_t)ni_divide_up(t.eights, DECODED_EIGHTS * NI_THREADS);
        if (list.count == MOST_LISTED)
            code = launch_decode_list((cudaStream_t)stream, &list);
    }
    return code ? code : launch_decode_list((cudaStream_t)stream, &list);
}
