/* test_quartet.c: the scale rules of Quartet (QuEST, arXiv:2505.14669) and Quartet II (MS-EDEN, arXiv:2601.22813)
 * against the formulas in double, with a Hadamard matrix by its definition; that MS-EDEN is unbiased over rotations
 * where rounding to nearest alone is not; and its error beside that of stochastic rounding, by the thresholds of the
 * authors' tests. */
#include "quantize_cases.h"

#include "backend/ref/quantize.h"
#include "backend/ref/ref.h"
#include "format/e4m3.h"
#include "format/hadamard.h"

enum { N = 128 };
static const double GRID[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

static nb_quantizer eden_of(int32_t size, nb_signs signs) {
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.rule = NB_RULE_EDEN;
    q.sr_bits = 16;
    q.hadamard_size = size;
    q.hadamard_signs = signs;
    return q;
}

static nb_noise noise_at(const uint32_t *clock) {
    return (nb_noise){.seed = 7, .tensor = 0x51ed, .signs = 0x270b, .clock = clock};
}

static void quantize(const nb_qtensor *out, const nb_mat *x, uint32_t step) {
    const uint32_t clock[2] = {step, 0};
    const nb_noise noise = noise_at(clock);
    assert_int_equal(ni_ref_quantize(NULL, out, x, false, &noise, NULL, NULL), NB_OK);
}

static double code_value(const nb_qtensor *t, int64_t r, int64_t c) {
    uint8_t code = t->codes[r * t->cols / 2 + c / 2] >> (4 * (c % 2)) & 15;
    return code & 8 ? -GRID[code & 7] : GRID[code & 7];
}

/* The nearest number of the grid; *tie: too near to the middle of two for a test in double to tell. */
static double nearest(double x, bool *tie) {
    double best = 0, least = fabs(x), second = 1e30;
    for (int i = 1; i < 8; i++) {
        double distance = fabs(fabs(x) - GRID[i]);
        second = distance < least ? least : distance < second ? distance : second;
        best = distance < least ? GRID[i] : best;
        least = distance < least ? distance : least;
    }
    *tie = second - least < 1e-4;
    return x < 0 ? -best : best;
}

/* Row of 128 by the definition of the matrix: entry (i, j) has the sign of the parity of i & j. */
static void rotate(const float *x, int n, double *y) {
    for (int j = 0; j < N; j++) {
        y[j] = 0;
        for (int i = 0; i < n; i++)
            y[j] += (__builtin_parity((unsigned)(i & j % n)) ? -1 : 1) * (double)x[j / n * n + i] / sqrt(n);
    }
}

/* ---- QuEST ---- */

static void quest_is_its_formula(void **state) {
    (void)state;
    enum { ROWS = 64 };
    nb_quantizer q = ni_format_family_find("mxfp4")->defaults;
    q.rule = NB_RULE_QUEST;
    q.hadamard_size = 32;
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, ROWS, N, N);
    for (int64_t i = 0; i < ROWS * N; i++)
        ((float *)x.data)[i] *= (float)ldexp(1, (int)(i / N % 23) - 11);
    nb_qtensor t = new_operand(&q, ROWS, N);
    quantize(&t, &x, 0);
    int64_t compared = 0, clipped = 0;
    for (int64_t r = 0; r < ROWS; r++) {
        double y[N];
        rotate((const float *)x.data + r * N, 32, y);
        for (int64_t b = 0; b < N / 32; b++) {
            double sum = 0, squares = 0;
            for (int i = 0; i < 32; i++) {
                sum += y[32 * b + i];
                squares += y[32 * b + i] * y[32 * b + i];
            }
            double spread = sqrt(squares / 32 - sum / 32 * (sum / 32));
            double exponent = log2(2.92247856 / 6 * spread + 1e-8);
            if (fabs(exponent - nearbyint(exponent)) < 1e-5)
                continue;
            assert_int_equal(t.scales[r * (N / 32) + b], 127 + (int)floor(exponent));
            for (int i = 0; i < 32; i++) {
                bool tie;
                double scaled = y[32 * b + i] * ldexp(1, -(int)floor(exponent)), want = nearest(scaled, &tie);
                clipped += fabs(scaled) > 6;
                compared += !tie;
                if (!tie)
                    assert_true(code_value(&t, r, 32 * b + i) == want);
            }
        }
    }
    assert_true(compared > ROWS * N * 9 / 10);
    assert_in_range(clipped, ROWS * N / 100, ROWS * N / 7); /* of a normal distribution 0.4 to 14 %, by the binade */
}

