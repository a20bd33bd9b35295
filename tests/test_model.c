/* test_model.c: a whole model on the CPU: it learns, in BF16 and in NVFP4; its bits do not depend on threads; what it
 * says of itself adds up; bad batches are refused. */
#include "backend/table.h"
#include "model_case.h"

#include "nibble/lens.h"

/* ---- learning ---- */

/* Loss before and after `steps` of AdamW on one batch. */
static void overfit(nb_family family, const nb_recipe *recipe, int steps, double *first, double *last) {
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    nb_model_config config = case_config(family, family == NB_QWEN3);
    config.init_std = 0.1;
    nb_model *model = case_model(be, &config, recipe, true);
    const int64_t n = nb_model_param_elements(model);
    const size_t bytes = (size_t)n * sizeof(float);
    void *m = be->ops->alloc(be, bytes, "moments"), *v = be->ops->alloc(be, bytes, "moments");
    case_batch b;
    make_case_batch(&b, config.vocab, 1);
    for (int step = 1; step <= steps; step++) {
        const nb_pass pass = {.step = (uint32_t)step, .steps = (uint32_t)steps, .rounding_seed = 5};
        const ni_adamw update = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 1, .step = step};
        be->ops->fill_zero(be, nb_model_grads(model), bytes);
        double loss = loss_and_grads_of(model, &b, &pass);
        *first = step == 1 ? loss : *first;
        const ni_adamw_tensor all = ni_adamw_plain(NB_F32, nb_model_params(model), m, v, nb_model_grads(model), n, 0);
        be->ops->adamw(be, &all, 1, &update);
        assert_int_equal(nb_model_after_step(model, &pass, NULL), NB_OK);
        nb_model_params_changed(model);
        *last = loss;
    }
    be->ops->release(be, m);
    be->ops->release(be, v);
    nb_model_free(model);
    nb_backend_free(be);
}

static void learns(void **state) {
    (void)state;
    const nb_recipe recipes[] = {bf16_recipe(), nvfp4_recipe()};
    const nb_family families[] = {NB_LLAMA, NB_QWEN3, NB_OLMO2, NB_GLA};
    for (int r = 0; r < 2; r++)
        for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
            double first = NAN, last = NAN;
            overfit(families[f], &recipes[r], 50, &first, &last);
            /* random targets among 48: 3.9 nats; memorised far below half of that */
            if (!(first > 3.5 && last < 1.2))
                fail_msg("%s in %s: loss went from %g to %g in 50 steps", nb_family_name(families[f]), recipes[r].name,
                         first, last);
        }
}

/* ---- bits ---- */

static void *grads_with(int32_t threads, nb_isa isa, const nb_recipe *recipe, double *loss) {
    nb_backend *be = cpu_with(threads, isa);
    nb_model_config config = case_config(NB_LLAMA, true);
    nb_model *model = case_model(be, &config, recipe, true);
    case_batch b;
    make_case_batch(&b, config.vocab, 1);
    const nb_pass pass = {.step = 9, .micro_batch = 2, .rounding_seed = 5, .z_loss = 1e-4};
    *loss = loss_and_grads_of(model, &b, &pass);
    void *copy = grads_of(model, be);
    nb_model_free(model);
    nb_backend_free(be);
    return copy;
}

static void threads_change_nothing(void **state) {
    (void)state;
    const nb_recipe recipes[] = {bf16_recipe(), nvfp4_recipe()};
    nb_model_config config = case_config(NB_LLAMA, true);
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, false);
    const size_t bytes = (size_t)nb_model_param_elements(model) * sizeof(float);
    for (int r = 0; r < 2; r++) {
        double one, three;
        void *a = grads_with(1, NB_ISA_AUTO, &recipes[r], &one), *b = grads_with(3, NB_ISA_AUTO, &recipes[r], &three);
        assert_true(one == three);
        check_equal_bytes(recipes[r].name, a, b, bytes);
    }
    nb_model_free(model);
    nb_backend_free(be);
}

/* A pass is a function of its inputs: the same again, and after other passes between. Another micro-batch draws other
 * bits. */
