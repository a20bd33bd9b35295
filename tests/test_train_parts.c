/* test_train_parts.c: the pure parts of training: run files, schedules, the accumulation tree, scores, metrics lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "files/file.h"
#include "train/accumulate.h"
#include "train/metrics.h"
#include "train/run_keys.h"
#include "train/tree.h"
#include <math.h>
#include <stdio.h>
#include <unistd.h>

/* ---- run files ---- */

static const char small_run[] = "model: tiny\nout: runs/a\nsteps: 100\nseq: 64\ndata: {train: a.bin}\n";

static nb_status parse(const char *text, const char *set, nb_run_config *out, nb_error *err) {
    return nb_run_config_parse(text, strlen(text), "a.yaml", &set, set ? 1 : 0, out, err);
}

static void defaults_are_filled_in(void **state) {
    (void)state;
    nb_run_config c;
    nb_error err = {0};
    assert_int_equal(parse(small_run, NULL, &c, &err), NB_OK);
    assert_string_equal(c.recipe, "bf16");
    assert_true(c.optimizer.beta2 == 0.95);
    assert_int_equal(c.schedule.kind, NB_SCHEDULE_COSINE);
    assert_int_equal(c.data.end_of_text, NB_END_OF_TEXT_AUTO);
    assert_int_equal(nb_run_steps(&c), 100);
    assert_int_equal(nb_run_tokens_per_step(&c), 8 * 64);
}

static void overrides_win(void **state) {
    (void)state;
    nb_run_config c;
    nb_error err = {0};
    assert_int_equal(parse(small_run, "optimizer.lr=1e-3", &c, &err), NB_OK);
    assert_true(c.optimizer.lr == 1e-3);
}

static void steps_come_from_tokens(void **state) {
    (void)state;
    nb_run_config c;
    nb_error err = {0};
    const char *sets[] = {"steps=0", "tokens=1025"};
    assert_int_equal(nb_run_config_parse(small_run, strlen(small_run), "a.yaml", sets, 2, &c, &err), NB_OK);
    assert_int_equal(nb_run_steps(&c), 3); /* 512 tokens a step */
}

static void mistakes_are_named(void **state) {
    (void)state;
    const struct {
        const char *set, *says;
    } cases[] = {
        {"optimiser.lr=1", "optimizer"},
        {"optimizer.Lr=1", "lr"},
        {"tokens=5", "both"},
        {"schedule.kind=cosin", "cosine"},
        {"micro_batch=0", "micro_batch"},
        {"optimizer.beta1=1.5", "beta1"},
        {"bad_numbers.policy=bf16", "bf16_modules"},
        {"seq=", "seq"},
        {"steps=4294967296", "steps"},
        {"steps=1e999", "too large"},
        {"steps=99999999999999999999", "too large"},
        {"seq=1048577", "seq"},
        {"accumulation=9223372036854775808", "too large"},
        {"{micro_batch: 1}=2", "key"},
        {"data.train=[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]", "16 levels"},
    };
    for (size_t i = 0; i < NI_COUNT(cases); i++) {
        nb_run_config c;
        nb_error err = {0};
        assert_int_equal(parse(small_run, cases[i].set, &c, &err), NB_BAD_CONFIG);
        if (!strstr(err.message, cases[i].says))
            fail_msg("--set %s says: %s", cases[i].set, err.message);
    }
}

/* Each size is possible, their product is not. */
static void products_that_overflow_are_named(void **state) {
    (void)state;
    nb_run_config c;
    nb_error err = {0};
    const char *sets[] = {"steps=4294967295", "micro_batch=1048576", "accumulation=1048576", "seq=2047"};
    assert_int_equal(nb_run_config_parse(small_run, strlen(small_run), "a.yaml", sets, 4, &c, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "steps: 4294967295 steps of 2250"));
    sets[3] = "seq=2048";
    assert_int_equal(nb_run_config_parse(small_run, strlen(small_run), "a.yaml", sets, 4, &c, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "too many for one pass"));
    const char *tokens[] = {"steps=0", "tokens=1e15", "micro_batch=1"};
    assert_int_equal(nb_run_config_parse(small_run, strlen(small_run), "a.yaml", tokens, 3, &c, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "tokens: 15625000000000 steps of 64 tokens are too many"));
}

