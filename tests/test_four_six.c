/* test_four_six.c: Four Over Six (arXiv:2512.02010): the bits of two public codes (scripts/golden_four_six.py), the
 * same bits from every kernel of the CPU, and what the choice promises. */
#include "files/safetensors.h"
#include "format/four_six.h"
#include "quantize_cases.h"

#include "backend/ref/quantize.h"
#include "backend/ref/quantize_parts.h"

static nb_quantizer quantizer(nb_four_six error, int32_t top, int32_t rows, nb_four_six_order order) {
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.block_rows = rows;
    q.four_six = error;
    q.four_six_top = top;
    q.four_six_order = order;
    return q;
}

/* Theirs may leave codes in a block whose byte is 0, and lose the sign of zero. */
static bool same_code(uint8_t theirs, uint8_t ours, uint8_t byte) {
    return theirs == ours || byte == 0 || ((theirs & 7) == 0 && (ours & 7) == 0);
}

/* How many of the blocks took 4; -1 where the golden file does not have the case. */
static int64_t compare(const ni_safetensors *file, const char *name, const char *kind, const nb_quantizer *q,
                       const nb_mat *x) {
    char full[2][200];
    snprintf(full[0], sizeof full[0], "%s/%s/codes", name, kind);
    snprintf(full[1], sizeof full[1], "%s/%s/scales", name, kind);
    const ni_file_tensor *codes = ni_safetensors_find(file, full[0]), *scales = ni_safetensors_find(file, full[1]);
    if (!codes)
        return -1;
    assert_non_null(scales);
    nb_qtensor t = new_operand(q, x->rows, x->cols);
    assert_int_equal(ni_ref_quantize(NULL, &t, x, false, NULL, NULL, NULL), NB_OK);
    int64_t fours = 0;
    for (int64_t e = 0; e < x->rows * x->cols; e++) {
        uint8_t byte = ((const uint8_t *)scales->data)[e / 16];
        uint8_t theirs = ((const uint8_t *)codes->data)[e / 2] >> (4 * (e % 2)) & 15;
        uint8_t ours = t.codes[e / 2] >> (4 * (e % 2)) & 15;
        if (t.scales[e / 16] != byte || !same_code(theirs, ours, byte))
            fail_msg("%s %s element %d: byte %02x code %x, theirs %02x %x", name, kind, (int)e, t.scales[e / 16], ours,
                     byte, theirs);
    }
    for (int64_t b = 0; b < x->rows * x->cols / 16; b++) {
        uint8_t largest = 0;
        for (int64_t e = 16 * b; e < 16 * b + 16; e++) {
            uint8_t m = t.codes[e / 2] >> (4 * (e % 2)) & 7;
            largest = m > largest ? m : largest;
        }
        fours += largest == 6;
    }
    return fours;
}

static void public_codes(void **state) {
    (void)state;
    static const char *const names[] = {"normal",    "bf16",   "integers", "tenths", "heavy",
                                        "near_five", "sparse", "small",    "zeros",  "elevenths"};
    static const char *const errors[] = {"", "mse", "mae", "max"};
    static const char *const who[] = {"te", "fos"};
    ni_safetensors *file;
    nb_error err = {0};
    int cases = 0;
    int64_t fours = 0;
    if (ni_safetensors_open(NI_TEST_GOLDEN "/four_six.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char full[64];
        snprintf(full, sizeof full, "%s/x", names[i]);
        const ni_file_tensor *in = ni_safetensors_find(file, full);
        assert_non_null(in);
        nb_mat x = nb_mat_of(in->data, NB_F32, in->shape[0], in->shape[1]);
        for (int order = 0; order < 2; order++)
            for (int error = 1; error < 4; error++)
                for (int32_t top = 256; top <= 448; top += 192)
                    for (int32_t rows = 1; rows <= 16; rows += 15) {
                        char kind[64];
                        snprintf(kind, sizeof kind, "%s-%s-%d-%d", who[order], errors[error], (int)top, (int)rows);
                        nb_quantizer q = quantizer((nb_four_six)error, top, rows, (nb_four_six_order)order);
                        int64_t n = compare(file, names[i], kind, &q, &x);
                        cases += n >= 0;
                        fours += n > 0 ? n : 0;
                    }
    }
    ni_safetensors_close(file);
    assert_int_equal(cases, 10 * (8 + 6));
    assert_true(fours > 1000);
}

/* In some blocks of small numbers both scales err alike but for the last bit of a sum: there the orders differ. */
static void orders_differ(void **state) {
    (void)state;
    int64_t differ = 0;
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, 256, 128, 128);
    float *numbers = (float *)x.data;
    for (int64_t e = 0; e < x.rows * x.cols; e++)
        numbers[e] = (float)(ni_philox(1, 2, (uint32_t)e, 0, 0, 0).w[0] % 25) / 11 - 12.0f / 11;
    for (int32_t rows = 1; rows <= 16; rows += 15) {
        nb_quantizer a = quantizer(NB_FOUR_SIX_MAE, 256, rows, NB_FOUR_SIX_IN_ORDER), b = a;
        b.four_six_order = NB_FOUR_SIX_IN_EIGHTS;
        nb_qtensor t = new_operand(&a, x.rows, x.cols), u = new_operand(&b, x.rows, x.cols);
        assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, NULL, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_quantize(NULL, &u, &x, false, NULL, NULL, NULL), NB_OK);
        for (int64_t i = 0; i < x.rows * x.cols / 16; i++)
            differ += t.scales[i] != u.scales[i];
    }
    assert_true(differ > 0);
    assert_true(differ < x.rows * x.cols / 64);
}

