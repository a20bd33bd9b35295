/* outer_delayed.c: `outer: delayed`: the tensor scale of X or dY from the step before, so that who makes the matrix can
 * quantize it as it comes. The scale of a step is made from `headroom` times the largest magnitude of micro-batch 0 in
 * the latest step before it that made the operand, as the quantizer sees it (rotated); what has grown beyond that
 * saturates at the largest code, which the lens and the guard count.
 *
 * In the first step of a run, and in passes that no backward pass follows (evaluation, text), the scale is that of the
 * tensor at hand: a checkpoint is evaluated to the same bits with this state and without it. A step that the guard
 * refused leaves nothing behind. Micro-batch 0 is rank 0's, so that all ranks have one history.
 */
#include "backend/table.h"
#include "linear/linear.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 4 * NI_GROUP_LAYERS }; /* both operands of X of each layer, at most, and both of dY */

typedef struct outer_delayed {
    ni_linear_group *group;
    ni_cached_operand *operands[MOST];
    int64_t steps[MOST]; /* kept in checkpoints: how many steps made each */
    int32_t count;
    float *words;      /* backend memory [2, count] */
    float *past, *now; /* of which one each, and the other in the next step */
} outer_delayed;

static bool outer_wanted(const nb_plan *plan) {
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
        if (plan->roles[role].headroom)
            return true;
    return false;
}

static void outer_detach(void *state) {
    outer_delayed *d = state;
    nb_backend_release(d->group->be, d->words);
    free(d);
}

static void add(outer_delayed *d, ni_cached_operand *o) {
    if (o->rule.headroom)
        d->operands[d->count++] = o;
}

static size_t word_bytes(const outer_delayed *d) {
    return (size_t)d->count * sizeof *d->words;
}

/* Where each operand's words are. */
static void place(outer_delayed *d, float *past, float *now) {
    d->past = past;
    d->now = now;
    for (int32_t i = 0; i < d->count; i++) {
        ni_history *h = &d->operands[i]->history;
        h->past = past + i;
        h->now = (uint32_t *)(void *)(now + i);
        h->steps = &d->steps[i];
    }
}

static nb_status outer_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    outer_delayed *d = calloc(1, sizeof *d);
    (void)index;
    if (!d)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for delayed scales", group->input);
    d->group = group;
    *state = d;
    for (int32_t i = 0; i < group->x_count && group->training; i++)
        add(d, &group->x[i]);
    for (int32_t i = 0; i < group->count && group->training; i++)
        for (nb_role role = NB_DGRAD_DY; role <= NB_WGRAD_DY; role += 2)
            if (group->layers[i].plan.quantized)
                add(d, &group->layers[i].own[role]);
    if (!d->count)
        return NB_OK;
    d->words = group->be->ops->alloc(group->be, 2 * word_bytes(d), "largest magnitudes of the step before");
    if (!d->words)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for delayed scales", group->input);
    group->be->ops->fill_zero(group->be, d->words, 2 * word_bytes(d));
    place(d, d->words, d->words + d->count);
    return NB_OK;
}

/* What was found in this step is the past of the next; of operands that were not made the past stays. */
static void move_on(outer_delayed *d) {
    const ni_backend_ops *ops = d->group->be->ops;
    int32_t seen = 0, first = 0;
    for (int32_t i = 0; i < d->count; i++)
        seen += d->operands[i]->history.seen;
    if (seen == d->count) {
        place(d, d->now, d->past);
        return;
    }
    for (int32_t i = 0; i <= d->count; i++) { /* neighbours at once */
        if (i < d->count && d->operands[i]->history.seen)
            continue;
        if (i > first)
            ops->copy(d->group->be, d->past + first, d->now + first, (size_t)(i - first) * sizeof *d->past);
        first = i + 1;
    }
}

static nb_status outer_after_step(void *state, ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                  nb_error *err) {
    outer_delayed *d = state;
    (void)group, (void)pass, (void)scratch, (void)err;
    move_on(d);
    for (int32_t i = 0; i < d->count; i++) {
        ni_history *h = &d->operands[i]->history;
        d->steps[i] += h->seen;
        h->seen = false;
    }
    return NB_OK;
}

static int32_t outer_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    outer_delayed *d = state;
    const ni_mechanism_tensor all[] = {
        {-1, "past", NB_F32, d->count, d->past, false, NI_COMBINE_FIRST},
        {-1, "steps", NB_I32, 2 * d->count, d->steps, true, NI_COMBINE_FIRST},
    };
    const int32_t count = d->count ? (int32_t)(sizeof all / sizeof *all) : 0;
    for (int32_t i = 0; i < count && i < most; i++)
        tensors[i] = all[i];
    return count;
}

static nb_status outer_loaded(void *state, nb_error *err) {
    outer_delayed *d = state;
    for (int32_t i = 0; i < d->count; i++) {
        if (d->steps[i] < 0)
            return nb_fail(err, NB_BAD_FILE, "%s: outer.steps is %lld; expected no less than 0", d->group->input,
                           (long long)d->steps[i]);
        d->operands[i]->history.seen = false;
    }
    return NB_OK;
}

static size_t outer_bytes(const void *state) {
    return 2 * word_bytes(state);
}

static void outer_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    (void)state;
    const nb_operand_rule *left = &layer->plan.roles[2 * gemm], *right = left + 1;
    if (left->headroom || right->headroom)
        snprintf(text, size, "outer scales of the step before, x%d", left->headroom ? left->headroom : right->headroom);
}

const ni_mechanism ni_mechanism_outer = {
    .name = "outer",
    .wanted = outer_wanted,
    .attach = outer_attach,
    .detach = outer_detach,
    .keeps_masters = true,
    .after_step = outer_after_step,
    .tensors = outer_tensors,
    .loaded = outer_loaded,
    .bytes = outer_bytes,
    .text = outer_text,
};
