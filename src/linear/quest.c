/* quest.c: Quartet's gradients (arXiv:2505.14669, IST-DASLab/Quartet).
 *
 *     Y  = Xq Wq^T              Xq = Q(H X), Wq = Q(H W): rotated along K, clipped, to nearest
 *     dX = H^T (mask_X * Q(dY) Q(Wq^T)^T)        dW = H^T (mask_W * Q(dY^T) Q(Xq^T)^T)
 *
 * The gradients that the two GEMMs give are those of Xq and Wq. Rounding counts as the identity inside of the grid and
 * as a constant beyond it: the mask, the same function of X and W as the scales (format/quartet.h), made anew here. dX
 * is masked once for all layers of a group, which round one X alike.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>

/* ---- keys ---- */

static const ni_key quest_rows[] = {
    {.path = "mask",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_quest, mask),
     .fallback = "true",
     .help = "no gradient for what was clipped",
     .source = "arXiv:2505.14669"},
};

const ni_mechanism_section ni_quest_section = {
    .keys = {.name = "quest", .rows = quest_rows, .count = NI_COUNT(quest_rows), .size = sizeof(nb_quest)},
};

/* ---- what it does ---- */

static bool quest_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_quest;
}

/* The layers of a group that want it round X alike: dX is masked once. */
static nb_status quest_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    const nb_quantizer *first = NULL;
    *state = NULL;
    if (!group->be->ops->quest_backward)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no quest", group->input, group->be->name);
    for (int32_t i = 0; i < group->count; i++) {
        const ni_linear *layer = &group->layers[i];
        const nb_quantizer *x = &layer->plan.roles[NB_FPROP_X].quantizer;
        if (!(layer->mechanisms >> index & 1))
            continue;
        if (first && !nb_quantizer_equal(first, x))
            return nb_fail(err, NB_BAD_CONFIG, "%s: quest: layers that read one input must round it alike",
                           layer->name);
        first = x;
    }
    return NB_OK;
}

/* In a pass whose forward direction ran in BF16 nothing was clipped; the operands are rotated all the same. */
static bool masks(const ni_linear_call *call, const ni_linear *layer) {
    return layer->plan.mechanisms.quest.mask && !call->pass->forward_bf16;
}

static nb_status quest_after_dgrad(void *state, const ni_linear_call *call, const nb_mat *dx, nb_error *err) {
    (void)state, (void)err;
    for (int32_t i = 0; i < call->group->count; i++) {
        const ni_linear *layer = &call->group->layers[i];
        if (!layer->plan.quantized || !layer->plan.mechanisms.has_quest)
            continue;
        call->be->ops->quest_backward(call->be, dx, masks(call, layer) ? call->x : NULL,
                                      &layer->plan.roles[NB_FPROP_X].quantizer);
        break;
    }
    return NB_OK;
}

static nb_status quest_after_wgrad(void *state, const ni_linear_call *call, ni_linear *layer, const nb_mat *dw,
                                   nb_error *err) {
    (void)state;
    nb_mat w;
    const size_t mark = call->scratch->used;
    NB_TRY(ni_weight_source(call, layer, &w, err));
    call->be->ops->quest_backward(call->be, dw, masks(call, layer) ? &w : NULL,
                                  &layer->plan.roles[NB_FPROP_W].quantizer);
    call->scratch->used = mark;
    return NB_OK;
}

static void quest_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    (void)state;
    if (gemm != NI_GEMM_FPROP)
        snprintf(text, size, "quest %s", layer->plan.mechanisms.quest.mask ? "masked" : "not masked");
}

const ni_mechanism ni_mechanism_quest = {
    .name = "quest",
    .wanted = quest_wanted,
    .attach = quest_attach,
    .after_dgrad = quest_after_dgrad,
    .after_wgrad = quest_after_wgrad,
    .text = quest_text,
};
