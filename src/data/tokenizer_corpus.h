/* tokenizer_corpus.h: texts to a folder of token shards, for training and for validation.
 *
 *     train_000000.bin ...  val_000000.bin ...  meta.json  and the tokenizer's files
 *
 * Documents end with the end-of-text token. NUL always separates documents. Validation takes parts spread evenly over
 * the texts: whole documents, or pieces of long ones; what goes to one side never appears on the other.
 */
#ifndef NB_DATA_TOKENIZER_CORPUS_H
#define NB_DATA_TOKENIZER_CORPUS_H

#include "tokenizer.h"

typedef enum nb_split {
    NB_SPLIT_FILE,  /* a file is a document */
    NB_SPLIT_BLANK, /* blank lines separate documents */
    NB_SPLIT_LINE,  /* a line is a document */
    NB_SPLIT_TEXT   /* `separator` separates documents */
} nb_split;
const char *nb_split_name(nb_split split);

typedef struct nb_corpus_options {
    nb_split split;
    const char *separator; /* of NB_SPLIT_TEXT; not empty */
    double val_share;      /* of the bytes; 0: no validation shards */
    int64_t shard_tokens;  /* most tokens of one shard */
    /* Called now and then with the bytes done; false stops with NB_INTERRUPTED. May be NULL. */
    bool (*progress)(void *context, int64_t done, int64_t total);
    void *progress_context;
} nb_corpus_options;

/* What one side (training, validation) received. */
typedef struct nb_corpus_side {
    int64_t bytes, documents, tokens, shards;
} nb_corpus_side;

typedef struct nb_corpus_counts {
    nb_corpus_side train, val;
    int64_t invalid; /* bytes that were not UTF-8 */
} nb_corpus_counts;

/* Writes everything into `folder`, which exists. Memory does not grow with the texts. Threads share the work and change
 * nothing of the result. */
nb_status nb_corpus_write(const nb_tokenizer *tokenizer, const nb_text *texts, int32_t count, const char *folder,
                          const nb_corpus_options *options, nb_corpus_counts *counts, nb_error *err);

/* The next document of a text from *at on: sets its beginning and size and moves *at behind it and its separator; false
 * at the end. Documents without bytes are passed over. */
typedef struct nb_document_reader {
    const char *at, *end, *nul; /* nul: end of the part that no NUL divides */
} nb_document_reader;
nb_document_reader nb_documents(const nb_text *text);
bool nb_document_next(nb_document_reader *reader, const nb_corpus_options *options, nb_text *document);

#endif
