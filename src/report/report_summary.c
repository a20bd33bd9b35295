/* report_summary.c: how each run ended, and how far from its BF16 twin. */
#include "base/order.h"
#include "report/report_build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LAST_STEPS 20 /* over which the training loss of the table is averaged */

/* Keys of a run file that may differ between twins: they leave model, data and seeds alone. */
static const char *const free_keys[] = {"recipe",      "out",        "threads",     "isa",          "share",
                                        "print_every", "peak_flops", "machine",     "memory_check", "checkpoint.",
                                        "eval.",       "lens.",      "bad_numbers."};

static bool is_seed(const char *key) {
    return strncmp(key, "seeds.", 6) == 0;
}

static bool is_free(const char *key) {
    for (size_t i = 0; i < sizeof free_keys / sizeof free_keys[0]; i++) {
        size_t length = strlen(free_keys[i]);
        bool group = free_keys[i][length - 1] == '.';
        if (group ? strncmp(key, free_keys[i], length) == 0 : strcmp(key, free_keys[i]) == 0)
            return true;
    }
    return false;
}

static bool same_but_recipe(json_t *a, json_t *b, bool any_seeds) {
    const char *key;
    json_t *value;
    json_object_foreach(a, key, value) {
        if (!is_free(key) && !(any_seeds && is_seed(key)) && !json_equal(value, json_object_get(b, key)))
            return false;
    }
    json_object_foreach(b, key, value) {
        if (!is_free(key) && !json_object_get(a, key))
            return false;
    }
    return true;
}

static json_t *run_at(const ni_report *report, int32_t index) {
    return index < 0 ? NULL : json_array_get(report->runs, (size_t)index);
}

static const char *text_of(const json_t *run, const char *key) {
    return json_string_value(json_object_get(run, key));
}

