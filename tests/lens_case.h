/* lens_case.h: planted troubles, shown to an observer as a linear layer would show them. */
#ifndef NI_TESTS_LENS_CASE_H
#define NI_TESTS_LENS_CASE_H

#include "backend/table.h"
#include "base/philox.h"
#include "format/bf16.h"
#include "lens/observer.h"
#include <string.h>

enum { TOKENS = 64, WIDTH = 64 };

static inline float normal(uint32_t i) { /* sum of four uniforms: near enough */
    ni_philox_words w = ni_philox(3, 3, i, 0, 0, 0);
    double sum = 0;
    for (int k = 0; k < 4; k++)
        sum += (double)w.w[k] / 4294967296.0 - 0.5;
    return (float)(sum * 1.7320508);
}

static inline nb_quantizer nvfp4(int rows) {
    nb_quantizer q = nb_quantizer_bf16();
    q.element = NB_ELEMENT_E2M1;
    q.scale_type = NB_SCALE_E4M3;
    q.outer = NB_OUTER_TENSOR;
    q.block_rows = rows;
    q.block_cols = 16;
    return q;
}

/* Quantizes and shows. */
static inline void show(nb_backend *be, const nb_lens *lens, const char *module, nb_role role, const nb_mat *source,
                        int block_rows) {
    nb_quantizer q = nvfp4(block_rows);
    void *memory = be->ops->alloc(be, nb_qtensor_bytes(&q, source->rows, source->cols).total, "codes");
    nb_qtensor codes = nb_qtensor_place(&q, source->rows, source->cols, memory);
    nb_quantize_stats *stats = lens->counts ? be->ops->alloc(be, sizeof *stats, "what is counted") : NULL;
    nb_noise noise = {0};
    nb_pass pass = {.lens = lens};
    assert_int_equal(nb_quantize(be, &codes, source, false, &noise, NULL, NULL), NB_OK);
    nb_operand operand = {.quantizer = q, .other = q, .rows = source->rows, .cols = source->cols, .reread = true};
    const ni_source from = {.numbers = source};
    const ni_making making = {.out = &operand, .noise = &noise, .stats = stats};
    operand.memory = be->ops->alloc(be, be->ops->operand_bytes(be, &operand), "a test");
    assert_int_equal(be->ops->make_operands(be, &from, &making, 1, NULL), NB_OK);
    nb_lens_operand seen = {.be = be,
                            .pass = &pass,
                            .module = module,
                            .role = role,
                            .source = source,
                            .quantized = &codes,
                            .operand = &operand,
                            .stats = stats};
    lens->operand(lens->context, &seen);
    nb_backend_release(be, stats);
    be->ops->release(be, operand.memory);
    be->ops->release(be, memory);
}

/* X [TOKENS, WIDTH] in which the channels `hot` (ends with -1) are thirty times as loud as the others. */
static inline void plant_hot_channels(uint16_t *x, const int *hot, uint32_t seed) {
    for (uint32_t i = 0; i < TOKENS * WIDTH; i++) {
        float loudness = 1;
        for (const int *h = hot; *h >= 0; h++)
            loudness = i % WIDTH == (uint32_t)*h ? 30 : loudness;
        x[i] = ni_bf16_even(normal(i + 9999 * seed) * loudness);
    }
}

/* W [16, WIDTH] whose element 0 jumps over the edge between codes 2 and 3 by a hair at every step; element 1 drifts
 * within its bin; all others stand still. */
static inline void plant_oscillation(float *w, int64_t step) {
    for (int i = 0; i < 16 * WIDTH; i++)
        w[i] = i % 16 == 15 ? 6.0f : 1.0f; /* scale 1: codes are values */
    w[0] = 1.25f + (step % 2 ? 0.005f : -0.005f);
    w[1] = 1.0f + 0.01f * (float)step;
}

/* dY [TOKENS, WIDTH] with one giant: the scales of the other blocks underflow, and what they hold is lost. Every other
 * row is -0, which is no loss. */
static inline void plant_underflow(uint16_t *dy) {
    for (uint32_t i = 0; i < TOKENS * WIDTH; i++)
        dy[i] = i / WIDTH % 2 ? 0x8000 : ni_bf16_even(1e-8f * normal(i));
    dy[0] = ni_bf16_even(1.0f);
}

#endif