static void passes_leave_nothing_behind(void **state) {
    (void)state;
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe = nvfp4_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    const size_t bytes = (size_t)nb_model_param_elements(model) * sizeof(float);
    case_batch a, b;
    make_case_batch(&a, config.vocab, 1);
    make_case_batch(&b, config.vocab, 2);
    const nb_pass pass = {.step = 9, .micro_batch = 0, .rounding_seed = 5},
                  next = {.step = 9, .micro_batch = 1, .rounding_seed = 5};
    double loss = loss_and_grads_of(model, &a, &pass);
    void *first = grads_of(model, be);
    loss_and_grads_of(model, &b, &pass);
    loss_of(model, &b, &next);
    be->ops->fill_zero(be, nb_model_grads(model), bytes);
    assert_true(loss_and_grads_of(model, &a, &pass) == loss);
    check_equal_bytes("gradients of the same pass", grads_of(model, be), first, bytes);
    be->ops->fill_zero(be, nb_model_grads(model), bytes);
    assert_true(loss_and_grads_of(model, &a, &next) == loss); /* no random bits in this recipe's forward pass */
    assert_true(memcmp(grads_of(model, be), first, bytes) != 0);
    nb_model_free(model);
    nb_backend_free(be);
}

/* Without gradients all blocks share their buffers: the loss must not notice. */
static void inference_is_the_same_forward(void **state) {
    (void)state;
    const nb_family families[] = {NB_LLAMA, NB_QWEN3, NB_OLMO2, NB_GLA};
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    nb_recipe recipe = nvfp4_recipe();
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        nb_model_config config = case_config(families[f], false);
        config.layers = 5;
        nb_model *training = case_model(be, &config, &recipe, true);
        nb_model *inference = case_model(be, &config, &recipe, false);
        case_batch b;
        make_case_batch(&b, config.vocab, 1);
        const nb_pass pass = {0};
        assert_true(loss_of(training, &b, &pass) == loss_of(inference, &b, &pass));
        assert_null(nb_model_grads(inference));
        double loss;
        assert_int_equal(nb_model_loss_and_grads(inference, &b.batch, &pass, &loss, NULL), NB_BAD_USAGE);
        nb_model_free(training);
        nb_model_free(inference);
    }
    nb_backend_free(be);
}

/* A vocabulary of 2^17 makes a chunk of the head 128 rows. Two documents of 100 tokens in one row are two chunks, cut
 * inside the second; alone they are one each. Loss and gradients must be the mean of the two. */
static void head_in_chunks(void **state) {
    (void)state;
    enum { LONG = 100 };
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, true);
    nb_recipe recipe = bf16_recipe();
    config.vocab = 1 << 17;
    config.layers = 1;
    config.max_seq = 2 * LONG;
    nb_model *model = NULL;
    assert_int_equal(nb_model_create(be, &config, &recipe, 1, 2 * LONG, true, &model, NULL), NB_OK);
    nb_model_init(model, 1);
    static int32_t tokens[2 * LONG], targets[2 * LONG], positions[2 * LONG], doc_start[2 * LONG];
    for (int i = 0; i < 2 * LONG; i++) {
        tokens[i] = i * 600;
        targets[i] = i * 599;
        positions[i] = i % LONG;
        doc_start[i] = i - i % LONG;
    }
    const int64_t n = nb_model_param_elements(model);
    double together, alone[2];
    const nb_pass pass = {0};
    const nb_batch both = {1, 2 * LONG, tokens, targets, positions, doc_start};
    assert_int_equal(nb_model_loss_and_grads(model, &both, &pass, &together, NULL), NB_OK);
    const float *kept = grads_of(model, be);
    be->ops->fill_zero(be, nb_model_grads(model), param_bytes(model, be));
    for (int i = 0; i < 2; i++) {
        const nb_batch one = {1, LONG, tokens + i * LONG, targets + i * LONG, positions, doc_start};
        assert_int_equal(nb_model_loss_and_grads(model, &one, &pass, &alone[i], NULL), NB_OK);
    }
    assert_true(fabs(together - (alone[0] + alone[1]) / 2) < 1e-6);
    double error = 0, norm = 0;
    const float *grads = grads_of(model, be);
    for (int64_t i = 0; i < n; i++) {
        error += (kept[i] - 0.5 * grads[i]) * (kept[i] - 0.5 * grads[i]);
        norm += (double)kept[i] * kept[i];
    }
    assert_true(norm > 0 && sqrt(error / norm) < 0x1p-7);
    nb_model_free(model);
    nb_backend_free(be);
}

