/* test_quantize.c: properties of the reference quantizer: rotation, random bits, corners, statistics, refusals. */
#include "quantize_cases.h"

#include "backend/ref/quantize.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/hadamard.h"
#include "format/noise.h"
#include "recipe/quantizer_yaml.h"

/* ---- Hadamard ---- */

static const ni_sign_mask no_signs = {{0, 0, 0, 0}};

static void hadamard_rows_are_orthonormal(void **state) {
    (void)state;
    for (int n = 16; n <= 128; n *= 2) {
        float h[128][128] = {{0}};
        for (int i = 0; i < n; i++) {
            h[i][i] = 1;
            ni_hadamard(h[i], n, no_signs);
            for (int j = 0; j < n; j++) /* Sylvester: the sign is the parity of i & j */
                assert_true(h[i][j] == (__builtin_parity((unsigned)(i & j)) ? -1 : 1) * ni_hadamard_factor(n));
        }
        assert_true(ni_hadamard_factor(n) == (float)(1 / sqrt(n)));
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                double dot = 0;
                for (int k = 0; k < n; k++)
                    dot += (double)h[i][k] * (double)h[j][k];
                assert_float_equal(dot, i == j, 1e-6);
            }
    }
}

static void hadamard_twice_is_identity(void **state) {
    (void)state;
    const ni_noise_key noise = {.seed = 1, .signs = 2, .step = 3};
    for (int n = 16; n <= 128; n *= 2)
        for (int signs = NB_SIGNS_NONE; signs <= NB_SIGNS_FRESH; signs++) {
            ni_sign_mask mask = ni_signs_of((nb_signs)signs, &noise);
            float x[128], y[128];
            for (int i = 0; i < n; i++)
                x[i] = y[i] = (float)((i * 37) % 101 - 50); /* integers: sums are exact */
            ni_hadamard(y, n, mask);
            ni_hadamard(y, n, no_signs);
            for (int i = 0; i < n; i++) {
                float back = mask.w[i / 32] >> (i % 32) & 1 ? -y[i] : y[i];
                assert_float_equal(back, x[i], n == 16 || n == 64 ? 0 : 1e-4f); /* 1/4 and 1/8 are exact */
            }
        }
}

static void rotated_operands_keep_their_product(void **state) {
    (void)state;
    const ni_noise_key noise = {.seed = 8, .signs = 4};
    for (int n = 16; n <= 128; n *= 2) {
        ni_sign_mask mask = ni_signs_of(NB_SIGNS_FRESH, &noise);
        float a[128], b[128];
        double before = 0, after = 0;
        for (int i = 0; i < n; i++) {
            a[i] = (float)normal(1, i);
            b[i] = (float)normal(2, i);
            before += (double)a[i] * (double)b[i];
        }
        ni_hadamard(a, n, mask);
        ni_hadamard(b, n, mask);
        for (int i = 0; i < n; i++)
            after += (double)a[i] * (double)b[i];
        assert_float_equal(after, before, 1e-4);
    }
}

static void sign_patterns(void **state) {
    (void)state;
    static const int fixed[16] = {1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1};
    ni_sign_mask mask = ni_signs_of(NB_SIGNS_FIXED, NULL);
    for (int i = 0; i < 128; i++)
        assert_int_equal(mask.w[i / 32] >> (i % 32) & 1, fixed[i % 16] < 0);
    ni_noise_key a = {.seed = 1, .tensor = 10, .signs = 20, .step = 30, .micro_batch = 40}, b = a;
    ni_sign_mask first = ni_signs_of(NB_SIGNS_FRESH, &a), other;
    b.tensor = 11; /* the other operand of the GEMM */
    other = ni_signs_of(NB_SIGNS_FRESH, &b);
    assert_memory_equal(&first, &other, sizeof first);
    int negative = 0, draws = 0;
    for (uint32_t step = 0; step < 1000; step++) {
        b.step = step;
        other = ni_signs_of(NB_SIGNS_FRESH, &b);
        for (int i = 0; i < 4; i++)
            negative += __builtin_popcount(other.w[i]);
        draws += 128;
        if (step != a.step)
            assert_memory_not_equal(&first, &other, sizeof first);
    }
    assert_true(abs(2 * negative - draws) < 3 * sqrt(draws));
}

