/* test_format.c: the small code spaces, whole: every code, every BF16 number, every midpoint and its neighbours.
 *
 * The oracle knows nothing of bits: it searches a table of values in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/e5m2.h"
#include "format/e8m0.h"
#include "format/e8m0_pair.h"
#include "format/element.h"
#include "format/fp16.h"
#include "format/int4.h"
#include "format/scale.h"

/* ---- decoding: against the definition in double ---- */

/* (-1)^s 2^(e-bias) 1.m, or 2^(1-bias) 0.m where e = 0. */
static double small_float(unsigned code, int exponent_bits, int mantissa_bits, int bias) {
    unsigned mantissa = code & ((1u << mantissa_bits) - 1);
    int exponent = (int)(code >> mantissa_bits & ((1u << exponent_bits) - 1));
    double value = exponent ? ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits)
                            : ldexp(mantissa, 1 - bias - mantissa_bits);
    return code >> (exponent_bits + mantissa_bits) & 1 ? -value : value;
}

static void same_bits(double want, float got) {
    assert_int_equal(ni_f32_bits((float)want), ni_f32_bits(got));
}

static void every_code_decodes(void **state) {
    (void)state;
    for (unsigned c = 0; c < 16; c++) {
        same_bits(small_float(c, 2, 1, 1), ni_e2m1_value((uint8_t)c));
        assert_true(ni_int4_value((uint8_t)c) == (c < 8 ? (int)c : (int)c - 16));
    }
    for (unsigned c = 0; c < 256; c++) {
        if ((c & 0x7f) == 0x7f)
            assert_true(isnan(ni_e4m3_value((uint8_t)c)));
        else
            same_bits(small_float(c, 4, 3, 7), ni_e4m3_value((uint8_t)c));
        if ((c & 0x7f) > 0x7c)
            assert_true(isnan(ni_e5m2_value((uint8_t)c)));
        else if ((c & 0x7f) == 0x7c)
            assert_true(ni_e5m2_value((uint8_t)c) == (c & 0x80 ? -INFINITY : INFINITY));
        else
            same_bits(small_float(c, 5, 2, 15), ni_e5m2_value((uint8_t)c));
        if (c == 0xff) {
            assert_true(isnan(ni_e8m0_value((uint8_t)c)));
            assert_true(isnan(ni_e8m0_inverse((uint8_t)c)));
        } else {
            same_bits(ldexp(1, (int)c - 127), ni_e8m0_value((uint8_t)c));
            same_bits(ldexp(1, 127 - (int)c), ni_e8m0_inverse((uint8_t)c));
        }
    }
}

/* ---- encoding: against a search in the table of values ---- */

typedef struct grid {
    nb_element element;
    int count; /* magnitudes */
    double value[128];
} grid;

static grid grid_of(nb_element element) {
    grid g = {.element = element};
    g.count = element == NB_ELEMENT_E4M3 ? 0x7f : element == NB_ELEMENT_E5M2 ? 0x7c : 8;
    for (int m = 0; m < g.count; m++)
        g.value[m] = ni_element_info(element)->value((uint8_t)m);
    return g;
}

static uint8_t grid_code(const grid *g, float x, int m, bool keep_zero_sign) {
    bool negative = signbit(x) && (m || keep_zero_sign);
    if (g->element == NB_ELEMENT_INT4)
        return (uint8_t)((negative ? -m : m) & 15);
    return (uint8_t)(m | (negative ? (ni_element_info(g->element)->bits == 4 ? 8 : 0x80) : 0));
}

static uint8_t nearest(const grid *g, float x, nb_rounding round) {
    if (isnan(x))
        return ni_element_info(g->element)->nan;
    double a = fabs((double)x);
    int m = 0;
    while (m + 1 < g->count && g->value[m + 1] <= a)
        m++;
    if (m + 1 < g->count) {
        double below = a - g->value[m], above = g->value[m + 1] - a;
        if (above < below)
            m++;
        else if (above == below)
            m += round == NB_ROUND_UP ? x > 0 : round == NB_ROUND_AWAY ? 1 : m & 1;
    }
    return grid_code(g, x, m, round != NB_ROUND_UP);
}

