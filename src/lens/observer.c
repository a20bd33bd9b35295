/* observer.c: which measurement happens at which step, and the state that links samples. */
#include "lens/observer.h"
#include "backend/table.h"
#include "lens/channels.h"
#include "lens/layer_metrics.h"
#include "lens/operand_metrics.h"
#include "lens/oscillation.h"
#include "lens/series_format.h"
#include "lens/skipped.h"
#include "lens/tiles.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One operand of one module, over the run. */
typedef struct watched {
    char prefix[NB_NAME_SIZE + 16]; /* "layers.0.mlp.up_proj/fprop.w" */
    uint32_t hash;                  /* of module and role */
    int64_t last_step;              /* at which it was recorded; layers that share X show it more than once */
    nb_mat source;                  /* at that step; data NULL where it was made from codes */
    bool told;                      /* what does not apply to it was noted */
    ni_hot_set hot;                 /* fprop.x, fprop.w, dgrad.dy */
    ni_followed_weight followed;    /* fprop.w */
} watched;

struct ni_observer {
    ni_observer_options options;
    ni_record record;
    nb_lens lens;
    nb_lens following;    /* in a window: weights */
    nb_lens first_part;   /* of a sample that is spread: blocks are chosen, and what is outside of them is looked at; */
    nb_lens later_part;   /* is not */
    nb_lens scalars_only; /* between windows: mechanisms may tell what they did */
    ni_skipped skipped;
    char skipped_path[1024];
    watched *watched;
    int32_t count, capacity;
    int64_t window_start;     /* step of the last sample; -1 = none in this process */
    int64_t part;             /* of it that this step looks at, from 0 on; -1 = none */
    ni_series_reader *before; /* what an earlier run left, for the hot sets; NULL if nothing */
    ni_bin_room bins;
};

ni_observer_options ni_observer_defaults(void) {
    return (ni_observer_options){.every = 200, .spread = 1, .window = 50, .hot_channels = 16, .attention_stride = 16};
}

/* ---- what is watched ---- */

static bool of_interest(const ni_observer *o, const char *module) {
    return !o->options.modules || fnmatch(o->options.modules, module, 0) == 0;
}

/* By "layers.3.mlp.up_proj/fprop.w" or ".../output". */
static bool wants_tiles(const ni_observer *o, const char *prefix) {
    return o->options.tiles && *o->options.tiles && fnmatch(o->options.tiles, prefix, 0) == 0;
}

static void restore_hot(ni_observer *o, watched *w) {
    char name[NI_SERIES_NAME_SIZE];
    if (!o->before)
        return;
    snprintf(name, sizeof name, "%s/hot", w->prefix);
    int32_t hot = ni_series_find(o->before, name);
    snprintf(name, sizeof name, "%s/hot_since", w->prefix);
    int32_t since = ni_series_find(o->before, name);
    if (hot < 0 || since < 0 || !ni_series_points(o->before, hot) || !ni_series_points(o->before, since))
        return;
    ni_series_point a = ni_series_at(o->before, hot, ni_series_points(o->before, hot) - 1);
    ni_series_point b = ni_series_at(o->before, since, ni_series_points(o->before, since) - 1);
    if (a.count == b.count)
        ni_hot_set_restore(&w->hot, a.values, b.values, a.count, o->options.hot_channels);
}

static watched *find(ni_observer *o, const char *module, nb_role role) {
    size_t length = strlen(module);
    uint32_t hash = nb_name_hash(module, nb_role_name(role));
    for (int32_t i = 0; i < o->count; i++) {
        const char *prefix = o->watched[i].prefix;
        if (o->watched[i].hash == hash && strncmp(prefix, module, length) == 0 && prefix[length] == '/' &&
            strcmp(prefix + length + 1, nb_role_name(role)) == 0)
            return &o->watched[i];
    }
    return NULL;
}