/* ---- random bits ---- */

/* Correlation of the bits of two keys, in standard deviations. */
static double correlation(const ni_noise_key *a, const ni_noise_key *b, uint32_t shift, int bits) {
    double sum = 0;
    int n = 0;
    for (uint32_t group = 0; group < 2000; group++) {
        float u[16], v[16];
        ni_noise_group(a, group, bits, u);
        ni_noise_group(b, group + shift, bits, v);
        for (int j = 0; j < 16; j++, n++)
            sum += ((double)u[j] - 0.5) * ((double)v[j] - 0.5) * 12;
    }
    return fabs(sum) / sqrt(n);
}

static void streams_are_independent(void **state) {
    (void)state;
    const ni_noise_key base = {.seed = 1, .tensor = nb_name_hash("layers.0.q_proj", "dgrad.dy"), .step = 5};
    for (int bits = 8; bits <= 16; bits += 8) {
        ni_noise_key other[6] = {base, base, base, base, base, base};
        other[0].seed = 2;
        other[1].tensor = nb_name_hash("layers.0.q_proj", "wgrad.dy");
        other[2].tensor = nb_name_hash("layers.1.q_proj", "dgrad.dy");
        other[3].step = 6;
        other[4].micro_batch = 1;
        for (int i = 0; i < 5; i++)
            assert_true(correlation(&base, &other[i], 0, bits) < 3.5);
        assert_true(correlation(&base, &base, 1, bits) < 3.5);
        assert_true(correlation(&base, &base, 0, bits) > 100); /* the measure sees what is there */
    }
}

static void bits_are_uniform(void **state) {
    (void)state;
    const ni_noise_key noise = {.seed = 3, .tensor = 4};
    for (int bits = 8; bits <= 16; bits += 8) {
        int histogram[16][256] = {{0}};
        enum { GROUPS = 25600 };
        for (uint32_t group = 0; group < GROUPS; group++) {
            float u[16];
            ni_noise_group(&noise, group, bits, u);
            for (int j = 0; j < 16; j++)
                histogram[j][(int)(u[j] * 256)]++;
        }
        for (int j = 0; j < 16; j++) {
            double chi2 = 0;
            for (int i = 0; i < 256; i++)
                chi2 += (histogram[j][i] - GROUPS / 256.0) * (histogram[j][i] - GROUPS / 256.0) / (GROUPS / 256.0);
            assert_true(fabs(chi2 - 255) < 4 * sqrt(2 * 255.0));
        }
    }
}

typedef struct average_error {
    double bias;            /* mean of decode(quantize(x)) - x over many steps */
    double shrink;          /* the same toward zero */
    double standard_error;  /* of both */
    double expected_shrink; /* what the floor of the random bits takes: half of their last bit */
} average_error;

static average_error average_over_steps(int bits) {
    enum { ROWS = 4, COLS = 64, STEPS = 4000, N = ROWS * COLS };
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.round = NB_ROUND_STOCHASTIC;
    q.sr_bits = bits;
    q.rule = NB_RULE_HEADROOM;
    nb_mat src = data_matrix(DATA_NORMAL, NB_F32, ROWS, COLS, COLS);
    nb_qtensor t = new_operand(&q, ROWS, COLS);
    nb_mat decoded = nb_mat_of(poisoned(N * 4), NB_F32, ROWS, COLS);
    const float *x = src.data, *y = decoded.data;
    average_error e = {0, 0, 0, 0};
    for (uint32_t step = 0; step < STEPS; step++) {
        const uint32_t clock[2] = {step, 0};
        nb_noise noise = {.seed = 7, .tensor = 9, .clock = clock};
        assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, &noise, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_dequantize(NULL, &decoded, &t, false, true, NULL), NB_OK);
        for (int i = 0; i < N; i++) {
            double d = (double)y[i] - (double)x[i];
            e.bias += d / N / STEPS;
            e.shrink -= (x[i] > 0 ? d : -d) / N / STEPS;
            e.standard_error += d * d;
        }
    }
    e.standard_error = sqrt(e.standard_error) / N / STEPS;
    for (int i = 0; i < N; i++) {
        float scale = ni_e4m3_value(t.scales[i / 16]) * *t.tensor_scale;
        e.expected_shrink += (double)(ni_e2m1_step(ni_f32_abs(x[i]) / scale) * scale) / (2 << bits) / N;
    }
    return e;
}

