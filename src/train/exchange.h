/* exchange.h: sums the narrow gradients of several ranks as narrow numbers (arXiv:2310.18313 section 2.1; the pre-scale
 * is that of its code, MS-AMP).
 *
 * Numbers can be added as they are only under one scale. Every rank brings each of its tensors under the largest decode
 * scale of all (the least encode scale: nobody saturates), times sqrt(ranks), so that the sum of gradients that are not
 * alike fits too; gradients that are alike may saturate it. Then numbers are added, each sum rounded once. Two messages
 * cross the wire: one float a tensor, one byte an element.
 *
 * There is one process today; what will talk to others needs ni_exchange_scales on its own array, a maximum over ranks,
 * ni_exchange_share, and a sum of numbers in the network or ni_param_array_join.
 */
#ifndef NI_TRAIN_EXCHANGE_H
#define NI_TRAIN_EXCHANGE_H

#include "model/param_array.h"

/* The decode scale of each tensor, to host memory [count]. */
void ni_exchange_scales(const ni_param_array *grads, float *scales);

/* Rounds `grads` again under the scales that all share: `largest` [count] are the maxima over the ranks. */
void ni_exchange_share(ni_param_array *grads, const float *largest, int32_t ranks);

/* All of it, over the arrays of all ranks: ranks[0] receives the sum, in a tree over the ranks; the others are used up.
 * With one rank nothing changes. NB_BAD_USAGE if the type has no scales (F32 and BF16 are summed by other means). */
nb_status ni_exchange_sum(ni_param_array *const *ranks, int32_t count, nb_error *err);

#endif
