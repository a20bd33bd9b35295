/* wanted.c: which maxima of X and dY the quantizers of a group would take from whoever writes those. */
#include "backend/table.h"
#include "format/vector_scales.h"
#include "linear/linear.h"

/* Above its blocks, or alone. A delayed one needs no maximum before its first number. */
static bool has_tensor_scale(const nb_operand_rule *rule) {
    const nb_quantizer *q = &rule->quantizer;
    return !nb_quantizer_is_bf16(q) && (q->outer == NB_OUTER_TENSOR || ni_has_tensor_scale(q)) && !rule->headroom;
}

static bool is_turned_as_known(const nb_quantizer *q) {
    return q->hadamard_size == 16 && q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16;
}

ni_wanted_amaxes ni_linear_group_wants(const ni_linear_group *group, bool gradients) {
    const nb_role roles[] = {gradients ? NB_DGRAD_DY : NB_FPROP_X, gradients ? NB_WGRAD_DY : NB_WGRAD_X};
    ni_wanted_amaxes wants = {false, false};
    for (int32_t i = 0; group->be->wants_amax && i < group->count; i++)
        for (int r = 0; group->layers[i].plan.quantized && r < 2; r++) {
            const nb_operand_rule *rule = &group->layers[i].plan.roles[roles[r]];
            if (!has_tensor_scale(rule))
                continue;
            wants.plain |= rule->quantizer.hadamard_size == 0;
            wants.turned |= r == 1 && !rule->from && is_turned_as_known(&rule->quantizer);
        }
    return wants;
}
