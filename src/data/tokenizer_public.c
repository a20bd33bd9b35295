/* tokenizer_public.c: nibble/text.h over tokenizer.h. */
#include "nibble/text.h"
#include "tokenizer.h"

#include <string.h>

static const ni_tokenizer *inside(const nb_tokenizer *tokenizer) {
    return (const ni_tokenizer *)(const void *)tokenizer;
}

nb_status nb_tokenizer_load(const char *name, nb_tokenizer **out, nb_error *err) {
    ni_tokenizer *made = NULL;
    nb_status status = ni_tokenizer_load(name, &made, err);
    *out = (nb_tokenizer *)(void *)made;
    return status;
}

void nb_tokenizer_free(nb_tokenizer *tokenizer) {
    ni_tokenizer_free((ni_tokenizer *)(void *)tokenizer);
}

int32_t nb_tokenizer_vocab(const nb_tokenizer *tokenizer) {
    return ni_tokenizer_vocab(inside(tokenizer));
}

int32_t nb_tokenizer_end_of_text(const nb_tokenizer *tokenizer) {
    return ni_tokenizer_end_of_text(inside(tokenizer));
}

int32_t nb_tokenizer_begin_of_text(const nb_tokenizer *tokenizer) {
    return ni_tokenizer_begin_of_text(inside(tokenizer));
}

nb_status nb_tokenizer_encode(const nb_tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                              int64_t *count, nb_error *err) {
    ni_tokens tokens = {0};
    nb_status status = ni_tokenizer_encode(inside(tokenizer), text, size, false, &tokens, NULL, err);
    if (status != NB_OK)
        ni_tokens_free(&tokens);
    *ids = tokens.ids;
    *count = tokens.count;
    return status;
}

nb_status nb_tokenizer_decode(const nb_tokenizer *tokenizer, const int32_t *ids, int64_t count, char **text,
                              size_t *size, nb_error *err) {
    return ni_tokenizer_decode(inside(tokenizer), ids, count, text, size, err);
}
