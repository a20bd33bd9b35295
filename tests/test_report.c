/* test_report.c: run folders in, one page out; numbers that the page shows, hostile and broken folders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "files/file.h"
#include "report/report.h"
#include "temporary.h"
#include <jansson.h>
#include <math.h>

static void assert_near(double value, double expected, double tolerance) {
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.17g is not %.17g +- %g", value, expected, tolerance);
}

static void put(void **state, const char *name, const char *text) {
    assert_int_equal(ni_file_write(in_folder(state, name), text, strlen(text), NULL), NB_OK);
}

/* A run of `steps` steps whose loss at step s is `level` + 1/s, evaluated at steps 10, 20, ... */
static void make_run(void **state, const char *name, const char *recipe, int seed, double level, int steps) {
    char path[128], line[256];
    assert_int_equal(ni_make_folders(in_folder(state, name), NULL), NB_OK);
    snprintf(path, sizeof path, "%s/run.yaml", name);
    snprintf(line, sizeof line,
             "model: models/toy.yaml\nrecipe: %s\nout: %s\nseeds: {init: %d, data: 2}\nprint_every: %d\n", recipe, name,
             seed, 10 + (int)strlen(name)); /* what is printed is no matter of twins */
    put(state, path, line);
    static char text[1 << 16];
    size_t used = 0;
    text[0] = 0;
    for (int s = 1; s <= steps; s++) {
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "{\"step\":%d,\"loss\":%.17g,\"norm\":null,\"lr\":0.001,\"ms\":2,\"tok_s\":%d}\n", s,
                                 level + 1.0 / s, 1000 + s);
        if (s % 10 == 0)
            used += (size_t)snprintf(text + used, sizeof text - used, "{\"step\":%d,\"val_loss\":%.17g}\n", s, level);
    }
    snprintf(path, sizeof path, "%s/metrics.jsonl", name);
    put(state, path, text);
}

static ni_report *report_of(void **state, const char *const *names, int count) {
    ni_report *report;
    nb_error err = {0};
    assert_int_equal(ni_report_create(&report, &err), NB_OK);
    for (int i = 0; i < count; i++)
        if (ni_report_add_run(report, in_folder(state, names[i]), NULL, &err))
            fail_msg("%s", err.message);
    return report;
}

/* The JSON of a written page, read as a browser would find it. */
/* The JSON of the page's element `id`. */
static json_t *json_of(const char *page, const char *id) {
    char mark[32];
    snprintf(mark, sizeof mark, "id=\"%s\">", id);
    const char *open = strstr(page, mark);
    assert_non_null(open);
    open += strlen(mark);
    const char *close = strstr(open, "</script>");
    assert_non_null(close);
    json_t *data = json_loadb(open, (size_t)(close - open), 0, NULL);
    assert_non_null(data);
    return data;
}

static json_t *data_of(const char *path, char **page) {
    size_t size;
    assert_int_equal(ni_file_read(path, 1u << 28, page, &size, NULL), NB_OK);
    return json_of(*page, "data");
}

static void summary_has_the_numbers_of_the_run(void **state) {
    make_run(state, "bf16-a", "bf16", 1, 2.0, 30);
    make_run(state, "nvfp4-a", "recipes/nvfp4.yaml", 1, 2.1, 25);
    make_run(state, "nvfp4-other-seed", "nvfp4", 7, 2.1, 20);
    ni_report *report = report_of(state, (const char *[]){"bf16-a", "nvfp4-a", "nvfp4-other-seed"}, 3);
    ni_report_summary twin, run, lonely;
    assert_int_equal(ni_report_summarize(report, 0, &twin, NULL), NB_OK);
    assert_int_equal(ni_report_summarize(report, 1, &run, NULL), NB_OK);
    assert_int_equal(ni_report_summarize(report, 2, &lonely, NULL), NB_OK);

    double mean = 0;
    for (int s = 6; s <= 25; s++)
        mean += (2.1 + 1.0 / s) / 20;
    assert_near(run.train_loss, mean, 1e-12);
    assert_string_equal(run.recipe, "nvfp4");
    assert_int_equal(run.steps, 25);
    assert_near(run.val_loss, 2.1, 0);
    assert_near(run.tokens_per_second, 1013, 0);
    assert_int_equal(run.twin, 0);
    assert_int_equal(run.gap_step, 20); /* the twin went on to 30 */
    assert_near(run.gap, 5.0, 1e-12);
    assert_int_equal(twin.twin, -1);
    assert_true(isnan(twin.gap));
    assert_int_equal(lonely.twin, -1); /* another seed is no twin */
    assert_true(isnan(lonely.gap));
    assert_int_equal(ni_report_summarize(report, 3, &lonely, NULL), NB_BAD_USAGE);
    ni_report_free(report);
}

#define HOSTILE "name: </script><script>alert(1)</script>\nfprop: {x: {format: nvfp4}}\n# <!-- \xe2\x82\xac\n"

