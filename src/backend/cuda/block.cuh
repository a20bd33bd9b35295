/* block.cuh: the rules by which blocks choose their scales, each for a thread that holds 16 neighbours on the contraction:
 *
 *     ni_mx_rule     E2M1 under E8M0 scales of 32: floor, ceil, 3/4, and QuEST's spread (format/quartet.h)
 *     ni_mx8_rule    E4M3 under E8M0 scales of 32, values alone
 *     ni_e4m3_rule   E2M1 under E4M3 scales of 16 or (TILES) of 16x16 in 16 lanes: the maximum, or Four Over Six
 *     ni_eden_rule   E2M1 under E4M3 scales that are corrected over a rotated group: MS-EDEN (format/quartet.h)
 *     ni_hif4_rule   S1P2 under HiFloat4's three levels of 64 (format/hif4.h)
 *
 * A rule says how many lanes hold what shares a scale (LANES) and makes codes, values and the scale's bytes of 16 numbers.
 * Lanes that hold a group are neighbours; all lanes of a warp come together.
 */
#ifndef NI_BACKEND_CUDA_BLOCK_CUH
#define NI_BACKEND_CUDA_BLOCK_CUH

#include "backend/cuda/eights.cuh"
#include "backend/cuda/sixteen.cuh"
#include "backend/cuda/tile_error.cuh"
#include "format/e8m0.h"
#include "format/hif4.h"
#include "format/quartet.h"

/* What all threads of a block share of a copy. */
typedef struct ni_block_copy {
    nb_quantizer quantizer;
    ni_noise_key key;
    ni_philox_shared drawn; /* of the copy's stream */
    ni_sign_mask signs;
    ni_e4m3_target target;
    ni_tensor_scale scale;
    float amax; /* that the tensor's scale is made from */
    bool tame;  /* Four Over Six divides by multiplying */
} ni_block_copy;

/* Sixteen numbers: pairs of BF16 values, their codes, the bytes of the scale that the first lane of its block stores. */
typedef struct ni_block_made {
    uint32_t values[8];
    uint2 codes;
    uint32_t scale;
} ni_block_made;

static __device__ inline void ni_open_block_copy(ni_block_copy *b, const ni_cuda_tile_copy &copy) {
    b->quantizer = copy.quantizer;
    b->key = ni_tile_noise(copy.noise);
    b->drawn = ni_philox_share(&copy.keys, b->key.step, b->key.micro_batch);
    b->signs = ni_signs_of(copy.quantizer.hadamard_signs, &b->key);
    b->target = ni_e4m3_target_for(&copy.quantizer);
    b->amax = copy.amax ? ni_f32_from(*copy.amax) : 0.0f;
    b->scale = ni_tensor_scale_of(b->target, copy.quantizer.outer, b->amax);
    b->tame = b->amax >= 0x1p-60f && b->amax <= 0x1p60f;
}

/* ---- rotation ---- */

/* A group of n neighbours lies in n / 16 lanes: signs, stages and factor of format/hadamard.h. */
static __device__ inline void ni_turn_lanes(float *x, int n, int part, const ni_block_copy &b) {
    const uint32_t signs = b.signs.w[part / 2] >> (part % 2 * 16);
    const float factor = ni_hadamard_factor(n);
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = __uint_as_float(__float_as_uint(x[i]) ^ (signs >> i & 1u) << 31);
    ni_rotate_sixteen(x);
    for (int half = 1; half < n / 16; half *= 2)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float other = __shfl_xor_sync(~0u, x[i], half);
            x[i] = part & half ? ni_f32_sub(other, x[i]) : ni_f32_add(x[i], other);
        }
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = ni_f32_mul(x[i], factor);
    if (b.quantizer.hadamard_round_bf16)
#pragma unroll
        for (int i = 0; i < 16; i += 2) {
            const uint32_t pair = ni_pack_two(x[i], x[i + 1]);
            x[i] = ni_low_of(pair);
            x[i + 1] = ni_high_of(pair);
        }
}

