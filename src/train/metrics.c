/* metrics.c: appends to metrics.jsonl with one write a line, and scores values against their past. */
#include "metrics.h"

#include "files/file.h"
#include "files/json.h"
#include "files/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METRICS_LIMIT ((size_t)4 << 30)

double ni_window_score(const ni_window *window, double value) {
    if (window->count < NI_WINDOW_LEAST)
        return NAN;
    double mean = 0, square = 0;
    for (int32_t i = 0; i < window->count; i++)
        mean += window->values[i];
    mean /= window->count;
    for (int32_t i = 0; i < window->count; i++)
        square += (window->values[i] - mean) * (window->values[i] - mean);
    double deviation = sqrt(square / window->count);
    return deviation > 0 ? (value - mean) / deviation : NAN;
}

void ni_window_push(ni_window *window, double value) {
    window->values[window->next] = value;
    window->next = (window->next + 1) % NI_WINDOW_SIZE;
    if (window->count < NI_WINDOW_SIZE)
        window->count++;
}

struct ni_metrics {
    ni_log *log;
    char aside[2 * NB_PATH_SIZE + 32];
};

/* ---- what an earlier run left ---- */

/* The step that a line is about; -1 if it is no line of metrics. */
static int64_t step_of_line(const char *line, size_t size, bool *evaluation) {
    json_t *object = ni_json_load(line, size, NULL);
    const json_t *step = json_object_get(object, "step");
    int64_t value = json_is_integer(step) ? json_integer_value(step) : -1;
    *evaluation = json_object_get(object, "val_loss") != NULL;
    json_decref(object);
    return value;
}

size_t ni_metrics_keep(char *text, size_t size, int64_t keep_steps, int64_t evaluated, bool *damaged) {
    size_t kept = 0;
    *damaged = false;
    for (size_t at = 0, length; at < size; at += length) {
        const char *newline = memchr(text + at, '\n', size - at);
        length = newline ? (size_t)(newline - text) + 1 - at : size - at;
        bool evaluation = false;
        int64_t step = newline ? step_of_line(text + at, length - 1, &evaluation) : -1;
        if (newline && step < 0)
            *damaged = true;
        if (!newline && memchr(text + at, 0, length)) /* a crash leaves the beginning of a line, a power cut zeros */
            *damaged = true;
        if (step < 0 || step > (evaluation ? evaluated : keep_steps))
            continue;
        memmove(text + kept, text + at, length);
        kept += length;
    }
    return kept;
}

nb_status ni_metrics_tell(const char *path, int64_t evaluated, bool *tell, nb_error *err) {
    char *text;
    size_t size;
    bool exists;
    *tell = false;
    NB_TRY(ni_file_exists(path, &exists, err));
    if (!exists)
        return NB_OK;
    NB_TRY(ni_file_read(path, METRICS_LIMIT, &text, &size, err));
    for (size_t at = 0; at < size && !*tell;) {
        const char *newline = memchr(text + at, '\n', size - at);
        const size_t length = newline ? (size_t)(newline - text) - at : size - at;
        bool evaluation;
        *tell = newline && step_of_line(text + at, length, &evaluation) == evaluated && evaluation;
        at += length + 1;
    }
    free(text);
    return NB_OK;
}

static nb_status cut_back(ni_metrics *m, const char *path, int64_t keep_steps, int64_t evaluated, nb_error *err) {
    char *text;
    size_t size;
    bool damaged, exists;
    NB_TRY(ni_file_exists(path, &exists, err));
    if (!exists)
        return NB_OK;
    NB_TRY(ni_file_read(path, METRICS_LIMIT, &text, &size, err));
    size_t kept = ni_metrics_keep(text, size, keep_steps, evaluated, &damaged);
    nb_status status = damaged ? ni_file_set_aside(path, m->aside, sizeof m->aside, err) : NB_OK;
    if (status == NB_OK && kept < size)
        status = ni_file_write(path, text, kept, err);
    free(text);
    return status;
}

nb_status ni_metrics_open(const char *path, int64_t keep_steps, int64_t evaluated, ni_metrics **out, nb_error *err) {
    *out = NULL;
    ni_metrics *metrics = calloc(1, sizeof *metrics);
    if (!metrics)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", path);
    nb_status status = cut_back(metrics, path, keep_steps, evaluated, err);
    if (status == NB_OK)
        status = ni_log_open(path, false, &metrics->log, err);
    if (status != NB_OK) {
        free(metrics);
        return status;
    }
    *out = metrics;
    return NB_OK;
}

const char *ni_metrics_aside(const ni_metrics *metrics) {
    return metrics->aside;
}

void ni_metrics_close(ni_metrics *metrics) {
    if (!metrics)
        return;
    ni_log_close(metrics->log);
    free(metrics);
}

nb_status ni_metrics_sync(ni_metrics *metrics, nb_error *err) {
    return ni_log_sync(metrics->log, err);
}

/* Takes `object` and appends it as one line. */
static nb_status append(ni_metrics *metrics, json_t *object, nb_error *err) {
    char *line = ni_json_text(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(object);
    if (!line)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory for a line", ni_log_path(metrics->log));
    ni_log_put(metrics->log, line, strlen(line));
    ni_log_put(metrics->log, "\n", 1);
    free(line);
    return ni_log_flush(metrics->log, err);
}

static void put_real(json_t **object, const char *key, double value) {
    ni_json_put(object, key, isfinite(value) ? json_real(value) : json_null());
}

nb_status ni_metrics_step(ni_metrics *metrics, const nb_step_report *report, int64_t tokens, nb_error *err) {
    json_t *line = json_object();
    ni_json_put(&line, "step", json_integer(report->step));
    ni_json_put(&line, "tokens", json_integer(tokens));
    put_real(&line, "loss", report->loss);
    put_real(&line, "norm", report->norm);
    put_real(&line, "lr", report->lr);
    put_real(&line, "ms", report->ms);
    put_real(&line, "tok_s", report->tokens_per_second);
    put_real(&line, "mfu", report->mfu);
    if (isfinite(report->light))
        ni_json_put(&line, "light", json_real(report->light));
    put_real(&line, "loss_z", report->loss_z);
    put_real(&line, "norm_z", report->norm_z);
    if (report->fp32_rows)
        ni_json_put(&line, "fp32_rows", json_integer(report->fp32_rows));
    if (report->skipped)
        ni_json_put(&line, "skipped", json_true());
    return append(metrics, line, err);
}

nb_status ni_metrics_evaluation(ni_metrics *metrics, const nb_eval_report *report, nb_error *err) {
    json_t *line = json_object();
    ni_json_put(&line, "step", json_integer(report->step));
    put_real(&line, "val_loss", report->loss);
    ni_json_put(&line, "val_tokens", json_integer(report->tokens));
    put_real(&line, "val_seconds", report->seconds);
    return append(metrics, line, err);
}

nb_status ni_metrics_event(ni_metrics *metrics, int64_t step, const char *event, const char *what, const char *where,
                           const char *policy, nb_error *err) {
    json_t *line = json_object();
    ni_json_put(&line, "step", json_integer(step));
    ni_json_put(&line, "event", json_string(event));
    ni_json_put(&line, "what", json_string(what));
    if (where)
        ni_json_put(&line, "where", json_string(where));
    if (policy)
        ni_json_put(&line, "policy", json_string(policy));
    return append(metrics, line, err);
}
