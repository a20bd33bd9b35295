/* config_keys.h: a model file as a table of keys. */
#ifndef NB_MODEL_CONFIG_KEYS_H
#define NB_MODEL_CONFIG_KEYS_H

#include "config/keys.h"
#include "nibble/model.h"

typedef struct nb_model_file {
    nb_model_config config;
    char about[256];
} nb_model_file;

extern const nb_keys nb_model_keys; /* over nb_model_file */

#define NB_MOST_WIDTH (1 << 24) /* products of two widths and a layer count stay far below 2^63 */
#define NB_MOST_LAYERS 4096

/* The first key that is wrong, and why; `key` is NULL if all is well. */
typedef struct nb_model_fault {
    const char *key;
    char why[200];
} nb_model_fault;
nb_model_fault nb_model_find_fault(const nb_model_config *config);

#endif
