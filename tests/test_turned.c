/* test_turned.c: columns that are not turned hold no larger number (format/turned.h), whatever tensor cores do to sums
 * within what they are trusted with, on columns made to be hard. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/philox.h"
#include "format/bf16.h"
#include "format/turned.h"

static uint32_t word(uint32_t i, uint32_t j) {
    return ni_philox(11, 12, i, j, 0, 0).w[0];
}

/* What the reference finds in a column: BF16 numbers under the fixed signs, rounded. */
static uint32_t exact_amax(const float *column) {
    float x[16];
    uint32_t amax = 0;
    memcpy(x, column, sizeof x);
    ni_hadamard(x, 16, ni_signs_of(NB_SIGNS_FIXED, NULL));
    for (int i = 0; i < 16; i++) {
        const uint32_t here = ni_f32_magnitude(ni_bf16_round(x[i]));
        amax = here > amax ? here : amax;
    }
    return amax;
}

/* A sum of eight as tensor cores might give it: every product loses what lies below 14 bits of the largest, all losses
 * go one way, toward zero, and what is subnormal is gone. */
static float poor_sum(const float *x, int i, int first) {
    double sum = 0, largest = 0;
    for (int k = 0; k < 16; k++)
        largest = fmax(largest, fabs((double)x[k]));
    for (int k = first; k < first + 8; k++)
        sum += (double)ni_bf16_value((uint16_t)ni_turned_factor(i, k)) * (double)x[k];
    if (!isfinite(sum))
        return (float)sum;
    const double loss = largest > 0 ? 8 * ldexp(1, ilogb(largest) - 13) : 0, left = fmax(0, fabs(sum) - loss);
    return left < ldexp(1, -126) ? 0 : (float)copysign(left, sum);
}

/* The largest |u| + |v| of a column, as many losses away from what it is as `losses` says: -2 or 2, one a sum. */
static uint32_t most_of(const float *x, int losses) {
    uint32_t most = 0;
    for (int i = 0; i < 8; i++) {
        const float u = poor_sum(x, i, 0), v = poor_sum(x, i, 8);
        double largest = 0, sum = fabs((double)u) + fabs((double)v);
        for (int k = 0; k < 16; k++)
            largest = fmax(largest, fabs((double)x[k]));
        if (losses > 0 && isfinite(sum) && largest > 0)
            sum += 2 * losses * 8 * ldexp(1, ilogb(largest) - 13); /* poor sums have lost as much already */
        const uint32_t here = ni_f32_magnitude((float)sum);
        most = here > most ? here : most;
    }
    return most;
}

/* Whether the column would be turned, where `known` is the maximum so far. */
static bool is_turned(const float *x, uint32_t known) {
    for (int i = 0; i < 8; i++) {
        const float most = fabsf(poor_sum(x, i, 0)) + fabsf(poor_sum(x, i, 8));
        if (ni_f32_magnitude(most) >= ni_turned_limit(known))
            return true;
    }
    return false;
}

/* Under every maximum below its own a column is turned: all of those near it, and some far from it. */
static void never_missed(const float *x) {
    const uint32_t own = exact_amax(x) >> 16;
    for (uint32_t below = 1; below <= own; below = below < 64 ? below + 1 : 2 * below)
        assert_true(is_turned(x, (own - below) << 16));
}

static float bf16_of(uint32_t sign, int exponent, uint32_t mantissa) {
    return ni_f32_from((sign & 1u) << 31 | (uint32_t)(exponent & 255) << 23 | (mantissa & 127u) << 16);
}

static void random_columns(void **state) {
    (void)state;
    for (uint32_t n = 0; n < 6000; n++) {
        float x[16];
        const uint32_t spread = n % 24; /* binades */
        const int first = 1 + (int)(word(n, 99) % (254 - spread));
        for (uint32_t k = 0; k < 16; k++) {
            const uint32_t r = word(n, k);
            x[k] = bf16_of(r, first + (int)(r >> 8) % (int)(spread + 1), r >> 1);
        }
        never_missed(x);
    }
}

