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
 * ratio-top follows only the share of elements farthest from their bin's centre at the start of each period, and keeps
 * what each of them was in the forward pass of the step before; bin-edge follows none and resets what lies within a
 * hair of an edge. The released code lets ratio-top run from step 0; here every variant waits for `start`.
 *
 * A single hop over an edge already gives a high ratio where the window is short: a weight that moves by d a step and
 * hops once over a bin of width b has R = b / (T0 d). Two options against it: `scale_threshold` multiplies the
 * threshold by 50 / T0, `flips` asks that q went to another bin so many times.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "nibble/lens.h"
#include "recipe/mechanism.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { W_BEFORE, DIST_W, DIST_Q, Q_BEFORE, ARRAYS };
enum { PUBLISHED_WINDOW = 50 }; /* that the published threshold belongs to */

/* Backend memory; [elements] each where there is any. */
typedef struct followed {
    int64_t elements;     /* followed: all, or the top share */
    float *array[ARRAYS]; /* NULL for bin-edge; Q_BEFORE with ratio-top alone, for `ratio` can make it from W_BEFORE */
    int32_t *chosen;      /* ratio-top: which elements */
    uint8_t *flips;       /* how often q went to another bin; where how.flips asks for it */
    int64_t *resets;      /* [1] */
} followed;

typedef struct oscireset {
    ni_linear_group *group;
    int32_t index;
    nb_oscireset how;
    int64_t tracking; /* 1 inside a window that began with a snapshot; kept in checkpoints */
    followed layers[NI_GROUP_LAYERS];
    size_t bytes;
    size_t scratch_bytes;
} oscireset;

/* ---- keys and times, from the released code of arXiv:2510.27527 ---- */

static const ni_word osci_variants[] = {
    {"ratio", NB_OSCI_RATIO, "follows every element"},
    {"ratio-top", NB_OSCI_RATIO_TOP, "follows those farthest from their bin's centre (memory efficient)"},
    {"bin-edge", NB_OSCI_BIN_EDGE, "follows none: resets what lies at a bin's edge"},
    {0}};
static const ni_key oscireset_rows[] = {
    {.path = "variant",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_oscireset, variant),
     .fallback = "ratio",
     .words = osci_variants,
     .help = "how oscillating weights are found",
     .source = "distance_ratio of arXiv:2510.27527's code"},
    {.path = "start",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, start),
     .fallback = "0.64",
     .high = 1e9,
     .help = "first step of the first period, rounded up to a whole period; below 1 a share of the run, rounded to the "
             "nearest",
     .source = "step 8000 of 12505 in the 70M recipe of arXiv:2510.27527; 15000 and 35000 in those of 150M and 370M"},
    {.path = "period",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, period),
     .fallback = "200",
     .positive = true,
     .high = 1e9,
     .help = "steps from reset to reset; below 1 a share of the run",
     .source = "70M and 150M recipes of arXiv:2510.27527; 400 in that of 370M"},
    {.path = "window",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, window),
     .fallback = "50",
     .positive = true,
     .high = 1e9,
     .help = "steps of a period that distances are summed over; below 1 a share of the run",
     .source = "T0 of arXiv:2510.27527's code"},
    {.path = "threshold",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, threshold),
     .fallback = "8",
     .positive = true,
     .help = "reset where dist_Q / dist_W reaches it",
     .source = "released recipes of arXiv:2510.27527 (16 in its class default)"},
    {.path = "scale_threshold",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_oscireset, scale_threshold),
     .fallback = "false",
     .help = "multiplies the threshold by 50 / window, for windows shorter than the published one",
     .source = "our option: one hop over an edge has a ratio that grows as the window shrinks"},
    {.path = "flips",
     .type = NI_KEY_INT,
     NI_FIELD(nb_oscireset, flips),
     .fallback = "0",
     .high = 255,
     .help = "ratio, ratio-top: reset only what went to another bin at least so often in the window",
     .source = "our option: 2 tells an oscillation from a single hop"},
    {.path = "top",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, top),
     .fallback = "0.1",
     .high = 1,
     .positive = true,
     .help = "ratio-top: share of each weight's elements that are followed",
     .source = "distance_ratio_memeff of arXiv:2510.27527's code"},
    {.path = "edge",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, edge),
     .fallback = "0.495",
     .high = 1,
     .positive = true,
     .help = "bin-edge: reset beyond this distance from the bin's centre, in bin widths",
     .source = "bin_edge of arXiv:2510.27527's code"},
};

