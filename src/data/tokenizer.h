/* tokenizer.h: text to token ids and back.
 *
 * Three kinds: "bytes" (ids 0..255 are the bytes, 256 is end-of-text), SentencePiece models, and the tokenizer.json of
 * byte-level BPE. A text is one document: end-of-text tokens are the caller's to add.
 */
#ifndef NI_DATA_TOKENIZER_H
#define NI_DATA_TOKENIZER_H

#include "tokens.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_tokenizer ni_tokenizer;

/* `name`: "bytes", a SentencePiece model file, a tokenizer.json, or a folder with tokenizer.model, with tokenizer.json
 * or with what ni_tokenizer_save wrote (a checkpoint). */
nb_status ni_tokenizer_load(const char *name, ni_tokenizer **out, nb_error *err);
/* A SentencePiece model in memory (copied). */
nb_status ni_tokenizer_parse(const void *model, size_t size, ni_tokenizer **out, nb_error *err);
/* Byte-level BPE that nibble trained, from the text of its tokenizer.json (taken over). */
nb_status ni_tokenizer_from_json(char *json, ni_tokenizer **out, nb_error *err);
void ni_tokenizer_free(ni_tokenizer *tokenizer);

const char *ni_tokenizer_kind(const ni_tokenizer *tokenizer); /* "bytes", "sentencepiece", "bpe" */
int32_t ni_tokenizer_vocab(const ni_tokenizer *tokenizer);
int32_t ni_tokenizer_end_of_text(const ni_tokenizer *tokenizer);

/* What opens a text that a model continues: end-of-text, which is before every document that nibble trains on; in a
 * folder of another maker what its tokenizer_config.json says. -1: nothing. */
int32_t ni_tokenizer_begin_of_text(const ni_tokenizer *tokenizer);

/* From here on end-of-text opens texts, and the files of another maker say so too: for a model that was trained so. */
nb_status ni_tokenizer_open_with_end(ni_tokenizer *tokenizer, nb_error *err);

/* Whether they give the same ids: both bytes, the same model to the byte, or the same tokenizer.json but for what opens
 * a text. */
bool ni_tokenizer_equal(const ni_tokenizer *a, const ni_tokenizer *b);

/* Writes the files from which Hugging Face's AutoTokenizer and ni_tokenizer_load make this tokenizer again. A tokenizer
 * that came from a folder of another maker brings that folder's files along unchanged. */
nb_status ni_tokenizer_save(const ni_tokenizer *tokenizer, const char *folder, nb_error *err);

/* The SentencePiece model and its bytes; NULL for bytes. Both belong to the tokenizer. */
const struct ni_sp *ni_tokenizer_sp(const ni_tokenizer *tokenizer, const void **model, size_t *size);

/* Appends the ids of a text. `continues`: the text goes on with a document cut by ni_tokenizer_cut, so no beginning is
 * marked. Bytes that are not UTF-8 become U+FFFD but for the bytes tokenizer; their number is added to *invalid (may be
 * NULL). Long texts are encoded by all threads; the result does not depend on how many there are. */
nb_status ni_tokenizer_encode(const ni_tokenizer *tokenizer, const char *text, size_t size, bool continues,
                              ni_tokens *out, int64_t *invalid, nb_error *err);

/* The same of a part of a document of which `more` bytes lie behind it: they are looked at, where ids before a cut
 * depend on them. */
nb_status ni_tokenizer_encode_part(const ni_tokenizer *tokenizer, const char *text, size_t size, size_t more,
                                   bool continues, ni_tokens *out, int64_t *invalid, nb_error *err);

/* Where to cut a long document, at most `limit` bytes from its beginning, so that the ids of the parts make the ids of
 * the whole: after a line break that no space follows, else before a single space, else between characters (then, and
 * only then, ids beside the cut may differ). Returns `size` if that is within the limit. */
size_t ni_tokenizer_cut(const char *text, size_t size, size_t limit);

/* Fresh text with a 0 after its end (free with free()). Ids outside the vocabulary are refused. */
nb_status ni_tokenizer_decode(const ni_tokenizer *tokenizer, const int32_t *ids, int64_t count, char **text,
                              size_t *size, nb_error *err);

/* Trains a SentencePiece model, or byte-level BPE, of `vocab` pieces on a sample of at most 3 MB, of BPE 24 MB, spread
 * evenly over the texts. The same texts give the same model. */
typedef struct ni_text {
    const char *bytes;
    size_t size;
} ni_text;
nb_status ni_tokenizer_train(const ni_text *texts, int32_t count, int32_t vocab, ni_tokenizer **out, nb_error *err);
nb_status ni_tokenizer_train_bpe(const ni_text *texts, int32_t count, int32_t vocab, ni_tokenizer **out, nb_error *err);

/* What training would refuse without having trained. */
nb_status ni_tokenizer_check_training(const ni_text *texts, int32_t count, int32_t vocab, nb_error *err);

#endif
