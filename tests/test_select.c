/* test_select.c: choices and counts of the table: definitions against references, references against fast code, bit for
 * bit, over instruction sets and threads. */
#include "harness.h"

#include "backend/cpu/cpu.h"
#include "backend/ref/quantize.h"
#include "backend/ref/ref.h"
#include "format/ieee.h"

static const int64_t sizes[] = {1, 2, 15, 16, 17, 255, 256, 257, 1000, 4099};
enum { SIZES = sizeof sizes / sizeof *sizes };

static nb_backend *backends[8];
static int backend_count;

static int open_backends(void **state) {
    (void)state;
    const nb_backend_options all[] = {{1, NB_ISA_SCALAR}, {1, NB_ISA_AUTO},     {2, NB_ISA_AUTO},
                                      {5, NB_ISA_AUTO},   {3, NB_ISA_PORTABLE}, {2, NB_ISA_AVX2}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (nb_backend_open("cpu", &all[i], &backends[backend_count], NULL) == NB_OK)
            backend_count++;
    return backend_count < 5;
}

static int close_backends(void **state) {
    (void)state;
    while (backend_count > 0)
        nb_backend_free(backends[--backend_count]);
    return 0;
}

static float *floats(uint32_t stream, int64_t n) {
    return put(NB_F32, normals(stream, n, 0, 1), n);
}

/* ---- the k largest ---- */

/* By the words of ops.inc: does a come before b? */
static bool is_before(const float *x, int64_t a, int64_t b) {
    if (isnan(x[a]) || isnan(x[b]))
        return isnan(x[a]) == isnan(x[b]) ? a < b : isnan(x[b]);
    return x[a] != x[b] ? x[a] > x[b] : a < b;
}

/* Every place by counting who comes before. */
static void check_top_k(const float *x, int64_t n, int64_t k) {
    int32_t *want[2] = {poisoned(4 * (size_t)k), poisoned(4 * (size_t)k)};
    for (int64_t i = 0, found = 0; i < n; i++) {
        int64_t place = 0;
        for (int64_t j = 0; j < n; j++)
            place += is_before(x, j, i);
        if (place >= k)
            continue;
        want[0][place] = (int32_t)i;
        want[1][found++] = (int32_t)i;
    }
    for (int b = 0; b < backend_count; b++)
        for (int by_index = 0; by_index < 2; by_index++) {
            int32_t *got = poisoned(4 * (size_t)k);
            backends[b]->ops->top_k(backends[b], got, x, n, k, by_index);
            check_equal_bytes("top_k", got, want[by_index], 4 * (size_t)k);
        }
}

static void the_k_largest(void **state) {
    (void)state;
    for (int s = 0; s < SIZES; s++)
        for (int kind = 0; kind < 4; kind++) {
            const buffer *before = test_buffers;
            int64_t n = sizes[s];
            float *x = floats((uint32_t)s, n);
            for (int64_t i = 0; i < n; i++) {
                uint32_t bits = ni_philox(9, 9, (uint32_t)i, (uint32_t)kind, 0, 0).w[0];
                if (kind == 1) /* nothing but ties, zeros of both signs among them */
                    x[i] = bits % 3 ? (bits % 2 ? -0.0f : 0.0f) : 1;
                if (kind == 2) /* what is no number, and what is too large for one */
                    x[i] = bits % 5 == 0   ? ni_f32_from(0x7fc00000 | (bits & 0x80000000))
                           : bits % 5 == 1 ? (bits >> 9 & 1 ? INFINITY : -INFINITY)
                           : bits % 5 == 2 ? ni_f32_from(bits & 0x807fffff)
                                           : x[i];
                if (kind == 3)
                    x[i] = NAN;
            }
            const int64_t ks[] = {0, 1, n / 10, n / 2, n - 1, n};
            for (int i = 0; i < 6; i++)
                check_top_k(x, n, ks[i]);
            assert_int_equal(release_buffers_until(before), 0);
        }
}

/* Enough for a team of threads, and for slices that begin among ties. */
static void the_k_largest_of_many(void **state) {
    (void)state;
    enum { MANY = 700001 };
    float *x = floats(3, MANY);
    for (int64_t i = 0; i < MANY; i++)
        x[i] = i % 3 ? roundf(4 * x[i]) / 4 : x[i];
    const int64_t ks[] = {1, 70000, 350001, MANY - 1, MANY};
    for (int i = 0; i < 5; i++) {
        int32_t *want = poisoned(4 * MANY), *got = poisoned(4 * MANY);
        ni_ref_top_k(backends[0], want, x, MANY, ks[i], true);
        for (int64_t j = 1; j < ks[i]; j++)
            assert_true(want[j] > want[j - 1]);
        for (int b = 1; b < backend_count; b++) {
            backends[b]->ops->top_k(backends[b], got, x, MANY, ks[i], true);
            check_equal_bytes("top_k", got, want, 4 * (size_t)ks[i]);
        }
    }
}

static void what_two_choices_share(void **state) {
    (void)state;
    const int32_t a[] = {1, 4, 6, 9, 40}, b[] = {0, 4, 9, 10, 11}, c[] = {40, 41, 42, 43, 44};
    for (int i = 0; i < backend_count; i++) {
        nb_backend *be = backends[i];
        int64_t *count = poisoned(sizeof *count);
        be->ops->count_common(be, count, a, b, 5);
        assert_int_equal(*count, 2);
        be->ops->count_common(be, count, a, a, 5);
        assert_int_equal(*count, 5);
        be->ops->count_common(be, count, a, c, 5);
        assert_int_equal(*count, 1);
        be->ops->count_common(be, count, c, a, 4);
        assert_int_equal(*count, 0);
        be->ops->count_common(be, count, a, b, 0);
        assert_int_equal(*count, 0);
    }
}

/* ---- hot channels ---- */

/* Sums in another order than the reference's agree to a few roundings; fast code to none. */
static void errors_of_columns(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {255, 17}, {256, 16}, {257, 33}, {700, 40}};
    for (int s = 0; s < 10; s++) {
        int64_t rows = shapes[s / 2][0], cols = shapes[s / 2][1], stride = cols + 3, n = rows * stride;
        nb_dtype type = s % 2 ? NB_BF16 : NB_F32;
        nb_mat x = nb_mat_of(put(type, normals(1, n, 0.5, 1), n), type, rows, cols);
        nb_mat y = nb_mat_of(floats(2, n), NB_F32, rows, cols);
        x.stride = y.stride = stride;
        double *want[2] = {zeros(cols), zeros(cols)};
        ni_ref_column_errors(NULL, want[0], want[1], &x, &y);
        for (int64_t c = 0; c < cols; c++) {
            double errors = 0, squares = 0;
            for (int64_t r = 0; r < rows; r++) {
                double v = element(x.data, type, r * stride + c);
                errors += fabs(v - element(y.data, NB_F32, r * stride + c)) / (double)rows;
                squares += v * v / (double)rows;
            }
            assert_true(fabs(want[0][c] - errors) <= 1e-12 * errors);
            assert_true(fabs(want[1][c] - sqrt(squares)) <= 1e-12 * sqrt(squares));
        }
        for (int b = 0; b < backend_count; b++) {
            double *got[2] = {poisoned(8 * (size_t)cols), poisoned(8 * (size_t)cols)};
            backends[b]->ops->column_errors(backends[b], got[0], got[1], &x, &y);
            check_equal_bytes("mean |x - decoded|", got[0], want[0], 8 * (size_t)cols);
            check_equal_bytes("rms", got[1], want[1], 8 * (size_t)cols);
        }
    }
}