static void stochastic_rounding_is_unbiased(void **state) {
    (void)state;
    average_error e = average_over_steps(16);
    assert_true(fabs(e.bias) < 3 * e.standard_error);
    assert_true(fabs(e.shrink - e.expected_shrink) < 3 * e.standard_error);
    assert_true(e.expected_shrink < e.standard_error);
    e = average_over_steps(8);
    assert_true(fabs(e.shrink - e.expected_shrink) < 3 * e.standard_error);
    assert_true(e.expected_shrink > 2 * e.standard_error); /* eight bits: the shrink is there to be seen */
}

/* ---- one value, several ways to say it ---- */

static void transposed_sources(void **state) {
    (void)state;
    enum { ROWS = 32, COLS = 128 };
    const nb_noise noise = {.seed = 1, .tensor = 2, .signs = 3};
    quantizer_list *list = all_quantizers();
    nb_mat a = data_matrix(DATA_NORMAL, NB_BF16, ROWS, COLS, COLS + 5);
    nb_mat b = nb_mat_of(poisoned(ROWS * COLS * 4), NB_F32, COLS, ROWS);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++)
            ((float *)b.data)[c * ROWS + r] = ni_bf16_value(((uint16_t *)a.data)[r * a.stride + c]);
    for (int32_t k = 0; k < list->count; k++) {
        buffer *before = test_buffers;
        nb_qtensor s = new_operand(&list->q[k], ROWS, COLS), t = new_operand(&list->q[k], ROWS, COLS);
        assert_int_equal(ni_ref_quantize(NULL, &s, &a, false, &noise, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_quantize(NULL, &t, &b, true, &noise, NULL, NULL), NB_OK);
        char text[256];
        same_operand(&s, &t, nb_quantizer_text(&list->q[k], text, sizeof text));
        release_buffers_until(before);
    }
}

