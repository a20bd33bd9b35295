/* tokenizer_kept.h: the files of a Hugging Face tokenizer, as they were found: they travel with a model, whether nibble
 * reads them or not (tokenizer.json of byte-level BPE is one that it does not). tokenizer.model is among them. */
#ifndef NB_DATA_TOKENIZER_KEPT_H
#define NB_DATA_TOKENIZER_KEPT_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>

#define NB_TOKENIZER_MODEL "tokenizer.model"
#define NB_TOKENIZER_CONFIG "tokenizer_config.json"
#define NB_TOKENIZER_JSON "tokenizer.json"

enum { NB_KEPT_MAX = 7, NB_KEPT_LIMIT = 64 << 20 };

/* Begin with {0}. */
typedef struct nb_kept_file {
    char *bytes; /* with a 0 after them; NULL: absent */
    size_t size;
} nb_kept_file;
typedef struct nb_tokenizer_kept {
    nb_kept_file files[NB_KEPT_MAX];
} nb_tokenizer_kept;

/* Reads what there is in `folder`; what `kept` held before is freed. */
nb_status nb_kept_read(const char *folder, nb_tokenizer_kept *kept, nb_error *err);
/* Writes all of it. */
nb_status nb_kept_write(const nb_tokenizer_kept *kept, const char *folder, nb_error *err);
void nb_kept_free(nb_tokenizer_kept *kept);

/* The file of that name (its bytes are NULL if it is absent). */
const nb_kept_file *nb_kept_find(const nb_tokenizer_kept *kept, const char *name);
int nb_kept_count(const nb_tokenizer_kept *kept);

#endif
