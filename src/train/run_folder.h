/* run_folder.h: the folder of a run: who may have it, and what lies in it beside checkpoints and metrics. Rank 0 does
 * the work; the others come back at once. */
#ifndef NI_TRAIN_RUN_FOLDER_H
#define NI_TRAIN_RUN_FOLDER_H

#include "trainer.h"

#define NI_RUN_PATH_SIZE (2 * NB_PATH_SIZE) /* of a path in it */

/* Whether this rank writes files. */
bool ni_writes(const nb_trainer *t);

/* Makes it, and holds it against a second writer until *lock is closed. */
nb_status ni_run_folder_take(const nb_trainer *t, int *lock, nb_error *err);

/* Removes what killed processes left: once the state of the run is loaded. */
nb_status ni_run_folder_sweep(const nb_trainer *t, nb_error *err);

/* run.yaml, recipe.yaml and census.txt. */
nb_status ni_run_folder_describe(const nb_trainer *t, nb_error *err);

/* census.txt, anew. */
nb_status ni_run_folder_census(const nb_trainer *t, nb_error *err);

/* Rank 0 alone: the run's newest good checkpoint; empty where it has none at all. Checkpoints of which none is good, or
 * which cannot be read, are no reason to begin anew. */
nb_status ni_run_folder_newest(const nb_trainer *t, char *path, size_t size, nb_error *err);

#endif
