/* test_ops_cpu.c: the operations of the CPU backend (attention apart), under every instruction set that runs here.
 *
 * All fast builds must agree bit for bit with each other and for every number of threads; operations without exp or
 * long sums also with the scalar code.
 */
#include "backend/ref/ref.h"
#include "backend/table.h"
#include "everywhere.h"

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static const shape SPANS[] = {{1, 1}, {17, 1}, {40001, 1}};
static const shape ROWS[] = {{1, 16}, {3, 5}, {33, 100}, {130, 270}};

#define FOR_SHAPES(list) for (size_t i_ = 0; i_ < sizeof(list) / sizeof *(list); i_++)

/* ---- elementwise ---- */

static results run_elements(nb_backend *be, shape s) {
    results r = {0};
    double *a = act_in(1, s.n, 1), *b = act_in(2, s.n, 30), *x = real_in(3, s.n, 0, 1), *y = real_in(4, s.n, 0, 3);
    void *sum = put(be->act, NULL, s.n), *total = put(be->real, y, s.n);
    void *narrow = put(be->act, NULL, s.n), *wide = put(be->real, NULL, s.n);
    be->ops->add(be, sum, put(be->act, a, s.n), put(be->act, b, s.n), s.n);
    be->ops->axpy(be, total, 0.75, put(be->real, x, s.n), s.n);
    be->ops->cast(be, narrow, be->act, put(be->real, x, s.n), be->real, s.n);
    be->ops->cast(be, wide, be->real, put(be->act, a, s.n), be->act, s.n);
    add_result(&r, "add", sum, be->act, s.n);
    add_result(&r, "axpy", total, be->real, s.n);
    add_result(&r, "cast to bf16", narrow, be->act, s.n);
    add_result(&r, "cast to f32", wide, be->real, s.n);
    return r;
}

static double *work_elements(int index, shape s, const results *want) {
    double *w = get(NB_F64, want->data[index], s.n), *x = real_in(3, s.n, 0, 1);
    for (int64_t i = 0; i < s.n; i++)
        w[i] = index == 0 ? fabs(w[i]) : index == 1 ? fabs(w[i]) + 0.75 * fabs(x[i]) : 0;
    return w;
}

static void elements(void **state) {
    (void)state;
    FOR_SHAPES(SPANS) everywhere("elements", run_elements, work_elements, SPANS[i_], SCALAR_AND_FAST);
}

/* Gates from the linear range to where exp overflows and vanishes. */
static double *gates(int64_t n) {
    double *g = act_in(1, n, 3);
    const double far[] = {-200, -95, -88.5, -87, 60, 95, 200, 0};
    for (int64_t i = 0; i < 8 && i * 3 < n; i++)
        g[i * 3] = ni_bf16_value(ni_bf16_even((float)far[i]));
    return g;
}

/* ---- what is left for the next reader of a matrix ---- */

static uint32_t *amaxes(int count) {
    uint32_t *words = poisoned((size_t)count * sizeof *words);
    memset(words, 0xff, (size_t)count * sizeof *words);
    return words;
}

static nb_mat view(nb_backend *be, void *data, int64_t rows, int64_t cols, uint32_t *amax) {
    nb_mat m = nb_mat_of(data, be->act, rows, cols);
    m.amax = amax;
    return m;
}

static void check_largest(const nb_mat *m, uint32_t amax) {
    const int64_t n = m->rows * m->cols;
    const double *values = get(m->dtype, m->data, n);
    uint32_t want = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = ni_f32_magnitude((float)values[i]);
        want = bits > want ? bits : want;
    }
    assert_int_equal(amax, want);
}

static void check_amax(const nb_mat *m) {
    check_largest(m, *m->amax);
}

static void check_copy(nb_backend *be, const void *copy, const void *real, int64_t n) {
    void *want = put(be->act, NULL, n);
    ni_ref_cast(NULL, want, be->act, real, be->real, n);
    check_equal_bytes("copy of the parameters", copy, want, (size_t)n * nb_dtype_size(be->act));
}

