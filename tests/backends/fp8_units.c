/* fp8_units.c: see fp8_units.h. */
#include "fp8_units.h"

enum { BITS_BEHIND = 13, INSTRUCTION = 32, PROMOTION = 128 };

static int exponent(double x, int least) {
    const int e = ilogb(x);
    return e < least ? least : e;
}

static double cut(double x, int behind) {
    return ldexp(trunc(ldexp(x, -behind)), behind);
}

/* `carried` and 32 products. */
static double instruction(double carried, const double *a, int a_least, const double *b, int b_least, int64_t k) {
    int largest = carried != 0 ? ilogb(carried) : INT32_MIN;
    for (int64_t i = 0; i < k; i++)
        if (a[i] * b[i] != 0) {
            const int e = exponent(a[i], a_least) + exponent(b[i], b_least);
            largest = e > largest ? e : largest;
        }
    if (largest == INT32_MIN)
        return 0;
    double sum = cut(carried, largest - BITS_BEHIND);
    for (int64_t i = 0; i < k; i++)
        sum += cut(a[i] * b[i], largest - BITS_BEHIND);
    return sum != 0 ? cut(sum, ilogb(sum) - BITS_BEHIND) : 0;
}

double fp8_units_sum(const double *a, int a_least, const double *b, int b_least, int64_t k) {
    float sum = 0;
    double carried = 0;
    for (int64_t i = 0; i < k; i += INSTRUCTION) {
        const int64_t left = k - i < INSTRUCTION ? k - i : INSTRUCTION;
        carried = instruction(carried, a + i, a_least, b + i, b_least, left);
        if ((i + INSTRUCTION) % PROMOTION == 0 || i + INSTRUCTION >= k) {
            sum += (float)carried;
            carried = 0;
        }
    }
    return (double)sum;
}

/* ---- codes of a matrix, without the scale of each of its rows ---- */

typedef struct coded {
    double *numbers, *scales; /* [rows, cols], [rows] */
    int least;
} coded;

/* As src/backend/cuda/mx_bytes.h has rows of MXFP4: the largest scale of a row stands 2^6 above that of the whole row.
 * One that E4M3 does not hold exactly is multiplied elsewhere: NaN. */
static void take_row_scale(double *row, double *scale, const uint8_t *exponents, int64_t k) {
    int largest = INT32_MIN, smallest = INT32_MAX;
    for (int64_t i = 0; i < k; i++)
        if (row[i] != 0) {
            const int e = exponents[i / 32];
            largest = e > largest ? e : largest;
            smallest = e < smallest ? e : smallest;
        }
    if (largest == INT32_MIN)
        return;
    for (int64_t i = 0; i < k; i++)
        row[i] = ldexp(row[i], 127 + 6 - largest);
    *scale *= largest - smallest > 14 ? (double)NAN : ldexp(1, largest - 6 - 127);
}

static coded coded_of(nb_backend *be, const nb_quantizer *q, const nb_quantizer *other, const nb_mat *from,
                      ni_side side) {
    const int64_t n = from->rows * from->cols;
    trial t = {.be = be};
    nb_operand o = {
        .quantizer = *q, .other = *other, .rows = from->rows, .cols = from->cols, .side = side, .reread = true};
    o.memory = scratch(&t, be->ops->operand_bytes(be, &o));
    const ni_making making = {.out = &o};
    EXPECT_OK(&t, be->ops->make_operands(be, &(ni_source){.numbers = from}, &making, 1, &err));
    const nb_mat bare = nb_mat_of(scratch(&t, (size_t)n * sizeof(float)), NB_F32, from->rows, from->cols);
    EXPECT_OK(&t, be->ops->decode(be, &bare, &o, false, NULL, false, &err));
    const nb_qtensor codes = new_codes(&t, q, from->rows, from->cols);
    EXPECT_OK(&t, be->ops->canonical(be, &codes, &o, &err));
    coded c = {get(NB_F32, bare.data, n), zeros(from->rows), q->element == NB_ELEMENT_E5M2 ? -14 : -6};
    for (int64_t r = 0; r < from->rows; r++)
        c.scales[r] = codes.outer_scales   ? (double)codes.outer_scales[r]
                      : codes.tensor_scale ? (double)*codes.tensor_scale
                                           : 1;
    for (int64_t r = 0; r < from->rows && q->scale_type == NB_SCALE_E8M0; r++)
        take_row_scale(c.numbers + r * from->cols, &c.scales[r], codes.scales + r * (from->cols / 32), from->cols);
    if (t.failure[0] || t.refusal[0])
        fail_msg("fp8_units: %s%s", t.failure, t.refusal);
    fetch_results(&t);
    end_trial(&t);
    return c;
}

double *fp8_units_cut(const nb_quantizer pair[2], const nb_mat *x, const nb_mat *w) {
    const nb_backend_options scalar = {.threads = 1, .isa = NB_ISA_SCALAR};
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("cpu", &scalar, &be, NULL), NB_OK);
    const int64_t m = x->rows, n = w->rows, k = x->cols;
    const coded a = coded_of(be, &pair[0], &pair[1], x, NI_LEFT), b = coded_of(be, &pair[1], &pair[0], w, NI_RIGHT);
    double *lost = zeros(m * n);
    for (int64_t i = 0; i < m * n; i++) {
        const double *row = a.numbers + i / n * k, *other = b.numbers + i % n * k;
        lost[i] = fabs(fp8_units_sum(row, a.least, other, b.least, k) - inner(row, other, k)) * a.scales[i / n] *
                  b.scales[i % n] / U;
        lost[i] = isnan(lost[i]) ? 0 : lost[i];
    }
    nb_backend_free(be);
    return lost;
}
