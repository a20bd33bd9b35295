/* accumulate.h: sums the gradients of a step's micro-batches in a tree that depends on their index alone.
 *
 * Micro-batches 2k and 2k+1 are added first, then such pairs, and so on; where the count is no power of two, the
 * unfinished subtrees are added from the smallest up. A worker that holds an aligned block of 2^n micro-batches
 * computes one node of the tree, so the sum does not depend on how many workers there are.
 *
 * Gradients in fewer bits than FP32 stay so: each sum of two is made in FP32 and rounded once under one scale a tensor,
 * made from what the sum gave.
 */
#ifndef NB_TRAIN_ACCUMULATE_H
#define NB_TRAIN_ACCUMULATE_H

#include "model/param_array.h"

#define NB_ACCUMULATE_LEVELS 32

typedef struct nb_accumulator {
    int64_t count; /* micro-batches in a step */
    int32_t buffers;
    nb_param_array buffer[NB_ACCUMULATE_LEVELS];
    bool used[NB_ACCUMULATE_LEVELS];
    int32_t at_level[NB_ACCUMULATE_LEVELS]; /* buffer of the subtree of 2^level micro-batches; -1 = none */
    int64_t seen;
} nb_accumulator;

/* Sub-sums that must be kept for `count` micro-batches: 0 for one, 1 for two and three, 2 for four to seven */
int32_t nb_accumulator_buffers(int64_t count);

/* For gradients kept as `grads` are. */
nb_status nb_accumulator_create(const nb_param_array *grads, int64_t count, nb_accumulator *out, nb_error *err);
void nb_accumulator_free(nb_accumulator *acc);

/* Begins a step. */
void nb_accumulator_begin(nb_accumulator *acc);

/* Adds the next micro-batch. `grads` may be overwritten. With the last one `grads` receives the whole sum. */
void nb_accumulator_add(nb_accumulator *acc, nb_param_array *grads);

#endif
