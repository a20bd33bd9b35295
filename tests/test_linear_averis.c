/* test_linear_averis.c: mean-residual splitting (arXiv:2603.10444) beside an independent source in numpy, which
 * multiplies by whole matrices of means (scripts/golden_averis.py); what it is for; and what it refuses. */
#include "files/safetensors.h"
#include "linear_case.h"

static const nb_pass golden_pass = {.step = 5, .steps = 100, .micro_batch = 1, .rounding_seed = 9};

static nb_plan plan_averis(nb_plan p, bool x, bool dy, nb_averis_mean mean, bool cross) {
    p.mechanisms.has_averis = true;
    p.mechanisms.averis = (nb_averis){.x = x, .dy = dy, .mean = mean, .cross = cross};
    return p;
}

/* 1x16 blocks everywhere. */
static nb_plan plan_plain(nb_rounding round, int32_t size) {
    nb_plan p = {.quantized = true};
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
        p.roles[role].quantizer = nvfp4(1, round);
        if (role >= NB_WGRAD_DY && size)
            p.roles[role].quantizer.hadamard_size = size;
    }
    return p;
}

/* ---- beside numpy ---- */

static const float *tensor(const ni_safetensors *file, const char *name, const char *what) {
    char full[64];
    snprintf(full, sizeof full, "%s%s%s", name, *name ? "/" : "", what);
    const ni_file_tensor *t = ni_safetensors_find(file, full);
    if (!t)
        fail_msg("there is no %s", full);
    return (const float *)t->data;
}

static void put_bf16(const nb_mat *to, const float *from) {
    for (int64_t i = 0; i < to->rows * to->cols; i++)
        ((uint16_t *)to->data)[i] = ni_bf16_even(from[i]);
}

/* `store`: the store's own rounding of a result; `depth` products of FP32 numbers as large as the largest result. */
static void check_golden(const char *what, const double *got, const float *want, double store, double depth,
                         int64_t n) {
    double *wanted = zeros(n), *bound = zeros(n);
    for (int64_t i = 0; i < n; i++)
        wanted[i] = want[i];
    const double most = largest(wanted, n);
    for (int64_t i = 0; i < n; i++)
        bound[i] = store * fabs(wanted[i]) + depth * 0x1p-24 * most;
    check_within(what, got, wanted, bound, n);
}

static void run_case(nb_backend *be, const ni_safetensors *file, const char *name, const nb_plan *plan) {
    linear_case c = make_group(be, plan, 1, NULL);
    put_bf16(&c.x, tensor(file, "", "x"));
    put_bf16(&c.dy[0], tensor(file, "", "dy"));
    memcpy(c.w[0], tensor(file, "", "w"), N * K * sizeof(float));
    for (int micro_batch = 0; micro_batch < 2;
         micro_batch++) { /* twice: the second adds nothing of the first's means */
        ni_linear_group_begin_gradients(c.group);
        run_forward(&c, &golden_pass);
        run_backward(&c, &golden_pass);
    }
    check_golden(name, get(NB_BF16, c.y[0].data, M * N), tensor(file, name, "y"), 0x1p-8, 2 * K, M * N);
    check_golden(name, get(NB_BF16, c.dx.data, M * K), tensor(file, name, "dx"), 0x1p-8, 2 * N, M * K);
    check_golden(name, get(NB_F32, c.dw[0], N * K), tensor(file, name, "dw"), 0, 2 * M, N * K);
    ni_linear_group_free(c.group);
}

