/* sampled.h: a series sorted for looking at: by metric, then operand, then module in the order of the forward pass. */
#ifndef NI_REPORT_SAMPLED_H
#define NI_REPORT_SAMPLED_H

#include "lens/series.h"
#include "report/measures.h"

/* One name of a series, taken apart: MODULE/OPERAND/METRIC or MODULE/METRIC. */
typedef struct ni_sampled {
    int32_t name;                    /* in the reader */
    ni_series_samples samples;       /* modules of one sample stand side by side */
    int32_t place;                   /* of the module among all, by first appearance */
    int32_t order;                   /* of the metric in ni_measures; past its end where it has no row */
    const ni_measure *measure;       /* NULL where it has no row */
    char *module, *operand, *metric; /* operand "" where there is none */
} ni_sampled;

typedef struct ni_samples {
    const ni_series_reader *reader;
    ni_sampled *items; /* [count] sorted */
    int32_t count;
} ni_samples;

nb_status ni_samples_of(const ni_series_reader *reader, ni_samples *out, nb_error *err);
void ni_samples_free(ni_samples *samples);

/* Past the last item, from `first` on, of the same metric and operand. */
int32_t ni_samples_group(const ni_samples *samples, int32_t first);

/* NULL if it was never recorded. `operand` may be "". */
const ni_sampled *ni_samples_find(const ni_samples *samples, const char *module, const char *operand,
                                  const char *metric);
int64_t ni_sampled_points(const ni_samples *samples, const ni_sampled *item);
ni_series_point ni_sampled_at(const ni_samples *samples, const ni_sampled *item, int64_t index); /* < 0: from the end */

#endif
