/* test_drowned.c: gradients that drown in their rounding noise (late_switch.rho): what is counted, and a run whose
 * crossing is planted between two of its looks: until there the bits of the run without it, from there on those of a
 * late switch of the backward pass, whatever stops and resumes lie between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train/drowned.h"
#include "train/manifest.h"
#include "train_case.h"

#include <math.h>

/* ---- the watch ---- */

static void see(const nb_lens *lens, nb_role role, double rho) {
    const nb_quantize_stats stats = {.sum_sq = rho * rho, .sum_sq_error = 1};
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    const nb_lens_operand seen = {
        .be = be, .module = "layers.0.mlp.up_proj", .role = role, .stats = rho > 0 ? &stats : NULL};
    lens->operand(lens->context, &seen);
    nb_backend_free(be);
}

static void counts_gradients(void **state) {
    (void)state;
    const nb_late_switch late = {.rho = 1.732, .layers = 0.5, .every = 3};
    ni_drowned_watch watch;
    const nb_lens *lens = ni_drowned_begin(&watch, &late);
    assert_true(lens->counts);
    see(lens, NB_DGRAD_DY, 1.731);
    see(lens, NB_WGRAD_DY, 1.733);
    see(lens, NB_FPROP_X, 0.1); /* not a gradient */
    see(lens, NB_DGRAD_DY, 0);  /* in BF16: nobody counted */
    assert_int_equal(watch.operands, 2);
    assert_int_equal(watch.drowned, 1);
    assert_false(ni_drowned_too_many(&watch, &late)); /* a half is not more than a half */
    see(lens, NB_WGRAD_DY, 1.2);
    assert_true(ni_drowned_too_many(&watch, &late));
    assert_true(fabs(watch.least - 1.2) < 1e-12);
    assert_string_equal(watch.where, "layers.0.mlp.up_proj wgrad.dy");
    for (int64_t step = 0; step < 7; step++)
        assert_int_equal(ni_drowned_is_due(&late, step), step % 3 == 0);
    assert_false(ni_drowned_is_due(&(nb_late_switch){.every = 1}, 0));
    ni_drowned_begin(&watch, &late);
    assert_false(ni_drowned_too_many(&watch, &late)); /* nothing seen, nothing drowned */
}

/* ---- a run ---- */

enum { STEPS = 12, EVERY = 2, LOOKS = STEPS / EVERY };

static void note_least(void *context, const nb_lens_operand *seen) {
    double *least = context;
    nb_quantize_stats s;
    if (!seen->stats || (seen->role != NB_DGRAD_DY && seen->role != NB_WGRAD_DY) || seen->pass->step % EVERY)
        return;
    double *of_look = &least[seen->pass->step / EVERY];
    assert_int_equal(nb_backend_read(seen->be, &s, seen->stats, sizeof s, NULL), NB_OK);
    *of_look = fmin(*of_look, sqrt(s.sum_sq / s.sum_sq_error));
}

static void recipe(void **state, const char *name, const char *late) {
    char text[256], file[64];
    nb_error err = {0};
    snprintf(text, sizeof text, "base: nvfp4\nname: %s\n%s", name, late);
    snprintf(file, sizeof file, "%s.yaml", name);
    assert_int_equal(ni_file_write(in_folder(state, file), text, strlen(text), &err), NB_OK);
}

static nb_status train(void **state, const char *out, const char *name, nb_start start, case_log *log) {
    char set[600];
    nb_error err = {0};
    snprintf(set, sizeof set, "recipe=%s/%s.yaml", (char *)*state, name);
    nb_run_config config = case_config(state, out, set, "accumulation=2", NULL);
    const nb_status status = case_run(&config, start, NULL, log, &err);
    if (status != NB_OK && status != NB_INTERRUPTED)
        fail_msg("%s", err.message);
    return status;
}

static void same_file(void **state, const char *a, const char *b, const char *name) {
    char path[2][128], *text[2];
    size_t size[2];
    nb_error err = {0};
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/checkpoints/step-%08d/%s", i ? b : a, STEPS, name);
        if (ni_file_read(in_folder(state, path[i]), 1 << 24, &text[i], &size[i], &err) != NB_OK)
            fail_msg("%s", err.message);
    }
    assert_int_equal(size[0], size[1]);
    if (memcmp(text[0], text[1], size[0]) != 0)
        fail_msg("%s and %s differ", path[0], path[1]);
    free(text[0]);
    free(text[1]);
}