static results run_swiglu(nb_backend *be, shape s) {
    results r = {0};
    void *g = put(be->act, gates(s.n), s.n), *u = put(be->act, act_in(2, s.n, 1), s.n);
    void *dy = put(be->act, act_in(3, s.n, 1), s.n), *y = put(be->act, NULL, s.n);
    void *dg = put(be->act, NULL, s.n), *du = put(be->act, NULL, s.n);
    uint32_t *amax = amaxes(3);
    const nb_mat to = view(be, y, 1, s.n, &amax[0]), to_g = view(be, dg, 1, s.n, &amax[1]);
    const nb_mat to_u = view(be, du, 1, s.n, &amax[2]);
    be->ops->swiglu_forward(be, &to, g, u);
    be->ops->swiglu_backward(be, &to_g, &to_u, dy, g, u);
    check_amax(&to);
    check_amax(&to_g);
    check_amax(&to_u);
    add_result(&r, "y", y, be->act, s.n);
    add_result(&r, "dgate", dg, be->act, s.n);
    add_result(&r, "dup", du, be->act, s.n);
    return r;
}

/* sigmoid: exp (2), an addition and a division; 1 - sigmoid keeps its absolute error. */
static double *work_swiglu(int index, shape s, const results *want) {
    double *w = get(NB_F64, want->data[index], s.n), *g = gates(s.n), *u = act_in(2, s.n, 1), *dy = act_in(3, s.n, 1);
    for (int64_t i = 0; i < s.n; i++)
        w[i] = index == 1 ? 12 * fabs(dy[i] * u[i]) * sigmoid(g[i]) * (1 + fabs(g[i])) : 8 * fabs(w[i]);
    return w;
}

static void swiglu(void **state) {
    (void)state;
    FOR_SHAPES(SPANS) everywhere("swiglu", run_swiglu, work_swiglu, SPANS[i_], FAST);
}

static const ni_adamw ADAMW = {3e-3, 0.9, 0.95, 1e-8, 0.37, 3};

static results run_adamw(nb_backend *be, shape s) {
    results r = {0};
    double *second = real_in(3, s.n, 0, 1);
    for (int64_t i = 0; i < s.n; i++)
        second[i] = (double)(float)(second[i] * second[i]);
    void *p = put(be->real, real_in(1, s.n, 0, 1), s.n), *m = put(be->real, real_in(2, s.n, 0, 0.1), s.n);
    void *v = put(be->real, second, s.n), *g = put(be->real, real_in(4, s.n, 0, 1), s.n);
    ni_adamw_tensor all = ni_adamw_plain(be->real, p, m, v, g, s.n, 0.1);
    void *copy = put(be->act, NULL, s.n);
    uint32_t *amax = amaxes(1);
    all.copy = copy;
    all.amax = amax;
    be->ops->adamw(be, &all, 1, &ADAMW);
    const nb_mat left = nb_mat_of(p, be->real, 1, s.n);
    check_largest(&left, *amax);
    check_copy(be, copy, p, s.n);
    add_result(&r, "param", p, be->real, s.n);
    add_result(&r, "m", m, be->real, s.n);
    add_result(&r, "v", v, be->real, s.n);
    return r;
}

static double *work_adamw(int index, shape s, const results *want) {
    double *w = zeros(s.n), *m = real_in(2, s.n, 0, 0.1), *g = real_in(4, s.n, 0, 1);
    const double *v = want->data[2], *p = want->data[0];
    double corrected = 1 - pow(ADAMW.beta2, 3), rate = ADAMW.lr / (1 - pow(ADAMW.beta1, 3));
    for (int64_t i = 0; i < s.n; i++) {
        double mean = fabs(0.9 * m[i]) + fabs(0.1 * 0.37 * g[i]), step = rate * mean / (sqrt(v[i] / corrected) + 1e-8);
        w[i] = index == 0 ? 4 * (fabs(p[i]) + step) + 16 * step : index == 1 ? 6 * mean : 8 * v[i];
    }
    return w;
}

