/* test_train_resume.c: a run that was stopped, in whatever way, is the run that was not: every loss and every weight.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/table.h"
#include "files/safetensors.h"
#include "train/checkpoint.h"
#include "train/manifest.h"
#include "train_case.h"

static void same_file(void **state, const char *a, const char *b) {
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    nb_error err = {0};
    if (ni_file_read(in_folder(state, a), 1 << 24, &x, &n, &err) != NB_OK ||
        ni_file_read(in_folder(state, b), 1 << 24, &y, &m, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(n, m);
    if (!x || !y || memcmp(x, y, n) != 0)
        fail_msg("%s and %s differ", a, b);
    free(x);
    free(y);
}

static void same_run(void **state, const char *a, const char *b) {
    char *x = case_metrics(state, a), *y = case_metrics(state, b), from[2][128];
    assert_string_equal(x, y);
    free(x);
    free(y);
    const char *files[] = {"model.safetensors", "optimizer.safetensors"};
    for (int i = 0; i < 2; i++) {
        snprintf(from[0], sizeof from[0], "%s/checkpoints/step-00000012/%s", a, files[i]);
        snprintf(from[1], sizeof from[1], "%s/checkpoints/step-00000012/%s", b, files[i]);
        same_file(state, from[0], from[1]);
    }
}

static void straight(void **state, const char *out, const char *set) {
    nb_run_config config = case_config(state, out, set, NULL);
    nb_error err = {0};
    if (case_run(&config, NB_START_NEW, NULL, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* Stopped after each of several steps, checkpoint or not, and gone on with more threads. */
static void stop_anywhere(void **state, const char *set, const char *recipe) {
    char whole[32], name[32];
    snprintf(whole, sizeof whole, "whole-%s", recipe);
    straight(state, whole, set);
    for (int64_t stop = 1; stop < 12; stop += 5) {
        snprintf(name, sizeof name, "%s-%d", recipe, (int)stop);
        case_log log = {.stop_after = stop};
        nb_error err = {0};
        nb_run_config config = case_config(state, name, set, NULL);
        assert_int_equal(case_run(&config, NB_START_NEW, NULL, &log, &err), NB_INTERRUPTED);
        assert_non_null(strstr(err.message, "--resume"));
        config = case_config(state, name, set, "threads=3", NULL);
        if (case_run(&config, NB_START_RESUME, NULL, NULL, &err) != NB_OK)
            fail_msg("%s", err.message);
        same_run(state, whole, name);
    }
}

static void bf16_resumes(void **state) {
    stop_anywhere(state, "recipe=bf16", "bf16");
}

static void nvfp4_resumes(void **state) {
    stop_anywhere(state, "recipe=nvfp4", "nvfp4");
}

static void ngpt_resumes(void **state) {
    stop_anywhere(state, "model.family=ngpt", "ngpt");
}

static void delayed_scales_resume(void **state) {
    stop_anywhere(state, "recipe=" NI_TEST_SOURCE "/examples/recipes/nvfp4-delayed.yaml", "nvfp4-delayed");
}

/* Gradients and moments in FP8 and FP16, with their scales. */
static void narrow_state_resumes(void **state) {
    stop_anywhere(state, "recipe=fp4-dge-occ", "fp4-dge-occ");
    stop_anywhere(state, "recipe=fp4-msamp", "fp4-msamp"); /* masters in FP16 besides */
}

