/* measure.h: the lens's measurements on the CPU: strips of 16 rows, in lanes of 16 columns. */
#ifndef NI_BACKEND_CPU_MEASURE_H
#define NI_BACKEND_CPU_MEASURE_H

#include "backend/table.h"

enum { NI_MEASURE_TILE = 16 };

/* What one strip of at most 16 rows adds. */
typedef struct ni_strip_sums {
    double sums[4]; /* of x, x^2, x^3, x^4 */
    int64_t count, nonfinite;
    float amax;
} ni_strip_sums;

/* One function an instruction set, from one source (measure_strip.inc): lanes are fixed, so all give the same bits.
 * column_amax [cols] takes maxima in; crest [ceil(cols/16)] is written; both may be NULL. */
typedef void ni_measure_strip(const nb_mat *strip, ni_strip_sums *out, float *column_amax, float *crest);
ni_measure_strip ni_measure_strip_portable, ni_measure_strip_avx2, ni_measure_strip_avx512;

/* logits[s] = q . k[s], BF16 keys `stride` numbers apart; q [dim] in FP32. */
typedef void ni_measure_logits(const float *q, const uint16_t *k, int64_t stride, int64_t keys, int64_t dim,
                               float *logits);
ni_measure_logits ni_measure_logits_portable, ni_measure_logits_avx2, ni_measure_logits_avx512;

#endif
