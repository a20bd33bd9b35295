/* observer.h: the lens that a training run carries: what it measures, when, and where it goes.
 *
 * Every `every` steps the first micro-batch is looked at whole (docs/lens.md has the formulas); the `window` steps
 * after it only weights are followed, to see which oscillate. Nothing here can stop or change a run: what does not
 * apply to a tensor is left out, and skipped.txt beside the series says what and why. Names in the series:
 * MODULE/ROLE/METRIC, MODULE/METRIC, as "layers.0.mlp.up_proj/fprop.w/kurtosis".
 */
#ifndef NI_LENS_OBSERVER_H
#define NI_LENS_OBSERVER_H

#include "nibble/lens.h"

typedef struct ni_observer_options {
    int64_t every;            /* steps between samples; at least 1 */
    int64_t window;           /* steps that weights are followed after a sample; 0 = not at all; below every */
    int64_t spread;           /* steps that a sample is spread over: in each of them every spread-th block is looked at,
                                 what is outside of blocks in the first; at least 1, every at most */
    int32_t hot_channels;     /* k of the top-k channels of X */
    int64_t attention_stride; /* every so many queries are looked at */
    const char *modules;      /* fnmatch pattern; NULL = every module */
    const char *tiles;        /* fnmatch pattern of MODULE/ROLE whose maps of tiles are kept; NULL or empty = none */
} ni_observer_options;

/* Defaults: not spread, 200 steps (arXiv:2602.02047's curves fit a log every few hundred), a window of 50
 * (arXiv:2510.27527's T0), 16 channels, every 16th query, every module. */
ni_observer_options ni_observer_defaults(void);

typedef struct ni_observer ni_observer;

/* Opens FOLDER/series.nbs and an event file in FOLDER, which must exist. Samples of steps >= `first_step` that an
 * earlier run left are dropped. */
nb_status ni_observer_create(const ni_observer_options *options, const char *folder, int64_t first_step,
                             ni_observer **out, nb_error *err);
void ni_observer_free(ni_observer *observer); /* before the backends that it looked at */

/* The lens for the first micro-batch of `step`. Between windows it only hears what mechanisms tell. */
const nb_lens *ni_observer_lens(ni_observer *observer, int64_t step);

/* Whether the step at hand looks at this block. */
bool ni_observer_looks(const ni_observer *observer, int32_t block);

/* Two weights of such a block whose rows belong together, in backend memory: their alignment (layer_metrics.h). */
void ni_observer_alignment(ni_observer *observer, const char *module, nb_backend *be, const nb_mat *gate,
                           const nb_mat *up);

/* Writes what `step` measured. Call after every step. */
nb_status ni_observer_end_step(ni_observer *observer, int64_t step, nb_error *err);

/* What was written is on disk. */
nb_status ni_observer_sync(ni_observer *observer, nb_error *err);

const char *ni_observer_aside(const ni_observer *observer); /* the name of a damaged series; "": there was none */

/* Memory held now: the host's, and the backend's for weights that are followed. */
size_t ni_observer_bytes(const ni_observer *observer);

#endif
