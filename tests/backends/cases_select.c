/* cases_select.c: choices, hot channels, weights from step to step, and what the lens sums and counts: bits. */
#include "trial.h"

#include "backend/ref/quantize.h"

static const int64_t SIZES[] = {1, 2, 15, 16, 17, 255, 256, 257, 1000, 4099};
enum { SIZE_COUNT = sizeof SIZES / sizeof *SIZES, KINDS = 4 };

static float *floats(uint32_t stream, int64_t n) { /* on the host */
    return put(NB_F32, normals(stream, n, 0, 1), n);
}

static float *upload_floats(trial *t, const float *x, int64_t n) {
    return upload(t, x, (size_t)n * sizeof *x);
}

/* A result has no type of 64-bit integers; a double holds these counts. */
static void record_counts(trial *t, const char *what, const int64_t *counts, int64_t n) {
    int64_t *host = poisoned((size_t)n * sizeof *host);
    double *x = zeros(n);
    t->be->ops->download(t->be, host, counts, (size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)host[i];
    record(t, what, x, NB_F64, n, true);
}

/* ---- the k largest ---- */

static float *scores_of_kind(int kind, uint32_t stream, int64_t n) {
    float *x = floats(stream, n);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = ni_philox(9, 9, (uint32_t)i, (uint32_t)kind, 0, 0).w[0];
        if (kind == 1) /* nothing but ties, zeros of both signs among them */
            x[i] = bits % 3 ? (bits % 2 ? -0.0f : 0.0f) : 1;
        if (kind == 2) /* what is no number, what is too large for one, and subnormals */
            x[i] = bits % 5 == 0   ? ni_f32_from(0x7fc00000 | (bits & 0x80000000))
                   : bits % 5 == 1 ? (bits >> 9 & 1 ? INFINITY : -INFINITY)
                   : bits % 5 == 2 ? ni_f32_from(bits & 0x807fffff)
                                   : x[i];
        if (kind == 3)
            x[i] = NAN;
    }
    return x;
}

static void choose(trial *t, const float *scores, int64_t n, int64_t k) {
    for (int by_index = 0; by_index < 2; by_index++) {
        char what[80];
        snprintf(what, sizeof what, "%lld of %lld by %s", (long long)k, (long long)n, by_index ? "index" : "score");
        t->be->ops->top_k(t->be, output_exact(t, what, NB_I32, k), scores, n, k, by_index);
    }
}

static void run_top_k(trial *t) {
    const int64_t n = SIZES[t->shape / KINDS], ks[] = {0, 1, n / 10, n / 2, n - 1, n};
    const float *scores = upload_floats(t, scores_of_kind(t->shape % KINDS, (uint32_t)(t->shape / KINDS), n), n);
    for (int i = 0; i < 6; i++)
        choose(t, scores, n, ks[i]);
}

/* Enough for a team, with slices that begin among ties. */
static void run_top_k_of_many(trial *t) {
    enum { MANY = 700001 };
    static const int64_t ks[] = {1, 70000, 350001, MANY - 1, MANY};
    float *x = floats(3, MANY);
    for (int64_t i = 0; i < MANY; i++)
        x[i] = i % 3 ? roundf(4 * x[i]) / 4 : x[i];
    choose(t, upload_floats(t, x, MANY), MANY, ks[t->shape]);
}

/* Ascending without repetition. */
static int32_t *a_choice(trial *t, uint32_t stream, int32_t first, int64_t k) {
    int32_t *x = poisoned((size_t)k * sizeof *x);
    for (int64_t i = 0; i < k; i++)
        first = x[i] = first + 1 + (int32_t)(ni_philox(9, stream, (uint32_t)i, 0, 0, 0).w[0] % 3);
    return upload(t, x, (size_t)k * sizeof *x);
}

static void run_count_common(trial *t) {
    static const int64_t ks[] = {0, 1, 5, 255, 256, 257, 10007};
    const int64_t k = ks[t->shape];
    const int32_t *a = a_choice(t, 1, -1, k), *b = a_choice(t, 2, -1, k), *beyond = a_choice(t, 3, 40000, k);
    const int32_t *const pairs[][2] = {{a, b}, {b, a}, {a, a}, {a, beyond}, {beyond, a}};
    for (int i = 0; i < 5; i++) {
        int64_t *count = scratch(t, sizeof *count);
        t->be->ops->count_common(t->be, count, pairs[i][0], pairs[i][1], k);
        record_counts(t, "in common", count, 1);
    }
}

/* ---- hot channels ---- */

