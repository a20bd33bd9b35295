/* measure.h: scalar references of the lens's measurements. */
#ifndef NB_BACKEND_REF_MEASURE_H
#define NB_BACKEND_REF_MEASURE_H

#include "nibble/backend.h"

void nb_ref_measure(nb_backend *be, const nb_mat *x, nb_moments *moments, float *column_amax, float *tile_crest);
void nb_ref_measure_attention(nb_backend *be, const nb_attention *a, const void *q, const void *k, int64_t stride,
                              nb_attention_stats *stats);

/* From the number of elements and the raw sums of x, x^2, x^3, x^4. */
nb_moments nb_moments_of_sums(int64_t count, int64_t nonfinite, double amax, const double sums[4]);

#endif
