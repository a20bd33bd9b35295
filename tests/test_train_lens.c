/* test_train_lens.c: the lens in whole runs: it sees every weight at every sample, and its memory is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "files/file.h"
#include "files/folder.h"
#include "lens/series.h"
#include "train/recorder.h"
#include "train/trainer.h"
#include "train_case.h"

/* An evaluation quantizes the weights before the sampled step does; what that lost is counted all the same. Nor may it
 * change a bit: the codes are the same. */
static void weights_are_counted_after_an_evaluation(void **state) {
    nb_error err = {0};
    nb_run_config often = case_config(state, "often", "recipe=nvfp4", "eval.every=4", "lens.every=4", NULL);
    nb_run_config never = case_config(state, "never", "recipe=nvfp4", "eval.every=4", "lens.every=0", NULL);
    assert_int_equal(case_run(&often, NB_START_NEW, NULL, NULL, &err), NB_OK);
    assert_int_equal(case_run(&never, NB_START_NEW, NULL, NULL, &err), NB_OK);
    char *a = case_metrics(state, "often"), *b = case_metrics(state, "never");
    assert_string_equal(a, b);
    free(a);
    free(b);

    ni_series_reader *r;
    assert_int_equal(ni_series_read(in_folder(state, "often/lens/series.nbs"), &r, NULL, &err), NB_OK);
    static const char *const names[] = {"layers.0.self_attn.q_proj/fprop.w/snr_db",
                                        "layers.0.mlp.down_proj/fprop.w/flushed",
                                        "layers.0.self_attn.q_proj/fprop.w/kurtosis",
                                        "layers.0.self_attn.input/fprop.x/snr_db", "layers.0.mlp/alignment"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t name = ni_series_find(r, names[i]);
        if (name < 0)
            fail_msg("%s was not recorded", names[i]);
        assert_int_equal(ni_series_points(r, name), 3); /* steps 0, 4, 8 of 12 */
    }
    ni_series_reader_free(r);
}

