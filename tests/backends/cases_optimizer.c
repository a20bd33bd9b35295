/* cases_optimizer.c: sums, tensors under one scale, AdamW on both. Bits but for the sums, which each backend takes over
 * a tree of its own in double. */
#include "trial.h"

#include "format/narrow.h"

static const int64_t SPANS[] = {1, 15, 1000, 40001};
static const nb_dtype TYPES[] = {NB_F32, NB_BF16, NB_F16, NB_E4M3, NB_E5M2};
enum { SPAN_SHAPES = 4, TYPE_COUNT = 5, SCALED_SHAPES = SPAN_SHAPES * TYPE_COUNT * 2 };

static void run_sums(trial *t) {
    const int64_t n = SPANS[t->shape];
    void *x = input_real(t, 1, n, 1, 1);
    t->be->ops->sum(t->be, output(t, "sum", NB_F64, 1), x, n);
    t->be->ops->sum_squares(t->be, output(t, "sum of squares", NB_F64, 1), x, n);
}

/* n roundings of 2^-53 on sums below 10 n. */
static double *work_sums(const trial *want, int index) {
    (void)index;
    const double n = (double)SPANS[want->shape];
    double *w = zeros(1);
    w[0] = 10 * n * n * 0x1p-53 / U;
    return w;
}

static void run_bad_sums(trial *t) {
    double *x = normals(1, 100, 0, 1);
    x[77] = NAN;
    t->be->ops->sum_squares(t->be, output(t, "with a NaN", NB_F64, 1), input(t, NB_F32, x, 100), 100);
    x[77] = -INFINITY;
    t->be->ops->sum_squares(t->be, output(t, "with -Inf", NB_F64, 1), input(t, NB_F32, x, 100), 100);
    t->be->ops->sum(t->be, output(t, "sum with -Inf", NB_F64, 1), input(t, NB_F32, x, 100), 100);
}

/* ---- many arrays at once: the bits of one after the other ---- */

enum { ARRAYS = 100 };

/* Some are read four at a time, some lie where they may not be. */
static void run_squares_many(trial *t) {
    const void *x[ARRAYS];
    int64_t n[ARRAYS];
    double apart[ARRAYS], together[ARRAYS];
    float *const all = input_real(t, 1, ARRAYS * 4096, 1, 1);
    double *const out = scratch(t, sizeof apart);
    for (int i = 0; i < ARRAYS; i++) {
        x[i] = all + (int64_t)i * 4096 + i % 3;
        n[i] = i % 7 ? 1 + i * 797 % 4000 : 16 * (i + 1);
        t->be->ops->sum_squares(t->be, out + i, x[i], n[i]);
    }
    t->be->ops->download(t->be, apart, out, sizeof apart);
    if (t->be->square_many)
        t->be->square_many(t->be, out, x, n, ARRAYS);
    t->be->ops->download(t->be, together, out, sizeof together);
    const uint8_t same = memcmp(apart, together, sizeof apart) == 0;
    record(t, "the bits of one after the other", &same, NB_U8, 1, true);
}

/* The last are longer than what goes with others, or no whole words. */
static void run_clear_many(trial *t) {
    enum { N = 400000 };
    uint8_t *const image = poisoned(N), *const at = upload(t, image, N);
    void *cleared[ARRAYS];
    size_t bytes[ARRAYS];
    for (int i = 0; i < ARRAYS; i++) {
        cleared[i] = at + i * 2000 + 4;
        bytes[i] = i == ARRAYS - 1 ? 150000 : i == ARRAYS - 2 ? 1001 : 4 * (size_t)(1 + i * 31 % 490);
    }
    if (t->be->clear_many)
        t->be->clear_many(t->be, cleared, bytes, ARRAYS);
    else
        for (int i = 0; i < ARRAYS; i++)
            t->be->ops->fill_zero(t->be, cleared[i], bytes[i]);
    keep(t, "partly cleared", at, NB_U8, N, true);
}

/* ---- narrow tensors ---- */

static ni_scaled scaled(trial *t, nb_dtype type, nb_scale_rule rule, int64_t n) {
    const float one = 1;
    ni_scaled s = {.data = scratch(t, (size_t)n * nb_dtype_size(type)), .dtype = type, .rule = rule};
    s.scale = ni_narrow_max(type) > 0 ? upload(t, &one, sizeof one) : NULL;
    return s;
}