/* A window in shares meets a period in steps only when the run is known: nb_recipe_check_steps. */
static nb_status finish_oscireset(void *record, const ni_yaml_node *node, nb_error *err) {
    const nb_oscireset *o = record;
    NB_TRY(ni_check_steps(node, "start", o->start, err));
    NB_TRY(ni_check_steps(node, "period", o->period, err));
    NB_TRY(ni_check_steps(node, "window", o->window, err));
    if (o->variant == NB_OSCI_BIN_EDGE && o->flips > 0)
        return ni_keys_fail(err, node, "flips", "%d with variant bin-edge, which follows no weights; expected 0",
                            o->flips);
    if (o->variant == NB_OSCI_BIN_EDGE)
        return NB_OK;
    if (o->window >= 1 && o->flips > o->window)
        return ni_keys_fail(err, node, "flips", "%d in a window of %g steps; expected at most as many", o->flips,
                            o->window);
    if (o->period >= 1 && o->window >= 1 && o->window + 1 >= o->period)
        return ni_keys_fail(err, node, "window", "%g steps do not fit a period of %g; expected at most %g", o->window,
                            o->period, o->period - 2);
    if (o->period < 1 && o->window < 1 && o->window >= o->period)
        return ni_keys_fail(err, node, "window", "a share of %g does not fit a period of %g; expected less", o->window,
                            o->period);
    return NB_OK;
}

/* The released code tells the time of a period from step 0, so a start in steps waits for the next one; a share of the
 * run was never meant to the step and takes the nearest, though not step 0. */
nb_oscireset_times nb_oscireset_when(const nb_oscireset *how, int64_t steps) {
    int64_t period = ni_least_one(nb_step_of(how->period, steps)), start = nb_step_of(how->start, steps);
    bool share = how->start > 0 && how->start < 1;
    int64_t periods = share ? ni_least_one((2 * start + period) / (2 * period)) : (start + period - 1) / period;
    return (nb_oscireset_times){
        .start = periods * period, .period = period, .window = ni_least_one(nb_step_of(how->window, steps))};
}

static int64_t oscireset_first(const void *how, int64_t steps) {
    return nb_oscireset_when(how, steps).start;
}

static int64_t oscireset_acts(const void *how, int64_t steps) {
    nb_oscireset_times when = nb_oscireset_when(how, steps);
    return ((const nb_oscireset *)how)->variant == NB_OSCI_BIN_EDGE ? when.start : when.start + when.window + 1;
}

static nb_status check_oscireset(const void *how, int64_t steps, nb_error *err) {
    nb_oscireset_times when = nb_oscireset_when(how, steps);
    if (((const nb_oscireset *)how)->variant == NB_OSCI_BIN_EDGE || when.window + 2 <= when.period)
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG,
                   "in a run of %lld steps oscireset.window is %lld and oscireset.period %lld; expected "
                   "a period at least 2 steps longer than its window",
                   (long long)steps, (long long)when.window, (long long)when.period);
}

const ni_mechanism_section ni_oscireset_section = {.keys = {.name = "oscireset",
                                                            .rows = oscireset_rows,
                                                            .count = NI_COUNT(oscireset_rows),
                                                            .size = sizeof(nb_oscireset),
                                                            .finish = finish_oscireset},
                                                   .first = oscireset_first,
                                                   .acts = oscireset_acts,
                                                   .act = "first reset",
                                                   .check = check_oscireset};

/* ---- what it does ---- */

static bool osci_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_oscireset;
}

static int64_t weight_elements(const ni_linear *layer) {
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
        nb_backend_release(be, o->layers[i].flips);
        nb_backend_release(be, o->layers[i].resets);
    }
    free(o);
}

static nb_status place(oscireset *o, const ni_linear *layer, size_t bytes, void **memory, nb_error *err) {
    *memory = o->group->be->ops->alloc(o->group->be, bytes, "followed weights");
    o->bytes += bytes;
    return *memory ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory to follow its weights", layer->name);
}

