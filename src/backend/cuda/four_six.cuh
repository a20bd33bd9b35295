/* four_six.cuh: Four Over Six (format/four_six.h) for a thread that holds 16 numbers of a block, nearly: which of two sums
 * is the smaller one is told by sums that are near them, where these are further apart than they can be off. A number costs
 * six instructions a scale so, and twelve by the format's own:
 *
 *     d = fma(q, v, -x)     v = fl(value * unit), unit = fl(amax / max_of_both); q is the very number of the grid
 *
 * With u = 2^-24 and M the block's largest magnitude: |q v| is 2 M at most (0.25 becomes 0.5), four roundings part it from the
 * format's; |d| is M at most, one rounding each. So a d is off by 10 u M, a sum S of 16 squares by 80 u M sqrt(S) <=
 * 10 u M^2 + 160 u S, and by 33 u S for its own roundings; a sum of magnitudes by 160 u M + 32 u S. What is asked for is
 * a little more than that of both sums. Of a normal distribution's blocks three in ten thousand are too near to call.
 */
#ifndef NI_BACKEND_CUDA_FOUR_SIX_CUH
#define NI_BACKEND_CUDA_FOUR_SIX_CUH

#include "backend/cuda/sixteen.cuh"

#define NI_NEAR_SQUARES 0x1p-19f /* 32 u */
#define NI_NEAR_SQUARES_OF_SUM 0x1p-16f
#define NI_NEAR_MAGNITUDES 0x1p-15f /* 512 u */
#define NI_NEAR_MAGNITUDES_OF_SUM 0x1p-18f

/* Both scales of a block, from base. */
typedef struct ni_two_bytes {
    uint32_t six, four;
} ni_two_bytes;

static __device__ inline ni_two_bytes ni_bytes_from(float base) {
    const uint32_t both = ni_e4m3_bytes(base, ni_f32_mul(base, 1.5f));
    return ni_two_bytes{both & 0xffu, both >> 8};
}

/* What numbers are multiplied by, and v. */
typedef struct ni_near_scale {
    float encode, value;
} ni_near_scale;

typedef struct ni_near_block {
    float amax;
    ni_two_bytes bytes;
    ni_near_scale of_six, of_four;
    bool told, four; /* told: which of them it takes */
    uint32_t q[8];   /* pairs on the grid: where it is told and rounds to nearest */
} ni_near_block;

/* No square of what matters is subnormal. */
static __device__ inline bool ni_is_near_amax(float amax) {
    return amax == 0.0f || amax >= 0x1p-50f;
}

/* Not where one is NaN. */
static __device__ inline bool ni_is_near(const ni_near_block &near) {
    return ni_f32_mul(near.amax, near.of_six.encode) < 16.0f && ni_f32_mul(near.amax, near.of_four.encode) < 16.0f;
}

/* The sum of what sixteen numbers err, nearly; KEEP: and their pairs on the grid. */
template <bool SQUARES, bool KEEP>
static __device__ inline float ni_near_error(const float *x, float amax, const ni_near_scale &scale, uint32_t *pairs) {
    float q[16], sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 16; i++)
        q[i] = ni_nearest_on_grid<true>(ni_f32_mul(x[i], scale.encode));
    if (ni_f32_mul(amax, scale.encode) >= 7.0f) /* 8 is the next number of the grid that goes on */
#pragma unroll
        for (int i = 0; i < 16; i++)
            q[i] = ni_up_to_six(q[i]);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float d = __fmaf_rn(q[i], scale.value, -x[i]);
        sums[i % 2] = SQUARES ? __fmaf_rn(d, d, sums[i % 2]) : ni_f32_add(sums[i % 2], fabsf(d));
    }
    if (KEEP)
#pragma unroll
        for (int i = 0; i < 8; i++)
            pairs[i] = ni_exact_pair(q[2 * i], q[2 * i + 1]);
    return ni_f32_add(sums[0], sums[1]);
}

template <bool SQUARES, bool KEEP> static __device__ inline void ni_tell_by(const float *x, ni_near_block *near) {
    uint32_t pairs[8];
    const float six = ni_near_error<SQUARES, KEEP>(x, near->amax, near->of_six, near->q),
                four = ni_near_error<SQUARES, KEEP>(x, near->amax, near->of_four, pairs);
    const float off = SQUARES ? ni_f32_mul(ni_f32_mul(near->amax, near->amax), NI_NEAR_SQUARES)
                              : ni_f32_mul(near->amax, NI_NEAR_MAGNITUDES);
    near->told =
        near->bytes.six == near->bytes.four ||
        fabsf(ni_f32_sub(four, six)) >
            __fmaf_rn(ni_f32_add(four, six), SQUARES ? NI_NEAR_SQUARES_OF_SUM : NI_NEAR_MAGNITUDES_OF_SUM, off);
    near->four = four < six;
    if (KEEP)
#pragma unroll
        for (int i = 0; i < 8; i++)
            near->q[i] = near->four ? pairs[i] : near->q[i];
}

/* Of a tensor whose maximum lies in [2^-60, 2^60], and a block that is near. */
template <bool KEEP> static __device__ inline void ni_tell(bool squares, const float *x, ni_near_block *near) {
    if (squares)
        ni_tell_by<true, KEEP>(x, near);
    else
        ni_tell_by<false, KEEP>(x, near);
}

/* Pairs by eight random bits each, of a block that is told; `signs` has those of x. */
static __device__ inline void ni_draw_nearly(const ni_near_block &near, const float *x, const uint32_t *signs,
                                             const ni_philox_keys &keys, const ni_philox_shared &drawn, uint32_t group,
                                             uint32_t *q) {
    const float encode = ni_f32_mul(near.four ? near.of_four.encode : near.of_six.encode, NI_DRAWN_FACTOR);
    uint32_t words[4];
    ni_draw_sixteen<8>(keys, drawn, group, words);
#pragma unroll
    for (int i = 0; i < 8; i++)
        q[i] = ni_pair_drawn(ni_f32_mul(fabsf(x[2 * i]), encode), ni_f32_mul(fabsf(x[2 * i + 1]), encode),
                             ni_drawn_neighbours(words[i / 2], i % 2), signs[i]);
}

#endif