static void effective_file_reads_back(void **state) {
    (void)state;
    nb_run_config c, back;
    nb_error err = {0};
    assert_int_equal(parse(small_run, "bad_numbers.bf16_modules=['*.down_proj', lm_head]", &c, &err), NB_OK);
    char *text = nb_run_config_text(&c);
    assert_non_null(text);
    if (parse(text, NULL, &back, &err) != NB_OK)
        fail_msg("%s\n%s", err.message, text);
    assert_memory_equal(&c, &back, sizeof c);
    free(text);
}

static void only_bits_matter_on_resume(void **state) {
    (void)state;
    nb_run_config a, b;
    nb_error err = {0};
    char key[NB_NAME_SIZE];
    assert_int_equal(parse(small_run, NULL, &a, &err), NB_OK);
    assert_int_equal(parse(small_run, "threads=3", &b, &err), NB_OK);
    assert_false(ni_run_config_differs(&a, &b, key, sizeof key));
    assert_int_equal(parse(small_run, "seeds.data=3", &b, &err), NB_OK);
    assert_true(ni_run_config_differs(&a, &b, key, sizeof key));
    assert_string_equal(key, "seeds.data");
}

/* ---- schedules ---- */

/* The 70M run of TetraJet-v2's released code: 12505 steps of 1024 x 4096 tokens, whose cosine goes over 5e10 of them
 * and is flat at a tenth afterwards. Factors by the formula of OLMo's scheduler, in steps and in Python. */
