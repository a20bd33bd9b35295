/* recipe.c: refuses recipes that make no sense. */
#include "recipe/policy.h"
#include "recipe/recipe_yaml.h"

#include <string.h>

const char *nb_role_name(nb_role role) {
    static const char *const names[NB_ROLE_COUNT] = {"fprop.x", "fprop.w",  "dgrad.dy",
                                                     "dgrad.w", "wgrad.dy", "wgrad.x"};
    return (unsigned)role < NB_ROLE_COUNT ? names[role] : "unknown role";
}

/* ---- one role ---- */

typedef enum tensor { TENSOR_X, TENSOR_W, TENSOR_DY } tensor;

static tensor tensor_of(nb_role role) {
    static const tensor tensors[NB_ROLE_COUNT] = {TENSOR_X, TENSOR_W, TENSOR_DY, TENSOR_W, TENSOR_DY, TENSOR_X};
    return tensors[role];
}

/* Two roles of one tensor never read it in the same orientation: taking one for the other transposes it. After that,
 * scales that belonged to single rows vary along the contraction. */
static bool scales_on_contraction(const nb_quantizer *transposed) {
    return !nb_quantizer_is_bf16(transposed) && transposed->scale_type != NB_SCALE_NONE && transposed->block_rows == 1;
}

static nb_status check_source(const nb_recipe *r, nb_role role, const ni_yaml_node *root, nb_error *err) {
    const nb_operand_rule *rule = &r->roles[role], *source = &r->roles[rule->source];
    const char *name = nb_role_name(role), *from = nb_role_name(rule->source);
    if (rule->source == role)
        return ni_keys_fail(err, root, name, "is taken from itself");
    if (tensor_of(rule->source) != tensor_of(role))
        return ni_keys_fail(err, root, name, "cannot come from %s, which is another tensor", from);
    if (role == NB_FPROP_X || role == NB_FPROP_W)
        return ni_keys_fail(err, root, name, "a forward operand cannot come from a backward one (%s)", from);
    if (source->from)
        return ni_keys_fail(err, root, name, "comes from %s, which comes from %s itself", from,
                            nb_role_name(source->source));
    if (source->quantizer.hadamard_size && !(r->mechanisms.has_quest && rule->requantize))
        return ni_keys_fail(err, root, name,
                            "%s is rotated along its own contraction, so its codes mean nothing along the other; "
                            "leave `from` out to quantize the tensor itself",
                            from);
    if (rule->requantize && nb_quantizer_is_bf16(&source->quantizer))
        return ni_keys_fail(err, root, name,
                            "%s is not quantized, so there is nothing to quantize again; leave `from` out", from);
    if (rule->requantize && nb_quantizer_is_bf16(&rule->quantizer))
        return ni_keys_fail(err, root, name, "to decode %s and keep it in BF16, write {from: %s, via: bf16}", from,
                            from);
    return NB_OK;
}

static nb_status check_via(const nb_recipe *r, nb_role role, const ni_yaml_node *root, nb_error *err) {
    const nb_operand_rule *rule = &r->roles[role];
    const char *name = nb_role_name(role);
    if (!rule->from || rule->requantize)
        return rule->via == NB_VIA_NONE
                   ? NB_OK
                   : ni_keys_fail(err, root, name,
                                  "`via` is for `from` without a format: it says where the scales of "
                                  "the same codes go");
    bool needed = scales_on_contraction(&rule->quantizer);
    bool by_rows = rule->quantizer.block_cols == NB_BLOCK_ALL;
    if (needed && rule->via == NB_VIA_NONE)
        return ni_keys_fail(err, root, name,
                            "the scales of %s lie on the contraction here; add `via: bf16`%s, or a format to quantize "
                            "its values again",
                            nb_role_name(rule->source), by_rows ? " or `via: fold`" : "");
    if (!needed && rule->via != NB_VIA_NONE)
        return ni_keys_fail(
            err, root, name,
            "`via` is not needed: %s%s%s; hint: `%.5s: {%s: {via: null}}` drops one that came from `base`",
            nb_quantizer_is_bf16(&rule->quantizer) ? "" : "the codes of ", nb_role_name(rule->source),
            nb_quantizer_is_bf16(&rule->quantizer) ? " is in BF16" : " serve as they are", name, name + 6);
    if (rule->via == NB_VIA_FOLD && !by_rows)
        return ni_keys_fail(err, root, name,
                            "`via: fold` needs one scale a row (block: row), for only such a scale is a factor of the "
                            "other operand; use `via: bf16`");
    return NB_OK;
}

