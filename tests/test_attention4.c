/* test_attention4.c: attention with operands of four bits (arXiv:2603.00040): what a second implementation makes of it
 * and the gradients of the straight-through definition (scripts/golden_attention4.py), every instruction set, what a
 * query may see, and that models train with it. */
#include "everywhere.h"
#include "files/safetensors.h"
#include "nibble/recipe.h"
#include "train_case.h"

/* ---- beside the second implementation ---- */

typedef struct numbers {
    double *data;
    int64_t n;
} numbers;

static numbers read_numbers(const ni_safetensors *file, const char *name, const char *what) {
    char full[64];
    snprintf(full, sizeof full, "%s/%s", name, what);
    const ni_file_tensor *t = ni_safetensors_find(file, full);
    assert_non_null(t);
    const int64_t n = (int64_t)(t->bytes / ni_tensor_dtype_size(t->dtype));
    numbers x = {zeros(n), n};
    const size_t size = ni_tensor_dtype_size(t->dtype);
    for (int64_t i = 0; i < n; i++) {
        const char *at = (const char *)t->data + (size_t)i * size;
        union {
            int32_t i32;
            float f32;
            double f64;
        } one;
        memcpy(&one, at, size); /* the file aligns its numbers to 4 bytes */
        x.data[i] = t->dtype == NI_ST_I32 ? one.i32 : t->dtype == NI_ST_F32 ? (double)one.f32 : one.f64;
    }
    return x;
}

static int32_t *documents(int64_t batch, int64_t seq, int32_t length) {
    int32_t *doc_start = poisoned((size_t)(batch * seq) * sizeof *doc_start);
    for (int64_t i = 0; i < batch * seq; i++) {
        const int32_t t = (int32_t)(i % seq), start = length ? t - (t + (int32_t)(i / seq) * 5) % length : 0;
        doc_start[i] = start < 0 ? 0 : start;
    }
    return doc_start;
}

static nb_attention attention_in(const ni_safetensors *file, const char *name) {
    const double *s = read_numbers(file, name, "shape").data, *r = read_numbers(file, name, "rule").data;
    const nb_attention a = {.batch = (int64_t)s[0],
                            .seq = (int64_t)s[1],
                            .heads = (int64_t)s[2],
                            .kv_heads = (int64_t)s[3],
                            .head_dim = (int64_t)s[4],
                            .scale = 1 / sqrt(s[4]),
                            .doc_start = documents((int64_t)s[0], (int64_t)s[1], (int32_t)s[5]),
                            .rule = {.forward = (nb_attention_format)r[0],
                                     .delta = (nb_attention_delta)r[1],
                                     .p_levels = (nb_attention_levels)r[2],
                                     .v_blocks = (nb_attention_blocks)r[3],
                                     .smooth_k = r[4] != 0}};
    return a;
}

/* Within so many units of double's last place of the largest. */
static void check_near(const char *name, const char *what, const double *got, numbers want) {
    double largest = 0;
    char text[80];
    snprintf(text, sizeof text, "%s %s", name, what);
    for (int64_t i = 0; i < want.n; i++)
        largest = fmax(largest, fabs(want.data[i]));
    double *within = zeros(want.n);
    for (int64_t i = 0; i < want.n; i++)
        within[i] = 1e-12 * largest;
    check_within(text, got, want.data, within, want.n);
}

