/* quantizer_yaml.h: a quantizer, and an operand of a GEMM, in the grammar of recipe files.
 *
 * What a file leaves out takes the default of its format, so the keys are read into ni_operand_fields first, where -1
 * means "not said", and resolved then.
 */
#ifndef NI_RECIPE_QUANTIZER_YAML_H
#define NI_RECIPE_QUANTIZER_YAML_H

#include "config/keys.h"
#include "nibble/format.h"
#include "nibble/recipe.h"

typedef struct ni_operand_fields {
    int32_t from;  /* nb_role */
    int32_t via;   /* nb_via */
    int32_t noise; /* 1: shared with the other operand of the GEMM */
    int32_t headroom;
    /* The quantizer. */
    int32_t format; /* index of ni_format_family_at */
    int32_t block;  /* index of the block shapes in quantizer_yaml.c */
    int32_t scale;  /* nb_scale_rule */
    int32_t outer;  /* nb_outer_scale, or NI_OUTER_DELAYED */
    int32_t round;  /* nb_rounding */
    int32_t sr_bits;
    int32_t hadamard_size;
    int32_t hadamard_signs; /* nb_signs */
    int32_t hadamard_round_bf16;
    int32_t four_six; /* nb_four_six */
    int32_t four_six_top;
    int32_t four_six_order; /* nb_four_six_order */
} ni_operand_fields;

/* A scale of the tensor whose maker is the operand's rule, nb_operand_rule.headroom; for operands of a recipe alone. */
enum { NI_OUTER_DELAYED = 16, NI_HEADROOM = 2 };

extern const ni_keys ni_operand_keys;   /* all of them; a scalar is an alias */
extern const ni_keys ni_quantizer_keys; /* without from, via, noise and headroom */

/* True if `from` stands alone: no key of a quantizer is said. */
bool ni_operand_says_no_quantizer(const ni_operand_fields *fields);

/* Fields -> quantizer. What is not said takes the format's default; what makes no sense is refused at `node`. */
nb_status ni_quantizer_resolve(const ni_operand_fields *fields, const ni_yaml_node *node, nb_quantizer *out,
                               nb_error *err);

/* Nothing said; and everything said that means something. */
ni_operand_fields ni_operand_no_fields(void);
ni_operand_fields ni_quantizer_to_fields(const nb_quantizer *q);

#endif