static int64_t drowned_of(void **state, const char *out, int step) {
    char folder[700];
    ni_manifest m;
    nb_error err = {0};
    snprintf(folder, sizeof folder, "%s/%s/checkpoints/step-%08d", (char *)*state, out, step);
    if (ni_manifest_read(folder, &m, &err) != NB_OK)
        fail_msg("%s", err.message);
    const int64_t drowned = m.at.drowned;
    ni_manifest_free(&m);
    return drowned;
}

/* A threshold between the smallest rho of the first look and the smallest of a later one; first look below it. */
static int plant(const double least[LOOKS], double *rho) {
    int lowest = 0, first = 0;
    for (int i = 1; i < LOOKS; i++)
        lowest = least[i] < least[lowest] ? i : lowest;
    if (lowest == 0)
        fail_msg("the first look has the smallest rho: nothing can be planted behind it");
    *rho = (least[0] + least[lowest]) / 2;
    while (least[first] >= *rho)
        first++;
    return first * EVERY;
}

static void a_planted_crossing(void **state) {
    char late[128], *census;
    double least[LOOKS], rho;
    size_t size;
    nb_error err = {0};
    for (int i = 0; i < LOOKS; i++)
        least[i] = INFINITY;
    const nb_lens lens = {.context = least, .counts = true, .operand = note_least};
    recipe(state, "never", "");
    train(state, "never", "never", NB_START_NEW, &(case_log){.lens = &lens});
    const int crossing = plant(least, &rho);
    print_message("rho %.4f at first, %.4f planted: crossed in step %d\n", least[0], rho, crossing);

    snprintf(late, sizeof late, "late_switch: {rho: %.17g, layers: 0, every: %d}\n", rho, EVERY);
    recipe(state, "planted", late);
    snprintf(late, sizeof late, "late_switch: {at: %.17g, forward: false}\n", (crossing + 1) / (double)STEPS);
    recipe(state, "switched", late);
    case_log log = {0};
    train(state, "planted", "planted", NB_START_NEW, &log);
    train(state, "switched", "switched", NB_START_NEW, NULL);
    same_file(state, "planted", "switched", "model.safetensors");
    same_file(state, "planted", "switched", "optimizer.safetensors");
    assert_int_equal(log.warnings, 1);
    assert_non_null(strstr(log.warning, "drown in their rounding noise"));
    assert_int_equal(drowned_of(state, "planted", STEPS), crossing + 1);
    assert_int_equal(drowned_of(state, "never", STEPS), 0);
    if (ni_file_read(in_folder(state, "planted/census.txt"), 1 << 20, &census, &size, &err) != NB_OK)
        fail_msg("%s", err.message);
    snprintf(late, sizeof late, "from step %d on every dgrad and wgrad in bf16", crossing + 1);
    assert_non_null(strstr(census, late));
    free(census);

    for (int64_t stop = crossing; stop < crossing + 3; stop++) { /* before, at and after it */
        char out[32];
        snprintf(out, sizeof out, "stopped-%d", (int)stop);
        if (stop > 0)
            assert_int_equal(train(state, out, "planted", NB_START_NEW, &(case_log){.stop_after = stop}),
                             NB_INTERRUPTED);
        train(state, out, "planted", stop > 0 ? NB_START_RESUME : NB_START_NEW, NULL);
        same_file(state, out, "planted", "model.safetensors");
        assert_int_equal(drowned_of(state, out, STEPS), crossing + 1);
    }
}

/* A threshold that nothing comes below changes no bit. */
static void looking_changes_nothing(void **state) {
    recipe(state, "never", "");
    recipe(state, "far", "late_switch: {rho: 0.01, every: 1}\n");
    train(state, "never", "never", NB_START_NEW, NULL);
    train(state, "far", "far", NB_START_NEW, NULL);
    same_file(state, "far", "never", "model.safetensors");
    assert_int_equal(drowned_of(state, "far", STEPS), 0);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {cmocka_unit_test(counts_gradients), CASE(a_planted_crossing),
                                       CASE(looking_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
