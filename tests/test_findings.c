/* test_findings.c: from planted troubles through the lens to the page: the report names layer, role and channel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "files/file.h"
#include "lens/series.h"
#include "lens_case.h"
#include "report/report.h"
#include "temporary.h"
#include <jansson.h>
#include <math.h>

static void put(void **state, const char *name, const char *text) {
    assert_int_equal(ni_file_write(in_folder(state, name), text, strlen(text), NULL), NB_OK);
}

/* A run folder with a lens folder and nothing measured yet. */
static void make_run(void **state) {
    assert_int_equal(ni_make_folders(in_folder(state, "run/lens"), NULL), NB_OK);
    put(state, "run/run.yaml", "model: toy\nrecipe: nvfp4\n");
    put(state, "run/metrics.jsonl", "{\"step\":1,\"loss\":5}\n");
}

/* The JSON of the page's element `id`. */
static json_t *json_of(const char *page, const char *id) {
    char mark[32];
    snprintf(mark, sizeof mark, "id=\"%s\">", id);
    const char *open = strstr(page, mark) + strlen(mark);
    json_t *found = json_loadb(open, (size_t)(strstr(open, "</script>") - open), 0, NULL);
    assert_non_null(found);
    return found;
}

/* The page's data, its panels back in their run. */
static json_t *report_of(void **state, char **page) {
    ni_report *report;
    nb_error err = {0};
    assert_int_equal(ni_report_create(&report, &err), NB_OK);
    if (ni_report_add_run(report, in_folder(state, "run"), NULL, &err))
        fail_msg("%s", err.message);
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder(state, "page.html"));
    assert_int_equal(ni_report_write(report, path, &err), NB_OK);
    ni_report_free(report);
    size_t size;
    assert_int_equal(ni_file_read(path, 1u << 28, page, &size, NULL), NB_OK);
    json_t *data = json_of(*page, "data"), *panels = json_of(*page, "panels");
    json_object_set(json_array_get(json_object_get(data, "runs"), 0), "panels", json_array_get(panels, 0));
    json_decref(panels);
    return data;
}

static const json_t *first_run(const json_t *data) {
    return json_array_get(json_object_get(data, "runs"), 0);
}

/* The text of the worst finding of a kind; NULL if there is none. */
static const char *finding(const json_t *data, const char *kind) {
    size_t i;
    json_t *found;
    json_array_foreach(json_object_get(first_run(data), "findings"), i, found) {
        if (strcmp(json_string_value(json_object_get(found, "kind")), kind) == 0)
            return json_string_value(json_object_get(found, "text"));
    }
    return NULL;
}

static const json_t *panel(const json_t *data, const char *title, const char *operand, const char *module) {
    size_t i;
    json_t *found;
    json_array_foreach(json_object_get(first_run(data), "panels"), i, found) {
        const char *o = json_string_value(json_object_get(found, "operand"));
        const char *m = json_string_value(json_object_get(found, "module"));
        if (strcmp(json_string_value(json_object_get(found, "title")), title) == 0 &&
            strcmp(o ? o : "", operand) == 0 && strcmp(m ? m : "", module) == 0)
            return found;
    }
    fail_msg("there is no drawing \"%s\" of %s %s", title, operand, module);
    return NULL;
}

enum { SAMPLES = 4, EVERY = 20, WINDOW = 10, LAYERS = 3 };