/* Numbers whose turned ones nearly cancel, but for one of 16 or for a few bits at the end. */
static void cancelling_columns(void **state) {
    (void)state;
    for (uint32_t n = 0; n < 4000; n++) {
        float x[16];
        const int row = (int)(n % 16), exponent = 40 + (int)(word(n, 50) % 170);
        for (int k = 0; k < 16; k++) { /* a row of the matrix: all in one turned number, then a little is moved */
            const uint32_t minus = (ni_turned_factor(row & 7, k) >> 15) ^ ((uint32_t)(row >> 3 & k >> 3) & 1u);
            x[k] =
                bf16_of(minus ^ (word(n, (uint32_t)k) % 7 == 0), exponent, n % 3 ? word(n, 60 + (uint32_t)k) & n : 0);
        }
        if (n % 5 == 0)
            x[word(n, 70) % 16] = bf16_of(n, exponent - 1 - (int)(word(n, 71) % 30), word(n, 72));
        never_missed(x);
    }
}

/* What is not turned beside a column holds none beyond that column's own, whichever way sums err. */
static void never_missed_beside(const float *x, const float *other) {
    if (most_of(x, -2) < ni_turned_limit_beside(most_of(other, 2)))
        assert_true(exact_amax(x) <= exact_amax(other));
}

static void columns_beside_others(void **state) {
    (void)state;
    int left = 0;
    for (uint32_t n = 0; n < 20000; n++) {
        float x[16], other[16];
        const int first = 1 + (int)(word(n, 98) % 250), row = (int)(n % 16);
        for (uint32_t k = 0; k < 16; k++) {
            const uint32_t r = word(n, k);
            x[k] = bf16_of(r, first + (int)(r >> 8) % 3, r >> 1);
            other[k] = n % 2 ? bf16_of(ni_turned_factor(row & 7, (int)k) >> 15, first + 1, r >> 20) : -x[(k + n) % 16];
        }
        never_missed_beside(x, other);
        never_missed_beside(other, x);
        left += most_of(x, -2) < ni_turned_limit_beside(most_of(other, 2));
    }
    assert_in_range(left, 2000, 18000);
}

/* Zeros, subnormals, the largest numbers, Inf and NaN among others. */
static void columns_at_the_ends(void **state) {
    (void)state;
    static const uint32_t ends[] = {0,          0x80000000, 0x00010000, 0x807f0000, 0x00800000, 0x7f7f0000,
                                    0xff7f0000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7fff0000, 0x3f800000};
    enum { ENDS = sizeof ends / sizeof *ends };
    for (uint32_t n = 0; n < 6000; n++) {
        float x[16];
        const uint32_t kinds = 1 + n % ENDS, from = n / ENDS % ENDS;
        for (uint32_t k = 0; k < 16; k++)
            x[k] = ni_f32_from(ends[(from + word(n, k) % kinds) % ENDS]);
        never_missed(x);
    }
}

/* Most columns are left alone once a maximum is known. */
static void columns_left_alone(void **state) {
    (void)state;
    int turned = 0;
    uint32_t known = 0;
    for (uint32_t n = 0; n < 4000; n++) {
        float x[16];
        for (uint32_t k = 0; k < 16; k++) {
            const ni_philox_words r = ni_philox(3, 4, n, k, 0, 0);
            double sum = -2;
            for (int i = 0; i < 4; i++)
                sum += (double)r.w[i] * 0x1p-32;
            x[k] = ni_bf16_round((float)sum);
        }
        if (is_turned(x, known)) {
            const uint32_t own = exact_amax(x);
            known = own > known ? own : known;
            turned++;
        }
    }
    assert_in_range(turned, 1, 80);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_columns),        cmocka_unit_test(cancelling_columns),
        cmocka_unit_test(columns_beside_others), cmocka_unit_test(columns_at_the_ends),
        cmocka_unit_test(columns_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