static void a_second_implementation(void **state) {
    (void)state;
    static const char *const names[] = {"nvfp4",        "nvfp4-documents", "nvfp4-sage", "nvfp4-head",
                                        "nvfp4-output", "mxfp4",           "mxfp4-head"};
    ni_safetensors *file;
    nb_error err = {0};
    nb_backend *be = NULL;
    if (ni_safetensors_open(NI_TEST_GOLDEN "/attention4.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(nb_backend_open("ref64", NULL, &be, NULL), NB_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const nb_attention a = attention_in(file, names[i]);
        const numbers q = read_numbers(file, names[i], "q"), k = read_numbers(file, names[i], "k");
        const numbers v = read_numbers(file, names[i], "v"), d_o = read_numbers(file, names[i], "do");
        double *o = zeros(q.n), *lse = zeros(a.batch * a.heads * a.seq);
        double *dq = zeros(q.n), *dk = zeros(k.n), *dv = zeros(k.n);
        assert_int_equal(be->ops->attention_forward(be, &a, o, lse, q.data, k.data, v.data, NULL), NB_OK);
        assert_int_equal(
            be->ops->attention_backward(be, &a, dq, dk, dv, d_o.data, o, lse, q.data, k.data, v.data, NULL), NB_OK);
        check_near(names[i], "o", o, read_numbers(file, names[i], "o"));
        check_near(names[i], "lse", lse, read_numbers(file, names[i], "lse"));
        check_near(names[i], "dq", dq, read_numbers(file, names[i], "dq"));
        check_near(names[i], "dk", dk, read_numbers(file, names[i], "dk"));
        check_near(names[i], "dv", dv, read_numbers(file, names[i], "dv"));
    }
    nb_backend_free(be);
    ni_safetensors_close(file);
}

/* ---- on every instruction set ---- */

/* Around the tile of 64 keys, blocks of 16 and 32, and heads that no block divides. */
typedef struct four_case {
    int64_t batch, seq, heads, kv_heads, head_dim;
    int32_t document;
    nb_attention_rule rule;
} four_case;

static const four_case CASES[] = {
    {1, 1, 1, 1, 32, 0, {.forward = NB_ATTENTION_NVFP4}},
    {2, 63, 2, 2, 24, 0, {.forward = NB_ATTENTION_NVFP4, .p_levels = NB_ATTENTION_TWO_LEVELS, .smooth_k = true}},
    {1, 65, 3, 1, 128, 0, {.forward = NB_ATTENTION_MXFP4}},
    {2, 200, 4, 2, 32, 37, {.forward = NB_ATTENTION_NVFP4}},
    {1, 257, 2, 1, 40, 0, {.forward = NB_ATTENTION_NVFP4, .v_blocks = NB_ATTENTION_ALONG_HEAD}},
    {1, 130, 2, 2, 80, 64, {.forward = NB_ATTENTION_MXFP4, .smooth_k = true, .v_blocks = NB_ATTENTION_ALONG_HEAD}},
    {1, 150, 2, 1, 64, 0, {.forward = NB_ATTENTION_NVFP4, .delta = NB_ATTENTION_OF_OUTPUT}},
};

typedef struct inputs {
    nb_attention a;
    int64_t nq, nk, rows;
    double *q, *k, *v, *d_o, *o, *lse; /* o, lse: of the reference in double, rounded to what is stored */
} inputs;

static inputs inputs_of(const four_case *c) {
    inputs p = {.a = {.batch = c->batch,
                      .seq = c->seq,
                      .heads = c->heads,
                      .kv_heads = c->kv_heads,
                      .head_dim = c->head_dim,
                      .scale = 1 / sqrt((double)c->head_dim),
                      .doc_start = documents(c->batch, c->seq, c->document),
                      .rule = c->rule}};
    p.nq = c->batch * c->seq * c->heads * c->head_dim;
    p.nk = c->batch * c->seq * c->kv_heads * c->head_dim;
    p.rows = c->batch * c->heads * c->seq;
    p.q = act_in(1, p.nq, 1.5);
    p.k = act_in(2, p.nk, 1.5);
    p.v = act_in(3, p.nk, 1);
    p.d_o = act_in(4, p.nq, 1);
    double *o = zeros(p.nq), *lse = zeros(p.rows);
    nb_backend *ref = NULL;
    assert_int_equal(nb_backend_open("ref64", NULL, &ref, NULL), NB_OK);
    assert_int_equal(ref->ops->attention_forward(ref, &p.a, o, lse, p.q, p.k, p.v, NULL), NB_OK);
    nb_backend_free(ref);
    p.o = get(NB_BF16, put(NB_BF16, o, p.nq), p.nq);
    p.lse = get(NB_F32, put(NB_F32, lse, p.rows), p.rows);
    return p;
}

static results run_inputs(nb_backend *be, const inputs *p) {
    results r = {0};
    void *q = put(be->act, p->q, p->nq), *k = put(be->act, p->k, p->nk), *v = put(be->act, p->v, p->nk);
    void *o = put(be->act, NULL, p->nq), *lse = put(be->real, NULL, p->rows);
    void *dq = put(be->act, NULL, p->nq), *dk = put(be->act, NULL, p->nk), *dv = put(be->act, NULL, p->nk);
    assert_int_equal(be->ops->attention_forward(be, &p->a, o, lse, q, k, v, NULL), NB_OK);
    assert_int_equal(be->ops->attention_backward(be, &p->a, dq, dk, dv, put(be->act, p->d_o, p->nq),
                                                 put(be->act, p->o, p->nq), put(be->real, p->lse, p->rows), q, k, v,
                                                 NULL),
                     NB_OK);
    add_result(&r, "o", o, be->act, p->nq);
    add_result(&r, "lse", lse, be->real, p->rows);
    add_result(&r, "dq", dq, be->act, p->nq);
    add_result(&r, "dk", dk, be->act, p->nk);
    add_result(&r, "dv", dv, be->act, p->nk);
    return r;
}

/* |got - want| / |want|. */
static double distance(const results *got, const results *want, int i) {
    double far = 0, all = 0;
    const double *a = get(got->type[i], got->data[i], got->n[i]), *b = get(want->type[i], want->data[i], want->n[i]);
    for (int64_t j = 0; j < want->n[i]; j++) {
        far += (a[j] - b[j]) * (a[j] - b[j]);
        all += b[j] * b[j];
    }
    return sqrt(far / all);
}

/* A score's last bit may move a P to the next code, where a whole block's products are a few per cent away: the bound
 * is on the whole, at twice what rounding to BF16 alone does (2^-9 / sqrt(3) of a number in the mean, 2^-9 at most). A
 * single block out of place in every row would be above it ten times. */
static void every_instruction_set(void **state) {
    (void)state;
    nb_backend *ref = NULL;
    assert_int_equal(nb_backend_open("ref64", NULL, &ref, NULL), NB_OK);
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        const inputs p = inputs_of(&CASES[c]);
        const results want = run_inputs(ref, &p);
        results first = {0};
        double worst = 0;
        for (nb_isa isa = NB_ISA_SCALAR; isa <= NB_ISA_AVX512 && ni_isa_available(isa); isa++) {
            if (isa <= NB_ISA_AVX2)
                first.count = 0;
            for (int32_t threads = 1; threads <= 3; threads += 2) {
                nb_backend *be = cpu(isa, threads);
                const results got = run_inputs(be, &p);
                for (int i = 0; i < got.count; i++) {
                    if (c > 0 || i == 0 || i == 4) /* where a query sees one key dq and dk are zero */
                        worst = fmax(worst, distance(&got, &want, i));
                    if (first.count)
                        check_equal_bytes(got.what[i], got.data[i], first.data[i], bytes_of(&got, i));
                }
                first = got;
                nb_backend_free(be);
            }
        }
        print_message("case %zu: %.2e from the reference in double\n", c, worst);
        assert_true(worst < 0x1p-8);
    }
    nb_backend_free(ref);
}

