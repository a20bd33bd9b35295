/* test_train_recompute.c: activations that are made again are those that were kept: every recipe, and every family,
 * trains to the same bits, with mechanisms and the lens none the wiser, in less memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train_case.h"

#include "model/param_array.h"

#include <dirent.h>
#include <stdlib.h>

static const char *const FAMILIES[] = {"llama", "qwen3", "olmo2", "gla"};
static const char *const MODES[] = {"recompute=none", "recompute=mlp", "recompute=block"};
enum { FAMILY_COUNT = 4, MODE_COUNT = 3, STEPS = 4 };

/* Three blocks, so that one lies between the first and the last; every width divides by 128. */
static void write_model(void **state, const char *family) {
    char text[512];
    nb_error err = {0};
    const bool gla = strcmp(family, "gla") == 0;
    snprintf(text, sizeof text,
             "name: case\nfamily: %s\nvocab: 64\nhidden: 128\nlayers: 3\nheads: 2\n%sintermediate: 256\nmax_seq: 64\n"
             "tied: false\n%s",
             family, gla ? "" : "kv_heads: 2\nhead_dim: 64\n",
             gla ? "gla: {expand_k: 1, expand_v: 1, gate_low_rank: 128}\n" : "");
    assert_int_equal(ni_file_write(in_folder(state, "case.yaml"), text, strlen(text), &err), NB_OK);
}

/* What a run leaves that must not depend on what was kept. */
typedef struct outcome {
    double loss[STEPS], norm[STEPS];
    uint64_t params; /* digest of all masters */
    int64_t seen;    /* operands that a guest's lens was shown */
    size_t saved;    /* bytes of saved activations */
} outcome;

static uint64_t digest_of(nb_model *model) {
    uint64_t digest = 1469598103934665603u;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        const size_t bytes = (size_t)(p->rows * p->cols) * sizeof(float);
        uint8_t *host = malloc(bytes);
        assert_non_null(host);
        ni_model_param_read(model, i, host);
        for (size_t b = 0; b < bytes; b++)
            digest = (digest ^ host[b]) * 1099511628211u;
        free(host);
    }
    return digest;
}

static size_t saved_bytes(nb_model *model) {
    nb_memory_row rows[32];
    const int32_t count = nb_model_memory(model, rows, 32);
    for (int32_t i = 0; i < count; i++)
        if (strcmp(rows[i].what, "saved activations") == 0)
            return rows[i].bytes;
    return 0;
}

static void count_operand(void *context, const nb_lens_operand *seen) {
    (void)seen;
    ++*(int64_t *)context;
}

static void train(void **state, const char *recipe, const char *mode, outcome *out) {
    char key[NB_NAME_SIZE + 16];
    nb_error err = {0};
    nb_step_report report;
    nb_trainer *trainer;
    *out = (outcome){.seen = 0};
    const nb_lens lens = {.context = &out->seen, .operand = count_operand, .counts = true};
    case_log log = {.lens = &lens};
    snprintf(key, sizeof key, "recipe=%s", recipe);
    const nb_run_config config = case_config(state, "run", key, mode, "seq=64", "micro_batch=2", "accumulation=2",
                                             "lens.every=0", "steps=4", NULL);
    nb_backend *be = case_backend(&config);
    if (case_create(be, &config, &log, &trainer, &err) != NB_OK)
        fail_msg("%s, %s: %s", recipe, mode, err.message);
    for (int i = 0; i < STEPS; i++) {
        if (nb_trainer_step(trainer, &report, &err) != NB_OK)
            fail_msg("%s, %s: %s", recipe, mode, err.message);
        out->loss[i] = report.loss;
        out->norm[i] = report.norm;
    }
    out->params = digest_of(nb_trainer_model(trainer));
    out->saved = saved_bytes(nb_trainer_model(trainer));
    nb_trainer_free(trainer);
    nb_backend_free(be);
}

