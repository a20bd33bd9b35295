/* test_attention_sums.c: why low-precision attention fails (arXiv:2510.04212). Two equal maxima in a row of S, values
 * of one sign: sums of P V in BF16 then round to one side, the cure takes that away, and sums in FP32 never had it. */
#include "backend/table.h"
#include "everywhere.h"
#include "nibble/recipe.h"

enum { BATCH = 64, SEQ = 32, DIM = 64, ALL = BATCH * SEQ * DIM };

typedef struct planted {
    nb_attention a;
    double *q, *k, *v, *exact; /* what BF16 holds; O in double */
} planted;

static double *in_bf16(const double *x, int64_t n) {
    return get(NB_BF16, put(NB_BF16, x, n), n);
}

static nb_backend *opened(const char *name, nb_isa isa) {
    nb_backend *be = NULL;
    nb_backend_options options = {1, isa};
    assert_int_equal(nb_backend_open(name, &options, &be, NULL), NB_OK);
    return be;
}

/* Scores 2.5 to 5.5 for the first two keys of a sequence, alike where `twice`, 8.5 to 10 less for the others; values in
 * (-4, -2], so that two of them leave their binade. */
static planted plant(bool twice) {
    static int32_t doc_start[BATCH * SEQ];
    planted p = {.a = {.batch = BATCH,
                       .seq = SEQ,
                       .heads = 1,
                       .kv_heads = 1,
                       .head_dim = DIM,
                       .scale = 1,
                       .doc_start = doc_start,
                       .rule = {.tile = 512, .beta = 2}}};
    double *q = zeros(ALL), *k = zeros(ALL), *v = normals(3, ALL, 0, 1);
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t s = 0; s < SEQ; s++) {
            const double most = 4 + 1.5 * sin((double)(7 * b)), less = 9.25 + 0.75 * sin((double)(11 * b + 5 * s));
            q[(b * SEQ + s) * DIM] = 1;
            k[(b * SEQ + s) * DIM] = s == 0 || (s == 1 && twice) ? most : s == 1 ? most - 1 : most - less;
        }
    for (int64_t i = 0; i < ALL; i++)
        v[i] = -3 + 0.99 * sin(20 * v[i]);
    p.q = in_bf16(q, ALL);
    p.k = in_bf16(k, ALL);
    p.v = in_bf16(v, ALL);
    p.exact = zeros(ALL);
    nb_backend *be = opened("ref64", NB_ISA_AUTO);
    double *lse = zeros(BATCH * SEQ);
    assert_int_equal(be->ops->attention_forward(be, &p.a, p.exact, lse, p.q, p.k, p.v, NULL), NB_OK);
    nb_backend_free(be);
    return p;
}

static double *output_of(const planted *p, nb_isa isa, nb_attention_sums sums) {
    nb_backend *be = opened("cpu", isa);
    nb_attention a = p->a;
    void *o = put(NB_BF16, NULL, ALL), *lse = put(NB_F32, NULL, BATCH * SEQ);
    a.rule.sums = sums;
    assert_int_equal(be->ops->attention_forward(be, &a, o, lse, put(NB_BF16, p->q, ALL), put(NB_BF16, p->k, ALL),
                                                put(NB_BF16, p->v, ALL), NULL),
                     NB_OK);
    nb_backend_free(be);
    return get(NB_BF16, o, ALL);
}

/* The mean error of O in its own units in the last place (2^-6), of the queries that see both keys, in standard
 * deviations of a mean of independent errors. Rows of one sequence share their errors: the last one counts. */
static double mean_error(const planted *p, const double *o, double *in_units) {
    double sum = 0, squares = 0;
    int64_t n = 0;
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t c = 0; c < DIM; c++, n++) {
            const int64_t i = (b * SEQ + SEQ - 1) * DIM + c;
            const double error = (o[i] - p->exact[i]) * 64;
            sum += error;
            squares += error * error;
        }
    *in_units = sum / (double)n;
    return *in_units / sqrt((squares / (double)n - *in_units * *in_units) / (double)n);
}

