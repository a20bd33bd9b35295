/* quantizer_yaml.h: a quantizer in the grammar of recipe files. */
#ifndef NB_RECIPE_QUANTIZER_YAML_H
#define NB_RECIPE_QUANTIZER_YAML_H

#include "config/keys.h"
#include "nibble/format.h"

/* Reads "{format: nvfp4, block: 16x16, round: stochastic}" or an alias: bf16, nvfp4, nvfp4-2d, nvfp4-outer128, mxfp4,
 * mxfp8, fp4-row, fp4-tensor. What is not said takes the format's default. */
nb_status nb_quantizer_parse(const char *text, nb_quantizer *out, nb_error *err);

#endif
