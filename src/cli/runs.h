/* runs.h: folders as commands take them: runs, parents of runs, checkpoints. */
#ifndef NI_CLI_RUNS_H
#define NI_CLI_RUNS_H

#include "nibble/train.h"

/* The checkpoint that a folder means: itself, or the newest good one of a run folder or of its "checkpoints". Broken
 * ones on the way are told on stderr. */
nb_status ni_cli_checkpoint(const char *folder, char path[NB_PATH_SIZE], nb_error *err);

/* `model` of a run file must stay what it is while another run goes on: a run folder is refused, its newest checkpoint
 * named. */
nb_status ni_cli_check_model(const char *model, nb_error *err);

/* Sequences to evaluate on: what --sequences says (0: all), or NI_OF_RUN where it is not given. */
#define NI_OF_RUN INT64_MIN
nb_status ni_cli_sequences(int64_t given, const nb_run_config *run, int64_t *sequences, nb_error *err);

/* Calls `take` for every run that the arguments mean, in their order: a run folder is itself, a parent stands for the
 * runs in it (BF16 twins first). Other files among several arguments, as a glob gives them, are passed over. */
typedef nb_status ni_take_run(void *context, const char *run, nb_error *err);
nb_status ni_cli_each_run(int32_t count, char *const *folders, ni_take_run *take, void *context, nb_error *err);

#endif
