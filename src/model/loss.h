/* loss.h: losses that stay in the backend's memory, so that nobody waits in the middle of a step or of an evaluation.
 *
 * How many targets a micro-batch scores is known on the host; what they cost is known to the backend when it gets
 * there. The mean loss of a micro-batch is the one divided by the other.
 */
#ifndef NI_MODEL_LOSS_H
#define NI_MODEL_LOSS_H

#include "nibble/model.h"

/* Sums of losses that a model has memory for. */
enum { NI_LOSS_SLOTS = 64 };

/* Where: double [NI_LOSS_SLOTS] in backend memory. The first is what nb_model_loss and nb_model_loss_and_grads use. */
double *ni_model_loss_slots(nb_model *model);
/* The first of them, to host memory; says what went wrong with the work before. */
nb_status ni_model_fetch_losses(nb_model *model, int64_t count, double *sums, nb_error *err);

/* As nb_model_loss and nb_model_loss_and_grads, but that gradients become those of this micro-batch alone. `sum`, a
 * double of backend memory, receives the sum of the losses of the scored targets, *scored how many these are. */
nb_status ni_model_queue_loss(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *sum, int64_t *scored,
                              nb_error *err);
nb_status ni_model_queue_loss_and_grads(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *sum,
                                        int64_t *scored, nb_error *err);

/* A forward pass that mechanisms learn from as from one of training, and what they do after a step: they choose their
 * channels. For models that were never trained under their recipe. */
nb_status ni_model_observe(nb_model *model, const nb_batch *batch, const nb_pass *pass, nb_error *err);

static inline double ni_mean_loss(double sum, int64_t scored) {
    return scored > 0 ? sum / (double)scored : 0.0;
}

#endif