/* ---- E2M1 ---- */

/* Pairs on the grid by the rounding that the quantizer says; `group` counts sixteens (format/noise.h). */
static __device__ inline void ni_block_grid(const ni_block_copy &b, const ni_philox_keys &keys, const float *x,
                                            float encode, uint32_t group, uint32_t *q, uint32_t *signs) {
    uint32_t words[8];
    if (b.quantizer.round == NB_ROUND_EVEN) {
        ni_grid_sixteen<0>(x, encode, words, q, signs);
    } else if (b.quantizer.sr_bits == 8) {
        ni_draw_sixteen<8>(keys, b.drawn, group, words);
        ni_grid_sixteen<8>(x, encode, words, q, signs);
    } else {
        ni_draw_sixteen<16>(keys, b.drawn, group, words);
        ni_grid_sixteen<16>(x, encode, words, q, signs);
    }
}

/* `value` of the scale is exact in BF16; under a byte of 0 (`zero`) codes are 0. */
static __device__ inline void ni_block_e2m1(const ni_block_copy &b, const ni_philox_keys &keys, const float *x,
                                            float encode, float value, bool zero, uint32_t group, ni_block_made *made) {
    const uint32_t half = __float_as_uint(value) >> 16, scale = half | half << 16;
    uint32_t q[8], signs[8];
    ni_block_grid(b, keys, x, encode, group, q, signs);
#pragma unroll
    for (int i = 0; i < 8; i++)
        made->values[i] = ni_pair_times(q[i], scale);
    made->codes = zero ? make_uint2(0, 0) : ni_codes_of_neighbours(q, signs);
}

static __device__ inline float ni_nearest_e2m1(float y) {
    return ni_up_to_six(ni_nearest_on_grid<false>(y));
}

/* ---- the rules ---- */

typedef struct ni_mx_rule {
    enum { LANES = 2, STORED_BY = 2 };

    /* Sums of a block as ni_tree_sum adds them: the first lane those of values, the second those of squares. */
    static __device__ uint8_t quest_byte(const float *x) {
        const bool squares = threadIdx.x & 1;
        float t[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float other = __shfl_xor_sync(~0u, x[i], 1);
            t[i] = squares ? ni_f32_add(ni_f32_mul(x[i], x[i]), ni_f32_mul(other, other)) : ni_f32_add(x[i], other);
        }
        const float mine = ni_tree_sum(t, 16), other = __shfl_xor_sync(~0u, mine, 1);
        return ni_e8m0_quest(squares ? other : mine, squares ? mine : other);
    }

    static __device__ void make(const ni_block_copy &b, const ni_philox_keys &keys, const float *x, uint32_t group,
                                int part, ni_block_made *made) {
        const nb_scale_rule rule = b.quantizer.rule;
        uint8_t byte;
        if (rule == NB_RULE_QUEST) {
            byte = quest_byte(x);
        } else {
            const uint32_t mine = ni_amax_of_sixteen(x), amax = max(mine, __shfl_xor_sync(~0u, mine, 1));
            byte = ni_e8m0_of(rule, ni_f32_from(amax), 6.0f);
        }
        made->scale = byte;
        ni_block_e2m1(b, keys, x, ni_e8m0_encode(rule, byte), ni_e8m0_value(byte), false, group, made);
    }

    static __device__ float tensor_scale(const ni_block_copy &b) {
        return NI_FOUR_THIRDS;
    }
} ni_mx_rule;

/* Two numbers as E4M3 holds them; their codes. */
static __device__ inline uint32_t ni_through_e4m3(float *x) {
#if __CUDA_ARCH__ >= 890
    const uint32_t codes = ni_e4m3_bytes(x[0], x[1]);
#else
    const uint32_t codes = ni_e4m3_even(x[0]) | (uint32_t)ni_e4m3_even(x[1]) << 8;
#endif
    ni_e4m3_pair(codes, x);
    return codes;
}