static void run_column_errors(trial *t) {
    static const int64_t shapes[][2] = {{1, 1}, {255, 17}, {256, 16}, {257, 33}, {700, 40}};
    const int64_t rows = shapes[t->shape / 2][0], cols = shapes[t->shape / 2][1], stride = cols + 3, n = rows * stride;
    const nb_dtype type = t->shape % 2 ? NB_BF16 : NB_F32;
    double *numbers = normals(1, n, 0.5, 1);
    if (cols > 2) { /* columns 0 and 2 */
        numbers[7 * stride] = NAN;
        numbers[8 * stride + 2] = -INFINITY;
    }
    nb_mat x = nb_mat_of(input(t, type, numbers, n), type, rows, cols);
    nb_mat decoded = nb_mat_of(upload_floats(t, floats(2, n), n), NB_F32, rows, cols);
    x.stride = decoded.stride = stride;
    double *mean = output_exact(t, "mean |x - decoded|", NB_F64, cols), *rms = output_exact(t, "rms", NB_F64, cols);
    t->be->ops->column_errors(t->be, mean, rms, &x, &decoded);
}

static void run_hot_scores(trial *t) {
    const int64_t n = SIZES[t->shape / 4];
    const bool normalized = t->shape & 1, kept = t->shape & 2;
    const double *facts = input(t, NB_F64, normals(7, 4 * n, 2, 0.1), 4 * n);
    float *scores = kept ? upload_floats(t, floats(8, n), n) : scratch(t, (size_t)n * sizeof *scores);
    t->be->ops->hot_scores(t->be, scores, output_exact(t, "means", NB_F64, 2), facts, n, kept ? 0.75 : 0, normalized);
    keep(t, "scores", scores, NB_F32, n, true);
}

/* ---- weights against their quantized values ---- */

/* In place of each of the others, too. */
static void run_bin_distances(trial *t) {
    const int64_t n = SIZES[t->shape / 4];
    float *host[] = {floats(1, n), floats(2, n), floats(4, n)}, *in[3];
    for (int64_t i = 0; i < n; i++)
        host[2][i] = i % 7 ? 2 * fabsf(host[2][i]) : 0;
    if (n > 16) {
        host[0][3] = NAN;
        host[0][4] = INFINITY;
        host[0][5] = host[1][5];
        host[2][6] = 1e-45f;
        host[0][7] = NAN; /* no bin */
    }
    for (int i = 0; i < 3; i++)
        in[i] = upload_floats(t, host[i], n);
    float *out = t->shape % 4 ? in[t->shape % 4 - 1] : scratch(t, (size_t)n * sizeof *out);
    t->be->ops->bin_distances(t->be, out, in[0], in[1], in[2], n);
    keep(t, "distances", out, NB_F32, n, true);
}

static void run_add_flips(trial *t) {
    const int64_t n = SIZES[t->shape];
    float *q = floats(2, n), *before = floats(3, n), *widths = floats(4, n);
    uint8_t *had = poisoned((size_t)n);
    for (int64_t i = 0; i < n; i++) {
        widths[i] = i % 7 ? 2 * fabsf(widths[i]) : 0; /* 0: differing is enough */
        before[i] = i % 5 ? before[i] : q[i];
        if (i % 11 == 3)
            widths[i] = 2 * fabsf(q[i] - before[i]); /* half of it, just */
        if (i % 13 == 12)
            q[i] = i & 1 ? NAN : INFINITY;
        had[i] = (uint8_t)(i % 4 == 3 ? 252 + i / 4 % 4 : i % 4);
    }
    uint8_t *flips = upload(t, had, (size_t)n);
    const float *now = upload_floats(t, q, n), *then = upload_floats(t, before, n), *bins = upload_floats(t, widths, n);
    for (int i = 0; i < 2; i++)
        t->be->ops->add_flips(t->be, flips, now, then, bins, n);
    keep(t, "flips", flips, NB_U8, n, true);
}

/* ---- what the lens sums ---- */

static const int64_t SUMMED[][2] = {{1, 1}, {256, 3}, {300, 70}, {513, 31}, {257, 300}};

static nb_mat strided(trial *t, int size, nb_dtype type, uint32_t stream, double hole) {
    const int64_t rows = SUMMED[size][0], cols = SUMMED[size][1], stride = cols + 1;
    double *x = normals(stream, rows * stride, 0, 1);
    if (rows == 513)
        x[300 * stride + 5] = hole;
    nb_mat m = nb_mat_of(input(t, type, x, rows * stride), type, rows, cols);
    m.stride = stride;
    return m;
}

