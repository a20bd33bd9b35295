/* decode_stream.c: a short window of tokens stands for all that came.
 *
 * The text of bytes and of byte-level BPE is the sum of its tokens' texts: once it is given out, nothing is kept.
 * SentencePiece makes characters of runs of byte pieces, and U+FFFD of bytes that make none (yet), from left to right:
 * behind a whole character it begins anew. But it takes the space off the first piece of a text, so that later pieces
 * are decoded behind an anchor, a token that has text. Where a model rewrites what it has decoded (denormalizer_spec)
 * any neighbour may matter, and all tokens are kept.
 */
#include "decode_stream.h"
#include "sentencepiece_check.h"

#include <stdlib.h>
#include <string.h>

static bool ends_open(const char *text, size_t size) {
    return size >= 3 && memcmp(text + size - 3, "\xEF\xBF\xBD", 3) == 0;
}

/* The first token that has a text of its own, which no later token changes. */
static nb_status find_anchor(ni_decode_stream *s, nb_error *err) {
    for (int32_t id = 0; id < ni_tokenizer_vocab(s->tokenizer); id++) {
        char *text;
        size_t size;
        NB_TRY(ni_tokenizer_decode(s->tokenizer, &id, 1, &text, &size, err));
        bool serves = size > 0 && !ends_open(text, size);
        free(text);
        if (serves) {
            s->anchor = id;
            s->anchor_size = size;
            s->kind = NI_DECODE_ANCHORED;
            return NB_OK;
        }
    }
    return NB_OK;
}

nb_status ni_decode_stream_open(const ni_tokenizer *tokenizer, ni_decode_stream *out, nb_error *err) {
    const void *model;
    size_t size;
    *out = (ni_decode_stream){.tokenizer = tokenizer, .kind = NI_DECODE_SUM};
    if (!ni_tokenizer_sp(tokenizer, &model, &size))
        return NB_OK;
    out->kind = NI_DECODE_WHOLE;
    return ni_sp_read_traits(model, size).rewrites ? NB_OK : find_anchor(out, err);
}

void ni_decode_stream_free(ni_decode_stream *s) {
    ni_tokens_free(&s->window);
}

/* All of the window's text was given out: a shorter window takes its place. One without text is still the beginning. */
static nb_status shorten(ni_decode_stream *s, nb_error *err) {
    if (s->kind == NI_DECODE_WHOLE || (s->kind == NI_DECODE_ANCHORED && s->said == 0))
        return NB_OK;
    s->window.count = 0;
    s->said = 0;
    if (s->kind == NI_DECODE_SUM)
        return NB_OK;
    s->said = s->anchor_size;
    return ni_tokens_add(&s->window, &s->anchor, 1, err);
}

nb_status ni_decode_stream_add(ni_decode_stream *s, const int32_t *ids, int64_t count, char **text, size_t *size,
                               nb_error *err) {
    *text = NULL;
    *size = 0;
    NB_TRY(ni_tokens_add(&s->window, ids, count, err));
    size_t all;
    NB_TRY(ni_tokenizer_decode(s->tokenizer, s->window.ids, s->window.count, text, &all, err));
    bool open = ends_open(*text, all);
    if (all > s->said && !open) {
        *size = all - s->said;
        memmove(*text, *text + s->said, *size);
        s->said = all;
    }
    (*text)[*size] = 0;
    return open ? NB_OK : shorten(s, err);
}
