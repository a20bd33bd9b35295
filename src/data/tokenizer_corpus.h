/* tokenizer_corpus.h: texts to a folder of token shards, for training and for validation.
 *
 *     train_000000.bin ...  val_000000.bin ...  meta.json  and the tokenizer's files
 *
 * Documents end with the end-of-text token. NUL always separates documents. Validation takes parts spread evenly over
 * the texts: whole documents, or pieces of long ones; what goes to one side never appears on the other.
 */
#ifndef NI_DATA_TOKENIZER_CORPUS_H
#define NI_DATA_TOKENIZER_CORPUS_H

#include "tokenizer.h"

typedef enum ni_split {
    NI_SPLIT_FILE,  /* a file is a document */
    NI_SPLIT_BLANK, /* blank lines separate documents */
    NI_SPLIT_LINE,  /* a line is a document */
    NI_SPLIT_TEXT   /* `separator` separates documents */
} ni_split;
const char *ni_split_name(ni_split split);

typedef struct ni_corpus_options {
    ni_split split;
    const char *separator; /* of NI_SPLIT_TEXT; not empty */
    double val_share;      /* of the bytes; 0: no validation shards */
    int64_t shard_tokens;  /* most tokens of one shard */
    /* Called now and then with the bytes done; false stops with NB_INTERRUPTED. May be NULL. */
    bool (*progress)(void *context, int64_t done, int64_t total);
    void *progress_context;
} ni_corpus_options;

/* What one side (training, validation) received. */
typedef struct ni_corpus_side {
    int64_t bytes, documents, tokens, shards;
} ni_corpus_side;

typedef struct ni_corpus_counts {
    ni_corpus_side train, val;
    int64_t invalid; /* bytes that were not UTF-8 */
} ni_corpus_counts;

/* Writes everything into `folder`, which exists. Memory does not grow with the texts. Threads share the work and change
 * nothing of the result. */
nb_status ni_corpus_write(const ni_tokenizer *tokenizer, const ni_text *texts, int32_t count, const char *folder,
                          const ni_corpus_options *options, ni_corpus_counts *counts, nb_error *err);

/* Whether the texts are enough for validation, found without encoding them: before a tokenizer is trained. */
nb_status ni_corpus_check(const ni_text *texts, int32_t count, const ni_corpus_options *options, nb_error *err);

/* The next document of a text from *at on: sets its beginning and size and moves *at behind it and its separator; false
 * at the end. Documents without bytes are passed over. */
typedef struct ni_document_reader {
    const char *at, *end, *nul; /* nul: end of the part that no NUL divides */
} ni_document_reader;
ni_document_reader ni_documents(const ni_text *text);
bool ni_document_next(ni_document_reader *reader, const ni_corpus_options *options, ni_text *document);

#endif