static void run_gate(trial *t) {
    const nb_mat a = strided(t, t->shape / 2, NB_BF16, 1, NAN);
    const nb_mat bias = nb_mat_of(upload_floats(t, floats(2, a.cols), a.cols), NB_F32, 1, a.cols);
    t->be->ops->measure_gate(t->be, output_exact(t, "gate", NB_F64, 4), &a, t->shape % 2 ? &bias : NULL);
}

static void run_pair(trial *t) {
    const nb_dtype of_x = t->shape & 1 ? NB_F32 : NB_BF16, of_y = t->shape & 2 ? NB_F32 : NB_BF16;
    const nb_mat x = strided(t, t->shape / 4, of_x, 1, t->shape % 4 < 2 ? NAN : 1),
                 y = strided(t, t->shape / 4, of_y, 3, INFINITY);
    t->be->ops->measure_pair(t->be, output_exact(t, "pair", NB_F64, 3), &x, &y);
}

static void run_alignment(trial *t) {
    static const int64_t shapes[][2] = {{530, 300}, {1, 300}, {257, 256}, {256, 257}, {9, 1}};
    const int64_t rows = shapes[t->shape / 2][0], cols = shapes[t->shape / 2][1], n = rows * cols;
    const nb_dtype type = t->shape % 2 ? NB_BF16 : NB_F32;
    double *a = normals(1, n, 0, 1), *b = normals(2, n, 0, 1);
    for (int64_t c = 0; c < cols && rows > 7; c++) {
        a[5 * cols + c] = 0;                    /* a row that points nowhere */
        b[7 * cols + c] = -3 * a[7 * cols + c]; /* and one that is the other's, turned round */
    }
    const nb_mat am = nb_mat_of(input(t, type, a, n), type, rows, cols),
                 bm = nb_mat_of(input(t, type, b, n), type, rows, cols);
    t->be->ops->measure_alignment(t->be, output_exact(t, "alignment", NB_F64, 1), &am, &bm);
}

/* ---- weights from step to step ---- */

enum { T_ROWS = 32 };

/* A scale for 16 of a row and one for all; a byte in blocks of 32; a scale a row, an odd number of columns; tiles of
 * 16x16; a scale a column. */
static nb_quantizer tracked_format(int shape, int64_t *cols) {
    static const char *const families[] = {"nvfp4", "mxfp8", "e2m1", "nvfp4", "e2m1"};
    static const int64_t widths[] = {48, 64, 41, 48, 41};
    nb_quantizer q = ni_format_family_find(families[shape])->defaults;
    q.block_rows = shape == 3 ? 16 : shape == 4 ? NB_BLOCK_ALL : 1;
    if (widths[shape] == 41)
        q.block_cols = shape == 4 ? 1 : NB_BLOCK_ALL;
    q.round = NB_ROUND_EVEN;
    *cols = widths[shape];
    return q;
}

/* A random walk. The codes are the reference's on every backend. */
static void run_track(trial *t) {
    int64_t cols;
    const nb_quantizer quantizer = tracked_format(t->shape, &cols);
    const int64_t n = T_ROWS * cols, stride = cols + 3;
    const size_t bytes = nb_qtensor_bytes(&quantizer, T_ROWS, cols).total, room = (size_t)n * sizeof(float);
    float *w = floats(1, T_ROWS * stride);
    void *host = poisoned(bytes);
    nb_mat wm = nb_mat_of(w, NB_F32, T_ROWS, cols);
    wm.stride = stride;
    const nb_qtensor codes = nb_qtensor_place(&quantizer, T_ROWS, cols, host);
    const ni_tracked tracked = {scratch(t, room), scratch(t, room),      scratch(t, room),
                                scratch(t, room), scratch(t, (size_t)n), scratch(t, sizeof(int64_t))};
    for (int step = 0; step < 6; step++) {
        for (int64_t i = 0; i < T_ROWS * stride; i++)
            w[i] += 0.05f * (float)normal((uint32_t)(100 + step), i);
        EXPECT_OK(t, ni_ref_quantize(NULL, &codes, &wm, false, NULL, NULL, &err));
        const nb_qtensor there = nb_qtensor_place(&quantizer, T_ROWS, cols, upload(t, host, bytes));
        const nb_mat now = input_mat(t, &wm);
        t->be->ops->track_codes(t->be, &tracked, &now, &there, step == 0);
        record_counts(t, "changes of a code", tracked.flips, 1);
    }
    keep(t, "w", tracked.w, NB_F32, n, true);
    keep(t, "q", tracked.q, NB_F32, n, true);
    keep(t, "moved w", tracked.moved_w, NB_F32, n, true);
    keep(t, "moved q", tracked.moved_q, NB_F32, n, true);
    keep(t, "codes", tracked.codes, NB_U8, n, true);
}

