/* tile.cuh: pieces of the kernels that make NVFP4 operands from one reading (quantize_tile.cu, quantize_weight.cu):
 * pairs of BF16 numbers in one word, tables of block scales, and pairs of numbers on E2M1's grid.
 *
 * Where a tensor is tame, steps are left out whose work shows only far from there. It is if its scale is made of its own
 * maximum and that lies in [2^-60, 2^100]: then nothing in it is Inf or NaN, no number times its encode factor reaches
 * 16, and the factor of a rotation may be folded into scales, since what a subnormal would lose is far below any
 * threshold of the grid. Under a delayed scale a tile of it is, if nothing in the tile is far beyond what the scale was
 * made from. Bits are those of format/e2m1.h either way.
 */
#ifndef NI_BACKEND_CUDA_TILE_CUH
#define NI_BACKEND_CUDA_TILE_CUH

#include "backend/cuda/launch.cuh"
#include "backend/cuda/quantize.h"
#include "format/hadamard.h"
#include "format/noise.h"
#include "format/scale.h"

enum { NI_TILE_THREADS = 128, NI_TILE_BYTES = 128 };

/* ---- two BF16 numbers in a word ---- */

#define NI_PAIR_MAGNITUDE 0x7fff7fffu
#define NI_PAIR_SIGNS 0x80008000u
#define NI_GRID_LEAST 0x1.000008p0f /* 1 + 2^-21 */

