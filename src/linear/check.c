/* check.c: whether a plan can be carried out on this backend, at these sizes, before anything runs. */
#include "backend/table.h"
#include "format/vector_scales.h"
#include "linear/linear.h"

/* ---- codes that serve two GEMMs ---- */

/* Where another role's codes may come from: the same tensor, other way up. */
static bool source_of(nb_role role, nb_role *source) {
    *source = role == NB_DGRAD_W    ? NB_FPROP_W
              : role == NB_WGRAD_X  ? NB_FPROP_X
              : role == NB_WGRAD_DY ? NB_DGRAD_DY
                                    : NB_ROLE_COUNT;
    return *source != NB_ROLE_COUNT;
}

/* Scales of single rows vary along the contraction once the operand is turned. */
static bool scales_on_contraction(const nb_quantizer *q) {
    return q->scale_type != NB_SCALE_NONE && q->block_rows == 1;
}

static nb_status check_same_codes(const ni_linear *layer, nb_role role, nb_error *err) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    const nb_quantizer *q = &rule->quantizer;
    const char *name = nb_role_name(role), *source = nb_role_name(rule->source);
    if (nb_quantizer_is_bf16(q))
        return NB_OK;
    if (q->hadamard_size)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: %s takes the codes of %s, which are rotated along another axis; quantize again instead "
                       "(give the role a format of its own)",
                       layer->name, name, source);
    if (rule->via == NB_VIA_FOLD && (!ni_has_row_scales(q) || role == NB_WGRAD_DY))
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: %s has `via: fold`, which needs one FP32 scale a row of %s and serves dgrad.w and wgrad.x; "
                       "use `via: bf16`",
                       layer->name, name, source);
    if (rule->via == NB_VIA_NONE && scales_on_contraction(q))
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: the scales of %s lie on the contraction of %s; add `via: fold` or `via: bf16`, or quantize "
                       "again",
                       layer->name, source, name);
    return NB_OK;
}

static nb_status check_from(const ni_linear *layer, nb_role role, nb_error *err) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    nb_role source;
    if (!source_of(role, &source) || rule->source != source)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: %s cannot come from %s; expected one of dgrad.w from fprop.w, wgrad.x "
                       "from fprop.x, wgrad.dy from dgrad.dy",
                       layer->name, nb_role_name(role), nb_role_name(rule->source));
    if (role == NB_WGRAD_DY && layer->plan.roles[NB_DGRAD_W].from && layer->plan.roles[NB_DGRAD_W].via == NB_VIA_FOLD)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: wgrad.dy comes from dgrad.dy, into which dgrad.w folds its scales; give wgrad.dy a format "
                       "of its own",
                       layer->name);
    if (!rule->requantize)
        return check_same_codes(layer, role, err);
    if (layer->plan.roles[rule->source].quantizer.hadamard_size && !layer->plan.mechanisms.has_quest)
        return nb_fail(
            err, NB_BAD_CONFIG,
            "%s: %s quantizes again what %s rotated, so its product is a gradient of something else; expected "
            "mechanism quest, which rotates it back, or a source that is not rotated",
            layer->name, nb_role_name(role), nb_role_name(rule->source));
    return NB_OK;
}

/* ---- the two operands of one GEMM ---- */

static nb_status check_rotation(const ni_linear *layer, nb_role left, nb_role right, nb_error *err) {
    nb_quantizer a = ni_role_quantizer(&layer->plan, left), b = ni_role_quantizer(&layer->plan, right);
    int32_t size_a = nb_quantizer_is_bf16(&a) ? 0 : a.hadamard_size;
    int32_t size_b = nb_quantizer_is_bf16(&b) ? 0 : b.hadamard_size;
    if (size_a == size_b && (size_a == 0 || a.hadamard_signs == b.hadamard_signs))
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG,
                   "%s: %s and %s are rotated differently (Hadamard size %d and %d); both need the same size and signs",
                   layer->name, nb_role_name(left), nb_role_name(right), size_a, size_b);
}

static nb_status check_shape(const ni_linear_group *group, const ni_linear *layer, nb_role role, nb_error *err) {
    int64_t m = group->max_rows, n = layer->out, k = layer->in;
    const int64_t rows[NB_ROLE_COUNT] = {m, n, m, k, n, k}, cols[NB_ROLE_COUNT] = {k, k, n, n, m, m};
    const nb_operand_rule *rule = &layer->plan.roles[role];
    if (rule->from && !rule->requantize)
        return NB_OK;
    NB_TRY(nb_quantizer_check(&rule->quantizer, err));
    if (nb_quantizer_check_shape(&rule->quantizer, rows[role], cols[role], err) == NB_OK)
        return NB_OK;
    return nb_fail_within(err, "%s: %s (%s run along the %s)", layer->name, nb_role_name(role), "blocks",
                          cols[role] == m && role >= NB_WGRAD_DY ? "tokens of a micro-batch, batch x seq" : "features");
}

/* As recipes are checked; programs make plans of their own. */
static nb_status check_delayed(const ni_linear *layer, nb_role role, nb_error *err) {
    const nb_operand_rule *rule = &layer->plan.roles[role];
    const nb_quantizer *q = &rule->quantizer;
    const bool weight = role == NB_FPROP_W || role == NB_DGRAD_W;
    if (!rule->headroom ||
        (rule->headroom > 0 && !weight && !rule->from && q->scale_type == NB_SCALE_E4M3 && q->outer == NB_OUTER_TENSOR))
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG,
                   "%s: %s has a headroom of %d; expected 1 or more, of numbers of X or dY that are quantized to nvfp4 "
                   "under a scale of the tensor",
                   layer->name, nb_role_name(role), rule->headroom);
}

nb_status ni_linear_check(const ni_linear_group *group, const ni_linear *layer, nb_error *err) {
    if (!layer->plan.quantized)
        return NB_OK;
    if (!group->be->ops->canonical)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no quantized operands; use recipe bf16 on it",
                       layer->name, group->be->name);
    nb_role last = group->training ? NB_ROLE_COUNT : NB_DGRAD_DY;
    for (nb_role role = NB_FPROP_X; role < last; role++) {
        NB_TRY(check_shape(group, layer, role, err));
        NB_TRY(check_delayed(layer, role, err));
        if (layer->plan.roles[role].from)
            NB_TRY(check_from(layer, role, err));
    }
    NB_TRY(check_rotation(layer, NB_FPROP_X, NB_FPROP_W, err));
    if (!group->training)
        return NB_OK;
    NB_TRY(check_rotation(layer, NB_DGRAD_DY, NB_DGRAD_W, err));
    return check_rotation(layer, NB_WGRAD_DY, NB_WGRAD_X, err);
}
