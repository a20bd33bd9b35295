/* test_mxfp4.c: MXFP4 under every rule of its scales (arXiv:2605.09825, arXiv:2502.20586): the codes and products of an
 * independent source in numpy (scripts/golden_mxfp4.py); that rounding 3/4 of a number stochastically is unbiased where
 * OCP's rule is not, for operands and for products; and the recipes as the papers describe them. */
#include "files/safetensors.h"
#include "nibble/recipe.h"
#include "quantize_cases.h"

#include "backend/ref/gemm_q.h"
#include "backend/ref/quantize.h"
#include "backend/ref/quantize_parts.h"
#include "format/e8m0.h"

static const char *const rules[] = {"floor", "ceil", "ceil-log2", "three-quarters"};
static const nb_scale_rule rule_of[] = {NB_RULE_FLOOR, NB_RULE_CEIL, NB_RULE_CEIL_LOG2, NB_RULE_THREE_QUARTERS};
static const char *const roundings[] = {"even", "sr8", "sr16"};

static nb_quantizer mxfp4(nb_scale_rule rule, int rounding, int32_t size) {
    nb_quantizer q = ni_format_family_find("mxfp4")->defaults;
    q.rule = rule;
    q.round = rounding ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN;
    q.sr_bits = rounding == 1 ? 8 : 16;
    q.hadamard_size = size;
    return q;
}

static nb_noise noise_at(const uint32_t *clock) {
    return (nb_noise){.seed = 7, .tensor = 0x51ed, .signs = 0x270b, .clock = clock};
}

static nb_qtensor quantized(const nb_quantizer *q, const nb_mat *x, uint32_t step) {
    const uint32_t clock[2] = {step, 1};
    const nb_noise noise = noise_at(clock);
    nb_qtensor t = new_operand(q, x->rows, x->cols);
    assert_int_equal(ni_ref_quantize(NULL, &t, x, false, &noise, NULL, NULL), NB_OK);
    return t;
}

/* ---- beside numpy ---- */

static const ni_file_tensor *tensor(const ni_safetensors *file, const char *format, const char *name,
                                    const char *more) {
    char full[128];
    snprintf(full, sizeof full, format, name, more);
    return ni_safetensors_find(file, full);
}

static void compare_codes(const ni_safetensors *file, const char *name, const char *kind, const nb_quantizer *q,
                          const nb_mat *x) {
    char prefix[100];
    snprintf(prefix, sizeof prefix, "%s/%s", name, kind);
    const ni_file_tensor *codes = tensor(file, "%s/%s", prefix, "codes");
    const ni_file_tensor *scales = tensor(file, "%s/%s", prefix, "scales");
    assert_true(codes && scales);
    const nb_qtensor t = quantized(q, x, 3);
    same_buffer("scales", prefix, scales->data, t.scales, (size_t)(x->rows * x->cols / 32));
    for (int64_t e = 0; e < x->rows * x->cols; e++) {
        const uint8_t theirs = ((const uint8_t *)codes->data)[e / 2] >> (4 * (e % 2)) & 15;
        const uint8_t ours = t.codes[e / 2] >> (4 * (e % 2)) & 15;
        if (theirs != ours && ((theirs | ours) & 7)) /* a rotation in FP32 may give the other zero */
            fail_msg("%s: element %d is code %x, expected %x", prefix, (int)e, ours, theirs);
    }
}

/* Sums of FP32 products, each within half a last bit, and one scale in front of them. */
static void compare_product(const ni_safetensors *file, const char *name, const char *rule, const nb_quantizer *q,
                            const nb_mat *x) {
    const ni_file_tensor *want = tensor(file, "%s/product-%s", name, rule);
    assert_non_null(want);
    const nb_qtensor t = quantized(q, x, 3);
    const int64_t n = x->rows;
    nb_mat c = nb_mat_of(poisoned((size_t)(n * n) * sizeof(float)), NB_F32, n, n);
    assert_int_equal(ni_ref_gemm_q(NULL, &c, &t, &t, false, NULL), NB_OK);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const double *sums = want->data;
            const double size = sqrt(sums[i * n + i] * sums[j * n + j]);
            assert_true(fabs((double)((float *)c.data)[i * n + j] - sums[i * n + j]) <=
                        4e-7 * size + 1e-37); /* or below what FP32 holds */
        }
}

