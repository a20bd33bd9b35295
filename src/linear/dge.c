/* dge.c: the differentiable gradient estimator (arXiv:2501.17116 section 3.1).
 *
 *     dW = dWq * f'(W s)        f(x) = (delta/2) (1 + sgn(t) |t|^(1/k)),  t = 2 (x - l)/delta - 1,  x in [l, l + delta]
 *
 * Straight-through pretends that rounding has slope 1; f is a smooth stand-in for the staircase whose slope is large
 * near the thresholds and 1/k on the grid points. Scale factors cancel (equations 14 to 22): f' is taken at the scaled
 * weight and no scale appears besides.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>

/* ---- keys ---- */

static const ni_key dge_rows[] = {
    {.path = "k",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_dge, k),
     .fallback = "5",
     .low = 1,
     .high = 100,
     .help = "power of the estimator: 1 is straight-through, larger is closer to the hard quantizer",
     .source = "arXiv:2501.17116 figure 6b"},
    {.path = "cap",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_dge, cap),
     .fallback = "3",
     .positive = true,
     .help = "largest derivative",
     .source = "arXiv:2501.17116 section 3.1"},
};

const ni_mechanism_section ni_dge_section = {
    .keys = {.name = "dge", .rows = dge_rows, .count = NI_COUNT(dge_rows), .size = sizeof(nb_dge)},
};

/* ---- what it does ---- */

static bool dge_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_dge;
}

static nb_status dge_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    *state = NULL;
    for (int32_t i = 0; i < group->count; i++) {
        const ni_linear *layer = &group->layers[i];
        const nb_quantizer *w = &layer->plan.roles[NB_FPROP_W].quantizer;
        if (!(layer->mechanisms >> index & 1))
            continue;
        if (w->element != NB_ELEMENT_E2M1 || w->hadamard_size)
            return nb_fail(err, NB_BAD_CONFIG,
                           "%s: dge needs fprop.w in E2M1 and not rotated: its curve stands for rounding W itself",
                           layer->name);
        if (!group->be->ops->dge)
            return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no dge", layer->name, group->be->name);
    }
    return NB_OK;
}

static nb_status dge_after_wgrad(void *state, const ni_linear_call *call, ni_linear *layer, const nb_mat *dw,
                                 nb_error *err) {
    (void)state;
    const nb_dge *dge = &layer->plan.mechanisms.dge;
    const nb_operand *w;
    if (call->pass->forward_bf16) /* the forward pass did not round W */
        return NB_OK;
    NB_TRY(ni_operand_ready(call, layer, NB_FPROP_W, &w, err));
    const ni_scaled kept = ni_linear_kept(call->be, layer);
    call->be->ops->dge(call->be, dw->data, &kept, w, dge->k, dge->cap);
    return NB_OK;
}

static void dge_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    (void)state;
    if (gemm == NI_GEMM_WGRAD)
        snprintf(text, size, "dge k=%g", layer->plan.mechanisms.dge.k);
}

const ni_mechanism ni_mechanism_dge = {
    .name = "dge",
    .rereads = 1U << NB_FPROP_W,
    .wanted = dge_wanted,
    .attach = dge_attach,
    .after_wgrad = dge_after_wgrad,
    .text = dge_text,
};
