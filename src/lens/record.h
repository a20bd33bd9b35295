/* record.h: where measurements of one step are put: the series, and of scalars and shares a copy for TensorBoard. */
#ifndef NI_LENS_RECORD_H
#define NI_LENS_RECORD_H

#include "lens/series.h"
#include "lens/tensorboard.h"
#include "lens/waiting.h"
#include "nibble/backend.h"
#include <stdbool.h>

typedef struct ni_record {
    ni_series_writer *series;
    ni_tensorboard *events;
    int64_t step;
    bool any;           /* something was put since the last commit */
    nb_error failure;   /* the first; status NB_OK while there is none */
    ni_waiting waiting; /* measured in this step and not recorded yet */
} ni_record;

/* PREFIX/NAME. Numbers that are not finite are left out. */
void ni_record_scalar(ni_record *record, const char *prefix, const char *name, double value);
void ni_record_vector(ni_record *record, const char *prefix, const char *name, const float *values, int64_t count);
/* Shares that add up to 1 of `total` things, of bins whose upper ends are `limits`: a vector, and a histogram. */
void ni_record_shares(ni_record *record, const char *prefix, const char *name, const float *shares, int32_t count,
                      const double *limits, double total);
/* No memory for `what` of PREFIX: said at the commit. */
static inline void ni_record_lost(ni_record *record, const char *prefix, const char *what) {
    if (record->failure.status == NB_OK)
        nb_fail(&record->failure, NB_NO_MEMORY, "%s: no memory for its %s", prefix, what);
}

nb_status ni_record_commit(ni_record *record, nb_error *err);
void ni_record_forget(ni_record *record); /* what was measured since */

#endif
