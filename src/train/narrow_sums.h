/* narrow_sums.h: sums of gradients in a narrow type: whole tensors of a chunk, in FP32 with one rounding (reduce.h). */
#ifndef NI_TRAIN_NARROW_SUMS_H
#define NI_TRAIN_NARROW_SUMS_H

#include "reduce.h"

/* Which member of each circle adds up which of the tensors from .. to - 1. */
void ni_narrow_cut(const ni_reducer *x, const ni_param_array *grads, int32_t from, int32_t to);

/* The sums of what was cut, on all ranks. */
nb_status ni_narrow_sums(const ni_reducer *x, const ni_param_array *grads, nb_error *err);

#endif