/* A delayed scale serves who makes X and dY; W is there before anybody asks for it. */
static nb_status check_delayed(const nb_recipe *r, nb_role role, const ni_yaml_node *root, nb_error *err) {
    const nb_operand_rule *rule = &r->roles[role];
    const nb_mechanism_set *m = &r->mechanisms;
    const char *name = nb_role_name(role);
    const char *mechanism = m->has_hcp ? "hcp" : m->has_outcontrol ? "outcontrol" : m->has_occ ? "occ" : NULL;
    if (!rule->headroom)
        return NB_OK;
    if (tensor_of(role) == TENSOR_W)
        return ni_keys_fail(err, root, name, "has `outer: delayed`, which is for X and dY; expected `outer: tensor`");
    if (rule->from)
        return ni_keys_fail(err, root, name,
                            "has `outer: delayed` and is made of the codes of %s; expected `outer: tensor`",
                            nb_role_name(rule->source));
    if (mechanism)
        return ni_keys_fail(err, root, name,
                            "has `outer: delayed`, and %s makes operands under scales of its own; expected `outer: "
                            "tensor`",
                            mechanism);
    return NB_OK;
}

/* ---- pairs ---- */

static const nb_role pairs[3][2] = {{NB_FPROP_X, NB_FPROP_W}, {NB_DGRAD_DY, NB_DGRAD_W}, {NB_WGRAD_DY, NB_WGRAD_X}};

/* The operand of a fold is quantized after the scales went into it, so it cannot be codes that exist already. */
static nb_status check_fold(const nb_recipe *r, nb_role folded, nb_role into, const ni_yaml_node *root, nb_error *err) {
    if (r->roles[folded].via == NB_VIA_FOLD && r->roles[into].from)
        return ni_keys_fail(err, root, nb_role_name(folded),
                            "`via: fold` puts the scales into %s before it is quantized, but that comes from %s",
                            nb_role_name(into), nb_role_name(r->roles[into].source));
    return NB_OK;
}

static bool has_block_scales(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_E4M3 || q->scale_type == NB_SCALE_E8M0 || q->scale_type == NB_SCALE_HIF4;
}

/* Bits can be shared only where both operands draw some. */
static nb_status check_noise(const nb_recipe *r, nb_role role, nb_role other, const ni_yaml_node *root, nb_error *err) {
    if (!r->roles[role].shared_noise)
        return NB_OK;
    const nb_operand_rule *rule = &r->roles[role];
    if ((rule->from && !rule->requantize) || rule->quantizer.round != NB_ROUND_STOCHASTIC)
        return ni_keys_fail(err, root, nb_role_name(role), "`noise` is for `round: stochastic`");
    if (!r->roles[other].shared_noise)
        return ni_keys_fail(err, root, nb_role_name(role), "shares its noise with %s, which has `noise: own`",
                            nb_role_name(other));
    return NB_OK;
}

static const char *rotation(const nb_quantizer *q, char *text, size_t size) {
    if (q->hadamard_size)
        snprintf(text, size, "rotated by Hadamard %d", (int)q->hadamard_size);
    else
        snprintf(text, size, "not rotated");
    return text;
}

static nb_status check_pair(const nb_recipe *r, nb_role first, nb_role second, const ni_yaml_node *root,
                            nb_error *err) {
    const nb_quantizer *a = &r->roles[first].quantizer, *b = &r->roles[second].quantizer;
    const char *name = nb_role_name(second), *other = nb_role_name(first);
    NB_TRY(check_fold(r, first, second, root, err));
    NB_TRY(check_fold(r, second, first, root, err));
    NB_TRY(check_noise(r, first, second, root, err));
    NB_TRY(check_noise(r, second, first, root, err));
    if (a->hadamard_size != b->hadamard_size) {
        char mine[40], others[40];
        return ni_keys_fail(err, root, name,
                            "is %s, %s %s: a rotation cancels only if both operands of the GEMM have it",
                            rotation(b, mine, sizeof mine), other, rotation(a, others, sizeof others));
    }
    if (a->hadamard_size && a->hadamard_signs != b->hadamard_signs)
        return ni_keys_fail(err, root, name, "has other Hadamard signs than %s, so the rotations do not cancel", other);
    bool a_in_blocks = has_block_scales(a) && r->roles[first].via == NB_VIA_NONE;
    bool b_in_blocks = has_block_scales(b) && r->roles[second].via == NB_VIA_NONE;
    if (a_in_blocks && b_in_blocks && a->block_cols != b->block_cols)
        return ni_keys_fail(err, root, name,
                            "has blocks of %d along the contraction, %s has %d: no GEMM multiplies such a pair",
                            (int)b->block_cols, other, (int)a->block_cols);
    return NB_OK;
}

