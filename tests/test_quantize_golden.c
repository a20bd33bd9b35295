/* test_quantize_golden.c: the reference quantizer against vectors that NVIDIA's host conversions and the NVFP4 formulas
 * of TransformerEngine gave (docs/formats.md, "Where the vectors come from"). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/ref/quantize.h"
#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/element.h"
#include "format/hadamard.h"
#include "format/scale.h"

static void tensor_scales(void **state) {
    (void)state;
    static const uint32_t golden[][4] = {
        /* amax, S, m, Sdec */
        {0x3f800000, 0x45280000, 0x43e00000, 0x39c30c31}, {0x40400000, 0x44600000, 0x43155556, 0x3a924925},
        {0x42c80000, 0x41d70a3d, 0x408f5c29, 0x3d186186}, {0x43e00000, 0x40c00000, 0x3f800000, 0x3e2aaaab},
        {0x3a83126f, 0x4a240fff, 0x48dabfff, 0x34c7ba91}, {0x03aa2425, 0x7f7fffff, 0x7e2aaaaa, 0x00200000},
        {0x00000001, 0x7f7fffff, 0x7e2aaaaa, 0x00200000}, {0x7f7fc99e, 0x052823b8, 0x03e02fa0, 0x79c2e2c1},
        {0x7f800000, 0x3f800000, 0x3e2aaaab, 0x3f800000}, {0x00000000, 0x3f800000, 0x3e2aaaab, 0x3f800000},
    };
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        ni_tensor_scale t =
            ni_tensor_scale_of(ni_e4m3_target_of(NB_RULE_ABSMAX), NB_OUTER_TENSOR, ni_f32_from(golden[i][0]));
        assert_int_equal(ni_f32_bits(t.s), golden[i][1]);
        assert_int_equal(ni_f32_bits(t.s_inner), golden[i][2]);
        assert_int_equal(ni_f32_bits(t.sdec), golden[i][3]);
    }
}

/* One block as TransformerEngine's hardware path leaves it, in a tensor whose amax is given. */
typedef struct golden_block {
    const char *what;
    float x[16];
    float amax;
    uint8_t byte;
    uint8_t codes[8];
} golden_block;

#define RAMP                                                                                                           \
    { -4, -3.5f, -3, -2.5f, -2, -1.5f, -1, -.5f, 0, .5f, 1, 1.5f, 2, 2.5f, 3, 3.5f }

/* Quantizes the block as the first row of a tensor that holds the amax in its second row. */
static void quantize_block(const golden_block *g, uint8_t *byte, uint8_t codes[8], float decoded[16]) {
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    float x[2][16] = {{0}};
    memcpy(x[0], g->x, sizeof x[0]);
    x[1][0] = g->amax;
    void *memory = aligned_alloc(64, nb_qtensor_bytes(&q, 2, 16).total);
    assert_non_null(memory);
    nb_qtensor t = nb_qtensor_place(&q, 2, 16, memory);
    nb_mat src = nb_mat_of(x, NB_F32, 2, 16);
    nb_error err = {0};
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, NULL, &err), NB_OK);
    float both[2][16];
    nb_mat out = nb_mat_of(both, NB_F32, 2, 16);
    assert_int_equal(ni_ref_dequantize(NULL, &out, &t, false, true, &err), NB_OK);
    memcpy(decoded, both[0], sizeof both[0]);
    *byte = t.scales[0];
    memcpy(codes, t.codes, 8);
    free(memory);
}

static void blocks(void **state) {
    (void)state;
    static const golden_block golden[] = {
        {"ramp", RAMP, 4.0f, 0x7e, {0xff, 0xee, 0xcd, 0xab, 0x20, 0x43, 0x65, 0x76}},
        {"ramp under 100", RAMP, 100.0f, 0x59, {0xff, 0xee, 0xcd, 0x9b, 0x10, 0x43, 0x65, 0x76}},
        {"tiny block", {[5] = 1e-4f}, 1000.0f, 0x00, {0x00, 0x00, 0x70, 0, 0, 0, 0, 0}},
        {"zeros", {[3] = -0.0f}, 1.0f, 0x00, {0x00, 0x80, 0, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        uint8_t byte, codes[8];
        float decoded[16];
        quantize_block(&golden[i], &byte, codes, decoded);
        assert_int_equal(byte, golden[i].byte);
        if (byte) {
            assert_memory_equal(codes, golden[i].codes, 8);
        } else { /* a block that decodes to zero: any code says the same; ours are 0 */
            for (int k = 0; k < 8; k++)
                assert_int_equal(codes[k], 0);
        }
    }
}

static void ramp_under_100_decodes(void **state) {
    (void)state;
    const golden_block ramp = {"ramp under 100", RAMP, 100.0f, 0x59, {0}};
    uint8_t byte, codes[8];
    float decoded[16];
    quantize_block(&ramp, &byte, codes, decoded);
    ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_of(NB_RULE_ABSMAX), NB_OUTER_TENSOR, 100.0f);
    assert_int_equal(ni_f32_bits(ni_f32_mul(4.0f, t.s_inner)), 0x418f5c29);
    assert_int_equal(ni_f32_bits(ni_block_encode(byte, t.sdec)), 0x3fbf258c);
    for (int i = 0; i < 16; i++) {
        float want = ni_e2m1_value(codes[i / 2] >> (4 * (i % 2)) & 15) * ni_f32_from(0x3f2b6db7);
        assert_float_equal(decoded[i], want, 1e-6f * ni_f32_abs(want)); /* TransformerEngine decodes in another order */
    }
}

static const uint16_t bf16_block[16] = {0x4022, 0x402f, 0x3ed9, 0xc011, 0xc038, 0xbf57, 0x3ffc, 0x403e,
                                        0x3f9e, 0xbfd1, 0xc040, 0xbfce, 0x3fa1, 0x403e, 0x3ffa, 0xbf5d};

static void bf16_source(void **state) {
    (void)state;
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    _Alignas(64) uint8_t memory[256];
    assert_true(nb_qtensor_bytes(&q, 1, 16).total <= sizeof memory);
    nb_qtensor t = nb_qtensor_place(&q, 1, 16, memory);
    nb_mat src = nb_mat_of(bf16_block, NB_BF16, 1, 16);
    nb_error err = {0};
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, NULL, &err), NB_OK);
    const uint8_t codes[8] = {0x77, 0xe2, 0xbf, 0x76, 0xd4, 0xdf, 0x75, 0xb6};
    assert_int_equal(t.scales[0], 0x7e);
    assert_memory_equal(t.codes, codes, 8);
    assert_int_equal(ni_f32_bits(*t.tensor_scale), 0x3a924925);
}

