/* plan_process.h: what a training process has in memory beside what its backend holds. */
#ifndef NI_CLI_PLAN_PROCESS_H
#define NI_CLI_PLAN_PROCESS_H

#include "backend/paper/paper.h"
#include "nibble/train.h"

/* What this process has once libraries were at work: that of a run, which has the same program. Called when the trainer
 * is made, whose lists on the host are in it. */
nb_status ni_process_measure(const ni_paper *paper, double *bytes, nb_error *err);

/* The rest of the memory table on a CPU: VmHWM of a run that holds `total` beside a program of so many bytes. */
void ni_process_print(const nb_trainer *trainer, double program, double total);

#endif
