/* measure.h: the lens's measurements on the CPU: strips of 16 rows, in lanes of 16 columns. */
#ifndef NB_BACKEND_CPU_MEASURE_H
#define NB_BACKEND_CPU_MEASURE_H

#include "backend/table.h"

enum { NB_MEASURE_TILE = 16 };

/* What one strip of at most 16 rows adds. */
typedef struct nb_strip_sums {
    double sums[4]; /* of x, x^2, x^3, x^4 */
    int64_t count, nonfinite;
    float amax;
} nb_strip_sums;

/* One function an instruction set, from one source (measure_strip.inc): lanes are fixed, so all give the same bits.
 * column_amax [cols] takes maxima in; crest [ceil(cols/16)] is written; both may be NULL. */
typedef void nb_measure_strip(const nb_mat *strip, nb_strip_sums *out, float *column_amax, float *crest);
nb_measure_strip nb_measure_strip_portable, nb_measure_strip_avx2, nb_measure_strip_avx512;

/* logits[s] = q . k[s], BF16 keys `stride` numbers apart; q [dim] in FP32. */
typedef void nb_measure_logits(const float *q, const uint16_t *k, int64_t stride, int64_t keys, int64_t dim,
                               float *logits);
nb_measure_logits nb_measure_logits_portable, nb_measure_logits_avx2, nb_measure_logits_avx512;

#endif