/* Killed between checkpoints: the newest checkpoint is older than the metrics, and a temporary folder is left. */
static void a_killed_run_resumes(void **state) {
    straight(state, "whole", NULL);
    straight(state, "killed", NULL);
    nb_error err = {0};
    assert_int_equal(ni_folder_remove(in_folder(state, "killed/checkpoints/step-00000012"), &err), NB_OK);
    assert_int_equal(ni_make_folders(in_folder(state, "killed/checkpoints/step-00000012.tmp-77-0"), &err), NB_OK);
    nb_run_config config = case_config(state, "killed", NULL);
    if (case_run(&config, NB_START_RESUME, NULL, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    same_run(state, "whole", "killed");
    assert_int_not_equal(access(in_folder(state, "killed/checkpoints/step-00000012.tmp-77-0"), F_OK), 0);
}

/* Whether somebody looks changes nothing, and what was seen goes on where the run does. */
static void the_lens_changes_nothing(void **state) {
    nb_run_config blind = case_config(state, "blind", "recipe=nvfp4", "lens.every=0", NULL);
    nb_run_config config = case_config(state, "seen", "recipe=nvfp4", "lens.every=3", "lens.window=1", NULL);
    case_log log = {.stop_after = 7};
    nb_error err = {0};
    assert_int_equal(case_run(&blind, NB_START_NEW, NULL, NULL, &err), NB_OK);
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, &log, &err), NB_INTERRUPTED);
    if (case_run(&config, NB_START_RESUME, NULL, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    same_run(state, "blind", "seen");
    assert_int_equal(access(in_folder(state, "seen/lens/series.nbs"), F_OK), 0);
}

/* A whole run, or the rest of one, on a backend that multiplies by `sums` where `sums` is given. */
static nb_status run_summed(const nb_run_config *config, nb_start start, const char *sums, case_log *log) {
    nb_backend *be = case_backend(config);
    nb_trainer *trainer;
    nb_error err = {0};
    if (sums)
        assert_int_equal(be->ops->gemm_take(be, NB_BF16, NB_BF16, sums, &err), NB_OK);
    assert_int_equal(case_create(be, config, log, &trainer, &err), NB_OK);
    nb_status status = nb_trainer_run(trainer, start, NULL, &err);
    nb_trainer_free(trainer);
    nb_backend_free(be);
    return status;
}

/* OpenBLAS multiplies everywhere, and is seldom what a machine would take: a run that began with it goes on with it. */
static void a_run_keeps_its_products(void **state) {
    nb_backend_options options = {1, NB_ISA_PORTABLE};
    nb_backend *portable;
    char openblas[64];
    assert_int_equal(nb_backend_open("cpu", &options, &portable, NULL), NB_OK);
    portable->ops->gemm_sums(portable, NB_BF16, NB_BF16, openblas, sizeof openblas);
    nb_backend_free(portable);
    nb_run_config whole = case_config(state, "whole", NULL), config = case_config(state, "parts", NULL);
    case_log first = {.stop_after = 5}, second = {0};
    assert_int_equal(run_summed(&whole, NB_START_NEW, openblas, NULL), NB_OK);
    assert_int_equal(run_summed(&config, NB_START_NEW, openblas, &first), NB_INTERRUPTED);
    assert_int_equal(run_summed(&config, NB_START_RESUME, NULL, &second), NB_OK);
    assert_int_equal(second.warnings, 0);
    same_run(state, "whole", "parts");
}

/* The same nibble.json, but for who summed its BF16 products, with a checksum that agrees. */
static void change_products(const char *path, const char *sums) {
    char *text, *edited;
    size_t size;
    assert_int_equal(ni_file_read(path, 1 << 24, &text, &size, NULL), NB_OK);
    char *at = strstr(strstr(text, "\"products\""), "\"bf16\": \"") + strlen("\"bf16\": \"");
    edited = malloc(size + strlen(sums) + 1);
    assert_non_null(edited);
    int n = sprintf(edited, "%.*s%s%s", (int)(at - text), text, sums, strchr(at, '"'));
    assert_true(ni_manifest_seal(edited, (size_t)n));
    assert_int_equal(ni_file_write(path, edited, (size_t)n, NULL), NB_OK);
    free(text);
    free(edited);
}

static void products_of_another_machine_are_told(void **state) {
    nb_run_config config = case_config(state, "moved", NULL);
    case_log first = {.stop_after = 5}, second = {0};
    assert_int_equal(run_summed(&config, NB_START_NEW, NULL, &first), NB_INTERRUPTED);
    change_products(in_folder(state, "moved/checkpoints/step-00000005/nibble.json"), "abacus 1.0");
    assert_int_equal(run_summed(&config, NB_START_RESUME, NULL, &second), NB_OK);
    assert_int_equal(second.warnings, 1);
    assert_non_null(strstr(second.warning, "step-00000005: its bf16 products were summed by \"abacus 1.0\""));
}

/* The shard is cut after step 6. */
static void cut_the_shard(void *context, const nb_step_report *report) {
    if (report->step == 6)
        assert_int_equal(truncate(context, 2000), 0);
}

/* One line, and the state after the last good step; with the data back, the run is the one that was not cut. */
static void a_run_whose_data_vanishes_is_saved(void **state) {
    straight(state, "whole", NULL);
    nb_run_config config = case_config(state, "cut", "checkpoint.every=0", NULL);
    char shard[600];
    snprintf(shard, sizeof shard, "%s", in_folder(state, "train.bin"));
    case_log log = {.after_step = cut_the_shard, .context = shard};
    nb_error err = {0};
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, &log, &err), NB_IO_ERROR);
    if (!strstr(err.message, "train.bin: the file ends before byte") ||
        !strstr(err.message, "the state after step 6 is saved; hint: --resume goes on"))
        fail_msg("%s", err.message);
    case_tokens(shard, 4096, 1, -1);
    assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_OK);
    same_run(state, "whole", "cut");
}