/* The scale byte of a block of MXFP8, of which two neighbouring lanes hold sixteen each. */
static __device__ inline uint8_t ni_eight_scale(nb_scale_rule rule, const float *x) {
    const uint32_t mine = ni_amax_of_sixteen(x), amax = max(mine, __shfl_xor_sync(~0u, mine, 1));
    return ni_e8m0_of(rule, ni_f32_from(amax), 448.0f);
}

/* Sixteen numbers under it: pairs of BF16 values, and codes, four in a word. */
static __device__ inline void ni_encode_eights(nb_scale_rule rule, uint8_t byte, const float *x, uint32_t *values,
                                               uint32_t *codes) {
    const float encode = ni_e8m0_encode(rule, byte), value = ni_e8m0_value(byte);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float pair[2] = {ni_f32_mul(x[2 * i], encode), ni_f32_mul(x[2 * i + 1], encode)};
        const uint32_t bytes = ni_through_e4m3(pair);
        values[i] = ni_pack_two(ni_f32_mul(pair[0], value), ni_f32_mul(pair[1], value));
        codes[i / 2] = i % 2 ? codes[i / 2] | bytes << 16 : bytes;
    }
}

typedef struct ni_mx8_rule {
    enum { LANES = 2, STORED_BY = 2 };

    static __device__ void make(const ni_block_copy &b, const ni_philox_keys &keys, const float *x, uint32_t group,
                                int part, ni_block_made *made) {
        uint32_t codes[4];
        made->scale = ni_eight_scale(b.quantizer.rule, x);
        ni_encode_eights(b.quantizer.rule, (uint8_t)made->scale, x, made->values, codes);
        made->codes = make_uint2(0, 0);
    }

    static __device__ float tensor_scale(const ni_block_copy &b) {
        return 1.0f;
    }
} ni_mx8_rule;

/* E2M1 under E4M3 scales of 16, or of 16x16 in 16 lanes. */
template <bool TILES> struct ni_e4m3_rule {
    enum { LANES = 1, STORED_BY = 1 };

    /* What the block errs under a scale; a tile's lanes are 16. */
    template <bool TAME> static __device__ float error_of(const ni_block_copy &b, const float *x, uint32_t byte) {
        const nb_quantizer &q = b.quantizer;
        const float encode = byte ? ni_byte_encode(byte, b.scale.sdec) : 0.0f, value = ni_byte_value(byte);
        const float max = b.target.max_of_both, inverse = __frcp_rn(max);
        float terms[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float whole = ni_f32_mul(ni_f32_mul(ni_nearest_e2m1(ni_f32_mul(x[i], encode)), value), b.amax);
            const float decoded = TAME ? ni_four_six_quotient(whole, max, inverse) : ni_f32_div(whole, max);
            const float d = ni_f32_sub(decoded, x[i]);
            terms[i] = q.four_six == NB_FOUR_SIX_MSE ? ni_f32_mul(d, d) : fabsf(d);
        }
        return TILES ? ni_tile_error(q, terms, (int)threadIdx.x % 32 / 16 * 16) : ni_four_six_row(&q, terms);
    }

    template <bool TAME> static __device__ uint32_t four_or_six(const ni_block_copy &b, const float *x, float amax) {
        const float base = ni_f32_mul(ni_f32_div(amax, b.target.max), b.scale.s);
        const uint32_t both = ni_e4m3_bytes(base, ni_f32_mul(base, 1.5f)), six = both & 0xffu, four = both >> 8;
        const float of_six = error_of<TAME>(b, x, six), of_four = error_of<TAME>(b, x, four);
        return of_four < of_six ? four : six;
    }

    static __device__ void make(const ni_block_copy &b, const ni_philox_keys &keys, const float *x, uint32_t group,
                                int part, ni_block_made *made) {
        uint32_t amax = ni_amax_of_sixteen(x), byte;
        if (TILES)
#pragma unroll
            for (int lane = 8; lane; lane /= 2)
                amax = max(amax, __shfl_xor_sync(~0u, amax, lane));
        if (!b.quantizer.four_six)
            byte = ni_scale_bytes(ni_f32_from(amax), 0.0f, b.scale.s_inner) & 0xffu;
        else
            byte = b.tame ? four_or_six<true>(b, x, ni_f32_from(amax)) : four_or_six<false>(b, x, ni_f32_from(amax));
        made->scale = byte;
        ni_block_e2m1(b, keys, x, byte ? ni_byte_encode(byte, b.scale.sdec) : 0.0f, ni_byte_value(byte), byte == 0,
                      group, made);
    }

    static __device__ float tensor_scale(const ni_block_copy &b) {
        return b.scale.sdec;
    }
};