/* Three layers; in layer 1 channels 5 and 40 are hot, in layer 2 a weight oscillates and dY underflows. */
static void train(void **state) {
    nb_backend *be;
    ni_observer *o;
    nb_error err = {0};
    ni_observer_options options = ni_observer_defaults();
    options.every = EVERY;
    options.window = WINDOW;
    options.hot_channels = 4;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    assert_int_equal(ni_observer_create(&options, in_folder(state, "run/lens"), 0, &o, &err), NB_OK);
    for (int64_t step = 0; step < SAMPLES * EVERY; step++) {
        const nb_lens *lens = ni_observer_lens(o, step);
        for (int layer = 0; layer < LAYERS && lens->operand; layer++) {
            static uint16_t x[TOKENS * WIDTH], dy[TOKENS * WIDTH];
            static float w[16 * WIDTH];
            char input[32], module[32];
            snprintf(input, sizeof input, "layers.%d.mlp.input", layer);
            snprintf(module, sizeof module, "layers.%d.mlp.up_proj", layer);
            plant_hot_channels(x, layer == 1 ? (const int[]){5, 40, -1} : (const int[]){-1}, (uint32_t)(step + layer));
            plant_oscillation(w, layer == 2 ? step : 0);
            plant_hot_channels(dy, (const int[]){-1}, (uint32_t)(step + layer + 7));
            if (layer == 2)
                plant_underflow(dy);
            nb_mat mx = nb_mat_of(x, NB_BF16, TOKENS, WIDTH), mw = nb_mat_of(w, NB_F32, 16, WIDTH);
            nb_mat mdy = nb_mat_of(dy, NB_BF16, TOKENS, WIDTH);
            show(be, lens, input, NB_FPROP_X, &mx, 1);
            show(be, lens, module, NB_FPROP_W, &mw, 16);
            if (lens->counts)
                show(be, lens, module, NB_DGRAD_DY, &mdy, 1);
        }
        if (step == 35) /* between two windows */
            lens->scalar(lens->context, "layers.2.mlp.up_proj", "reset_share", 0.25);
        if (step == 20) /* what HCP tells of its channels */
            for (int layer = 0; layer < 2; layer++)
                lens->scalar(lens->context, layer ? "layers.1.mlp.up_proj" : "layers.0.mlp.up_proj", "hcp_blocks",
                             layer ? 1 : 6);
        assert_int_equal(ni_observer_end_step(o, step, &err), NB_OK);
    }
    ni_observer_free(o);
    nb_backend_free(be);
}

static void planted_troubles_are_named(void **state) {
    char *page;
    make_run(state);
    train(state);
    json_t *data = report_of(state, &page);

    const char *hot = finding(data, "Hot channels that stay");
    assert_non_null(hot);
    assert_memory_equal(hot, "layers.1.mlp.input fprop.x: channel ", 36);
    assert_true((strstr(hot, "channel 5 ") && strstr(hot, "; 40 ")) ||
                (strstr(hot, "channel 40 ") && strstr(hot, "; 5 ")));
    assert_non_null(strstr(hot, "since step 0"));
    assert_null(strstr(strchr(hot, ';') + 1, ";")); /* two channels, not three */

    assert_string_equal(
        finding(data, "Blocks of patched channels"),
        "patched channels come from 3.5 blocks of 16 a layer on average, in layers.1.mlp.up_proj from 1");

    const char *lost = finding(data, "Underflow");
    assert_non_null(lost);
    assert_memory_equal(lost, "layers.2.mlp.up_proj dgrad.dy: ", 31);
    assert_non_null(strstr(lost, "49.6 % of the blocks vanish")); /* 127 of 256 */

    const char *oscillates = finding(data, "Oscillation");
    assert_non_null(oscillates);
    assert_string_equal(oscillates, "layers.2.mlp.up_proj fprop.w: R > 16 for 0.10 % of the weights, R > 8 for 0.10 %");
    assert_non_null(strstr(finding(data, "Resets"), "before step 35"));
    json_decref(data);
    free(page);
}

static void a_quiet_run_has_no_findings(void **state) {
    char *page;
    make_run(state);
    ni_series_writer *writer;
    nb_error err = {0};
    assert_int_equal(ni_series_writer_open(in_folder(state, "run/lens/series.nbs"), 0, &writer, &err), NB_OK);
    for (int step = 0; step < 3; step++) {
        ni_series_put(writer, "layers.0.mlp.input/fprop.x/kurtosis", 0.5);
        ni_series_put(writer, "layers.0.mlp.input/fprop.x/flushed", 0.1);
        assert_int_equal(ni_series_commit(writer, step, &err), NB_OK);
    }
    ni_series_writer_close(writer);
    json_t *data = report_of(state, &page);
    assert_int_equal(json_array_size(json_object_get(first_run(data), "findings")), 0);
    json_decref(data);
    free(page);
}