/* A stop that comes during an evaluation is heard there: the evaluation is taken again when the run goes on. */
typedef struct stop_in_evaluation {
    bool step_done;
    int32_t asked;
} stop_in_evaluation;

static void on_step_5(void *user, const nb_step_report *report) {
    ((stop_in_evaluation *)user)->step_done |= report->step == 5;
}

static bool stop_after_one_micro_batch(void *user) {
    stop_in_evaluation *s = user;
    return s->step_done && s->asked++ == 1;
}

static void a_stop_is_heard_in_an_evaluation(void **state) {
    straight(state, "whole", NULL);
    nb_run_config config = case_config(state, "stopped", NULL);
    stop_in_evaluation s = {0};
    nb_trainer_options options = {.recipes_dir = NI_TEST_SOURCE "/recipes",
                                  .callbacks = {.user = &s, .step = on_step_5, .stop = stop_after_one_micro_batch}};
    nb_backend *be = case_backend(&config);
    nb_trainer *t;
    nb_error err = {0};
    assert_int_equal(nb_trainer_create(be, &config, &options, &t, &err), NB_OK);
    assert_int_equal(nb_trainer_run(t, NB_START_NEW, NULL, &err), NB_INTERRUPTED);
    assert_int_equal(nb_trainer_steps_done(t), 5);
    char *metrics = case_metrics(state, "stopped");
    assert_null(strstr(metrics, "val_loss"));
    free(metrics);
    nb_trainer_free(t);
    nb_backend_free(be);
    assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_OK);
    same_run(state, "whole", "stopped");
}

static void a_finished_run_is_left_alone(void **state) {
    straight(state, "done", NULL);
    case_log log = {0};
    nb_error err = {0};
    nb_run_config config = case_config(state, "done", NULL);
    assert_int_equal(case_run(&config, NB_START_RESUME, NULL, &log, &err), NB_OK);
    assert_int_equal(log.steps, 0);
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, &log, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "holds a run already"));
}