static const float *floats(trial *t, uint32_t stream, int64_t n, double std, bool squared) {
    float *x = poisoned((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) { /* heavy tails, small and large */
        x[i] = (float)(std * normal(stream, i) * exp2(6 * normal(stream + 1000, i)));
        x[i] = squared ? x[i] * x[i] : x[i];
    }
    return upload(t, x, (size_t)n * sizeof *x);
}

static void keep_scaled(trial *t, const char *what, const ni_scaled *s, int64_t n) {
    keep(t, what, s->data, s->dtype, n, true);
    if (s->scale)
        keep(t, "scale", s->scale, NB_F32, 1, true);
}

static ni_scaled copy_of(trial *t, const ni_scaled *from, int64_t n) {
    ni_scaled s = scaled(t, from->dtype, from->rule, n);
    t->be->ops->copy(t->be, s.data, from->data, (size_t)n * nb_dtype_size(s.dtype));
    if (s.scale)
        t->be->ops->copy(t->be, s.scale, from->scale, sizeof *s.scale);
    return s;
}

static void run_scaled(trial *t) {
    const nb_dtype type = TYPES[t->shape / SPAN_SHAPES % TYPE_COUNT];
    const nb_scale_rule rule = t->shape < SCALED_SHAPES / 2 ? NB_RULE_POW2 : NB_RULE_ABSMAX;
    const int64_t n = SPANS[t->shape % SPAN_SHAPES];
    nb_backend *be = t->be;
    const ni_backend_ops *ops = be->ops;
    ni_scaled a = scaled(t, type, rule, n), b = scaled(t, type, rule, n), sum = scaled(t, type, rule, n);
    ops->scaled_encode(be, &a, floats(t, 1, n, 3e-4, false), n);
    ops->scaled_encode(be, &b, floats(t, 2, n, 1e-3, false), n);
    ni_scaled in_place = copy_of(t, &a, n);
    ops->scaled_decode(be, output_exact(t, "decoded", NB_F32, n), &a, n);
    ops->scaled_add(be, &sum, &a, &b, n);
    ops->scaled_add(be, &in_place, &in_place, &b, n);
    keep_scaled(t, "encoded", &a, n);
    keep_scaled(t, "sum", &sum, n);
    keep_scaled(t, "sum in place", &in_place, n);
    if (!a.scale)
        return;
    float scale;
    ops->download(be, &scale, b.scale, sizeof scale);
    ni_scaled one = copy_of(t, &a, n), other = copy_of(t, &b, n);
    ops->scaled_rescale(be, &one, 3 * scale, n);
    ops->scaled_rescale(be, &other, 3 * scale, n);
    ni_scaled joined = copy_of(t, &one, n);
    ops->scaled_join(be, &joined, &other, n);
    keep_scaled(t, "rescaled", &one, n);
    keep_scaled(t, "joined", &joined, n);
}

/* Squares: relative to themselves, in double. */
static void run_scaled_squares(trial *t) {
    const nb_dtype type = TYPES[t->shape / SPAN_SHAPES % TYPE_COUNT];
    const int64_t n = SPANS[t->shape % SPAN_SHAPES];
    ni_scaled a = scaled(t, type, NB_RULE_POW2, n);
    t->be->ops->scaled_encode(t->be, &a, floats(t, 1, n, 3e-4, false), n);
    t->be->ops->scaled_sum_squares(t->be, output(t, "sum of squares", NB_F64, 1), &a, n);
}

/* Tensors of many lengths, more than one launch holds. */
enum { MANY = 70, LONGEST_OF_MANY = 20000 };

static void encode_many(trial *t, ni_scaled to[MANY], int64_t n[MANY]) {
    const nb_dtype type = TYPES[t->shape];
    const float *from[MANY];
    for (int i = 0; i < MANY; i++) {
        n[i] = i == 9 ? LONGEST_OF_MANY : i == 30 ? 0 : 64 + i * 37 % 90;
        to[i] = scaled(t, type, i % 2 ? NB_RULE_ABSMAX : NB_RULE_POW2, n[i]);
        from[i] = floats(t, (uint32_t)i, n[i], 1e-3 * exp2(-i % 9), false);
    }
    t->be->ops->scaled_encode_many(t->be, to, from, n, MANY);
}

/* Squares of many are those of each by itself. */
static void run_many_scaled(trial *t) {
    ni_scaled to[MANY];
    int64_t n[MANY];
    encode_many(t, to, n);
    for (int i = 0; i < MANY; i++)
        if (n[i])
            keep_scaled(t, "one of many", &to[i], n[i]);
    double *const apart = scratch(t, MANY * sizeof *apart), *const together = scratch(t, MANY * sizeof *together);
    double one[MANY] = {0}, many[MANY];
    int32_t alike[MANY];
    t->be->ops->scaled_squares_many(t->be, together, to, n, MANY);
    for (int i = 0; i < MANY; i++)
        if (n[i])
            t->be->ops->scaled_sum_squares(t->be, apart + i, &to[i], n[i]);
    t->be->ops->download(t->be, one, apart, sizeof one);
    t->be->ops->download(t->be, many, together, sizeof many);
    for (int i = 0; i < MANY; i++)
        alike[i] = n[i] ? one[i] > 0 && one[i] == many[i] : many[i] == 0;
    record(t, "sums of squares, together and apart", alike, NB_I32, MANY, true);
}

static void run_many_squares(trial *t) {
    ni_scaled to[MANY];
    int64_t n[MANY];
    encode_many(t, to, n);
    t->be->ops->scaled_squares_many(t->be, output(t, "sums of squares", NB_F64, MANY), to, n, MANY);
}

static double many_squares_rounded(const trial *t) {
    (void)t;
    return 4.0 * LONGEST_OF_MANY * 0x1p-53 / U;
}

static double squares_rounded(const trial *t) {
    return 4 * (double)SPANS[t->shape % SPAN_SHAPES] * 0x1p-53 / U;
}

/* Numbers that are none, zeros, and all magnitudes that break a scale. */
static void run_hard(trial *t) {
    enum { N = 1 << 14 };
    float *x = poisoned(N * sizeof *x);
    for (uint32_t i = 0; i < N; i++)
        x[i] = ni_f32_from(i * 262111u);
    const nb_dtype type = TYPES[t->shape];
    ni_scaled codes = {.data = upload(t, x, N * sizeof *x), .dtype = type};
    t->be->ops->scaled_decode(t->be, output(t, "all codes", NB_F32, N), &codes, N);
    if (type == NB_F32)
        return;
    t->be->ops->scaled_join(t->be, &codes, &codes, N);
    keep(t, "all codes twice", codes.data, type, N, true);
    static const float hard[][3] = {
        {0, -0.0f, 0}, {NAN, 1, 2}, {INFINITY, -1, 3}, {1e-45f, 0, 1e-44f}, {0x1.fffffep127f, 1, -2}};
    for (int i = 0; i < 5; i++) {
        ni_scaled s = scaled(t, type, i % 2 ? NB_RULE_ABSMAX : NB_RULE_POW2, 3);
        t->be->ops->scaled_encode(t->be, &s, upload(t, hard[i], sizeof hard[i]), 3);
        keep_scaled(t, "hard numbers", &s, 3);
    }
}

/* ---- AdamW ---- */

static const struct {
    nb_dtype param, m, v, grad;
} MIXES[] = {{NB_F32, NB_F32, NB_F32, NB_F32},
             {NB_F32, NB_E4M3, NB_F16, NB_E4M3},
             {NB_F16, NB_E4M3, NB_F16, NB_E4M3},
             {NB_F32, NB_BF16, NB_BF16, NB_F32},
             {NB_F16, NB_E5M2, NB_F32, NB_F16}};

/* Two tensors in one call, the second without what a forward pass reads. */
static void run_adamw(trial *t) {
    const int64_t n = SPANS[t->shape % SPAN_SHAPES];
    const int mix = t->shape / SPAN_SHAPES;
    nb_backend *be = t->be;
    const ni_adamw step = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.5, .step = 3};
    ni_adamw_tensor list[2];
    for (uint32_t i = 0; i < 2; i++) {
        ni_scaled s[4] = {scaled(t, MIXES[mix].param, NB_RULE_POW2, n), scaled(t, MIXES[mix].m, NB_RULE_POW2, n),
                          scaled(t, MIXES[mix].v, NB_RULE_POW2, n), scaled(t, MIXES[mix].grad, NB_RULE_ABSMAX, n)};
        static const double std[4] = {0.02, 1e-4, 1e-3, 1e-3};
        for (uint32_t k = 0; k < 4; k++)
            be->ops->scaled_encode(be, &s[k], floats(t, 1 + k + 4 * i, n, std[k], k == 2), n);
        list[i] = (ni_adamw_tensor){s[0], s[1], s[2], s[3], n, 0.1, NULL, NULL};
    }
    list[0].copy = output_exact(t, "copy", NB_BF16, n);
    list[0].amax = output_exact(t, "amax", NB_I32, 1);
    be->ops->adamw(be, list, 2, &step);
    for (int i = 0; i < 2; i++) {
        keep_scaled(t, "param", &list[i].param, n);
        keep_scaled(t, "m", &list[i].m, n);
        keep_scaled(t, "v", &list[i].v, n);
    }
}

