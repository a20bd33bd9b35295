/* linear_case.h: plans, groups and sources that the tests of src/linear share. */
#ifndef NI_TEST_LINEAR_CASE_H
#define NI_TEST_LINEAR_CASE_H

#include "backend/table.h"
#include "harness.h"

#include "linear/linear.h"
#include "nibble/lens.h"

enum { M = 64, K = 64, N = 48, LAYERS_MOST = 3 }; /* tokens, inputs, outputs */

/* ---- plans ---- */

static UNUSED nb_quantizer nvfp4(int32_t block_rows, nb_rounding round) {
    nb_quantizer q = {.element = NB_ELEMENT_E2M1,
                      .scale_type = NB_SCALE_E4M3,
                      .rule = NB_RULE_ABSMAX,
                      .outer = NB_OUTER_TENSOR,
                      .block_rows = block_rows,
                      .block_cols = 16,
                      .round = round,
                      .sr_bits = 8};
    return q;
}

static UNUSED nb_quantizer rotated(nb_quantizer q, nb_signs signs) {
    q.hadamard_size = 16;
    q.hadamard_signs = signs;
    q.hadamard_round_bf16 = true;
    return q;
}

static UNUSED nb_quantizer row_fp4(void) {
    nb_quantizer q = {.element = NB_ELEMENT_E2M1,
                      .scale_type = NB_SCALE_F32,
                      .rule = NB_RULE_ABSMAX,
                      .block_rows = 1,
                      .block_cols = NB_BLOCK_ALL,
                      .round = NB_ROUND_UP};
    return q;
}

static UNUSED nb_plan plan_bf16(void) {
    nb_plan p = {.quantized = false, .reason = "test"};
    for (int i = 0; i < NB_ROLE_COUNT; i++)
        p.roles[i].quantizer = nb_quantizer_bf16();
    return p;
}

/* arXiv:2509.25149: 1x16 and 16x16, stochastic gradients, wgrad rotated. */
static UNUSED nb_plan plan_nvfp4(void) {
    nb_plan p = {.quantized = true};
    p.roles[NB_FPROP_X].quantizer = nvfp4(1, NB_ROUND_EVEN);
    p.roles[NB_FPROP_W].quantizer = nvfp4(16, NB_ROUND_EVEN);
    p.roles[NB_DGRAD_DY].quantizer = nvfp4(1, NB_ROUND_STOCHASTIC);
    p.roles[NB_DGRAD_W] = (nb_operand_rule){.from = true, .source = NB_FPROP_W, .quantizer = nvfp4(16, NB_ROUND_EVEN)};
    p.roles[NB_WGRAD_DY].quantizer = rotated(nvfp4(1, NB_ROUND_STOCHASTIC), NB_SIGNS_FIXED);
    p.roles[NB_WGRAD_X].quantizer = rotated(nvfp4(1, NB_ROUND_EVEN), NB_SIGNS_FIXED);
    return p;
}

/* arXiv:2510.27527 without its outer blocks: every backward operand quantized again, stochastic, freshly rotated, with
 * headroom, so that gradients are unbiased. */
static UNUSED nb_plan plan_double(void) {
    nb_plan p = {.quantized = true};
    nb_quantizer q = rotated(nvfp4(1, NB_ROUND_STOCHASTIC), NB_SIGNS_FRESH);
    q.rule = NB_RULE_HEADROOM;
    q.sr_bits = 16;
    q.hadamard_round_bf16 = false;
    p.roles[NB_FPROP_X].quantizer = p.roles[NB_FPROP_W].quantizer = nvfp4(1, NB_ROUND_EVEN);
    p.roles[NB_DGRAD_DY].quantizer = p.roles[NB_WGRAD_DY].quantizer = q;
    p.roles[NB_DGRAD_W] = (nb_operand_rule){.from = true, .source = NB_FPROP_W, .requantize = true, .quantizer = q};
    p.roles[NB_WGRAD_X] = (nb_operand_rule){.from = true, .source = NB_FPROP_X, .requantize = true, .quantizer = q};
    return p;
}

/* arXiv:2501.17116: row scales on X and W, the same codes in the backward pass, dY as given. */
static UNUSED nb_plan plan_rows(nb_via via, nb_quantizer dy) {
    nb_plan p = {.quantized = true};
    p.roles[NB_FPROP_X].quantizer = p.roles[NB_FPROP_W].quantizer = row_fp4();
    p.roles[NB_DGRAD_DY].quantizer = p.roles[NB_WGRAD_DY].quantizer = dy;
    p.roles[NB_DGRAD_W] = (nb_operand_rule){.from = true, .source = NB_FPROP_W, .via = via, .quantizer = row_fp4()};
    p.roles[NB_WGRAD_X] = (nb_operand_rule){.from = true, .source = NB_FPROP_X, .via = via, .quantizer = row_fp4()};
    return p;
}

/* ---- a group and its numbers ---- */

typedef struct linear_case {
    nb_backend *be;
    ni_linear_group *group;
    int32_t layers;
    ni_scratch scratch;
    nb_mat x, dx, y[LAYERS_MOST], dy[LAYERS_MOST]; /* BF16 */
    float *w[LAYERS_MOST], *dw[LAYERS_MOST];       /* F32 [N, K] */
} linear_case;