static void adamw(void **state) {
    (void)state;
    FOR_SHAPES(SPANS) everywhere("adamw", run_adamw, work_adamw, SPANS[i_], SCALAR_AND_FAST);
}

static results run_sums(nb_backend *be, shape s) {
    results r = {0};
    void *x = put(be->real, real_in(1, s.n, 1, 1), s.n);
    double *two = zeros(2);
    be->ops->sum(be, &two[0], x, s.n);
    be->ops->sum_squares(be, &two[1], x, s.n);
    add_result(&r, "sum and squares", two, NB_F64, 2);
    return r;
}

/* Both are taken in double: n roundings of 2^-53 on sums below 10 n. */
static double *work_sums(int index, shape s, const results *want) {
    (void)index, (void)want;
    double *w = zeros(2);
    w[0] = w[1] = 10 * (double)s.n * (double)s.n * 0x1p-53 / U;
    return w;
}

static void sums(void **state) {
    (void)state;
    FOR_SHAPES(SPANS) everywhere("sums", run_sums, work_sums, SPANS[i_], FAST);
    nb_backend *be = cpu(NB_ISA_AUTO, 2);
    float *x = put(NB_F32, normals(1, 100, 0, 1), 100);
    double squares;
    x[77] = NAN;
    be->ops->sum_squares(be, &squares, x, 100);
    assert_true(isnan(squares));
    x[77] = -INFINITY;
    be->ops->sum_squares(be, &squares, x, 100);
    assert_true(isinf(squares));
    nb_backend_free(be);
}

/* ---- embedding and RoPE ---- */

enum { VOCAB = 37 };

static int32_t *tokens_in(int64_t n, int32_t below) {
    int32_t *tokens = poisoned((size_t)n * sizeof *tokens);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(ni_philox(9, 9, (uint32_t)i, 0, 0, 0).w[0] % (uint32_t)below);
    return tokens;
}

static results run_embedding(nb_backend *be, shape s) {
    results r = {0};
    int64_t n = s.n * s.dim;
    int32_t *tokens = tokens_in(s.n, VOCAB);
    void *x = put(be->act, NULL, n), *table = put(be->real, real_in(1, VOCAB * s.dim, 0, 1), VOCAB * s.dim);
    void *gradient = put(be->real, real_in(2, VOCAB * s.dim, 0, 1), VOCAB * s.dim);
    be->ops->embed_forward(be, x, table, tokens, s.n, s.dim);
    be->ops->embed_backward(be, gradient, put(be->act, act_in(3, n, 1), n), tokens, s.n, s.dim, VOCAB);
    add_result(&r, "x", x, be->act, n);
    add_result(&r, "dtable", gradient, be->real, VOCAB * s.dim);
    return r;
}

static double *work_embedding(int index, shape s, const results *want) {
    double *w = zeros(want->n[index]);
    double n = (double)s.n; /* at most n additions of numbers below 5, on sums below 5 n */
    for (int64_t i = 0; i < want->n[index]; i++)
        w[i] = index ? n * 5 * (n + 1) : 0;
    return w;
}

static void embedding(void **state) {
    (void)state;
    FOR_SHAPES(ROWS) everywhere("embedding", run_embedding, work_embedding, ROWS[i_], SCALAR_AND_FAST);
}

static results run_rope(nb_backend *be, shape s) {
    results r = {0};
    int64_t n = s.n * 3 * 2 * s.dim;
    int32_t *positions = tokens_in(s.n, 1500), *low = tokens_in(s.n, 7);
    void *forward = put(be->act, act_in(1, n, 1), n), *back = put(be->act, act_in(2, n, 1), n);
    const nb_mat to = nb_mat_of(forward, be->act, s.n, 6 * s.dim), from = nb_mat_of(back, be->act, s.n, 6 * s.dim);
    be->ops->rope(be, &from, low, 3, &(ni_rope){.theta = 10000}, true); /* a short table first, then a longer one */
    be->ops->rope(be, &to, positions, 3, &(ni_rope){.theta = 10000}, false);
    add_result(&r, "turned", forward, be->act, n);
    add_result(&r, "turned back", back, be->act, n);
    return r;
}

