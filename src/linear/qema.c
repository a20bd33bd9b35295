/* qema.c: Q-EMA (arXiv:2502.20853): forward weights are rounded to whichever of their two grid neighbours their moving
 * average is nearer to. Scales, sign and lower neighbour come from W itself; W_E = beta W_E + (1 - beta) W after every
 * step, and decides once it has been updated `warmup` times.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct qema {
    ni_linear_group *group;
    int32_t index;
    int64_t updates;                 /* of the averages so far; kept in checkpoints */
    float *average[NI_GROUP_LAYERS]; /* F32 [N, K] in backend memory */
    size_t bytes;
} qema;

/* ---- keys ---- */

static const ni_key qema_rows[] = {
    {.path = "beta",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_qema, beta),
     .fallback = "0.998",
     .high = 0.999999,
     .help = "weight of the average so far",
     .source = "arXiv:2502.20853"},
    {.path = "warmup",
     .type = NI_KEY_INT,
     NI_FIELD(nb_qema, warmup),
     .fallback = "10",
     .high = 1e9,
     .help = "updates of the average before it decides",
     .source = "the code of arXiv:2502.20853"},
};

const ni_mechanism_section ni_qema_section = {
    .keys = {.name = "qema", .rows = qema_rows, .count = NI_COUNT(qema_rows), .size = sizeof(nb_qema)},
};

/* ---- what it does ---- */

static bool qema_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_qema;
}

static void qema_detach(void *state) {
    qema *e = state;
    for (int32_t i = 0; i < e->group->count; i++)
        nb_backend_release(e->group->be, e->average[i]);
    free(e);
}

static nb_status qema_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->round_by || group->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no qema", group->input, group->be->name);
    qema *e = calloc(1, sizeof *e);
    if (!e)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for qema", group->input);
    e->group = group;
    e->index = index;
    *state = e;
    for (int32_t i = 0; i < group->count; i++) {
        const ni_linear *layer = &group->layers[i];
        const nb_quantizer *w = &layer->plan.roles[NB_FPROP_W].quantizer;
        size_t bytes = sizeof(float) * (size_t)(layer->out * layer->in);
        if (!(layer->mechanisms >> index & 1))
            continue;
        if (w->element != NB_ELEMENT_E2M1 || w->round == NB_ROUND_STOCHASTIC || w->hadamard_size)
            return nb_fail(err, NB_BAD_CONFIG, "%s: qema needs fprop.w in E2M1, rounded to nearest and not rotated",
                           layer->name);
        e->average[i] = group->be->ops->alloc(group->be, bytes, "averaged weights");
        if (!e->average[i])
            return nb_fail(err, NB_NO_MEMORY, "%s: no memory for the average of its weights", layer->name);
        e->bytes += bytes;
    }
    return NB_OK;
}

static nb_status qema_quantize_w(void *state, const ni_linear_call *call, ni_linear *layer, nb_operand *out, bool *done,
                                 nb_error *err) {
    qema *e = state;
    if (e->updates < layer->plan.mechanisms.qema.warmup)
        return NB_OK;
    nb_mat w = ni_master_of(call->be, layer);
    const ni_source source = {.numbers = &w};
    const ni_making making = {.out = out};
    NB_TRY(call->be->ops->make_operands(call->be, &source, &making, 1, err));
    call->be->ops->round_by(call->be, out, w.data, e->average[layer->index]);
    *done = true;
    return NB_OK;
}

/* W_E += (1 - beta) (W - W_E); the first time W_E = W. */
static nb_status qema_after_step(void *state, ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                 nb_error *err) {
    qema *e = state;
    nb_backend *be = group->be;
    (void)pass, (void)scratch, (void)err;
    for (int32_t i = 0; i < group->count; i++) {
        ni_linear *layer = &group->layers[i];
        int64_t n = layer->out * layer->in;
        double step = e->updates ? 1 - layer->plan.mechanisms.qema.beta : 1;
        if (!e->average[i])
            continue;
        be->ops->axpy(be, e->average[i], -step, e->average[i], n);
        be->ops->axpy(be, e->average[i], step, ni_linear_master(be, layer), n);
    }
    e->updates++;
    return NB_OK;
}

static int32_t qema_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    qema *e = state;
    int32_t count = 0;
    for (int32_t i = 0; i < e->group->count; i++)
        if (e->average[i] && count++ < most)
            tensors[count - 1] = (ni_mechanism_tensor){
                i,     "qema.average", NB_F32, e->group->layers[i].out * e->group->layers[i].in, e->average[i],
                false, NI_COMBINE_SAME};
    if (count++ < most)
        tensors[count - 1] = (ni_mechanism_tensor){-1, "qema.updates", NB_I32, 2, &e->updates, true, NI_COMBINE_SAME};
    return count;
}

static size_t qema_bytes(const void *state) {
    return ((const qema *)state)->bytes;
}

static void qema_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    (void)state;
    if (gemm == NI_GEMM_FPROP)
        snprintf(text, size, "qema %g", layer->plan.mechanisms.qema.beta);
}

const ni_mechanism ni_mechanism_qema = {
    .name = "qema",
    .wanted = qema_wanted,
    .attach = qema_attach,
    .detach = qema_detach,
    .quantize_w = qema_quantize_w,
    .keeps_masters = true,
    .after_step = qema_after_step,
    .tensors = qema_tensors,
    .bytes = qema_bytes,
    .text = qema_text,
};
