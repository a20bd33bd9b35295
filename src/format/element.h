/* element.h: one descriptor row an element format, and one a named family of quantizers.
 *
 * A new number format is a header beside this one and a row in element.c.
 */
#ifndef NI_FORMAT_ELEMENT_H
#define NI_FORMAT_ELEMENT_H

#include "nibble/format.h"

typedef struct ni_element_row {
    const char *name;
    int32_t bits; /* 4, 8 or 16 */
    float max;    /* largest magnitude */
    uint8_t nan;  /* the code that NaN becomes */
    /* NULL for BF16, whose codes are no bytes. */
    uint8_t (*even)(float x);
    uint8_t (*up)(float x);
    uint8_t (*stochastic)(float x, float u);
    float (*value)(uint8_t code);
    uint8_t (*away)(float x); /* NULL where the format has no such rounding */
} ni_element_row;

const ni_element_row *ni_element_info(nb_element element); /* NULL out of range */

/* Scale bytes of one row of an operand of so many columns; 0 where its scales are no bytes. */
int64_t ni_scale_bytes(const nb_quantizer *q, int64_t cols);

/* What `format: NAME` means in a recipe: an element with its kind of scale, and the defaults of the other fields. */
typedef struct ni_format_family {
    const char *name;
    nb_quantizer defaults;
} ni_format_family;

const ni_format_family *ni_format_family_find(const char *name); /* NULL if there is none */
const ni_format_family *ni_format_family_at(int32_t index);      /* NULL past the last */

/* The words of the recipe grammar, indexed by the enum; NULL past the last. */
const char *ni_scale_rule_name(nb_scale_rule rule);          /* "absmax", "floor", ... */
const char *ni_rounding_name(nb_rounding round);             /* "even", "up", "stochastic", "away" */
const char *ni_signs_name(nb_signs signs);                   /* "none", "fixed", "fresh" */
const char *ni_four_six_name(nb_four_six error);             /* "none", "mse", "mae", "max" */
const char *ni_four_six_order_name(nb_four_six_order order); /* "transformer-engine", "fouroversix" */

#endif