static void scores_of_channels(void **state) {
    (void)state;
    for (int s = 0; s < SIZES; s++)
        for (int i = 0; i < 4; i++) {
            int64_t n = sizes[s];
            double *facts = normals(7, 4 * n, 2, 0.1), keep = i / 2 ? 0.75 : 0, of_x = 0, of_w = 0;
            float *old = i / 2 ? floats(8, n) : poisoned(4 * (size_t)n), *want = poisoned(4 * (size_t)n);
            for (int64_t c = 0; c < n; c++) {
                double x = facts[c] * (i % 2 ? facts[3 * n + c] : 1), w = facts[2 * n + c] * (i % 2 ? facts[n + c] : 1);
                want[c] = (float)((keep > 0 ? keep * (double)old[c] : 0) + (1 - keep) * (x + w));
                of_x += x / (double)n;
                of_w += w / (double)n;
            }
            double first[2];
            for (int b = 0; b < backend_count; b++) {
                float *got = poisoned(4 * (size_t)n);
                double *means = poisoned(sizeof first);
                memcpy(got, old, 4 * (size_t)n);
                backends[b]->ops->hot_scores(backends[b], got, means, facts, n, keep, i % 2);
                check_equal_bytes("scores", got, want, 4 * (size_t)n);
                assert_true(fabs(means[0] - of_x) < 1e-12 * of_x && fabs(means[1] - of_w) < 1e-12 * of_w);
                if (b == 0)
                    memcpy(first, means, sizeof first);
                check_equal_bytes("means", means, first, sizeof first);
            }
        }
}