/* ---- bins ---- */

static const int64_t COUNTED[] = {1, 19, 257, 6001};

static void run_ratios(trial *t) {
    static const float pairs[][2] = {{0, 1},        {3, 0},   {0, 0},   {0.25f, 1},    {0.5f, 1},
                                     {0.51f, 1},    {1, 1},   {2, 1},   {4, 1},        {8, 1},
                                     {8.5f, 1},     {16, 1},  {17, 1},  {256, 1},      {257, 1},
                                     {INFINITY, 1}, {NAN, 1}, {1, NAN}, {1, INFINITY}, {INFINITY, INFINITY}};
    enum { PAIRS = sizeof pairs / sizeof *pairs };
    const int64_t n = COUNTED[t->shape];
    float *q = poisoned((size_t)n * sizeof *q), *w = poisoned((size_t)n * sizeof *w);
    for (int64_t i = 0; i < n; i++) {
        q[i] = pairs[i % PAIRS][0];
        w[i] = pairs[i % PAIRS][1];
    }
    int64_t *counts = scratch(t, NI_RATIO_COUNTS * sizeof *counts);
    t->be->ops->count_ratios(t->be, counts, upload_floats(t, q, n), upload_floats(t, w, n), n);
    record_counts(t, "ratios", counts, NI_RATIO_COUNTS);
}

static void run_distances(trial *t) {
    static const float cases[][3] = {{1, 1, 1},   {1.04f, 1, 1},    {1.06f, 1, 1},      {1, 1.26f, 1}, {1.49f, 1, 1},
                                     {7, 1, 1},   {INFINITY, 6, 1}, {-INFINITY, 6, 1},  {NAN, 6, 1},   {1, 1, 0},
                                     {1, 1, NAN}, {1, 1, INFINITY}, {3e38f, -3e38f, 1}, {1, 1, -1},    {2, 1, 1e-45f}};
    enum { CASES = sizeof cases / sizeof *cases };
    const int64_t n = COUNTED[t->shape];
    float *of[3];
    for (int k = 0; k < 3; k++) {
        of[k] = poisoned((size_t)n * sizeof *of[k]);
        for (int64_t i = 0; i < n; i++)
            of[k][i] = cases[i % CASES][k];
    }
    int64_t *counts = scratch(t, NI_DISTANCE_COUNTS * sizeof *counts);
    t->be->ops->count_distances(t->be, counts, upload_floats(t, of[0], n), upload_floats(t, of[1], n),
                                upload_floats(t, of[2], n), n);
    record_counts(t, "distances", counts, NI_DISTANCE_COUNTS);
}

static const test_case SELECTIONS[] = {
    {"top_k", "numbers, ties, NaN; 0 to n", BITS, SIZE_COUNT *KINDS, run_top_k, NULL, NULL},
    {"top_k", "of many", BITS, 5, run_top_k_of_many, NULL, NULL},
    {"count_common", "0 to 10007", BITS, 7, run_count_common, NULL, NULL},
    {"column_errors", "f32, bf16, strided", BITS, 10, run_column_errors, NULL, NULL},
    {"hot_scores", "kept and new, normalized", BITS, SIZE_COUNT * 4, run_hot_scores, NULL, NULL},
    {"bin_distances", "apart and in place", BITS, SIZE_COUNT * 4, run_bin_distances, NULL, NULL},
    {"add_flips", "twice", BITS, SIZE_COUNT, run_add_flips, NULL, NULL},
    {"measure_gate", "bf16, strided, with and without bias", BITS, 10, run_gate, NULL, NULL},
    {"measure_pair", "bf16, f32, strided", BITS, 20, run_pair, NULL, NULL},
    {"measure_alignment", "f32, bf16", BITS, 10, run_alignment, NULL, NULL},
    {"track_codes", "blocks, rows, tiles, columns", BITS, 5, run_track, NULL, NULL},
    {"count_ratios", "every bin", BITS, 4, run_ratios, NULL, NULL},
    {"count_distances", "every bin", BITS, 4, run_distances, NULL, NULL},
};
const case_list select_cases = {SELECTIONS, sizeof SELECTIONS / sizeof *SELECTIONS};