/* Of two floats that are BF16 numbers; of others the upper halves, which have their signs. */
static __device__ inline uint32_t ni_exact_pair(float low, float high) {
    return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

static __device__ inline float ni_low_of(uint32_t pair) {
    return __uint_as_float(pair << 16);
}

static __device__ inline float ni_high_of(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

static __device__ inline uint32_t ni_larger_pair(uint32_t a, uint32_t b) {
    return __vmaxu2(a, b & NI_PAIR_MAGNITUDE);
}

/* The larger magnitude of the two, as the bits of a float. */
static __device__ inline uint32_t ni_larger_half(uint32_t pair) {
    pair &= NI_PAIR_MAGNITUDE;
    return max(pair & 0xffffu, pair >> 16) << 16;
}

static __device__ inline uint32_t ni_pair_times(uint32_t pair, uint32_t scale) {
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(pair), "r"(scale), "r"(NI_PAIR_SIGNS));
    return product;
}

/* Magnitudes that are larger, of numbers none of which is NaN; their signs are anything. */
static __device__ inline uint32_t ni_larger_magnitudes(uint32_t a, uint32_t b) {
#if __CUDA_ARCH__ >= 860
    uint32_t larger;
    asm("max.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
#else
    return __vmaxu2(a & NI_PAIR_MAGNITUDE, b & NI_PAIR_MAGNITUDE);
#endif
}

/* The same of numbers that were rounded here: NaN, of which there is one, is larger than all. */
static __device__ inline uint32_t ni_larger_rounded(uint32_t a, uint32_t b) {
#if __CUDA_ARCH__ >= 860
    uint32_t larger;
    asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
#else
    return __vmaxu2(a & NI_PAIR_MAGNITUDE, b & NI_PAIR_MAGNITUDE);
#endif
}

static __device__ inline uint32_t ni_larger_of_four(uint32_t pairs, const uint4 &four) {
    return ni_larger_rounded(ni_larger_rounded(ni_larger_rounded(ni_larger_rounded(pairs, four.x), four.y), four.z),
                             four.w);
}

/* Magnitudes above 6 become 6, and so does NaN. */
static __device__ inline uint32_t ni_pair_up_to_six(uint32_t pair) {
#if __CUDA_ARCH__ >= 860
    uint32_t clamped;
    asm("min.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(clamped) : "r"(pair), "r"(0x40c040c0u));
    return clamped;
#else
    return __vminu2(pair & NI_PAIR_MAGNITUDE, 0x40c040c0u) | (pair & NI_PAIR_SIGNS);
#endif
}

/* ---- scales ---- */

/* What a scale byte says: the factor that elements are encoded with, and the byte's value twice in BF16. */
typedef struct __align__(8) ni_scale_entry {
    float encode;
    uint32_t value;
}
ni_scale_entry;

/* What the tensor's scale is made from. */
static __device__ inline float ni_tile_amax(const ni_cuda_tile_copy &copy) {
    return copy.past ? ni_delayed_amax(*copy.past, copy.headroom) : copy.amax ? ni_f32_from(*copy.amax) : 0.0f;
}

static __device__ inline ni_tensor_scale ni_tile_scale(const ni_cuda_tile_copy &copy) {
    return ni_tensor_scale_of(ni_e4m3_target_of(copy.quantizer.rule), copy.quantizer.outer, ni_tile_amax(copy));
}

static __device__ inline bool ni_is_tame(const ni_cuda_tile_copy &copy) {
    if (!(copy.amax || copy.past) || copy.under || copy.quantizer.outer != NB_OUTER_TENSOR)
        return false;
    const float amax = ni_tile_amax(copy);
    return amax >= 0x1p-60f && amax <= 0x1p100f;
}

/* Bits of the largest magnitude of the source with which a tile of a tame copy is tame: all, where the maximum is the
 * tensor's own. Else twice what the scale was made from becomes 12 at most; sixteen numbers come to four times the largest. */
static __device__ inline uint32_t ni_most_tame(const ni_cuda_tile_copy &copy) {
    if (!copy.past)
        return ~0u;
    return ni_f32_bits(ni_f32_mul(ni_tile_amax(copy), copy.quantizer.hadamard_size ? 0.5f : 2.0f));
}

/* Smaller ones are not tame, so that no maximum is made of subnormals. */
#define NI_LEAST_TAME 0x12800000u /* 2^-90 */

static __device__ inline void ni_leave_scale(const ni_cuda_tile_copy &copy, const ni_tensor_scale &t) {
    if (copy.tensor_scale)
        *copy.tensor_scale = t.sdec;
    if (copy.head)
        *copy.head = ni_f32_bits(ni_tile_amax(copy));
    if (copy.now)
        *copy.now = 0;
}

/* A positive E4M3 byte's value: its bits read as a float are 2^-120 of it, subnormals too. */
static __device__ inline float ni_byte_value(uint32_t byte) {
    return byte == NI_E4M3_NAN ? ni_f32_from(0x7fc00000u) : ni_f32_mul(ni_f32_from(byte << 20), 0x1p120f);
}

/* As ni_block_encode. */
static __device__ inline float ni_byte_encode(uint32_t byte, float sdec) {
    return ni_f32_finite(__frcp_rn(ni_f32_mul(ni_byte_value(byte), sdec)));
}

/* Entries `first`, `first` + `step`, ...; `factor` is a power of two: of a rotation, where it is folded in. */
static __device__ inline void ni_fill_table(ni_scale_entry *table, float sdec, float factor, int first, int step) {
#pragma unroll 2
    for (int i = first; i < NI_TILE_BYTES; i += step) {
        const uint32_t value = __float_as_uint(ni_byte_value((uint32_t)i)) >> 16;
        table[i].encode = i ? ni_f32_mul(ni_byte_encode((uint32_t)i, sdec), factor) : 0.0f;
        table[i].value = value | value << 16;
    }
}

/* Two numbers as E4M3, in the two low bytes; below 8.9 neither is negative. */
static __device__ inline uint32_t ni_e4m3_bytes(float first, float second) {
#if __CUDA_ARCH__ >= 890
    uint16_t bytes;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bytes) : "f"(second), "f"(first));
    return bytes;
#else
    return ni_e4m3_even(ni_f32_finite(first)) | (uint32_t)ni_e4m3_even(ni_f32_finite(second)) << 8;
#endif
}

/* Scale bytes of two maxima. */
static __device__ inline uint32_t ni_scale_bytes(float first, float second, float s_inner) {
    return ni_e4m3_bytes(ni_f32_mul(first, s_inner), ni_f32_mul(second, s_inner));
}

/* What all threads of a tile kernel need of one copy. */
typedef struct ni_tile_scale_of_copy {
    ni_scale_entry table[NI_TILE_BYTES];
    float s_inner;
    bool tame;
    uint32_t most_tame;
    ni_philox_shared drawn; /* of the copy's stream */
} ni_tile_scale_of_copy;

/* Maxima that are being found, zero between calls, and the scales of the copies being made. */
typedef struct ni_tile_room {
    uint32_t amax[2]; /* plain, rotated */
    uint32_t unused[6];
    ni_tile_scale_of_copy copies[2]; /* the row copy's, the column copy's */
} ni_tile_room;
static_assert(sizeof(ni_tile_room) <= NI_CUDA_TILE_ROOM, "the room of tiles is too small");

static __device__ inline ni_noise_key ni_tile_noise(const ni_cuda_noise &n) {
    ni_noise_key key = {n.seed, n.tensor, n.signs, 0, 0};
    if (n.clock) {
        key.step = n.clock[0];
        key.micro_batch = n.clock[1];
    }
    return key;
}

/* The stages of format/hadamard.h on COUNT numbers, without signs and factor, up to that which makes
 * groups of END. */
template <int COUNT, int END> static __device__ inline void ni_rotate_stages(float *x) {
#pragma unroll
    for (int half = 1; half < END; half *= 2)
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            if (!(i & half)) {
                const float a = x[i], b = x[i | half];
                x[i] = ni_f32_add(a, b);
                x[i | half] = ni_f32_sub(a, b);
            }
}

static __device__ inline void ni_rotate_sixteen(float *x) {
    ni_rotate_stages<16, 16>(x);
}

/* ---- the grid: adding a number whose ulp is the grid's step, and taking it away, rounds exactly ----
 *
 *     nearest      m 2^22 - y, ties to even; m is y itself, but of magnitude 1 + 2^-21 at least. Such an m 2^22 is a
 *                  multiple of the grid's step (even where y lies between two numbers of the grid), and y takes it over
 *                  its binade's lower end only within 2^-21 of a number of the grid, where a finer step rounds alike
 *     stochastic   y + u step, then p 2^22 is added toward zero and taken away; p is the power of two of y and at least
 *                  1, and bears the sign of y as u step does
 *
 * Signs of zeros are lost; codes take theirs from elsewhere. Beyond 8 the grid goes on without end. */

/* `unit`: a power of two that y and what comes out are times. */
template <bool TAME> static __device__ inline float ni_nearest_on_grid(float y, float unit = 1.0f) {
    float m;
#if __CUDA_ARCH__ >= 860
    asm("max.xorsign.abs.f32 %0, %1, %2;" : "=f"(m) : "f"(y), "f"(NI_GRID_LEAST * unit));
    if (!TAME)
        asm("min.xorsign.abs.f32 %0, %1, %2;" : "=f"(m) : "f"(m), "f"(8.0f * unit));
#else
    m = fmaxf(fabsf(y), NI_GRID_LEAST * unit);
    m = copysignf(TAME ? m : fminf(m, 8.0f * unit), y);
#endif
    return __fmaf_rn(m, 4194304.0f, -__fmaf_rn(m, 4194304.0f, -y));
}

/* `half_u` = u / 2, exact. */
template <bool TAME> static __device__ inline float ni_stochastic_on_grid(float y, float half_u) {
    float p;
#if __CUDA_ARCH__ >= 860
    asm("max.xorsign.abs.f32 %0, %1, %2;"
        : "=f"(p)
        : "f"(__uint_as_float(__float_as_uint(y) & 0xff800000u)), "f"(1.0f));
    if (!TAME)
        asm("min.xorsign.abs.f32 %0, %1, %2;" : "=f"(p) : "f"(p), "f"(8.0f));
#else
    p = fmaxf(__uint_as_float(__float_as_uint(y) & 0x7f800000u), 1.0f);
    p = copysignf(TAME ? p : fminf(p, 8.0f), y);
#endif
    return __fmaf_rn(p, -4194304.0f, __fmaf_rz(p, 4194304.0f, __fmaf_rn(half_u, p, y)));
}

/* u / 2 of lane `i` of eight: bytes or halves of words that are read as floats. Up to twice the smallest normal number
 * floats are equally far apart, so byte b at bit 16 is b 2^-133, and half h at bit 8 is h 2^-141. */
template <int BITS> static __device__ inline float ni_half_u(const uint32_t *words, int i) {
    const uint32_t bits = BITS == 8 ? __byte_perm(words[i / 4], 0, 0x4044u | (uint32_t)(i % 4) << 8)
                                    : __byte_perm(words[i / 2], 0, i % 2 ? 0x4324u : 0x4104u);
    return ni_f32_mul(__uint_as_float(bits), 0x1p124f);
}

template <int ROUND, bool TAME> static __device__ inline float ni_on_grid(float y, const uint32_t *words, int i) {
    return ROUND ? ni_stochastic_on_grid<TAME>(y, ni_half_u<(ROUND ? ROUND : 8)>(words, i))
                 : ni_nearest_on_grid<TAME>(y);
}

/* ---- the same for pairs of a tame tensor under eight random bits, mostly two numbers an instruction ----
 *
 * As a half, y 2^-14 is an integer that counts the grid's steps by 512: subnormals go on evenly below 1 as the grid does
 * below 2, and each binade above has two steps. So a byte of random bits, twice, is added to it, and nine bits are cut.
 * Ten bits behind y's first, cut, tell all that 256 thresholds a step ask. One thing is added before: y + u / 2 is rounded
 * to FP32 (format/e2m1.h), and so reaches 1/2 from 2^-26 below; larger ones are exact, or never as near. */

#define NI_DRAWN_FACTOR 0x1p-14f

/* low, high: magnitudes times that; `bytes`: one in each half. Zeros have no sign. */
static __device__ inline uint32_t ni_pair_drawn(float low, float high, uint32_t bytes, uint32_t signs) {
    uint32_t halves, pair;
    asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(__fadd_rz(high, 0x1p-40f)), "f"(__fadd_rz(low, 0x1p-40f)));
    const uint32_t steps = __vminu2(halves + 2 * bytes, 0x0fff0fffu); /* 6 at most */
    /* exponent and fraction where BF16 has them, 126 binades too low */
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(pair)
        : "r"((steps >> 3 & 0x01c001c0u) | (signs & NI_PAIR_SIGNS)), "r"(0x7e807e80u), "r"(0u));
    return pair;
}

