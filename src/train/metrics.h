/* metrics.h: metrics.jsonl, one JSON object a line, and the standard scores of loss and norm.
 *
 * Every line begins with "step", the number of steps done when it was written. Losses and norms carry 17 digits, so two
 * runs are bit-equal exactly when their lines agree. What is not a number is null.
 *     {"step":1,"tokens":2048,"loss":...,"norm":...,"lr":...,"ms":...,"tok_s":...,"mfu":...,"loss_z":...,"norm_z":...}
 *     {"step":250,"val_loss":...,"val_tokens":...,"val_seconds":...}
 *     {"step":12,"event":"bad number","what":"...","where":"...","policy":"skip"}
 */
#ifndef NB_TRAIN_METRICS_H
#define NB_TRAIN_METRICS_H

#include "nibble/train.h"

/* The last values of a series. */
#define NB_WINDOW_SIZE 128
#define NB_WINDOW_LEAST 16 /* values before a score means anything */
typedef struct nb_window {
    int32_t count, next;
    double values[NB_WINDOW_SIZE];
} nb_window;

/* (value - mean) / standard deviation of the window; NaN while it holds fewer than NB_WINDOW_LEAST values. */
double nb_window_score(const nb_window *window, double value);
void nb_window_push(nb_window *window, double value);

typedef struct nb_metrics nb_metrics;

/* Opens `path` for appending. Lines of steps beyond `keep_steps` and a line that a crash left unfinished are cut off
 * first, so that a resumed run writes on where its checkpoint stands. */
nb_status nb_metrics_open(const char *path, int64_t keep_steps, nb_metrics **out, nb_error *err);
void nb_metrics_close(nb_metrics *metrics);
nb_status nb_metrics_sync(nb_metrics *metrics, nb_error *err);

nb_status nb_metrics_step(nb_metrics *metrics, const nb_step_report *report, int64_t tokens, nb_error *err);
nb_status nb_metrics_evaluation(nb_metrics *metrics, const nb_eval_report *report, nb_error *err);
nb_status nb_metrics_event(nb_metrics *metrics, int64_t step, const char *event, const char *what, const char *where,
                           const char *policy, nb_error *err);

#endif
