/* tokenizer_kept.h: the files of a Hugging Face tokenizer, as they were found: they travel with a model, whether nibble
 * reads them or not. tokenizer.model and tokenizer.json are among them. */
#ifndef NI_DATA_TOKENIZER_KEPT_H
#define NI_DATA_TOKENIZER_KEPT_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>

#define NI_TOKENIZER_MODEL "tokenizer.model"
#define NI_TOKENIZER_CONFIG "tokenizer_config.json"
#define NI_TOKENIZER_JSON "tokenizer.json"

enum { NI_KEPT_MODEL, NI_KEPT_CONFIG, NI_KEPT_JSON, NI_KEPT_MAX = 7, NI_KEPT_LIMIT = 64 << 20 };

/* Begin with {0}. */
typedef struct ni_kept_file {
    char *bytes; /* with a 0 after them; NULL: absent */
    size_t size;
} ni_kept_file;
typedef struct ni_tokenizer_kept {
    ni_kept_file files[NI_KEPT_MAX];
} ni_tokenizer_kept;

/* Forgets the files whose names are not listed. */
void ni_kept_drop(ni_tokenizer_kept *kept, bool (*is_listed)(const void *context, const char *name),
                  const void *context);

/* Reads what there is in `folder`; what `kept` held before is freed. */
nb_status ni_kept_read(const char *folder, ni_tokenizer_kept *kept, nb_error *err);
/* Writes all of it. */
nb_status ni_kept_write(const ni_tokenizer_kept *kept, const char *folder, nb_error *err);
void ni_kept_free(ni_tokenizer_kept *kept);

/* The file of that name (its bytes are NULL if it is absent). */
const ni_kept_file *ni_kept_find(const ni_tokenizer_kept *kept, const char *name);
/* Takes over a text that malloc gave. */
void ni_kept_replace(ni_kept_file *file, char *text);
int ni_kept_count(const ni_tokenizer_kept *kept);

#endif
