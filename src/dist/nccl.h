/* nccl.h: letters from GPU to GPU by NCCL, beside the wire of the host.
 *
 * NCCL is opened at run time (libnccl.so.2, libcuda.so.1), so that the program needs neither. Only its sends and
 * receives are used, in one group a trade: it adds nothing up, so the order of sums is ours.
 */
#ifndef NI_DIST_NCCL_H
#define NI_DIST_NCCL_H

#include "dist/ranks.h"

/* Takes NCCL for letters in the GPU's memory (ranks->device), on the device that is current on this thread. Where any
 * rank cannot, none does, and `why` says what stands against it on this rank, or that it is another's. All ranks call
 * it. */
nb_status ni_ranks_use_nccl(nb_ranks *ranks, char *why, size_t size, nb_error *err);

#endif
