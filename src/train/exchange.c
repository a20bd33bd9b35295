/* exchange.c: one scale a tensor for all ranks, then a tree of sums of narrow numbers. */
#include "exchange.h"
#include "backend/table.h"

#include <math.h>
#include <stdlib.h>

void ni_exchange_scales(const ni_param_array *grads, float *scales) {
    grads->be->ops->download(grads->be, scales, grads->scales, (size_t)grads->count * sizeof *scales);
}

void ni_exchange_share(ni_param_array *grads, const float *largest, int32_t ranks) {
    const float room = (float)sqrt((double)ranks);
    for (int32_t i = 0; i < grads->count; i++) {
        const ni_scaled tensor = ni_param_array_at(grads, i);
        grads->be->ops->scaled_rescale(grads->be, &tensor, largest[i] * room, grads->at[i].length);
    }
}

/* NaN stays: a rank whose gradient is not a number must not be outvoted. */
static float larger(float a, float b) {
    return a > b || isnan(a) ? a : b;
}

nb_status ni_exchange_sum(ni_param_array *const *ranks, int32_t count, nb_error *err) {
    const int32_t tensors = ranks[0]->count;
    if (!ranks[0]->scales)
        return nb_fail(err, NB_BAD_USAGE, "exchange: gradients in %s have no scales to share",
                       nb_dtype_name(ranks[0]->dtype));
    if (count == 1)
        return NB_OK;
    float *largest = calloc((size_t)tensors, sizeof *largest), *mine = calloc((size_t)tensors, sizeof *mine);
    if (!largest || !mine) {
        free(largest);
        free(mine);
        return nb_fail(err, NB_NO_MEMORY, "exchange: out of memory for %d scales", (int)tensors);
    }
    for (int32_t r = 0; r < count; r++) {
        ni_exchange_scales(ranks[r], mine);
        for (int32_t i = 0; i < tensors; i++)
            largest[i] = larger(mine[i], largest[i]);
    }
    for (int32_t r = 0; r < count; r++)
        ni_exchange_share(ranks[r], largest, count);
    for (int32_t stride = 1; stride < count; stride *= 2)
        for (int32_t r = 0; r + stride < count; r += 2 * stride)
            ni_param_array_join(ranks[r], ranks[r + stride]);
    free(largest);
    free(mine);
    return NB_OK;
}
