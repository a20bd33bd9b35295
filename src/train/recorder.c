/* recorder.c: the three places where a run writes down what happened. */
#include "recorder.h"
#include "backend/table.h"

#include "files/file.h"
#include "lens/observer.h"
#include "lens/tensorboard.h"
#include "model/param_array.h"

#include <glob.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_PATH_SIZE (2 * NB_PATH_SIZE)

typedef enum log_kind { LOG_METRICS, LOG_EVENTS, LOG_LENS, LOG_COUNT } log_kind;
enum { MOST_NOTES = 8 };

struct ni_recorder {
    ni_metrics *metrics;
    ni_tensorboard *events;
    ni_observer *observer; /* NULL: lens.every is 0 */
    const nb_lens *lens;   /* of the step that runs now; NULL if it is not looked at */
    int64_t lens_step;     /* which that is, 0-based */
    char modules[NB_NAME_SIZE];
    char tiles[NB_NAME_SIZE];
    bool failing[LOG_COUNT]; /* told already, and not written since */
    char notes[MOST_NOTES][NI_RECORDER_NOTE];
    int32_t note_count;
};

int64_t ni_recorder_window(const nb_run_config *config) {
    int64_t room = config->lens.every < nb_run_steps(config) ? config->lens.every : nb_run_steps(config);
    return config->lens.window < room ? config->lens.window : room - 1;
}

/* ---- notes ---- */

static void add_note(ni_recorder *r, const char *format, ...) NB_PRINTF(2, 3);
static void add_note(ni_recorder *r, const char *format, ...) {
    if (r->note_count == MOST_NOTES)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(r->notes[r->note_count++], NI_RECORDER_NOTE, format, args);
    va_end(args);
}

bool ni_recorder_take_note(ni_recorder *r, char *text, size_t size) {
    if (r->note_count == 0)
        return false;
    snprintf(text, size, "%s", r->notes[0]);
    memmove(r->notes[0], r->notes[1], (size_t)--r->note_count * sizeof r->notes[0]);
    return true;
}

/* A log that fails is told once, and no reason to stop. */
static void heed(ni_recorder *r, log_kind kind, nb_status status, const nb_error *why) {
    if (status != NB_OK && !r->failing[kind])
        add_note(r, "%s; the run goes on, and what waits is tried again", why->message);
    r->failing[kind] = status != NB_OK;
}

static void tell_aside(ni_recorder *r, const char *aside) {
    if (*aside)
        add_note(r, "a damaged file was set aside as %s; what is good of it goes on", aside);
}

static nb_status move_events(const char *path, const char *folder, char *name, size_t size, nb_error *err) {
    bool taken = true;
    for (int n = 1; taken; n++) {
        snprintf(name, size, "%s/events.damaged-%d", folder, n);
        NB_TRY(ni_file_exists(name, &taken, err));
    }
    return rename(path, name) == 0 ? ni_sync_parent(name, err) : ni_fail_errno(err, path, "set the damaged file aside");
}

/* Event files are never read here, but a reader stops where one is damaged, and takes no name like that of the copy. */
static nb_status check_events(ni_recorder *r, const char *folder, nb_error *err) {
    char pattern[FILE_PATH_SIZE], damaged[FILE_PATH_SIZE + 64];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/events.out.tfevents.*", folder);
    int result = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (result == GLOB_NOMATCH)
        return NB_OK;
    if (result != 0)
        return result == GLOB_NOSPACE ? nb_fail(err, NB_NO_MEMORY, "%s: out of memory", folder)
                                      : nb_fail(err, NB_IO_ERROR, "%s: cannot be listed", folder);
    nb_status status = NB_OK;
    for (size_t i = 0; status == NB_OK && i < found.gl_pathc; i++) {
        char *bytes;
        size_t size;
        bool torn;
        status = ni_file_read(found.gl_pathv[i], SIZE_MAX / 2, &bytes, &size, err);
        if (status != NB_OK)
            break;
        size_t good = ni_events_good(bytes, size, &torn);
        free(bytes);
        if (good == size || torn)
            continue;
        status = move_events(found.gl_pathv[i], folder, damaged, sizeof damaged, err);
        if (status == NB_OK)
            tell_aside(r, damaged);
    }
    globfree(&found);
    return status;
}

