/* oscireset.c: OsciReset (arXiv:2510.27527; facts from the authors' code).
 *
 * Late in training a weight near the edge of its bin jumps from bin to bin while hardly moving itself. Over the first
 * steps of every period the mechanism adds up, element by element,
 *     dist_w = sum |w_t - w_{t-1}|        dist_q = sum |q_t - q_{t-1}|        q = what the forward pass makes of w
 * and sets w to q, the centre of its bin, where dist_q >= threshold * dist_w. Moments, step counts and decay are not
 * touched, nothing is frozen. With i the 0-based index of the step just taken, P the period, T0 the window:
 *     i mod P == 0        remember w
 *     1 <= i mod P <= T0  add up
 *     i mod P == T0 + 1   reset
 * ratio-top follows only the share of elements farthest from their bin's centre at the start of each period; bin-edge
 * follows none and resets what lies within a hair of an edge. The released code lets ratio-top run from step 0; here
 * every variant waits for `start`.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "nibble/lens.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { W_BEFORE, DIST_W, DIST_Q, ARRAYS };

typedef struct followed {
    int64_t elements;     /* followed: all, or the top share */
    float *array[ARRAYS]; /* backend memory, [elements] each; NULL for bin-edge */
    int32_t *chosen;      /* ratio-top: which elements, [elements] in backend memory */
} followed;

typedef struct oscireset {
    nb_linear_group *group;
    int32_t index;
    nb_oscireset how;
    int64_t tracking; /* 1 inside a window that began with a snapshot; kept in checkpoints */
    followed layers[NB_GROUP_LAYERS];
    size_t bytes;
    size_t scratch_bytes;
} oscireset;

static bool osci_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_oscireset;
}

static int64_t weight_elements(const nb_linear *layer) {
    return layer->out * layer->in;
}

/* ---- life ---- */

static void osci_detach(void *state) {
    oscireset *o = state;
    nb_backend *be = o->group->be;
    for (int32_t i = 0; i < o->group->count; i++) {
        for (int a = 0; a < ARRAYS; a++)
            nb_backend_release(be, o->layers[i].array[a]);
        nb_backend_release(be, o->layers[i].chosen);
    }
    free(o);
}

static nb_status place_layer(oscireset *o, const nb_linear *layer, followed *f, nb_error *err) {
    nb_backend *be = o->group->be;
    const nb_quantizer *w = &layer->plan.roles[NB_FPROP_W].quantizer;
    if (w->element != NB_ELEMENT_E2M1 || w->round == NB_ROUND_STOCHASTIC || w->hadamard_size)
        return nb_fail(
            err, NB_BAD_CONFIG,
            "%s: oscireset needs fprop.w in E2M1, rounded to nearest and not rotated: only then a weight has a "
            "bin of its own",
            layer->name);
    int64_t n = weight_elements(layer);
    size_t all = nb_scratch_room(sizeof(float) * (size_t)n);
    size_t need = 3 * all + nb_weight_decode_scratch(o->group, layer) + 3 * all; /* decoding may gather columns */
    o->scratch_bytes = need > o->scratch_bytes ? need : o->scratch_bytes;
    if (o->how.variant == NB_OSCI_BIN_EDGE)
        return NB_OK;
    f->elements = o->how.variant == NB_OSCI_RATIO ? n : (int64_t)ceil(o->how.top * (double)n);
    for (int a = 0; a < ARRAYS; a++)
        if (!(f->array[a] = be->ops->alloc(be, sizeof(float) * (size_t)f->elements, "followed weights")))
            return nb_fail(err, NB_NO_MEMORY, "%s: no memory to follow its weights", layer->name);
    o->bytes += ARRAYS * sizeof(float) * (size_t)f->elements;
    if (o->how.variant == NB_OSCI_RATIO_TOP) {
        if (!(f->chosen = be->ops->alloc(be, sizeof(int32_t) * (size_t)f->elements, "followed weights")))
            return nb_fail(err, NB_NO_MEMORY, "%s: no memory to follow its weights", layer->name);
        o->bytes += sizeof(int32_t) * (size_t)f->elements;
    }
    return NB_OK;
}