/* Codes of 16x16 tiles and tensor scales serve both directions: exchanged, or quantized from the transposed source. */
static void exchanged_codes(void **state) {
    (void)state;
    static const char *const texts[] = {"{format: nvfp4, block: 16x16}", "{format: int4, block: tensor}",
                                        "{format: e5m2, block: tensor, scale: pow2}", "{format: e2m1, block: row}",
                                        "{format: e4m3, block: column, round: up}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        nb_quantizer q, t;
        assert_int_equal(nb_quantizer_parse(texts[i], &q, NULL), NB_OK);
        t = q;
        t.block_rows = q.block_cols;
        t.block_cols = q.block_rows;
        nb_mat src = data_matrix(DATA_NORMAL, NB_F32, 48, 32, 32);
        nb_qtensor a = new_operand(&q, 48, 32), b = new_operand(&t, 32, 48), c = new_operand(&t, 32, 48);
        assert_int_equal(ni_ref_quantize(NULL, &a, &src, false, NULL, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_quantize(NULL, &b, &src, true, NULL, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_transpose_codes(NULL, &c, &a, NULL), NB_OK);
        same_operand(&b, &c, texts[i]);
    }
}

/* A decoded operand quantizes to itself. */
static void quantizing_again_changes_nothing(void **state) {
    (void)state;
    static const char *const texts[] = {"nvfp4-outer128", "nvfp4-2d", "mxfp4", "mxfp8", "fp4-row"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        nb_quantizer q;
        assert_int_equal(nb_quantizer_parse(texts[i], &q, NULL), NB_OK);
        nb_mat src = data_matrix(DATA_NORMAL, NB_F32, 16, 128, 128);
        nb_mat x = nb_mat_of(poisoned(16 * 128 * 4), NB_F32, 16, 128), y = x;
        y.data = poisoned(16 * 128 * 4);
        nb_qtensor a = new_operand(&q, 16, 128), b = new_operand(&q, 16, 128);
        assert_int_equal(ni_ref_quantize(NULL, &a, &src, false, NULL, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_requantize(NULL, &b, &a, false, NULL, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_dequantize(NULL, &x, &a, false, true, NULL), NB_OK);
        assert_int_equal(ni_ref_dequantize(NULL, &y, &b, false, true, NULL), NB_OK);
        if (q.rule != NB_RULE_CEIL) /* ceil: an amax that rounds down to a power of two moves the scale */
            same_buffer("codes", texts[i], a.codes, b.codes, nb_qtensor_bytes(&q, 16, 128).codes);
        for (int k = 0; k < 16 * 128; k++)
            assert_float_equal(((float *)x.data)[k], ((float *)y.data)[k], 1e-6f);
    }
}

static void texts_read_back(void **state) {
    (void)state;
    quantizer_list *list = all_quantizers();
    int read = 0;
    for (int32_t k = 0; k < list->count; k++) {
        nb_quantizer q;
        nb_error err = {0};
        char text[256];
        if (list->q[k].scale_type == NB_SCALE_NONE) /* the inside of folded operands; no recipe can name it */
            continue;
        if (nb_quantizer_parse(nb_quantizer_text(&list->q[k], text, sizeof text), &q, &err) != NB_OK)
            fail_msg("%s: %s", text, err.message);
        if (!nb_quantizer_equal(&q, &list->q[k]))
            fail_msg("%s is read as another quantizer", text);
        read++;
    }
    assert_true(read > 300);
}

/* ---- corners ---- */

static void decoded_of(const char *quantizer, data_kind kind, nb_mat *out, nb_quantize_stats *stats) {
    nb_quantizer q;
    assert_int_equal(nb_quantizer_parse(quantizer, &q, NULL), NB_OK);
    nb_mat src = data_matrix(kind, NB_F32, 16, 128, 128);
    nb_qtensor t = new_operand(&q, 16, 128);
    *out = nb_mat_of(poisoned(16 * 128 * 4), NB_F32, 16, 128);
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, stats, NULL), NB_OK);
    assert_int_equal(ni_ref_dequantize(NULL, out, &t, false, true, NULL), NB_OK);
}

/* The NaN of datum() stands at element 77: it reaches everything that shares its scale, and stays visible. */
static void nan_propagates(void **state) {
    (void)state;
    static const struct {
        const char *quantizer;
        int first, last;
    } cases[] = {{"nvfp4", 0, 16 * 128},      {"nvfp4-2d", 0, 16 * 128},
                 {"nvfp4-outer128", 0, 128},  {"mxfp4", 64, 96},
                 {"mxfp8", 64, 96},           {"fp4-row", 0, 128},
                 {"fp4-tensor", 0, 16 * 128}, {"{format: e5m2, block: tensor}", 0, 16 * 128}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nb_mat x;
        nb_quantize_stats stats;
        decoded_of(cases[i].quantizer, DATA_NAN, &x, &stats);
        assert_true(isnan(stats.amax));
        for (int k = 0; k < 16 * 128; k++)
            if (isnan(((float *)x.data)[k]) != (k >= cases[i].first && k < cases[i].last))
                fail_msg("%s: element %d is %a", cases[i].quantizer, k, (double)((float *)x.data)[k]);
    }
}

static void zeros_stay_zero(void **state) {
    (void)state;
    static const char *const texts[] = {"nvfp4", "nvfp4-2d", "nvfp4-outer128", "mxfp4",
                                        "mxfp8", "fp4-row",  "fp4-tensor"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        nb_mat x;
        nb_quantize_stats s;
        decoded_of(texts[i], DATA_ZERO, &x, &s);
        for (int k = 0; k < 16 * 128; k++)
            assert_true(((float *)x.data)[k] == 0);
        assert_true(s.amax == 0 && s.nonzero == 0 && s.flushed == 0 && s.zero_scales == 0 && s.sum_sq_error == 0);
    }
}

static void infinity_saturates(void **state) {
    (void)state;
    nb_mat x;
    nb_quantize_stats stats;
    decoded_of("nvfp4", DATA_INF, &x, &stats);
    assert_true(((float *)x.data)[77] == -2688 && isinf(stats.amax)); /* S = 1: docs/formats.md */
    decoded_of("fp4-tensor", DATA_INF, &x, &stats);
    assert_true(((float *)x.data)[77] == -6);
}

static void statistics(void **state) {
    (void)state;
    /* Blocks of 16: one with 6 and small change, one too small for its scale, one of zeros, one plain. Tensor amax 6:
     * Sdec = 6/2688, byte of the first block 0x7e, so a code's unit is 1. */
    float x[64] = {6, 0.2f, -0.2f, 5, -0.0f, [16] = 1e-6f, [48] = 6};
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    nb_qtensor t = new_operand(&q, 1, 64);
    nb_mat src = nb_mat_of(x, NB_F32, 1, 64);
    nb_quantize_stats s;
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, &s, NULL), NB_OK);
    assert_true(s.amax == 6);
    assert_int_equal(s.elements, 64);
    assert_int_equal(s.nonzero, 6);
    assert_int_equal(s.flushed, 3);
    assert_int_equal(s.saturated, 0);
    assert_int_equal(s.blocks, 4);
    assert_int_equal(s.zero_scales, 1);
    assert_float_equal(s.sum_sq, 36 + 25 + 36 + 0.08, 1e-5);
    assert_float_equal(s.sum_sq_error, 1 + 0.08, 1e-5);
    assert_float_equal(s.sum_product, 36 + 20 + 36, 1e-4);
    q = ni_format_family_find("mxfp4")->defaults; /* floor: 7 lies between 6 and 8 and saturates */
    x[0] = 7;
    t = new_operand(&q, 1, 64);
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, &s, NULL), NB_OK);
    assert_int_equal(s.saturated, 1);
}

