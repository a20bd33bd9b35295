/* recorder.h: everything that a run writes down about itself while it goes: metrics.jsonl, TensorBoard's event files,
 * and the lens's measurements. */
#ifndef NI_TRAIN_RECORDER_H
#define NI_TRAIN_RECORDER_H

#include "metrics.h"

typedef struct ni_recorder ni_recorder;

/* Opens the files in config->out; what they say about steps after `step`, and of evaluations after that of `evaluated`,
 * is cut off, and damaged ones are set aside. */
nb_status ni_recorder_open(const nb_run_config *config, int64_t step, int64_t evaluated, ni_recorder **out,
                           nb_error *err);
void ni_recorder_close(ni_recorder *recorder);

/* NULL stands for a recorder that writes nothing, in what follows and for ni_recorder_close: that of all ranks but one.
 */

/* Steps that weights are really followed after a sample: lens.window, or less where the next sample or the end of the
 * run comes before. 0 = not at all. */
int64_t ni_recorder_window(const nb_run_config *config);

/* The lens for the first micro-batch of 0-based step `step`; NULL if nobody looks. */
const nb_lens *ni_recorder_lens(ni_recorder *recorder, int64_t step);

/* A step is done: its line, and what the lens saw. `tokens`: trained on so far. */
void ni_recorder_step(ni_recorder *recorder, const nb_step_report *report, int64_t tokens, nb_model *model);
void ni_recorder_evaluation(ni_recorder *recorder, const nb_eval_report *report);

/* Something to know that stops nothing, found in the step that led to `step`. */
void ni_recorder_warning(ni_recorder *recorder, int64_t step, const char *event, const char *what, const char *where);

/* A number went bad at `step`. `where` may be empty. What the lens saw of the step is written, unless the step is
 * taken `again`. */
void ni_recorder_bad_number(ni_recorder *recorder, int64_t step, const char *what, const char *where,
                            const char *policy, bool again);

/* Everything written so far goes to the disk. */
void ni_recorder_sync(ni_recorder *recorder);

/* The next sentence that people should read: what cannot be written (a run goes on, and what waits is tried again), and
 * what was set aside. False: none. */
#define NI_RECORDER_NOTE 1024
bool ni_recorder_take_note(ni_recorder *recorder, char *text, size_t size);

size_t ni_recorder_bytes(const ni_recorder *recorder); /* memory of the lens */

#endif
