/* measure.h: the lens's measurements on the CPU: strips of 16 rows, in lanes of 16 columns. */
#ifndef NB_BACKEND_CPU_MEASURE_H
#define NB_BACKEND_CPU_MEASURE_H

#include "nibble/backend.h"

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

void nb_cpu_measure(nb_backend *be, const nb_mat *x, nb_moments *moments, float *column_amax, float *tile_crest);

#endif
