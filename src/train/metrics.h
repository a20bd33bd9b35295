/* metrics.h: metrics.jsonl, one JSON object a line, and the standard scores of loss and norm.
 *
 * Every line begins with "step", the number of steps done when it was written. Losses and norms carry 17 digits, so two
 * runs are bit-equal exactly when their lines agree. What is not a number is null.
 *     {"step":1,"tokens":2048,"loss":...,"norm":...,"lr":...,"ms":...,"tok_s":...,"mfu":...,"loss_z":...,"norm_z":...}
 *     {"step":250,"val_loss":...,"val_tokens":...,"val_seconds":...}
 *     {"step":12,"event":"bad number","what":"...","where":"...","policy":"skip"}
 */
#ifndef NI_TRAIN_METRICS_H
#define NI_TRAIN_METRICS_H

#include "nibble/train.h"

/* The last values of a series. */
#define NI_WINDOW_SIZE 128
#define NI_WINDOW_LEAST 16 /* values before a score means anything */
typedef struct ni_window {
    int32_t count, next;
    double values[NI_WINDOW_SIZE];
} ni_window;

/* (value - mean) / standard deviation of the window; NaN while it holds fewer than NI_WINDOW_LEAST values. */
double ni_window_score(const ni_window *window, double value);
void ni_window_push(ni_window *window, double value);

typedef struct ni_metrics ni_metrics;

/* Opens `path` for appending. Lines of steps beyond `keep_steps`, of evaluations beyond step `evaluated` and a line
 * that a crash left unfinished are taken out first, so that a resumed run writes on where its checkpoint stands. Where
 * lines are damaged, the file as it was is set aside, and the others go on. */
nb_status ni_metrics_open(const char *path, int64_t keep_steps, int64_t evaluated, ni_metrics **out, nb_error *err);
const char *ni_metrics_aside(const ni_metrics *metrics); /* the name of what was set aside; "": nothing was */

/* Moves the lines that are kept to the front and returns their bytes. *damaged: some were no lines of
 * metrics.
 */
size_t ni_metrics_keep(char *text, size_t size, int64_t keep_steps, int64_t evaluated, bool *damaged);

/* Whether `path` has the line of the evaluation of step `evaluated`: it may have been lost where memory or disk was
 * short. */
nb_status ni_metrics_tell(const char *path, int64_t evaluated, bool *tell, nb_error *err);

void ni_metrics_close(ni_metrics *metrics);
nb_status ni_metrics_sync(ni_metrics *metrics, nb_error *err);

nb_status ni_metrics_step(ni_metrics *metrics, const nb_step_report *report, int64_t tokens, nb_error *err);
nb_status ni_metrics_evaluation(ni_metrics *metrics, const nb_eval_report *report, nb_error *err);
nb_status ni_metrics_event(ni_metrics *metrics, int64_t step, const char *event, const char *what, const char *where,
                           const char *policy, nb_error *err);

#endif
