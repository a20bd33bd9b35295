/* delayed.c: delayed scaling (arXiv:2310.18313, as its code MS-AMP has it): dY goes to eight bits under a scale that
 * its largest magnitudes in the last `window` steps gave, so that nobody has to know it whole before it is cast. What
 * is larger than any of them saturates. For the first `window` steps of a run the scale is that of the tensor at hand.
 *
 * dY is rounded here, in BF16, to numbers of its format under the delayed scale. The quantizer that follows makes a
 * power of two of what it is given, no smaller than the delayed one, and rounds nothing more.
 *
 * A step's largest magnitude is that of micro-batch 0, and so one and the same for any number of ranks; MS-AMP has one
 * history a rank.
 */
#include "backend/table.h"
#include "format/vector_scales.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>
#include <stdlib.h>

/* Backend memory, F32. */
typedef struct history {
    float *now;    /* [1] of this step */
    float *past;   /* [1] the largest of `steps` */
    float *steps;  /* [window] by step modulo window */
    int32_t *most; /* [1] where the largest stands */
} history;

typedef struct delayed {
    ni_linear_group *group;
    int32_t index;
    nb_delayed how;
    int64_t updates; /* kept in checkpoints: the next step's place, and whether the window is full */
    history layers[NI_GROUP_LAYERS];
    size_t bytes;
} delayed;

static const ni_key delayed_rows[] = {
    {.path = "window",
     .type = NI_KEY_INT,
     NI_FIELD(nb_delayed, window),
     .fallback = "16",
     .low = 1,
     .high = 4096,
     .help = "steps whose largest magnitude makes the scale of dY; until there are so many, the tensor's own",
     .source = "the code of arXiv:2310.18313 (MS-AMP), output gradients"},
};

const ni_mechanism_section ni_delayed_section = {
    .keys = {.name = "delayed", .rows = delayed_rows, .count = NI_COUNT(delayed_rows), .size = sizeof(nb_delayed)},
};

static bool delayed_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_delayed;
}

static void delayed_detach(void *state) {
    delayed *d = state;
    for (int32_t i = 0; i < d->group->count; i++)
        nb_backend_release(d->group->be, d->layers[i].now);
    free(d);
}

static bool is_eight_bits(const nb_quantizer *q) {
    const bool element = q->element == NB_ELEMENT_E4M3 || q->element == NB_ELEMENT_E5M2;
    return element && ni_has_tensor_scale(q) && q->rule == NB_RULE_POW2 && q->round == NB_ROUND_EVEN &&
           !q->hadamard_size;
}

static nb_status check(const ni_linear *layer, nb_error *err) {
    for (nb_role role = NB_DGRAD_DY; role <= NB_WGRAD_DY; role += 2) {
        const nb_operand_rule *rule = &layer->plan.roles[role];
        if (!(rule->from && !rule->requantize) && !is_eight_bits(&rule->quantizer))
            return nb_fail(err, NB_BAD_CONFIG,
                           "%s: delayed needs %s as {format: e5m2, block: tensor, scale: pow2} (or e4m3), rounded to "
                           "nearest even and not rotated",
                           layer->name, nb_role_name(role));
    }
    return NB_OK;
}

static nb_status place_layer(delayed *d, const ni_linear *layer, history *h, nb_error *err) {
    nb_backend *be = d->group->be;
    const size_t bytes = (size_t)(3 + d->how.window) * sizeof(float);
    NB_TRY(check(layer, err));
    h->now = be->ops->alloc(be, bytes, "amaxes of steps");
    if (!h->now)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for the amaxes of its gradients", layer->name);
    be->ops->fill_zero(be, h->now, bytes);
    h->past = h->now + 1;
    h->most = (int32_t *)(void *)(h->now + 2);
    h->steps = h->now + 3;
    d->bytes += bytes;
    return NB_OK;
}

