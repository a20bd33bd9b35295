/* dataset.h: which tokens sample i of a run holds.
 *
 * The shards, one after another, are one stream of tokens. It is cut into N = (tokens - 1) / seq sequences of seq + 1
 * tokens; neighbours share one token, so every token but the first is a target exactly once an epoch. Sample i of the
 * run is sequence order(seed, i / N)[i % N], where order is a permutation drawn from Philox: a pure function of seed
 * and i. Resuming is starting at another i; ranks take different i; nothing is kept between calls.
 *
 * Documents are separated by the end-of-text token. As a target it ends its document; as an input it opens the next
 * one, so the first token of a document is predicted from end-of-text alone, and generation begins with it.
 */
#ifndef NI_DATA_DATASET_H
#define NI_DATA_DATASET_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct ni_dataset_options {
    int64_t seq;          /* tokens of a sequence */
    int64_t vocab;        /* ids must be below */
    int32_t end_of_text;  /* -1: the stream is one document */
    bool cross_documents; /* attention and positions run through end-of-text */
    bool shuffle;         /* false: sequences in order, for validation */
    uint32_t seed;        /* of the order */
    int64_t sequences;    /* > 0: use only so many, spread evenly over the stream; 0: all */
} ni_dataset_options;

typedef struct ni_dataset ni_dataset;

/* Opens the shards. A path may be a pattern ("data/train_*.bin"), which stands for its matches in sorted order.
 * Each shard is read once, whole: its checksum is taken, and compared where the shard is sealed, and its tokens are
 * compared with the vocabulary. */
nb_status ni_dataset_open(const char *const *paths, int32_t count, const ni_dataset_options *options, ni_dataset **out,
                          nb_error *err);
void ni_dataset_free(ni_dataset *data);

int64_t ni_dataset_tokens(const ni_dataset *data);    /* in the stream */
int64_t ni_dataset_sequences(const ni_dataset *data); /* of an epoch */

/* Changes when a byte of the stream or the way it is cut does: for a checkpoint to notice that it would go on with
 * other data. */
uint64_t ni_dataset_sum(const ni_dataset *data);
/* What checkpoints kept before that: of sizes and of the first and last 4 KiB of each shard. */
uint64_t ni_dataset_fingerprint(const ni_dataset *data);

/* The sequence that sample `index` of the run shows. */
int64_t ni_dataset_sequence_of(const ni_dataset *data, int64_t index);

/* Where a micro-batch goes: four arrays of the caller, each [batch, seq] (see nb_batch in nibble/model.h). */
typedef struct ni_dataset_buffers {
    int32_t *tokens, *targets, *positions, *doc_start;
} ni_dataset_buffers;

/* Fills samples [micro_batch * batch, (micro_batch + 1) * batch). Allocates nothing; any thread may call it. */
nb_status ni_dataset_fill(const ni_dataset *data, int64_t micro_batch, int64_t batch, const ni_dataset_buffers *to,
                          nb_error *err);

#endif
