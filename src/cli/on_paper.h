/* on_paper.h: a run without its numbers. */
#ifndef NI_CLI_ON_PAPER_H
#define NI_CLI_ON_PAPER_H

#include "nibble/train.h"

/* The backend "paper" whose operands are as the run's. */
const char *ni_paper_name(const nb_run_config *config);

/* A trainer on a backend "paper": it checks what a trainer checks and holds no numbers. `ranks`: it is one of theirs,
 * and nothing goes between them as long as no step is taken. */
nb_status ni_cli_trainer_on_paper(nb_backend *paper, const nb_run_config *config, nb_ranks *ranks, nb_trainer **out,
                                  nb_error *err);

/* Whether model and recipe of a run go together, without data and without memory for it. */
nb_status ni_cli_check_on_paper(const nb_run_config *config, nb_error *err);

#endif
