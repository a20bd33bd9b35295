/* pretokenizer.h: the patterns that cut a text into pieces before pairs of bytes are joined.
 *
 * A tokenizer.json gives them as Oniguruma's regular expressions; PCRE2 runs them here. What the two read differently
 * is translated (white space) or refused (nested and intersected classes, \h, (?m)).
 */
#ifndef NI_DATA_PRETOKENIZER_H
#define NI_DATA_PRETOKENIZER_H

#include "nibble/status.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct ni_pretokenizer ni_pretokenizer;

/* From the value under "pre_tokenizer". */
nb_status ni_pretokenizer_read(const json_t *description, ni_pretokenizer **out, nb_error *err);
/* Of one pattern that isolates what it matches. */
nb_status ni_pretokenizer_of_pattern(const char *pattern, ni_pretokenizer **out, nb_error *err);
void ni_pretokenizer_free(ni_pretokenizer *pretokenizer);

typedef nb_status ni_take_piece(void *context, const char *piece, size_t size, nb_error *err);

/* Gives the pieces of a text of whole characters, one after another. `more`: how many bytes behind it belong to the
 * same text: patterns look at them, pieces end before them. */
nb_status ni_pretokenizer_split(const ni_pretokenizer *pretokenizer, const char *text, size_t size, size_t more,
                                ni_take_piece *take, void *context, nb_error *err);

/* GPT-2's pattern, and the one that tokenizers of nibble's own have: Qwen's. */
extern const char ni_pattern_gpt2[], ni_pattern_own[];

#endif