/* The authors' code has one or the other; and the update that waits is one of FP32. */
static nb_status check_ramping(const nb_recipe *r, const ni_yaml_node *root, nb_error *err) {
    if (!r->mechanisms.has_qramping)
        return NB_OK;
    if (r->mechanisms.has_qema)
        return ni_keys_fail(err, root, "qramping",
                            "with qema: both are made against oscillation, and the paper has one of them at a time; "
                            "expected one, as `qema: null`");
    const nb_optimizer_state *s = &r->optimizer_state;
    if (s->m != NB_F32 || s->v != NB_F32 || s->master != NB_F32 || r->gradients.format != NB_F32)
        return ni_keys_fail(err, root, "qramping",
                            "sums gradients over many steps in FP32; expected optimizer_state and gradients in fp32");
    return NB_OK;
}

/* Codes are what is added and counted. */
static nb_status check_exchange(const nb_recipe *r, const ni_yaml_node *root, nb_error *err) {
    if (r->gradients.exchange.rule == NB_EXCHANGE_OWN || nb_dtype_size(r->gradients.format) == 1)
        return NB_OK;
    return ni_keys_fail(
        err, root, "gradients.exchange.rule",
        "is fp8-lm, which adds codes of 8 bits, and gradients are %s; expected gradients.format e4m3 or "
        "e5m2",
        nb_dtype_name(r->gradients.format));
}

/* It takes gradients of what fprop multiplied, whatever the order of its numbers: both must come from there. */
static nb_status check_quest(const nb_recipe *r, const ni_yaml_node *root, nb_error *err) {
    const nb_operand_rule *x = &r->roles[NB_WGRAD_X], *w = &r->roles[NB_DGRAD_W];
    if (!r->mechanisms.has_quest)
        return NB_OK;
    if (!x->from || !x->requantize || !w->from || !w->requantize)
        return ni_keys_fail(
            err, root, "quest",
            "takes gradients of the operands that fprop multiplied; expected wgrad.x: {from: fprop.x, format: "
            "...} and dgrad.w: {from: fprop.w, format: ...}");
    for (nb_role role = NB_FPROP_X; role <= NB_FPROP_W; role++) {
        const nb_quantizer *q = &r->roles[role].quantizer;
        if (q->rule != NB_RULE_QUEST || q->round != NB_ROUND_EVEN || q->hadamard_signs == NB_SIGNS_FRESH)
            return ni_keys_fail(
                err, root, "quest",
                "%s: expected {format: mxfp4, scale: quest, round: even} and Hadamard signs none or fixed",
                nb_role_name(role));
    }
    return NB_OK;
}

static nb_status check_attention(const nb_attention_rule *a, const ni_yaml_node *root, nb_error *err) {
    if (a->forward == NB_ATTENTION_BF16_OPERANDS)
        return NB_OK;
    if (a->sums != NB_ATTENTION_F32)
        return ni_keys_fail(err, root, "attention.forward",
                            "is of four bits, whose products are summed in FP32; expected attention.sums: fp32");
    if (a->p_levels == NB_ATTENTION_TWO_LEVELS && a->forward != NB_ATTENTION_NVFP4)
        return ni_keys_fail(err, root, "attention.p_levels",
                            "is two, which gives P the range of scales in E4M3; expected attention.forward: nvfp4");
    return NB_OK;
}

nb_status ni_recipe_check(const nb_recipe *recipe, const ni_yaml_node *root, nb_error *err) {
    for (int role = 0; role < NB_ROLE_COUNT; role++) {
        if (recipe->roles[role].from)
            NB_TRY(check_source(recipe, (nb_role)role, root, err));
        NB_TRY(check_via(recipe, (nb_role)role, root, err));
        NB_TRY(check_delayed(recipe, (nb_role)role, root, err));
    }
    if (recipe->quantize_from == NB_BF16 && recipe->mechanisms.has_qema)
        return ni_keys_fail(err, root, "quantize_from",
                            "is bf16, and qema rounds the masters by their moving average; expected fp32");
    NB_TRY(check_ramping(recipe, root, err));
    NB_TRY(check_exchange(recipe, root, err));
    NB_TRY(check_quest(recipe, root, err));
    NB_TRY(check_attention(&recipe->attention, root, err));
    for (size_t i = 0; i < NI_COUNT(pairs); i++)
        NB_TRY(check_pair(recipe, pairs[i][0], pairs[i][1], root, err));
    nb_error inner = {0};
    if (ni_policy_check(&recipe->policy, &inner) != NB_OK)
        return ni_keys_fail(err, root, "policy", "%s", inner.message);
    return NB_OK;
}

nb_recipe nb_recipe_bf16(void) {
    nb_recipe recipe = {.name = "bf16", .late_switch = {.at = 1.0}, .attention = {.tile = 512, .beta = 2}};
    for (int role = 0; role < NB_ROLE_COUNT; role++)
        recipe.roles[role].quantizer = nb_quantizer_bf16();
    return recipe;
}

nb_quantizer nb_recipe_quantizer(const nb_recipe *recipe, nb_role role) {
    return recipe->roles[role].quantizer;
}