static nb_status open_observer(ni_recorder *r, const nb_run_config *config, int64_t step, nb_error *err) {
    if (config->lens.every == 0)
        return NB_OK;
    char folder[FILE_PATH_SIZE];
    snprintf(folder, sizeof folder, "%s/lens", config->out);
    NB_TRY(ni_make_folders(folder, err));
    memcpy(r->modules, config->lens.modules, sizeof r->modules);
    memcpy(r->tiles, config->lens.tiles, sizeof r->tiles);
    ni_observer_options options = {.every = config->lens.every,
                                   .window = ni_recorder_window(config),
                                   .spread = config->lens.spread,
                                   .hot_channels = (int32_t)config->lens.hot_channels,
                                   .attention_stride = config->lens.attention_stride,
                                   .modules = r->modules,
                                   .tiles = r->tiles};
    NB_TRY(check_events(r, folder, err));
    NB_TRY(ni_observer_create(&options, folder, step, &r->observer, err));
    tell_aside(r, ni_observer_aside(r->observer));
    return NB_OK;
}

nb_status ni_recorder_open(const nb_run_config *config, int64_t step, int64_t evaluated, ni_recorder **out,
                           nb_error *err) {
    *out = NULL;
    ni_recorder *r = calloc(1, sizeof *r);
    if (!r)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", config->out);
    char path[FILE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/metrics.jsonl", config->out);
    nb_status status = ni_metrics_open(path, step, evaluated, &r->metrics, err);
    if (status == NB_OK)
        tell_aside(r, ni_metrics_aside(r->metrics));
    if (status == NB_OK)
        status = check_events(r, config->out, err);
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
    if (!r)
        return NULL;
    r->lens = r->observer ? ni_observer_lens(r->observer, step) : NULL;
    r->lens_step = step;
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
        int32_t count = ni_observer_looks(r->observer, block) ? ni_model_gated_pairs(model, block, pairs, MOST) : 0;
        for (int32_t i = 0; i < count && i < MOST; i++)
            observe_pair(r, model, be, &pairs[i]);
    }
}

static void scalar(ni_recorder *r, const char *tag, int64_t step, double value) {
    if (isfinite(value))
        ni_tensorboard_scalar(r->events, tag, step, value, NULL);
}

static void flush_events(ni_recorder *r) {
    nb_error why = {0};
    heed(r, LOG_EVENTS, ni_tensorboard_flush(r->events, &why), &why);
}

void ni_recorder_step(ni_recorder *r, const nb_step_report *report, int64_t tokens, nb_model *model) {
    nb_error why = {0};
    if (!r)
        return;
    heed(r, LOG_METRICS, ni_metrics_step(r->metrics, report, tokens, &why), &why);
    scalar(r, "train/loss", report->step, report->loss);
    scalar(r, "train/norm", report->step, report->norm);
    scalar(r, "train/lr", report->step, report->lr);
    scalar(r, "train/tokens_per_second", report->step, report->tokens_per_second);
    if (r->lens) {
        observe_alignment(r, model);
        heed(r, LOG_LENS, ni_observer_end_step(r->observer, r->lens_step, &why), &why);
        r->lens = NULL;
    }
    flush_events(r);
}

void ni_recorder_evaluation(ni_recorder *r, const nb_eval_report *report) {
    nb_error why = {0};
    if (!r)
        return;
    heed(r, LOG_METRICS, ni_metrics_evaluation(r->metrics, report, &why), &why);
    scalar(r, "val/loss", report->step, report->loss);
    flush_events(r);
}

void ni_recorder_warning(ni_recorder *r, int64_t step, const char *event, const char *what, const char *where) {
    nb_error why = {0};
    if (!r)
        return;
    heed(r, LOG_METRICS, ni_metrics_event(r->metrics, step, event, what, where, "warn", &why), &why);
}

void ni_recorder_bad_number(ni_recorder *r, int64_t step, const char *what, const char *where, const char *policy,
                            bool again) {
    nb_error why = {0};
    if (!r)
        return;
    if (r->lens && !again)
        heed(r, LOG_LENS, ni_observer_end_step(r->observer, r->lens_step, &why), &why);
    r->lens = NULL;
    heed(r, LOG_METRICS, ni_metrics_event(r->metrics, step, "bad number", what, where[0] ? where : NULL, policy, &why),
         &why);
}

void ni_recorder_sync(ni_recorder *r) {
    nb_error why = {0};
    heed(r, LOG_METRICS, ni_metrics_sync(r->metrics, &why), &why);
    heed(r, LOG_EVENTS, ni_tensorboard_sync(r->events, &why), &why);
    if (r->observer)
        heed(r, LOG_LENS, ni_observer_sync(r->observer, &why), &why);
}

size_t ni_recorder_bytes(const ni_recorder *r) {
    return r->observer ? ni_observer_bytes(r->observer) : 0;
}
