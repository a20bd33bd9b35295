/* element.c: the table of element formats, the named families, and the words of the grammar. */
#include "format/element.h"

#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/e5m2.h"
#include "format/hif4.h"
#include "format/int4.h"
#include "format/s1p2.h"

#include <string.h>

static const ni_element_row elements[NB_ELEMENT_COUNT] = {
    [NB_ELEMENT_BF16] = {"bf16", 16, 0x1.fep127f, 0, NULL, NULL, NULL, NULL, NULL},
    [NB_ELEMENT_E2M1] = {"e2m1", 4, 6.0f, NI_E2M1_NAN, ni_e2m1_even, ni_e2m1_up, ni_e2m1_stochastic, ni_e2m1_value,
                         NULL},
    [NB_ELEMENT_INT4] = {"int4", 4, 7.0f, NI_INT4_NAN, ni_int4_even, ni_int4_up, ni_int4_stochastic, ni_int4_value,
                         NULL},
    [NB_ELEMENT_E4M3] = {"e4m3", 8, 448.0f, NI_E4M3_NAN, ni_e4m3_even, ni_e4m3_up, ni_e4m3_stochastic, ni_e4m3_value,
                         NULL},
    [NB_ELEMENT_E5M2] = {"e5m2", 8, 57344.0f, NI_E5M2_NAN, ni_e5m2_even, ni_e5m2_up, ni_e5m2_stochastic, ni_e5m2_value,
                         NULL},
    [NB_ELEMENT_S1P2] = {"s1p2", 4, 1.75f, NI_S1P2_NAN, ni_s1p2_even, ni_s1p2_up, ni_s1p2_stochastic, ni_s1p2_value,
                         ni_s1p2_away},
};

const ni_element_row *ni_element_info(nb_element element) {
    return (unsigned)element < NB_ELEMENT_COUNT ? &elements[element] : NULL;
}

int64_t ni_scale_bytes(const nb_quantizer *q, int64_t cols) {
    switch (q->scale_type) {
    case NB_SCALE_E4M3:
    case NB_SCALE_E8M0:
        return cols / q->block_cols;
    case NB_SCALE_HIF4:
        return cols / NI_HIF4_GROUP * NI_HIF4_BYTES;
    case NB_SCALE_F32:
    case NB_SCALE_NONE:
        break;
    }
    return 0;
}

/* Fields in the order of nb_quantizer; the last ones (rounding, Hadamard, Four Over Six) are the same for all. */
#define NI_FAMILY(name, element, scale, rule, outer, rows, cols)                                                       \
    NI_FAMILY_ROUNDED(name, element, scale, rule, outer, rows, cols, NB_ROUND_EVEN)
#define NI_FAMILY_ROUNDED(name, element, scale, rule, outer, rows, cols, round)                                        \
    {                                                                                                                  \
        name, {                                                                                                        \
            element, scale, rule, outer, rows, cols, round, 8, 0, NB_SIGNS_NONE, false, NB_FOUR_SIX_NONE, 256,         \
                NB_FOUR_SIX_IN_ORDER                                                                                   \
        }                                                                                                              \
    }

static const ni_format_family families[] = {
    NI_FAMILY("bf16", NB_ELEMENT_BF16, NB_SCALE_NONE, NB_RULE_ABSMAX, NB_OUTER_NONE, NB_BLOCK_ALL, NB_BLOCK_ALL),
    NI_FAMILY("nvfp4", NB_ELEMENT_E2M1, NB_SCALE_E4M3, NB_RULE_ABSMAX, NB_OUTER_TENSOR, 1, 16),
    NI_FAMILY("mxfp4", NB_ELEMENT_E2M1, NB_SCALE_E8M0, NB_RULE_FLOOR, NB_OUTER_NONE, 1, 32),
    NI_FAMILY("mxfp8", NB_ELEMENT_E4M3, NB_SCALE_E8M0, NB_RULE_CEIL, NB_OUTER_NONE, 1, 32),
    NI_FAMILY("mxfp8-e5m2", NB_ELEMENT_E5M2, NB_SCALE_E8M0, NB_RULE_CEIL, NB_OUTER_NONE, 1, 32),
    NI_FAMILY("e2m1", NB_ELEMENT_E2M1, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, 1, NB_BLOCK_ALL),
    NI_FAMILY("int4", NB_ELEMENT_INT4, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, 1, NB_BLOCK_ALL),
    NI_FAMILY("e4m3", NB_ELEMENT_E4M3, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, NB_BLOCK_ALL, NB_BLOCK_ALL),
    NI_FAMILY("e5m2", NB_ELEMENT_E5M2, NB_SCALE_F32, NB_RULE_ABSMAX, NB_OUTER_NONE, NB_BLOCK_ALL, NB_BLOCK_ALL),
    NI_FAMILY_ROUNDED("hifloat4", NB_ELEMENT_S1P2, NB_SCALE_HIF4, NB_RULE_ABSMAX, NB_OUTER_NONE, 1, NI_HIF4_GROUP,
                      NB_ROUND_AWAY),
};

const ni_format_family *ni_format_family_at(int32_t index) {
    return index >= 0 && (size_t)index < sizeof families / sizeof *families ? &families[index] : NULL;
}

const ni_format_family *ni_format_family_find(const char *name) {
    for (int32_t i = 0; ni_format_family_at(i); i++)
        if (!strcmp(families[i].name, name))
            return &families[i];
    return NULL;
}

static const char *word(const char *const *words, size_t count, int index) {
    return index >= 0 && (size_t)index < count ? words[index] : NULL;
}

#define NI_WORD(words, index) word(words, sizeof(words) / sizeof *(words), (int)(index))

const char *ni_scale_rule_name(nb_scale_rule rule) {
    static const char *const words[] = {"absmax", "floor", "ceil",      "pow2",          "headroom",
                                        "quest",  "eden",  "ceil-log2", "three-quarters"};
    return NI_WORD(words, rule);
}

const char *ni_rounding_name(nb_rounding round) {
    static const char *const words[] = {"even", "up", "stochastic", "away"};
    return NI_WORD(words, round);
}

const char *ni_signs_name(nb_signs signs) {
    static const char *const words[] = {"none", "fixed", "fresh"};
    return NI_WORD(words, signs);
}

const char *ni_four_six_name(nb_four_six error) {
    static const char *const words[] = {"none", "mse", "mae", "max"};
    return NI_WORD(words, error);
}

const char *ni_four_six_order_name(nb_four_six_order order) {
    static const char *const words[] = {"transformer-engine", "fouroversix"};
    return NI_WORD(words, order);
}
