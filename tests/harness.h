/* harness.h: what the tests of operations share: numbers, poisoned buffers with guards, gradient checks.
 *
 * A test speaks double. `put` rounds to a backend's type, `get` reads back; results land in buffers that start as NaN
 * and end in a guard, so that an element not written and an element too many are both seen.
 */
#ifndef NI_TEST_HARNESS_H
#define NI_TEST_HARNESS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/table.h"
#include "base/philox.h"
#include "format/bf16.h"

#define UNUSED __attribute__((unused))

/* ---- buffers: a list that the teardown of every test checks and frees ---- */

enum { GUARD_BYTES = 64, GUARD = 0xA5 };

typedef struct buffer {
    struct buffer *next;
    size_t bytes;
    _Alignas(64) unsigned char data[];
} buffer;

/* One list of a test program of several files, too. */
__attribute__((weak)) buffer *test_buffers;

/* 0xFF bytes are a NaN in BF16, F32 and F64. */
static UNUSED void *poisoned(size_t bytes) {
    buffer *b = aligned_alloc(64, (sizeof *b + bytes + GUARD_BYTES + 63) / 64 * 64);
    assert_non_null(b);
    b->next = test_buffers;
    b->bytes = bytes;
    test_buffers = b;
    memset(b->data, 0xFF, bytes);
    memset(b->data + bytes, GUARD, GUARD_BYTES);
    return b->data;
}

/* Checks and frees what was taken since `until` was the newest buffer. */
static UNUSED int release_buffers_until(const buffer *until) {
    int overrun = 0;
    while (test_buffers != until) {
        buffer *b = test_buffers;
        test_buffers = b->next;
        for (int i = 0; i < GUARD_BYTES; i++)
            overrun |= b->data[b->bytes + (size_t)i] != GUARD;
        free(b);
    }
    if (overrun)
        print_error("a buffer was written beyond its end\n");
    return overrun;
}

static UNUSED int release_buffers(void **state) {
    (void)state;
    return release_buffers_until(NULL);
}

/* ---- numbers ---- */

/* Element i of a stream of independent N(0, 1) numbers (Box-Muller). */
static UNUSED double normal(uint32_t stream, int64_t i) {
    ni_philox_words w = ni_philox(stream, 0x7e57, (uint32_t)i, 0, 0, 0);
    double u = ((double)w.w[0] + 1) / 4294967297.0, v = (double)w.w[1] / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static UNUSED double *zeros(int64_t n) {
    double *x = poisoned((size_t)n * sizeof *x);
    memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

static UNUSED double *normals(uint32_t stream, int64_t n, double mean, double std) {
    double *x = zeros(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = mean + std * normal(stream, i);
    return x;
}

/* The same, each rounded to a number that the type holds. */
static UNUSED double *normals_in(nb_dtype type, uint32_t stream, int64_t n, double mean, double std) {
    double *x = normals(stream, n, mean, std);
    for (int64_t i = 0; i < n; i++)
        x[i] = type == NB_BF16 ? (double)ni_bf16_value(ni_bf16_even((float)x[i])) : (double)(float)x[i];
    return x;
}

static UNUSED double element(const void *x, nb_dtype type, int64_t i) {
    switch (type) {
    case NB_F32:
        return ((const float *)x)[i];
    case NB_BF16:
        return ni_bf16_value(((const uint16_t *)x)[i]);
    default:
        return ((const double *)x)[i];
    }
}

/* A buffer of the type with these numbers; poisoned if x is NULL. */
static UNUSED void *put(nb_dtype type, const double *x, int64_t n) {
    size_t size = type == NB_F32 ? 4 : type == NB_BF16 ? 2 : 8;
    void *to = poisoned((size_t)n * size);
    for (int64_t i = 0; x && i < n; i++) {
        if (type == NB_F32)
            ((float *)to)[i] = (float)x[i];
        else if (type == NB_BF16)
            ((uint16_t *)to)[i] = ni_bf16_even((float)x[i]);
        else
            ((double *)to)[i] = x[i];
    }
    return to;
}

static UNUSED double *get(nb_dtype type, const void *x, int64_t n) {
    double *to = zeros(n);
    for (int64_t i = 0; i < n; i++)
        to[i] = element(x, type, i);
    return to;
}

static UNUSED double inner(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* ---- gradients ---- */

/* Compares `gradient` of `loss` at x with central differences, element by element. With step 1e-4 the truncation is
 * about 1e-9 and the rounding 1e-12, relative to a loss and third derivatives of order one; a wrong term shows at 1e-2.
 */
static UNUSED void check_gradient(const char *what, double *x, int64_t n, const double *gradient,
                                  double (*loss)(void *context), void *context) {
    double largest = 0, worst = 0;
    int64_t where = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(gradient[i]));
    for (int64_t i = 0; i < n; i++) {
        const double step = 1e-4, kept = x[i];
        x[i] = kept + step;
        double up = loss(context);
        x[i] = kept - step;
        double down = loss(context);
        x[i] = kept;
        double error = fabs((up - down) / (2 * step) - gradient[i]);
        if (!(error <= worst)) {
            worst = error;
            where = i;
        }
    }
    if (!(largest > 1e-3))
        fail_msg("%s: the gradient is all but zero (%g): the check would see nothing", what, largest);
    if (!(worst <= 1e-7 * largest))
        fail_msg("%s: gradient[%lld] = %.12g is off by %.3g, more than 1e-7 of the largest %.3g", what,
                 (long long)where, gradient[where], worst, largest);
}

/* ---- comparisons ---- */

/* |got - want| <= bound, each element; NaN fails. */
static UNUSED void check_within(const char *what, const double *got, const double *want, const double *bound,
                                int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= bound[i]))
            fail_msg("%s[%lld] = %.9g, expected %.9g within %.3g", what, (long long)i, got[i], want[i], bound[i]);
}

static UNUSED void check_equal_bytes(const char *what, const void *got, const void *want, size_t bytes) {
    const unsigned char *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %zu of %zu differs", what, i, bytes);
}

#endif