static nb_status osci_attach(nb_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->reset_where || group->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no oscireset", group->input, group->be->name);
    oscireset *o = calloc(1, sizeof *o);
    if (!o)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for oscireset", group->input);
    o->group = group;
    o->index = index;
    *state = o;
    for (int32_t i = 0; i < group->count && group->training; i++)
        if (group->layers[i].mechanisms >> index & 1) {
            if (!group->layers[i].master)
                return nb_fail(err, NB_BAD_CONFIG,
                               "%s: oscireset moves masters where they are; expected optimizer_state.master: fp32",
                               group->layers[i].name);
            o->how = group->layers[i].plan.mechanisms.oscireset;
            NB_TRY(place_layer(o, &group->layers[i], &o->layers[i], err));
        }
    return NB_OK;
}

/* ---- one layer, one step ---- */

static nb_status take(nb_scratch *scratch, int64_t n, float **out, nb_error *err) {
    *out = nb_scratch_take(scratch, sizeof(float) * (size_t)n);
    return *out ? NB_OK : nb_scratch_short(scratch, "a decoded weight", sizeof(float) * (size_t)n, err);
}

static nb_mat line(const float *x, int64_t n) {
    return nb_mat_of(x, NB_F32, 1, n);
}

/* Of all elements those that are followed. */
static const float *pick(nb_backend *be, const followed *f, const float *all, int64_t n, float *room) {
    if (!f->chosen)
        return all;
    nb_mat from = line(all, n), to = line(room, f->elements);
    be->ops->gather_columns(be, &to, &from, f->chosen);
    return room;
}

typedef struct ranked {
    float score;
    int32_t element;
} ranked;

static int farthest_first(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->element - y->element; /* ties go to the lower index */
}

static int by_element(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

/* Distance from the bin's centre in bin widths; 0 where there is no bin. Host arrays. */
static float distance(float w, float q, float width) {
    return width > 0 ? fabsf(w - q) / width : 0;
}

/* ratio-top: chooses the elements to follow in this period. On the host: once a period. */
static nb_status choose(oscireset *o, nb_linear *layer, followed *f, nb_scratch *scratch, const nb_pass *pass,
                        nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    float *q, *widths;
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(take(scratch, n, &widths, err));
    NB_TRY(nb_weight_decode(o->group, layer, scratch, pass, layer->master, q, widths, err));
    size_t bytes = sizeof(float) * (size_t)n;
    float *host = malloc(3 * bytes);
    ranked *order = malloc(sizeof *order * (size_t)n);
    int32_t *chosen = malloc(sizeof *chosen * (size_t)n);
    if (host && order && chosen) {
        be->ops->download(be, host, layer->master, bytes);
        be->ops->download(be, host + n, q, bytes);
        be->ops->download(be, host + 2 * n, widths, bytes);
        for (int64_t i = 0; i < n; i++)
            order[i] = (ranked){distance(host[i], host[n + i], host[2 * n + i]), (int32_t)i};
        qsort(order, (size_t)n, sizeof *order, farthest_first);
        for (int64_t i = 0; i < f->elements; i++)
            chosen[i] = order[i].element;
        qsort(chosen, (size_t)f->elements, sizeof *chosen, by_element);
        be->ops->upload(be, f->chosen, chosen, sizeof *chosen * (size_t)f->elements);
    }
    bool good = host && order && chosen;
    free(host);
    free(order);
    free(chosen);
    return good ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory to rank its weights", layer->name);
}

static nb_status snapshot(oscireset *o, nb_linear *layer, followed *f, nb_scratch *scratch, const nb_pass *pass,
                          nb_error *err) {
    nb_backend *be = o->group->be;
    size_t bytes = sizeof(float) * (size_t)f->elements;
    if (f->chosen)
        NB_TRY(choose(o, layer, f, scratch, pass, err));
    be->ops->fill_zero(be, f->array[DIST_W], bytes);
    be->ops->fill_zero(be, f->array[DIST_Q], bytes);
    const float *w = pick(be, f, layer->master, weight_elements(layer), f->array[W_BEFORE]);
    if (w != f->array[W_BEFORE])
        be->ops->copy(be, f->array[W_BEFORE], w, bytes);
    return NB_OK;
}

/* The weight as it was a step ago: all of it, for scales are shared by blocks. Elements that are not followed stand as
 * they are now; their share in a block's scale is what ratio-top gives up. */
static nb_status weight_before(oscireset *o, const nb_linear *layer, const followed *f, float *out) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    if (!f->chosen) {
        be->ops->copy(be, out, f->array[W_BEFORE], sizeof(float) * (size_t)n);
        return NB_OK;
    }
    nb_mat to = line(out, n), from = line(f->array[W_BEFORE], f->elements);
    be->ops->copy(be, out, layer->master, sizeof(float) * (size_t)n);
    be->ops->scatter_columns(be, &to, &from, f->chosen, false);
    return NB_OK;
}