/* A query that sees itself alone has o = F(1) F(v) in one product: every instruction set has the scalar code's bits, of
 * numbers of any size. */
static void every_number(void **state) {
    (void)state;
    enum { SEQ = 96, DIM = 64, ALL = SEQ * DIM };
    double *v = normals(9, ALL, 0, 1), *none = zeros(ALL);
    for (int64_t i = 0; i < ALL; i++) {
        v[i] = ldexp(v[i], (int)(i * 7919 / 16 % 61) - 30 + (int)(i % 5));
        if (i % 37 == 0)
            v[i] = ldexp((double)(i % 29 - 14), (int)(i / DIM) % 17 - 8); /* ties */
    }
    for (int kind = 0; kind < 8; kind++) {
        const nb_attention a = {
            .batch = 1,
            .seq = SEQ,
            .heads = 1,
            .kv_heads = 1,
            .head_dim = DIM,
            .scale = 1,
            .doc_start = documents(1, SEQ, 1),
            .rule = {.forward = kind & 1 ? NB_ATTENTION_MXFP4 : NB_ATTENTION_NVFP4,
                     .v_blocks = kind & 2 ? NB_ATTENTION_ALONG_HEAD : NB_ATTENTION_ALONG_KEYS,
                     .p_levels = (kind & 5) == 4 ? NB_ATTENTION_TWO_LEVELS : NB_ATTENTION_ONE_LEVEL}};
        void *first = NULL;
        for (nb_isa isa = NB_ISA_SCALAR; isa <= NB_ISA_AVX512 && ni_isa_available(isa); isa++) {
            nb_backend *be = cpu(isa, 1);
            void *o = put(NB_BF16, NULL, ALL), *lse = put(NB_F32, NULL, SEQ);
            assert_int_equal(be->ops->attention_forward(be, &a, o, lse, put(NB_BF16, none, ALL),
                                                        put(NB_BF16, none, ALL), put(NB_BF16, v, ALL), NULL),
                             NB_OK);
            if (first)
                check_equal_bytes("o", o, first, ALL * 2);
            first = o;
            nb_backend_free(be);
        }
    }
}

