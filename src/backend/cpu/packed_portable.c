/* packed_portable.c: packed products in plain C, laid out so that compilers find 16-bit vector arithmetic in it.
 *
 * Panel of A, a step:  int16 integer[16][4 rows]   float scale[4]   (padded)
 * Panel of B, a step:  int16 integer[16][16 cols]  float scale[16]
 *
 * The dot of a step is at most 16*28*28 = 12544 (HiFloat4) and fits 16 bits; those of E2M1 are at most 2304.
 */
#include "backend/cpu/packed_tile.h"

enum { ROWS = 4, COLS = 16 };

typedef struct step_a {
    int16_t integer[NI_PACKED_STEP][ROWS];
    float scale[ROWS];
    char padding[48];
} step_a;

typedef struct step_b {
    int16_t integer[NI_PACKED_STEP][COLS];
    float scale[COLS];
} step_b;

/* The 16 integers of a step of one row, `stride` apart. */
static void double_codes(int16_t *integer, int64_t stride, const ni_packed_operand *t, int64_t row, int64_t step) {
    const ni_doublings d = ni_packed_doublings(t, row, step);
    for (int k = 0; k < NI_PACKED_STEP; k++)
        integer[k * stride] = (int16_t)(integer[k * stride] * (1 + (d.once[k / 4] != 0)) * (1 + (d.twice[k / 4] != 0)));
}

static inline __attribute__((always_inline)) void unpack_a(void *panel, const ni_packed_operand *a, int64_t first_row,
                                                           bool inner) {
    step_a *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < a->depth; s++, to++) {
        for (int64_t i = 0; i < ROWS; i++) {
            uint64_t codes = ni_packed_codes(a, first_row + i, s, inner);
            for (int k = 0; k < NI_PACKED_STEP; k++)
                to->integer[k][i] = a->integer[codes >> 4 * k & 15];
            if (a->scale_bytes == NI_HIF4_BYTES)
                double_codes(&to->integer[0][i], ROWS, a, first_row + i, s);
        }
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
    step_b *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < b->depth; s++, to++) {
        for (int64_t j = 0; j < COLS; j++) {
            uint64_t codes = ni_packed_codes(b, first_row + j, s, inner);
            for (int k = 0; k < NI_PACKED_STEP; k++)
                to->integer[k][j] = b->integer[codes >> 4 * k & 15];
            if (b->scale_bytes == NI_HIF4_BYTES)
                double_codes(&to->integer[0][j], COLS, b, first_row + j, s);
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

static inline void dot_step(int16_t dot[COLS], const step_a *a, int i, const step_b *b) {
    for (int j = 0; j < COLS; j++)
        dot[j] = 0;
    for (int k = 0; k < NI_PACKED_STEP; k++) {
        int16_t x = a->integer[k][i];
#pragma omp simd
        for (int j = 0; j < COLS; j++)
            dot[j] = (int16_t)(dot[j] + x * b->integer[k][j]);
    }
}

/* Steps under one scale: 1 or 2. */
static inline void sum_blocks(float sums[ROWS][COLS], const step_a *a, const step_b *b, int64_t steps, int block) {
    for (int64_t s = 0; s < steps; s += block, a += block, b += block) {
        for (int i = 0; i < ROWS; i++) {
            int16_t dot[COLS], more[COLS] = {0};
            dot_step(dot, a, i, b);
            if (block == 2)
                dot_step(more, a + 1, i, b + 1);
            float scale_a = a->scale[i];
#pragma omp simd
            for (int j = 0; j < COLS; j++)
                sums[i][j] += (float)(dot[j] + more[j]) * (scale_a * b->scale[j]);
        }
    }
}

static inline void sum_hif4(float sums[ROWS][COLS], const step_a *a, const step_b *b, int64_t steps) {
    enum { STEPS = NI_HIF4_GROUP / NI_PACKED_STEP };
    for (int64_t s = 0; s < steps; s += STEPS, a += STEPS, b += STEPS) {
        for (int i = 0; i < ROWS; i++) {
            int32_t total[COLS] = {0};
            for (int k = 0; k < STEPS; k++) {
                int16_t dot[COLS];
                dot_step(dot, a + k, i, b + k);
#pragma omp simd
                for (int j = 0; j < COLS; j++)
                    total[j] += dot[j];
            }
            float scale_a = a->scale[i];
#pragma omp simd
            for (int j = 0; j < COLS; j++)
                sums[i][j] += (float)total[j] * (scale_a * b->scale[j]);
        }
    }
}

static void sum_whole(float sums[ROWS][COLS], const step_a *a, const step_b *b, int64_t steps) {
    int32_t total[ROWS][COLS] = {{0}};
    for (int64_t s = 0; s < steps; s++, a++, b++) {
        for (int i = 0; i < ROWS; i++) {
            int16_t dot[COLS];
            dot_step(dot, a, i, b);
#pragma omp simd
            for (int j = 0; j < COLS; j++)
                total[i][j] += dot[j];
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++)
            sums[i][j] = (float)total[i][j];
}

static void multiply(ni_packed_sum sum, const void *panel_a, const void *panel_b, int64_t steps,
                     const ni_packed_result *to, const ni_packed_place *at) {
    float sums[ROWS][COLS] = {{0}};
    if (sum == NI_SUM_WHOLE)
        sum_whole(sums, panel_a, panel_b, steps);
    else if (sum == NI_SUM_HIF4)
        sum_hif4(sums, panel_a, panel_b, steps);
    else if (sum == NI_SUM_E8M0)
        sum_blocks(sums, panel_a, panel_b, steps, 2);
    else
        sum_blocks(sums, panel_a, panel_b, steps, 1);
    ni_packed_store(&sums[0][0], COLS, to, at);
}

const ni_packed_kernel ni_packed_portable = {"packed portable", ROWS,   COLS,   sizeof(step_a),
                                             sizeof(step_b),    pack_a, pack_b, multiply};