static void numpy_agrees(void **state) {
    (void)state;
    static const char *const names[] = {"bf16", "edges", "integers", "wide"};
    static const int32_t sizes[] = {0, 16, 64};
    ni_safetensors *file;
    nb_error err = {0};
    int cases = 0;
    if (ni_safetensors_open(NI_TEST_GOLDEN "/mxfp4.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (int n = 0; n < 4; n++) {
        const ni_file_tensor *in = tensor(file, "%s/%s", names[n], "x");
        assert_non_null(in);
        const nb_mat x = nb_mat_of(in->data, NB_F32, in->shape[0], in->shape[1]);
        for (int r = 0; r < 4; r++) {
            for (int s = 0; s < (n < 2 ? 1 : 3); s++)
                for (int k = 0; k < 3; k++, cases++) {
                    char kind[64];
                    snprintf(kind, sizeof kind, "%s-%d-%s", rules[r], (int)sizes[s], roundings[k]);
                    const nb_quantizer q = mxfp4(rule_of[r], k, sizes[s]);
                    compare_codes(file, names[n], kind, &q, &x);
                }
            const nb_quantizer q = mxfp4(rule_of[r], 0, 0);
            compare_product(file, names[n], rules[r], &q, &x);
        }
    }
    assert_int_equal(cases, 4 * 3 * (1 + 1 + 3 + 3));
    ni_safetensors_close(file);
}

/* ---- what the rules promise ---- */

/* The largest code of a block of maximum m under a rule, in units of the scale. */
static void where_the_maximum_goes(void **state) {
    (void)state;
    static const struct {
        float amax;
        double times[4]; /* amax / scale */
    } blocks[] = {{4, {4, 4, 4, 4}}, {5, {5, 5, 2.5, 5}}, {6, {6, 6, 3, 6}}, {7, {7, 3.5, 3.5, 7}}, {8, {4, 4, 4, 4}}};
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++)
        for (int r = 0; r < 4; r++) {
            const uint8_t byte = ni_e8m0_of(rule_of[r], blocks[b].amax, 6.0f);
            assert_true((double)blocks[b].amax / ldexp(1, byte - 127) == blocks[b].times[r]);
        }
}

/* ---- 3/4, stochastically ---- */

enum { ROWS = 16, COLS = 128, DRAWS = 4000 };

/* How far the mean over draws is from x, element by element, in units of what independent errors of mean 0 leave; and
 * the worst element. */
static double bias_of(nb_scale_rule rule, const nb_mat *x, double *worst) {
    const nb_quantizer q = mxfp4(rule, 2, 0);
    double *sum = poisoned(sizeof *sum * ROWS * COLS), *squares = poisoned(sizeof *squares * ROWS * COLS), total = 0;
    memset(sum, 0, sizeof *sum * ROWS * COLS);
    memset(squares, 0, sizeof *squares * ROWS * COLS);
    nb_qtensor t = new_operand(&q, ROWS, COLS);
    for (uint32_t step = 0; step < DRAWS; step++) {
        const uint32_t clock[2] = {step, 0};
        const nb_noise noise = noise_at(clock);
        assert_int_equal(ni_ref_quantize(NULL, &t, x, false, &noise, NULL, NULL), NB_OK);
        for (int64_t r = 0; r < ROWS; r++) {
            float row[COLS];
            ni_decode_span(&t, r, 0, COLS, true, row);
            for (int64_t c = 0; c < COLS; c++) {
                const double d = (double)row[c] - (double)((float *)x->data)[r * COLS + c];
                sum[r * COLS + c] += d;
                squares[r * COLS + c] += d * d;
            }
        }
    }
    *worst = 0;
    for (int64_t e = 0; e < ROWS * COLS; e++) {
        /* A number next to the grid may not have moved at all: that is one move of two units of the scale in all draws.
         */
        const double once = 2 * (double)ni_decode_scale(&t, e / COLS, e % COLS, true) / DRAWS;
        const double far = fabs(sum[e] / DRAWS) / sqrt(squares[e] / DRAWS / DRAWS + once * once);
        total += far * far / (ROWS * COLS);
        *worst = far > *worst ? far : *worst;
    }
    return sqrt(total);
}

/* Under OCP's rule what lies between 6 and 8 scales becomes 6; of 3/4 nothing does. */
static void three_quarters_is_unbiased(void **state) {
    (void)state;
    const nb_mat x = data_matrix(DATA_NORMAL, NB_F32, ROWS, COLS, COLS);
    double worst, worst_ocp;
    const double rms = bias_of(NB_RULE_THREE_QUARTERS, &x, &worst), ocp = bias_of(NB_RULE_FLOOR, &x, &worst_ocp);
    print_message("mean error in standard deviations of a mean: 3/4 %.3f, worst %.2f; OCP %.3f, worst %.2f\n", rms,
                  worst, ocp, worst_ocp);
    assert_true(rms < 1.1 && worst < 5);
    assert_true(worst_ocp > 20);
}

/* x w^T of both operands rotated under fresh signs and rounded: the mean of products is the product (16/9 is right),
 * and the scale of the tensor carries it. */