/* Bytes 2 i and 2 i + 1 of a word, i < 2. */
static __device__ inline uint32_t ni_drawn_neighbours(uint32_t word, int i) {
    return __byte_perm(word, 0, i ? 0x4342 : 0x4140);
}

/* Byte i of each of two words. */
static __device__ inline uint32_t ni_drawn_for_two(uint32_t low, uint32_t high, int i) {
    return __byte_perm(__byte_perm(low, high, i / 2 ? 0x7632 : 0x5410), 0, i % 2 ? 0x4341 : 0x4240);
}

/* The codes of a pair, one in bits 0..3, one in 16..19: value x 2^-126 has the magnitude's code above six bits. */
static __device__ inline uint32_t ni_pair_codes(uint32_t pair, uint32_t signs) {
    const uint32_t bits = ni_pair_times(pair & NI_PAIR_MAGNITUDE, 0x00800080u);
    return (bits >> 6 & 0x00070007u) | (signs >> 12 & 0x00080008u);
}

/* Codes of eight pairs whose numbers are neighbours. */
static __device__ inline uint2 ni_codes_of_neighbours(const uint32_t *pairs, const uint32_t *signs) {
    uint2 codes = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t a = ni_pair_codes(pairs[i], signs[i]), b = ni_pair_codes(pairs[i + 4], signs[i + 4]);
        codes.x |= (a & 15u) << (8 * i) | (a >> 16) << (8 * i + 4);
        codes.y |= (b & 15u) << (8 * i) | (b >> 16) << (8 * i + 4);
    }
    return codes;
}

