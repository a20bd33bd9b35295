/* optimizer.h: AdamW (arXiv:1711.05101) over the model's parameters, its moments in the types that the recipe says. */
#ifndef NI_TRAIN_OPTIMIZER_H
#define NI_TRAIN_OPTIMIZER_H

#include "model/param_array.h"
#include "nibble/train.h"

typedef struct ni_optimizer {
    nb_backend *be;
    ni_param_array m, v; /* first and second moments of the tensors begin .. end - 1 */
    int32_t begin, end;
    int64_t updates;          /* done so far: bias correction */
    ni_adamw_tensor *tensors; /* [parameters]: the list of an update. Copies and amaxes are not asked for: the linear
                                 layers round and measure their weights themselves */
} ni_optimizer;

/* For the tensors begin .. end - 1: all, or this rank's share (share.h). */
nb_status ni_optimizer_create(nb_backend *be, const nb_model *model, const nb_optimizer_state *state, int32_t begin,
                              int32_t end, ni_optimizer *out, nb_error *err);
void ni_optimizer_free(ni_optimizer *optimizer);

/* As if no update had been made. */
void ni_optimizer_restart(ni_optimizer *optimizer);

/* Factor that brings a gradient of this norm to at most `clip` (0 = no clipping). */
double ni_clip_factor(double norm, double clip);

/* One update of those parameters. `grad_scale` multiplies the gradients: averaging and clipping. `ramped`: elements to
 * which a mechanism gave a pace of their own keep it; false: all are updated. */
void ni_optimizer_update(ni_optimizer *optimizer, nb_model *model, const ni_param_array *grads,
                         const nb_run_config *config, double lr, double grad_scale, bool ramped);

#endif