static void products_are_unbiased(void **state) {
    (void)state;
    enum { N = 8, TIMES = 2000 };
    nb_quantizer q = mxfp4(NB_RULE_THREE_QUARTERS, 2, 64);
    q.hadamard_signs = NB_SIGNS_FRESH;
    const nb_mat x = data_matrix(DATA_WIDE, NB_F32, N, COLS, COLS), w = data_matrix(DATA_NORMAL, NB_F32, N, COLS, COLS);
    for (int64_t e = 0; e < N * COLS; e++) /* outliers, but none that hides the rest */
        ((float *)x.data)[e] = (float)normal(21, e) * (e % 37 == 5 ? 20.0f : 1.0f);
    double mean[N * N] = {0}, squares[N * N] = {0}, worst = 0, total = 0;
    nb_qtensor a = new_operand(&q, N, COLS), b = new_operand(&q, N, COLS);
    nb_mat c = nb_mat_of(poisoned(N * N * sizeof(float)), NB_F32, N, N);
    for (uint32_t step = 0; step < TIMES; step++) {
        const uint32_t clock[2] = {step, 0};
        nb_noise noise = noise_at(clock);
        assert_int_equal(ni_ref_quantize(NULL, &a, &x, false, &noise, NULL, NULL), NB_OK);
        noise.tensor++;
        assert_int_equal(ni_ref_quantize(NULL, &b, &w, false, &noise, NULL, NULL), NB_OK);
        assert_int_equal(ni_ref_gemm_q(NULL, &c, &a, &b, false, NULL), NB_OK);
        for (int i = 0; i < N * N; i++) {
            const double y = (double)((float *)c.data)[i];
            mean[i] += y / TIMES;
            squares[i] += y * y / TIMES;
        }
    }
    assert_true(*a.tensor_scale == 0x1.555556p0f);
    for (int i = 0; i < N * N; i++) {
        double want = 0;
        for (int64_t k = 0; k < COLS; k++)
            want += (double)((float *)x.data)[i / N * COLS + k] * (double)((float *)w.data)[i % N * COLS + k];
        const double far = fabs(mean[i] - want) / sqrt((squares[i] - mean[i] * mean[i]) / TIMES);
        worst = far > worst ? far : worst;
        total += far * far / (N * N);
    }
    print_message("mean product: %.3f standard deviations off, worst %.2f\n", sqrt(total), worst);
    assert_true(sqrt(total) < 1.3 && worst < 4.5);
}

/* ---- the recipes ---- */

static nb_recipe recipe(const char *path) {
    nb_recipe r;
    nb_error err = {0};
    if (nb_recipe_load(path, NI_TEST_SOURCE "/recipes", &r, &err) != NB_OK)
        fail_msg("%s", err.message);
    return r;
}

static void arms_are_what_they_say(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int32_t fprop, wgrad; /* Hadamard sizes */
        nb_signs signs;
        nb_rounding dy;
        nb_scale_rule rule;
    } arms[] = {
        {"recipes/mxfp4", 0, 16, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-plain", 0, 0, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-stochastic", 0, 0, NB_SIGNS_NONE, NB_ROUND_STOCHASTIC, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-random-signs", 0, 16, NB_SIGNS_FRESH, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-fixed-signs", 0, 16, NB_SIGNS_FIXED, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-rotate-all", 16, 16, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-hadamard-32", 0, 32, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-hadamard-64", 0, 64, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-hadamard-128", 0, 128, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_FLOOR},
        {"examples/recipes/mxfp4-ceil", 0, 16, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_CEIL},
        {"examples/recipes/mxfp4-ceil-log2", 0, 16, NB_SIGNS_NONE, NB_ROUND_EVEN, NB_RULE_CEIL_LOG2},
    };
    for (size_t i = 0; i < sizeof arms / sizeof *arms; i++) {
        char path[256];
        snprintf(path, sizeof path, NI_TEST_SOURCE "/%s.yaml", arms[i].name);
        const nb_recipe r = recipe(path);
        for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
            const nb_quantizer *q = &r.roles[role].quantizer;
            const bool gradient = role == NB_DGRAD_DY || role == NB_WGRAD_DY;
            assert_true(q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E8M0 && !r.roles[role].from);
            assert_int_equal(q->rule, arms[i].rule);
            assert_int_equal(q->round, gradient ? arms[i].dy : NB_ROUND_EVEN);
            assert_int_equal(q->hadamard_size, role < NB_WGRAD_DY ? arms[i].fprop : arms[i].wgrad);
            if (q->hadamard_size)
                assert_int_equal(q->hadamard_signs, arms[i].signs);
        }
    }
    const nb_recipe kept = recipe("mxfp4-wgrad-bf16");
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
        assert_true(nb_quantizer_is_bf16(&kept.roles[role].quantizer) == (role >= NB_WGRAD_DY));
}

static void refusals(void **state) {
    (void)state;
    nb_quantizer q = mxfp4(NB_RULE_THREE_QUARTERS, 2, 0), bad;
    assert_int_equal(nb_quantizer_check(&q, NULL), NB_OK);
    bad = ni_format_family_find("mxfp8")->defaults, bad.rule = NB_RULE_THREE_QUARTERS;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
    bad = ni_format_family_find("nvfp4")->defaults, bad.rule = NB_RULE_CEIL_LOG2;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
    bad = q, bad.outer = NB_OUTER_TENSOR;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(numpy_agrees),          CASE(where_the_maximum_goes), CASE(three_quarters_is_unbiased),
        CASE(products_are_unbiased), CASE(arms_are_what_they_say), CASE(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