/* The number at `index`, counted from the end where negative; NaN where there is none. */
static double number_at(const json_t *array, int64_t index) {
    int64_t size = (int64_t)json_array_size(array);
    const json_t *value = json_array_get(array, (size_t)(index < 0 ? size + index : index));
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Of several the one that went furthest: a run that was stopped and begun anew has its first try beside it. */
static int32_t find_twin(const ni_report *report, int32_t index) {
    json_t *run = run_at(report, index);
    int32_t twin = -1;
    double furthest = -1;
    if (strcmp(text_of(run, "recipe"), "bf16") == 0)
        return -1;
    for (int32_t i = 0; i < ni_report_run_count(report); i++) {
        json_t *other = run_at(report, i);
        const double last = number_at(json_object_get(json_object_get(other, "series"), "step"), -1);
        if (i == index || strcmp(text_of(other, "recipe"), "bf16") != 0 || (twin >= 0 && !(last > furthest)) ||
            !same_but_recipe(json_object_get(run, "config"), json_object_get(other, "config"), false))
            continue;
        twin = i;
        furthest = isnan(last) ? -1 : last;
    }
    return twin;
}

bool ni_report_twins(const ni_report *report, int32_t a, int32_t b) {
    return same_but_recipe(json_object_get(run_at(report, a), "config"), json_object_get(run_at(report, b), "config"),
                           false);
}

bool ni_report_seeds_apart(const ni_report *report, int32_t a, int32_t b) {
    return same_but_recipe(json_object_get(run_at(report, a), "config"), json_object_get(run_at(report, b), "config"),
                           true);
}

/* A step that a file says, which may say anything. */
static int64_t step_of(double number) {
    return fabs(number) < 0x1p53 ? (int64_t)number : 0;
}

static double mean_of_last(const json_t *array, int64_t count) {
    int64_t size = (int64_t)json_array_size(array), from = size > count ? size - count : 0;
    double sum = 0;
    for (int64_t i = from; i < size; i++)
        sum += number_at(array, i);
    return size > from ? sum / (double)(size - from) : NAN;
}

/* NaN of nothing; false where memory runs out. */
static bool median(const json_t *array, double *middle) {
    size_t size = json_array_size(array), count = 0;
    double *values = malloc((size + 1) * sizeof *values);
    if (!values)
        return false;
    for (size_t i = 0; i < size; i++) {
        double value = number_at(array, (int64_t)i);
        if (isfinite(value))
            values[count++] = value;
    }
    qsort(values, count, sizeof *values, ni_rising);
    *middle = count == 0 ? NAN : 0.5 * (values[(count - 1) / 2] + values[count / 2]);
    free(values);
    return true;
}

/* (L - L_twin) / L_twin in %, at the last step that both evaluated. */
static void find_gap(const json_t *run, const json_t *twin, ni_report_summary *out) {
    const json_t *mine = json_object_get(run, "eval"), *other = json_object_get(twin, "eval");
    const json_t *steps = json_object_get(mine, "step"), *twin_steps = json_object_get(other, "step");
    int64_t i = (int64_t)json_array_size(steps) - 1, j = (int64_t)json_array_size(twin_steps) - 1;
    while (i >= 0 && j >= 0) {
        double a = number_at(steps, i), b = number_at(twin_steps, j);
        if (a == b) {
            double loss = number_at(json_object_get(mine, "loss"), i);
            double twin_loss = number_at(json_object_get(other, "loss"), j);
            out->gap = (loss - twin_loss) / twin_loss * 100;
            out->gap_step = step_of(a);
            return;
        }
        if (a > b)
            i--;
        else
            j--;
    }
}

nb_status ni_report_summarize(const ni_report *report, int32_t run, ni_report_summary *out, nb_error *err) {
    json_t *found = run_at(report, run);
    if (!found)
        return nb_fail(err, NB_BAD_USAGE, "report: there is no run %d among %d", run, ni_report_run_count(report));
    const json_t *series = json_object_get(found, "series");
    double last = number_at(json_object_get(series, "step"), -1);
    *out = (ni_report_summary){
        .name = text_of(found, "name"),
        .recipe = text_of(found, "recipe"),
        .twin = find_twin(report, run),
        .steps = step_of(last),
        .train_loss = mean_of_last(json_object_get(series, "loss"), LAST_STEPS),
        .val_loss = number_at(json_object_get(json_object_get(found, "eval"), "loss"), -1),
        .gap = NAN,
    };
    if (!median(json_object_get(series, "tok_s"), &out->tokens_per_second))
        return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    if (out->twin >= 0)
        find_gap(found, run_at(report, out->twin), out);
    return NB_OK;
}

/* The first of the runs of one recipe that differ in their seeds: of every seed one, so that a run that was made twice
 * is no seed more. */
static int32_t find_arm(const ni_report *report, int32_t run) {
    for (int32_t i = 0; i < run; i++) {
        if (strcmp(text_of(run_at(report, i), "recipe"), text_of(run_at(report, run), "recipe")) != 0 ||
            json_integer_value(json_object_get(run_at(report, i), "arm")) != i ||
            !ni_report_seeds_apart(report, i, run))
            continue;
        bool is_new = true;
        for (int32_t k = i; k < run && is_new; k++)
            is_new =
                json_integer_value(json_object_get(run_at(report, k), "arm")) != i || !ni_report_twins(report, k, run);
        if (is_new)
            return i;
    }
    return run;
}

nb_status ni_report_resolve(ni_report *report, nb_error *err) {
    for (int32_t i = 0; i < ni_report_run_count(report); i++) {
        ni_report_summary s = {0};
        NB_TRY(ni_report_summarize(report, i, &s, err));
        json_t *summary = json_pack("{s:I, s:o, s:o, s:o, s:I, s:o}", "steps", (json_int_t)s.steps, "trainLoss",
                                    ni_report_number(s.train_loss), "valLoss", ni_report_number(s.val_loss), "gap",
                                    ni_report_number(s.gap), "gapStep", (json_int_t)s.gap_step, "tokS",
                                    ni_report_number(s.tokens_per_second));
        json_t *run = run_at(report, i);
        if (!summary || json_object_set_new(run, "summary", summary) ||
            json_object_set_new(run, "twin", s.twin < 0 ? json_null() : json_integer(s.twin)) ||
            json_object_set_new(run, "arm", json_integer(find_arm(report, i))))
            return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    }
    if (json_object_set_new(report->root, "lastSteps", json_integer(LAST_STEPS)))
        return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    return NB_OK;
}
