/* policy.c: a format a layer (nibble probe --policy; the idea is LoKA's, arXiv:2605.10886). */
#include "recipe/policy.h"

#include <ctype.h>
#include <string.h>

/* The digits of a line behind the name, whose length is *name. */
static const char *digits_of(const char *line, size_t *name) {
    const char *space = strchr(line, ' ');
    *name = space ? (size_t)(space - line) : strlen(line);
    return space ? space + strspn(space, " ") : line + *name;
}

nb_status ni_policy_check(const nb_policy *p, nb_error *err) {
    nb_quantizer q;
    for (int32_t i = 0; i < p->format_count; i++)
        if (nb_quantizer_parse(p->formats[i], &q, err) != NB_OK)
            return nb_fail_within(err, "policy.formats: '%s'", p->formats[i]);
    for (int32_t i = 0; i < p->layer_count; i++) {
        size_t name;
        const char *digits = digits_of(p->layers[i], &name);
        for (const char *d = digits; *d; d++)
            if (*d != '.' && (!isdigit((unsigned char)*d) || *d - '0' >= p->format_count))
                return nb_fail(err, NB_BAD_CONFIG,
                               "policy.layers: '%s': expected '.' or an index of the %d policy.formats for each block, "
                               "found '%c'",
                               p->layers[i], (int)p->format_count, *d);
        if (!name || !*digits)
            return nb_fail(err, NB_BAD_CONFIG,
                           "policy.layers: '%s': expected a layer and a digit a block, as \"mlp.up_proj 0012\"",
                           p->layers[i]);
    }
    return NB_OK;
}

const char *ni_policy_kind(const char *module) {
    const char *dot = strncmp(module, "layers.", 7) == 0 ? strchr(module + 7, '.') : NULL;
    return dot ? dot + 1 : NULL;
}

int32_t ni_policy_of(const nb_policy *p, const char *module, int32_t block) {
    const char *kind = ni_policy_kind(module);
    for (int32_t i = 0; kind && i < p->layer_count; i++) {
        size_t name;
        const char *digits = digits_of(p->layers[i], &name);
        if (strlen(kind) == name && strncmp(kind, p->layers[i], name) == 0 && block >= 0 &&
            (size_t)block < strlen(digits) && digits[block] != '.')
            return digits[block] - '0';
    }
    return -1;
}

nb_status ni_policy_apply(const nb_recipe *recipe, int32_t format, nb_operand_rule rules[NB_ROLE_COUNT],
                          nb_error *err) {
    nb_quantizer q;
    NB_TRY(nb_quantizer_parse(recipe->policy.formats[format], &q, err));
    for (int role = 0; role < NB_ROLE_COUNT; role++) {
        const nb_quantizer *own = &recipe->roles[role].quantizer;
        rules[role] = (nb_operand_rule){.quantizer = q};
        if (nb_quantizer_is_bf16(&q) || nb_quantizer_is_bf16(own))
            continue;
        if (own->round == NB_ROUND_STOCHASTIC) {
            rules[role].quantizer.round = own->round;
            rules[role].quantizer.sr_bits = own->sr_bits;
        }
        rules[role].quantizer.hadamard_size = own->hadamard_size;
        rules[role].quantizer.hadamard_signs = own->hadamard_signs;
        rules[role].quantizer.hadamard_round_bf16 = own->hadamard_round_bf16;
    }
    return NB_OK;
}