static double *work_rope(int index, shape s, const results *want) {
    double *w = zeros(want->n[index]), *x = act_in(index ? 2 : 1, want->n[index], 1);
    for (int64_t i = 0; i < want->n[index]; i++) {
        int64_t pair = i / (2 * s.dim) * 2 * s.dim + i % s.dim;
        w[i] = 3 * (fabs(x[pair]) + fabs(x[pair + s.dim]));
    }
    return w;
}

static void rope(void **state) {
    (void)state;
    FOR_SHAPES(ROWS) everywhere("rope", run_rope, work_rope, ROWS[i_], SCALAR_AND_FAST);
}

/* ---- scale by row and column ---- */

/* A view with a stride on each side; both kinds of scale, each alone, and neither. */
static results run_scale(nb_backend *be, shape s) {
    results r = {0};
    int64_t wide = s.dim + 3, n = s.n * wide;
    float *row = put(NB_F32, real_in(1, s.n, 0, 1), s.n), *col = put(NB_F32, real_in(2, s.dim, 0, 1), s.dim);
    nb_mat in = {put(be->act, act_in(3, n, 1), n), be->act, s.n, s.dim, wide, NULL, NULL};
    nb_mat master = {put(be->real, real_in(4, n, 0, 1), n), be->real, s.n, s.dim, wide, NULL, NULL};
    const char *what[] = {"act", "act by row", "real by column", "real to act"};
    for (int i = 0; i < 4; i++) {
        nb_dtype type = i == 2 ? be->real : be->act;
        nb_mat out = {put(type, zeros(n), n), type, s.n, s.dim, wide, NULL, NULL};
        be->ops->scale(be, &out, i < 2 ? &in : &master, i == 0 || i == 1 ? row : NULL, i == 0 || i == 2 ? col : NULL);
        add_result(&r, what[i], out.data, type, n);
    }
    return r;
}

static double *work_scale(int index, shape s, const results *want) {
    double *w = get(NB_F64, want->data[index], s.n * (s.dim + 3));
    for (int64_t i = 0; i < want->n[index]; i++)
        w[i] = 2 * fabs(w[i]);
    return w;
}

static void scale(void **state) {
    (void)state;
    FOR_SHAPES(ROWS) everywhere("scale", run_scale, work_scale, ROWS[i_], SCALAR_AND_FAST);
}

/* ---- norms ---- */

static results run_rmsnorm(nb_backend *be, shape s) {
    results r = {0};
    int64_t n = s.n * s.dim;
    void *x = put(be->act, act_in(1, n, 2), n), *w = put(be->real, real_in(2, s.dim, 1, 0.3), s.dim);
    void *y = put(be->act, NULL, n), *rstd = put(be->real, NULL, s.n), *dx = put(be->act, NULL, n);
    void *dw = put(be->real, real_in(4, s.dim, 0, 1), s.dim);
    const nb_mat to = view(be, y, s.n, s.dim, amaxes(1));
    be->ops->rmsnorm_forward(be, &to, rstd, x, w, 1e-5);
    check_amax(&to);
    const nb_mat to_x = view(be, dx, s.n, s.dim, amaxes(1));
    be->ops->rmsnorm_backward(be, &to_x, dw, put(be->act, act_in(3, n, 1), n), x, w, rstd);
    check_amax(&to_x);
    add_result(&r, "y", y, be->act, n);
    add_result(&r, "rstd", rstd, be->real, s.n);
    add_result(&r, "dx", dx, be->act, n);
    add_result(&r, "dw", dw, be->real, s.dim);
    return r;
}