static void compare_modes(void **state, const char *recipe, const char *family) {
    outcome runs[MODE_COUNT];
    if (strcmp(recipe, "tetrajet-v1-ramping") == 0) { /* calibrated in few steps, twice */
        const char text[] = "base: tetrajet-v1-ramping\nname: ramping\nqramping: {every: 2, window: 1}\n";
        nb_error err = {0};
        recipe = in_folder(state, "ramping.yaml");
        assert_int_equal(ni_file_write(recipe, text, strlen(text), &err), NB_OK);
    }
    train(state, recipe, MODES[0], &runs[0]);
    for (int m = 1; m < MODE_COUNT; m++) {
        train(state, recipe, MODES[m], &runs[m]);
        if (memcmp(runs[m].loss, runs[0].loss, sizeof runs[0].loss) != 0 ||
            memcmp(runs[m].norm, runs[0].norm, sizeof runs[0].norm) != 0 || runs[m].params != runs[0].params)
            fail_msg("%s on %s, %s: other bits than with everything kept", recipe, family, MODES[m]);
        if (runs[m].seen != runs[0].seen)
            fail_msg("%s on %s, %s: the lens was shown %lld operands, expected %lld", recipe, family, MODES[m],
                     (long long)runs[m].seen, (long long)runs[0].seen);
        if (runs[m].saved >= runs[m - 1].saved)
            fail_msg("%s on %s, %s: %zu bytes are saved, not less than %zu", recipe, family, MODES[m], runs[m].saved,
                     runs[m - 1].saved);
    }
}

/* Every recipe on llama; on the others one of each kind of mechanism. */
static bool is_compared(const char *recipe, int family) {
    static const char *const everywhere[] = {"bf16", "nvfp4", "chon", "tetrajet-v2", "fp4-dge-occ"};
    for (size_t i = 0; i < sizeof everywhere / sizeof *everywhere; i++)
        if (strcmp(recipe, everywhere[i]) == 0)
            return true;
    return family == 0;
}

static void every_recipe(void **state) {
    DIR *folder = opendir(NI_TEST_SOURCE "/recipes");
    assert_non_null(folder);
    int compared = 0;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        char name[NB_NAME_SIZE];
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".yaml") != 0)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(dot - entry->d_name), entry->d_name);
        for (int f = 0; f < FAMILY_COUNT; f++) {
            if (!is_compared(name, f))
                continue;
            write_model(state, FAMILIES[f]);
            compare_modes(state, name, FAMILIES[f]);
            compared++;
        }
    }
    closedir(folder);
    assert_true(compared >= 20 + 3 * 5);
}

/* A run that stops goes on to the same bits under another mode; rows of the head are part of the run. */
static void modes_change_on_resume(void **state) {
    nb_error err = {0};
    nb_run_config config = case_config(state, "a", "lens.every=0", "recipe=nvfp4", NULL);
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, NULL, &err), NB_OK);
    case_log log = {.stop_after = 6};
    config = case_config(state, "b", "lens.every=0", "recipe=nvfp4", "recompute=mlp", NULL);
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, &log, &err), NB_INTERRUPTED);
    config = case_config(state, "b", "lens.every=0", "recipe=nvfp4", "recompute=block", NULL);
    assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_OK);
    char *a = case_metrics(state, "a"), *b = case_metrics(state, "b");
    char *last_a = strrchr(a, '{'), *last_b = strrchr(b, '{');
    assert_string_equal(last_a, last_b);
    free(a);
    free(b);
    config = case_config(state, "b", "lens.every=0", "recipe=nvfp4", "head_rows=16", NULL);
    assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "head_rows"));
}

/* The loss is the same whatever the rows of the head; dW is a sum in another order. */
static void head_in_pieces(void **state) {
    static const char *const rows[] = {"head_rows=0", "head_rows=7", "head_rows=16"};
    double loss[3], norm[3];
    for (int i = 0; i < 3; i++) {
        nb_error err = {0};
        nb_step_report report;
        nb_trainer *trainer;
        const nb_run_config config = case_config(state, "run", "lens.every=0", rows[i], NULL);
        nb_backend *be = case_backend(&config);
        assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
        assert_int_equal(nb_trainer_step(trainer, &report, &err), NB_OK);
        loss[i] = report.loss;
        norm[i] = report.norm;
        nb_trainer_free(trainer);
        nb_backend_free(be);
    }
    for (int i = 1; i < 3; i++) {
        assert_true(loss[i] == loss[0]);
        assert_true(norm[i] > norm[0] * (1 - 1e-5) && norm[i] < norm[0] * (1 + 1e-5));
    }
    assert_true(norm[1] != norm[2] || norm[1] != norm[0]);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {CASE(every_recipe), CASE(modes_change_on_resume), CASE(head_in_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