/* Gradients come back through rotation and mask as the formula in double says (arXiv:2505.14669). */
static void quest_backward_is_its_formula(void **state) {
    (void)state;
    enum { ROWS = 16 };
    for (int32_t size = 16; size <= 128; size *= 2) {
        nb_quantizer q = ni_format_family_find("mxfp4")->defaults;
        q.rule = NB_RULE_QUEST;
        q.hadamard_size = size;
        nb_mat x = data_matrix(DATA_NORMAL, NB_F32, ROWS, N, N), g = data_matrix(DATA_NORMAL, NB_F32, ROWS, N, N);
        for (int64_t i = 0; i < ROWS * N; i++)
            ((float *)g.data)[i] = (float)normal(31, i);
        float *before = poisoned(sizeof *before * ROWS * N);
        memcpy(before, g.data, sizeof *before * ROWS * N);
        ni_ref_quest_backward(NULL, &g, &x, &q);
        int64_t masked = 0;
        for (int64_t r = 0; r < ROWS; r++) {
            double y[N], want[N];
            float kept[N];
            bool close = false;
            rotate((const float *)x.data + r * N, size, y);
            for (int64_t b = 0; b < N; b += 32) {
                double sum = 0, squares = 0;
                for (int64_t i = b; i < b + 32; i++) {
                    sum += y[i];
                    squares += y[i] * y[i];
                }
                const double exponent = log2(2.92247856 / 6 * sqrt(squares / 32 - sum / 32 * (sum / 32)) + 1e-8);
                close |= fabs(exponent - nearbyint(exponent)) < 1e-5;
                for (int64_t i = b; i < b + 32; i++) {
                    const double scaled = fabs(y[i]) * exp2(-floor(exponent));
                    close |= fabs(scaled - 6) < 1e-4;
                    masked += scaled >= 6;
                    kept[i] = scaled < 6 ? before[r * N + i] : 0;
                }
            }
            rotate(kept, size, want); /* the matrix is its own inverse */
            for (int64_t i = 0; i < N && !close; i++)
                assert_true(fabs((double)((float *)g.data)[r * N + i] - want[i]) < 1e-5);
        }
        assert_in_range(masked, ROWS * N / 200, ROWS * N / 7);
    }
}

/* ---- MS-EDEN ---- */

static double scale_near(double v, int direction) {
    uint8_t below = 0;
    while (below < 0x7e && (double)ni_e4m3_value((uint8_t)(below + 1)) <= v)
        below++;
    return (double)ni_e4m3_value((uint8_t)(below + direction));
}

/* Scales of a rotated row before they are rounded: v[b]; and what is multiplied: y / (first scale), in `scaled`. */
static void eden_row(const double *y, int n, double sdec, double *v, double *scaled) {
    const double most = 6 / (17.0 / 16 * 0.93);
    for (int group = 0; group < N / n; group++) {
        double squares = 0, products = 0;
        for (int b = group * n / 16; b < (group + 1) * n / 16; b++) {
            double amax = 0;
            for (int i = 16 * b; i < 16 * b + 16; i++)
                amax = fmax(amax, fabs(y[i]));
            double low = scale_near(amax / most / sdec, 0), high = scale_near(amax / most / sdec, 1);
            v[b] = amax / most / sdec - low < high - amax / most / sdec ? low : high;
            for (int i = 16 * b; i < 16 * b + 16; i++) {
                bool tie;
                scaled[i] = y[i] / (v[b] * sdec);
                squares += scaled[i] * scaled[i];
                products += scaled[i] * nearest(scaled[i], &tie);
            }
        }
        for (int b = group * n / 16; b < (group + 1) * n / 16; b++)
            v[b] *= squares / products;
    }
}

