/* policy.h: which format a policy gives a layer. */
#ifndef NI_RECIPE_POLICY_H
#define NI_RECIPE_POLICY_H

#include "nibble/recipe.h"

/* Every line says a layer and indices of formats that can be read; the reason goes to err. */
nb_status ni_policy_check(const nb_policy *policy, nb_error *err);

/* The linear layer within its block: "self_attn.q_proj" of "layers.3.self_attn.q_proj"; NULL for what is none. */
const char *ni_policy_kind(const char *module);

/* Index of the format of a layer; -1: the recipe's own. */
int32_t ni_policy_of(const nb_policy *policy, const char *module, int32_t block);

/* The rules of a layer in that format: all six operands quantized from their tensors. */
nb_status ni_policy_apply(const nb_recipe *recipe, int32_t format, nb_operand_rule rules[NB_ROLE_COUNT], nb_error *err);

#endif
