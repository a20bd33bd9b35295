/* accumulate.h: sums the gradients of a step's micro-batches in a tree that depends on their index alone.
 *
 * Micro-batches 2k and 2k+1 are added first, then such pairs, and so on; where the count is no power of two, the
 * unfinished subtrees are added from the smallest up. A worker that holds an aligned block of 2^n micro-batches
 * computes one node of the tree, so the sum does not depend on how many workers there are.
 *
 * Gradients in fewer bits than FP32 stay so: each sum of two is made in FP32 and rounded once under one scale a tensor,
 * made from what the sum gave.
 */
#ifndef NI_TRAIN_ACCUMULATE_H
#define NI_TRAIN_ACCUMULATE_H

#include "model/param_array.h"

#define NI_ACCUMULATE_LEVELS 32

typedef struct ni_accumulator {
    int64_t count; /* micro-batches in a step */
    int32_t buffers;
    ni_param_array buffer[NI_ACCUMULATE_LEVELS];
    bool used[NI_ACCUMULATE_LEVELS];
    int32_t at_level[NI_ACCUMULATE_LEVELS]; /* buffer of the subtree of 2^level micro-batches; -1 = none */
    int64_t seen;
} ni_accumulator;

/* Sub-sums that must be kept for `count` micro-batches: 0 for one, 1 for two and three, 2 for four to seven */
int32_t ni_accumulator_buffers(int64_t count);

/* For gradients kept as `grads` are. */
nb_status ni_accumulator_create(const ni_param_array *grads, int64_t count, ni_accumulator *out, nb_error *err);
void ni_accumulator_free(ni_accumulator *acc);

/* Begins a step. */
void ni_accumulator_begin(ni_accumulator *acc);

/* Adds the next micro-batch. `grads` may be overwritten. With the last one `grads` receives the whole sum. */
void ni_accumulator_add(ni_accumulator *acc, ni_param_array *grads);

/* What ni_accumulator_add does with the last micro-batch, for `n` elements from `from` on of real gradients; by another
 * thread, and instead of it. `worker` NULL: they lie in the host's memory. */
void ni_accumulator_close_part(const ni_accumulator *acc, ni_param_array *grads, nb_backend *worker, int64_t from,
                               int64_t n);

#endif
