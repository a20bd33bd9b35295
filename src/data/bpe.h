/* bpe.h: byte-level BPE as a tokenizer.json describes it (Qwen, LLaMA 3, GPT-2, OLMo 2).
 *
 *     text -> added tokens are taken out -> NFC, where the file asks for it -> pieces (pretokenizer.h)
 *          -> joined bytes (byte_pairs.h) -> ids
 *
 * The ids are those of the tokenizers package without its post-processor, which adds what opens a text.
 */
#ifndef NI_DATA_BPE_H
#define NI_DATA_BPE_H

#include "tokens.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct ni_bpe ni_bpe;

nb_status ni_bpe_parse(const char *json, size_t size, ni_bpe **out, nb_error *err);
void ni_bpe_free(ni_bpe *bpe);

int32_t ni_bpe_vocab(const ni_bpe *bpe);                 /* one more than the largest id */
int32_t ni_bpe_id(const ni_bpe *bpe, const char *text);  /* of an added token, else a word; -1: none */
const char *ni_bpe_added(const ni_bpe *bpe, int32_t id); /* the text of an added token, NULL of every other */

/* Whether they give the same ids: all but what is done after encoding is the same. */
bool ni_bpe_equal(const ni_bpe *a, const ni_bpe *b);

/* Appends the ids of a text of whole characters. `more`: how many bytes behind it belong to the same document, so that
 * the last piece ends where it would in the whole. May be called by several threads at once. */
nb_status ni_bpe_encode(const ni_bpe *bpe, const char *text, size_t size, size_t more, ni_tokens *out, nb_error *err);

/* Fresh text with a 0 behind it; added tokens stand in it as they are written. Ids are in range. */
nb_status ni_bpe_decode(const ni_bpe *bpe, const int32_t *ids, int64_t count, char **text, size_t *size, nb_error *err);

#endif
