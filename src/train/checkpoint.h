/* checkpoint.h: checkpoints inside a run folder: their names, the newest good one, and how many are kept. */
#ifndef NI_TRAIN_CHECKPOINT_H
#define NI_TRAIN_CHECKPOINT_H

#include "nibble/train.h"

/* RUN/checkpoints/step-00001000 */
void ni_checkpoint_path(const char *run_folder, int64_t step, char *path, size_t size);

/* Steps of the checkpoints under RUN/checkpoints, newest first; whether they are good is not looked at. *count becomes
 * how many there are; at most `most` are written. A folder that is not there holds none; one that cannot be read is an
 * error. */
nb_status ni_checkpoint_list(const char *run_folder, int64_t *steps, int32_t most, int32_t *count, nb_error *err);

/* Whether a trainer may start so from a checkpoint, as far as that can be told without its tensors. */
nb_status ni_checkpoint_check(const nb_trainer *trainer, const char *folder, nb_start as, nb_error *err);

/* Removes what is older than the newest `keep` good checkpoints (0 = nothing), but for those of the steps `spared`.
 * Damaged ones do not count, and what has no nibble.json is not ours to remove. `known` is a step whose checkpoint was
 * just verified (-1: none). A checkpoint disappears in one step. */
nb_status ni_checkpoint_prune(const char *run_folder, int64_t keep, int64_t known, const int64_t *spared,
                              int32_t spared_count, nb_error *err);

#endif