/* Whole weights: the weight before, both q, and the widths of bins if flips are counted; besides, decoding gathers
 * columns where OutControl splits them, and what is followed is picked. */
static size_t scratch_of(const oscireset *o, const ni_linear *layer) {
    size_t all = ni_scratch_room(sizeof(float) * (size_t)weight_elements(layer)), extra = o->how.flips > 0 ? 1 : 0;
    return (3 + extra) * all + ni_weight_decode_scratch(o->group, layer) + (3 + extra) * all;
}

static nb_status place_layer(oscireset *o, const ni_linear *layer, followed *f, nb_error *err) {
    const nb_quantizer *w = &layer->plan.roles[NB_FPROP_W].quantizer;
    if (w->element != NB_ELEMENT_E2M1 || w->round == NB_ROUND_STOCHASTIC || w->hadamard_size)
        return nb_fail(
            err, NB_BAD_CONFIG,
            "%s: oscireset needs fprop.w in E2M1, rounded to nearest and not rotated: only then a weight has a "
            "bin of its own",
            layer->name);
    int64_t n = weight_elements(layer);
    bool top = o->how.variant == NB_OSCI_RATIO_TOP;
    size_t need = scratch_of(o, layer);
    o->scratch_bytes = need > o->scratch_bytes ? need : o->scratch_bytes;
    NB_TRY(place(o, layer, sizeof *f->resets, (void **)&f->resets, err));
    if (o->how.variant == NB_OSCI_BIN_EDGE)
        return NB_OK;
    f->elements = top ? (int64_t)ceil(o->how.top * (double)n) : n;
    for (int a = 0; a < (top ? ARRAYS : Q_BEFORE); a++)
        NB_TRY(place(o, layer, sizeof(float) * (size_t)f->elements, (void **)&f->array[a], err));
    if (o->how.flips > 0)
        NB_TRY(place(o, layer, (size_t)f->elements, (void **)&f->flips, err));
    return top ? place(o, layer, sizeof(int32_t) * (size_t)f->elements, (void **)&f->chosen, err) : NB_OK;
}

static nb_status osci_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
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

static nb_status take(ni_scratch *scratch, int64_t n, float **out, nb_error *err) {
    *out = ni_scratch_take(scratch, sizeof(float) * (size_t)n);
    return *out ? NB_OK : ni_scratch_short(scratch, "a decoded weight", sizeof(float) * (size_t)n, err);
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

/* ratio-top: the elements to follow in this period, and what they are in the forward pass now. */
static nb_status choose(oscireset *o, ni_linear *layer, followed *f, ni_scratch *scratch, const nb_pass *pass,
                        nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    float *q, *widths;
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(take(scratch, n, &widths, err));
    NB_TRY(ni_weight_decode(o->group, layer, scratch, pass, layer->master, q, widths, err));
    be->ops->bin_distances(be, widths, layer->master, q, widths, n);
    be->ops->top_k(be, f->chosen, widths, n, f->elements, true);
    pick(be, f, q, n, f->array[Q_BEFORE]);
    return NB_OK;
}

static nb_status snapshot(oscireset *o, ni_linear *layer, followed *f, ni_scratch *scratch, const nb_pass *pass,
                          nb_error *err) {
    nb_backend *be = o->group->be;
    size_t bytes = sizeof(float) * (size_t)f->elements;
    if (f->chosen)
        NB_TRY(choose(o, layer, f, scratch, pass, err));
    be->ops->fill_zero(be, f->array[DIST_W], bytes);
    be->ops->fill_zero(be, f->array[DIST_Q], bytes);
    if (f->flips)
        be->ops->fill_zero(be, f->flips, (size_t)f->elements);
    const float *w = pick(be, f, layer->master, weight_elements(layer), f->array[W_BEFORE]);
    if (w != f->array[W_BEFORE])
        be->ops->copy(be, f->array[W_BEFORE], w, bytes);
    return NB_OK;
}

/* q of the step before: kept, or made from the weight as it was then. */
static nb_status q_before(oscireset *o, ni_linear *layer, followed *f, ni_scratch *scratch, const nb_pass *pass,
                          const float **out, nb_error *err) {
    float *q;
    *out = f->array[Q_BEFORE];
    if (*out)
        return NB_OK;
    NB_TRY(take(scratch, f->elements, &q, err));
    *out = q;
    return ni_weight_decode(o->group, layer, scratch, pass, f->array[W_BEFORE], q, NULL, err);
}

static nb_status add_up(oscireset *o, ni_linear *layer, followed *f, ni_scratch *scratch, const nb_pass *pass,
                        nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer), picked = f->chosen ? f->elements : 0;
    size_t bytes = sizeof(float) * (size_t)f->elements;
    const float *before;
    float *q, *widths = NULL, *room[3];
    NB_TRY(q_before(o, layer, f, scratch, pass, &before, err));
    NB_TRY(take(scratch, n, &q, err));
    if (f->flips)
        NB_TRY(take(scratch, n, &widths, err));
    NB_TRY(ni_weight_decode(o->group, layer, scratch, pass, layer->master, q, widths, err));
    for (int i = 0; i < 3; i++)
        NB_TRY(take(scratch, picked, &room[i], err));
    const float *w = pick(be, f, layer->master, n, room[0]), *now = pick(be, f, q, n, room[1]);
    be->ops->add_distance(be, f->array[DIST_W], w, f->array[W_BEFORE], f->elements);
    be->ops->add_distance(be, f->array[DIST_Q], now, before, f->elements);
    if (f->flips)
        be->ops->add_flips(be, f->flips, now, before, pick(be, f, widths, n, room[2]), f->elements);
    be->ops->copy(be, f->array[W_BEFORE], w, bytes);
    if (f->array[Q_BEFORE])
        be->ops->copy(be, f->array[Q_BEFORE], now, bytes);
    return NB_OK;
}

