/* tokens.c: a growing list of token ids. */
#include "tokens.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void ni_tokens_free(ni_tokens *tokens) {
    free(tokens->ids);
    *tokens = (ni_tokens){0};
}

nb_status ni_tokens_reserve(ni_tokens *tokens, int64_t more, nb_error *err) {
    if (tokens->count + more <= tokens->capacity)
        return NB_OK;
    int64_t capacity = tokens->count + more + tokens->capacity / 2 + 64;
    int32_t *ids = realloc(tokens->ids, (size_t)capacity * sizeof *ids);
    if (!ids)
        return nb_fail(err, NB_NO_MEMORY, "no memory for %" PRId64 " tokens", capacity);
    tokens->ids = ids;
    tokens->capacity = capacity;
    return NB_OK;
}

nb_status ni_tokens_add(ni_tokens *tokens, const int32_t *ids, int64_t count, nb_error *err) {
    NB_TRY(ni_tokens_reserve(tokens, count, err));
    if (count)
        memcpy(tokens->ids + tokens->count, ids, (size_t)count * sizeof *ids);
    tokens->count += count;
    return NB_OK;
}
