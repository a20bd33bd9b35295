/* paired.h: how far two recipes are apart, from losses that were taken pair by pair with the same seeds and data. */
#ifndef NI_REPORT_PAIRED_H
#define NI_REPORT_PAIRED_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ni_paired {
    double mean;      /* of a[i] - b[i] */
    double deviation; /* of the sample; NaN for one pair */
    double half;      /* the 95 % confidence interval of the mean is mean +- half (Student's t); NaN for one pair */
    int32_t pairs;    /* that have both numbers */
} ni_paired;

/* b NULL: of a alone. count > 0. Pairs of which one is NaN are left out; all NaN where that leaves none. */
ni_paired ni_paired_of(const double *a, const double *b, int32_t count);

/* Zero is outside of the interval: which of the two is lower is more than chance. Never so for one pair. */
bool ni_paired_apart(const ni_paired *p);

#endif