static void eden_is_its_formula(void **state) {
    (void)state;
    enum { ROWS = 4, DRAWS = 400 };
    for (int n = 32; n <= 128; n *= 4) {
        const nb_quantizer q = eden_of(n, NB_SIGNS_NONE);
        nb_mat x = data_matrix(DATA_NORMAL, NB_F32, ROWS, N, N);
        nb_qtensor t = new_operand(&q, ROWS, N);
        double y[ROWS][N], v[ROWS][N / 16], scaled[ROWS][N], mean[ROWS][N / 16] = {{0}}, amax = 0;
        for (int r = 0; r < ROWS; r++) {
            rotate((const float *)x.data + r * N, n, y[r]);
            for (int i = 0; i < N; i++)
                amax = fmax(amax, fabs(y[r][i]));
        }
        const double sdec = amax / 255.99 / (6 / (17.0 / 16 * 0.93));
        for (int r = 0; r < ROWS; r++)
            eden_row(y[r], n, sdec, v[r], scaled[r]);
        for (uint32_t step = 0; step < DRAWS; step++) {
            quantize(&t, &x, step);
            assert_float_equal(*t.tensor_scale, sdec, 1e-6 * sdec);
            for (int r = 0; r < ROWS; r++)
                for (int b = 0; b < N / 16; b++) {
                    double s = (double)ni_e4m3_value(t.scales[r * (N / 16) + b]);
                    assert_true(s == scale_near(v[r][b], 0) || s == scale_near(v[r][b], 1));
                    mean[r][b] += s / DRAWS;
                }
        }
        for (int r = 0; r < ROWS; r++)
            for (int b = 0; b < N / 16; b++) { /* a coin's spread is at most half a step */
                double step = scale_near(v[r][b], 1) - scale_near(v[r][b], 0);
                assert_float_equal(mean[r][b], v[r][b], 4.5 * 0.5 * step / sqrt(DRAWS));
            }
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < N; i++) {
                bool tie;
                double want = nearest(scaled[r][i], &tie);
                if (!tie)
                    assert_true(code_value(&t, r, i) == want);
            }
    }
}

/* What a quantization under fresh signs stands for, turned back; [rows, N]. */
static void come_back(const nb_qtensor *t, uint32_t step, double *out) {
    const uint32_t clock[2] = {step, 0};
    const nb_noise noise = noise_at(clock);
    const ni_noise_key key = ni_noise_at(&noise);
    const ni_sign_mask signs = ni_signs_of(NB_SIGNS_FRESH, &key), none = {{0}};
    float row[N];
    nb_mat to = nb_mat_of(row, NB_F32, 1, N);
    for (int64_t r = 0; r < t->rows; r++) {
        nb_qtensor one = *t;
        one.rows = 1;
        one.codes += r * N / 2;
        one.scales += r * N / 16;
        assert_int_equal(ni_ref_dequantize(NULL, &to, &one, false, true, NULL), NB_OK);
        ni_hadamard(row, N, none);
        for (int i = 0; i < N; i++)
            out[r * N + i] = (signs.w[i / 32] >> (i % 32) & 1 ? -1 : 1) * (double)row[i];
    }
}