static void pictures_hold_what_was_measured(void **state) {
    char *page;
    make_run(state);
    train(state);
    json_t *data = report_of(state, &page);

    const json_t *kurtosis = panel(data, "Excess kurtosis", "fprop.x", "");
    assert_int_equal(json_array_size(json_object_get(kurtosis, "x")), SAMPLES);
    assert_int_equal(json_array_size(json_object_get(kurtosis, "y")), LAYERS);
    assert_string_equal(json_string_value(json_array_get(json_object_get(kurtosis, "y"), 1)), "layers.1.mlp.input");
    assert_string_equal(json_string_value(json_object_get(kurtosis, "theme")), "Outliers");

    const json_t *channels = panel(data, "Channel over step", "fprop.x", "layers.1.mlp.input");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(channels, "y"), 1)), WIDTH);
    assert_true(json_number_value(json_object_get(channels, "high")) > log(15)); /* thirty times as loud */
    assert_true(json_number_value(json_object_get(channels, "low")) < 0);

    const json_t *ratios = panel(data, "Distribution of the ratio R", "fprop.w", "mean of all");
    assert_string_equal(json_string_value(json_array_get(json_object_get(ratios, "y"), 0)), "above 256");
    assert_int_equal(json_array_size(json_object_get(ratios, "marks")), 1);
    assert_true(json_number_value(json_array_get(json_object_get(ratios, "marks"), 0)) == 35);
    assert_int_equal(json_array_size(json_object_get(panel(data, "Oscillating, R > 16", "fprop.w", ""), "x")), SAMPLES);
    json_decref(data);
    free(page);
}

/* Ten thousand samples of two modules: neighbours share a column, and the worst of them is kept. */
static void long_runs_are_thinned(void **state) {
    char *page;
    make_run(state);
    ni_series_writer *writer;
    nb_error err = {0};
    assert_int_equal(ni_series_writer_open(in_folder(state, "run/lens/series.nbs"), 0, &writer, &err), NB_OK);
    for (int step = 0; step < 10000; step++) {
        ni_series_put(writer, "layers.0.mlp.input/fprop.x/amax", step == 7777 ? 8 : 1);
        ni_series_put(writer, "layers.1.mlp.input/fprop.x/amax", 2);
        assert_int_equal(ni_series_commit(writer, step, &err), NB_OK);
    }
    ni_series_writer_close(writer);
    json_t *data = report_of(state, &page);
    const json_t *amax = panel(data, "Largest magnitude", "fprop.x", "");
    size_t columns = json_array_size(json_object_get(amax, "x"));
    assert_true(columns > 120 && columns <= 240);
    assert_true(fabs(json_number_value(json_object_get(amax, "high")) - log(8)) < 1e-6); /* the lone spike is there */
    json_decref(data);
    free(page);
}

static void probes_become_bars(void **state) {
    char *page;
    make_run(state);
    put(state, "run/probe.json",
        "{\"version\":1,\"recipe\":\"nvfp4\",\"step\":10,\"rows\":["
        "{\"name\":\"self_attn.v_proj\",\"gap\":0.5,\"gapPerShare\":5},{\"name\":\"all\",\"gap\":1,\"gapPerShare\":1}]"
        "}");
    json_t *data = report_of(state, &page);
    const json_t *bars = panel(data, "For its share of the parameters", "", "");
    assert_string_equal(json_string_value(json_object_get(bars, "kind")), "bars");
    assert_true(json_number_value(json_array_get(json_object_get(bars, "values"), 0)) == 5);
    assert_true(json_number_value(json_array_get(json_object_get(panel(data, "Loss gap", "", ""), "values"), 1)) == 1);
    json_decref(data);
    free(page);

    ni_report *report;
    nb_error err = {0};
    put(state, "run/probe.json", "{\"version\":2,\"rows\":[]}");
    assert_int_equal(ni_report_create(&report, &err), NB_OK);
    assert_int_equal(ni_report_add_run(report, in_folder(state, "run"), NULL, &err), NB_BAD_FILE);
    put(state, "run/probe.json", "{\"version\":1,\"recipe\":\"nvfp4\",\"rows\":[{\"gap\":1}]}");
    assert_int_equal(ni_report_add_run(report, in_folder(state, "run"), NULL, &err), NB_BAD_FILE);
    ni_report_free(report);
}

static void foreign_series_are_refused(void **state) {
    ni_report *report;
    nb_error err = {0};
    make_run(state);
    put(state, "run/lens/series.nbs", "nibble series 9\nwhatever follows");
    assert_int_equal(ni_report_create(&report, &err), NB_OK);
    assert_int_equal(ni_report_add_run(report, in_folder(state, "run"), NULL, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "series.nbs"));
    ni_report_free(report);
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, temporary_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(planted_troubles_are_named),
        IN_FOLDER(a_quiet_run_has_no_findings),
        IN_FOLDER(pictures_hold_what_was_measured),
        IN_FOLDER(long_runs_are_thinned),
        IN_FOLDER(probes_become_bars),
        IN_FOLDER(foreign_series_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
