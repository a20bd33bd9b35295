/* byte_pairs.h: the words of byte-pair encoding and how they are joined.
 *
 * A word is bytes and an id. A text's piece begins as one word a byte; of all neighbours that a merge joins, those of
 * the earliest merge are joined first, the leftmost first, until nothing can be joined (Sennrich et al.,
 * arXiv:1508.07909).
 */
#ifndef NI_DATA_BYTE_PAIRS_H
#define NI_DATA_BYTE_PAIRS_H

#include "tokens.h"
#include <stdbool.h>
#include <stddef.h>

/* Files of strangers may not ask for more: the largest vocabularies of today have 262144 words. */
enum { NI_BYTE_PAIRS_MOST = 1 << 22 };

typedef struct ni_byte_pairs ni_byte_pairs;

/* `ids`: one more than the largest id; `words`, `merges`: how many there will be at most. */
nb_status ni_byte_pairs_create(int32_t ids, size_t words, size_t merges, ni_byte_pairs **out, nb_error *err);
void ni_byte_pairs_free(ni_byte_pairs *pairs);

/* `unreachable`: a word that no text is made of, apart from a reachable one of the same bytes. */
nb_status ni_byte_pairs_add(ni_byte_pairs *pairs, const char *bytes, size_t size, bool unreachable, int32_t id,
                            nb_error *err);
/* Merges come in their order; a pair that comes twice has its later place. All three words are there. */
void ni_byte_pairs_merge(ni_byte_pairs *pairs, int32_t left, int32_t right, int32_t joined);
/* Whether every byte is a word: before it is, nothing may be encoded. */
nb_status ni_byte_pairs_check(ni_byte_pairs *pairs, nb_error *err);

/* -1: there is none. */
int32_t ni_byte_pairs_id(const ni_byte_pairs *pairs, const char *bytes, size_t size, bool unreachable);
/* The bytes of an id that is in range; NULL of one that nothing has. */
const char *ni_byte_pairs_word(const ni_byte_pairs *pairs, int32_t id, size_t *size);
int32_t ni_byte_pairs_ids(const ni_byte_pairs *pairs);

/* Memory for encoding, of one thread. Begin with {0}. */
typedef struct ni_byte_pairs_room {
    void *symbols, *heap;
    size_t size;
} ni_byte_pairs_room;
void ni_byte_pairs_room_free(ni_byte_pairs_room *room);

/* Appends the ids of a piece. `whole`: a piece that is a word is that word, whatever the merges would give. */
nb_status ni_byte_pairs_encode(const ni_byte_pairs *pairs, const char *bytes, size_t size, bool whole,
                               ni_byte_pairs_room *room, ni_tokens *out, nb_error *err);

#endif