typedef struct ni_eden_rule {
    enum { LANES = 1, STORED_BY = 1 };

    /* u of element `block` (format/noise.h). */
    static __device__ float noise_of(const ni_block_copy &b, uint32_t block) {
        const uint32_t lane = block % NI_NOISE_GROUP;
        const bool bytes = b.quantizer.sr_bits == 8, high = !bytes && lane >= 8;
        const ni_philox_words r = ni_philox(b.key.seed, b.key.tensor, block / NI_NOISE_GROUP, b.key.step,
                                            b.key.micro_batch, high ? NI_PURPOSE_ROUNDING_HI : NI_PURPOSE_ROUNDING);
        const uint32_t at = bytes ? lane / 4 : lane % 8 / 2, word = at & 2   ? at & 1 ? r.w[3] : r.w[2]
                                                                      : at & 1 ? r.w[1]
                                                                             : r.w[0];
        return bytes ? ni_f32_mul((float)(word >> (8 * (lane % 4)) & 0xffu), 0x1p-8f)
                     : ni_f32_mul((float)(word >> (16 * (lane % 2)) & 0xffffu), 0x1p-16f);
    }

    /* Over the lanes of a rotated group, in the order of ni_tree_sum. */
    static __device__ float factor_of(const ni_block_copy &b, const float *x, float encode) {
        float squares[16], products[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float y = ni_f32_mul(x[i], encode);
            squares[i] = ni_f32_mul(y, y);
            products[i] = ni_f32_mul(y, ni_nearest_e2m1(y));
        }
        ni_eden_sums s = {ni_tree_sum(squares, 16), ni_tree_sum(products, 16)};
        for (int lane = b.quantizer.hadamard_size / 32; lane; lane /= 2) {
            s.squares = ni_f32_add(s.squares, __shfl_xor_sync(~0u, s.squares, lane));
            s.products = ni_f32_add(s.products, __shfl_xor_sync(~0u, s.products, lane));
        }
        return ni_eden_factor(s);
    }

    static __device__ void make(const ni_block_copy &b, const ni_philox_keys &keys, const float *x, uint32_t group,
                                int part, ni_block_made *made) {
        const uint32_t nearest = ni_scale_bytes(ni_f32_from(ni_amax_of_sixteen(x)), 0.0f, b.scale.s_inner) & 0xffu;
        const uint8_t first = ni_eden_first_byte((uint8_t)nearest);
        const float encode = ni_byte_encode(first, b.scale.sdec);
        const uint8_t byte = ni_eden_byte(first, factor_of(b, x, encode), noise_of(b, group));
        made->scale = byte;
        ni_block_e2m1(b, keys, x, encode, ni_byte_value(byte), byte == 0, group, made);
    }

    static __device__ float tensor_scale(const ni_block_copy &b) {
        return b.scale.sdec;
    }
} ni_eden_rule;

