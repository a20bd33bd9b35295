/* recorder.c: the three places where a run writes down what happened. */
#include "recorder.h"
#include "backend/table.h"

#include "files/file.h"
#include "lens/observer.h"
#include "lens/tensorboard.h"
#include "model/param_array.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_PATH_SIZE (2 * NB_PATH_SIZE)

struct ni_recorder {
    ni_metrics *metrics;
    ni_tensorboard *events;
    ni_observer *observer; /* NULL: lens.every is 0 */
    const nb_lens *lens;   /* of the step that runs now; NULL if it is not looked at */
    int64_t every;
    char modules[NB_NAME_SIZE];
};

int64_t ni_recorder_window(const nb_run_config *config) {
    int64_t room = config->lens.every < nb_run_steps(config) ? config->lens.every : nb_run_steps(config);
    return config->lens.window < room ? config->lens.window : room - 1;
}

static nb_status open_observer(ni_recorder *r, const nb_run_config *config, int64_t step, nb_error *err) {
    if (config->lens.every == 0)
        return NB_OK;
    char folder[FILE_PATH_SIZE];
    snprintf(folder, sizeof folder, "%s/lens", config->out);
    NB_TRY(ni_make_folders(folder, err));
    memcpy(r->modules, config->lens.modules, sizeof r->modules);
    r->every = config->lens.every;
    ni_observer_options options = {.every = config->lens.every,
                                   .window = ni_recorder_window(config),
                                   .hot_channels = (int32_t)config->lens.hot_channels,
                                   .attention_stride = config->lens.attention_stride,
                                   .modules = r->modules};
    return ni_observer_create(&options, folder, step, &r->observer, err);
}

nb_status ni_recorder_open(const nb_run_config *config, int64_t step, ni_recorder **out, nb_error *err) {
    *out = NULL;
    ni_recorder *r = calloc(1, sizeof *r);
    if (!r)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", config->out);
    char path[FILE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/metrics.jsonl", config->out);
    nb_status status = ni_metrics_open(path, step, &r->metrics, err);
    if (status == NB_OK)
        status = ni_tensorboard_open(config->out, &r->events, err);
    if (status == NB_OK)
        status = open_observer(r, config, step, err);
    if (status != NB_OK) {
        ni_recorder_close(r);
        return status;
    }
    *out = r;
    return NB_OK;
}

void ni_recorder_close(ni_recorder *r) {
    if (!r)
        return;
    ni_metrics_close(r->metrics);
    ni_tensorboard_close(r->events, NULL);
    ni_observer_free(r->observer);
    free(r);
}

const nb_lens *ni_recorder_lens(ni_recorder *r, int64_t step) {
    r->lens = r->observer ? ni_observer_lens(r->observer, step) : NULL;
    return r->lens;
}

/* A master in real: where it is, or decoded into memory that the caller releases. data is NULL if there is none. */
static nb_mat open_weight(nb_backend *be, const nb_model *model, int32_t index, void **memory) {
    const nb_param *p = nb_model_param(model, index);
    const ni_scaled master = ni_model_master(model, index);
    nb_mat out = nb_mat_of(master.data, be->real, p->rows, p->cols);
    *memory = NULL;
    if (master.dtype == be->real)
        return out;
    out.data = *memory =
        be->ops->alloc(be, (size_t)(p->rows * p->cols) * nb_dtype_size(be->real), "a master for the lens");
    if (out.data)
        be->ops->scaled_decode(be, out.data, &master, p->rows * p->cols);
    return out;
}

static void observe_pair(ni_recorder *r, const nb_model *model, nb_backend *be, const ni_gated_pair *pair) {
    void *memory[2];
    nb_mat gate = open_weight(be, model, pair->gate, &memory[0]), up = open_weight(be, model, pair->up, &memory[1]);
    if (gate.data && up.data)
        ni_observer_alignment(r->observer, pair->module, be, &gate, &up);
    nb_backend_release(be, memory[0]);
    nb_backend_release(be, memory[1]);
}

/* How far what gates and what is gated point the same way in each block (docs/lens.md). */
static void observe_alignment(ni_recorder *r, nb_model *model) {
    enum { MOST = 2 };
    ni_gated_pair pairs[MOST];
    nb_backend *be = ni_model_gradients(model)->be;
    for (int32_t block = 0; block < nb_model_get_config(model)->layers; block++) {
        int32_t count = ni_model_gated_pairs(model, block, pairs, MOST);
        for (int32_t i = 0; i < count && i < MOST; i++)
            observe_pair(r, model, be, &pairs[i]);
    }
}

static nb_status scalar(ni_recorder *r, const char *tag, int64_t step, double value, nb_error *err) {
    return isfinite(value) ? ni_tensorboard_scalar(r->events, tag, step, value, err) : NB_OK;
}

nb_status ni_recorder_step(ni_recorder *r, const nb_step_report *report, int64_t tokens, nb_model *model,
                           nb_error *err) {
    NB_TRY(ni_metrics_step(r->metrics, report, tokens, err));
    NB_TRY(scalar(r, "train/loss", report->step, report->loss, err));
    NB_TRY(scalar(r, "train/norm", report->step, report->norm, err));
    NB_TRY(scalar(r, "train/lr", report->step, report->lr, err));
    NB_TRY(scalar(r, "train/tokens_per_second", report->step, report->tokens_per_second, err));
    if (r->lens) {
        int64_t step = report->step - 1;
        if (step % r->every == 0)
            observe_alignment(r, model);
        NB_TRY(ni_observer_end_step(r->observer, step, err));
        r->lens = NULL;
    }
    return ni_tensorboard_flush(r->events, err);
}

nb_status ni_recorder_evaluation(ni_recorder *r, const nb_eval_report *report, nb_error *err) {
    NB_TRY(ni_metrics_evaluation(r->metrics, report, err));
    NB_TRY(scalar(r, "val/loss", report->step, report->loss, err));
    return ni_tensorboard_flush(r->events, err);
}

nb_status ni_recorder_warning(ni_recorder *r, int64_t step, const char *event, const char *what, const char *where,
                              nb_error *err) {
    return ni_metrics_event(r->metrics, step, event, what, where, "warn", err);
}

nb_status ni_recorder_bad_number(ni_recorder *r, int64_t step, const char *what, const char *where, const char *policy,
                                 nb_error *err) {
    r->lens = NULL;
    return ni_metrics_event(r->metrics, step, "bad number", what, where[0] ? where : NULL, policy, err);
}

nb_status ni_recorder_sync(ni_recorder *r, nb_error *err) {
    return ni_metrics_sync(r->metrics, err);
}

size_t ni_recorder_bytes(const ni_recorder *r) {
    return r->observer ? ni_observer_bytes(r->observer) : 0;
}
