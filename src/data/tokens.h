/* tokens.h: a growing list of token ids. */
#ifndef NI_DATA_TOKENS_H
#define NI_DATA_TOKENS_H

#include "nibble/status.h"
#include <stdint.h>

/* Begin with {0}. */
typedef struct ni_tokens {
    int32_t *ids;
    int64_t count, capacity;
} ni_tokens;
void ni_tokens_free(ni_tokens *tokens);
nb_status ni_tokens_reserve(ni_tokens *tokens, int64_t more, nb_error *err);
nb_status ni_tokens_add(ni_tokens *tokens, const int32_t *ids, int64_t count, nb_error *err);

#endif
