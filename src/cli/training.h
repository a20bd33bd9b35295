/* training.h: one training run from the command line, as `train` and `compare` start it. */
#ifndef NI_CLI_TRAINING_H
#define NI_CLI_TRAINING_H

#include "nibble/train.h"

typedef struct ni_training {
    nb_start start;
    const char *from;        /* NB_START_FORK, NB_START_BRANCH: the checkpoint */
    const int64_t *branches; /* steps whose checkpoints are kept for runs that branch there */
    int32_t branch_count;
    bool quiet;
    bool tables;          /* print memory and census */
    const char *label;    /* stands before the bar */
    nb_peak peak;         /* zeros: measure it now */
    nb_ranks *ranks;      /* that train together; NULL: this process alone */
    double last_val_loss; /* out: NaN if no evaluation ran */
} ni_training;

/* Makes backend and trainer, says what will run, and runs it. */
nb_status ni_cli_run_training(const nb_run_config *config, ni_training *training, nb_error *err);

/* The backend that a run file asks for, for one process. */
nb_status ni_cli_backend(const nb_run_config *config, nb_backend **out, nb_error *err);

#endif
