/* results.h: what a step computes and the host wants to know, in backend memory until one download brings all of it. */
#ifndef NI_TRAIN_RESULTS_H
#define NI_TRAIN_RESULTS_H

#include "dist/ranks.h"
#include "model/param_array.h"

typedef struct ni_results {
    double seconds; /* that ranks' words took, in all */
    nb_backend *be;
    int64_t micro_batches;
    int32_t norm_parts; /* of the gradients' sum of squares */
    double *memory;     /* backend: [micro_batches] sums of losses, [norm_parts] */
    double *host;       /* the same, fetched */
    int64_t *scored;    /* [micro_batches]: targets behind each loss */
    size_t word;        /* bytes that a rank tells the others: both of its micro-batches and, where it is asked for
                           squares of its own, those */
    char *words;        /* [ranks][word] */
    bool squared;       /* squares of all sections of this step but the first are asked for */
} ni_results;

/* For `world` ranks; `owned`: each has squares of its own sections alone (`parts` below). */
nb_status ni_results_create(nb_backend *be, const ni_param_array *grads, int64_t micro_batches, int32_t world,
                            bool owned, ni_results *out, nb_error *err);
void ni_results_free(ni_results *results);

/* Asks for squares of all sections of `grads` but the first, which is still on its way (overlap.h). The next
 * ni_results_fetch asks for the rest. */
void ni_results_square_early(ni_results *results, const ni_param_array *grads);

/* Waits for the step, and for what other ranks found (`ranks` may be NULL): its mean loss, each micro-batch weighing
 * the same, in the tree of tree.h; and the sum of squares of `grads`. `parts`: rank r has the squares of the bytes
 * parts[r]
 * .. parts[r + 1] among those of all sections; NULL: each has all. */
nb_status ni_results_fetch(ni_results *results, const ni_param_array *grads, nb_ranks *ranks, const size_t *parts,
                           double *loss, double *squares, nb_error *err);

/* One at a time, to look for what went wrong: the mean loss of a micro-batch; the sum of squares of a tensor. */
double ni_results_loss(const ni_results *results, int64_t micro_batch);
double ni_results_squares(const ni_results *results, const ni_scaled *tensor, int64_t n);

/* How many tensors that `grads` has are zero everywhere, and the first of them. */
int32_t ni_results_dead(const ni_results *results, const ni_param_array *grads, int32_t *first);

#endif