/* ---- weights against their quantized values ---- */

static void distances_flips_and_resets(void **state) {
    (void)state;
    enum { N = 9000 };
    float *w = floats(1, N), *q = floats(2, N), *before = floats(3, N), *widths = floats(4, N);
    float *moved_w = floats(5, N), *moved_q = floats(6, N);
    uint8_t *had = poisoned(N);
    for (int i = 0; i < N; i++) {
        widths[i] = i % 7 ? 2 * fabsf(widths[i]) : 0;
        before[i] = i % 5 ? before[i] : q[i];
        had[i] = (uint8_t)(i % 4 == 3 ? 255 : i % 4);
    }
    for (int b = 0; b < backend_count; b++) {
        nb_backend *be = backends[b];
        float *out = poisoned(4 * N), *moved = poisoned(4 * N);
        uint8_t *flips = poisoned(N);
        int64_t *resets = poisoned(sizeof *resets), expected = 1000;
        memcpy(flips, had, N);
        memcpy(moved, w, 4 * N);
        memcpy(out, widths, 4 * N);
        *resets = 1000; /* added to */
        be->ops->bin_distances(be, out, w, q, out, N);
        be->ops->add_flips(be, flips, q, before, widths, N);
        be->ops->reset_where(be, resets, moved, q, moved_w, moved_q, flips, 2, N, 0.5);
        for (int i = 0; i < N; i++) {
            assert_true(out[i] == (i % 7 ? fabsf(w[i] - q[i]) / widths[i] : 0));
            bool hop = i % 5 && fabsf(q[i] - before[i]) >= widths[i] / 2;
            assert_int_equal(flips[i], had[i] == 255 ? 255 : had[i] + hop);
            bool reset = moved_w[i] > 0 && moved_q[i] >= 0.5 * moved_w[i] && flips[i] >= 2;
            assert_true(moved[i] == (reset ? q[i] : w[i]));
            expected += reset;
        }
        assert_true(*resets == expected && expected > 1000);
        be->ops->reset_where(be, resets, moved, q, moved_w, moved_q, NULL, 200, N, 0.5);
        for (int i = 0; i < N; i++)
            expected += moved_w[i] > 0 && moved_q[i] >= 0.5 * moved_w[i];
        assert_true(*resets == expected);
    }
}

/* ---- what the lens sums and counts ---- */

