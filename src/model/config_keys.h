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

#endif