/* A NaN or Inf in q, k or v is not hidden by a code that has none. */
static void nothing_hides_a_nan(void **state) {
    (void)state;
    enum { DIM = 32 };
    static const int32_t doc_start[1];
    for (int at = 0; at < 3; at++)
        for (nb_attention_format form = NB_ATTENTION_NVFP4; form <= NB_ATTENTION_MXFP4; form++)
            for (int isa = 0; isa < 2; isa++) {
                const nb_attention a = {.batch = 1,
                                        .seq = 1,
                                        .heads = 1,
                                        .kv_heads = 1,
                                        .head_dim = DIM,
                                        .scale = 1,
                                        .doc_start = doc_start,
                                        .rule = {.forward = form}};
                double *x[3] = {act_in(1, DIM, 1), act_in(2, DIM, 1), act_in(3, DIM, 1)};
                x[at][5] = NAN;
                nb_backend *be = cpu(isa ? NB_ISA_AUTO : NB_ISA_SCALAR, 1);
                void *o = put(NB_BF16, NULL, DIM), *lse = put(NB_F32, NULL, 1);
                assert_int_equal(be->ops->attention_forward(be, &a, o, lse, put(NB_BF16, x[0], DIM),
                                                            put(NB_BF16, x[1], DIM), put(NB_BF16, x[2], DIM), NULL),
                                 NB_OK);
                assert_true(isnan(get(NB_BF16, o, DIM)[5]));
                nb_backend_free(be);
            }
}

/* ---- what the rule says ---- */

/* `backward: bf16` is the plain backward pass under the lse and o of four bits; and how far from the gradient that and
 * delta of the output are. */
static void the_way_back_in_bf16(void **state) {
    (void)state;
    inputs p = inputs_of(&CASES[3]);
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    const results same = run_inputs(be, &p);
    p.a.rule.delta = NB_ATTENTION_OF_OUTPUT;
    const results output = run_inputs(be, &p);
    p.a.rule.backward = NB_ATTENTION_AS_IN_BF16;
    const results back = run_inputs(be, &p);
    p.a.rule = (nb_attention_rule){.tile = 512, .beta = 2};
    const results plain = run_inputs(be, &p);
    nb_backend_free(be);
    for (int i = 2; i < 5; i++) {
        check_equal_bytes(back.what[i], back.data[i], plain.data[i], bytes_of(&back, i));
        print_message("%s: %.3f of the gradient away with delta of the output, %.3f in BF16\n", same.what[i],
                      distance(&output, &same, i), distance(&back, &same, i));
        assert_true(distance(&back, &same, i) > 0.1);
    }
    assert_true(distance(&output, &same, 2) > 0.02 && distance(&output, &same, 4) == 0);
}

/* Blocks along the head keep a query from all later keys; blocks along keys show it the size of those of its block. */
static void later_keys(void **state) {
    (void)state;
    enum { SEQ = 96, DIM = 32, ALL = SEQ * DIM, CHANGED = 70 };
    for (int along_head = 0; along_head < 2; along_head++)
        for (int isa = 0; isa < 2; isa++) {
            const nb_attention a = {
                .batch = 1,
                .seq = SEQ,
                .heads = 1,
                .kv_heads = 1,
                .head_dim = DIM,
                .scale = 0.2,
                .doc_start = documents(1, SEQ, 0),
                .rule = {.forward = NB_ATTENTION_NVFP4,
                         .v_blocks = along_head ? NB_ATTENTION_ALONG_HEAD : NB_ATTENTION_ALONG_KEYS}};
            double *q = act_in(1, ALL, 1), *k = act_in(2, ALL, 1), *v = act_in(3, ALL, 1), *o[2];
            nb_backend *be = cpu(isa ? NB_ISA_AUTO : NB_ISA_SCALAR, 1);
            for (int i = 0; i < 2; i++) {
                void *out = put(NB_BF16, NULL, ALL), *lse = put(NB_F32, NULL, SEQ);
                assert_int_equal(be->ops->attention_forward(be, &a, out, lse, put(NB_BF16, q, ALL),
                                                            put(NB_BF16, k, ALL), put(NB_BF16, v, ALL), NULL),
                                 NB_OK);
                o[i] = get(NB_BF16, out, ALL);
                for (int64_t c = 0; c < DIM; c++)
                    v[CHANGED * DIM + c] = k[CHANGED * DIM + c] = 40;
            }
            nb_backend_free(be);
            int64_t first = 0;
            while (o[0][first] == o[1][first])
                first++;
            assert_int_equal(first / DIM, along_head ? CHANGED : CHANGED / 16 * 16);
        }
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *keys, *says;
    } cases[] = {
        {"attention: {forward: nvfp4, sums: bf16}", "expected attention.sums: fp32"},
        {"attention: {forward: mxfp4, p_levels: two}", "expected attention.forward: nvfp4"},
        {"attention: {forward: fp8}", "attention.forward"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        nb_recipe r;
        nb_error err = {0};
        snprintf(text, sizeof text, "base: bf16\nname: refused\n%s\n", cases[i].keys);
        assert_int_equal(ni_file_write(in_folder(state, "refused.yaml"), text, strlen(text), &err), NB_OK);
        assert_int_equal(nb_recipe_load(in_folder(state, "refused.yaml"), NI_TEST_SOURCE "/recipes", &r, &err),
                         NB_BAD_CONFIG);
        if (!strstr(err.message, cases[i].says))
            fail_msg("%s", err.message);
    }
    inputs p = inputs_of(&CASES[0]);
    p.a.rule.sums = NB_ATTENTION_BF16;
    p.a.rule.tile = 512;
    p.a.rule.beta = 2;
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    assert_int_equal(be->ops->attention_forward(be, &p.a, NULL, NULL, NULL, NULL, NULL, NULL), NB_BAD_USAGE);
    nb_backend_free(be);
}