static void gates_and_pairs(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {256, 3}, {300, 70}, {513, 31}};
    for (int s = 0; s < 8; s++) {
        int64_t rows = shapes[s / 2][0], cols = shapes[s / 2][1], stride = cols + 1, n = rows * stride;
        bool biased = s % 2;
        nb_mat a = nb_mat_of(put(NB_BF16, normals(1, n, 0, 1), n), NB_BF16, rows, cols), y = a;
        nb_mat bias = nb_mat_of(floats(2, cols), NB_F32, 1, cols);
        y.data = put(NB_BF16, normals(3, n, 0, 1), n);
        a.stride = y.stride = stride;
        double gate[4] = {INFINITY, -INFINITY, 0, 0}, pair[3] = {0}, scale = 0, first[7];
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++) {
                double u = element(a.data, NB_BF16, r * stride + c), v = element(y.data, NB_BF16, r * stride + c);
                double x = u + (biased ? element(bias.data, NB_F32, c) : 0);
                gate[0] = fmin(gate[0], x);
                gate[1] = fmax(gate[1], x);
                gate[2] += x;
                gate[3] += x * x;
                pair[0] += u * u;
                pair[1] += (u - v) * (u - v);
                pair[2] += u * v;
                scale += x * x + fabs(x) + u * u + v * v;
            }
        for (int b = 0; b < backend_count; b++) {
            double *got = poisoned(sizeof first);
            backends[b]->ops->measure_gate(backends[b], got, &a, biased ? &bias : NULL);
            backends[b]->ops->measure_pair(backends[b], got + 4, &a, &y);
            assert_true(got[0] == gate[0] && got[1] == gate[1]);
            for (int i = 2; i < 7; i++)
                assert_true(fabs(got[i] - (i < 4 ? gate[i] : pair[i - 4])) <= 1e-13 * scale);
            if (b == 0)
                memcpy(first, got, sizeof first);
            check_equal_bytes("sums", got, first, sizeof first);
        }
    }
}

static void alignment_of_rows(void **state) {
    (void)state;
    enum { ROWS = 530, COLS = 300 };
    float *a = floats(1, ROWS * COLS), *b = floats(2, ROWS * COLS);
    double want = 0, *got = poisoned(sizeof *got), first = 0;
    memset(a + 5 * COLS, 0, COLS * sizeof *a); /* a row that points nowhere */
    for (int c = 0; c < COLS; c++)
        b[7 * COLS + c] = -3 * a[7 * COLS + c]; /* and one that is the other's, turned round */
    for (int r = 0; r < ROWS; r++) {
        double *x = get(NB_F32, a + r * COLS, COLS), *y = get(NB_F32, b + r * COLS, COLS);
        want += r == 5 ? 0 : fabs(inner(x, y, COLS)) / sqrt(inner(x, x, COLS) * inner(y, y, COLS)) / ROWS;
    }
    nb_mat am = nb_mat_of(a, NB_F32, ROWS, COLS), bm = nb_mat_of(b, NB_F32, ROWS, COLS);
    for (int i = 0; i < backend_count; i++) {
        backends[i]->ops->measure_alignment(backends[i], got, &am, &bm);
        assert_true(fabs(*got - want) < 1e-13);
        if (i == 0)
            first = *got;
        assert_memory_equal(got, &first, sizeof first);
        nb_mat row = am, other = bm;
        row.data = a + 7 * COLS, other.data = b + 7 * COLS;
        row.rows = other.rows = 1;
        backends[i]->ops->measure_alignment(backends[i], got, &row, &other);
        assert_true(fabs(*got - 1) < 1e-12);
    }
}

enum { T_ROWS = 16, T_COLS = 48, T_N = T_ROWS * T_COLS };

typedef struct memory {
    float numbers[4][T_N];
    uint8_t codes[T_N];
    int64_t flips;
} memory;

static ni_tracked tracked_in(memory *m) {
    return (ni_tracked){m->numbers[0], m->numbers[1], m->numbers[2], m->numbers[3], m->codes, &m->flips};
}