static void a_schedule_shorter_than_its_run(void **state) {
    (void)state;
    nb_schedule olmo = {NB_SCHEDULE_COSINE, 238, 0.1, 0, 11921};
    static const struct {
        int64_t step;
        double factor;
    } known[] = {{237, 1},     {5999, 0.559619269}, {8000, 0.327695064}, {11919, 0.100000016},
                 {11920, 0.1}, {11921, 0.1},        {12504, 0.1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_true(fabs(nb_schedule_factor(&olmo, known[i].step, 12505) - known[i].factor) < 1e-7);
    nb_schedule wsd = {NB_SCHEDULE_WSD, 10, 0, 40, 0.8};
    assert_true(nb_schedule_factor(&wsd, 59, 100) == 0.5 && nb_schedule_factor(&wsd, 79, 100) == 0);
    assert_true(nb_schedule_factor(&wsd, 99, 100) == 0);
}

static void schedule_values(void **state) {
    (void)state;
    nb_schedule cosine = {NB_SCHEDULE_COSINE, 10, 0.1, 0, 0};
    assert_true(nb_schedule_factor(&cosine, 0, 110) == 0.1);
    assert_true(nb_schedule_factor(&cosine, 9, 110) == 1);
    assert_true(fabs(nb_schedule_factor(&cosine, 59, 110) - 0.55) < 1e-12); /* half way: mean of 1 and 0.1 */
    assert_true(nb_schedule_factor(&cosine, 109, 110) == 0.1);
    nb_schedule wsd = {NB_SCHEDULE_WSD, 0.1, 0.01, 0.2, 0};
    assert_true(nb_schedule_factor(&wsd, 4, 100) == 0.5);
    assert_true(nb_schedule_factor(&wsd, 79, 100) == 1);
    assert_true(fabs(nb_schedule_factor(&wsd, 89, 100) - 0.505) < 1e-12);
    assert_true(nb_schedule_factor(&wsd, 99, 100) == 0.01);
    nb_schedule constant = {NB_SCHEDULE_CONSTANT, 0, 0.1, 0, 0};
    assert_true(nb_schedule_factor(&constant, 0, 10) == 1);
    assert_true(nb_schedule_factor(&constant, 9, 10) == 1);
}

/* ---- accumulation ---- */

/* The tree as it is defined: node (level, k) adds its two halves; leaves beyond the count are absent. */
static bool tree_node(const float *leaf, int64_t count, int64_t first, int64_t width, float *sum) {
    if (first >= count)
        return false;
    if (width == 1) {
        *sum = leaf[first];
        return true;
    }
    float left, right;
    tree_node(leaf, count, first, width / 2, &left);
    *sum = tree_node(leaf, count, first + width / 2, width / 2, &right) ? left + right : left;
    return true;
}

static double double_node(const float *leaf, int64_t count, int64_t first, int64_t width) {
    if (width == 1)
        return leaf[first];
    const double left = double_node(leaf, count, first, width / 2);
    return first + width / 2 < count ? left + double_node(leaf, count, first + width / 2, width / 2) : left;
}

static void accumulation_follows_the_tree(void **state) {
    (void)state;
    nb_backend *be;
    nb_error err = {0};
    assert_int_equal(nb_backend_open("cpu", NULL, &be, &err), NB_OK);
    for (int64_t count = 1; count <= 37; count++) {
        ni_accumulator acc;
        float leaves[37];
        const nb_param param = {.rows = 16, .cols = 1};
        ni_param_array grads;
        assert_int_equal(ni_param_array_create(be, &param, 1, NB_F32, NB_RULE_POW2, "", &grads, &err), NB_OK);
        assert_int_equal(ni_accumulator_create(&grads, count, &acc, &err), NB_OK);
        float grad[16];
        for (int step = 0; step < 2; step++) {
            ni_accumulator_begin(&acc);
            ni_sum_tree losses = {0};
            for (int64_t i = 0; i < count; i++) {
                leaves[i] = (float)sin((double)(i * 7 + 1)) * (float)(1 << (i % 9));
                for (int e = 0; e < 16; e++)
                    grad[e] = leaves[i];
                assert_int_equal(nb_backend_write(be, grads.data, grad, sizeof grad, NULL), NB_OK);
                ni_tree_add(&losses, leaves[i]);
                ni_accumulator_add(&acc, &grads);
            }
            float want;
            assert_true(tree_node(leaves, count, 0, 64, &want));
            assert_int_equal(nb_backend_read(be, grad, grads.data, sizeof grad, NULL), NB_OK);
            assert_memory_equal(&grad[0], &want, sizeof want);
            assert_memory_equal(&grad[15], &want, sizeof want);
            assert_true(ni_tree_total(&losses) == double_node(leaves, count, 0, 64));
        }
        ni_accumulator_free(&acc);
        ni_param_array_free(&grads);
    }
    nb_backend_free(be);
}

/* ---- scores and lines ---- */

static void scores_need_a_past(void **state) {
    (void)state;
    ni_window w = {0};
    for (int i = 0; i < NI_WINDOW_LEAST; i++) {
        assert_true(isnan(ni_window_score(&w, 1)));
        ni_window_push(&w, i % 2 ? 1 : 3);
    }
    assert_true(ni_window_score(&w, 4) == 2); /* mean 2, deviation 1 */
    for (int i = 0; i < NI_WINDOW_SIZE; i++)
        ni_window_push(&w, i % 2 ? 11 : 13);
    assert_true(ni_window_score(&w, 12) == 0);
}

static char *slurp(const char *path) {
    char *text;
    size_t size;
    nb_error err = {0};
    assert_int_equal(ni_file_read(path, 1 << 20, &text, &size, &err), NB_OK);
    return text;
}

static void metrics_are_cut_where_a_run_resumes(void **state) {
    (void)state;
    char path[] = "/tmp/nibble-metrics-XXXXXX";
    close(mkstemp(path));
    ni_metrics *m;
    nb_error err = {0};
    assert_int_equal(ni_metrics_open(path, 0, 0, &m, &err), NB_OK);
    for (int64_t i = 1; i <= 5; i++) {
        nb_step_report r = {.step = i, .loss = 0.1 * (double)i, .loss_z = NAN, .fp32_rows = i == 2 ? 7 : 0};
        assert_int_equal(ni_metrics_step(m, &r, i * 10, &err), NB_OK);
    }
    ni_metrics_close(m);
    char *before = slurp(path);
    FILE *torn = fopen(path, "a");
    fputs("{\"step\":3,\"lo", torn);
    fclose(torn);
    assert_int_equal(ni_metrics_open(path, 3, 3, &m, &err), NB_OK);
    ni_metrics_close(m);
    char *after = slurp(path);
    assert_memory_equal(before, after, strlen(after));
    assert_ptr_equal(strstr(after, "\"step\":4"), NULL);
    assert_non_null(strstr(after, "{\"step\":3,\"tokens\":30,\"loss\":0.30000000000000004,"));
    assert_non_null(strstr(after, "\"loss_z\":null"));
    int64_t counted = 0;
    for (const char *at = after; (at = strstr(at, "\"fp32_rows\":7")); at++)
        counted++;
    assert_int_equal(counted, 1);
    free(before);
    free(after);
    unlink(path);
}

/* One flipped byte costs its line, not what follows it, and the file as it was stays. */
static void a_damaged_line_costs_itself_alone(void **state) {
    (void)state;
    char path[] = "/tmp/nibble-metrics-XXXXXX";
    close(mkstemp(path));
    ni_metrics *m;
    nb_error err = {0};
    assert_int_equal(ni_metrics_open(path, 0, 0, &m, &err), NB_OK);
    for (int64_t i = 1; i <= 5; i++) {
        nb_step_report r = {.step = i};
        assert_int_equal(ni_metrics_step(m, &r, i * 10, &err), NB_OK);
    }
    ni_metrics_close(m);
    char *before, *after, *kept;
    size_t size;
    assert_int_equal(ni_file_read(path, 1 << 20, &before, &size, &err), NB_OK);
    before[strcspn(before, "\n") + 2] = '?'; /* the first key of the second line */
    FILE *file = fopen(path, "w");
    fputs(before, file);
    fclose(file);
    assert_int_equal(ni_metrics_open(path, 4, 4, &m, &err), NB_OK);
    char aside[1200];
    snprintf(aside, sizeof aside, "%s", ni_metrics_aside(m));
    ni_metrics_close(m);
    assert_int_equal(ni_file_read(path, 1 << 20, &after, &size, &err), NB_OK);
    assert_int_equal(ni_file_read(aside, 1 << 20, &kept, &size, &err), NB_OK);
    assert_string_equal(kept, before);
    assert_non_null(strstr(after, "{\"step\":1,"));
    assert_null(strstr(after, "\"step\":2,"));
    assert_non_null(strstr(after, "{\"step\":4,"));
    assert_null(strstr(after, "\"step\":5,"));
    free(before);
    free(after);
    free(kept);
    unlink(path);
    unlink(aside);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_filled_in),
        cmocka_unit_test(overrides_win),
        cmocka_unit_test(steps_come_from_tokens),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(products_that_overflow_are_named),
        cmocka_unit_test(effective_file_reads_back),
        cmocka_unit_test(only_bits_matter_on_resume),
        cmocka_unit_test(schedule_values),
        cmocka_unit_test(a_schedule_shorter_than_its_run),
        cmocka_unit_test(accumulation_follows_the_tree),
        cmocka_unit_test(scores_need_a_past),
        cmocka_unit_test(metrics_are_cut_where_a_run_resumes),
        cmocka_unit_test(a_damaged_line_costs_itself_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
