/* tokenizer_train.c: which lines a SentencePiece model is trained on.
 *
 * Training time grows with the text, what it learns hardly does: a sample of pieces, evenly spread, stands for it.
 */
#include "sentencepiece.h"
#include "text_sample.h"
#include "tokenizer.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAMPLE_PARTS = 48,    /* 3 MB: twice as much shortens the tokens of a dictionary by 0.5 % */
    LINE_MAX_BYTES = 4096 /* SentencePiece passes over sentences longer than 4192 bytes */
};

typedef struct sampler {
    ni_text_sample sample;
    const char *at, *end; /* rest of the current part */
    char line[3 * LINE_MAX_BYTES];
} sampler;

static bool next_part(sampler *s) {
    ni_text part;
    if (!ni_text_sample_next(&s->sample, &part))
        return false;
    s->at = part.bytes;
    s->end = part.bytes + part.size;
    return true;
}

static bool next_line(void *context, const char **line, size_t *size) {
    sampler *s = context;
    for (;;) {
        while (s->at < s->end && (*s->at == '\n' || *s->at == '\0' || *s->at == '\r'))
            s->at++;
        if (s->at < s->end)
            break;
        if (!next_part(s))
            return false;
    }
    size_t length = 0, left = (size_t)(s->end - s->at), most = LINE_MAX_BYTES / 3; /* repair may triple it */
    while (length < left && length < most && s->at[length] != '\n' && s->at[length] != '\0' && s->at[length] != '\r')
        length++;
    if (length == most && length < left)
        while (length > most - 3 && ((unsigned char)s->at[length] & 0xC0) == 0x80)
            length--;
    *line = s->line;
    *size = ni_utf8_repair(s->at, length, s->line, NULL);
    s->at += length;
    return true;
}

/* SentencePiece's reasons begin with its own file and condition; two of them people meet. */
static nb_status explain(int32_t vocab, const char *why, nb_error *err) {
    const char *most = strstr(why, "value <= "), *least = strstr(why, "required_chars. ");
    const char *plain = strstr(why, ")] ");
    if (most)
        return nb_fail(err, NB_BAD_FILE,
                       "a tokenizer of %" PRId32
                       " tokens cannot be trained on this text, which gives at most %ld; hint: "
                       "fewer tokens or more text",
                       vocab, strtol(most + strlen("value <= "), NULL, 10));
    least = least ? strstr(least, " vs ") : NULL;
    if (least)
        return nb_fail(err, NB_BAD_FILE,
                       "a tokenizer of %" PRId32 " tokens cannot be trained on this text, whose characters and bytes "
                       "alone are %ld; expected more",
                       vocab, strtol(least + strlen(" vs "), NULL, 10));
    return nb_fail(err, NB_BAD_FILE, "a tokenizer of %" PRId32 " tokens cannot be trained on this text: %s", vocab,
                   plain ? plain + strlen(")] ") : why);
}

nb_status ni_tokenizer_check_training(const ni_text *texts, int32_t count, int32_t vocab, nb_error *err) {
    enum { LEAST = 3 + 256 + 1 }; /* <unk> <s> </s>, the bytes and a character */
    size_t bytes = 0;
    if (vocab < LEAST || vocab > 1000000)
        return nb_fail(err, NB_BAD_USAGE, "a tokenizer of %" PRId32 " tokens cannot be trained, expected %d to 1000000",
                       vocab, LEAST);
    for (int32_t i = 0; i < count; i++)
        bytes += texts[i].size;
    if (bytes == 0)
        return nb_fail(err, NB_BAD_FILE, "the text is empty: a tokenizer has nothing to learn from");
    if ((size_t)vocab > LEAST + 2 * bytes) /* a piece a character, and one for each pair that is joined */
        return nb_fail(err, NB_BAD_FILE,
                       "a tokenizer of %" PRId32
                       " tokens cannot be trained on %zu bytes of text; hint: fewer tokens or "
                       "more text",
                       vocab, bytes);
    return NB_OK;
}

nb_status ni_tokenizer_train(const ni_text *texts, int32_t count, int32_t vocab, ni_tokenizer **out, nb_error *err) {
    char why[NI_SP_WHY];
    *out = NULL;
    NB_TRY(ni_tokenizer_check_training(texts, count, vocab, err));
    sampler *s = calloc(1, sizeof *s);
    if (!s)
        return nb_fail(err, NB_NO_MEMORY, "no memory to train a tokenizer");
    s->sample = ni_text_sample_begin(texts, count, SAMPLE_PARTS);
    char *model = NULL;
    size_t size = 0;
    nb_status status = NB_OK;
    if (!ni_sp_train(next_line, s, vocab, &model, &size, why))
        status = explain(vocab, why, err);
    free(s);
    if (status == NB_OK)
        status = ni_tokenizer_parse(model, size, out, err);
    free(model);
    return status;
}