/* Ten steps of a random walk, in formats of a nibble and of a byte and with a scale a row; sums, flips and codes by
 * hand from what is decoded.
 */
static void codes_from_step_to_step(void **state) {
    (void)state;
    for (int format = 0; format < 3; format++) {
        nb_quantizer quantizer = {.element = format ? NB_ELEMENT_E4M3 : NB_ELEMENT_E2M1,
                                  .scale_type = format ? NB_SCALE_E8M0 : NB_SCALE_E4M3,
                                  .rule = format ? NB_RULE_CEIL : NB_RULE_ABSMAX,
                                  .outer = format ? NB_OUTER_NONE : NB_OUTER_TENSOR,
                                  .block_rows = 1,
                                  .block_cols = 16,
                                  .round = NB_ROUND_EVEN};
        int64_t cols = T_COLS;
        if (format == 1) { /* blocks of 32 */
            quantizer.block_cols = 32;
            cols = 32;
        }
        if (format == 2) { /* a scale a row, an odd number of columns */
            quantizer = (nb_quantizer){.element = NB_ELEMENT_E2M1,
                                       .scale_type = NB_SCALE_F32,
                                       .rule = NB_RULE_ABSMAX,
                                       .block_rows = 1,
                                       .block_cols = NB_BLOCK_ALL,
                                       .round = NB_ROUND_EVEN};
            cols = 41;
        }
        int64_t n = T_ROWS * cols, flips = 0;
        float *w = floats(1, n), *decoded = poisoned(4 * (size_t)n), *before = NULL;
        double *moved = zeros(n);
        memory *all[8];
        for (int b = 0; b < backend_count; b++)
            all[b] = poisoned(sizeof *all[b]);
        nb_qtensor codes =
            nb_qtensor_place(&quantizer, T_ROWS, cols, poisoned(nb_qtensor_bytes(&quantizer, T_ROWS, cols).total));
        nb_mat wm = nb_mat_of(w, NB_F32, T_ROWS, cols), out = nb_mat_of(decoded, NB_F32, T_ROWS, cols);
        for (int step = 0; step < 10; step++) {
            for (int64_t i = 0; i < n; i++)
                w[i] += 0.05f * (float)normal((uint32_t)(100 + step), i);
            assert_int_equal(ni_ref_quantize(NULL, &codes, &wm, false, NULL, NULL, NULL), NB_OK);
            assert_int_equal(ni_ref_dequantize(NULL, &out, &codes, false, true, NULL), NB_OK);
            for (int b = 0; b < backend_count; b++) {
                ni_tracked t = tracked_in(all[b]);
                if (step > 0)
                    assert_int_equal(*t.flips, flips);
                uint8_t held[T_N];
                float q_held[T_N];
                memcpy(held, t.codes, sizeof held);
                memcpy(q_held, t.q, sizeof q_held);
                backends[b]->ops->track_codes(backends[b], &t, &wm, &codes, step == 0);
                check_equal_bytes("w", t.w, w, 4 * (size_t)n);
                check_equal_bytes("q", t.q, decoded, 4 * (size_t)n);
                int64_t changed = 0;
                for (int64_t i = 0; i < n && step > 0; i++)
                    changed += held[i] != t.codes[i] && (q_held[i] != 0 || decoded[i] != 0);
                assert_int_equal(*t.flips, flips + changed);
                if (b == backend_count - 1)
                    flips += changed;
                check_equal_bytes("moved w", t.moved_w, all[0]->numbers[2], 4 * (size_t)n);
                check_equal_bytes("moved q", t.moved_q, all[0]->numbers[3], 4 * (size_t)n);
            }
            for (int64_t i = 0; i < n; i++) {
                moved[i] += step > 0 ? fabs((double)decoded[i] - before[i]) : 0;
                assert_true(fabs(all[0]->numbers[3][i] - moved[i]) <= 1e-5 * (1 + moved[i]));
            }
            before = put(NB_F32, get(NB_F32, decoded, n), n);
        }
        assert_true(flips > n / 2);
    }
}

