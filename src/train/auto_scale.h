/* auto_scale.h: narrow gradients of all ranks under one scale a tensor, and the factor in it that follows what
 * saturates: the automatic scaling of arXiv:2310.18313 section 2.1 (`gradients.exchange: {rule: fp8-lm}`).
 *
 * A network adds numbers of one scale alone. So ranks agree on one for each tensor,
 *
 *     s = mu min(s_1, ..., s_N)         s_r: what the numbers of rank r were multiplied by,
 *
 * round what they have once more, FP8(s g_r), and add the codes with a rounding to FP8 each, saturating (reduce.h).
 * Then
 *
 *     mu <- mu / 2            where more than `saturated` of the sum's numbers are the type's largest,
 *     mu <- mu 2^(1 / steps)  elsewhere.
 *
 * The paper counts before the sum; it can but saturate where mu > 1, so that the loss that mu is to prevent would not
 * be seen. The authors' code (github.com/Azure/MS-AMP/pull/140) counts in the sum, as is done here. A rank whose tensor
 * is all zero has no say in its scale. Where a number is not finite, or every rank's are zero, mu stays.
 */
#ifndef NI_TRAIN_AUTO_SCALE_H
#define NI_TRAIN_AUTO_SCALE_H

#include "dist/ranks.h"
#include "model/param_array.h"

typedef struct ni_auto_scale {
    nb_ranks *ranks;
    nb_backend *be;
    nb_gradient_store how;
    int32_t count;   /* tensors; 0: sums have scales of their own */
    float *mu;       /* [count]; 0 until ranks have summed. The same on all of them */
    float *scales;   /* [count], and [world * count] */
    double *squares; /* [count]; the same in the backend's memory: */
    double *parts;
    int8_t *moves; /* [world * count]: what becomes of mu */
    uint8_t *room; /* the largest tensor, where the backend's memory is not the host's */
} ni_auto_scale;

/* For gradients as `how` keeps them; `ranks` NULL: mu is kept, and stays. */
nb_status ni_auto_scale_create(nb_ranks *ranks, const ni_param_array *grads, const nb_gradient_store *how,
                               ni_auto_scale *out, nb_error *err);
void ni_auto_scale_free(ni_auto_scale *x);

/* Back to where a run begins. */
void ni_auto_scale_restart(ni_auto_scale *x);

/* Before ranks sum: grads under the common scales. */
nb_status ni_auto_scale_before(ni_auto_scale *x, ni_param_array *grads, nb_error *err);

/* After it: mu by what saturated in the sum. */
nb_status ni_auto_scale_after(ni_auto_scale *x, const ni_param_array *grads, nb_error *err);

#endif
