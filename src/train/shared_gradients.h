/* shared_gradients.h: gradients that no rank has whole (`share: gradients`).
 *
 * A backward pass hands on a section of the model at a time (ni_model_hand_gradients_to). Those of a rank's first
 * micro-batches are added to its sub-sums, as accumulate.h has it; those of the last close the tree, are summed over
 * ranks, behind the pass where that can be (behind.h), and stay with the rank that has the section (share.h). What is
 * added to what is the same as ever.
 */
#ifndef NI_TRAIN_SHARED_GRADIENTS_H
#define NI_TRAIN_SHARED_GRADIENTS_H

#include "accumulate.h"
#include "behind.h"
#include "share.h"

typedef struct ni_shared_gradients {
    const ni_share *share;
    ni_reducer *reducer;
    ni_accumulator *accumulator;
    ni_behind behind;          /* sums sections while the pass goes on */
    const ni_param_array *all; /* places of the model's gradients, while one is handed on */
    ni_param_array own;        /* of the sections that this rank has; without data where gradients are not shared out */
    nb_status status;          /* of what was handed on in this pass */
    nb_error error;
} ni_shared_gradients;

nb_status ni_shared_gradients_create(const ni_share *share, ni_reducer *reducer, ni_accumulator *accumulator,
                                     nb_model *model, ni_shared_gradients *out, nb_error *err);
void ni_shared_gradients_free(ni_shared_gradients *x);

/* Around a micro-batch. */
void ni_shared_gradients_begin(ni_shared_gradients *x, nb_model *model);
nb_status ni_shared_gradients_end(ni_shared_gradients *x, nb_model *model, nb_status status, nb_error *err);

#endif
