/* packed_dotprod.c: packed products by ARM's SDOT, which adds the dots of four signed bytes to lanes of 32 bits.
 *
 * Panel of A, a step:  int8 integer[4 rows][16]                float scale[4]   (padded)                   128 bytes
 * Panel of B, a step:  int8 integer[4 quads of k][16 cols][4]  float scale[16]                             320 bytes
 *
 * A quad of one row of A, a lane of its register, meets that quad of four columns of B. Both sides are signed, so
 * nothing is offset. Lanes of 32 bits hold any dot, HiFloat4's and those over all of K included. 16x16 tiles need no
 * case of their own: their columns have equal scales.
 */
#include "backend/cpu/packed_tile.h"

#ifdef NI_ARM64 /* editors and linters read this file elsewhere too */
#include <arm_neon.h>

enum { ROWS = 4, GROUPS = 4, COLS = 4 * GROUPS, QUADS = NI_PACKED_STEP / 4 };

typedef struct step_a {
    int8_t integer[ROWS][NI_PACKED_STEP];
    float scale[ROWS];
    char padding[48];
} step_a;

typedef struct step_b {
    int8_t integer[QUADS][COLS][4];
    float scale[COLS];
} step_b;

/* ---- panels ---- */

/* HiFloat4's 16 integers of a step, doubled. */
static inline int8x16_t doubled(int8x16_t bytes, const ni_packed_operand *t, int64_t row, int64_t step) {
    const ni_doublings d = ni_packed_doublings(t, row, step);
    bytes = vaddq_s8(bytes, vandq_s8(bytes, vreinterpretq_s8_u32(vld1q_u32(d.once))));
    return vaddq_s8(bytes, vandq_s8(bytes, vreinterpretq_s8_u32(vld1q_u32(d.twice))));
}

/* The integers of the 16 codes of a step. */
static inline __attribute__((always_inline)) int8x16_t integers_of(const ni_packed_operand *t, int8x16_t table,
                                                                   int64_t row, int64_t step, bool inner) {
    const uint8x8_t pairs = vcreate_u8(ni_packed_codes(t, row, step, inner));
    const uint8x8_t low = vand_u8(pairs, vdup_n_u8(15)), high = vshr_n_u8(pairs, 4);
    const int8x16_t bytes = vqtbl1q_s8(table, vcombine_u8(vzip1_u8(low, high), vzip2_u8(low, high)));
    return t->scale_bytes == NI_HIF4_BYTES ? doubled(bytes, t, row, step) : bytes;
}

static inline __attribute__((always_inline)) void unpack_a(void *panel, const ni_packed_operand *a, int64_t first_row,
                                                           bool inner) {
    const int8x16_t table = vld1q_s8(a->integer);
    step_a *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < a->depth; s++, to++) {
        for (int64_t i = 0; i < ROWS; i++)
            vst1q_s8(to->integer[i], integers_of(a, table, first_row + i, s, inner));
        ni_packed_scales(to->scale, a, first_row, ROWS, s);
    }
}

static void pack_a(void *panel, const ni_packed_operand *a, int64_t first_row) {
    if (ni_packed_inner(a, first_row, ROWS))
        unpack_a(panel, a, first_row, true);
    else
        unpack_a(panel, a, first_row, false);
}

static inline __attribute__((always_inline)) void unpack_b(void *panel, const ni_packed_operand *b, int64_t first_row,
                                                           bool inner) {
    const int8x16_t table = vld1q_s8(b->integer);
    step_b *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < b->depth; s++, to++) {
        for (int64_t j = 0; j < COLS; j++) {
            int8_t row[NI_PACKED_STEP];
            vst1q_s8(row, integers_of(b, table, first_row + j, s, inner));
            for (int q = 0; q < QUADS; q++)
                memcpy(to->integer[q][j], row + 4 * q, 4);
        }
        ni_packed_scales(to->scale, b, first_row, COLS, s);
    }
}

static void pack_b(void *panel, const ni_packed_operand *b, int64_t first_row) {
    if (ni_packed_inner(b, first_row, COLS))
        unpack_b(panel, b, first_row, true);
    else
        unpack_b(panel, b, first_row, false);
}

/* ---- micro-tiles ---- */