static nb_status add_up(oscireset *o, nb_linear *layer, followed *f, nb_scratch *scratch, const nb_pass *pass,
                        nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    float *before, *q_before, *q, *room[3];
    NB_TRY(take(scratch, n, &before, err));
    NB_TRY(take(scratch, n, &q_before, err));
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(weight_before(o, layer, f, before));
    NB_TRY(nb_weight_decode(o->group, layer, scratch, pass, before, q_before, NULL, err));
    NB_TRY(nb_weight_decode(o->group, layer, scratch, pass, layer->master, q, NULL, err));
    for (int i = 0; i < 3; i++)
        NB_TRY(take(scratch, f->chosen ? f->elements : 0, &room[i], err));
    const float *w = pick(be, f, layer->master, n, room[0]);
    be->ops->add_distance(be, f->array[DIST_W], w, f->array[W_BEFORE], f->elements);
    be->ops->add_distance(be, f->array[DIST_Q], pick(be, f, q, n, room[1]), pick(be, f, q_before, n, room[2]),
                          f->elements);
    be->ops->copy(be, f->array[W_BEFORE], w, sizeof(float) * (size_t)f->elements);
    return NB_OK;
}

static nb_status reset(oscireset *o, nb_linear *layer, followed *f, nb_scratch *scratch, const nb_pass *pass,
                       int64_t *resets, nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    float *q, *w, *picked;
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(nb_weight_decode(o->group, layer, scratch, pass, layer->master, q, NULL, err));
    if (!f->chosen) {
        *resets += be->ops->reset_where(be, layer->master, q, f->array[DIST_W], f->array[DIST_Q], n, o->how.threshold);
        return NB_OK;
    }
    NB_TRY(take(scratch, f->elements, &w, err));
    NB_TRY(take(scratch, f->elements, &picked, err));
    pick(be, f, layer->master, n, w);
    *resets += be->ops->reset_where(be, w, pick(be, f, q, n, picked), f->array[DIST_W], f->array[DIST_Q], f->elements,
                                    o->how.threshold);
    nb_mat to = line(layer->master, n), from = line(w, f->elements);
    be->ops->scatter_columns(be, &to, &from, f->chosen, false);
    return NB_OK;
}

/* bin-edge: |w - q| >= edge * width, told to reset_where as two distances. */
static nb_status reset_edges(oscireset *o, nb_linear *layer, nb_scratch *scratch, const nb_pass *pass, int64_t *resets,
                             nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    float *q, *widths, *away;
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(take(scratch, n, &widths, err));
    NB_TRY(take(scratch, n, &away, err));
    NB_TRY(nb_weight_decode(o->group, layer, scratch, pass, layer->master, q, widths, err));
    be->ops->fill_zero(be, away, sizeof(float) * (size_t)n);
    be->ops->add_distance(be, away, layer->master, q, n);
    *resets += be->ops->reset_where(be, layer->master, q, widths, away, n, o->how.edge);
    return NB_OK;
}