/* Three steps at four paces, of which one becomes shorter on the way; then the paces of what moved, made where one of
 * the distances lay. */
static void run_ramped(trial *t) {
    const int64_t n = SPANS[t->shape];
    nb_backend *be = t->be;
    ni_adamw step = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.5, .step = 3};
    int32_t *period = poisoned((size_t)n * sizeof *period), *steps = poisoned((size_t)n * sizeof *steps);
    for (int64_t i = 0; i < n; i++) {
        period[i] = (int32_t)(i % 4 + 1);
        steps[i] = i % 5 == 4 ? 6 : 0; /* more than the period */
    }
    const ni_ramped r = {.param = (float *)floats(t, 1, n, 0.02, false),
                         .m = (float *)floats(t, 2, n, 1e-4, false),
                         .v = (float *)floats(t, 3, n, 1e-3, true),
                         .grad = floats(t, 4, n, 1e-3, false),
                         .sum = (float *)floats(t, 5, n, 1e-3, false),
                         .steps = upload(t, steps, (size_t)n * sizeof *steps),
                         .period = upload(t, period, (size_t)n * sizeof *period),
                         .n = n,
                         .weight_decay = 0.1};
    for (; step.step < 6; step.step++)
        be->ops->adamw_ramped(be, &r, &step);
    keep(t, "param", r.param, NB_F32, n, true);
    keep(t, "m", r.m, NB_F32, n, true);
    keep(t, "v", r.v, NB_F32, n, true);
    keep(t, "sum", r.sum, NB_F32, n, true);
    keep(t, "steps", r.steps, NB_I32, n, true);
    void *place = (void *)floats(t, 6, n, 3, true);
    be->ops->ramp_periods(be, place, place, floats(t, 7, n, 0.1, true), n, 16, 3.5, 1251);
    keep(t, "periods", place, NB_I32, n, true);
}