/* Square error of one draw, and of the mean of `draws`, over x's squares. */
static void errors_of(const nb_quantizer *q, const nb_mat *x, uint32_t draws, double *one, double *of_mean) {
    const int64_t n = x->rows * N;
    double *mean = zeros(n), *got = zeros(n), squares = 0;
    nb_qtensor t = new_operand(q, x->rows, N);
    *one = *of_mean = 0;
    for (uint32_t step = 0; step < draws; step++) {
        quantize(&t, x, step);
        come_back(&t, step, got);
        for (int64_t i = 0; i < n; i++) {
            double d = got[i] - (double)((float *)x->data)[i];
            *one += d * d / draws;
            mean[i] += got[i] / draws;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        double v = (double)((float *)x->data)[i];
        squares += v * v;
        *of_mean += (mean[i] - v) * (mean[i] - v);
    }
    *one /= squares;
    *of_mean /= squares;
}

static void eden_is_unbiased_over_rotations(void **state) {
    (void)state;
    enum { ROWS = 8, DRAWS = 1000 };
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, ROWS, N, N);
    double one, of_mean, one_nearest, of_mean_nearest;
    const nb_quantizer eden = eden_of(N, NB_SIGNS_FRESH);
    nb_quantizer plain = eden;
    plain.rule = NB_RULE_ABSMAX;
    errors_of(&eden, &x, DRAWS, &one, &of_mean);
    errors_of(&plain, &x, DRAWS, &one_nearest, &of_mean_nearest);
    /* Independent errors of mean 0 leave 1/DRAWS of one's square; what is left of a bias does not shrink. */
    assert_true(of_mean < 1.3 * one / DRAWS);
    assert_true(of_mean_nearest > 3 * one_nearest / DRAWS);
}

/* ---- errors, as kernels/test/test_rounding.py of the authors counts them ---- */

static double bits_of(const nb_quantizer *q) {
    enum { ROWS = 128, COLS = 2048 };
    nb_mat x = data_matrix(DATA_NORMAL, NB_BF16, ROWS, COLS, COLS);
    nb_qtensor t = new_operand(q, ROWS, COLS);
    nb_quantize_stats s;
    const nb_noise noise = noise_at(NULL);
    assert_int_equal(ni_ref_quantize(NULL, &t, &x, false, &noise, &s, NULL), NB_OK);
    return -log2(s.sum_sq_error / s.sum_sq) / 2;
}

static void eden_errs_less_than_stochastic_rounding(void **state) {
    (void)state;
    nb_quantizer nearest_even = ni_format_family_find("nvfp4")->defaults, stochastic = nearest_even, six = nearest_even;
    const nb_quantizer eden = eden_of(N, NB_SIGNS_FRESH);
    stochastic.round = NB_ROUND_STOCHASTIC;
    stochastic.rule = NB_RULE_HEADROOM; /* unbiased: nothing saturates */
    stochastic.hadamard_size = N;
    stochastic.hadamard_signs = NB_SIGNS_FRESH;
    six.four_six = NB_FOUR_SIX_MSE;
    six.four_six_top = 256;
    assert_true(bits_of(&nearest_even) > 3.38);
    assert_true(bits_of(&six) > 3.52);
    assert_true(bits_of(&eden) > 3.32);
    assert_true(bits_of(&eden) - bits_of(&stochastic) > 0.5); /* a bit is a factor 4 in the square */
}

static void refusals(void **state) {
    (void)state;
    nb_quantizer q = eden_of(N, NB_SIGNS_FRESH), bad;
    assert_int_equal(nb_quantizer_check(&q, NULL), NB_OK);
    bad = q, bad.hadamard_size = 0;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
    bad = q, bad.round = NB_ROUND_STOCHASTIC;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
    bad = q, bad.block_rows = 16;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
    bad = q, bad.four_six = NB_FOUR_SIX_MSE, bad.four_six_top = 256;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
    bad = ni_format_family_find("mxfp8")->defaults, bad.rule = NB_RULE_QUEST;
    assert_int_equal(nb_quantizer_check(&bad, NULL), NB_BAD_CONFIG);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(quest_is_its_formula),
        CASE(quest_backward_is_its_formula),
        CASE(eden_is_its_formula),
        CASE(eden_is_unbiased_over_rotations),
        CASE(eden_errs_less_than_stochastic_rounding),
        CASE(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
