/* packed_tile.h: the parts that every packed kernel compiles for its own instruction set. */
#ifndef NI_BACKEND_CPU_PACKED_TILE_H
#define NI_BACKEND_CPU_PACKED_TILE_H

#include "backend/cpu/packed.h"
#include "format/bf16.h"
#include "format/hif4.h"

#include <string.h>

/* Whether all of a panel's rows exist and all its steps are whole: loads then need no look at the edges. */
static inline bool ni_packed_inner(const ni_packed_operand *t, int64_t first_row, int64_t rows) {
    return first_row + rows <= t->rows && t->depth % NI_PACKED_STEP == 0;
}

/* The 16 codes of one step of one row, 8 bytes; zeros beyond the last row and beyond K. */
static inline uint64_t ni_packed_codes(const ni_packed_operand *t, int64_t row, int64_t step, bool inner) {
    uint64_t codes = 0;
    if (!inner && row >= t->rows)
        return codes;
    const uint8_t *from = t->codes + row * ((t->depth + 1) / 2) + step * 8;
    int64_t left = t->depth - step * NI_PACKED_STEP;
    if (inner || left >= NI_PACKED_STEP) {
        memcpy(&codes, from, 8);
        return codes;
    }
    memcpy(&codes, from, (size_t)(left + 1) / 2);
    return codes & ((UINT64_C(1) << 4 * left) - 1); /* an odd K leaves a stray nibble */
}

/* The scales of that step for `rows` rows; 0 beyond the last row and where there are none. */
static inline void ni_packed_scales(float *scales, const ni_packed_operand *t, int64_t first_row, int64_t rows,
                                    int64_t step) {
    int64_t there = !t->scales ? 0 : t->rows - first_row < rows ? t->rows - first_row : rows;
    if (there > 0) {
        int64_t stride = t->depth / t->block * t->scale_bytes;
        const uint8_t *from = t->scales + first_row * stride + step * NI_PACKED_STEP / t->block * t->scale_bytes;
        for (int64_t i = 0; i < there; i++)
            scales[i] = t->scale[from[i * stride]];
    }
    for (int64_t i = there > 0 ? there : 0; i < rows; i++)
        scales[i] = 0.0f;
}

/* Of a step of one row of HiFloat4: all bits of each byte of once[i] are set where codes 4i .. 4i+3 are doubled, of
 * twice[i] where they are doubled again. Rows that are not there have no codes to double. */
typedef struct ni_doublings {
    uint32_t once[4], twice[4];
} ni_doublings;

static inline ni_doublings ni_packed_doublings(const ni_packed_operand *t, int64_t row, int64_t step) {
    enum { STEPS = NI_HIF4_GROUP / NI_PACKED_STEP };
    ni_doublings d = {{0}, {0}};
    if (row >= t->rows)
        return d;
    const uint8_t *scales = t->scales + (row * (t->depth / NI_HIF4_GROUP) + step / STEPS) * NI_HIF4_BYTES;
    const int at = (int)(step % STEPS);
    const uint32_t by8 = scales[1] >> (2 * at), by4 = (uint32_t)(scales[2] | scales[3] << 8) >> (4 * at);
    for (int i = 0; i < 4; i++) {
        const uint32_t eight = 0u - (by8 >> (i / 2) & 1u), four = 0u - (by4 >> i & 1u);
        d.once[i] = eight | four;
        d.twice[i] = eight & four;
    }
    return d;
}

static inline void ni_packed_store_row(const float *sum, int64_t cols, const ni_packed_result *to, int64_t row,
                                       int64_t col) {
    float outer_a = to->outer_a[row];
    const float *outer_b = to->outer_b + col;
    float *c_f32 = (float *)to->c.data + row * to->c.stride + col;
    uint16_t *c_bf16 = (uint16_t *)to->c.data + row * to->c.stride + col;
    if (to->c.dtype == NB_F32 && to->accumulate) {
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            c_f32[j] = c_f32[j] + sum[j] * (outer_a * outer_b[j]);
    } else if (to->c.dtype == NB_F32) {
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            c_f32[j] = sum[j] * (outer_a * outer_b[j]);
    } else if (to->accumulate) {
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            c_bf16[j] = ni_bf16_even(ni_bf16_value(c_bf16[j]) + sum[j] * (outer_a * outer_b[j]));
    } else {
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            c_bf16[j] = ni_bf16_even(sum[j] * (outer_a * outer_b[j]));
    }
}

/* From the sums of a micro-tile [rows][width] to C. Whole rows have a length that the compiler knows. */
static inline void ni_packed_store(const float *sums, int64_t width, const ni_packed_result *to,
                                   const ni_packed_place *at) {
    if (at->cols == width)
        for (int64_t i = 0; i < at->rows; i++)
            ni_packed_store_row(sums + i * width, width, to, at->row + i, at->col);
    else
        for (int64_t i = 0; i < at->rows; i++)
            ni_packed_store_row(sums + i * width, at->cols, to, at->row + i, at->col);
}

#endif