static const test_case OPTIMIZERS[] = {
    {"sum sum_squares", "in double", DOUBLE, SPAN_SHAPES, run_sums, work_sums, NULL},
    {"sum sum_squares", "not finite", BITS, 1, run_bad_sums, NULL, NULL},
    {"sum_squares", "many", BITS, 1, run_squares_many, NULL, NULL},
    {"fill_zero", "many", BITS, 1, run_clear_many, NULL, NULL},
    {"scaled_encode scaled_decode scaled_add scaled_rescale scaled_join", "five types, two rules", BITS, SCALED_SHAPES,
     run_scaled, NULL, NULL},
    {"scaled_encode scaled_decode scaled_join", "all codes, hard numbers", BITS, TYPE_COUNT, run_hard, NULL, NULL},
    {"scaled_encode_many scaled_squares_many", "of many lengths", BITS, TYPE_COUNT, run_many_scaled, NULL, NULL},
    {"scaled_squares_many", "of many lengths, in double", CODES, TYPE_COUNT, run_many_squares, NULL,
     many_squares_rounded},
    {"scaled_sum_squares", "in double", CODES, SCALED_SHAPES / 2, run_scaled_squares, NULL, squares_rounded},
    {"adamw_ramped ramp_periods", "paces of their own", BITS, SPAN_SHAPES, run_ramped, NULL, NULL},
    {"adamw", "two tensors, plain and narrow", BITS, 5 * SPAN_SHAPES, run_adamw, NULL, NULL},
};
const case_list optimizer_cases = {OPTIMIZERS, sizeof OPTIMIZERS / sizeof *OPTIMIZERS};