static void check_nearest(const grid *g, float x) {
    const ni_element_row *row = ni_element_info(g->element);
    uint8_t even = row->even(x), up = row->up(x);
    if (even != nearest(g, x, NB_ROUND_EVEN) || up != nearest(g, x, NB_ROUND_UP))
        fail_msg("%s of %a (0x%08x): even %02x, expected %02x; up %02x, expected %02x", row->name, (double)x,
                 (unsigned)ni_f32_bits(x), even, nearest(g, x, NB_ROUND_EVEN), up, nearest(g, x, NB_ROUND_UP));
    if (row->away && row->away(x) != nearest(g, x, NB_ROUND_AWAY))
        fail_msg("%s of %a: away %02x, expected %02x", row->name, (double)x, row->away(x),
                 nearest(g, x, NB_ROUND_AWAY));
}

/* x and -x, each with the floats beside it. */
static void around(const grid *g, double x, void check(const grid *, float)) {
    for (int sign = 0; sign < 2; sign++) {
        float f = (float)(sign ? -x : x);
        check(g, f);
        check(g, nextafterf(f, INFINITY));
        check(g, nextafterf(f, -INFINITY));
    }
}

static void nearest_roundings(void **state) {
    (void)state;
    for (int e = NB_ELEMENT_E2M1; e < NB_ELEMENT_COUNT; e++) {
        grid g = grid_of((nb_element)e);
        for (uint32_t b = 0; b < 65536; b++)
            check_nearest(&g, ni_bf16_value((uint16_t)b));
        for (int m = 0; m < g.count; m++) {
            around(&g, g.value[m], check_nearest);
            if (m)
                around(&g, (g.value[m - 1] + g.value[m]) / 2, check_nearest);
        }
        double max = g.value[g.count - 1], last = max - g.value[g.count - 2];
        around(&g, max + last / 2, check_nearest); /* where an unbounded grid would round up */
        around(&g, max + last, check_nearest);
        around(&g, 0x1p-149, check_nearest);
        around(&g, 3.4028234663852886e38, check_nearest);
    }
}

/* floor to the grid of |x| + u * (distance between grid points above |x|), as one FP32 addition. */
static uint8_t stochastic(const grid *g, float x, float u) {
    if (isnan(x))
        return ni_element_info(g->element)->nan;
    double a = fabs((double)x);
    int m = 0;
    while (m + 1 < g->count && g->value[m + 1] <= a)
        m++;
    if (m + 1 < g->count && (double)(float)(a + (double)u * (g->value[m + 1] - g->value[m])) >= g->value[m + 1])
        m++;
    return grid_code(g, x, m, true);
}

static void check_stochastic(const grid *g, float x) {
    static const float some[] = {0, 0x1p-16f, 1 / 256.0f, 77 / 256.0f, .5f, 200 / 256.0f, 255 / 256.0f, 1 - 0x1p-16f};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        uint8_t got = ni_element_info(g->element)->stochastic(x, some[i]), want = stochastic(g, x, some[i]);
        if (got != want)
            fail_msg("%s stochastic of %a, u = %a: %02x, expected %02x", ni_element_info(g->element)->name, (double)x,
                     (double)some[i], got, want);
    }
}

static void stochastic_rounding(void **state) {
    (void)state;
    for (int e = NB_ELEMENT_E2M1; e < NB_ELEMENT_COUNT; e++) {
        grid g = grid_of((nb_element)e);
        for (uint32_t b = 0; b < 65536; b += e < NB_ELEMENT_E4M3 ? 1 : 7)
            check_stochastic(&g, ni_bf16_value((uint16_t)b));
        for (int m = 0; m < g.count; m++)
            around(&g, g.value[m], check_stochastic);
        for (int r = 0; r < 256; r++) /* every 8-bit draw over a fine mesh */
            for (int i = 0; i < 224; i++) {
                float x = (float)i / 32 + 0.01f;
                assert_int_equal(ni_element_info(g.element)->stochastic(x, (float)r / 256),
                                 stochastic(&g, x, (float)r / 256));
            }
    }
}

