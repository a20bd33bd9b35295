/* test_hifloat4.c: HiFloat4 (arXiv:2602.11287): the bits of its authors' formal code (scripts/golden_hifloat4.py), its
 * scales over all inputs, its corners, and how much it errs beside its neighbours. */
#include "files/safetensors.h"
#include "format/hif4.h"
#include "quantize_cases.h"

#include "backend/ref/quantize.h"
#include "backend/ref/quantize_parts.h"

static nb_quantizer hifloat4(void) {
    return ni_format_family_find("hifloat4")->defaults;
}

static const ni_file_tensor *tensor_of(const ni_safetensors *file, const char *name, const char *what) {
    char full[64];
    snprintf(full, sizeof full, "%s/%s", name, what);
    const ni_file_tensor *t = ni_safetensors_find(file, full);
    assert_non_null(t);
    return t;
}

static void public_codes(void **state) {
    (void)state;
    static const char *const names[] = {"normal", "wide", "mixed", "quarters", "far", "outlier", "zeros"};
    ni_safetensors *file;
    nb_error err = {0};
    if (ni_safetensors_open(NI_TEST_GOLDEN "/hifloat4.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const ni_file_tensor *in = tensor_of(file, names[i], "x");
        nb_mat x = nb_mat_of(in->data, NB_F32, in->shape[0], in->shape[1]);
        nb_quantizer q = hifloat4();
        nb_qtensor t = new_operand(&q, x.rows, x.cols);
        nb_mat decoded = nb_mat_of(poisoned((size_t)(x.rows * x.cols) * 4), NB_F32, x.rows, x.cols);
        assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, NULL, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_dequantize(NULL, &decoded, &t, false, true, NULL), NB_OK);
        nb_qtensor_size size = nb_qtensor_bytes(&q, x.rows, x.cols);
        assert_int_equal(size.scales * 16 + size.codes * 2, 3 * x.rows * x.cols / 2 + x.rows * x.cols / 2);
        same_buffer("scales", names[i], tensor_of(file, names[i], "scales")->data, t.scales, size.scales);
        same_buffer("codes", names[i], tensor_of(file, names[i], "codes")->data, t.codes, size.codes);
        same_buffer("values", names[i], tensor_of(file, names[i], "values")->data, decoded.data,
                    (size_t)(x.rows * x.cols) * 4);
    }
    ni_safetensors_close(file);
}

/* Every byte, and for every BF16 maximum the nearest one to a seventh of it. */
static void every_scale(void **state) {
    (void)state;
    for (int byte = 0; byte < 255; byte++) {
        const double value = ldexp(1 + (byte & 3) / 4.0, (byte >> 2) - 48);
        assert_true((double)ni_e6m2_value((uint8_t)byte) == value);
        assert_true(ni_e6m2_inverse((uint8_t)byte) == ni_bf16_round((float)(1 / value)));
    }
    assert_true(isnan(ni_e6m2_value(255)) && isnan(ni_e6m2_inverse(255)));
    for (uint32_t b = 0; b < 0x8000; b++) {
        const float max = ni_bf16_value((uint16_t)b);
        const uint8_t byte = ni_e6m2_of(max);
        if (b >= 0x7f80) {
            assert_int_equal(byte, 255); /* NaN and Inf */
            continue;
        }
        const double want = (double)ni_bf16_round(max * 0.142578125f), got = (double)ni_e6m2_value(byte);
        const double below = byte ? (double)ni_e6m2_value((uint8_t)(byte - 1)) : 0;
        const double above = byte < 254 ? (double)ni_e6m2_value((uint8_t)(byte + 1)) : INFINITY;
        const bool nearest = fabs(want - got) <= fabs(want - below) && fabs(want - got) <= fabs(want - above);
        const bool tie = fabs(want - got) == fabs(want - below) || fabs(want - got) == fabs(want - above);
        if (!(nearest || (byte == 0 && want < got)) || (tie && byte && byte & 1))
            fail_msg("max %a: byte %02x", (double)max, byte);
    }
}