static double threshold(const oscireset *o, int64_t window) {
    return o->how.threshold * (o->how.scale_threshold ? PUBLISHED_WINDOW / (double)window : 1);
}

static nb_status reset(oscireset *o, ni_linear *layer, followed *f, int64_t window, ni_scratch *scratch,
                       const nb_pass *pass, nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    double least = threshold(o, window);
    float *q, *w, *picked;
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(ni_weight_decode(o->group, layer, scratch, pass, layer->master, q, NULL, err));
    if (!f->chosen) {
        be->ops->reset_where(be, f->resets, layer->master, q, f->array[DIST_W], f->array[DIST_Q], f->flips,
                             o->how.flips, n, least);
        return NB_OK;
    }
    NB_TRY(take(scratch, f->elements, &w, err));
    NB_TRY(take(scratch, f->elements, &picked, err));
    pick(be, f, layer->master, n, w);
    be->ops->reset_where(be, f->resets, w, pick(be, f, q, n, picked), f->array[DIST_W], f->array[DIST_Q], f->flips,
                         o->how.flips, f->elements, least);
    nb_mat to = line(layer->master, n), from = line(w, f->elements);
    be->ops->scatter_columns(be, &to, &from, f->chosen, false);
    return NB_OK;
}

/* bin-edge: |w - q| >= edge * width, told to reset_where as two distances. */
static nb_status reset_edges(oscireset *o, ni_linear *layer, const followed *f, ni_scratch *scratch,
                             const nb_pass *pass, nb_error *err) {
    nb_backend *be = o->group->be;
    int64_t n = weight_elements(layer);
    float *q, *widths, *away;
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(take(scratch, n, &widths, err));
    NB_TRY(take(scratch, n, &away, err));
    NB_TRY(ni_weight_decode(o->group, layer, scratch, pass, layer->master, q, widths, err));
    be->ops->fill_zero(be, away, sizeof(float) * (size_t)n);
    be->ops->add_distance(be, away, layer->master, q, n);
    be->ops->reset_where(be, f->resets, layer->master, q, widths, away, NULL, 0, n, o->how.edge);
    return NB_OK;
}

/* ---- what the lens hears ---- */

static int64_t fp4_elements(const ni_linear_group *group, const ni_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->fp4_elements)
            return group->mechanisms[i].table->fp4_elements(group->mechanisms[i].state, layer);
    return weight_elements(layer);
}