/* Number `index` of a packed series: four little-endian bytes, each from two digits of base64. */
static double packed_number(const json_t *series, const char *name, int index) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *text = json_string_value(json_object_get(series, name));
    uint32_t bits = 0;
    for (int b = 0; b < 32; b++) {
        int bit = 8 * (4 * index + b / 8) + 7 - b % 8; /* of the text, from its first digit's high bit on */
        uint32_t digit = (uint32_t)(strchr(digits, text[bit / 6]) - digits);
        bits |= (digit >> (5 - bit % 6) & 1) << b;
    }
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* What is written of a run whose steps have gaps. */
static void steps_travel_as_spans(void **state) {
    make_run(state, "run", "bf16", 1, 2.0, 1);
    put(state, "run/metrics.jsonl",
        "{\"step\":1,\"loss\":5}\n{\"step\":10,\"loss\":4}\n{\"step\":20,\"loss\":3}\n{\"step\":30,\"loss\":2}\n");
    ni_report *report = report_of(state, (const char *[]){"run"}, 1);
    const char *path = in_folder(state, "page.html");
    for (int again = 0; again < 2; again++) /* writing does not change the report */
        assert_int_equal(ni_report_write(report, path, NULL), NB_OK);
    ni_report_free(report);
    char *page;
    json_t *data = data_of(path, &page);
    json_t *series = json_object_get(json_array_get(json_object_get(data, "runs"), 0), "series");
    char *steps = json_dumps(json_object_get(series, "step"), JSON_COMPACT);
    assert_string_equal(steps, "[[1,9,2],[20,10,2]]");
    assert_near(packed_number(series, "loss", 3), 2, 0);
    free(steps);
    json_decref(data);
    free(page);
}

/* Seeds of one recipe are an arm; the same seed once more is not of it, nor is another recipe. */
static void seeds_of_a_recipe_are_an_arm(void **state) {
    static const char *const names[] = {"bf16", "nvfp4-1", "nvfp4-2", "chon-1", "nvfp4-1-again", "chon-2", "nvfp4-3"};
    enum { RUNS = sizeof names / sizeof *names };
    static const int seeds[RUNS] = {1, 1, 2, 1, 1, 2, 3}, arms[RUNS] = {0, 1, 1, 3, 4, 3, 1};
    for (int i = 0; i < RUNS; i++)
        make_run(state, names[i], i == 0 ? "bf16" : names[i][0] == 'c' ? "chon" : "nvfp4", seeds[i], 2.0, 10);
    ni_report *report = report_of(state, names, RUNS);
    const char *path = in_folder(state, "page.html");
    assert_int_equal(ni_report_write(report, path, NULL), NB_OK);
    ni_report_free(report);
    char *page;
    json_t *data = data_of(path, &page);
    for (size_t i = 0; i < RUNS; i++)
        assert_int_equal(json_integer_value(json_object_get(json_array_get(json_object_get(data, "runs"), i), "arm")),
                         arms[i]);
    json_decref(data);
    free(page);
}

