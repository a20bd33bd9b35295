/* ranks.h: many processes that train one model, each with its part of a step's micro-batches (docs/many-processes.md).
 *
 * A launcher starts the same program several times and says to each, in the environment, who it is: mpirun, Slurm's
 * srun, torchrun, or a shell that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Processes are numbered from 0:
 * rank 0 alone writes files and reports.
 */
#ifndef NIBBLE_RANKS_H
#define NIBBLE_RANKS_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_ranks nb_ranks;

/* Meets the others. *out becomes NULL where nobody launched more than one process: NULL is a world of one for every
 * function here. NB_BAD_USAGE where the environment is wrong or says only a part. */
NB_API nb_status nb_ranks_open(nb_ranks **out, nb_error *err);

NB_API int32_t nb_ranks_rank(const nb_ranks *ranks);        /* 0 <= rank < world */
NB_API int32_t nb_ranks_world(const nb_ranks *ranks);       /* processes in all */
NB_API int32_t nb_ranks_local(const nb_ranks *ranks);       /* number among those of this machine: which GPU to take */
NB_API int32_t nb_ranks_local_world(const nb_ranks *ranks); /* processes on this machine; 0: not known */

/* All ranks come here, each with what became of it: if any failed, all get the status and sentence of the lowest rank
 * that did. */
NB_API nb_status nb_ranks_agree(nb_ranks *ranks, nb_status mine, nb_error *err);

/* Of those that fail one prints why: whether it is this one. */
NB_API bool nb_ranks_speaks(const nb_ranks *ranks);

/* Parts. `why`: what the others are told where this one fails and they do not know yet; NULL or NB_OK: all is well. */
NB_API void nb_ranks_close(nb_ranks *ranks, const nb_error *why);

#ifdef __cplusplus
}
#endif
#endif