/* The row of the lens holds what it comes to hold, but for a little that it keeps a module and an operand at a time. */
static void lens_row_holds_the_lens(void **state) {
    nb_run_config config =
        case_config(state, "lens", "model=" NI_TEST_SOURCE "/models/llama-tiny.yaml", "recipe=tetrajet-v2-base",
                    "seq=128", "micro_batch=1", "checkpoint.every=0", "eval.every=0", "lens.every=2", "steps=3", NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer *trainer;
    ni_recorder *recorder;
    nb_error err = {0};
    assert_int_equal(ni_make_folders(config.out, &err), NB_OK);
    assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
    assert_int_equal(ni_recorder_open(&config, 0, 0, &recorder, &err), NB_OK);
    nb_step_report report;
    for (int step = 0; step < 2; step++) {
        trainer->lens = ni_recorder_lens(recorder, trainer->at.step);
        assert_int_equal(nb_trainer_step(trainer, &report, &err), NB_OK);
        ni_recorder_step(recorder, &report, 0, nb_trainer_model(trainer));
    }
    nb_memory_row rows[32];
    int32_t count = nb_trainer_memory(trainer, rows, 32);
    double row = 0, held = (double)ni_recorder_bytes(recorder);
    for (int32_t i = 0; i < count; i++)
        if (strncmp(rows[i].what, "lens", 4) == 0)
            row += (double)rows[i].bytes;
    if (be->host_memory) /* there it is given back after each weight */
        row -= (double)ni_trainer_measured_bytes(trainer);
    printf("lens: table %.2f MiB, held %.2f MiB\n", row / 1048576, held / 1048576);
    assert_true(row > 0.9 * held && row <= held);
    trainer->lens = NULL;
    ni_recorder_close(recorder);
    nb_trainer_free(trainer);
    nb_backend_free(be);
}

/* What a lens of a program's own saw. */
typedef struct guest {
    int32_t x[12], others; /* fprop.x of layers.0.mlp.input by step; anything beyond the first micro-batch */
    int32_t scalars, attentions;
    int32_t outputs, streams, heads; /* of linear layers, of blocks, of attention */
} guest;

static void guest_output(void *context, nb_backend *be, const char *module, const nb_mat *y) {
    guest *g = context;
    const char *last = strrchr(module, '.');
    if (!be || !y->data || !last)
        return;
    g->streams += strcmp(last, ".residual") == 0;
    g->heads += strcmp(last, ".heads") == 0;
    g->outputs += strstr(last, "_proj") != NULL;
}

static void guest_operand(void *context, const nb_lens_operand *seen) {
    guest *g = context;
    g->others += seen->pass->micro_batch != 0 || seen->pass->step >= 12;
    if (seen->role == NB_FPROP_X && strcmp(seen->module, "layers.0.mlp.input") == 0 && seen->pass->step < 12)
        g->x[seen->pass->step]++;
}

static void guest_attention(void *context, nb_backend *be, const char *module, const nb_attention *attention,
                            const void *q, const void *k) {
    guest *g = context;
    g->attentions += be && module && attention && q && k;
}

/* It looks at every step beside what the run measures and beside the watch over scales; none of them changes a bit, and
 * what the run's own lens writes stays the same. */
static void a_program_watches_beside_the_lens(void **state) {
    nb_error err = {0};
    guest g = {0};
    const nb_lens lens = {
        .context = &g, .operand = guest_operand, .attention = guest_attention, .output = guest_output};
    case_log watched = {.lens = &lens};
    nb_run_config with =
        case_config(state, "with", "recipe=nvfp4", "lens.every=4", "lens.window=0", "bad_numbers.scales_every=3", NULL);
    nb_run_config without = case_config(state, "without", "recipe=nvfp4", "lens.every=4", "lens.window=0",
                                        "bad_numbers.scales_every=3", NULL);
    assert_int_equal(case_run(&with, NB_START_NEW, NULL, &watched, &err), NB_OK);
    assert_int_equal(case_run(&without, NB_START_NEW, NULL, NULL, &err), NB_OK);
    for (int step = 0; step < 12; step++)
        assert_int_equal(g.x[step], 1);
    assert_int_equal(g.others, 0);
    assert_int_equal(g.attentions, 12 * 2); /* of two layers */
    assert_int_equal(g.streams, 12 * 2);
    assert_int_equal(g.heads, 12 * 2);
    assert_int_equal(g.outputs, 12 * 2 * 7); /* q, k, v, o, gate, up, down */
    char *a = case_metrics(state, "with"), *b = case_metrics(state, "without"), *left, *right;
    assert_string_equal(a, b);
    free(a);
    free(b);
    size_t size, other;
    assert_int_equal(ni_file_read(in_folder(state, "with/lens/series.nbs"), 1 << 26, &left, &size, &err), NB_OK);
    assert_int_equal(ni_file_read(in_folder(state, "without/lens/series.nbs"), 1 << 26, &right, &other, &err), NB_OK);
    assert_int_equal(size, other);
    assert_memory_equal(left, right, size);
    free(left);
    free(right);
}

/* The last note of a run that speaks of the lens. */
static char lens_said[1024];

static void keep_lens_note(void *user, nb_note_kind kind, const char *sentence) {
    (void)user;
    (void)kind;
    if (strncmp(sentence, "lens:", 5) == 0)
        snprintf(lens_said, sizeof lens_said, "%s", sentence);
}

/* Trains with these settings; returns how often flips were recorded. */
static int32_t flips_recorded(void **state, const char *out, const char *every, const char *window, const char *steps) {
    nb_error err = {0};
    nb_run_config config = case_config(state, out, "recipe=nvfp4", every, window, steps, "eval.every=0", NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer_options options = {.recipes_dir = NI_TEST_SOURCE "/recipes", .callbacks = {.note = keep_lens_note}};
    nb_trainer *trainer;
    ni_series_reader *r;
    char path[64];
    lens_said[0] = 0;
    assert_int_equal(nb_trainer_create(be, &config, &options, &trainer, &err), NB_OK);
    assert_int_equal(nb_trainer_run(trainer, NB_START_NEW, NULL, &err), NB_OK);
    nb_trainer_free(trainer);
    nb_backend_free(be);
    snprintf(path, sizeof path, "%s/lens/series.nbs", out);
    assert_int_equal(ni_series_read(in_folder(state, path), &r, NULL, &err), NB_OK);
    int32_t name = ni_series_find(r, "layers.0.mlp.down_proj/fprop.w/flip_rate");
    int32_t count = name < 0 ? 0 : (int32_t)ni_series_points(r, name);
    ni_series_reader_free(r);
    return count;
}

/* A window that would reach over the next sample, or over the end of the run, is cut, and the run says so. */
static void windows_that_are_too_long_are_cut_and_said(void **state) {
    assert_int_equal(flips_recorded(state, "cut", "lens.every=4", "lens.window=50", "steps=12"), 3);
    assert_non_null(strstr(lens_said, "followed for 3 steps after a sample, not lens.window 50"));
    assert_int_equal(flips_recorded(state, "short", "lens.every=100", "lens.window=50", "steps=12"), 1);
    assert_non_null(strstr(lens_said, "then the run ends"));
    assert_int_equal(flips_recorded(state, "each", "lens.every=1", "lens.window=50", "steps=4"), 0);
    assert_non_null(strstr(lens_said, "oscillation is not measured"));
    char *skipped;
    size_t size;
    nb_error err = {0};
    assert_int_equal(ni_file_read(in_folder(state, "each/lens/skipped.txt"), 1 << 16, &skipped, &size, &err), NB_OK);
    assert_non_null(strstr(skipped, "oscillation: no step follows a sample"));
    free(skipped);
    assert_int_equal(flips_recorded(state, "fits", "lens.every=4", "lens.window=3", "steps=12"), 3);
    assert_string_equal(lens_said, "");
}

static ni_series_reader *series_of(void **state, const char *out, const char *spread, const char *every,
                                   const char *window) {
    char path[64];
    nb_error err = {0};
    nb_run_config config = case_config(state, out, "recipe=nvfp4", spread, every, window, NULL);
    ni_series_reader *r;
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, NULL, &err), NB_OK);
    snprintf(path, sizeof path, "%s/lens/series.nbs", out);
    assert_int_equal(ni_series_read(in_folder(state, path), &r, NULL, &err), NB_OK);
    return r;
}