typedef struct ni_hif4_rule {
    enum { LANES = 4, STORED_BY = 4 };

    /* |y| in quarters as an integer behind a float whose ulp is 1, 7 at most; NaN too. format/s1p2.h. */
    static __device__ float quarters(const ni_block_copy &b, float y, float u) {
        const float a = fminf(ni_f32_mul(fabsf(y), 4.0f), 7.0f);
        return b.quantizer.round == NB_ROUND_EVEN   ? ni_f32_add(a, 8388608.0f)
               : b.quantizer.round == NB_ROUND_AWAY ? __fadd_rz(__fadd_rz(a, 0.5f), 8388608.0f)
                                                    : __fadd_rz(ni_f32_add(a, u), 8388608.0f);
    }

    /* Four numbers under their scales. */
    static __device__ void encode_four(const ni_block_copy &b, const float *x, const float *u, float encode,
                                       float decode, uint32_t *values, uint32_t *codes) {
        float out[4];
        *codes = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float y = ni_f32_mul(x[i], encode), m = quarters(b, y, u[i]);
            const uint32_t sign = __float_as_uint(y) & 0x80000000u;
            *codes |= ((__float_as_uint(m) & 7u) | sign >> 28) << (4 * i);
            out[i] = __uint_as_float(__float_as_uint(ni_f32_mul(ni_f32_sub(m, 8388608.0f), decode)) | sign);
        }
        values[0] = ni_exact_pair(out[0], out[1]);
        values[1] = ni_exact_pair(out[2], out[3]);
    }

    static __device__ void draw(const ni_block_copy &b, uint32_t group, float *u) {
        if (b.quantizer.round == NB_ROUND_STOCHASTIC)
            ni_noise_group(&b.key, group, b.quantizer.sr_bits, u);
    }

    static __device__ void make(const ni_block_copy &b, const ni_philox_keys &keys, const float *x, uint32_t group,
                                int part, ni_block_made *made) {
        uint32_t amax[4], all = 0, codes[4];
        float u[16] = {};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            amax[k] = 0;
#pragma unroll
            for (int i = 0; i < 4; i++)
                amax[k] = max(amax[k], ni_f32_magnitude(x[4 * k + i]));
            all = max(all, amax[k]);
        }
        all = max(all, __shfl_xor_sync(~0u, all, 1));
        all = max(all, __shfl_xor_sync(~0u, all, 2));
        const uint8_t coarse = ni_e6m2_of(ni_f32_from(all));
        const float r = ni_e6m2_inverse(coarse), value = ni_f32_mul(ni_e6m2_value(coarse), 0.25f);
        uint32_t scale = coarse;
        draw(b, group, u);
        part %= LANES;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const bool by8 = ni_f32_mul(ni_f32_from(max(amax[k & 2], amax[k | 1])), r) >= 4.0f;
            const bool by4 = ni_f32_mul(ni_f32_from(amax[k]), r) >= (by8 ? 4.0f : 2.0f);
            const float times = by8 && by4   ? 4.0f
                                : by8 || by4 ? 2.0f
                                             : 1.0f,
                        over = by8 && by4   ? 0.25f
                               : by8 || by4 ? 0.5f
                                            : 1.0f;
            scale |= (uint32_t)by8 << (8 + 2 * part + k / 2) | (uint32_t)by4 << (16 + 4 * part + k);
            encode_four(b, x + 4 * k, u + 4 * k, ni_f32_mul(r, over), ni_f32_mul(value, times), made->values + 2 * k,
                        &codes[k]);
        }
        made->codes = make_uint2(codes[0] | codes[1] << 16, codes[2] | codes[3] << 16);
        scale |= __shfl_xor_sync(~0u, scale, 1);
        made->scale = scale | __shfl_xor_sync(~0u, scale, 2);
    }

    static __device__ float tensor_scale(const ni_block_copy &b) {
        return 1.0f;
    }
} ni_hif4_rule;

/* The scale that decodes a tensor, and its maximum for who is made under it. */
template <typename RULE> static __device__ void ni_leave_scale(const ni_block_copy &b, const ni_cuda_tile_copy &copy) {
    if (copy.tensor_scale)
        *copy.tensor_scale = RULE::tensor_scale(b);
    if (copy.head)
        *copy.head = *copy.amax;
}

#endif
