/* test_model_recipes.c: every shipped recipe on every family: a pass forward and backward runs, in the scratch memory
 * that was measured for it, and its loss and gradients stay near those of BF16. */
#include "backend/table.h"
#include "model_case.h"

#include "model/param_array.h"

#include <dirent.h>

/* Every width divides by 128, and there are more tokens than features, as in training. */
enum { BATCH = 4, SEQ = 128, ROWS = BATCH * SEQ };

static nb_model_config wide_config(nb_family family) {
    nb_model_config c = case_config(family, false);
    c.hidden = 128;
    c.head_dim = 64;
    c.expand_k = 1;
    c.gate_low_rank = 128;
    c.intermediate = 256;
    c.max_seq = SEQ;
    c.init_std = 0.05;
    return c;
}

/* Loss; the gradients stay in *grads. */
static double run(nb_backend *be, nb_family family, const nb_recipe *recipe, float **grads, int64_t *n) {
    static int32_t tokens[ROWS], targets[ROWS], positions[ROWS], doc_start[ROWS];
    nb_model_config config = wide_config(family);
    nb_model *model = NULL;
    nb_error err = {0};
    for (int32_t i = 0; i < ROWS; i++) {
        ni_philox_words w = ni_philox(1, 0xba7c4, (uint32_t)i, 0, 0, 0);
        tokens[i] = (int32_t)(w.w[0] % 48);
        /* GLA norms o_t, which the first tokens of a document make of next to nothing: there any noise is large. */
        targets[i] = i % SEQ < 32 ? -1 : (int32_t)(w.w[1] % 48);
        positions[i] = i % SEQ;
    }
    const nb_batch batch = {BATCH, SEQ, tokens, targets, positions, doc_start};
    const nb_pass pass = {.step = 1, .steps = 10, .rounding_seed = 3};
    double loss = NAN;
    if (nb_model_create(be, &config, recipe, BATCH, SEQ, true, &model, &err) != NB_OK)
        fail_msg("%s on %s: %s", recipe->name, nb_family_name(family), err.message);
    nb_model_init(model, 7);
    if (nb_model_loss_and_grads(model, &batch, &pass, &loss, &err) != NB_OK)
        fail_msg("%s on %s: %s", recipe->name, nb_family_name(family), err.message);
    *n = nb_model_param_elements(model);
    *grads = poisoned((size_t)*n * sizeof **grads);
    memset(*grads, 0, (size_t)*n * sizeof **grads);
    float *wide = be->ops->alloc(be, (size_t)*n * sizeof *wide, "decoded gradients");
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        const ni_scaled tensor = ni_param_array_at(ni_model_gradients(model), i);
        be->ops->scaled_decode(be, wide, &tensor, p->rows * p->cols);
        be->ops->download(be, *grads + p->offset, wide, (size_t)(p->rows * p->cols) * sizeof *wide);
    }
    be->ops->release(be, wide);
    nb_model_free(model);
    return loss;
}

static double cosine(const float *a, const float *b, int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}

static void check_recipe(nb_backend *be, const char *name) {
    const nb_family families[] = {NB_LLAMA, NB_QWEN3, NB_OLMO2, NB_GLA, NB_NGPT};
    const nb_recipe bf16 = bf16_recipe();
    nb_recipe recipe;
    nb_error err = {0};
    if (nb_recipe_load(name, NI_TEST_SOURCE "/recipes", &recipe, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        if (recipe.roles[NB_FPROP_X].quantizer.outer == NB_OUTER_UNIT && families[f] != NB_NGPT)
            continue; /* numbers beyond 1 saturate: only nGPT has none */
        float *grads, *twin;
        int64_t n;
        double want = run(be, families[f], &bf16, &twin, &n), loss = run(be, families[f], &recipe, &grads, &n);
        double angle = cosine(grads, twin, n);
        /* Four bits keep the direction, also under an estimator that weighs elements between 0.2 and 3 (dge); an
         * operand transposed or rotated wrongly would leave next to nothing of it. */
        if (!(fabs(loss - want) < 0.05 * want && angle > (families[f] == NB_GLA ? 0.35 : 0.6)))
            fail_msg("%s on %s: loss %g beside %g in BF16, cosine of the gradients %g", name,
                     nb_family_name(families[f]), loss, want, angle);
    }
}

static void every_recipe(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    DIR *folder = opendir(NI_TEST_SOURCE "/recipes");
    assert_non_null(folder);
    int found = 0;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        char name[NB_NAME_SIZE];
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".yaml") != 0)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(dot - entry->d_name), entry->d_name);
        check_recipe(be, name);
        found++;
    }
    closedir(folder);
    assert_true(found >= 5);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(every_recipe, release_buffers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