/* P(up) over all draws is floor(2^bits f) / 2^bits for the fractional position f: unbiased but for the floor. */
static void stochastic_probability(void **state) {
    (void)state;
    for (int bits = 8; bits <= 16; bits += 8)
        for (int i = 0; i < 192; i++) {
            float a = (float)i / 32 + 1 / 128.0f; /* exact, never a grid point, up to 6 */
            double low = a < 2 ? floor(2.0 * a) / 2 : a < 4 ? floor((double)a) : 4, step = a < 2 ? .5 : a < 4 ? 1 : 2;
            int draws = 1 << bits, ups = 0;
            for (int r = 0; r < draws; r++)
                ups += ni_e2m1_value(ni_e2m1_stochastic(a, (float)r / (float)draws)) > low;
            assert_int_equal(ups, (int)floor((a - low) / step * draws));
        }
}

static void bf16_rounds_to_nearest(void **state) {
    (void)state;
    for (uint32_t b = 0; b < 65536; b++) {
        float x = ni_bf16_value((uint16_t)b);
        if (isnan(x)) {
            assert_true(isnan(ni_bf16_round(x)));
            assert_int_equal(ni_bf16_even(x), b | 0x40);
            continue;
        }
        assert_int_equal(ni_bf16_even(x), b);
        if (isinf(x))
            continue;
        uint32_t middle = b << 16 | 0x8000; /* between b and the next magnitude */
        assert_int_equal(ni_bf16_even(ni_f32_from(middle)), b + (b & 1));
        assert_int_equal(ni_bf16_even(ni_f32_from(middle - 1)), b);
        assert_int_equal(ni_bf16_even(ni_f32_from(middle + 1)), b + 1);
    }
    assert_true(isnan(ni_bf16_round(ni_f32_from(0x7f800001)))); /* a NaN whose payload is all in the lower half */
}

/* All codes against the definition; the midpoints between neighbours and the floats beside them. */
static void every_fp16(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 0x7c00; code++) {
        float low = ni_fp16_value((uint16_t)code);
        float high = code < 0x7bff ? ni_fp16_value((uint16_t)(code + 1)) : 65536.0f;
        same_bits(small_float(code, 5, 10, 15), low);
        same_bits(small_float(code | 0x8000, 5, 10, 15), ni_fp16_value((uint16_t)(code | 0x8000)));
        assert_int_equal(ni_fp16_even(low), code);
        assert_int_equal(ni_fp16_even(-low), code | 0x8000);
        float middle = low + (high - low) / 2;
        assert_int_equal(ni_fp16_even(middle), code + (code & 1));
        assert_int_equal(ni_fp16_even(nextafterf(middle, 0)), code);
        assert_int_equal(ni_fp16_even(nextafterf(middle, 1e9f)), code + 1);
    }
    for (uint32_t code = 0x7c00; code < 0x8000; code++) {
        float x = ni_fp16_value((uint16_t)code);
        assert_true(code == 0x7c00 ? isinf(x) : isnan(x));
        assert_int_equal(ni_fp16_even(x), code == 0x7c00 ? code : code | 0x200);
    }
    assert_int_equal(ni_fp16_even(1e30f), 0x7c00);
    assert_int_equal(ni_fp16_even(-INFINITY), 0xfc00);
    assert_true(isnan(ni_fp16_value(ni_fp16_even(ni_f32_from(0x7f800001)))));
}

/* The compiler's own half, over floats of every exponent and sign. */
static void fp16_is_the_compilers(void **state) {
    (void)state;
#ifdef __FLT16_MANT_DIG__
    __extension__ typedef _Float16 half;
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += 2039) {
        float x = ni_f32_from((uint32_t)bits);
        half want = (half)x;
        uint16_t code;
        memcpy(&code, &want, sizeof code);
        if (isnan(x))
            assert_true(isnan(ni_fp16_value(ni_fp16_even(x))));
        else
            assert_int_equal(ni_fp16_even(x), code);
    }
#else
    skip();
#endif
}

/* ---- scales ---- */

static void check_e8m0(float amax, float max) {
    int floor_exponent, max_exponent;
    uint8_t down = ni_e8m0_floor(amax, max), up = ni_e8m0_ceil(amax, max);
    if (isnan(amax) || isinf(amax) || amax == 0) {
        uint8_t want = isnan(amax) ? 0xff : amax == 0 ? 0 : 0xfe;
        assert_int_equal(down, want);
        assert_int_equal(up, want);
        return;
    }
    frexp((double)amax, &floor_exponent);
    frexp((double)max, &max_exponent);
    int want = floor_exponent - max_exponent + 127;
    assert_int_equal(down, want < 0 ? 0 : want);
    assert_true((double)max * ldexp(1, up - 127) >= (double)amax);
    assert_true(up == 0 || (double)max * ldexp(1, up - 128) < (double)amax);
}