static UNUSED nb_status try_group(nb_backend *be, linear_case *c, const nb_plan *plans, int32_t layers,
                                  const ni_mechanism *const *mechanisms, nb_error *err) {
    static const char *const names[] = {"layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj",
                                        "layers.0.self_attn.v_proj"};
    ni_linear_spec specs[LAYERS_MOST];
    *c = (linear_case){.be = be, .layers = layers};
    c->x = nb_mat_of(put(NB_BF16, normals(1, M * K, 0, 1), M * K), NB_BF16, M, K);
    c->dx = nb_mat_of(put(NB_BF16, NULL, M * K), NB_BF16, M, K);
    for (int32_t i = 0; i < layers; i++) {
        uint32_t stream = 10 * (uint32_t)(i + 1);
        c->y[i] = nb_mat_of(put(NB_BF16, NULL, M * N), NB_BF16, M, N);
        c->dy[i] = nb_mat_of(put(NB_BF16, normals(stream, M * N, 0, 0.01), M * N), NB_BF16, M, N);
        c->w[i] = put(NB_F32, normals(stream + 1, N * K, 0, 0.1), N * K);
        c->dw[i] = put(NB_F32, zeros(N * K), N * K);
        specs[i] = (ni_linear_spec){.name = names[i], .out = N, .plan = &plans[i], .master = c->w[i], .grad = c->dw[i]};
    }
    const ni_group_spec spec = {.input = "layers.0.self_attn.input",
                                .in = K,
                                .max_rows = M,
                                .training = true,
                                .early_wgrad_x = be->wants_amax,
                                .lays_early = true,
                                .layers = specs,
                                .count = layers,
                                .mechanisms = mechanisms};
    NB_TRY(ni_linear_group_create(be, &spec, &c->group, err));
    if (c->group->early_bytes)
        ni_linear_group_lay_early(c->group, poisoned(c->group->early_bytes));
    c->scratch.size = c->group->scratch_bytes;
    c->scratch.memory = poisoned(c->scratch.size);
    return NB_OK;
}

static UNUSED linear_case make_group(nb_backend *be, const nb_plan *plans, int32_t layers,
                                     const ni_mechanism *const *mechanisms) {
    linear_case c;
    nb_error err = {0};
    if (try_group(be, &c, plans, layers, mechanisms, &err) != NB_OK)
        fail_msg("%s", err.message);
    return c;
}

/* The pass with the words that kernels read; of the latest call. */
static UNUSED const nb_pass *clocked(const nb_pass *pass) {
    static uint32_t clock[2];
    static nb_pass with;
    clock[0] = pass->step;
    clock[1] = pass->micro_batch;
    with = *pass;
    with.clock = clock;
    return &with;
}

static UNUSED void run_forward(linear_case *c, const nb_pass *pass) {
    nb_error err = {0};
    if (ni_linear_group_forward(c->group, clocked(pass), &c->scratch, true, &c->x, c->y, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c->scratch.used + c->scratch.kept, 0);
}

static UNUSED void run_backward(linear_case *c, const nb_pass *pass) {
    nb_error err = {0};
    if (ni_linear_group_backward(c->group, clocked(pass), &c->scratch, &c->x, c->dy, &c->dx, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c->scratch.used + c->scratch.kept, 0);
}

static UNUSED nb_backend *cpu(void) {
    nb_backend *be = NULL;
    nb_backend_options options = {1, NB_ISA_AUTO};
    assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
    return be;
}

/* ---- doing it by hand ---- */

static UNUSED nb_qtensor by_hand(nb_backend *be, const nb_quantizer *q, const nb_mat *source, bool transpose,
                                 const nb_pass *pass, const char *tensor, nb_role role, const char *signs) {
    int64_t rows = transpose ? source->cols : source->rows, cols = transpose ? source->rows : source->cols;
    nb_qtensor t = nb_qtensor_place(q, rows, cols, poisoned(nb_qtensor_bytes(q, rows, cols).total));
    static const char *const gemms[] = {"fprop", "dgrad", "wgrad"};
    nb_noise noise = {pass->rounding_seed, nb_name_hash(tensor, nb_role_name(role)),
                      nb_name_hash(signs, gemms[role / 2]), clocked(pass)->clock};
    assert_int_equal(nb_quantize(be, &t, source, transpose, &noise, NULL, NULL), NB_OK);
    return t;
}

/* The decoded values of an operand. */
static UNUSED double *decoded(nb_backend *be, const nb_qtensor *t) {
    float *f = poisoned((size_t)(t->rows * t->cols) * sizeof *f);
    nb_mat out = nb_mat_of(f, NB_F32, t->rows, t->cols);
    assert_int_equal(nb_dequantize(be, &out, t, NULL), NB_OK);
    return get(NB_F32, f, t->rows * t->cols);
}

/* A [rows_a, n] B [rows_b, n]^T in double. */
static UNUSED double *product(const double *a, int64_t rows_a, const double *b, int64_t rows_b, int64_t n) {
    double *c = zeros(rows_a * rows_b);
    for (int64_t i = 0; i < rows_a; i++)
        for (int64_t j = 0; j < rows_b; j++)
            c[i * rows_b + j] = inner(a + i * n, b + j * n, n);
    return c;
}

static UNUSED double *transposed(const double *a, int64_t rows, int64_t cols) {
    double *t = zeros(rows * cols);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            t[j * rows + i] = a[i * cols + j];
    return t;
}

static UNUSED double largest(const double *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs(x[i]));
    return most;
}

/* Every element within `relative` of the largest expected magnitude. */
static UNUSED void check_close(const char *what, const double *got, const double *want, double relative, int64_t n) {
    double *bound = zeros(n), most = largest(want, n);
    assert_true(most > 0);
    for (int64_t i = 0; i < n; i++)
        bound[i] = relative * most;
    check_within(what, got, want, bound, n);
}

/* Y, dX and dW of the first layer of two groups, which are freed. */
static UNUSED void expect_same_results(linear_case c[2]) {
    assert_memory_equal(c[0].y[0].data, c[1].y[0].data, M * N * 2);
    assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
    assert_memory_equal(c[0].dw[0], c[1].dw[0], N * K * 4);
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
}

#endif