static void page_holds_what_the_run_holds(void **state) {
    make_run(state, "bf16", "bf16", 1, 2.0, 10);
    make_run(state, "nvfp4", "nvfp4", 1, 2.2, 10);
    put(state, "nvfp4/recipe.yaml", HOSTILE);
    ni_report *report = report_of(state, (const char *[]){"bf16", "nvfp4"}, 2);
    const char *path = in_folder(state, "page.html");
    assert_int_equal(ni_report_write(report, path, NULL), NB_OK);
    ni_report_free(report);

    char *page;
    json_t *data = data_of(path, &page);
    static const char *const places[] = {"{{data}}", "{{panels}}", "{{page.css}}", "{{main.js}}", "{{dygraph.min.js}}"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        assert_null(strstr(page, places[i]));
    assert_null(strstr(page, "alert(1)</script>"));
    assert_null(strstr(page, "sourceMappingURL"));
    assert_non_null(strstr(page, "Dygraph"));
    json_t *run = json_array_get(json_object_get(data, "runs"), 1);
    assert_string_equal(json_string_value(json_object_get(run, "recipeText")), HOSTILE);
    assert_string_equal(json_string_value(json_object_get(json_object_get(run, "recipeKeys"), "fprop.x.format")),
                        "nvfp4");
    assert_int_equal(json_integer_value(json_object_get(run, "twin")), 0);
    json_t *series = json_object_get(run, "series");
    char *steps = json_dumps(json_object_get(series, "step"), JSON_COMPACT);
    assert_string_equal(steps, "[[1,1,10]]");
    free(steps);
    assert_int_equal(json_string_length(json_object_get(series, "loss")), (4 * 10 + 2) / 3 * 4);
    assert_near(packed_number(series, "loss", 3), 2.45f, 0);
    assert_true(isnan(packed_number(series, "norm", 0)));
    assert_near(json_number_value(json_object_get(json_object_get(run, "summary"), "gap")), 10.0, 1e-5);
    assert_string_equal(json_string_value(json_object_get(json_object_get(run, "config"), "seeds.init")), "1");
    json_decref(data);
    free(page);
}

static void resumed_and_torn_metrics(void **state) {
    make_run(state, "run", "bf16", 1, 2.0, 4);
    put(state, "run/metrics.jsonl",
        "{\"step\":1,\"loss\":5}\n{\"step\":2,\"loss\":4}\n{\"step\":3,\"loss\":9}\n"
        "{\"step\":2,\"loss\":3.5}\n{\"step\":2,\"event\":\"bad number\",\"what\":\"x\"}\n{\"step\":3,\"lo");
    ni_report *report = report_of(state, (const char *[]){"run"}, 1);
    ni_report_summary s;
    assert_int_equal(ni_report_summarize(report, 0, &s, NULL), NB_OK);
    assert_int_equal(s.steps, 2);
    assert_near(s.train_loss, (5 + 3.5) / 2, 0);
    ni_report_free(report);
}

static void broken_folders_are_refused(void **state) {
    static const char *const bad[][2] = {
        {"{\"step\":1,\"loss\":5}\nnonsense\n{\"step\":2,\"loss\":4}\n", "metrics.jsonl:2"},
        {"{\"step\":1.5,\"loss\":5}\n", "metrics.jsonl:1"},
        {"[1, 2]\n", "metrics.jsonl:1"},
    };
    make_run(state, "run", "bf16", 1, 2.0, 4);
    ni_report *report;
    nb_error err = {0};
    assert_int_equal(ni_report_create(&report, &err), NB_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put(state, "run/metrics.jsonl", bad[i][0]);
        assert_int_equal(ni_report_add_run(report, in_folder(state, "run"), NULL, &err), NB_BAD_FILE);
        assert_non_null(strstr(err.message, bad[i][1]));
    }
    put(state, "run/run.yaml", "model: a\n");
    assert_int_equal(ni_report_add_run(report, in_folder(state, "run"), NULL, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "recipe"));
    assert_int_equal(ni_report_add_run(report, in_folder(state, "nowhere"), NULL, &err), NB_BAD_CONFIG);
    assert_int_equal(ni_report_run_count(report), 0);
    ni_report_free(report);
}

static void panels_travel_with_their_run(void **state) {
    make_run(state, "run", "bf16", 1, 2.0, 4);
    ni_report *report = report_of(state, (const char *[]){"run"}, 1);
    double x[] = {0, 100}, marks[] = {100};
    const char *y[] = {"layer 0", "layer 1", "</script>"};
    float values[] = {1, 2, 3, NAN, 5, INFINITY};
    ni_heat_map map = {.caption = {.title = "Kurtosis", .theme = "Outliers"},
                       .x_label = "step",
                       .y_label = "layer",
                       .x = x,
                       .y = y,
                       .values = values};
    nb_error err = {0};
    assert_int_equal(ni_report_add_heat_map(report, 0, &map, &err), NB_BAD_USAGE); /* no cells */
    map.rows = 3, map.cols = 2, map.marks = marks, map.mark_count = 1;
    assert_int_equal(ni_report_add_heat_map(report, 1, &map, &err), NB_BAD_USAGE); /* no such run */
    assert_int_equal(ni_report_add_heat_map(report, 0, &map, &err), NB_OK);
    ni_bars bars = {.caption = {.title = "Bars"}, .x_label = "kind", .names = y, .values = x, .count = 2};
    assert_int_equal(ni_report_add_bars(report, 0, &bars, &err), NB_OK);
    const char *path = in_folder(state, "page.html");
    assert_int_equal(ni_report_write(report, path, &err), NB_OK);
    ni_report_free(report);

    char *page;
    json_t *data = data_of(path, &page);
    json_t *all = json_of(page, "panels"), *panels = json_array_get(all, 0);
    assert_int_equal(json_array_size(all), 1);
    assert_int_equal(json_array_size(panels), 2);
    json_t *drawn = json_array_get(panels, 0);
    /* codes 1, 16384.5 (up), 32768, none, 65535, none; little-endian 16 bits in base64 (Python's base64 module) */
    assert_string_equal(json_string_value(json_object_get(drawn, "cells")), "AQABQACAAAD//wAA");
    assert_near(json_number_value(json_object_get(drawn, "low")), 1, 0);
    assert_near(json_number_value(json_object_get(drawn, "high")), 5, 0);
    assert_string_equal(json_string_value(json_object_get(drawn, "theme")), "Outliers");
    assert_string_equal(json_string_value(json_object_get(json_array_get(panels, 1), "theme")), "More");
    json_decref(all);
    json_decref(data);
    free(page);
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, temporary_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(summary_has_the_numbers_of_the_run), IN_FOLDER(seeds_of_a_recipe_are_an_arm),
        IN_FOLDER(page_holds_what_the_run_holds),      IN_FOLDER(steps_travel_as_spans),
        IN_FOLDER(resumed_and_torn_metrics),           IN_FOLDER(broken_folders_are_refused),
        IN_FOLDER(panels_travel_with_their_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
