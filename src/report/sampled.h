/* sampled.h: a series sorted for looking at: by metric, then operand, then module in the order of the forward pass. */
#ifndef NB_REPORT_SAMPLED_H
#define NB_REPORT_SAMPLED_H

#include "lens/series.h"
#include "report/measures.h"

/* One name of a series, taken apart: MODULE/OPERAND/METRIC or MODULE/METRIC. */
typedef struct nb_sampled {
    int32_t name;                    /* in the reader */
    int32_t place;                   /* of the module among all, by first appearance */
    int32_t order;                   /* of the metric in nb_measures; past its end where it has no row */
    const nb_measure *measure;       /* NULL where it has no row */
    char *module, *operand, *metric; /* operand "" where there is none */
} nb_sampled;

typedef struct nb_samples {
    const nb_series_reader *reader;
    nb_sampled *items; /* [count] sorted */
    int32_t count;
} nb_samples;

nb_status nb_samples_of(const nb_series_reader *reader, nb_samples *out, nb_error *err);
void nb_samples_free(nb_samples *samples);

/* Past the last item, from `first` on, of the same metric and operand. */
int32_t nb_samples_group(const nb_samples *samples, int32_t first);

/* NULL if it was never recorded. `operand` may be "". */
const nb_sampled *nb_samples_find(const nb_samples *samples, const char *module, const char *operand,
                                  const char *metric);
int64_t nb_sampled_points(const nb_samples *samples, const nb_sampled *item);
nb_series_point nb_sampled_at(const nb_samples *samples, const nb_sampled *item, int64_t index); /* < 0: from the end */

#endif
