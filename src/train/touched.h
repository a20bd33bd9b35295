/* touched.h: which rows of the embedding the tokens of a step touch, over all ranks.
 *
 * The gradient of every other row of an embedding is zero on all ranks, so that those rows alone need to be summed
 * (reduce.h); or, where it is the head too, it is final once a backward pass has left the head, which is the first that
 * it leaves. Tokens are known when a micro-batch begins: ranks tell each other long before the pass comes to the
 * embedding, which is the last.
 */
#ifndef NI_TRAIN_TOUCHED_H
#define NI_TRAIN_TOUCHED_H

#include "dist/ranks.h"

typedef struct ni_touched {
    nb_ranks *ranks;
    int64_t rows, width; /* of the table, and numbers of a row */
    size_t bytes;        /* of a rank's marks */
    uint8_t *mine, *all; /* a bit a row: this rank's tokens of the step; [world], as ranks tell */
    int32_t *list;       /* [rows]: those that any rank touches, ascending, then the others, once they have met */
    int64_t count;       /* of those that are touched */
    bool head;           /* the others have gradients too */
    bool owned;          /* rank 0 alone gets sums, and the others have nothing to add to rows that it alone touches; so
                            those are not listed. Not where all rows have gradients */
} ni_touched;

/* `ranks` NULL: nothing is taken, and nothing noted. */
nb_status ni_touched_create(nb_ranks *ranks, int64_t rows, int64_t width, ni_touched *out, nb_error *err);
void ni_touched_free(ni_touched *touched);

/* A step begins; tokens of a micro-batch of it. */
void ni_touched_begin(ni_touched *touched);
void ni_touched_note(ni_touched *touched, const int32_t *tokens, int64_t n);

/* Ranks tell each other; every rank calls it. */
nb_status ni_touched_meet(ni_touched *touched, nb_error *err);

#endif