/* ---- the lens ---- */

typedef struct seen_parts {
    int operands, attention, gates;
} seen_parts;

static void see_operand(void *context, const nb_lens_operand *seen) {
    ((seen_parts *)context)->operands += seen->module[0] != 0;
}

static void see_attention(void *context, nb_backend *be, const char *module, const nb_attention *attention,
                          const void *q, const void *k) {
    (void)be, (void)q, (void)k;
    ((seen_parts *)context)->attention += strstr(module, ".self_attn") && attention->heads == 4;
}

static void see_gate(void *context, nb_backend *be, const char *module, const nb_mat *a, const void *bias) {
    (void)be;
    ((seen_parts *)context)->gates += strstr(module, ".attn") && a->rows == CASE_ROWS && a->cols == 16 && bias;
}

static void the_lens_sees_mixers(void **state) {
    (void)state;
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    nb_recipe recipe = bf16_recipe();
    for (int gla = 0; gla < 2; gla++) {
        nb_model_config config = case_config(gla ? NB_GLA : NB_LLAMA, false);
        nb_model *model = case_model(be, &config, &recipe, true);
        seen_parts seen = {0};
        const nb_lens lens = {.context = &seen, .operand = see_operand, .attention = see_attention, .gate = see_gate};
        const nb_pass pass = {.lens = &lens};
        case_batch b;
        make_case_batch(&b, config.vocab, 1);
        loss_of(model, &b, &pass);
        assert_int_equal(seen.attention, gla ? 0 : config.layers);
        assert_int_equal(seen.gates, gla ? config.layers : 0);
        /* an input a group and a weight a layer: 4 groups and 7 layers, or 5 and 10; and the head */
        assert_int_equal(seen.operands, config.layers * (gla ? 15 : 11) + 2);
        nb_model_free(model);
    }
    nb_backend_free(be);
}

/* ---- what it says of itself ---- */

static void reports(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe = nvfp4_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    nb_census_row rows[64];
    assert_int_equal(nb_model_census(model, rows, 64), 3 * (7 * config.layers + 1) + config.layers);
    assert_string_equal(rows[0].module, "layers.0.self_attn.q_proj");
    assert_string_equal(rows[0].formats, "nvfp4 1x16 x nvfp4 16x16");
    assert_string_equal(rows[3 * 14].module, "lm_head");
    assert_string_equal(rows[3 * 14].formats, "bf16 x bf16");
    nb_memory_row memory[16];
    int32_t count = nb_model_memory(model, memory, 16);
    assert_true(count >= 5 && count <= 16);
    assert_int_equal(memory[0].bytes, 4 * nb_model_param_elements(model));
    /* per layer: q, o 32x64, k, v 32x32, three 32x48; head 48x32; attention over (16 + 1)/2 keys, 64 wide */
    double linear = 2 * (2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 48) + 48 * 32;
    assert_true(fabs(nb_model_flops_per_token(model, 16) - (6 * linear + 2 * 12 * 64 * 8.5)) < 1e-6);
    assert_int_equal(nb_model_state(model, NULL, 0), 0);
    nb_model_free(model);
    nb_backend_free(be);
}

static void parameters(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO), *ref = ref64();
    nb_model_config config = case_config(NB_QWEN3, false);
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, true), *wide = case_model(ref, &config, &recipe, true);
    const float *values = params_of(model, be);
    const double *doubles = params_of(wide, ref);
    int64_t end = 0;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        assert_true(p->offset >= end && p->offset % 16 == 0);
        end = p->offset + p->rows * p->cols;
        double sum = 0, squares = 0;
        for (int64_t j = p->offset; j < end; j++) {
            assert_true(values[j] == doubles[j]);
            sum += values[j];
            squares += (double)values[j] * values[j];
        }
        double n = (double)(p->rows * p->cols), mean = sum / n, std = sqrt(squares / n - mean * mean);
        if (p->rank == 1)
            assert_true(mean == 1 && std == 0 && !p->decay);
        else /* 5 standard deviations of the estimators */
            assert_true(fabs(mean) < 5 * config.init_std / sqrt(n) &&
                        fabs(std / config.init_std - 1) < 5 / sqrt(2 * n) && p->decay);
    }
    assert_int_equal(end, nb_model_param_elements(model));
    assert_string_equal(nb_model_param(model, 0)->name, "model.embed_tokens.weight");
    assert_true(nb_model_param(model, 0)->embedding);
    assert_string_equal(nb_model_param(model, nb_model_param_count(model) - 1)->name, "lm_head.weight");
    nb_model_free(model);
    nb_model_free(wide);
    nb_backend_free(be);
    nb_backend_free(ref);
}

