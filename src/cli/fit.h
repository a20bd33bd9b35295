/* fit.h: what a run needs by plan, whether it finds room, and with which keys it would. */
#ifndef NI_CLI_FIT_H
#define NI_CLI_FIT_H

#include "cli/plan_machine.h"
#include "nibble/train.h"

/* Before anything of the run is allocated: plans it, lets `seen` look at it, and ends a run (NB_NO_MEMORY) that
 * exceeds what is left of the backend's memory by more than 5 %, unless config->memory_check is false. Of several ranks
 * each asks for itself alone: that all those of one machine or GPU fit together is not said. A run whose plan cannot be
 * made, or a backend that does not know what it has left, passes. *planned, if it is not NULL: whether `seen` was
 * called. */
nb_status ni_cli_check_memory(nb_backend *be, const nb_run_config *config, nb_ranks *ranks, ni_plan_seen *seen,
                              void *user, bool *planned, nb_error *err);

/* Appends what the run needs to `err` if its status is NB_NO_MEMORY; nothing where the plan of it cannot be made. */
void ni_cli_say_what_fits(nb_backend *be, const nb_run_config *config, nb_error *err);

#endif