static void e8m0_scales(void **state) {
    (void)state;
    static const float maxima[] = {6, 448, 57344};
    for (int i = 0; i < 3; i++) {
        for (uint32_t b = 0; b < 0x8000; b++)
            check_e8m0(ni_bf16_value((uint16_t)b), maxima[i]);
        for (int e = -149; e < 120; e++)
            for (int side = 0; side < 3; side++) {
                float edge = (float)ldexp((double)maxima[i], e);
                check_e8m0(side == 0 ? edge : nextafterf(edge, side == 1 ? 0 : INFINITY), maxima[i]);
            }
    }
}

/* Two at once are what each is alone, whichever half it has. */
static void e8m0_pairs(void **state) {
    (void)state;
    static const nb_scale_rule rules[] = {NB_RULE_FLOOR, NB_RULE_CEIL, NB_RULE_CEIL_LOG2};
    const uint32_t least = NI_E8M0_PAIR_LEAST & 0xffffu, most = NI_E8M0_PAIR_MOST & 0xffffu;
    for (int i = 0; i < 3; i++)
        for (uint32_t a = least; a <= most; a++) {
            const uint32_t pair[2] = {a, most - (a - least)};
            const uint32_t value = ni_e8m0_pair_value(rules[i], pair[0] | pair[1] << 16),
                           inverse = ni_e8m0_pair_inverse(value);
            for (int half = 0; half < 2; half++) {
                const uint8_t code = ni_e8m0_of(rules[i], ni_bf16_value((uint16_t)pair[half]), 448.0f);
                assert_int_equal(value >> 16 * half & 0xffffu, ni_bf16_even(ni_e8m0_value(code)));
                assert_int_equal(inverse >> 16 * half & 0xffffu, ni_bf16_even(ni_e8m0_inverse(code)));
            }
        }
}

/* TransformerEngine rounds fl(amax * fl(1/max)) up to a power of two; over every mantissa that is the exact rule. */
static void e8m0_ceil_is_transformer_engines(void **state) {
    (void)state;
    static const float maxima[] = {6, 448, 57344};
    for (int i = 0; i < 3; i++)
        for (uint32_t mantissa = 0; mantissa < 1u << 23; mantissa++) {
            float amax = ni_f32_from(0x3f800000u | mantissa);
            uint32_t ratio = ni_f32_bits(amax * (1 / maxima[i]));
            assert_int_equal(ni_e8m0_ceil(amax, maxima[i]), (ratio >> 23) + ((ratio & 0x7fffff) != 0));
        }
}

static void powers_of_two_around(void **state) {
    (void)state;
    for (uint32_t b = 1; b < 0x7f80; b++) {
        float s = ni_bf16_value((uint16_t)b), below = ni_pow2_below(s), above = ni_pow2_above(s);
        int exponent;
        assert_true(frexp((double)below, &exponent) == 0.5 && frexp((double)above, &exponent) == 0.5);
        assert_true(below <= s && 2 * (double)below > s);
        assert_true(s >= 0x1p127f ? above == 0x1p127f : above >= s && (double)above / 2 < s);
    }
    assert_true(isnan(ni_pow2_below(NAN)) && isnan(ni_pow2_above(NAN)));
    assert_true(ni_pow2_above(0.0f) == 0.0f && ni_pow2_above(INFINITY) == INFINITY);
}

/* Whatever the amax, a scale restricted to powers of two is a finite one, 2^-127 at the least: units that read 2^-6 of
 * it (src/backend/cuda/pow2_bytes.h) read no zero. */
static void pow2_scales_stay_above_zero(void **state) {
    (void)state;
    static const float maxima[] = {6, 7, 448, 57344};
    float least = INFINITY;
    for (int i = 0; i < 4; i++)
        for (uint32_t b = 0; b <= 0x7f80; b++) { /* a BF16, 0 and Inf too; or the subnormal FP32 with these bits */
            const float amaxes[] = {ni_bf16_value((uint16_t)b), ni_f32_from(b)};
            for (int k = 0; k < 2; k++) {
                const float s = ni_vector_decode(ni_vector_encode(NB_RULE_POW2, maxima[i], amaxes[k]));
                int exponent;
                assert_true(s < INFINITY && frexp((double)s, &exponent) == 0.5);
                least = fminf(least, s);
            }
        }
    assert_true(least == 0x1p-127f && ldexpf(least, -6) > 0);
}