/* ---- in a model, by a recipe ---- */

static const char *const recipes[] = {"attn-qat", "attn-qat-mxfp4", "attn-qat-bf16-backward", "attn-sage",
                                      "nvfp4-attention"};

static void recipes_say_so(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        nb_recipe r;
        nb_error err = {0};
        char path[256];
        snprintf(path, sizeof path, NI_TEST_SOURCE "/examples/recipes/%s.yaml", recipes[i]);
        if (nb_recipe_load(path, NI_TEST_SOURCE "/recipes", &r, &err) != NB_OK)
            fail_msg("%s", err.message);
        assert_int_equal(r.attention.forward, i == 1 ? NB_ATTENTION_MXFP4 : NB_ATTENTION_NVFP4);
        assert_int_equal(r.attention.backward, i == 2 ? NB_ATTENTION_AS_IN_BF16 : NB_ATTENTION_SAME);
        assert_int_equal(r.attention.delta, i == 2 ? NB_ATTENTION_OF_OUTPUT : NB_ATTENTION_EXACT);
        assert_int_equal(r.attention.p_levels, i == 3 ? NB_ATTENTION_TWO_LEVELS : NB_ATTENTION_ONE_LEVEL);
        assert_int_equal(r.attention.smooth_k, i == 3);
        assert_int_equal(nb_quantizer_is_bf16(&r.roles[NB_FPROP_X].quantizer), i != 4);
    }
}

static void keep_losses(void *context, const nb_step_report *report) {
    double **to = context;
    *(*to)++ = report->loss;
}

/* The model learns under each, otherwise than in BF16; layers that are made again for the backward pass change nothing.
 */
static void models_train(void **state) {
    enum { STEPS = 40 };
    static const char *const named[] = {"bf16", "attn-qat", "attn-qat-mxfp4", "attn-qat-bf16-backward", "attn-qat"};
    double losses[5][STEPS];
    for (int i = 0; i < 5; i++) {
        char recipe[256], out[16];
        double *to = losses[i];
        case_log log = {.after_step = keep_losses, .context = &to};
        nb_error err = {0};
        snprintf(recipe, sizeof recipe, "recipe=%s%s%s", i ? NI_TEST_SOURCE "/examples/recipes/" : "", named[i],
                 i ? ".yaml" : "");
        snprintf(out, sizeof out, "run-%d", i);
        const nb_run_config config = case_config(state, out, recipe, "steps=40", "checkpoint.every=0",
                                                 i == 4 ? "recompute=block" : "recompute=none", NULL);
        if (case_run(&config, NB_START_NEW, NULL, &log, &err) != NB_OK)
            fail_msg("%s: %s", named[i], err.message);
        print_message("%-24s %.4f to %.4f\n", named[i], losses[i][0], losses[i][STEPS - 1]);
        assert_true(losses[i][STEPS - 1] < 0.8 * losses[i][0]);
        assert_true(i == 0 || fabs(losses[i][STEPS - 1] - losses[0][STEPS - 1]) < 0.1 * losses[0][STEPS - 1]);
    }
    assert_true(losses[1][0] != losses[0][0] && losses[2][0] != losses[1][0]);
    assert_true(losses[3][0] == losses[1][0] && losses[3][1] != losses[1][1]);
    assert_memory_equal(losses[4], losses[1], sizeof losses[1]);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(a_second_implementation),
        CASE(every_instruction_set),
        CASE(every_number),
        CASE(nothing_hides_a_nan),
        CASE(the_way_back_in_bf16),
        CASE(later_keys),
        cmocka_unit_test_setup_teardown(refusals, case_folder, remove_temporary_folder),
        CASE(recipes_say_so),
        cmocka_unit_test_setup_teardown(models_train, case_folder, remove_temporary_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
