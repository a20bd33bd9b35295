/* config_keys.h: a model file as a table of keys. */
#ifndef NI_MODEL_CONFIG_KEYS_H
#define NI_MODEL_CONFIG_KEYS_H

#include "config/keys.h"
#include "nibble/model.h"

typedef struct ni_model_file {
    nb_model_config config;
    char about[256];
} ni_model_file;

extern const ni_keys ni_model_keys; /* over ni_model_file */

#define NI_MOST_WIDTH (1 << 24) /* products of two widths and a layer count stay far below 2^63 */
#define NI_MOST_LAYERS 4096

/* nb_model_config_load with `count` keys said otherwise, as "vocab=2048". */
nb_status ni_model_config_load(const char *name_or_path, const char *models_dir, const char (*changes)[NB_NAME_SIZE],
                               int32_t count, nb_model_config *out, nb_error *err);

/* The first key that is wrong, and why; `key` is NULL if all is well. */
typedef struct ni_model_fault {
    const char *key;
    char why[200];
} ni_model_fault;
ni_model_fault ni_model_find_fault(const nb_model_config *config);

#endif
