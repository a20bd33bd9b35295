/* measure.h: scalar references of the lens's measurements. */
#ifndef NI_BACKEND_REF_MEASURE_H
#define NI_BACKEND_REF_MEASURE_H

#include "backend/ref/ref.h"

/* From the number of elements and the raw sums of x, x^2, x^3, x^4. */
ni_moments ni_moments_of_sums(int64_t count, int64_t nonfinite, double amax, const double sums[4]);

#endif
