/* decode_stream.h: the text of tokens as they come, without decoding anew what came before. */
#ifndef NI_DATA_DECODE_STREAM_H
#define NI_DATA_DECODE_STREAM_H

#include "tokenizer.h"

typedef struct ni_decode_stream {
    const ni_tokenizer *tokenizer; /* must outlive the stream */
    ni_tokens window;              /* what is decoded with the next tokens */
    size_t said;                   /* bytes of the window's text that were given out */
    enum { NI_DECODE_SUM, NI_DECODE_ANCHORED, NI_DECODE_WHOLE } kind;
    int32_t anchor; /* of SentencePiece: stands for what came before */
    size_t anchor_size;
} ni_decode_stream;

nb_status ni_decode_stream_open(const ni_tokenizer *tokenizer, ni_decode_stream *out, nb_error *err);
void ni_decode_stream_free(ni_decode_stream *s);

/* Takes tokens and gives the text that has become certain since the last call: fresh (free with free()), with a 0
 * behind its `size` bytes, which may be none. All of it together is how ni_tokenizer_decode of all tokens begins; what
 * is missing at the end is a text that ends in U+FFFD, as one does whose last character has bytes to come. */
nb_status ni_decode_stream_add(ni_decode_stream *s, const int32_t *ids, int64_t count, char **text, size_t *size,
                               nb_error *err);

#endif
