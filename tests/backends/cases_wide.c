/* cases_wide.c: MXFP4 by units for 8 bits, many rows too far apart for E4M3 on either side or on both: what is added
 * behind the product, to the bit (src/backend/cuda/mx_bytes.h). Rows and columns end within tiles, contractions are
 * shorter and longer than what is summed side by side, and one row is longer than a block of threads holds.
 */
#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/e8m0.h"
#include "fp8_units.h"
#include "operands.h"

static const int64_t SIZES[][3] = {{1, 16, 64}, {17, 48, 96}, {33, 80, 1184}, {70, 16, 2080}, {3, 16, 16416}};
enum { SHAPES = 5, BLOCK = 32, SPREAD = 14, SIDE_BY_SIDE = 32, RESULTS = 4 };

/* Every n-th row of X and of W is too wide, the last of each n; 0: none. */
static const int64_t EVERY[][2] = {{2, 3}, {1, 0}, {0, 1}, {1, 1}, {17, 5}};
enum { WAYS = 5 };

static double depth(const trial *t) {
    return 2 * (double)SIZES[t->shape][2] + 16;
}

/* Blocks of a wide row are up to 57 powers apart, those of the others up to 9; some are zeros. */
static nb_mat spread_out(nb_dtype type, int64_t rows, int64_t cols, int64_t every, uint32_t stream) {
    const nb_mat m = data_matrix(DATA_NORMAL, type, rows, cols, cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        const int64_t r = i / cols, block = i % cols / BLOCK;
        const bool wide = every && r % every == every - 1;
        const int down = wide ? (int)(block * 7 % 4) * 19 : (int)((block + r) * 5 % 10);
        const float x = (block + r) % 11 == 10 ? 0.0f : (float)ldexp(datum(DATA_NORMAL, stream, i), -down);
        if (type == NB_BF16)
            ((uint16_t *)m.data)[i] = ni_bf16_even(x);
        else
            ((float *)m.data)[i] = x;
    }
    return m;
}

static nb_mat left_of(int shape, int way) {
    return spread_out(NB_BF16, SIZES[shape][0], SIZES[shape][2], EVERY[way][0], 11);
}

static nb_mat right_of(int shape, int way) {
    return spread_out(NB_F32, SIZES[shape][1], SIZES[shape][2], EVERY[way][1], 12);
}

/* ---- the sums on the host ---- */

typedef struct codes {
    uint8_t *bytes, *scales;
    int64_t cols;
    bool *wide; /* [rows] */
} codes;

static bool is_block_zero(const codes *c, int64_t r, int64_t block) {
    for (int64_t i = 0; i < BLOCK / 2; i++)
        if (c->bytes[(r * c->cols + block * BLOCK) / 2 + i] & 0x77)
            return false;
    return true;
}

static bool is_wide(const codes *c, int64_t r) {
    int largest = 0, smallest = UINT8_MAX;
    for (int64_t b = 0; b < c->cols / BLOCK; b++) {
        const int e = c->scales[r * (c->cols / BLOCK) + b];
        if (e == NI_E8M0_NAN || is_block_zero(c, r, b))
            continue;
        largest = e > largest ? e : largest;
        smallest = e < smallest ? e : smallest;
    }
    return largest - smallest > SPREAD;
}

static codes codes_of(trial *t, const nb_operand *o) {
    const nb_qtensor from = new_codes(t, &o->quantizer, o->rows, o->cols);
    codes c = {poisoned((size_t)(o->rows * o->cols / 2)), poisoned((size_t)(o->rows * o->cols / BLOCK)), o->cols,
               poisoned((size_t)o->rows * sizeof(bool))};
    EXPECT_OK(t, t->be->ops->canonical(t->be, &from, o, &err));
    t->be->ops->download(t->be, c.bytes, from.codes, (size_t)(o->rows * o->cols / 2));
    t->be->ops->download(t->be, c.scales, from.scales, (size_t)(o->rows * o->cols / BLOCK));
    for (int64_t r = 0; r < o->rows; r++)
        c.wide[r] = is_wide(&c, r);
    return c;
}

static double code_at(const codes *c, int64_t r, int64_t k) {
    return (double)ni_e2m1_value(c->bytes[(r * c->cols + k) / 2] >> (k % 2 * 4) & 15);
}