/* With headroom the scaled amax never passes 6, wherever a normal E4M3 scale rounds; without it, it does. */
static void headroom_never_saturates(void **state) {
    (void)state;
    float most_absmax = 0;
    for (int i = 1; i < 20000; i++) {
        float amax = 1.0f, block = (float)i / 20000;
        for (int rule = 0; rule < 2; rule++) {
            nb_scale_rule r = rule ? NB_RULE_HEADROOM : NB_RULE_ABSMAX;
            ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_of(r), NB_OUTER_TENSOR, amax);
            uint8_t byte = ni_block_scale_byte(t, block);
            if (byte < 8)
                continue;
            float y = block * ni_block_encode(byte, t.sdec);
            if (rule)
                assert_true(y <= 6.0f * (1 + 0x1p-20f));
            else if (y > most_absmax)
                most_absmax = y;
        }
    }
    assert_true(most_absmax > 6.3f && most_absmax < 6.3751f);
}

/* ---- quantizers as values ---- */

static void check_text(const nb_quantizer *q, const char *want) {
    char text[256], small[8];
    nb_error err = {0};
    if (nb_quantizer_check(q, &err) != NB_OK)
        fail_msg("%s: %s", want, err.message);
    assert_string_equal(nb_quantizer_text(q, text, sizeof text), want);
    nb_quantizer_text(q, small, sizeof small);
    assert_int_equal(strlen(small), 7);
    assert_memory_equal(small, want, 7);
}

static void texts(void **state) {
    (void)state;
    nb_quantizer q = nb_quantizer_bf16();
    check_text(&q, "{format: bf16}");
    q = ni_format_family_find("nvfp4")->defaults;
    check_text(&q, "{format: nvfp4, block: 1x16}");
    q.round = NB_ROUND_STOCHASTIC;
    q.rule = NB_RULE_HEADROOM;
    q.hadamard_size = 16;
    q.hadamard_signs = NB_SIGNS_FIXED;
    q.hadamard_round_bf16 = true;
    check_text(&q, "{format: nvfp4, block: 1x16, scale: headroom, round: stochastic, sr_bits: 8, "
                   "hadamard: {size: 16, signs: fixed, round_bf16: true}}");
    q = ni_format_family_find("nvfp4")->defaults;
    q.outer = NB_OUTER_ROW128_POW2;
    check_text(&q, "{format: nvfp4, block: 1x16, outer: {block: 1x128, scale: pow2}}");
    q = ni_format_family_find("mxfp4")->defaults;
    q.rule = NB_RULE_CEIL;
    check_text(&q, "{format: mxfp4, block: 1x32, scale: ceil}");
    q = ni_format_family_find("int4")->defaults;
    check_text(&q, "{format: int4, block: row}");
    q.block_rows = NB_BLOCK_ALL;
    q.rule = NB_RULE_POW2;
    q.round = NB_ROUND_UP;
    check_text(&q, "{format: int4, block: tensor, scale: pow2, round: up}");
    q.block_cols = 1;
    check_text(&q, "{format: int4, block: column, scale: pow2, round: up}");
}

static void refusals(void **state) {
    (void)state;
    nb_error err;
    nb_quantizer nvfp4 = ni_format_family_find("nvfp4")->defaults, q = nvfp4;
    q.block_cols = 32;
    assert_int_equal(nb_quantizer_check(&q, &err), NB_BAD_CONFIG);
    q = nvfp4;
    q.rule = NB_RULE_FLOOR;
    assert_int_equal(nb_quantizer_check(&q, &err), NB_BAD_CONFIG);
    q = nvfp4;
    q.block_rows = 16;
    q.outer = NB_OUTER_ROW128;
    assert_int_equal(nb_quantizer_check(&q, &err), NB_BAD_CONFIG);
    q = nvfp4;
    q.round = NB_ROUND_STOCHASTIC;
    q.sr_bits = 7;
    assert_int_equal(nb_quantizer_check(&q, &err), NB_BAD_CONFIG);
    q = nvfp4;
    q.hadamard_size = 24;
    assert_int_equal(nb_quantizer_check(&q, &err), NB_BAD_CONFIG);
    q.hadamard_size = 64;
    assert_int_equal(nb_quantizer_check_shape(&q, 3, 64, &err), NB_OK);
    assert_int_equal(nb_quantizer_check_shape(&q, 3, 96, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "3 x 96"));
    assert_non_null(strstr(err.message, "64"));
    assert_int_equal(nb_quantizer_check_shape(&nvfp4, 3, 24, &err), NB_BAD_CONFIG);
    assert_int_equal(nb_quantizer_check_shape(&nvfp4, 0, 16, &err), NB_BAD_CONFIG);
    assert_int_equal(nb_quantizer_check_shape(&nvfp4, INT64_MAX, 16, &err), NB_BAD_CONFIG);
}