/* The three levels, seen: 7 at the top needs both doublings, a quarter none. */
static void levels(void **state) {
    (void)state;
    float x[64] = {0}, decoded[64];
    x[0] = 7;             /* twice doubled */
    x[9] = -3.5f;         /* once, with its eight: 3.5 < 4, so its four */
    x[16] = 1.75f;        /* not at all */
    x[40] = 4, x[44] = 1; /* an eight of which one four is doubled once more */
    nb_mat m = nb_mat_of(x, NB_F32, 1, 64);
    nb_quantizer q = hifloat4();
    nb_qtensor t = new_operand(&q, 1, 64);
    assert_int_equal(ni_ref_quantize(NULL, &t, &m, false, NULL, NULL, NULL), NB_OK);
    assert_int_equal(t.scales[0], 48 << 2); /* 1 */
    assert_int_equal(t.scales[1], 1 << 0 | 1 << 5);
    assert_int_equal(t.scales[2] | t.scales[3] << 8, 1 << 0 | 1 << 2 | 1 << 10);
    ni_decode_span(&t, 0, 0, 64, true, decoded);
    for (int i = 0; i < 64; i++)
        assert_true(decoded[i] == x[i]);
}

/* One NaN or Inf takes its 64 along and nobody else. */
static void not_a_number(void **state) {
    (void)state;
    nb_quantizer q = hifloat4();
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, 2, 128, 128);
    nb_qtensor t = new_operand(&q, 2, 128);
    float decoded[128];
    ((float *)x.data)[70] = NAN;
    ((float *)x.data)[128 + 3] = -INFINITY;
    assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, NULL, NULL, NULL), NB_OK);
    for (int row = 0; row < 2; row++) {
        ni_decode_span(&t, row, 0, 128, true, decoded);
        for (int i = 0; i < 128; i++)
            assert_true((isnan(decoded[i]) != 0) == (i / 64 != row));
    }
}

/* Decoded values are BF16 numbers, and quantizing again changes nothing: a GPU may multiply them as BF16, exactly. */
static void values_are_bf16(void **state) {
    (void)state;
    nb_quantizer q = hifloat4();
    nb_mat x = data_matrix(DATA_WIDE, NB_F32, 64, 128, 128);
    nb_qtensor t = new_operand(&q, 64, 128);
    float decoded[128];
    assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, NULL, NULL, NULL), NB_OK);
    for (int64_t r = 0; r < 64; r++) {
        ni_decode_span(&t, r, 0, 128, true, decoded);
        for (int i = 0; i < 128; i++)
            assert_true(ni_bf16_round(decoded[i]) == decoded[i]);
    }
}

static double mean_square(const char *family, const nb_mat *x) {
    nb_quantizer q = ni_format_family_find(family)->defaults;
    nb_quantize_stats stats;
    nb_qtensor t = new_operand(&q, x->rows, x->cols);
    assert_int_equal(ni_ref_quantize(NULL, &t, x, false, NULL, &stats, NULL), NB_OK);
    return stats.sum_sq_error / stats.sum_sq;
}

/* Of a normal distribution the paper states errors of HiFloat4, NVFP4 and MXFP4 as 1 : 1.32 : 1.89. */
static void errs_as_published(void **state) {
    (void)state;
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, 256, 1024, 1024);
    const double mine = mean_square("hifloat4", &x), nvfp4 = mean_square("nvfp4", &x), mxfp4 = mean_square("mxfp4", &x);
    print_message("mean square error %.6f; nvfp4 %.3f, mxfp4 %.3f times as much\n", mine, nvfp4 / mine, mxfp4 / mine);
    assert_true(fabs(nvfp4 / mine - 1.32) < 0.03);
    assert_true(fabs(mxfp4 / mine - 1.89) < 0.03);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(public_codes), CASE(every_scale),     CASE(levels),
        CASE(not_a_number), CASE(values_are_bf16), CASE(errs_as_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
