/* tokenizer_gguf.h: tokenizers as the keys of a GGUF file, for llama.cpp. */
#ifndef NI_DATA_TOKENIZER_GGUF_H
#define NI_DATA_TOKENIZER_GGUF_H

#include "data/tokenizer.h"
#include "files/gguf.h"

/* The keys for a model of `vocab` embeddings, of which those beyond the tokenizer's are named and unused. Fails where
 * llama.cpp would cut texts another way (unigrams, tables of characters). */
nb_status ni_tokenizer_gguf(const ni_tokenizer *tokenizer, int32_t vocab, ni_gguf *file, nb_error *err);

/* The same of a tokenizer.json of byte-level BPE. `begin`, `end`: its tokens around a text, -1: none. */
nb_status ni_tokenizer_json_gguf(const char *json, size_t size, int32_t vocab, int32_t begin, int32_t end,
                                 ni_gguf *file, nb_error *err);

#endif