static nb_status delayed_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->round_under || group->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no delayed scales", group->input, group->be->name);
    delayed *d = calloc(1, sizeof *d);
    if (!d)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for delayed scales", group->input);
    d->group = group;
    d->index = index;
    *state = d;
    for (int32_t i = 0; i < group->count && group->training; i++)
        if (group->layers[i].mechanisms >> index & 1) {
            d->how = group->layers[i].plan.mechanisms.delayed;
            NB_TRY(place_layer(d, &group->layers[i], &d->layers[i], err));
        }
    return NB_OK;
}

static nb_status delayed_prepare_dy(void *state, const ni_linear_call *call, ni_linear *layer, nb_mat *prepared,
                                    nb_error *err) {
    delayed *d = state;
    const history *h = &d->layers[layer->index];
    const nb_dtype type = layer->plan.roles[NB_DGRAD_DY].quantizer.element == NB_ELEMENT_E4M3 ? NB_E4M3 : NB_E5M2;
    nb_mat rounded = nb_mat_of(NULL, call->be->act, prepared->rows, prepared->cols);
    NB_TRY(ni_scratch_place_kept(call->scratch,
                                 nb_dtype_size(call->be->act) * (size_t)(prepared->rows * prepared->cols),
                                 "dY under a delayed scale", &rounded.data, err));
    call->be->ops->round_under(call->be, &rounded, prepared, type, call->pass->micro_batch == 0 ? h->now : NULL,
                               d->updates >= d->how.window ? h->past : NULL);
    *prepared = rounded;
    return NB_OK;
}

/* This step's in the place of the oldest; then the largest of all. */
static nb_status delayed_after_step(void *state, ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                    nb_error *err) {
    delayed *d = state;
    nb_backend *be = group->be;
    (void)pass, (void)scratch, (void)err;
    for (int32_t i = 0; i < group->count; i++) {
        const history *h = &d->layers[i];
        if (!h->now)
            continue;
        const nb_mat all = nb_mat_of(h->steps, NB_F32, 1, d->how.window), one = nb_mat_of(h->past, NB_F32, 1, 1);
        be->ops->copy(be, h->steps + d->updates % d->how.window, h->now, sizeof(float));
        be->ops->top_k(be, h->most, h->steps, d->how.window, 1, false);
        be->ops->gather_columns(be, &one, &all, h->most);
    }
    d->updates++;
    return NB_OK;
}

static int32_t delayed_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    delayed *d = state;
    int32_t count = 0;
    for (int32_t i = 0; i < d->group->count; i++) {
        const history *h = &d->layers[i];
        const ni_mechanism_tensor all[] = {
            {i, "delayed.past", NB_F32, 1, h->past, false, NI_COMBINE_FIRST},
            {i, "delayed.steps", NB_F32, d->how.window, h->steps, false, NI_COMBINE_FIRST},
        };
        for (size_t a = 0; h->now && a < NI_COUNT(all); a++)
            if (count++ < most)
                tensors[count - 1] = all[a];
    }
    if (count++ < most)
        tensors[count - 1] =
            (ni_mechanism_tensor){-1, "delayed.updates", NB_I32, 2, &d->updates, true, NI_COMBINE_FIRST};
    return count;
}

/* Where the next step's goes, and nothing else may. */
static nb_status delayed_loaded(void *state, nb_error *err) {
    const delayed *d = state;
    if (d->updates >= 0)
        return NB_OK;
    return nb_fail(err, NB_BAD_FILE, "%s: delayed.updates is %lld; expected no less than 0", d->group->input,
                   (long long)d->updates);
}

static size_t delayed_bytes(const void *state) {
    return ((const delayed *)state)->bytes;
}

static void delayed_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    (void)state;
    if (gemm != NI_GEMM_FPROP)
        snprintf(text, size, "dY under amaxes of %d steps", layer->plan.mechanisms.delayed.window);
}

const ni_mechanism ni_mechanism_delayed = {
    .name = "delayed",
    .wanted = delayed_wanted,
    .attach = delayed_attach,
    .detach = delayed_detach,
    .prepare_dy = delayed_prepare_dy,
    .keeps_masters = true,
    .after_step = delayed_after_step,
    .tensors = delayed_tensors,
    .loaded = delayed_loaded,
    .bytes = delayed_bytes,
    .text = delayed_text,
};
