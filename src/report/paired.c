/* paired.c: mean, deviation and Student's interval of paired differences. */
#include "report/paired.h"

#include <math.h>

/* The two-sided 95 % point of Student's t with `freedom` degrees of freedom: from tables up to 30, and beyond by the
 * first terms of its expansion about the normal distribution's 1.95996 (Abramowitz and Stegun 26.7.5), right to 1e-4
 * there. */
static double student(int32_t freedom) {
    static const double table[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
                                   2.2010,  2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
                                   2.0796,  2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423};
    const int32_t known = sizeof table / sizeof *table;
    if (freedom <= known)
        return table[freedom - 1];
    const double z = 1.959964, n = freedom;
    return z + (z * z * z + z) / (4 * n) + (5 * pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * n * n);
}

static double difference(const double *a, const double *b, int32_t i) {
    return a[i] - (b ? b[i] : 0);
}

ni_paired ni_paired_of(const double *a, const double *b, int32_t count) {
    ni_paired p = {NAN, NAN, NAN, 0};
    double sum = 0, squares = 0;
    for (int32_t i = 0; i < count; i++)
        if (!isnan(difference(a, b, i))) {
            sum += difference(a, b, i);
            p.pairs++;
        }
    if (p.pairs > 0)
        p.mean = sum / p.pairs;
    if (p.pairs < 2)
        return p;
    for (int32_t i = 0; i < count; i++) {
        const double rest = difference(a, b, i) - p.mean;
        squares += isnan(rest) ? 0 : rest * rest;
    }
    p.deviation = sqrt(squares / (p.pairs - 1));
    p.half = student(p.pairs - 1) * p.deviation / sqrt(p.pairs);
    return p;
}

bool ni_paired_apart(const ni_paired *p) {
    return fabs(p->mean) > p->half; /* false where half is NaN */
}