static void repeated_maxima_bias_sums_in_bf16(void **state) {
    (void)state;
    static const struct {
        const char *name;
        nb_attention_sums sums;
        bool biased;
    } kinds[] = {{"fp32", NB_ATTENTION_F32, false},
                 {"bf16", NB_ATTENTION_BF16, true},
                 {"bf16-shifted", NB_ATTENTION_BF16_SHIFTED, false}};
    const planted p = plant(true);
    for (int isa = 0; isa < 2; isa++)
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            double units;
            const double z = mean_error(&p, output_of(&p, isa ? NB_ISA_AUTO : NB_ISA_SCALAR, kinds[i].sums), &units);
            print_message("%-12s mean error %+.4f units in the last place, %+.1f standard deviations\n", kinds[i].name,
                          units, z);
            if (kinds[i].biased)
                assert_true(z < -15 && units < -0.1);
            else
                assert_true(fabs(z) < 4);
        }
}

/* Any shift gives the same O but for rounding: in double all three agree, whatever the tile. */
static void a_shift_changes_nothing_exact(void **state) {
    (void)state;
    const planted p = plant(true);
    nb_backend *be = opened("ref64", NB_ISA_AUTO);
    for (int32_t tile = 1; tile < 64; tile = 3 * tile + 1)
        for (nb_attention_sums sums = NB_ATTENTION_BF16; sums <= NB_ATTENTION_BF16_SHIFTED; sums++) {
            nb_attention a = p.a;
            double *o = zeros(ALL), *lse = zeros(BATCH * SEQ), far = 0;
            a.rule = (nb_attention_rule){.sums = sums, .tile = tile, .beta = 7};
            assert_int_equal(be->ops->attention_forward(be, &a, o, lse, p.q, p.k, p.v, NULL), NB_OK);
            for (int64_t i = 0; i < ALL; i++)
                far = fmax(far, fabs(o[i] - p.exact[i]));
            assert_true(far < 1e-12);
        }
    nb_backend_free(be);
}

/* Where no maximum stands twice the cure is not taken: same bits. */
static void single_maxima_stay(void **state) {
    (void)state;
    const planted p = plant(false);
    const double *a = output_of(&p, NB_ISA_SCALAR, NB_ATTENTION_BF16);
    const double *b = output_of(&p, NB_ISA_SCALAR, NB_ATTENTION_BF16_SHIFTED);
    for (int64_t i = 0; i < ALL; i++)
        assert_true(a[i] == b[i]);
}

static void refusals(void **state) {
    (void)state;
    const planted p = plant(true);
    nb_backend *be = opened("cpu", NB_ISA_AUTO);
    nb_attention a = p.a;
    a.rule = (nb_attention_rule){.sums = NB_ATTENTION_BF16, .tile = 0, .beta = 2};
    assert_int_equal(be->ops->attention_forward(be, &a, NULL, NULL, NULL, NULL, NULL, NULL), NB_BAD_USAGE);
    nb_backend_free(be);
}

/* ---- in a model, by a recipe ---- */

static void a_recipe_says_so(void **state) {
    (void)state;
    static const char *const names[] = {"bf16-attention-bf16", "bf16-attention-shifted"};
    for (int i = 0; i < 2; i++) {
        nb_recipe r;
        nb_error err = {0};
        char path[256];
        snprintf(path, sizeof path, NI_TEST_SOURCE "/examples/recipes/%s.yaml", names[i]);
        if (nb_recipe_load(path, NI_TEST_SOURCE "/recipes", &r, &err) != NB_OK)
            fail_msg("%s", err.message);
        assert_int_equal(r.attention.sums, i ? NB_ATTENTION_BF16_SHIFTED : NB_ATTENTION_BF16);
        assert_int_equal(r.attention.tile, 512);
        assert_true(r.attention.beta == 2);
    }
    nb_recipe plain;
    assert_int_equal(nb_recipe_load("nvfp4", NI_TEST_SOURCE "/recipes", &plain, NULL), NB_OK);
    assert_int_equal(plain.attention.sums, NB_ATTENTION_F32);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(repeated_maxima_bias_sums_in_bf16),
        CASE(a_shift_changes_nothing_exact),
        CASE(single_maxima_stay),
        CASE(refusals),
        CASE(a_recipe_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