static watched *watch(ni_observer *o, const char *module, nb_role role) {
    watched *known = find(o, module, role);
    if (known)
        return known;
    if (o->count == o->capacity) {
        int32_t capacity = o->capacity ? 2 * o->capacity : 64;
        watched *grown = realloc(o->watched, (size_t)capacity * sizeof *grown);
        if (!grown)
            return NULL;
        o->watched = grown;
        o->capacity = capacity;
    }
    watched *fresh = &o->watched[o->count++];
    *fresh = (watched){.last_step = -1, .hash = nb_name_hash(module, nb_role_name(role))};
    snprintf(fresh->prefix, sizeof fresh->prefix, "%s/%s", module, nb_role_name(role));
    restore_hot(o, fresh);
    return fresh;
}

/* ---- hooks ---- */

/* W, X and dY enter two products each. Where the second reads the very numbers of the first, they are not measured
 * again. */
static bool source_is_known(ni_observer *o, const nb_lens_operand *seen) {
    static const nb_role earlier[NB_ROLE_COUNT] = {
        [NB_FPROP_X] = NB_FPROP_X, [NB_FPROP_W] = NB_FPROP_W,   [NB_DGRAD_DY] = NB_DGRAD_DY,
        [NB_DGRAD_W] = NB_FPROP_W, [NB_WGRAD_DY] = NB_DGRAD_DY, [NB_WGRAD_X] = NB_FPROP_X};
    if (!seen->source || earlier[seen->role] == seen->role)
        return false;
    const watched *first = find(o, seen->module, earlier[seen->role]);
    return first && first->last_step == o->record.step && first->source.data == seen->source->data &&
           first->source.rows == seen->source->rows && first->source.cols == seen->source->cols &&
           first->source.stride == seen->source->stride && first->source.dtype == seen->source->dtype;
}

/* Input channels of X and of W, output channels of dY. */
static bool has_channels(nb_role role) {
    return role == NB_FPROP_X || role == NB_FPROP_W || role == NB_DGRAD_DY;
}

static void take_hot_channels(void *owner, int32_t which, const float *columns, int64_t cols) {
    ni_observer *o = owner;
    watched *w = &o->watched[which];
    ni_record_hot_channels(&o->record, w->prefix, &w->hot, columns, cols, o->options.hot_channels);
}

static void sample_operand(ni_observer *o, watched *w, const nb_lens_operand *seen) {
    const ni_measured wanted = {.channels = true,
                                .crests = true,
                                .tiles = wants_tiles(o, w->prefix),
                                .then = has_channels(seen->role) ? take_hot_channels : NULL,
                                .owner = o,
                                .which = (int32_t)(w - o->watched)};
    if (!ni_record_operand(&o->record, w->prefix, seen, source_is_known(o, seen), wanted)) {
        ni_skip_note(&o->skipped, "everything", "out of memory", w->prefix);
        return;
    }
    if (seen->role == NB_FPROP_W && !ni_record_bin_distances(&o->record, w->prefix, &o->bins, seen))
        ni_skip_note(&o->skipped, "bin distances", "out of memory", w->prefix);
    if (!w->told) {
        ni_note_skipped(&o->skipped, w->prefix, seen);
        if (seen->role == NB_FPROP_W && seen->quantized && o->options.window <= 0)
            ni_skip_note(&o->skipped, "oscillation",
                         "no step follows a sample, for lens.window or lens.every is too short", w->prefix);
    }
    w->told = true;
}

static void see_operand(ni_observer *o, const nb_lens_operand *seen, bool sampled) {
    if (!of_interest(o, seen->module))
        return;
    watched *w = watch(o, seen->module, seen->role);
    if (!w || w->last_step == o->record.step)
        return;
    w->last_step = o->record.step;
    w->source = seen->source ? *seen->source : (nb_mat){0};
    if (sampled)
        sample_operand(o, w, seen);
    if (seen->role == NB_FPROP_W && o->options.window && o->record.step <= o->window_start + o->options.window)
        ni_follow_step(&w->followed, seen);
}

static void on_operand(void *context, const nb_lens_operand *seen) {
    see_operand(context, seen, true);
}