/* ---- chosen columns ---- */

/* One number of a block that the neighbours of this thread hold the rest of; `table` of its scales, or NULL. */
static __device__ inline void ni_encode_one(const ni_cuda_tile_copy &copy, const ni_tensor_scale &t,
                                            const ni_scale_entry *table, float x, int64_t at, bool live) {
    uint32_t amax = ni_f32_magnitude(x);
#pragma unroll
    for (int lane = 8; lane; lane /= 2)
        amax = max(amax, __shfl_xor_sync(~0u, amax, lane));
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(amax), 0.0f, t.s_inner);
    const float y = ni_f32_mul(x, table ? table[byte].encode : byte ? ni_byte_encode(byte, t.sdec) : 0.0f);
    const uint32_t q = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<false>(y), 0.0f));
    const uint32_t code = byte ? ni_pair_codes(q, ni_exact_pair(y, 0.0f)) & 15u : 0;
    const uint32_t next = __shfl_down_sync(~0u, code, 1);
    if (!live)
        return;
    copy.values[at] = (uint16_t)ni_pair_times(q, __float_as_uint(ni_byte_value(byte)) >> 16);
    if (copy.codes && at % 2 == 0)
        copy.codes[at / 2] = (uint8_t)(code | next << 4);
    if (copy.codes && at % 16 == 0)
        copy.scales[at / 16] = byte;
}