static void tell(const oscireset *o, const ni_linear *layer, const followed *f, const nb_pass *pass) {
    int64_t resets, all = fp4_elements(o->group, layer);
    if (!pass->lens || !pass->lens->scalar)
        return;
    o->group->be->ops->download(o->group->be, &resets, f->resets, sizeof resets);
    pass->lens->scalar(pass->lens->context, layer->name, "reset_share", all > 0 ? (double)resets / (double)all : 0);
}

/* ---- the schedule ---- */

static nb_status layer_step(oscireset *o, ni_linear *layer, followed *f, int64_t phase, int64_t window,
                            ni_scratch *scratch, const nb_pass *pass, nb_error *err) {
    if (o->how.variant == NB_OSCI_BIN_EDGE)
        return reset_edges(o, layer, f, scratch, pass, err);
    if (phase == 0)
        return snapshot(o, layer, f, scratch, pass, err);
    if (phase <= window)
        return add_up(o, layer, f, scratch, pass, err);
    return reset(o, layer, f, window, scratch, pass, err);
}

static nb_status osci_after_step(void *state, ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                 nb_error *err) {
    oscireset *o = state;
    nb_oscireset_times when = nb_oscireset_when(&o->how, pass->steps);
    int64_t phase = pass->step % when.period;
    bool edges = o->how.variant == NB_OSCI_BIN_EDGE, resets = edges ? phase == 0 : phase == when.window + 1;
    if (pass->step < when.start)
        return NB_OK;
    for (int32_t i = 0; i < group->count; i++) {
        ni_linear *layer = &group->layers[i];
        size_t mark = scratch->used;
        if (!(layer->mechanisms >> o->index & 1) || (phase > 0 && (!o->tracking || edges || phase > when.window + 1)))
            continue;
        if (resets)
            group->be->ops->fill_zero(group->be, o->layers[i].resets, sizeof(int64_t));
        NB_TRY(layer_step(o, layer, &o->layers[i], phase, when.window, scratch, pass, err));
        scratch->used = mark;
        if (resets)
            tell(o, layer, &o->layers[i], pass);
    }
    if (phase == 0)
        o->tracking = 1;
    else if (phase > when.window)
        o->tracking = 0;
    return NB_OK;
}

/* ---- checkpoints, census ---- */

static int32_t osci_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    static const char *const names[ARRAYS] = {"oscireset.w", "oscireset.dist_w", "oscireset.dist_q", "oscireset.q"};
    oscireset *o = state;
    int32_t count = 0;
    for (int32_t i = 0; i < o->group->count; i++) {
        followed *f = &o->layers[i];
        for (int a = 0; a < ARRAYS; a++)
            if (f->array[a] && count++ < most)
                tensors[count - 1] =
                    (ni_mechanism_tensor){i, names[a], NB_F32, f->elements, f->array[a], false, NI_COMBINE_SAME};
        if (f->chosen && count++ < most)
            tensors[count - 1] =
                (ni_mechanism_tensor){i, "oscireset.chosen", NB_I32, f->elements, f->chosen, false, NI_COMBINE_SAME};
        if (f->flips && count++ < most)
            tensors[count - 1] =
                (ni_mechanism_tensor){i, "oscireset.flips", NB_U8, f->elements, f->flips, false, NI_COMBINE_SAME};
    }
    if (count++ < most)
        tensors[count - 1] =
            (ni_mechanism_tensor){-1, "oscireset.tracking", NB_I32, 2, &o->tracking, true, NI_COMBINE_SAME};
    return count;
}

static size_t osci_scratch(const void *state, int64_t rows) {
    (void)rows;
    return ((const oscireset *)state)->scratch_bytes;
}

static size_t osci_bytes(const void *state) {
    return ((const oscireset *)state)->bytes;
}

static void osci_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    const oscireset *o = state;
    (void)layer;
    if (gemm == NI_GEMM_FPROP)
        snprintf(text, size, "oscireset every %g%s", o->how.period, o->how.period < 1 ? " of the run" : "");
}

const ni_mechanism ni_mechanism_oscireset = {
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