/* It links one sample to the one before, or steps of a window. */
static bool is_of_one_step(const char *name) {
    return !strstr(name, "/hot_") && !strstr(name, "ratio") && !strstr(name, "flip_rate");
}

/* Each block is looked at in its own step of the sample, and what is found is what a look at that whole step finds. */
static void a_sample_is_spread_over_steps(void **state) {
    nb_error err = {0};
    nb_run_config never = case_config(state, "never", "recipe=nvfp4", "lens.every=0", NULL);
    assert_int_equal(case_run(&never, NB_START_NEW, NULL, NULL, &err), NB_OK);
    ni_series_reader *spread = series_of(state, "spread", "lens.spread=2", "lens.every=6", "lens.window=4"),
                     *whole = series_of(state, "whole", "lens.spread=1", "lens.every=1", "lens.window=0");
    char *a = case_metrics(state, "spread"), *b = case_metrics(state, "never");
    assert_string_equal(a, b);
    free(a);
    free(b);
    int32_t compared = 0;
    for (int32_t i = 0; i < ni_series_names(spread); i++) {
        const char *name = ni_series_name(spread, i);
        const int32_t same = ni_series_find(whole, name);
        const int64_t part = strncmp(name, "layers.1.", 9) == 0 || strncmp(name, "layers.1/", 9) == 0;
        if (same < 0 || !is_of_one_step(name))
            continue;
        compared++;
        assert_int_equal(ni_series_points(spread, i), 2);
        for (int64_t p = 0; p < 2; p++) {
            const ni_series_point found = ni_series_at(spread, i, p), at = ni_series_at(whole, same, 6 * p + part);
            assert_int_equal(found.step, 6 * p + part);
            assert_int_equal(ni_series_sample(spread, i, found.step), 6 * p);
            assert_int_equal(found.count, at.count);
            assert_memory_equal(found.values, at.values, (size_t)found.count * sizeof(float));
        }
    }
    assert_true(compared > 200);
    const int32_t flips = ni_series_find(spread, "layers.0.mlp.up_proj/fprop.w/flip_rate");
    assert_true(flips >= 0 && ni_series_at(spread, flips, 0).step == 4);
    assert_int_equal(ni_series_sample(spread, flips, 4), 4);
    ni_series_reader_free(spread);
    ni_series_reader_free(whole);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {CASE(weights_are_counted_after_an_evaluation), CASE(lens_row_holds_the_lens),
                                       CASE(a_program_watches_beside_the_lens),
                                       CASE(windows_that_are_too_long_are_cut_and_said),
                                       CASE(a_sample_is_spread_over_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