/* ---- maxima of rotated columns: the larger of |a + b| and |a - b| is |a| + |b|, rounded alike ---- */

/* The larger; NaN where one is. */
static __device__ inline float ni_larger_or_nan(float a, float b) {
    float m;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
    return m;
}

/* The largest magnitude of sixteen numbers, rotated but for the factor. Inf + Inf is Inf, but their difference is NaN. */
static __device__ inline float ni_rotated_amax(float *x) {
    ni_rotate_stages<16, 8>(x);
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++)
        largest = ni_larger_or_nan(largest, ni_f32_add(fabsf(x[i]), fabsf(x[i + 8])));
    if (ni_f32_magnitude(largest) >= NI_F32_INF_BITS)
#pragma unroll
        for (int i = 0; i < 8; i++)
            largest = ni_larger_or_nan(largest, fabsf(ni_f32_sub(fabsf(x[i]), fabsf(x[i + 8]))));
    return largest;
}

/* Of sixteen rows of two columns, under TransformerEngine's signs and rounded to BF16: rounding keeps the order, so the
 * maximum is rounded and not the numbers. */
static __device__ inline uint32_t ni_turned_amax(const uint32_t *pairs) {
    float a[16], b[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const bool minus = NI_FIXED_SIGNS >> i & 1u;
        a[i] = minus ? -ni_low_of(pairs[i]) : ni_low_of(pairs[i]);
        b[i] = minus ? -ni_high_of(pairs[i]) : ni_high_of(pairs[i]);
    }
    return ni_f32_magnitude(ni_bf16_round(ni_f32_mul(ni_larger_or_nan(ni_rotated_amax(a), ni_rotated_amax(b)), 0.25f)));
}

/* ---- maxima that are being found ---- */

/* What others of the same kernel found so far. */
static __device__ inline uint32_t ni_found_amax(const uint32_t *word) {
    return word ? *(const volatile uint32_t *)word : 0;
}

/* *to = max(*to, x) over a warp, where `known` was there before. */
static __device__ inline void ni_join_known(uint32_t *to, uint32_t x, uint32_t known) {
    x = __reduce_max_sync(~0u, x);
    if (to && threadIdx.x % 32 == 0 && x > known)
        atomicMax(to, x);
}

/* What has been found of a matrix' maxima when this kernel's warp looked: loads that are on their way early. */
typedef struct ni_known_amaxes {
    uint32_t plain, turned;
} ni_known_amaxes;

/* Two lanes of a warp ask for both words in one reading, and tell the others when they are wanted. */
static __device__ inline uint32_t ni_ask_for_warp(const uint32_t *plain, const uint32_t *turned) {
    const int lane = threadIdx.x % 32;
    return lane < 2 ? ni_found_amax(lane ? turned : plain) : 0;
}

static __device__ inline ni_known_amaxes ni_known_to_warp(uint32_t asked) {
    const ni_known_amaxes known = {__shfl_sync(~0u, asked, 0), __shfl_sync(~0u, asked, 1)};
    return known;
}

/* The same for a block: two lanes of warp WARP ask early, and leave in shared memory what came, for all behind the block's
 * next barrier. Every warp that asks for itself reads the one sector that the words lie in, which a slice of the second
 * level of the cache gives to one at a time. */
template <int WARP> static __device__ inline uint32_t ni_ask_amaxes(const uint32_t *plain, const uint32_t *turned) {
    const int lane = threadIdx.x % 32;
    return threadIdx.x / 32 == WARP && lane < 2 ? ni_found_amax(lane ? turned : plain) : 0;
}

template <int WARP> static __device__ inline void ni_tell_amaxes(ni_known_amaxes *known, uint32_t word) {
    const int lane = threadIdx.x % 32;
    if (threadIdx.x / 32 == WARP && lane < 2)
        (lane ? known->turned : known->plain) = word;
}

#endif
