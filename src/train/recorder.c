/* recorder.c: the three places where a run writes down what happened. */
#include "recorder.h"

#include "files/file.h"
#include "lens/observer.h"
#include "lens/tensorboard.h"
#include "model/param_array.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_PATH_SIZE (2 * NB_PATH_SIZE)

struct nb_recorder {
    nb_metrics *metrics;
    nb_tensorboard *events;
    nb_observer *observer; /* NULL: lens.every is 0 */
    const nb_lens *lens;   /* of the step that runs now; NULL if it is not looked at */
    int64_t every;
    char modules[NB_NAME_SIZE];
};

static nb_status open_observer(nb_recorder *r, const nb_run_config *config, int64_t step, nb_error *err) {
    if (config->lens.every == 0)
        return NB_OK;
    char folder[FILE_PATH_SIZE];
    snprintf(folder, sizeof folder, "%s/lens", config->out);
    NB_TRY(nb_make_folders(folder, err));
    memcpy(r->modules, config->lens.modules, sizeof r->modules);
    r->every = config->lens.every;
    nb_observer_options options = {.every = config->lens.every,
                                   .window = config->lens.window,
                                   .hot_channels = (int32_t)config->lens.hot_channels,
                                   .attention_stride = config->lens.attention_stride,
                                   .modules = r->modules};
    return nb_observer_create(&options, folder, step, &r->observer, err);
}

nb_status nb_recorder_open(const nb_run_config *config, int64_t step, nb_recorder **out, nb_error *err) {
    *out = NULL;
    nb_recorder *r = calloc(1, sizeof *r);
    if (!r)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", config->out);
    char path[FILE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/metrics.jsonl", config->out);
    nb_status status = nb_metrics_open(path, step, &r->metrics, err);
    if (status == NB_OK)
        status = nb_tensorboard_open(config->out, &r->events, err);
    if (status == NB_OK)
        status = open_observer(r, config, step, err);
    if (status != NB_OK) {
        nb_recorder_close(r);
        return status;
    }
    *out = r;
    return NB_OK;
}

void nb_recorder_close(nb_recorder *r) {
    if (!r)
        return;
    nb_metrics_close(r->metrics);
    nb_tensorboard_close(r->events, NULL);
    nb_observer_free(r->observer);
    free(r);
}

const nb_lens *nb_recorder_lens(nb_recorder *r, int64_t step) {
    r->lens = r->observer ? nb_observer_lens(r->observer, step) : NULL;
    return r->lens;
}

/* The parameter with this name, copied to `out`. */
static bool find_weight(nb_model *model, const char *name, nb_mat *out) {
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        if (strcmp(p->name, name) != 0)
            continue;
        size_t bytes = (size_t)(p->rows * p->cols) * sizeof(float);
        *out = nb_mat_of(malloc(bytes), NB_F32, p->rows, p->cols);
        if (out->data)
            nb_model_param_read(model, i, out->data);
        return out->data;
    }
    return false;
}

/* How far the gate and up projections of each MLP point the same way (docs/lens.md). */
static void observe_alignment(nb_recorder *r, nb_model *model) {
    const nb_model_config *config = nb_model_get_config(model);
    for (int32_t layer = 0; layer < config->layers; layer++) {
        char gate_name[NB_NAME_SIZE], up_name[NB_NAME_SIZE], module[NB_NAME_SIZE];
        nb_mat gate = {0}, up = {0};
        snprintf(gate_name, sizeof gate_name, "model.layers.%d.mlp.gate_proj.weight", layer);
        snprintf(up_name, sizeof up_name, "model.layers.%d.mlp.up_proj.weight", layer);
        snprintf(module, sizeof module, "layers.%d.mlp", layer);
        if (find_weight(model, gate_name, &gate) && find_weight(model, up_name, &up))
            nb_observer_alignment(r->observer, module, &gate, &up);
        free(gate.data);
        free(up.data);
    }
}

static nb_status scalar(nb_recorder *r, const char *tag, int64_t step, double value, nb_error *err) {
    return isfinite(value) ? nb_tensorboard_scalar(r->events, tag, step, value, err) : NB_OK;
}

nb_status nb_recorder_step(nb_recorder *r, const nb_step_report *report, int64_t tokens, nb_model *model,
                           nb_error *err) {
    NB_TRY(nb_metrics_step(r->metrics, report, tokens, err));
    NB_TRY(scalar(r, "train/loss", report->step, report->loss, err));
    NB_TRY(scalar(r, "train/norm", report->step, report->norm, err));
    NB_TRY(scalar(r, "train/lr", report->step, report->lr, err));
    NB_TRY(scalar(r, "train/tokens_per_second", report->step, report->tokens_per_second, err));
    if (r->lens) {
        int64_t step = report->step - 1;
        if (step % r->every == 0)
            observe_alignment(r, model);
        NB_TRY(nb_observer_end_step(r->observer, step, err));
        r->lens = NULL;
    }
    return nb_tensorboard_flush(r->events, err);
}

nb_status nb_recorder_evaluation(nb_recorder *r, const nb_eval_report *report, nb_error *err) {
    NB_TRY(nb_metrics_evaluation(r->metrics, report, err));
    NB_TRY(scalar(r, "val/loss", report->step, report->loss, err));
    return nb_tensorboard_flush(r->events, err);
}

nb_status nb_recorder_warning(nb_recorder *r, int64_t step, const char *event, const char *what, const char *where,
                              nb_error *err) {
    return nb_metrics_event(r->metrics, step, event, what, where, "warn", err);
}

nb_status nb_recorder_bad_number(nb_recorder *r, int64_t step, const char *what, const char *where, const char *policy,
                                 nb_error *err) {
    r->lens = NULL;
    return nb_metrics_event(r->metrics, step, "bad number", what, where[0] ? where : NULL, policy, err);
}

nb_status nb_recorder_sync(nb_recorder *r, nb_error *err) {
    return nb_metrics_sync(r->metrics, err);
}

size_t nb_recorder_bytes(const nb_recorder *r) {
    return r->observer ? nb_observer_bytes(r->observer) : 0;
}
