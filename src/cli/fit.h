/* fit.h: memory ran out: what the run needs by plan, and with which keys it would have found room. */
#ifndef NI_CLI_FIT_H
#define NI_CLI_FIT_H

#include "nibble/train.h"

/* Appends that to `err` if its status is NB_NO_MEMORY; nothing where the plan of the run cannot be made. */
void ni_cli_say_what_fits(const nb_run_config *config, nb_error *err);

#endif