/* A sum of dim positive squares is right within dim U, its root within half of that. */
static double *work_rmsnorm(int index, shape s, const results *want) {
    int64_t n = s.n * s.dim;
    double *w = get(NB_F64, want->data[index], want->n[index]);
    double *x = act_in(1, n, 2), *weight = real_in(2, s.dim, 1, 0.3), *dy = act_in(3, n, 1);
    double *sums = real_in(4, s.dim, 0, 1), dim = (double)s.dim, root = dim / 2 + 4;
    const double *rstd = want->data[1];
    for (int64_t r = 0; r < s.n; r++) {
        double mean = 0;
        for (int64_t c = 0; c < s.dim; c++)
            mean += fabs(x[r * s.dim + c] * rstd[r] * weight[c] * dy[r * s.dim + c]) / dim;
        for (int64_t c = 0; c < s.dim; c++) {
            int64_t i = r * s.dim + c;
            double normed = fabs(x[i] * rstd[r]);
            sums[c] = fabs(sums[c]) + fabs(dy[i]) * normed;
            if (index == 0)
                w[i] = (root + 3) * fabs(w[i]);
            else if (index == 2)
                w[i] = rstd[r] * ((root + 4) * fabs(weight[c] * dy[i]) + (3 * root + dim + 8) * normed * mean);
        }
        if (index == 1)
            w[r] *= root;
    }
    for (int64_t c = 0; index == 3 && c < s.dim; c++)
        w[c] = ((double)s.n + root + 3) * sums[c];
    return w;
}

static void rmsnorm(void **state) {
    (void)state;
    FOR_SHAPES(ROWS) everywhere("rmsnorm", run_rmsnorm, work_rmsnorm, ROWS[i_], FAST);
}

static results run_gated_norm(nb_backend *be, shape s) {
    results r = {0};
    int64_t n = s.n * s.dim;
    void *o = put(be->act, act_in(1, n, 2), n), *w = put(be->real, real_in(2, s.dim, 1, 0.3), s.dim);
    void *g = put(be->act, act_in(4, n, 2), n), *y = put(be->act, NULL, n), *rstd = put(be->real, NULL, s.n);
    void *d_o = put(be->act, NULL, n), *dg = put(be->act, NULL, n), *dw = put(be->real, zeros(s.dim), s.dim);
    const nb_mat to = view(be, y, s.n, s.dim, amaxes(1));
    be->ops->gated_norm_forward(be, &to, rstd, o, g, w, 1e-5);
    check_amax(&to);
    const nb_mat to_g = view(be, dg, s.n, s.dim, amaxes(1));
    be->ops->gated_norm_backward(be, d_o, &to_g, dw, put(be->act, act_in(3, n, 1), n), o, g, w, rstd);
    check_amax(&to_g);
    add_result(&r, "y", y, be->act, n);
    add_result(&r, "do", d_o, be->act, n);
    add_result(&r, "dg", dg, be->act, n);
    add_result(&r, "dw", dw, be->real, s.dim);
    add_result(&r, "rstd", rstd, be->real, s.n);
    return r;
}

static double *work_gated_norm(int index, shape s, const results *want) {
    int64_t n = s.n * s.dim;
    double *w = get(NB_F64, want->data[index], want->n[index]);
    double *o = act_in(1, n, 2), *weight = real_in(2, s.dim, 1, 0.3), *dy = act_in(3, n, 1), *g = act_in(4, n, 2);
    double *sums = zeros(s.dim), dim = (double)s.dim, root = dim / 2 + 4;
    const double *rstd = want->data[4];
    for (int64_t r = 0; r < s.n; r++) {
        double mean = 0;
        for (int64_t c = 0; c < s.dim; c++) {
            int64_t i = r * s.dim + c;
            mean += fabs(o[i] * rstd[r] * weight[c] * dy[i] * g[i]) * sigmoid(g[i]) / dim;
        }
        for (int64_t c = 0; c < s.dim; c++) {
            int64_t i = r * s.dim + c;
            double normed = fabs(o[i] * rstd[r]), through = fabs(dy[i] * g[i]) * sigmoid(g[i]);
            sums[c] += through * normed;
            if (index == 0)
                w[i] = (root + 11) * fabs(w[i]);
            else if (index == 1)
                w[i] = rstd[r] * ((root + 12) * fabs(weight[c]) * through + (3 * root + dim + 16) * normed * mean);
            else if (index == 2)
                w[i] = (root + 16) * fabs(dy[i] * weight[c]) * normed * sigmoid(g[i]) * (1 + fabs(g[i]));
        }
        if (index == 4)
            w[r] *= root;
    }
    for (int64_t c = 0; index == 3 && c < s.dim; c++)
        w[c] = ((double)s.n + root + 11) * sums[c];
    return w;
}

