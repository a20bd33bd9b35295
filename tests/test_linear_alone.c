/* test_linear_alone.c: linear layers without a model (nibble/linear.h): the bits are those of a group inside of one,
 * whatever types, row counts and order of passes a program has. */
#include "harness.h"

#include "linear/linear.h"

enum { M = 128, K = 256, N = 128 }; /* tokens, inputs, outputs: whole blocks of every recipe */
enum { SHORT = M - 7 };             /* tokens that fill no whole block */

static nb_backend *cpu(void) {
    nb_backend *be;
    nb_error err = {0};
    if (nb_backend_open("cpu", &(nb_backend_options){.threads = 1}, &be, &err) != NB_OK)
        fail_msg("%s", err.message);
    return be;
}

static nb_recipe recipe_of(const char *name) {
    nb_recipe recipe;
    nb_error err = {0};
    if (nb_recipe_load(name, NI_TEST_SOURCE "/recipes", &recipe, &err) != NB_OK)
        fail_msg("%s", err.message);
    recipe.keep.first_blocks = recipe.keep.last_blocks = 0;
    return recipe;
}

typedef struct alone {
    nb_backend *be;
    nb_workspace *workspace;
    nb_linear *linear;
    float x[M * K], w[2][N * K], y[2][M * N], dy[2][M * N], dx[M * K], dw[2][N * K];
} alone;

static void fill(float *values, int64_t n, uint32_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 16 & 255) / 128 - 1; /* exact in BF16 */
    }
}