static void counts_of_ratios(void **state) {
    (void)state;
    static const struct {
        float q, w;
        int bin;
    } cases[] = {{0, 1, 0},         {3, 0, 0},   {0, 0, 0},   {0.25f, 1, 1},    {0.5f, 1, 1},
                 {0.51f, 1, 2},     {1, 1, 2},   {2, 1, 3},   {4, 1, 4},        {8, 1, 5},
                 {8.5f, 1, 6},      {16, 1, 6},  {17, 1, 7},  {256, 1, 10},     {257, 1, 11},
                 {INFINITY, 1, 11}, {NAN, 1, 0}, {1, NAN, 0}, {1, INFINITY, 0}, {INFINITY, INFINITY, 0}};
    enum { CASES = sizeof cases / sizeof *cases, N = CASES * 300 };
    float *q = poisoned(4 * N), *w = poisoned(4 * N);
    int64_t want[NI_RATIO_COUNTS] = {0}, *got = poisoned(sizeof want);
    for (int i = 0; i < N; i++) {
        q[i] = cases[i % CASES].q;
        w[i] = cases[i % CASES].w;
        want[cases[i % CASES].bin]++;
    }
    for (int b = 0; b < backend_count; b++) {
        backends[b]->ops->count_ratios(backends[b], got, q, w, N);
        check_equal_bytes("ratios", got, want, sizeof want);
    }
}

/* What is not finite has a bin or none; it once had the address of a crash. */
static void counts_of_distances(void **state) {
    (void)state;
    static const struct {
        float w, q, width;
        int bin;
    } cases[] = {{1, 1, 1, 0},    {1.04f, 1, 1, 0},     {1.06f, 1, 1, 1},      {1, 1.26f, 1, 5}, {1.49f, 1, 1, 9},
                 {7, 1, 1, 9},    {INFINITY, 6, 1, 9},  {-INFINITY, 6, 1, 9},  {NAN, 6, 1, -1},  {1, 1, 0, -1},
                 {1, 1, NAN, -1}, {1, 1, INFINITY, -1}, {3e38f, -3e38f, 1, 9}, {1, 1, -1, -1},   {2, 1, 1e-45f, 9}};
    enum { CASES = sizeof cases / sizeof *cases, N = CASES * 300 };
    float *w = poisoned(4 * N), *q = poisoned(4 * N), *widths = poisoned(4 * N);
    int64_t want[NI_DISTANCE_COUNTS] = {0}, *got = poisoned(sizeof want);
    for (int i = 0; i < N; i++) {
        w[i] = cases[i % CASES].w;
        q[i] = cases[i % CASES].q;
        widths[i] = cases[i % CASES].width;
        if (cases[i % CASES].bin >= 0)
            want[cases[i % CASES].bin]++;
    }
    for (int b = 0; b < backend_count; b++) {
        backends[b]->ops->count_distances(backends[b], got, w, q, widths, N);
        check_equal_bytes("distances", got, want, sizeof want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_k_largest, release_buffers),
        cmocka_unit_test_teardown(the_k_largest_of_many, release_buffers),
        cmocka_unit_test_teardown(what_two_choices_share, release_buffers),
        cmocka_unit_test_teardown(errors_of_columns, release_buffers),
        cmocka_unit_test_teardown(scores_of_channels, release_buffers),
        cmocka_unit_test_teardown(distances_flips_and_resets, release_buffers),
        cmocka_unit_test_teardown(gates_and_pairs, release_buffers),
        cmocka_unit_test_teardown(alignment_of_rows, release_buffers),
        cmocka_unit_test_teardown(codes_from_step_to_step, release_buffers),
        cmocka_unit_test_teardown(counts_of_ratios, release_buffers),
        cmocka_unit_test_teardown(counts_of_distances, release_buffers),
    };
    return cmocka_run_group_tests(tests, open_backends, close_backends);
}