static void rotated_block(void **state) {
    (void)state;
    static const uint16_t want[16] = {0x3f59, 0xc021, 0x3fe9, 0xc03f, 0x4081, 0x4017, 0xbf84, 0x3d93,
                                      0xbeb7, 0x3e0a, 0x3f6b, 0x3fba, 0x405c, 0xc002, 0x3f5e, 0x4047};
    float x[16];
    for (int i = 0; i < 16; i++)
        x[i] = ni_bf16_value(bf16_block[i]);
    ni_hadamard(x, 16, ni_signs_of(NB_SIGNS_FIXED, NULL));
    for (int i = 0; i < 16; i++)
        assert_int_equal(ni_bf16_even(x[i]), want[i]);
}

/* The block formulas where amax leaves NaN out, as the hardware's maximum does. */
static void inf_and_nan(void **state) {
    (void)state;
    ni_e4m3_target target = ni_e4m3_target_of(NB_RULE_ABSMAX);
    float inf = ni_f32_from(NI_F32_INF_BITS), nan = ni_f32_from(0x7fc00000);
    ni_tensor_scale t = ni_tensor_scale_of(target, NB_OUTER_TENSOR, inf);
    uint8_t byte = ni_block_scale_byte(t, inf);
    float e = ni_block_encode(byte, t.sdec);
    assert_int_equal(byte, 0x7e);
    assert_int_equal(ni_e2m1_even(inf * e), 7);
    assert_int_equal(ni_e2m1_even(1.0f * e), 0);
    t = ni_tensor_scale_of(target, NB_OUTER_TENSOR, 1.0f);
    byte = ni_block_scale_byte(t, 1.0f);
    e = ni_block_encode(byte, t.sdec);
    assert_int_equal(byte, 0x7e);
    assert_int_equal(ni_e2m1_even(nan * e), 7);
    assert_int_equal(ni_e2m1_even(1.0f * e), 7);
}

/* First r in 0..255 whose result differs from that of r = 0; -1 if none. */
static int first_move(float y) {
    uint8_t still = ni_e2m1_stochastic(y, 0.0f);
    for (int r = 1; r < 256; r++)
        if (ni_e2m1_stochastic(y, (float)r / 256.0f) != still)
            return r;
    return -1;
}

static void stochastic_thresholds(void **state) {
    (void)state;
    static const struct {
        float y;
        int r;
        float low, high;
    } golden[] = {
        {.1f, 205, 0, .5f}, {.25f, 128, 0, .5f}, {.7f, 154, .5f, 1}, {1.2f, 154, 1, 1.5f}, {1.9f, 52, 1.5f, 2},
        {2.3f, 180, 2, 3},  {3.6f, 103, 3, 4},   {4.5f, 192, 4, 6},  {5.9f, 13, 4, 6},     {-2.3f, 180, -2, -3},
        {0, -1, 0, 0},      {-0.0f, -1, 0, 0},   {3, -1, 3, 3},      {6.5f, -1, 6, 6},
    };
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        assert_int_equal(first_move(golden[i].y), golden[i].r);
        assert_true(ni_e2m1_value(ni_e2m1_stochastic(golden[i].y, 0.0f)) == golden[i].low);
        assert_true(ni_e2m1_value(ni_e2m1_stochastic(golden[i].y, 255.0f / 256.0f)) == golden[i].high);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensor_scales),          cmocka_unit_test(blocks),
        cmocka_unit_test(ramp_under_100_decodes), cmocka_unit_test(bf16_source),
        cmocka_unit_test(rotated_block),          cmocka_unit_test(inf_and_nan),
        cmocka_unit_test(stochastic_thresholds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