static void gated_norm(void **state) {
    (void)state;
    FOR_SHAPES(ROWS) everywhere("gated norm", run_gated_norm, work_gated_norm, ROWS[i_], FAST);
}

static const double CLAMP = -0.25, NORMALIZER = 16;

static results run_gate(nb_backend *be, shape s) {
    results r = {0};
    int64_t n = s.n * s.dim;
    void *a = put(be->act, act_in(1, n, 3), n), *bias = put(be->real, real_in(2, s.dim, 0, 1), s.dim);
    void *gate = put(be->real, NULL, n), *open = put(be->real, NULL, n), *da = put(be->act, NULL, n);
    void *dbias = put(be->real, zeros(s.dim), s.dim), *dgate = put(be->real, real_in(3, n, 0, 1), n);
    be->ops->gla_gate_forward(be, gate, a, bias, s.n, s.dim, NORMALIZER, CLAMP);
    be->ops->gla_gate_forward(be, open, a, bias, s.n, s.dim, NORMALIZER, -INFINITY);
    be->ops->gla_gate_backward(be, da, dbias, dgate, a, bias, s.n, s.dim, NORMALIZER, CLAMP);
    add_result(&r, "gate", gate, be->real, n);
    add_result(&r, "open gate", open, be->real, n);
    add_result(&r, "da", da, be->act, n);
    add_result(&r, "dbias", dbias, be->real, s.dim);
    return r;
}

static double *work_gate(int index, shape s, const results *want) {
    int64_t n = s.n * s.dim;
    double *w = get(NB_F64, want->data[index], want->n[index]), *sums = zeros(s.dim);
    double *a = act_in(1, n, 3), *bias = real_in(2, s.dim, 0, 1), *dgate = real_in(3, n, 0, 1);
    const double *open = want->data[1];
    for (int64_t i = 0; i < n; i++) {
        double size = fabs(a[i]) + fabs(bias[i % s.dim]), dx = fabs(dgate[i]) / NORMALIZER;
        assert_true(fabs(open[i] - CLAMP) > 1e-6); /* no rounding error takes an input across the corner */
        sums[i % s.dim] += dx * (8 + size);
        if (index < 2)
            w[i] = size / NORMALIZER + 8 * fabs(open[i]);
        else if (index == 2)
            w[i] = dx * (8 + size);
    }
    for (int64_t c = 0; index == 3 && c < s.dim; c++)
        w[c] = ((double)s.n + 1) * sums[c];
    return w;
}

static void gate(void **state) {
    (void)state;
    FOR_SHAPES(ROWS) everywhere("gate", run_gate, work_gate, ROWS[i_], FAST);
}

/* ---- cross entropy ---- */

static const double SCALE = 0.125, Z_LOSS = 1e-2;

/* Every fourth row is not scored. */
static int32_t *targets_in(shape s) {
    int32_t *targets = tokens_in(s.n, (int32_t)s.dim);
    for (int64_t r = 3; r < s.n; r += 4)
        targets[r] = -1;
    return targets;
}

