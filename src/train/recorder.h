/* recorder.h: everything that a run writes down about itself while it goes: metrics.jsonl, TensorBoard's event files,
 * and the lens's measurements. */
#ifndef NB_TRAIN_RECORDER_H
#define NB_TRAIN_RECORDER_H

#include "metrics.h"

typedef struct nb_recorder nb_recorder;

/* Opens the files in config->out; what they say about steps after `step` is cut off. */
nb_status nb_recorder_open(const nb_run_config *config, int64_t step, nb_recorder **out, nb_error *err);
void nb_recorder_close(nb_recorder *recorder); /* NULL is allowed */

/* The lens for the first micro-batch of 0-based step `step`; NULL if nobody looks. */
const nb_lens *nb_recorder_lens(nb_recorder *recorder, int64_t step);

/* A step is done: its line, and what the lens saw. `tokens`: trained on so far. */
nb_status nb_recorder_step(nb_recorder *recorder, const nb_step_report *report, int64_t tokens, nb_model *model,
                           nb_error *err);
nb_status nb_recorder_evaluation(nb_recorder *recorder, const nb_eval_report *report, nb_error *err);

/* Something to know that stops nothing, found in the step that led to `step`. */
nb_status nb_recorder_warning(nb_recorder *recorder, int64_t step, const char *event, const char *what,
                              const char *where, nb_error *err);

/* A number went bad at `step`. `where` may be empty. */
nb_status nb_recorder_bad_number(nb_recorder *recorder, int64_t step, const char *what, const char *where,
                                 const char *policy, nb_error *err);

/* Everything written so far is on disk. */
nb_status nb_recorder_sync(nb_recorder *recorder, nb_error *err);

size_t nb_recorder_bytes(const nb_recorder *recorder); /* memory of the lens */

#endif