static void equality(void **state) {
    (void)state;
    nb_quantizer a = ni_format_family_find("nvfp4")->defaults, b = a;
    b.sr_bits = 16;
    b.hadamard_signs = NB_SIGNS_FRESH;
    assert_true(nb_quantizer_equal(&a, &b)); /* neither field is read */
    a.round = b.round = NB_ROUND_STOCHASTIC;
    assert_false(nb_quantizer_equal(&a, &b));
    b.sr_bits = a.sr_bits;
    a.hadamard_size = b.hadamard_size = 16;
    assert_false(nb_quantizer_equal(&a, &b));
    a = nb_quantizer_bf16();
    assert_false(nb_quantizer_equal(&a, &b));
    assert_true(nb_quantizer_is_bf16(&a));
}

static void operand_sizes(void **state) {
    (void)state;
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    nb_qtensor_size s = nb_qtensor_bytes(&q, 5, 256);
    assert_int_equal(s.codes, 5 * 128);
    assert_int_equal(s.scales, 5 * 16);
    assert_int_equal(s.outer_scales, 0);
    assert_int_equal(s.tensor_scale, 4);
    assert_int_equal(s.total, 640 + 128 + 64);
    q.outer = NB_OUTER_ROW128;
    s = nb_qtensor_bytes(&q, 5, 256);
    assert_int_equal(s.outer_scales, 5 * 2 * 4);
    assert_int_equal(s.tensor_scale, 0);
    q = ni_format_family_find("e2m1")->defaults;
    s = nb_qtensor_bytes(&q, 3, 7);
    assert_int_equal(s.codes, 3 * 4);
    assert_int_equal(s.outer_scales, 3 * 4);
    _Alignas(64) uint8_t memory[256];
    nb_qtensor t = nb_qtensor_place(&q, 3, 7, memory);
    assert_ptr_equal(t.codes, memory);
    assert_ptr_equal(t.outer_scales, memory + 64);
    assert_null(t.scales);
    assert_null(t.tensor_scale);
}

static void names(void **state) {
    (void)state;
    assert_int_equal(nb_name_hash("", NULL), 0x811c9dc5); /* FNV-1a's published values */
    assert_int_equal(nb_name_hash("a", NULL), 0xe40c292c);
    assert_int_equal(nb_name_hash("foo", "bar"), nb_name_hash("foo/bar", NULL));
    assert_int_equal(nb_dtype_size(NB_F64), 8);
    assert_int_equal(nb_dtype_size(NB_F16), 2);
    assert_int_equal(nb_dtype_size(NB_E4M3), 1);
    assert_string_equal(nb_dtype_name(NB_F16), "f16");
    assert_string_equal(nb_dtype_name(NB_BF16), "bf16");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_decodes),
        cmocka_unit_test(nearest_roundings),
        cmocka_unit_test(stochastic_rounding),
        cmocka_unit_test(stochastic_probability),
        cmocka_unit_test(bf16_rounds_to_nearest),
        cmocka_unit_test(every_fp16),
        cmocka_unit_test(fp16_is_the_compilers),
        cmocka_unit_test(e8m0_scales),
        cmocka_unit_test(e8m0_pairs),
        cmocka_unit_test(e8m0_ceil_is_transformer_engines),
        cmocka_unit_test(powers_of_two_around),
        cmocka_unit_test(pow2_scales_stay_above_zero),
        cmocka_unit_test(headroom_never_saturates),
        cmocka_unit_test(texts),
        cmocka_unit_test(refusals),
        cmocka_unit_test(equality),
        cmocka_unit_test(operand_sizes),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
