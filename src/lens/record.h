/* record.h: where measurements of one step are put: the series, and of scalars a copy for TensorBoard. */
#ifndef NB_LENS_RECORD_H
#define NB_LENS_RECORD_H

#include "lens/series.h"
#include "lens/tensorboard.h"
#include "nibble/backend.h"
#include <stdbool.h>

typedef struct nb_record {
    nb_series_writer *series;
    nb_tensorboard *events;
    int64_t step;
    bool any;         /* something was put since the last commit */
    nb_error failure; /* the first; status NB_OK while there is none */
    nb_backend *be;   /* whose memory `results` is; NULL: none yet */
    void *results;
} nb_record;

/* NB_RESULT_BYTES of backend memory, where an operation leaves what is recorded; the next one overwrites them. Placed
 * at the first call; NULL if there is none. */
enum { NB_RESULT_BYTES = 128 };
void *nb_record_results(nb_record *record, nb_backend *be);
void nb_record_free_results(nb_record *record);

/* PREFIX/NAME. Numbers that are not finite are left out. */
void nb_record_scalar(nb_record *record, const char *prefix, const char *name, double value);
void nb_record_vector(nb_record *record, const char *prefix, const char *name, const float *values, int64_t count);
nb_status nb_record_commit(nb_record *record, nb_error *err);

#endif
