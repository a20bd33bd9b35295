/* fuzz_tokenizer.c: any bytes as a SentencePiece model, and any bytes as text for the bytes tokenizer. What a model
 * that is accepted makes of a text has ids inside its vocabulary, and can be decoded. */
#include "fuzz.h"

#include "data/tokenizer.h"
#include "data/tokenizer_corpus.h"

#include <string.h>

static void check_text(const ni_tokenizer *tokenizer, const char *text, size_t size) {
    ni_tokens ids = {0};
    char *back;
    size_t back_size;
    if (ni_tokenizer_encode(tokenizer, text, size, false, &ids, NULL, NULL) == NB_OK) {
        for (int64_t i = 0; i < ids.count; i++)
            FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < ni_tokenizer_vocab(tokenizer));
        if (ni_tokenizer_decode(tokenizer, ids.ids, ids.count, &back, &back_size, NULL) == NB_OK)
            free(back);
    }
    ni_tokens_free(&ids);
}

static void check_documents(const char *text, size_t size) {
    for (int split = NI_SPLIT_FILE; split <= NI_SPLIT_TEXT; split++) {
        ni_corpus_options options = {.split = (ni_split)split, .separator = "ab"};
        ni_text whole = {text, size}, document;
        ni_document_reader reader = ni_documents(&whole);
        const char *last = text;
        while (ni_document_next(&reader, &options, &document)) {
            FUZZ_CHECK(document.bytes >= last && document.bytes + document.size <= text + size && document.size > 0);
            FUZZ_CHECK(!memchr(document.bytes, 0, document.size));
            last = document.bytes + document.size;
        }
    }
    for (size_t at = 0, n; at < size; at += n) {
        n = ni_tokenizer_cut(text + at, size - at, 16);
        FUZZ_CHECK(n > 0 && n <= 16 && n <= size - at);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    const char text[] = "the tokens of 12\n\n  words\xff caf\xc3\xa9";
    ni_tokenizer *tokenizer;
    nb_error err = {0};
    nb_status status = ni_tokenizer_parse(bytes, size, &tokenizer, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status == NB_OK) {
        check_text(tokenizer, text, sizeof text - 1);
        ni_tokenizer_free(tokenizer);
    }
    check_documents((const char *)bytes, size);
    return 0;
}
