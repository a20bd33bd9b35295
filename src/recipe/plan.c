/* plan.c: a recipe resolved for one linear layer. */
#include "nibble/recipe.h"
#include "recipe/policy.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

/* Blocks that a count or a share means; shares round up. The small step back keeps 0.15 of 20 at 3 although neither
 * 0.15 nor the product is exact in binary. */
static double block_count(double blocks_or_share, int32_t blocks) {
    return blocks_or_share < 1 ? ceil(blocks_or_share * blocks - 1e-9) : blocks_or_share;
}

/* Why the layer stays in BF16; NULL if it does not. */
static const char *reason_to_keep(const nb_recipe *recipe, const char *name, int32_t block, int32_t blocks) {
    const nb_keep *keep = &recipe->keep;
    bool quantizes = false;
    for (int role = 0; role < NB_ROLE_COUNT; role++)
        quantizes = quantizes || !nb_quantizer_is_bf16(&recipe->roles[role].quantizer);
    if (!quantizes)
        return "recipe is bf16";
    for (int32_t i = 0; i < keep->module_count; i++)
        if (fnmatch(keep->modules[i], name, 0) == 0)
            return "keep.modules";
    if (block >= 0 && block < block_count(keep->first_blocks, blocks))
        return "keep.first_blocks";
    if (block >= 0 && block >= blocks - block_count(keep->last_blocks, blocks))
        return "keep.last_blocks";
    return NULL;
}

static nb_status plan_by_policy(const nb_recipe *recipe, int32_t format, nb_plan *out, nb_error *err) {
    NB_TRY(ni_policy_apply(recipe, format, out->roles, err));
    out->mechanisms = (nb_mechanism_set){0};
    out->quantized = !nb_quantizer_is_bf16(&out->roles[0].quantizer);
    out->reason = out->quantized ? "" : "policy";
    return NB_OK;
}

nb_status nb_recipe_plan(const nb_recipe *recipe, const char *name, int32_t block, int32_t blocks, nb_plan *out,
                         nb_error *err) {
    if (block < -1 || block >= blocks)
        return nb_fail(err, NB_INTERNAL, "%s: block %d of %d does not exist", name, (int)block, (int)blocks);
    const char *reason = reason_to_keep(recipe, name, block, blocks);
    *out = (nb_plan){.quantized = !reason, .reason = reason ? reason : ""};
    out->quantize_from = recipe->quantize_from;
    if (out->quantized)
        out->mechanisms = recipe->mechanisms;
    const int32_t format = out->quantized ? ni_policy_of(&recipe->policy, name, block) : -1;
    if (format >= 0)
        return plan_by_policy(recipe, format, out, err);
    for (int role = 0; role < NB_ROLE_COUNT; role++) {
        if (out->quantized)
            out->roles[role] = recipe->roles[role];
        else
            out->roles[role] = (nb_operand_rule){.quantizer = nb_quantizer_bf16()};
    }
    return NB_OK;
}
