/* cases_measure.c: what the lens asks for. Sums are in double over an order of the backend's own, so a number is held
 * to what a float keeps of it; counts and maxima are exact. */
#include "trial.h"

static const int64_t ROWS[][2] = {{64, 48}, {33, 17}, {1, 1}, {130, 5}, {300, 272}};

static void record_float(trial *t, const char *what, double x) {
    const float rounded = (float)x;
    record(t, what, &rounded, NB_F32, 1, false);
}

static void *cleared(trial *t, size_t bytes) {
    void *memory = scratch(t, bytes);
    t->be->ops->fill_zero(t->be, memory, bytes);
    return memory;
}

static void run_measure(trial *t) {
    const int64_t rows = ROWS[t->shape / 2][0], cols = ROWS[t->shape / 2][1],
                  tiles = (rows + 15) / 16 * ((cols + 15) / 16);
    const nb_dtype type = t->shape % 2 ? NB_BF16 : NB_F32;
    double *x = normals_in(NB_BF16, 1, rows * cols, 0.3, 2);
    if (rows == 33) {
        x[40] = NAN;
        x[90] = -INFINITY;
    }
    const nb_mat m = nb_mat_of(input(t, type, x, rows * cols), type, rows, cols);
    float *amax = output_exact(t, "largest of a column", NB_F32, cols),
          *crest = output(t, "crest of a tile", NB_F32, tiles);
    ni_moments got, *there = cleared(t, sizeof got);
    t->be->ops->fill_zero(t->be, amax, (size_t)cols * sizeof *amax);
    t->be->ops->measure(t->be, &m, there, amax, crest);
    t->be->ops->download(t->be, &got, there, sizeof got);
    const double counts[] = {(double)got.count, (double)got.nonfinite, got.amax};
    record(t, "counts and amax", counts, NB_F64, 3, true);
    record_float(t, "mean", got.mean);
    record_float(t, "rms", got.rms);
    record_float(t, "kurtosis", got.excess_kurtosis + 3);
    t->be->ops->fill_zero(t->be, there, sizeof got);
    t->be->ops->measure(t->be, &m, there, NULL, NULL);
    t->be->ops->download(t->be, &got, there, sizeof got);
    record_float(t, "rms alone", got.rms);
}

/* Maps of many shapes at one time: more columns than a block has threads, zeros, and values that are alike. */
static void run_crests(trial *t) {
    static const int64_t maps[][2] = {{1, 1}, {3, 2}, {70, 48}, {9, 1500}, {200, 17}};
    enum { MAPS = sizeof maps / sizeof *maps };
    ni_crest_map list[MAPS];
    for (int i = 0; i < MAPS; i++) {
        const int64_t rows = maps[i][0], cols = maps[i][1], n = rows * cols;
        double *x = normals_in(NB_F32, 7 + i, n, 0.1, 2);
        for (int64_t j = 0; j < n; j++)
            x[j] = j % 11 == 3 ? 0 : j % 5 == 1 ? 2.5 : fabs(x[j]);
        const void *from = input(t, NB_F32, x, n);
        float *crests = scratch(t, (size_t)n * sizeof *crests);
        t->be->ops->copy(t->be, crests, from, (size_t)n * sizeof *crests); /* which may change places */
        list[i] = (ni_crest_map){crests, rows, cols, output_exact(t, "summary", NB_F32, 2 + cols)};
    }
    t->be->ops->summarize_crests(t->be, list, MAPS);
}

static void run_scales(trial *t) {
    static const int64_t counts[] = {1, 257, 100003};
    const int64_t n = counts[t->shape];
    uint8_t *scales = poisoned((size_t)n);
    for (int64_t i = 0; i < n; i++)
        scales[i] = (uint8_t)(i * i % 251);
    int64_t got[NI_SCALE_EXPONENTS], *there = cleared(t, sizeof got);
    double numbers[NI_SCALE_EXPONENTS];
    t->be->ops->count_scales(t->be, there, upload(t, scales, (size_t)n), n);
    t->be->ops->download(t->be, got, there, sizeof got);
    for (int i = 0; i < NI_SCALE_EXPONENTS; i++)
        numbers[i] = (double)got[i];
    record(t, "scales by exponents", numbers, NB_F64, NI_SCALE_EXPONENTS, true);
}

/* Grouped queries, two documents; a head width that no vector divides, and some that vectors do. */
static void run_attention(trial *t) {
    enum { BATCH = 2, SEQ = 37, HEADS = 4, KV_HEADS = 2 };
    static const int dims[] = {20, 20, 64, 128, 136, 100, 134};
    const int64_t dim = dims[t->shape];
    int32_t *start = poisoned(BATCH * SEQ * sizeof *start);
    for (int i = 0; i < BATCH * SEQ; i++)
        start[i] = i % SEQ < 16 ? 0 : 16;
    nb_attention a = {.batch = BATCH,
                      .seq = SEQ,
                      .heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .head_dim = dim,
                      .scale = dim == 20 ? 0.25 : 0.125};
    a.doc_start = upload(t, start, BATCH * SEQ * sizeof *start);
    ni_attention_stats got, *there = scratch(t, sizeof got);
    const void *q =
        input(t, NB_BF16, normals_in(NB_BF16, 1, BATCH * SEQ * HEADS * dim, 0, 3), BATCH * SEQ * HEADS * dim);
    const void *k =
        input(t, NB_BF16, normals_in(NB_BF16, 2, BATCH * SEQ * KV_HEADS * dim, 0, 3), BATCH * SEQ * KV_HEADS * dim);
    t->be->ops->measure_attention(t->be, &a, q, k, t->shape % 2 ? 3 : 1, there);
    t->be->ops->download(t->be, &got, there, sizeof got);
    const double queries = (double)got.queries;
    record(t, "queries", &queries, NB_F64, 1, true);
    record_float(t, "largest logit", got.logit_max);
    record_float(t, "largest magnitude", got.logit_amax);
    record_float(t, "kurtosis", got.logit_kurtosis + 3);
    record_float(t, "entropy", got.entropy);
}

static double four(const trial *t) {
    (void)t;
    return 4;
}

/* Logits in FP32 on sums of 20 products, whose fourth powers are taken. */
static double logits_rounded(const trial *t) {
    (void)t;
    return 200;
}

static const test_case MEASURES[] = {
    {"measure", "moments, columns, tiles", CODES, 10, run_measure, NULL, four},
    {"summarize_crests", "several maps", BITS, 1, run_crests, NULL, NULL},
    {"count_scales", "few and many", BITS, 3, run_scales, NULL, NULL},
    {"measure_attention", "grouped, two documents", CODES, 7, run_attention, NULL, logits_rounded},
};
const case_list measure_cases = {MEASURES, sizeof MEASURES / sizeof *MEASURES};