static void make(alone *a, const nb_recipe *recipe, int32_t count) {
    nb_error err = {0};
    nb_linear_layer layers[2];
    memset(a, 0, sizeof *a);
    a->be = cpu();
    fill(a->x, M * K, 1);
    for (int i = 0; i < 2; i++) {
        fill(a->w[i], N * K, 2 + (uint32_t)i);
        fill(a->dy[i], M * N, 4 + (uint32_t)i);
        layers[i] =
            (nb_linear_layer){.name = i ? "layers.0.b" : "layers.0.a", .out = N, .dtype = NB_F32, .weight = a->w[i]};
    }
    const nb_linear_spec spec = {.recipe = recipe,
                                 .block = 0,
                                 .blocks = 1,
                                 .input = "layers.0.input",
                                 .in = K,
                                 .rows = M,
                                 .training = true,
                                 .layers = layers,
                                 .count = count};
    assert_int_equal(nb_workspace_create(a->be, &a->workspace, &err), NB_OK);
    if (nb_linear_create(a->workspace, &spec, &a->linear, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static void done(alone *a) {
    nb_linear_free(a->linear);
    nb_workspace_free(a->workspace);
    nb_backend_free(a->be);
    free(a);
}

static void forward(alone *a, const nb_pass *pass, const float *x, int64_t rows) {
    nb_error err = {0};
    const nb_mat mx = nb_mat_of(x, NB_F32, rows, K),
                 y[2] = {nb_mat_of(a->y[0], NB_F32, rows, N), nb_mat_of(a->y[1], NB_F32, rows, N)};
    if (nb_linear_forward(a->linear, pass, true, &mx, y, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static void backward(alone *a, const nb_pass *pass, bool again, const float *x, int64_t rows) {
    nb_error err = {0};
    const nb_mat mx = nb_mat_of(x, NB_F32, rows, K), dx = nb_mat_of(a->dx, NB_F32, rows, K),
                 dy[2] = {nb_mat_of(a->dy[0], NB_F32, rows, N), nb_mat_of(a->dy[1], NB_F32, rows, N)};
    float *const dw[2] = {a->dw[0], a->dw[1]};
    if (nb_linear_backward(a->linear, pass, again, &mx, dy, &dx, dw, &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* ---- beside a group inside of a model ---- */

static void the_bits_of_a_group(void **state) {
    (void)state;
    const nb_recipe recipe = recipe_of("nvfp4");
    alone *a = malloc(sizeof *a);
    nb_plan plans[2];
    nb_error err = {0};
    make(a, &recipe, 2);
    const nb_pass pass = {.step = 3, .steps = 10, .micro_batch = 1, .rounding_seed = 9};
    forward(a, &pass, a->x, M);
    backward(a, &pass, false, a->x, M);

    nb_backend *be = cpu();
    static uint16_t x[M * K], dy[2][M * N];
    static float y[2][M * N], dx[M * K], dw[2][N * K];
    static uint32_t clock[2] = {3, 1};
    ni_linear_spec layers[2];
    be->ops->cast(be, x, NB_BF16, a->x, NB_F32, M * K);
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "layers.0.b" : "layers.0.a";
        assert_int_equal(nb_recipe_plan(&recipe, name, 0, 1, &plans[i], &err), NB_OK);
        layers[i] = (ni_linear_spec){.name = name, .out = N, .plan = &plans[i], .master = a->w[i], .grad = dw[i]};
        be->ops->cast(be, dy[i], NB_BF16, a->dy[i], NB_F32, M * N);
    }
    const ni_group_spec spec = {
        .input = "layers.0.input", .in = K, .max_rows = M, .training = true, .layers = layers, .count = 2};
    ni_linear_group *group;
    assert_int_equal(ni_linear_group_create(be, &spec, &group, &err), NB_OK);
    ni_scratch scratch = {.memory = nb_backend_alloc(be, group->scratch_bytes), .size = group->scratch_bytes};
    nb_pass inside = pass;
    inside.clock = clock;
    const nb_mat mx = nb_mat_of(x, NB_BF16, M, K), mdx = nb_mat_of(dx, NB_F32, M, K),
                 my[2] = {nb_mat_of(y[0], NB_F32, M, N), nb_mat_of(y[1], NB_F32, M, N)},
                 mdy[2] = {nb_mat_of(dy[0], NB_BF16, M, N), nb_mat_of(dy[1], NB_BF16, M, N)};
    assert_int_equal(ni_linear_group_forward(group, &inside, &scratch, true, &mx, my, &err), NB_OK);
    assert_int_equal(ni_linear_group_backward(group, &inside, &scratch, &mx, mdy, &mdx, &err), NB_OK);
    assert_memory_equal(a->y, y, sizeof y);
    assert_memory_equal(a->dx, dx, sizeof dx);
    assert_memory_equal(a->dw, dw, sizeof dw);
    nb_backend_release(be, scratch.memory);
    ni_linear_group_free(group);
    nb_backend_free(be);
    done(a);
}

/* ---- what programs do that a model does not ---- */

/* Rows that fill no block give what they would with rows of zeros behind them. */
static void tokens_that_fill_no_block(void **state) {
    (void)state;
    const nb_recipe recipe = recipe_of("nvfp4");
    alone *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    const nb_pass pass = {.steps = 1};
    make(a, &recipe, 1);
    make(b, &recipe, 1);
    memset(b->x + SHORT * K, 0, sizeof(float) * (M - SHORT) * K);
    memset(b->dy[0] + SHORT * N, 0, sizeof(float) * (M - SHORT) * N);
    forward(a, &pass, a->x, SHORT);
    backward(a, &pass, false, a->x, SHORT);
    forward(b, &pass, b->x, M);
    backward(b, &pass, false, b->x, M);
    assert_memory_equal(a->y[0], b->y[0], sizeof(float) * SHORT * N);
    assert_memory_equal(a->dx, b->dx, sizeof(float) * SHORT * K);
    assert_memory_equal(a->dw[0], b->dw[0], sizeof a->dw[0]);
    done(a);
    done(b);
}

/* Two forward passes before the backward pass of the first. tetrajet-v2 makes wgrad.x of the forward codes, which the
 * second pass writes over. */
static void another_pass_between(void **state) {
    (void)state;
    const nb_recipe recipe = recipe_of("tetrajet-v2-base");
    alone *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    static float other[M * K];
    const nb_pass pass = {.steps = 1};
    fill(other, M * K, 77);
    make(a, &recipe, 1);
    make(b, &recipe, 1);
    forward(b, &pass, b->x, M);
    backward(b, &pass, false, b->x, M);
    forward(a, &pass, a->x, M);
    forward(a, &pass, other, M);
    backward(a, &pass, true, a->x, M);
    assert_memory_equal(a->dx, b->dx, sizeof a->dx);
    assert_memory_equal(a->dw[0], b->dw[0], sizeof a->dw[0]);
    done(a);
    done(b);
}

/* A BF16 weight that holds the same numbers gives the same bits, and one that moves is read where it lies then. */
static void weights_in_bf16_and_elsewhere(void **state) {
    (void)state;
    const nb_recipe recipe = recipe_of("nvfp4");
    alone *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    static uint16_t narrow[N * K], elsewhere[N * K];
    static float moved[N * K];
    const nb_pass pass = {.steps = 1};
    nb_error err = {0};
    make(a, &recipe, 1);
    make(b, &recipe, 1);
    a->be->ops->cast(a->be, narrow, NB_BF16, a->w[0], NB_F32, N * K);
    fill(moved, N * K, 99);
    a->be->ops->cast(a->be, elsewhere, NB_BF16, moved, NB_F32, N * K);
    const nb_linear_layer layer = {.name = "layers.0.a", .out = N, .dtype = NB_BF16, .weight = narrow};
    const nb_linear_spec spec = {.recipe = &recipe,
                                 .blocks = 1,
                                 .input = "layers.0.input",
                                 .in = K,
                                 .rows = M,
                                 .training = true,
                                 .layers = &layer,
                                 .count = 1};
    nb_linear_free(b->linear);
    assert_int_equal(nb_linear_create(b->workspace, &spec, &b->linear, &err), NB_OK);
    for (int round = 0; round < 2; round++) {
        forward(a, &pass, a->x, M);
        forward(b, &pass, b->x, M);
        assert_memory_equal(a->y[0], b->y[0], sizeof a->y[0]);
        nb_linear_changed(a->linear, (void *const[]){moved});
        nb_linear_changed(b->linear, (void *const[]){elsewhere});
    }
    done(a);
    done(b);
}

/* ---- mechanisms ---- */

/* Hot channels are chosen when a step is taken, are there to be kept, and patch another layer that they are loaded
 * into. */
static void state_goes_from_layer_to_layer(void **state) {
    (void)state;
    const nb_recipe recipe = recipe_of("chon-hcp-only");
    alone *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    static float before[M * N];
    nb_state_tensor from[16], to[16];
    nb_error err = {0};
    const nb_pass pass = {.steps = 4}, next = {.step = 1, .steps = 4};
    make(a, &recipe, 1);
    make(b, &recipe, 1);
    forward(a, &pass, a->x, M);
    memcpy(before, a->y[0], sizeof before);
    backward(a, &pass, false, a->x, M);
    assert_int_equal(nb_linear_stepped(a->linear, &pass, &err), NB_OK);
    forward(a, &next, a->x, M);
    assert_memory_not_equal(before, a->y[0], sizeof before); /* patched now */
    const int32_t count = nb_linear_state(a->linear, from, 16);
    assert_in_range(count, 1, 16);
    assert_int_equal(nb_linear_state(b->linear, to, 16), count);
    for (int32_t i = 0; i < count; i++) {
        assert_string_equal(from[i].name, to[i].name);
        memcpy(to[i].data, from[i].data, nb_dtype_size(from[i].dtype) * (size_t)from[i].elements);
    }
    assert_int_equal(nb_linear_state_loaded(b->linear, &err), NB_OK);
    forward(b, &next, b->x, M);
    assert_memory_equal(a->y[0], b->y[0], sizeof before);
    done(a);
    done(b);
}

/* What OutControl sums in a step is of all its micro-batches: norms of both halves are those of each, added. */
static void micro_batches_are_summed(void **state) {
    (void)state;
    const nb_recipe recipe = recipe_of("tetrajet-v2-outcontrol");
    const nb_outcontrol_times when = nb_outcontrol_when(&recipe.mechanisms.outcontrol, 100);
    nb_state_tensor tensors[16];
    static float norms[3][K]; /* of the first half, of the second, of a step of both */
    nb_error err = {0};
    for (int which = 0; which < 3; which++) {
        alone *a = malloc(sizeof *a);
        nb_pass pass = {.step = (uint32_t)when.start, .steps = 100};
        make(a, &recipe, 1);
        for (int half = 0; half < 2; half++) {
            if (which != 2 && which != half)
                continue;
            forward(a, &pass, a->x + half * M / 2 * K, M / 2);
            pass.micro_batch++;
        }
        assert_int_equal(nb_linear_stepped(a->linear, &pass, &err), NB_OK);
        const int32_t count = nb_linear_state(a->linear, tensors, 16);
        for (int32_t i = 0; i < count; i++)
            if (strstr(tensors[i].name, "outcontrol.norms"))
                memcpy(norms[which], tensors[i].data, sizeof norms[0]);
        done(a);
    }
    for (int k = 0; k < K; k++) {
        assert_true(norms[0][k] > 0);
        assert_true(norms[2][k] == norms[0][k] + norms[1][k]);
    }
}

/* ---- refusals ---- */

static void refusals(void **state) {
    (void)state;
    const nb_recipe recipe = recipe_of("nvfp4");
    alone *a = malloc(sizeof *a);
    nb_error err = {0};
    nb_linear *none;
    make(a, &recipe, 1);
    const nb_pass pass = {.steps = 1};
    const nb_mat wide = nb_mat_of(a->x, NB_F32, M, K + 1), y = nb_mat_of(a->y[0], NB_F32, M, N),
                 many = nb_mat_of(a->x, NB_F32, M + 1, K);
    assert_int_equal(nb_linear_forward(a->linear, &pass, true, &wide, &y, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "expected dense 128 x 256 of f32 or bf16"));
    assert_int_equal(nb_linear_forward(a->linear, &pass, true, &many, &y, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "an input of 129 rows; expected 1 to 128"));
    assert_int_equal(nb_backend_use_stream(a->be, NULL, &err), NB_UNSUPPORTED);
    assert_non_null(strstr(err.message, "backend cpu has no streams"));
    nb_linear_layer layer = {.name = "layers.0.a", .out = 10, .dtype = NB_F32, .weight = a->w[0]};
    nb_linear_spec spec = {.recipe = &recipe,
                           .blocks = 1,
                           .input = "in",
                           .in = K,
                           .rows = M,
                           .training = true,
                           .layers = &layer,
                           .count = 1};
    assert_int_equal(nb_linear_create(a->workspace, &spec, &none, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "layers.0.a"));
    layer.dtype = NB_F16;
    assert_int_equal(nb_linear_create(a->workspace, &spec, &none, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "a weight in f16; expected f32 or bf16"));
    const nb_recipe ramping = recipe_of("tetrajet-v1-ramping");
    spec.recipe = &ramping;
    assert_int_equal(nb_linear_create(a->workspace, &spec, &none, &err), NB_UNSUPPORTED);
    assert_non_null(strstr(err.message, "qramping is a matter of the optimizer"));
    spec.count = 0;
    assert_int_equal(nb_linear_create(a->workspace, &spec, &none, &err), NB_BAD_USAGE);
    assert_null(none);
    done(a);
}

/* Every recipe gives finite numbers, and gradients that point where BF16's do. */
static void every_recipe_learns(void **state) {
    (void)state;
    static const char *const names[] = {"bf16",  "chon",        "fp4-dge-occ", "fp4-msamp",
                                        "nvfp4", "tetrajet-v1", "tetrajet-v2"};
    static float twin[N * K];
    for (size_t r = 0; r < sizeof names / sizeof *names; r++) {
        const nb_recipe recipe = recipe_of(names[r]);
        alone *a = malloc(sizeof *a);
        const nb_pass pass = {.steps = 100};
        double ab = 0, aa = 0, bb = 0;
        make(a, &recipe, 2);
        forward(a, &pass, a->x, M);
        backward(a, &pass, false, a->x, M);
        for (int i = 0; r == 0 && i < N * K; i++)
            twin[i] = a->dw[0][i];
        for (int i = 0; i < N * K; i++) {
            ab += (double)a->dw[0][i] * (double)twin[i];
            aa += (double)a->dw[0][i] * (double)a->dw[0][i];
            bb += (double)twin[i] * (double)twin[i];
        }
        if (!(ab > 0.6 * sqrt(aa * bb)))
            fail_msg("%s: cosine %g", names[r], ab / sqrt(aa * bb));
        done(a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bits_of_a_group),
        cmocka_unit_test(tokens_that_fill_no_block),
        cmocka_unit_test(another_pass_between),
        cmocka_unit_test(weights_in_bf16_and_elsewhere),
        cmocka_unit_test(state_goes_from_layer_to_layer),
        cmocka_unit_test(micro_batches_are_summed),
        cmocka_unit_test(every_recipe_learns),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
