/* light.h: the least time that a step can take on a machine, by plan: what `nibble train` holds a step against. */
#ifndef NI_CLI_LIGHT_H
#define NI_CLI_LIGHT_H

#include "cli/plan_machine.h"

typedef struct ni_light {
    double seconds; /* of a rank's share of a step, its exchange left out; 0: no machine is known */
    char machine[NB_NAME_SIZE];
} ni_light;

/* By `machine` of the run file. One that `auto` finds and that cannot plan this run is none; one that the file names is
 * an error then. */
nb_status ni_cli_light(const nb_run_config *config, int32_t ranks, ni_light *out, nb_error *err);

#endif
