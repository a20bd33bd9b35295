/* share.h: what ranks share out (`share: moments`, the first stage of arXiv:1910.02054; `share: gradients`, the
 * second).
 *
 * Whole tensors, so that a narrow type's scale is one rank's. Rank r has the moments of the tensors first[r] ..
 * first[r + 1] - 1, as equal in numbers as whole tensors let them be. It updates their masters and the others take them
 * over: AdamW looks at one number at a time, so who does it makes no difference to a bit.
 *
 * Gradients are handed on in sections (params.h), and squares for their norm are summed by section: a rank then has
 * whole sections. It keeps their sums over all ranks and nobody else does. Where two ranks share moments out, each
 * needs the sums of its own sections alone too, which is half of the bytes of an exchange.
 */
#ifndef NI_TRAIN_SHARE_H
#define NI_TRAIN_SHARE_H

#include "model/masters.h"
#include "nibble/train.h"
#include "reduce.h"

typedef struct ni_share {
    int32_t world;
    int32_t *first;     /* [world + 1] */
    int64_t *elements;  /* [world + 1]: the same in elements of an array of all tensors */
    int32_t begin, end; /* own tensors */
    bool out;           /* ranks have different ones; else begin .. end are all */
    bool gradients;     /* and their gradients */
    bool sums;          /* each has the sums of its own gradients alone, of whole sections */
    size_t *parts;      /* [world + 1]: bytes at which the squares of ranks' sections begin, in doubles; `sums` */
    size_t *at;         /* [world + 1]: bytes of an array at which shares begin (ni_share_place) */
} ni_share;

/* ranks NULL: nobody to share with. */
nb_status ni_share_create(const nb_ranks *ranks, nb_model *model, nb_share what, ni_share *share, nb_error *err);
void ni_share_free(ni_share *share);

/* The rank that has tensor `index`. */
int32_t ni_share_owner(const ni_share *share, int32_t index);

/* share->at: where in `array` each rank's masters begin of those that travel as masters; last, where they end. */
void ni_share_place(const ni_share *share, const nb_model *model, const ni_master_array *array);

/* Masters that each rank has moved, to all, where all have a place for them (model/masters.h). */
nb_status ni_share_masters(const ni_share *share, nb_model *model, const ni_reducer *x, nb_error *err);

#endif