static results run_cross_entropy(nb_backend *be, shape s) {
    results r = {0};
    int64_t n = s.n * s.dim;
    void *logits = put(be->act, act_in(1, n, 4), n), *in_place = put(be->act, act_in(1, n, 4), n);
    void *loss = put(be->real, NULL, s.n), *z = put(be->real, NULL, s.n), *dlogits = put(be->act, NULL, n);
    void *alone = put(be->real, NULL, s.n);
    int32_t *targets = targets_in(s);
    be->ops->cross_entropy(be, loss, z, dlogits, logits, targets, s.n, s.dim, SCALE, Z_LOSS);
    be->ops->cross_entropy(be, alone, NULL, NULL, logits, targets, s.n, s.dim, SCALE, Z_LOSS);
    be->ops->cross_entropy(be, alone, NULL, in_place, in_place, targets, s.n, s.dim, SCALE, Z_LOSS);
    size_t size = be->act == NB_BF16 ? 2 : 8, wide = be->act == NB_BF16 ? 4 : 8;
    check_equal_bytes("in place", in_place, dlogits, (size_t)n * size);
    check_equal_bytes("loss alone", alone, loss, (size_t)s.n * wide);
    add_result(&r, "loss", loss, be->real, s.n);
    add_result(&r, "z", z, be->real, s.n);
    add_result(&r, "dlogits", dlogits, be->act, n);
    return r;
}

/* lse: x - max is off by its size, the sum by at most dim additions (relative), the log by its own value. */
static double *work_cross_entropy(int index, shape s, const results *want) {
    double *w = zeros(want->n[index]), *x = act_in(1, s.n * s.dim, 4);
    const double *z = want->data[1];
    int32_t *targets = targets_in(s);
    for (int64_t r = 0; r < s.n; r++) {
        double largest = 0;
        for (int64_t c = 0; c < s.dim; c++)
            largest = fmax(largest, fabs(x[r * s.dim + c]));
        double lse = (double)s.dim + 8 + 3 * largest + 2 * fabs(z[r]), slope = 1 + 2 * Z_LOSS * fabs(z[r]);
        if (index < 2)
            w[r] = lse + (index ? 0 : 2 * largest);
        for (int64_t c = 0; index == 2 && targets[r] >= 0 && c < s.dim; c++) {
            double p = exp(x[r * s.dim + c] - z[r]), away = fabs(x[r * s.dim + c] - z[r]);
            w[r * s.dim + c] = SCALE * (slope * p * (2 * lse + away + 8) + (c == targets[r] ? 4 : 0));
        }
    }
    return w;
}

static void cross_entropy(void **state) {
    (void)state;
    FOR_SHAPES(ROWS) everywhere("cross entropy", run_cross_entropy, work_cross_entropy, ROWS[i_], FAST);
    shape wide = {3, 32000};
    everywhere("cross entropy", run_cross_entropy, work_cross_entropy, wide, FAST);
}

/* All logits far below zero: the lanes beyond the last column must not pass for logits of 0. */
static void cross_entropy_of_low_logits(void **state) {
    (void)state;
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    uint16_t *logits = poisoned(19 * 2);
    for (int i = 0; i < 19; i++)
        logits[i] = ni_bf16_even(-1000);
    const int32_t target = 4;
    float loss, z;
    be->ops->cross_entropy(be, &loss, &z, NULL, logits, &target, 1, 19, 1, 0);
    assert_true(fabs(loss - log(19)) < 1e-4 && fabs(z - (log(19) - 1000)) < 1e-4);
    logits[3] = ni_bf16_even(NAN);
    be->ops->cross_entropy(be, &loss, &z, NULL, logits, &target, 1, 19, 1, 0);
    assert_true(isnan(loss) && isnan(z));
    nb_backend_free(be);
}

/* ---- norms with their additions: bit for bit the operations one after the other ---- */