static void on_followed(void *context, const nb_lens_operand *seen) {
    see_operand(context, seen, false);
}

static void on_attention(void *context, nb_backend *be, const char *module, const nb_attention *attention,
                         const void *q, const void *k) {
    ni_observer *o = context;
    if (!of_interest(o, module))
        return;
    if (!be->ops->measure_attention)
        ni_skip_note(&o->skipped, "logits and entropy", "this backend does not measure attention", module);
    else if (!ni_record_attention(&o->record, module, be, attention, q, k, o->options.attention_stride))
        ni_skip_note(&o->skipped, "logits and entropy", "out of memory", module);
}

static void on_gate(void *context, nb_backend *be, const char *module, const nb_mat *pre_activation, const void *bias) {
    ni_observer *o = context;
    if (of_interest(o, module) && !ni_record_gate(&o->record, module, be, pre_activation, bias))
        ni_skip_note(&o->skipped, "gates", "out of memory", module);
}

static void on_approximation(void *context, nb_backend *be, const char *module, const char *mechanism,
                             const nb_mat *exact, const nb_mat *approximate) {
    ni_observer *o = context;
    if (of_interest(o, module) && !ni_record_approximation(&o->record, module, mechanism, be, exact, approximate))
        ni_skip_note(&o->skipped, "what stands for a tensor", "out of memory", module);
}

/* Not logits: a column a word, and chunks of them. */
static void on_output(void *context, nb_backend *be, const char *module, const nb_mat *y) {
    ni_observer *o = context;
    if (!of_interest(o, module) || strcmp(module, "lm_head") == 0)
        return;
    char prefix[NB_NAME_SIZE + 16];
    snprintf(prefix, sizeof prefix, "%s/output", module);
    if (!ni_record_output(&o->record, module, be, y, wants_tiles(o, prefix)))
        ni_skip_note(&o->skipped, "outputs", "out of memory", module);
}

static void on_scalar(void *context, const char *module, const char *name, double value) {
    ni_observer *o = context;
    if (of_interest(o, module))
        ni_record_scalar(&o->record, module, name, value);
}

bool ni_observer_looks(const ni_observer *o, int32_t block) {
    return o->part >= 0 && block % o->options.spread == o->part;
}

void ni_observer_alignment(ni_observer *o, const char *module, nb_backend *be, const nb_mat *gate, const nb_mat *up) {
    if (of_interest(o, module) && !ni_record_alignment(&o->record, module, be, gate, up))
        ni_skip_note(&o->skipped, "alignment", "out of memory", module);
}

/* ---- steps ---- */

static const nb_lens *unsampled(const ni_observer *o) {
    return o->options.window > 0 ? &o->following : &o->scalars_only;
}

static const nb_lens *of_block(void *context, int32_t index) {
    const ni_observer *o = context;
    return ni_observer_looks(o, index) ? &o->lens : unsampled(o);
}

static void begin_sample(ni_observer *o, int64_t step) {
    o->window_start = step;
    for (int32_t i = 0; i < o->count; i++)
        ni_follow_begin(&o->watched[i].followed);
    if (o->options.spread == 1)
        return;
    ni_series_put(o->record.series, NI_SERIES_SPREAD, (double)o->options.spread);
    o->record.any = true;
}

const nb_lens *ni_observer_lens(ni_observer *o, int64_t step) {
    ni_record_forget(&o->record); /* a step that was not ended is taken again */
    o->record.step = step;
    for (int32_t i = 0; i < o->count; i++)
        o->watched[i].last_step = -1;
    if (step % o->options.every == 0)
        begin_sample(o, step);
    const int64_t since = o->window_start < 0 ? -1 : step - o->window_start;
    o->part = since < o->options.spread ? since : -1;
    if (o->part < 0)
        return since >= 0 && since <= o->options.window ? &o->following : &o->scalars_only;
    if (o->options.spread == 1)
        return &o->lens;
    return o->part == 0 ? &o->first_part : &o->later_part;
}