static void another_run_is_refused(void **state) {
    straight(state, "one", NULL);
    const struct {
        const char *set, *says;
    } cases[] = {{"optimizer.lr=1e-3", "optimizer.lr"}, {"recipe=fp4-direct", "recipe"}, {"steps=13", "steps"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nb_error err = {0};
        nb_run_config config = case_config(state, "one", cases[i].set, NULL);
        assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_BAD_CONFIG);
        if (!strstr(err.message, cases[i].says) || !strstr(err.message, "--from"))
            fail_msg("%s: %s", cases[i].set, err.message);
    }
    /* The same settings over data of which one token is another, far from both ends. */
    static const struct {
        const char *name;
        int64_t count;
        uint32_t seed;
    } shards[] = {{"train.bin", 4096, 1}, {"val.bin", 1024, 2}};
    for (int i = 0; i < 2; i++) {
        nb_error err = {0};
        nb_run_config config = case_config(state, "one", NULL);
        case_tokens(in_folder(state, shards[i].name), shards[i].count, shards[i].seed, shards[i].count / 2);
        assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_BAD_FILE);
        assert_non_null(strstr(err.message, "other data"));
        assert_non_null(strstr(err.message, shards[i].name));
        case_tokens(in_folder(state, shards[i].name), shards[i].count, shards[i].seed, -1);
        assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_OK);
    }
}

