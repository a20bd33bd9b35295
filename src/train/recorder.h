/* recorder.h: everything that a run writes down about itself while it goes: metrics.jsonl, TensorBoard's event files,
 * and the lens's measurements. */
#ifndef NI_TRAIN_RECORDER_H
#define NI_TRAIN_RECORDER_H

#include "metrics.h"

typedef struct ni_recorder ni_recorder;

/* Opens the files in config->out; what they say about steps after `step` is cut off. */
nb_status ni_recorder_open(const nb_run_config *config, int64_t step, ni_recorder **out, nb_error *err);
void ni_recorder_close(ni_recorder *recorder); /* NULL is allowed */

/* Steps that weights are really followed after a sample: lens.window, or less where the next sample or the end of the
 * run comes before. 0 = not at all. */
int64_t ni_recorder_window(const nb_run_config *config);

/* The lens for the first micro-batch of 0-based step `step`; NULL if nobody looks. */
const nb_lens *ni_recorder_lens(ni_recorder *recorder, int64_t step);

/* A step is done: its line, and what the lens saw. `tokens`: trained on so far. */
nb_status ni_recorder_step(ni_recorder *recorder, const nb_step_report *report, int64_t tokens, nb_model *model,
                           nb_error *err);
nb_status ni_recorder_evaluation(ni_recorder *recorder, const nb_eval_report *report, nb_error *err);

/* Something to know that stops nothing, found in the step that led to `step`. */
nb_status ni_recorder_warning(ni_recorder *recorder, int64_t step, const char *event, const char *what,
                              const char *where, nb_error *err);

/* A number went bad at `step`. `where` may be empty. */
nb_status ni_recorder_bad_number(ni_recorder *recorder, int64_t step, const char *what, const char *where,
                                 const char *policy, nb_error *err);

/* Everything written so far is on disk. */
nb_status ni_recorder_sync(ni_recorder *recorder, nb_error *err);

size_t ni_recorder_bytes(const ni_recorder *recorder); /* memory of the lens */

#endif
