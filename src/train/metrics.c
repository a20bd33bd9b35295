/* metrics.c: appends to metrics.jsonl with one write a line, and scores values against their past. */
#include "metrics.h"

#include "files/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    int file;
    char path[2 * NB_PATH_SIZE];
};

/* Bytes of the longest prefix of whole lines whose step is at most `keep_steps`. */
static size_t kept_prefix(const char *text, size_t size, int64_t keep_steps) {
    size_t at = 0;
    while (at < size) {
        const char *newline = memchr(text + at, '\n', size - at);
        long long step;
        if (!newline || sscanf(text + at, "{\"step\":%lld", &step) != 1 || step > keep_steps)
            break;
        at = (size_t)(newline - text) + 1;
    }
    return at;
}

nb_status ni_metrics_open(const char *path, int64_t keep_steps, ni_metrics **out, nb_error *err) {
    *out = NULL;
    if (access(path, F_OK) == 0) {
        char *text;
        size_t size;
        NB_TRY(ni_file_read(path, METRICS_LIMIT, &text, &size, err));
        size_t kept = kept_prefix(text, size, keep_steps);
        nb_status status = kept < size ? ni_file_write(path, text, kept, err) : NB_OK;
        free(text);
        NB_TRY(status);
    }
    ni_metrics *metrics = calloc(1, sizeof *metrics);
    if (!metrics)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", path);
    snprintf(metrics->path, sizeof metrics->path, "%s", path);
    metrics->file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (metrics->file < 0) {
        free(metrics);
        return nb_fail(err, NB_IO_ERROR, "%s: cannot be opened for appending: %s", path, strerror(errno));
    }
    *out = metrics;
    return NB_OK;
}

void ni_metrics_close(ni_metrics *metrics) {
    if (!metrics)
        return;
    close(metrics->file);
    free(metrics);
}

nb_status ni_metrics_sync(ni_metrics *metrics, nb_error *err) {
    if (fdatasync(metrics->file) != 0)
        return nb_fail(err, NB_IO_ERROR, "%s: cannot be synced to disk: %s", metrics->path, strerror(errno));
    return NB_OK;
}

/* Takes `object` and appends it as one line. */
static nb_status append(ni_metrics *metrics, json_t *object, nb_error *err) {
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(object);
    if (!line)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory for a line", metrics->path);
    size_t size = strlen(line);
    line[size] = '\n';
    ssize_t written = write(metrics->file, line, size + 1);
    int reason = errno;
    free(line);
    if (written != (ssize_t)size + 1)
        return nb_fail(err, NB_IO_ERROR, "%s: a line could not be written: %s", metrics->path,
                       written < 0 ? strerror(reason) : "disk full");
    return NB_OK;
}

static void put_real(json_t *object, const char *key, double value) {
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

nb_status ni_metrics_step(ni_metrics *metrics, const nb_step_report *report, int64_t tokens, nb_error *err) {
    json_t *line = json_object();
    json_object_set_new(line, "step", json_integer(report->step));
    json_object_set_new(line, "tokens", json_integer(tokens));
    put_real(line, "loss", report->loss);
    put_real(line, "norm", report->norm);
    put_real(line, "lr", report->lr);
    put_real(line, "ms", report->ms);
    put_real(line, "tok_s", report->tokens_per_second);
    put_real(line, "mfu", report->mfu);
    put_real(line, "loss_z", report->loss_z);
    put_real(line, "norm_z", report->norm_z);
    if (report->skipped)
        json_object_set_new(line, "skipped", json_true());
    return append(metrics, line, err);
}

nb_status ni_metrics_evaluation(ni_metrics *metrics, const nb_eval_report *report, nb_error *err) {
    json_t *line = json_object();
    json_object_set_new(line, "step", json_integer(report->step));
    put_real(line, "val_loss", report->loss);
    json_object_set_new(line, "val_tokens", json_integer(report->tokens));
    put_real(line, "val_seconds", report->seconds);
    return append(metrics, line, err);
}

nb_status ni_metrics_event(ni_metrics *metrics, int64_t step, const char *event, const char *what, const char *where,
                           const char *policy, nb_error *err) {
    json_t *line = json_object();
    json_object_set_new(line, "step", json_integer(step));
    json_object_set_new(line, "event", json_string(event));
    json_object_set_new(line, "what", json_string(what));
    if (where)
        json_object_set_new(line, "where", json_string(where));
    if (policy)
        json_object_set_new(line, "policy", json_string(policy));
    return append(metrics, line, err);
}