static void norms_with_additions(void **state) {
    (void)state;
    const nb_isa isas[] = {NB_ISA_SCALAR, NB_ISA_PORTABLE, NB_ISA_AUTO};
    const int64_t shapes[][2] = {{1, 1}, {3, 17}, {70, 96}, {300, 256}};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            nb_backend *be = cpu(isas[i], 2);
            const ni_backend_ops *ops = be->ops;
            const int64_t rows = shapes[k][0], dim = shapes[k][1], n = rows * dim;
            const size_t bytes = (size_t)n * sizeof(uint16_t);
            void *x = put(NB_BF16, act_in(1, n, 1), n), *change = put(NB_BF16, act_in(2, n, 1), n);
            void *dout = put(NB_BF16, act_in(3, n, 1), n), *dy = put(NB_BF16, act_in(4, n, 1), n);
            void *w = put(NB_F32, real_in(5, dim, 1, 0.3), dim);
            void *sum[2], *y[2], *d[2], *stream[2], *rstd[2], *dw[2];
            for (int j = 0; j < 2; j++) {
                sum[j] = put(NB_BF16, NULL, n);
                y[j] = put(NB_BF16, NULL, n);
                d[j] = put(NB_BF16, NULL, n);
                stream[j] = put(NB_BF16, act_in(3, n, 1), n);
                rstd[j] = put(NB_F32, NULL, rows);
                dw[j] = put(NB_F32, zeros(dim), dim);
            }
            const nb_mat apart = nb_mat_of(y[0], NB_BF16, rows, dim), at_once = view(be, y[1], rows, dim, amaxes(1));
            ops->add(be, sum[0], x, change, n);
            ops->rmsnorm_forward(be, &apart, rstd[0], sum[0], w, 1e-5);
            ops->add_rmsnorm_forward(be, sum[1], &at_once, rstd[1], x, change, w, 1e-5);
            check_equal_bytes("sum", sum[1], sum[0], bytes);
            check_equal_bytes("norm of it", y[1], y[0], bytes);
            check_amax(&at_once);
            const nb_mat gradient = nb_mat_of(d[0], NB_BF16, rows, dim);
            const nb_mat onto = view(be, stream[1], rows, dim, amaxes(1)),
                         through = view(be, d[1], rows, dim, amaxes(1));
            ops->rmsnorm_backward(be, &gradient, dw[0], dy, sum[0], w, rstd[0]);
            ops->add(be, stream[0], stream[0], d[0], n);
            ops->rmsnorm_backward_add(be, &onto, dw[1], dy, sum[1], w, rstd[1]);
            check_amax(&onto);
            check_equal_bytes("gradient of the stream", stream[1], stream[0], bytes);
            check_equal_bytes("dw", dw[1], dw[0], (size_t)dim * sizeof(float));

            const nb_mat normed = nb_mat_of(y[0], NB_BF16, rows, dim);
            ops->rmsnorm_forward(be, &normed, rstd[0], change, w, 1e-5);
            ops->add(be, sum[0], x, y[0], n);
            ops->rmsnorm_add_forward(be, sum[1], rstd[1], x, change, w, rows, dim, 1e-5);
            check_equal_bytes("sum with a norm", sum[1], sum[0], bytes);
            check_equal_bytes("rstd", rstd[1], rstd[0], (size_t)rows * sizeof(float));
            ops->add(be, stream[0], stream[0], dout, n);
            ops->rmsnorm_backward(be, &gradient, dw[0], stream[0], change, w, rstd[0]);
            ops->add_rmsnorm_backward(be, stream[1], &through, dw[1], dout, change, w, rstd[1]);
            check_amax(&through);
            check_equal_bytes("stream", stream[1], stream[0], bytes);
            check_equal_bytes("gradient through the norm", d[1], d[0], bytes);
            check_equal_bytes("dw", dw[1], dw[0], (size_t)dim * sizeof(float));
            nb_backend_free(be);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(elements, release_buffers),
        cmocka_unit_test_teardown(swiglu, release_buffers),
        cmocka_unit_test_teardown(adamw, release_buffers),
        cmocka_unit_test_teardown(sums, release_buffers),
        cmocka_unit_test_teardown(embedding, release_buffers),
        cmocka_unit_test_teardown(rope, release_buffers),
        cmocka_unit_test_teardown(scale, release_buffers),
        cmocka_unit_test_teardown(rmsnorm, release_buffers),
        cmocka_unit_test_teardown(norms_with_additions, release_buffers),
        cmocka_unit_test_teardown(gated_norm, release_buffers),
        cmocka_unit_test_teardown(gate, release_buffers),
        cmocka_unit_test_teardown(cross_entropy, release_buffers),
        cmocka_unit_test_teardown(cross_entropy_of_low_logits, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