/* ---- memory that runs out ---- */

/* A backend whose allocations fail from some number on. */
typedef struct failing_backend {
    nb_backend backend;
    ni_backend_ops ops;
    nb_backend *real;
} failing_backend;

static int allowed, alive;

static void *failing_alloc(nb_backend *be, size_t bytes, const char *what) {
    void *memory = allowed-- > 0 ? ((failing_backend *)be)->real->ops->alloc(be, bytes, what) : NULL;
    alive += memory != NULL;
    return memory;
}

static void counting_release(nb_backend *be, void *memory) {
    assert_non_null(memory);
    alive--;
    ((failing_backend *)be)->real->ops->release(be, memory);
}

/* Wherever memory ends, the model is refused with a reason and everything that was taken is given back. */
static void out_of_memory(void **state) {
    (void)state;
    failing_backend be = {.real = cpu_with(1, NB_ISA_AUTO)};
    be.backend = *be.real;
    be.ops = *be.real->ops;
    be.ops.alloc = failing_alloc;
    be.ops.release = counting_release;
    be.backend.ops = &be.ops;
    nb_model_config config = case_config(NB_QWEN3, false);
    nb_recipe recipe = nvfp4_recipe();
    for (int most = 0;; most++) {
        nb_model *model = NULL;
        nb_error err = {0};
        allowed = most;
        nb_status status = nb_model_create(&be.backend, &config, &recipe, CASE_BATCH, CASE_SEQ, true, &model, &err);
        if (status == NB_OK) {
            assert_true(most > 20);
            nb_model_free(model);
            assert_int_equal(alive, 0);
            break;
        }
        assert_int_equal(status, NB_NO_MEMORY);
        assert_non_null(strstr(err.message, "no memory"));
        assert_null(model);
        assert_int_equal(alive, 0);
    }
    nb_backend_free(be.real);
}

/* ---- refusals ---- */

static void bad_requests(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe = nvfp4_recipe();
    nb_model *model = case_model(be, &config, &recipe, true), *none = NULL;
    nb_error err = {0};
    case_batch b;
    double loss;
    const nb_pass pass = {0};
    make_case_batch(&b, config.vocab, 1);
    b.tokens[3] = config.vocab;
    assert_int_equal(nb_model_loss(model, &b.batch, &pass, &loss, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "token 48 at position 3"));
    make_case_batch(&b, config.vocab, 1);
    b.batch.batch = 3;
    assert_int_equal(nb_model_loss(model, &b.batch, &pass, &loss, &err), NB_BAD_USAGE);
    make_case_batch(&b, config.vocab, 1);
    b.doc_start[CASE_SEQ + 2] = 1;
    assert_int_equal(nb_model_loss(model, &b.batch, &pass, &loss, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "doc_start 1 at position 2 of sequence 1"));
    make_case_batch(&b, config.vocab, 1);
    for (int i = 0; i < CASE_ROWS; i++)
        b.targets[i] = -1;
    assert_int_equal(nb_model_loss_and_grads(model, &b.batch, &pass, &loss, &err), NB_OK);
    assert_true(loss == 0);
    double squares, *sum = be->ops->alloc(be, sizeof *sum, "a sum");
    be->ops->sum_squares(be, sum, nb_model_grads(model), nb_model_param_elements(model));
    be->ops->download(be, &squares, sum, sizeof squares);
    be->ops->release(be, sum);
    assert_true(squares == 0);
    assert_int_equal(nb_model_create(be, &config, &recipe, 1, 64, true, &none, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "max_seq 32"));
    assert_int_equal(nb_model_create(be, &config, &recipe, 1, 24, true, &none, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "tokens of a micro-batch"));
    nb_model_free(model);
    nb_backend_free(be);
}

/* ---- the first parameters ---- */

/* Within the cut, as a normal distribution that is cut there, and where nothing was cut what it would have been
 * without: the variance of a normal distribution cut at c is 1 - 2 c phi(c) / (2 Phi(c) - 1). */
