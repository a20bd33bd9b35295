/* sentencepiece_check.h: whether a SentencePiece model may be given to the library.
 *
 * The library trusts the normalisation table inside a model: a trie and strings that refer to each other by offsets. A
 * damaged table makes it read anywhere in memory, so the offsets are checked here first.
 */
#ifndef NI_DATA_SENTENCEPIECE_CHECK_H
#define NI_DATA_SENTENCEPIECE_CHECK_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>

nb_status ni_sp_check(const void *model, size_t size, nb_error *err);

/* What a model says of how it cuts a text and joins one; of one that ni_sp_check passed. */
typedef struct ni_sp_traits {
    bool byte_pairs;              /* else unigrams, words or characters */
    bool normalizes;              /* characters are replaced by a table */
    bool dummy_prefix;            /* a space is put before a text */
    bool remove_extra_whitespace; /* runs of spaces become one */
    bool rewrites;                /* a table is applied to decoded text */
} ni_sp_traits;
ni_sp_traits ni_sp_read_traits(const void *model, size_t size);

#endif