static void as_numpy_has_it(void **state) {
    (void)state;
    const nb_averis_mean coded = NB_AVERIS_CODED;
    const nb_plan even = plan_plain(NB_ROUND_EVEN, 0), rotated_wgrad = plan_plain(NB_ROUND_EVEN, 16),
                  drawn = plan_plain(NB_ROUND_STOCHASTIC, 0);
    const struct {
        const char *name;
        nb_plan plan;
    } cases[] = {
        {"both", plan_averis(even, true, true, coded, true)},
        {"bf16", plan_averis(even, true, true, NB_AVERIS_BF16, true)},
        {"no-cross", plan_averis(even, true, true, coded, false)},
        {"x", plan_averis(even, true, false, coded, true)},
        {"dy", plan_averis(even, false, true, coded, true)},
        {"rotated", plan_averis(rotated_wgrad, true, true, coded, true)},
        {"stochastic", plan_averis(drawn, true, true, coded, true)},
    };
    nb_backend *be = cpu();
    ni_safetensors *file;
    nb_error err = {0};
    if (ni_safetensors_open(NI_TEST_GOLDEN "/averis.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(be, file, cases[i].name, &cases[i].plan);
    ni_safetensors_close(file);
    nb_backend_free(be);
}

/* ---- what it is for ---- */

/* Distance of Y from the product in double, relative to the latter. */
static double error_of(nb_backend *be, const nb_plan *plan, double mean) {
    linear_case c = make_group(be, plan, 1, NULL);
    double *x = get(NB_BF16, c.x.data, M * K), apart = 0, all = 0;
    for (int i = 0; i < M * K; i++)
        x[i] += i % K % 8 == 3 ? mean : 0;
    c.x.data = put(NB_BF16, x, M * K);
    run_forward(&c, &golden_pass);
    x = get(NB_BF16, c.x.data, M * K);
    const double *y = get(NB_BF16, c.y[0].data, M * N), *want = product(x, M, get(NB_F32, c.w[0], N * K), N, K);
    double *centred = zeros(N);
    for (int i = 0; i < M * N; i++)
        centred[i % N] += want[i] / M;
    for (int i = 0; i < M * N; i++) {
        apart += (y[i] - want[i]) * (y[i] - want[i]);
        all += (want[i] - centred[i % N]) * (want[i] - centred[i % N]);
    }
    ni_linear_group_free(c.group);
    return sqrt(apart / all);
}

/* Two channels of a block that all tokens share at 30 times the others' spread: what differs between tokens drowns in
 * the steps of such blocks, unless the mean is off. W's rounding stays the same. */
static void tokens_tell_apart(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plain_plan = plan_plain(NB_ROUND_EVEN, 0);
    for (nb_role role = NB_FPROP_W; role < NB_ROLE_COUNT; role++)
        plain_plan.roles[role].quantizer = nb_quantizer_bf16();
    const nb_plan split = plan_averis(plain_plan, true, true, NB_AVERIS_BF16, true);
    const double without = error_of(be, &plain_plan, 30), with = error_of(be, &split, 30),
                 none = error_of(be, &plain_plan, 0);
    assert_true(with < 0.3 * without);
    assert_true(with < 1.2 * none); /* as if no channel were loud */
    nb_backend_free(be);
}

/* ---- bits ---- */

/* Splitting nothing is the recipe without it. */
static void nothing_is_base(void **state) {
    (void)state;
    nb_backend *be = cpu();
    const nb_plan plans[2] = {plan_averis(plan_nvfp4(), false, false, NB_AVERIS_CODED, true), plan_nvfp4()};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, &plans[i], 1, NULL);
        run_forward(&c[i], &golden_pass);
        run_backward(&c[i], &golden_pass);
    }
    expect_same_results(c);
    nb_backend_free(be);
}

static void refused(nb_backend *be, const nb_plan *plan, const char *why) {
    linear_case c;
    nb_error err = {0};
    assert_int_equal(try_group(be, &c, plan, 1, NULL, &err), NB_BAD_CONFIG);
    if (!strstr(err.message, why))
        fail_msg("\"%s\" does not say \"%s\"", err.message, why);
}

static void what_it_refuses(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan turned = plan_averis(plan_nvfp4(), true, true, NB_AVERIS_CODED, true);
    turned.roles[NB_FPROP_X].quantizer = rotated(nvfp4(1, NB_ROUND_EVEN), NB_SIGNS_FIXED);
    turned.roles[NB_FPROP_W].quantizer = rotated(nvfp4(1, NB_ROUND_EVEN), NB_SIGNS_FIXED);
    turned.roles[NB_DGRAD_W] = (nb_operand_rule){.quantizer = nvfp4(1, NB_ROUND_EVEN)};
    refused(be, &turned, "averis splits fprop.x, which is rotated");
    turned.mechanisms.averis.mean = NB_AVERIS_BF16; /* the mean's product is apart from the rotated one */
    linear_case c = make_group(be, &turned, 1, NULL);
    ni_linear_group_free(c.group);
    const nb_plan fold = plan_averis(plan_rows(NB_VIA_FOLD, nb_quantizer_bf16()), true, true, NB_AVERIS_CODED, true);
    refused(be, &fold, "averis needs dgrad.w with its scales");
    nb_backend_free(be);
}

int main(void) {
#define CASE(name) cmocka_unit_test_teardown(name, release_buffers)
    const struct CMUnitTest tests[] = {CASE(as_numpy_has_it), CASE(tokens_tell_apart), CASE(nothing_is_base),
                                       CASE(what_it_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