/* A fork with nothing changed is the rest of the run; with another recipe it is another run from there. */
static void a_fork_goes_on_from_a_checkpoint(void **state) {
    straight(state, "trunk", NULL);
    nb_error err = {0};
    char from[600];
    snprintf(from, sizeof from, "%s", in_folder(state, "trunk/checkpoints/step-00000008"));
    nb_run_config config = case_config(state, "same", NULL);
    if (case_run(&config, NB_START_FORK, from, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    same_file(state, "trunk/checkpoints/step-00000012/model.safetensors",
              "same/checkpoints/step-00000012/model.safetensors");
    /* Killed before it came to a checkpoint of its own, it goes on from where it forked, not from step 0. */
    assert_int_equal(ni_folder_remove(in_folder(state, "same/checkpoints/step-00000012"), &err), NB_OK);
    assert_int_equal(access(in_folder(state, "same/checkpoints/step-00000008/nibble.json"), F_OK), 0);
    assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_OK);
    same_file(state, "trunk/checkpoints/step-00000012/model.safetensors",
              "same/checkpoints/step-00000012/model.safetensors");
    config = case_config(state, "other", "recipe=nvfp4", NULL);
    if (case_run(&config, NB_START_FORK, from, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    char *same = case_metrics(state, "same"), *other = case_metrics(state, "other");
    assert_non_null(strstr(other, "{\"step\":9,"));
    assert_null(strstr(other, "{\"step\":8,"));
    assert_string_not_equal(same, other);
    free(same);
    free(other);
}

/* ---- branches ---- */

/* Four recipes that differ in what starts at step 4 (OutControl) and step 8 (OsciReset). */
static void write_recipes(void **state) {
    static const char *const recipes[][2] = {
        {"plain.yaml", "name: plain\nbase: nvfp4\nkeep: {last_blocks: 0}\n"},
        {"out.yaml", "name: out\nbase: ./plain.yaml\noutcontrol: {share: 0.5, multiple: 32, start: 4, window: 0.1}\n"},
        {"osci.yaml", "name: osci\nbase: ./plain.yaml\n"
                      "oscireset: {start: 0.6, period: 0.3, window: 1, threshold: 0.5}\n"},
        {"full.yaml", "name: full\nbase: ./out.yaml\n"
                      "oscireset: {start: 0.6, period: 0.3, window: 1, threshold: 0.5}\n"}};
    nb_error err = {0};
    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++)
        assert_int_equal(ni_file_write(in_folder(state, recipes[i][0]), recipes[i][1], strlen(recipes[i][1]), &err),
                         NB_OK);
}

/* The run `out` under RECIPE.yaml; keeps its checkpoint of step `branch`. */
static nb_status run_arm(void **state, const char *out, const char *recipe, nb_start start, const char *from,
                         int64_t branch, nb_error *err) {
    char set[700];
    snprintf(set, sizeof set, "recipe=%s", in_folder(state, recipe));
    nb_run_config config = case_config(state, out, set, "checkpoint.every=0", "checkpoint.keep=1", NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer_options options = {
        .recipes_dir = NI_TEST_SOURCE "/recipes", .branches = &branch, .branch_count = branch > 0};
    nb_trainer *t;
    nb_status status = nb_trainer_create(be, &config, &options, &t, err);
    if (status == NB_OK) {
        char path[700] = "";
        if (from)
            snprintf(path, sizeof path, "%s", in_folder(state, from));
        status = nb_trainer_run(t, start, from ? path : NULL, err);
        nb_trainer_free(t);
    }
    nb_backend_free(be);
    return status;
}

static void good_arm(void **state, const char *out, const char *recipe, nb_start start, const char *from,
                     int64_t branch) {
    nb_error err = {0};
    if (run_arm(state, out, recipe, start, from, branch, &err) != NB_OK)
        fail_msg("%s: %s", out, err.message);
}

static void same_end(void **state, const char *a, const char *b) {
    const char *const files[] = {"model.safetensors", "optimizer.safetensors"};
    char paths[2][128];
    for (int i = 0; i < 2; i++) {
        snprintf(paths[0], sizeof paths[0], "%s/checkpoints/step-00000012/%s", a, files[i]);
        snprintf(paths[1], sizeof paths[1], "%s/checkpoints/step-00000012/%s", b, files[i]);
        same_file(state, paths[0], paths[1]);
    }
}

/* OutControl's channels are chosen before the second branch, so they must come along. */
static void a_branch_ends_in_the_bits_of_a_straight_run(void **state) {
    write_recipes(state);
    good_arm(state, "plain", "plain.yaml", NB_START_NEW, NULL, 4);
    good_arm(state, "out", "out.yaml", NB_START_BRANCH, "plain/checkpoints/step-00000004", 8);
    good_arm(state, "full", "full.yaml", NB_START_BRANCH, "out/checkpoints/step-00000008", 0);
    good_arm(state, "out-straight", "out.yaml", NB_START_NEW, NULL, 0);
    good_arm(state, "full-straight", "full.yaml", NB_START_NEW, NULL, 0);
    same_end(state, "out", "out-straight");
    same_end(state, "full", "full-straight");
    char *a, *b;
    size_t n, m;
    nb_error err = {0};
    assert_int_equal(
        ni_file_read(in_folder(state, "out/checkpoints/step-00000012/model.safetensors"), 1 << 24, &a, &n, &err),
        NB_OK);
    assert_int_equal(
        ni_file_read(in_folder(state, "full/checkpoints/step-00000012/model.safetensors"), 1 << 24, &b, &m, &err),
        NB_OK);
    assert_int_equal(n, m);
    assert_memory_not_equal(a, b, n); /* the mechanisms did something */
    free(a);
    free(b);
}

/* Gone on where its own checkpoint is, and again from the trunk where it has none. */
static void a_branch_that_was_stopped_goes_on(void **state) {
    write_recipes(state);
    const char *trunk = "plain/checkpoints/step-00000008";
    good_arm(state, "plain", "plain.yaml", NB_START_NEW, NULL, 8);
    good_arm(state, "osci", "osci.yaml", NB_START_BRANCH, trunk, 0);
    good_arm(state, "again", "osci.yaml", NB_START_BRANCH, trunk, 10);
    nb_error err = {0};
    assert_int_equal(ni_folder_remove(in_folder(state, "again/checkpoints/step-00000012"), &err), NB_OK);
    good_arm(state, "again", "osci.yaml", NB_START_BRANCH, trunk, 0);
    same_end(state, "osci", "again");
    assert_int_equal(ni_folder_remove(in_folder(state, "again/checkpoints/step-00000012"), &err), NB_OK);
    assert_int_not_equal(access(in_folder(state, "again/checkpoints/step-00000010"), F_OK), 0);
    good_arm(state, "again", "osci.yaml", NB_START_BRANCH, trunk, 0);
    same_end(state, "osci", "again");
}

/* Step 10 resets: after it parameters differ from those of a run without, and moments and counts do not. */
static void a_reset_touches_no_moment(void **state) {
    write_recipes(state);
    good_arm(state, "plain", "plain.yaml", NB_START_NEW, NULL, 11);
    good_arm(state, "osci", "osci.yaml", NB_START_NEW, NULL, 11);
    ni_safetensors *plain, *osci;
    nb_error err = {0};
    int32_t moments = 0, moved = 0;
    for (int model = 0; model < 2; model++) {
        char path[128];
        snprintf(path, sizeof path, "plain/checkpoints/step-00000011/%s.safetensors", model ? "model" : "optimizer");
        assert_int_equal(ni_safetensors_open(in_folder(state, path), &plain, &err), NB_OK);
        snprintf(path, sizeof path, "osci/checkpoints/step-00000011/%s.safetensors", model ? "model" : "optimizer");
        assert_int_equal(ni_safetensors_open(in_folder(state, path), &osci, &err), NB_OK);
        for (int32_t i = 0; i < ni_safetensors_count(plain); i++) {
            const ni_file_tensor *a = ni_safetensors_at(plain, i), *b = ni_safetensors_find(osci, a->name);
            assert_non_null(b);
            bool same = memcmp(a->data, b->data, a->bytes) == 0;
            if (!model && !same)
                fail_msg("%s was touched", a->name);
            moments += !model;
            moved += !same;
        }
        ni_safetensors_close(plain);
        ni_safetensors_close(osci);
    }
    assert_true(moments > 20 && moved > 5);
}

static void a_wrong_trunk_is_refused(void **state) {
    write_recipes(state);
    good_arm(state, "plain", "plain.yaml", NB_START_NEW, NULL, 8);
    nb_error err = {0};
    const char *trunk = "plain/checkpoints/step-00000008";
    assert_int_equal(run_arm(state, "late", "full.yaml", NB_START_BRANCH, trunk, 0, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "trains as full only until step 4"));
    nb_run_config config = case_config(state, "other", "optimizer.lr=1e-3", NULL);
    char from[700];
    snprintf(from, sizeof from, "%s", in_folder(state, trunk));
    assert_int_equal(case_run(&config, NB_START_BRANCH, from, NULL, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "optimizer.lr"));
    config = case_config(state, "another", NULL);
    assert_int_equal(case_run(&config, NB_START_BRANCH, from, NULL, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "only until step 0"));
}

static void old_checkpoints_go(void **state) {
    straight(state, "kept", "checkpoint.keep=2");
    nb_run_config config = case_config(state, "kept", NULL);
    int64_t steps[8];
    int32_t count;
    assert_int_equal(ni_checkpoint_list(config.out, steps, 8, &count, NULL), NB_OK);
    assert_int_equal(count, 2);
    assert_int_equal(steps[0], 12);
    assert_int_equal(steps[1], 8);
    assert_int_equal(ni_make_folders(in_folder(state, "kept/checkpoints/step-00000100"), NULL), NB_OK);
    assert_int_equal(ni_checkpoint_list(config.out, steps, 2, &count, NULL), NB_OK);
    assert_int_equal(count, 3);
    assert_int_equal(steps[0], 100);
    assert_int_equal(steps[1], 12);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        CASE(bf16_resumes),
        CASE(nvfp4_resumes),
        CASE(delayed_scales_resume),
        CASE(ngpt_resumes),
        CASE(narrow_state_resumes),
        CASE(a_killed_run_resumes),
        CASE(the_lens_changes_nothing),
        CASE(a_run_keeps_its_products),
        CASE(products_of_another_machine_are_told),
        CASE(a_run_whose_data_vanishes_is_saved),
        CASE(a_stop_is_heard_in_an_evaluation),
        CASE(a_finished_run_is_left_alone),
        CASE(another_run_is_refused),
        CASE(a_fork_goes_on_from_a_checkpoint),
        CASE(a_branch_ends_in_the_bits_of_a_straight_run),
        CASE(a_branch_that_was_stopped_goes_on),
        CASE(a_reset_touches_no_moment),
        CASE(a_wrong_trunk_is_refused),
        CASE(old_checkpoints_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
