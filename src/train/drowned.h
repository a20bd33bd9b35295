/* drowned.h: watches whether gradients in four bits still stand out of their own rounding noise (arXiv:2505.19115).
 *
 * Of each operand made of dY that is quantized, rho = rms(g) / rms(g - Q(g)). A recipe says below which rho an operand
 * has drowned and how many of them are too many; from the next step on dgrad and wgrad then run in BF16, for good. Rank
 * 0 looks, at micro-batch 0; all ranks are told.
 */
#ifndef NI_TRAIN_DROWNED_H
#define NI_TRAIN_DROWNED_H

#include "nibble/lens.h"

typedef struct ni_drowned_watch {
    nb_lens lens; /* give this to a pass; its context is the watch, which stays where it is until the pass is over */
    double rho;
    int32_t operands, drowned;
    double least; /* smallest rho, and whose it is */
    char where[256];
} ni_drowned_watch;

/* Whether somebody looks at this step of a run under the recipe. */
bool ni_drowned_is_due(const nb_late_switch *late, int64_t step);

const nb_lens *ni_drowned_begin(ni_drowned_watch *watch, const nb_late_switch *late);

/* Whether the step that it looked at is the last whose backward pass is quantized. */
bool ni_drowned_too_many(const ni_drowned_watch *watch, const nb_late_switch *late);

#endif