/* Blocks SIDE_BY_SIDE apart in order, and these sums by halves. */
static float sum_of(const codes *a, int64_t i, const codes *b, int64_t j) {
    const int64_t blocks = a->cols / BLOCK;
    float sums[SIDE_BY_SIDE] = {0};
    for (int64_t k = 0; k < blocks; k++) {
        double inner = 0;
        for (int64_t l = BLOCK * k; l < BLOCK * (k + 1); l++)
            inner += code_at(a, i, l) * code_at(b, j, l);
        const float scaled = (float)inner * ni_e8m0_value(a->scales[i * blocks + k]);
        sums[k % SIDE_BY_SIDE] += scaled * ni_e8m0_value(b->scales[j * blocks + k]);
    }
    for (int n = SIDE_BY_SIDE / 2; n; n /= 2)
        for (int s = 0; s < n; s++)
            sums[s] += sums[s + n];
    return sums[0];
}

static double number_of(const nb_mat *m, const void *data, int64_t i) {
    return m->dtype == NB_BF16 ? (double)ni_bf16_value(((const uint16_t *)data)[i]) : (double)((const float *)data)[i];
}

/* Sums of rows that are wide on either side, as they were before and are now. */
static int32_t wrong_sums(trial *t, const nb_mat *c, const double *before, const codes *a, const codes *b) {
    const int64_t n = c->rows * c->cols;
    void *const now = poisoned((size_t)n * nb_dtype_size(c->dtype));
    int32_t wrong = 0;
    t->be->ops->download(t->be, now, c->data, (size_t)n * nb_dtype_size(c->dtype));
    for (int64_t i = 0; i < n; i++) {
        if (!a->wide[i / c->cols] && !b->wide[i % c->cols])
            continue;
        const float sum = (float)before[i] + sum_of(a, i / c->cols, b, i % c->cols);
        wrong += number_of(c, now, i) != (double)(c->dtype == NB_BF16 ? ni_bf16_value(ni_bf16_even(sum)) : sum);
    }
    return wrong;
}

static int32_t count_wide(const codes *c, int64_t rows) {
    int32_t wide = 0;
    for (int64_t r = 0; r < rows; r++)
        wide += c->wide[r];
    return wide;
}

/* ---- a run ---- */

static void run_way(trial *t, int way, const nb_quantizer *q) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1];
    nb_backend *be = t->be;
    const nb_mat left = left_of(t->shape, way), right = right_of(t->shape, way), x = input_mat(t, &left),
                 w = input_mat(t, &right);
    const nb_operand a = made(t, q, &x, NI_LEFT, q), b = made(t, q, &w, NI_RIGHT, q);
    const codes left_codes = codes_of(t, &a), right_codes = codes_of(t, &b);
    const bool by_fp8 = strncmp(be->ops->product_kernel(be, q, q), "fp8", 3) == 0;
    double *const zero = zeros(m * n), *const numbers = normals_in(NB_BF16, 9, m * n, 0, 1);
    if (be->mended)
        be->mended(be);
    for (int i = 0; i < RESULTS; i++) {
        const nb_dtype type = i & 1 ? NB_F32 : NB_BF16;
        const nb_mat c = nb_mat_of(input(t, type, numbers, m * n), type, m, n);
        EXPECT_OK(t, be->ops->multiply(be, &c, &(ni_term){.a = &a, .b = &b}, 1, i & 2, &err));
        if (i == RESULTS - 1)
            keep(t, "added", c.data, c.dtype, m * n, false);
        if (by_fp8 && wrong_sums(t, &c, i & 2 ? numbers : zero, &left_codes, &right_codes))
            fail_trial(t, "rows that FP8 does not hold", NB_INTERNAL, &(nb_error){.message = "other bits"});
    }
    const int32_t wide = count_wide(&left_codes, m) + count_wide(&right_codes, n);
    if (by_fp8 && be->mended && be->mended(be) != RESULTS * wide)
        fail_trial(t, "rows that FP8 does not hold", NB_INTERNAL, &(nb_error){.message = "counted otherwise"});
}

static void run_wide(trial *t) {
    const nb_quantizer q = format_of("mxfp4", 1, BLOCK);
    EXPECT_OK(t, t->be->ops->permit(t->be, &(ni_permits){.mxfp4_fp8 = true}, &err));
    for (int way = 0; way < WAYS; way++)
        run_way(t, way, &q);
    EXPECT_OK(t, t->be->ops->permit(t->be, &(ni_permits){.mxfp4_fp8 = false}, &err));
}

static double *lost(const trial *t, int index /* the way */) {
    const nb_quantizer q = format_of("mxfp4", 1, BLOCK), pair[2] = {q, q};
    const nb_mat x = left_of(t->shape, index), w = right_of(t->shape, index);
    if (strncmp(t->be->name, "cuda", 4) != 0)
        return zeros(x.rows * w.rows);
    return fp8_units_cut(pair, &x, &w);
}

static const test_case WIDE[] = {
    {"multiply permit", "MXFP4, rows too wide for FP8", CODES, SHAPES, run_wide, lost, depth},
};
const case_list wide_cases = {WIDE, sizeof WIDE / sizeof *WIDE};