/* ---- refusals ---- */

static void refusals(void **state) {
    (void)state;
    nb_error err;
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    nb_mat src = data_matrix(DATA_NORMAL, NB_F32, 16, 32, 32), small = src;
    nb_qtensor t = new_operand(&q, 16, 32), broken = t, out;
    small.cols = 16;
    assert_int_equal(ni_ref_quantize(NULL, &t, &small, false, NULL, NULL, &err), NB_BAD_USAGE);
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, true, NULL, NULL, &err), NB_BAD_USAGE);
    broken.scales = NULL;
    assert_int_equal(ni_ref_quantize(NULL, &broken, &src, false, NULL, NULL, &err), NB_BAD_USAGE);
    small = src;
    small.dtype = NB_I32;
    assert_int_equal(ni_ref_quantize(NULL, &t, &small, false, NULL, NULL, &err), NB_BAD_USAGE);
    t.quantizer.round = NB_ROUND_STOCHASTIC;
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, NULL, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "noise"));
    t.quantizer = q;
    t.cols = 24;
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, NULL, &err), NB_BAD_CONFIG);
    t.cols = 32;
    assert_int_equal(ni_ref_quantize(NULL, &t, &src, false, NULL, NULL, &err), NB_OK);
    out = new_operand(&q, 32, 16);
    assert_int_equal(ni_ref_transpose_codes(NULL, &out, &t, &err), NB_BAD_USAGE); /* 1x16 does not turn */
    assert_non_null(strstr(err.message, "requantize"));
}

