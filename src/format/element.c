/* element.c: the table of element formats, the named families, and the words of the grammar. */
#include "format/element.h"

#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/e5m2.h"
#include "format/int4.h"

#include <string.h>

static const nb_element_row elements[NB_ELEMENT_COUNT] = {
    [NB_ELEMENT_BF16] = {"bf16", 16, 0x1.fep127f, 0, NULL, NULL, NULL, NULL},
    [NB_ELEMENT_E2M1] = {"e2m1", 4, 6.0f, NB_E2M1_NAN, nb_e2m1_even, nb_e2m1_up, nb_e2m1_stochastic, nb_e2m1_value},
    [NB_ELEMENT_INT4] = {"int4", 4, 7.0f, NB_INT4_NAN, nb_int4_even, nb_int4_up, nb_int4_stochastic, nb_int4_value},
    [NB_ELEMENT_E4M3] = {"e4m3", 8, 448.0f, NB_E4M3_NAN, nb_e4m3_even, nb_e4m3_up, nb_e4m3_stochastic, nb_e4m3_value},
    [NB_ELEMENT_E5M2] = {"e5m2", 8, 57344.0f, NB_E5M2_NAN, nb_e5m2_even, nb_e5m2_up, nb_e5m2_stochastic, nb_e5m2_value},
};

const nb_element_row *nb_element_info(nb_element element) {
    return (unsigned)element < NB_ELEMENT_COUNT ? &elements[element] : NULL;
}

/* Fields in the order of nb_quantizer; the last ones (rounding, Hadamard) are the same for all. */
#define NB_FAMILY(name, element, scale, rule, outer, rows, cols)                                                       \
    {                                                                                                                  \
        name, {                                                                                                        \
            element, scale, rule, outer, rows, cols, NB_ROUND_EVEN, 8, 0, NB_SIGNS_NONE, false                         \
        }                                                                                                              \
    }

static const nb_format_family families[] = {
    NB_FAMILY("bf16", NB_ELEMENT_BF16, NB_SCALE_NONE, NB_RULE_ABSMAX, NB_OUTER_NONE, NB_BLOCK_ALL, NB_BLOCK_ALL),
    NB_FAMILY("nvfp4", NB_ELEMENT_E2M1, NB_SCALE_E4M3, NB_RULE_ABSMAX, NB_OUTER_TENSOR, 1, 16),
    NB_FAMILY("mxfp4", NB_ELEMENT_E2M1, NB_SCALE_E8M0, NB_RULE_FLOOR, NB_OUTER_NONE, 1, 32),
    NB_FAMILY("mxfp8", NB_ELEMENT_E4M3, NB_SCALE_E8M0, NB_RULE_CEIL, NB_OUTER_NONE, 1, 32),
    NB_FAMILY("mxfp8-e5m2", NB_ELEMENT_E5M2, NB_SCALE_E8M0, NB_RULE_CEIL, NB_OUTER_NONE, 1, 32),
    NB_FAMILY("e2m1", NB_ELEMENT_E2M1, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, 1, NB_BLOCK_ALL),
    NB_FAMILY("int4", NB_ELEMENT_INT4, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, 1, NB_BLOCK_ALL),
    NB_FAMILY("e4m3", NB_ELEMENT_E4M3, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, NB_BLOCK_ALL, NB_BLOCK_ALL),
    NB_FAMILY("e5m2", NB_ELEMENT_E5M2, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, NB_BLOCK_ALL, NB_BLOCK_ALL),
};

const nb_format_family *nb_format_family_at(int32_t index) {
    return index >= 0 && (size_t)index < sizeof families / sizeof *families ? &families[index] : NULL;
}

const nb_format_family *nb_format_family_find(const char *name) {
    for (int32_t i = 0; nb_format_family_at(i); i++)
        if (!strcmp(families[i].name, name))
            return &families[i];
    return NULL;
}

static const char *word(const char *const *words, size_t count, int index) {
    return index >= 0 && (size_t)index < count ? words[index] : NULL;
}

#define NB_WORD(words, index) word(words, sizeof(words) / sizeof *(words), (int)(index))

const char *nb_scale_rule_name(nb_scale_rule rule) {
    static const char *const words[] = {"absmax", "floor", "ceil", "pow2", "headroom"};
    return NB_WORD(words, rule);
}

const char *nb_rounding_name(nb_rounding round) {
    static const char *const words[] = {"even", "up", "stochastic"};
    return NB_WORD(words, round);
}

const char *nb_signs_name(nb_signs signs) {
    static const char *const words[] = {"none", "fixed", "fresh"};
    return NB_WORD(words, signs);
}