/* Squared errors of every block under plain NVFP4, and under the choice at the same top. */
static void better_on_the_whole(void **state) {
    (void)state;
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, 64, 256, 256);
    for (int32_t rows = 1; rows <= 16; rows += 15) {
        nb_quantizer plain = ni_format_family_find("nvfp4")->defaults;
        plain.block_rows = rows;
        nb_quantizer chosen = quantizer(NB_FOUR_SIX_MSE, 448, rows, NB_FOUR_SIX_IN_ORDER);
        nb_quantize_stats a, b, c;
        nb_qtensor t = new_operand(&plain, x.rows, x.cols), u = new_operand(&chosen, x.rows, x.cols);
        assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, NULL, &a, NULL), NB_OK);
        assert_int_equal(ni_ref_quantize(NULL, &u, &x, false, NULL, &b, NULL), NB_OK);
        chosen.four_six_top = 256;
        assert_int_equal(ni_ref_quantize(NULL, &u, &x, false, NULL, &c, NULL), NB_OK);
        print_message("%2d rows: error %.4f, chosen under 448 %.4f, under 256 %.4f\n", (int)rows,
                      sqrt(a.sum_sq_error / a.sum_sq), sqrt(b.sum_sq_error / b.sum_sq),
                      sqrt(c.sum_sq_error / c.sum_sq));
        assert_true(b.sum_sq_error < a.sum_sq_error);
        assert_true(c.sum_sq_error < a.sum_sq_error);
    }
}

/* Ten, twenty, thirty, forty: six errs, four is exact (docs/recipes/four-over-six.md). */
static void an_example(void **state) {
    (void)state;
    const float numbers[16] = {10, 20, 30, 40};
    nb_mat x = nb_mat_of(numbers, NB_F32, 1, 16);
    for (int top = 256; top <= 448; top += 192) {
        nb_quantizer q = quantizer(NB_FOUR_SIX_MAE, top, 1, NB_FOUR_SIX_IN_ORDER);
        nb_qtensor t = new_operand(&q, 1, 16);
        float decoded[16];
        assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, NULL, NULL, NULL), NB_OK);
        ni_decode_span(&t, 0, 0, 16, true, decoded);
        assert_int_equal(t.scales[0], top == 256 ? 0x7c : 0x7e); /* 448 has no room for 1.5 times it */
        for (int i = 0; i < 4 && top == 256; i++)
            assert_true(fabsf(decoded[i] - numbers[i]) < 1e-5f);
    }
}

/* The choice looks at nearest codes alone, so stochastic rounding draws around the numbers themselves: with headroom
 * nothing saturates, and the mean of many draws comes to the number. */
static void stochastic_stays_unbiased(void **state) {
    (void)state;
    enum { DRAWS = 4096, COLS = 64 };
    nb_quantizer q = quantizer(NB_FOUR_SIX_MSE, 256, 1, NB_FOUR_SIX_IN_ORDER);
    q.rule = NB_RULE_HEADROOM;
    q.round = NB_ROUND_STOCHASTIC;
    q.sr_bits = 16;
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, 1, COLS, COLS);
    nb_qtensor t = new_operand(&q, 1, COLS);
    double sum[COLS] = {0}, square[COLS] = {0};
    uint8_t scales[COLS / 16];
    for (uint32_t draw = 0; draw < DRAWS; draw++) {
        nb_noise noise = {.seed = draw, .tensor = 7};
        float decoded[COLS];
        assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, &noise, NULL, NULL), NB_OK);
        if (draw)
            assert_memory_equal(scales, t.scales, sizeof scales); /* random bits have no say in the choice */
        memcpy(scales, t.scales, sizeof scales);
        ni_decode_span(&t, 0, 0, COLS, true, decoded);
        for (int i = 0; i < COLS; i++) {
            sum[i] += decoded[i];
            square[i] += (double)decoded[i] * decoded[i];
        }
    }
    double z2 = 0;
    for (int i = 0; i < COLS; i++) {
        double mean = sum[i] / DRAWS, variance = square[i] / DRAWS - mean * mean;
        double off = mean - ((const float *)x.data)[i], sd = sqrt(variance / DRAWS) + 1e-6;
        z2 += off * off / (sd * sd);
    }
    assert_true(z2 / COLS < 1 + 4 * sqrt(2.0 / COLS)); /* chi-squared of 64 degrees, 4 sigma */
}

/* Kernels divide by multiplying: the same quotient for every significand; powers of two change nothing. */
static void quotients_without_division(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        nb_quantizer q = quantizer(NB_FOUR_SIX_MSE, i % 2 ? 256 : 448, 1, NB_FOUR_SIX_IN_ORDER);
        q.rule = i / 2 ? NB_RULE_HEADROOM : NB_RULE_ABSMAX;
        const float max = ni_e4m3_target_for(&q).max_of_both, inverse = ni_f32_div(1.0f, max);
        uint32_t wrong = 0;
        for (uint32_t bits = 0x3f800000u; bits < 0x40000000u; bits++) {
            const float a = ni_f32_from(bits);
            wrong += ni_four_six_quotient(a, max, inverse) != ni_f32_div(a, max);
        }
        assert_int_equal(wrong, 0);
    }
    const float max = 2688.0f, inverse = ni_f32_div(1.0f, max), ends[] = {0.0f, 0x1.8p-80f, 0x1.8p100f, -0x1.2p-70f};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        assert_true(ni_four_six_quotient(ends[i], max, inverse) == ni_f32_div(ends[i], max));
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(public_codes),
        CASE(orders_differ),
        CASE(better_on_the_whole),
        CASE(an_example),
        CASE(stochastic_stays_unbiased),
        CASE(quotients_without_division),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