nb_status ni_observer_end_step(ni_observer *o, int64_t step, nb_error *err) {
    if (o->window_start >= 0 && step == o->window_start + o->options.window)
        for (int32_t i = 0; i < o->count; i++)
            if (!ni_follow_end(&o->watched[i].followed, &o->record, o->watched[i].prefix))
                ni_skip_note(&o->skipped, "oscillation", "out of memory", o->watched[i].prefix);
    NB_TRY(ni_skipped_write(&o->skipped, o->skipped_path, err));
    return ni_record_commit(&o->record, err);
}

/* ---- life ---- */

static nb_status open_files(ni_observer *o, const char *folder, int64_t first_step, nb_error *err) {
    char path[1024];
    if (snprintf(path, sizeof path, "%s/series.nbs", folder) >= (int)sizeof path)
        return nb_fail(err, NB_BAD_USAGE, "%.60s...: the path of the lens folder is too long", folder);
    snprintf(o->skipped_path, sizeof o->skipped_path, "%s/skipped.txt", folder);
    NB_TRY(ni_series_writer_open(path, first_step, &o->record.series, err));
    NB_TRY(ni_tensorboard_open(folder, &o->record.events, err));
    return first_step > 0 ? ni_series_read(path, &o->before, NULL, err) : NB_OK;
}

nb_status ni_observer_create(const ni_observer_options *options, const char *folder, int64_t first_step,
                             ni_observer **out, nb_error *err) {
    *out = NULL;
    ni_observer *o = calloc(1, sizeof *o);
    if (!o)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for the lens", folder);
    o->options = *options;
    if (o->options.window >= o->options.every)
        o->options.window = o->options.every - 1;
    if (o->options.spread > o->options.every)
        o->options.spread = o->options.every;
    o->window_start = o->part = -1;
    o->lens = (nb_lens){.context = o,
                        .counts = true,
                        .operand = on_operand,
                        .attention = on_attention,
                        .approximation = on_approximation,
                        .scalar = on_scalar,
                        .gate = on_gate,
                        .output = on_output};
    o->following = (nb_lens){.context = o, .operand = on_followed, .scalar = on_scalar, .roles = 1u << NB_FPROP_W};
    o->scalars_only = (nb_lens){.context = o, .scalar = on_scalar};
    o->first_part = o->lens;
    o->later_part = *unsampled(o);
    o->first_part.block = o->later_part.block = of_block;
    nb_status status = open_files(o, folder, first_step, err);
    if (status != NB_OK) {
        ni_observer_free(o);
        return status;
    }
    *out = o;
    return NB_OK;
}

void ni_observer_free(ni_observer *o) {
    if (!o)
        return;
    for (int32_t i = 0; i < o->count; i++) {
        ni_hot_set_free(&o->watched[i].hot);
        ni_follow_free(&o->watched[i].followed);
    }
    free(o->watched);
    ni_bin_room_free(&o->bins);
    ni_waiting_free(&o->record.waiting);
    ni_series_writer_close(o->record.series);
    ni_series_reader_free(o->before);
    ni_tensorboard_close(o->record.events, NULL);
    free(o);
}

nb_status ni_observer_sync(ni_observer *o, nb_error *err) {
    NB_TRY(ni_series_sync(o->record.series, err));
    return ni_tensorboard_sync(o->record.events, err);
}

const char *ni_observer_aside(const ni_observer *o) {
    return ni_series_aside(o->record.series);
}

size_t ni_observer_bytes(const ni_observer *o) {
    size_t bytes =
        sizeof *o + o->bins.bytes + (size_t)o->capacity * sizeof *o->watched + ni_waiting_bytes(&o->record.waiting);
    for (int32_t i = 0; i < o->count; i++)
        bytes += o->watched[i].followed.bytes +
                 (o->watched[i].hot.channels ? 2 * (size_t)o->options.hot_channels * sizeof(float) : 0);
    return bytes;
}