/* Of a rotated operand the rotated numbers are quantized again (arXiv:2505.14669). */
static void rotated_codes_stay_rotated(void **state) {
    (void)state;
    nb_quantizer rotated = ni_format_family_find("mxfp4")->defaults, plain = rotated;
    rotated.hadamard_size = 32;
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, 32, 64, 64), y = nb_mat_of(poisoned(32 * 64 * 4), NB_F32, 32, 64);
    nb_qtensor first = new_operand(&rotated, 32, 64), want = new_operand(&plain, 64, 32),
               got = new_operand(&plain, 64, 32);
    assert_int_equal(ni_ref_quantize(NULL, &first, &x, false, NULL, NULL, NULL), NB_OK);
    assert_int_equal(ni_ref_dequantize(NULL, &y, &first, false, true, NULL), NB_OK);
    assert_int_equal(ni_ref_quantize(NULL, &want, &y, true, NULL, NULL, NULL), NB_OK);
    assert_int_equal(ni_ref_requantize(NULL, &got, &first, true, NULL, NULL, NULL), NB_OK);
    same_operand(&want, &got, "quantized again");
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

/* outer: unit is what tensor gives where the largest magnitude is 1; beyond it blocks saturate. */
static void unit_is_the_scale_of_an_amax_of_one(void **state) {
    (void)state;
    enum { ROWS = 16, COLS = 64, N = ROWS * COLS };
    static const char *const shapes[] = {"1x16", "16x16"};
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    for (int s = 0; s < 4; s++) {
        float x[N], decoded[2][N];
        for (int i = 0; i < N; i++)
            x[i] = (float)fmax(-1, fmin(1, 0.2 * normal(3, i)));
        x[17] = s < 2 ? -1.0f : 4.0f; /* the second pair: beyond 1 */
        const nb_mat from = nb_mat_of(x, NB_F32, ROWS, COLS);
        for (int unit = 0; unit < 2; unit++) {
            char text[96];
            nb_quantizer q;
            nb_error err = {0};
            snprintf(text, sizeof text, "{format: nvfp4, block: %s, outer: %s}", shapes[s % 2],
                     unit ? "unit" : "tensor");
            assert_int_equal(nb_quantizer_parse(text, &q, &err), NB_OK);
            void *memory = nb_backend_alloc(be, nb_qtensor_bytes(&q, ROWS, COLS).total);
            const nb_qtensor codes = nb_qtensor_place(&q, ROWS, COLS, memory);
            const nb_mat to = nb_mat_of(decoded[unit], NB_F32, ROWS, COLS);
            assert_int_equal(nb_quantize(be, &codes, &from, false, NULL, NULL, &err), NB_OK);
            assert_int_equal(nb_dequantize(be, &to, &codes, &err), NB_OK);
            if (unit)
                assert_true(*codes.tensor_scale == 1.0f / 2688.0f);
            nb_backend_release(be, memory);
        }
        if (s < 2)
            assert_memory_equal(decoded[0], decoded[1], sizeof decoded[0]);
        else /* 448 * 6 / 2688 */
            assert_true(fabsf(decoded[1][17] - 1.0f) < 1e-6f && decoded[0][17] == 4.0f);
    }
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unit_is_the_scale_of_an_amax_of_one),
        CASE(hadamard_rows_are_orthonormal),
        CASE(hadamard_twice_is_identity),
        CASE(rotated_operands_keep_their_product),
        CASE(sign_patterns),
        CASE(streams_are_independent),
        CASE(bits_are_uniform),
        CASE(stochastic_rounding_is_unbiased),
        CASE(transposed_sources),
        CASE(exchanged_codes),
        CASE(quantizing_again_changes_nothing),
        CASE(texts_read_back),
        CASE(nan_propagates),
        CASE(zeros_stay_zero),
        CASE(infinity_saturates),
        CASE(statistics),
        CASE(refusals),
        CASE(rotated_codes_stay_rotated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