typedef struct dots {
    int32x4_t of[GROUPS]; /* a row's with 16 columns */
} dots;

/* The dots of a row over one step more. */
static inline __attribute__((always_inline)) dots add_dots(dots d, const step_a *a, int i, const step_b *b) {
    const int8x16_t row = vld1q_s8(a->integer[i]);
#pragma GCC unroll 4
    for (int g = 0; g < GROUPS; g++) {
        d.of[g] = vdotq_laneq_s32(d.of[g], vld1q_s8(b->integer[0][4 * g]), row, 0);
        d.of[g] = vdotq_laneq_s32(d.of[g], vld1q_s8(b->integer[1][4 * g]), row, 1);
        d.of[g] = vdotq_laneq_s32(d.of[g], vld1q_s8(b->integer[2][4 * g]), row, 2);
        d.of[g] = vdotq_laneq_s32(d.of[g], vld1q_s8(b->integer[3][4 * g]), row, 3);
    }
    return d;
}

static inline dots no_dots(void) {
    const int32x4_t zero = vdupq_n_s32(0);
    return (dots){{zero, zero, zero, zero}};
}

/* `block` steps under one scale. `exact`: the product of dot and scales is, so that one rounding is left. */
static inline __attribute__((always_inline)) void sum_blocks(float32x4_t sums[ROWS][GROUPS], const step_a *a,
                                                             const step_b *b, int64_t steps, int block, bool exact) {
    for (int64_t s = 0; s < steps; s += block, a += block, b += block) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            dots d = no_dots();
            for (int k = 0; k < block; k++)
                d = add_dots(d, a + k, i, b + k);
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++) {
                const float32x4_t dot = vcvtq_f32_s32(d.of[g]);
                const float32x4_t scale = vmulq_n_f32(vld1q_f32(b->scale + 4 * g), a->scale[i]);
                sums[i][g] = exact ? vfmaq_f32(sums[i][g], dot, scale) : vaddq_f32(sums[i][g], vmulq_f32(dot, scale));
            }
        }
    }
}

static void sum_e4m3(float32x4_t sums[ROWS][GROUPS], const step_a *a, const step_b *b, int64_t steps) {
    sum_blocks(sums, a, b, steps, 1, true);
}

static void sum_e8m0(float32x4_t sums[ROWS][GROUPS], const step_a *a, const step_b *b, int64_t steps) {
    sum_blocks(sums, a, b, steps, 2, false);
}

static void sum_hif4(float32x4_t sums[ROWS][GROUPS], const step_a *a, const step_b *b, int64_t steps) {
    sum_blocks(sums, a, b, steps, NI_HIF4_GROUP / NI_PACKED_STEP, true);
}

static void sum_whole(float32x4_t sums[ROWS][GROUPS], const step_a *a, const step_b *b, int64_t steps) {
    for (int i = 0; i < ROWS; i++) {
        dots d = no_dots();
        for (int64_t s = 0; s < steps; s++)
            d = add_dots(d, a + s, i, b + s);
        for (int g = 0; g < GROUPS; g++)
            sums[i][g] = vcvtq_f32_s32(d.of[g]);
    }
}

static void multiply(ni_packed_sum sum, const void *panel_a, const void *panel_b, int64_t steps,
                     const ni_packed_result *to, const ni_packed_place *at) {
    float32x4_t sums[ROWS][GROUPS];
    float out[ROWS][COLS];
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            sums[i][g] = vdupq_n_f32(0);
    if (sum == NI_SUM_WHOLE)
        sum_whole(sums, panel_a, panel_b, steps);
    else if (sum == NI_SUM_HIF4)
        sum_hif4(sums, panel_a, panel_b, steps);
    else if (sum == NI_SUM_E8M0)
        sum_e8m0(sums, panel_a, panel_b, steps);
    else
        sum_e4m3(sums, panel_a, panel_b, steps);
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            vst1q_f32(out[i] + 4 * g, sums[i][g]);
    ni_packed_store(&out[0][0], COLS, to, at);
}

const ni_packed_kernel ni_packed_dotprod = {"packed sdot",  ROWS,   COLS,   sizeof(step_a),
                                            sizeof(step_b), pack_a, pack_b, multiply};
#endif
