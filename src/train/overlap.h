/* overlap.h: sums gradients over ranks behind the backward pass, on a thread of its own.
 *
 * A backward pass is done with gradients from the last tensor to the first, so chunks of them go to the other ranks
 * from the end on, each once the pass has left it. Which thread adds and when makes no difference to a bit: it adds
 * what ni_reduce would, in the same order.
 *
 * On a GPU the pass leaves them when the GPU has come so far, not when it was asked to: each chunk has a mark in the
 * order of what was asked, and the backend's companion (backend/table.h) adds on a stream of its own. Narrow gradients
 * have a scale for whole tensors and go in whole sections; where a rank has more than one micro-batch a step, or they
 * are joined (auto_scale.h), they are summed after the pass (ni_reduce).
 */
#ifndef NI_TRAIN_OVERLAP_H
#define NI_TRAIN_OVERLAP_H

#include "accumulate.h"
#include "reduce.h"

#include <pthread.h>

/* Made with the first step that wants one, and kept: a GPU has no work while the host makes or joins one. */
typedef struct ni_overlap_thread {
    pthread_t id;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool asked, leaves; /* a step is to be summed; there is none to come */
} ni_overlap_thread;

/* Zero before the first step; stays where it is. */
typedef struct ni_overlap {
    ni_overlap_thread *thread; /* NULL: none yet */
    ni_reducer *reducer;       /* NULL: nothing goes on behind the pass */
    ni_accumulator *accumulator;
    ni_param_array *grads;
    const int32_t *tokens; /* [token_count]: of the micro-batch, there when the pass has left the first chunk */
    int64_t token_count;
    bool running, given_up, ended;
    int64_t summed; /* gradients from this element on are the sum over ranks */
    int64_t final;  /* gradients from this element on are those of the micro-batch, or will be at their mark */
    void **marks;   /* [chunks] of a backend with a companion; NULL: it has none */
    int64_t marked; /* chunks from this one on have theirs */
    int64_t met;    /* the pass has come to that of this one, and so to those behind it */
    bool fetched;   /* rows of the other rank are here (ni_reduce_fetch_rows) */
    nb_status status;
    nb_error error;
} ni_overlap;

/* Begins before the last micro-batch of a step, of which `tokens` will be: what its backward pass is done with is added
 * to `accumulator`'s sub-sums and summed over ranks, and its tokens' rows are noted (touched.h). False where
 * ni_accumulator_add and ni_reduce have to do that afterwards. */
bool ni_overlap_begin(ni_overlap *o, ni_reducer *reducer, ni_accumulator *accumulator, ni_param_array *grads,
                      const int32_t *tokens, int64_t token_count);

/* For ni_model_watch_gradients; `self` is the ni_overlap. */
void ni_overlap_final(void *self, int64_t element);

/* After the pass, which came to its end: waits until gradients from `element` on are the sum, where others may still be
 * on their way. False: they are not going to be. */
bool ni_overlap_wait(ni_overlap *o, int64_t element);

/* After the pass; `whole`: it came to its end, so that grads become the sum. Else the sums end when a chunk has. */
nb_status ni_overlap_end(ni_overlap *o, bool whole, nb_error *err);

void ni_overlap_free(ni_overlap *o);

#endif
