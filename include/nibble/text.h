/* text.h: text to tokens and back, and the next token from logits: with nb_load_checkpoint and nb_model_step a program
 * of one's own continues texts as `nibble generate` does (examples/continue.c). docs/data.md says what tokenizers are.
 */
#ifndef NIBBLE_TEXT_H
#define NIBBLE_TEXT_H

#include "status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_tokenizer nb_tokenizer;

/* `name`: "bytes", a SentencePiece model, a tokenizer.json of byte-level BPE, or a folder with one (a checkpoint, what
 * nibble tokenize wrote, a folder of Hugging Face). Free with nb_tokenizer_free (NULL is allowed). */
NB_API nb_status nb_tokenizer_load(const char *name, nb_tokenizer **out, nb_error *err);
NB_API void nb_tokenizer_free(nb_tokenizer *tokenizer);

NB_API int32_t nb_tokenizer_vocab(const nb_tokenizer *tokenizer);
NB_API int32_t nb_tokenizer_end_of_text(const nb_tokenizer *tokenizer);
/* What opens a text that is continued; -1: nothing. */
NB_API int32_t nb_tokenizer_begin_of_text(const nb_tokenizer *tokenizer);

/* Fresh ids (free with free()) of a text of `size` bytes; nothing is put before or behind them. */
NB_API nb_status nb_tokenizer_encode(const nb_tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                                     int64_t *count, nb_error *err);
/* Fresh text (free with free()) with a 0 behind its `size` bytes. */
NB_API nb_status nb_tokenizer_decode(const nb_tokenizer *tokenizer, const int32_t *ids, int64_t count, char **text,
                                     size_t *size, nb_error *err);

typedef struct nb_sampling {
    double temperature; /* 0 = the most likely token */
    int32_t top_k;      /* only the k most likely; 0 = all */
    double top_p;       /* of them the most likely that have this share together; 1 = all */
    uint32_t seed;
} nb_sampling;

/* Draws token number `index` of a text from logits [vocab]: softmax(logits / temperature), cut to the top k and then to
 * the share top_p, ties to the lower id. A pure function of its arguments. `scratch` holds [2, vocab] floats. */
NB_API int32_t nb_sample(const float *logits, int32_t vocab, const nb_sampling *how, int64_t index, float *scratch);

#ifdef __cplusplus
}
#endif
#endif