static void no_parameter_begins_beyond_the_cut(void **state) {
    (void)state;
    static const double cuts[] = {0.5, 1, 3};
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, false);
    config.vocab = 4096;
    nb_recipe recipe = bf16_recipe();
    nb_model *model = NULL;
    assert_int_equal(nb_model_create(be, &config, &recipe, 1, 8, false, &model, NULL), NB_OK);
    const nb_param *p = nb_model_param(model, 0);
    assert_true(p->embedding);
    const int64_t n = p->rows * p->cols;
    nb_model_init(model, 5);
    const float *whole = (const float *)params_of(model, be) + p->offset;
    for (int i = 0; i < 3; i++) {
        const double c = cuts[i], density = exp(-c * c / 2) / sqrt(2 * 3.14159265358979324);
        const double variance = 1 - 2 * c * density / erf(c / sqrt(2));
        double squares = 0;
        int64_t again = 0;
        nb_model_init_within(model, 5, c);
        const float *now = (const float *)params_of(model, be) + p->offset;
        for (int64_t e = 0; e < n; e++) {
            double z = (double)now[e] / config.init_std;
            assert_true(fabs(z) <= c * (1 + 1e-6));
            assert_true(now[e] == whole[e] || fabs((double)whole[e]) > c * config.init_std);
            again += now[e] != whole[e];
            squares += z * z;
        }
        double beyond = erfc(c / sqrt(2));
        assert_true(fabs(squares / (double)n / variance - 1) < 5 * sqrt(2 / (double)n));
        assert_true(fabs((double)again - beyond * (double)n) < 5 * sqrt(beyond * (double)n));
    }
    nb_model_free(model);
    nb_backend_free(be);
}

/* Lengths of the rows (of the columns, where they are what has length 1) of every matrix of ngpt. */
static void expect_unit_vectors(nb_model *model, nb_backend *be) {
    const float *params = params_of(model, be);
    int32_t matrices = 0;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        const bool writes = strstr(p->name, "o_proj") || strstr(p->name, "down_proj");
        for (int64_t v = 0; p->rank == 2 && v < (writes ? p->cols : p->rows); v++) {
            double squares = 0;
            for (int64_t j = 0; j < (writes ? p->rows : p->cols); j++) {
                const double x = params[p->offset + (writes ? j * p->cols + v : v * p->cols + j)];
                squares += x * x;
            }
            if (!(fabs(sqrt(squares) - 1) < 1e-6))
                fail_msg("%s: vector %lld has length %.9g", p->name, (long long)v, sqrt(squares));
        }
        matrices += p->rank == 2;
    }
    assert_int_equal(matrices, 2 * 7 + 2);
}

static void ngpt_stays_on_the_sphere(void **state) {
    (void)state;
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    const nb_model_config config = case_config(NB_NGPT, false);
    const nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    const nb_pass pass = {0};
    expect_unit_vectors(model, be);
    float *params = params_of(model, be);
    for (int64_t i = 0; i < nb_model_param_elements(model); i++)
        params[i] += 0.1f * (float)normal(5, i);
    be->ops->upload(be, nb_model_params(model), params, param_bytes(model, be));
    assert_int_equal(nb_model_after_step(model, &pass, NULL), NB_OK);
    expect_unit_vectors(model, be);
    nb_model_free(model);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(ngpt_stays_on_the_sphere, release_buffers),
        cmocka_unit_test_teardown(learns, release_buffers),
        cmocka_unit_test_teardown(threads_change_nothing, release_buffers),
        cmocka_unit_test_teardown(passes_leave_nothing_behind, release_buffers),
        cmocka_unit_test_teardown(inference_is_the_same_forward, release_buffers),
        cmocka_unit_test_teardown(head_in_chunks, release_buffers),
        cmocka_unit_test_teardown(the_lens_sees_mixers, release_buffers),
        cmocka_unit_test_teardown(reports, release_buffers),
        cmocka_unit_test_teardown(parameters, release_buffers),
        cmocka_unit_test_teardown(out_of_memory, release_buffers),
        cmocka_unit_test_teardown(bad_requests, release_buffers),
        cmocka_unit_test_teardown(no_parameter_begins_beyond_the_cut, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
