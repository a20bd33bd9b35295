/* added_tokens.h: tokens that are found in a text before anything else is done to it ("<|endoftext|>" and their like).
 */
#ifndef NI_DATA_ADDED_TOKENS_H
#define NI_DATA_ADDED_TOKENS_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_added_token {
    char *text; /* belongs to the list */
    size_t size;
    int32_t id;
    bool left, right; /* takes white space before it, behind it along */
    bool special;
} ni_added_token;

/* Begin with {0}. */
typedef struct ni_added_tokens {
    ni_added_token *list; /* after ni_added_tokens_sort: by first byte, of the same the longest first */
    size_t count, room;
    uint32_t first[257]; /* tokens whose text begins with byte b: first[b] .. first[b + 1] */
} ni_added_tokens;

nb_status ni_added_tokens_put(ni_added_tokens *tokens, ni_added_token token, nb_error *err); /* copies the text */
void ni_added_tokens_sort(ni_added_tokens *tokens);
void ni_added_tokens_free(ni_added_tokens *tokens);

/* The leftmost token in `text` from `at` on, of those that begin there the longest; NULL if there is none. *begin and
 * *end are what it takes, with its white space, but nothing before `at`. */
const ni_added_token *ni_added_tokens_find(const ni_added_tokens *tokens, const char *text, size_t size, size_t at,
                                           size_t *begin, size_t *end);

#endif
