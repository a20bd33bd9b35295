/* combine.h: state of mechanisms that is made of more than one micro-batch, or of the first alone (ni_combine in
 * linear/mechanism.h), over all micro-batches and ranks of a step.
 */
#ifndef NI_TRAIN_COMBINE_H
#define NI_TRAIN_COMBINE_H

#include "accumulate.h"
#include "linear/mechanism.h"
#include "reduce.h"

typedef struct ni_combiner {
    nb_backend *be;
    ni_param_array sums;        /* one flat tensor: all that is summed */
    ni_accumulator accumulator; /* over the own micro-batches */
    float *all;                 /* host: the sums of all ranks; NULL where there is one */
    char *words;                /* host: what NI_COMBINE_FIRST has on the host, before and after a step */
    ni_mechanism_tensor *list;  /* room for the tensors of either kind: nothing is allocated in a step */
    int32_t most;
} ni_combiner;

/* For a step of `count` micro-batches on each of `world` ranks. */
nb_status ni_combiner_create(nb_model *model, nb_backend *be, int32_t world, int64_t count, ni_combiner *out,
                             nb_error *err);
void ni_combiner_free(ni_combiner *combiner);

/* A step begins; a micro-batch went through; all of this rank did, and those of other ranks are added: every tensor of
 * NI_COMBINE_SUM then holds the sum of the step. */
void ni_combiner_begin(ni_combiner *combiner);
void ni_combiner_take(ni_combiner *combiner, nb_model *model);
nb_status ni_combiner_sum(ni_combiner *combiner, nb_model *model, const ni_reducer *reducer, nb_error *err);

/* Around nb_model_after_step: what rank 0 made of micro-batch 0 goes to the others. */
void ni_combiner_before(ni_combiner *combiner, nb_model *model, const ni_reducer *reducer);
nb_status ni_combiner_after(ni_combiner *combiner, nb_model *model, const ni_reducer *reducer, nb_error *err);

#endif