/* ---- the schedule ---- */

static nb_status layer_step(oscireset *o, nb_linear *layer, followed *f, int64_t phase, int64_t window,
                            nb_scratch *scratch, const nb_pass *pass, int64_t *resets, nb_error *err) {
    if (o->how.variant == NB_OSCI_BIN_EDGE)
        return phase == 0 ? reset_edges(o, layer, scratch, pass, resets, err) : NB_OK;
    if (phase == 0)
        return snapshot(o, layer, f, scratch, pass, err);
    if (!o->tracking)
        return NB_OK;
    if (phase <= window)
        return add_up(o, layer, f, scratch, pass, err);
    return phase == window + 1 ? reset(o, layer, f, scratch, pass, resets, err) : NB_OK;
}

static nb_status osci_after_step(void *state, nb_linear_group *group, const nb_pass *pass, nb_scratch *scratch,
                                 nb_error *err) {
    oscireset *o = state;
    nb_oscireset_times when = nb_oscireset_when(&o->how, pass->steps);
    int64_t phase = pass->step % when.period;
    if (pass->step < when.start)
        return NB_OK;
    for (int32_t i = 0; i < group->count; i++) {
        nb_linear *layer = &group->layers[i];
        size_t mark = scratch->used;
        int64_t resets = 0;
        if (!(layer->mechanisms >> o->index & 1))
            continue;
        NB_TRY(layer_step(o, layer, &o->layers[i], phase, when.window, scratch, pass, &resets, err));
        scratch->used = mark;
        bool acted = o->how.variant == NB_OSCI_BIN_EDGE ? phase == 0 : o->tracking && phase == when.window + 1;
        if (acted && pass->lens && pass->lens->scalar)
            pass->lens->scalar(pass->lens->context, layer->name, "reset_share",
                               (double)resets / (double)weight_elements(layer));
    }
    if (phase == 0)
        o->tracking = 1;
    else if (phase > when.window)
        o->tracking = 0;
    return NB_OK;
}

/* ---- checkpoints, census ---- */

static int32_t osci_tensors(void *state, nb_mechanism_tensor *tensors, int32_t most) {
    static const char *const names[ARRAYS] = {"oscireset.w", "oscireset.dist_w", "oscireset.dist_q"};
    oscireset *o = state;
    int32_t count = 0;
    for (int32_t i = 0; i < o->group->count; i++) {
        followed *f = &o->layers[i];
        for (int a = 0; a < ARRAYS && f->elements; a++, count++)
            if (count < most)
                tensors[count] = (nb_mechanism_tensor){i, names[a], NB_F32, f->elements, f->array[a], false};
        if (f->chosen && count++ < most)
            tensors[count - 1] = (nb_mechanism_tensor){i, "oscireset.chosen", NB_I32, f->elements, f->chosen, false};
    }
    if (count++ < most)
        tensors[count - 1] = (nb_mechanism_tensor){-1, "oscireset.tracking", NB_I32, 2, &o->tracking, true};
    return count;
}

static size_t osci_scratch(const void *state, int64_t rows) {
    (void)rows;
    return ((const oscireset *)state)->scratch_bytes;
}

static size_t osci_bytes(const void *state) {
    return ((const oscireset *)state)->bytes;
}

static void osci_text(const void *state, const nb_linear *layer, nb_gemm gemm, char *text, size_t size) {
    const oscireset *o = state;
    (void)layer;
    if (gemm == NB_GEMM_FPROP)
        snprintf(text, size, "oscireset every %g%s", o->how.period, o->how.period < 1 ? " of the run" : "");
}

const nb_mechanism nb_mechanism_oscireset = {
    .name = "oscireset",
    .wanted = osci_wanted,
    .attach = osci_attach,
    .detach = osci_detach,
    .scratch = osci_scratch,
    .after_step = osci_after_step,
    .tensors = osci_tensors,
    .bytes = osci_bytes,
    .text = osci_text,
};
