/* bpe_model.h: what a tokenizer.json of byte-level BPE holds, read by bpe_json.c, applied by bpe.c. */
#ifndef NI_DATA_BPE_MODEL_H
#define NI_DATA_BPE_MODEL_H

#include "added_tokens.h"
#include "byte_pairs.h"
#include "pretokenizer.h"

struct ni_bpe {
    ni_byte_pairs *pairs;
    ni_pretokenizer *pre;
    ni_added_tokens raw;          /* found in the text as it is */
    ni_added_tokens normalized;   /* found once it is normalized */
    const ni_added_token **added; /* [vocab]: by id, NULL for every other */
    int32_t vocab;
    uint64_t digest;  /* of what the ids depend on */
    bool nfc;         /* texts are composed first */
    bool whole_words; /* a piece that is a word is not made by merges (ignore_merges) */
};

/* Fills all but what depends on the sorted lists; what was made is in *bpe also where it fails. */
nb_status ni_bpe_read(const char *json, size_t size, struct ni_bpe *bpe, nb_error *err);

#endif
