/* cases_norm.c: RMSNorm with its additions, the gated norm, the gate of linear attention. Bounds: a sum of dim positive
 * squares is right within dim U, its root within half of that. */
#include "trial.h"

/* A width of every number of chunks of 256 that a GPU may keep of a row; from the sixth on rows in sixteens, at last
 * none. */
static const int64_t ROWS[][2] = {{1, 16},    {3, 5},     {33, 100},  {130, 272}, {40, 2048}, {48, 104},  {16, 770},
                                  {64, 1544}, {32, 2048}, {16, 2064}, {16, 512},  {32, 760},  {16, 1024}, {16, 1272},
                                  {32, 1536}, {19, 768},  {9, 1016},  {8, 1280},  {5, 1528}};
enum { SHAPES = sizeof ROWS / sizeof *ROWS };

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void run_rmsnorm(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    nb_backend *be = t->be;
    void *x = input_act(t, 1, n, 2), *w = input_real(t, 2, dim, 1, 0.3), *dy = input_act(t, 3, n, 1);
    void *dw = input_real(t, 4, dim, 0, 1);
    nb_mat y = asking_both(t, output(t, "y", be->act, n), be->act, rows, dim);
    void *rstd = output(t, "rstd", be->real, rows), *dx = output(t, "dx", be->act, n);
    be->ops->rmsnorm_forward(be, &y, rstd, x, w, 1e-5);
    expect_both(t, &y);
    const nb_mat to_dx = asking_both(t, dx, be->act, rows, dim);
    be->ops->rmsnorm_backward(be, &to_dx, dw, dy, x, w, rstd);
    expect_both(t, &to_dx);
    keep(t, "dw", dw, be->real, dim, false);
}

static double *work_rmsnorm(const trial *want, int index) {
    const int64_t rows = ROWS[want->shape][0], dim = ROWS[want->shape][1], n = rows * dim;
    double *w = numbers_of(want, index), *x = normals_in(NB_BF16, 1, n, 0, 2),
           *weight = normals_in(NB_F32, 2, dim, 1, 0.3);
    double *dy = normals_in(NB_BF16, 3, n, 0, 1), *sums = normals_in(NB_F32, 4, dim, 0, 1);
    const double width = (double)dim, root = width / 2 + 4, *rstd = want->results[1].bytes;
    for (int64_t r = 0; r < rows; r++) {
        double mean = 0;
        for (int64_t c = 0; c < dim; c++)
            mean += fabs(x[r * dim + c] * rstd[r] * weight[c] * dy[r * dim + c]) / width;
        for (int64_t c = 0; c < dim; c++) {
            const int64_t i = r * dim + c;
            const double normed = fabs(x[i] * rstd[r]);
            sums[c] = fabs(sums[c]) + fabs(dy[i]) * normed;
            if (index == 0)
                w[i] = (root + 3) * fabs(w[i]);
            else if (index == 2)
                w[i] = rstd[r] * ((root + 4) * fabs(weight[c] * dy[i]) + (3 * root + width + 8) * normed * mean);
        }
        if (index == 1)
            w[r] *= root;
    }
    for (int64_t c = 0; index == 3 && c < dim; c++)
        w[c] = ((double)rows + root + 3) * sums[c];
    return w;
}

/* ---- additions to the residual stream: bit for bit the operations one after the other ---- */

/* Fails unless two arrays of the backend are equal. */
static void expect_equal(trial *t, const char *what, const void *a, const void *b, size_t bytes) {
    uint8_t *x = poisoned(bytes), *y = poisoned(bytes);
    t->be->ops->download(t->be, x, a, bytes);
    t->be->ops->download(t->be, y, b, bytes);
    if (memcmp(x, y, bytes) != 0 && !t->failure[0])
        snprintf(t->failure, sizeof t->failure, "%s differs from that of the operations one after the other", what);
}

typedef struct two {
    void *sum[2], *y[2], *d[2], *stream[2], *rstd[2], *dw[2];
} two;

static two both(trial *t, int64_t rows, int64_t dim) {
    const size_t act = (size_t)(rows * dim) * nb_dtype_size(t->be->act), real = nb_dtype_size(t->be->real);
    two b;
    for (int j = 0; j < 2; j++) {
        b.sum[j] = scratch(t, act);
        b.y[j] = scratch(t, act);
        b.d[j] = scratch(t, act);
        b.stream[j] = input_act(t, 3, rows * dim, 1);
        b.rstd[j] = scratch(t, (size_t)rows * real);
        b.dw[j] = input(t, t->be->real, zeros(dim), dim);
    }
    return b;
}

static void run_additions(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    nb_backend *be = t->be;
    const ni_backend_ops *ops = be->ops;
    const size_t act = (size_t)n * nb_dtype_size(be->act), real = nb_dtype_size(be->real);
    void *x = input_act(t, 1, n, 1), *change = input_act(t, 2, n, 1), *dout = input_act(t, 3, n, 1),
         *dy = input_act(t, 4, n, 1), *w = input_real(t, 5, dim, 1, 0.3);
    two b = both(t, rows, dim);
    const nb_mat apart = nb_mat_of(b.y[0], be->act, rows, dim), at_once = asking_both(t, b.y[1], be->act, rows, dim);
    const nb_mat alone = nb_mat_of(b.d[0], be->act, rows, dim), into = asking_both(t, b.stream[1], be->act, rows, dim),
                 through = asking_both(t, b.d[1], be->act, rows, dim);
    ops->add(be, b.sum[0], x, change, n);
    ops->rmsnorm_forward(be, &apart, b.rstd[0], b.sum[0], w, 1e-5);
    ops->add_rmsnorm_forward(be, b.sum[1], &at_once, b.rstd[1], x, change, w, 1e-5);
    expect_equal(t, "sum", b.sum[0], b.sum[1], act);
    expect_equal(t, "norm of it", b.y[0], b.y[1], act);
    expect_both(t, &at_once);
    ops->rmsnorm_backward(be, &alone, b.dw[0], dy, b.sum[0], w, b.rstd[0]);
    ops->add(be, b.stream[0], b.stream[0], b.d[0], n);
    ops->rmsnorm_backward_add(be, &into, b.dw[1], dy, b.sum[1], w, b.rstd[1]);
    expect_both(t, &into);
    expect_equal(t, "gradient of the stream", b.stream[0], b.stream[1], act);
    expect_equal(t, "dw", b.dw[0], b.dw[1], (size_t)dim * real);
    ops->rmsnorm_forward(be, &apart, b.rstd[0], change, w, 1e-5);
    ops->add(be, b.sum[0], x, b.y[0], n);
    ops->rmsnorm_add_forward(be, b.sum[1], b.rstd[1], x, change, w, rows, dim, 1e-5);
    expect_equal(t, "sum with a norm", b.sum[0], b.sum[1], act);
    expect_equal(t, "rstd", b.rstd[0], b.rstd[1], (size_t)rows * real);
    ops->add(be, b.stream[0], b.stream[0], dout, n);
    ops->rmsnorm_backward(be, &alone, b.dw[0], b.stream[0], change, w, b.rstd[0]);
    ops->add_rmsnorm_backward(be, b.stream[1], &through, b.dw[1], dout, change, w, b.rstd[1]);
    expect_both(t, &through);
    expect_equal(t, "stream", b.stream[0], b.stream[1], act);
    expect_equal(t, "gradient through the norm", b.d[0], b.d[1], act);
    expect_equal(t, "dw through the norm", b.dw[0], b.dw[1], (size_t)dim * real);
}

/* ---- the gated norm ---- */

static void run_gated_norm(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    nb_backend *be = t->be;
    void *o = input_act(t, 1, n, 2), *w = input_real(t, 2, dim, 1, 0.3), *g = input_act(t, 4, n, 2);
    void *dy = input_act(t, 3, n, 1), *dw = input(t, be->real, zeros(dim), dim);
    nb_mat y = asking(t, output(t, "y", be->act, n), be->act, rows, dim);
    void *d_o = output(t, "do", be->act, n), *dg = output(t, "dg", be->act, n),
         *rstd = output(t, "rstd", be->real, rows);
    be->ops->gated_norm_forward(be, &y, rstd, o, g, w, 1e-5);
    expect_amax(t, &y);
    const nb_mat to_dg = asking(t, dg, be->act, rows, dim);
    be->ops->gated_norm_backward(be, d_o, &to_dg, dw, dy, o, g, w, rstd);
    expect_amax(t, &to_dg);
    keep(t, "dw", dw, be->real, dim, false);
}

enum { GATED_Y, GATED_DO, GATED_DG, GATED_RSTD, GATED_DW };

static double *work_gated_norm(const trial *want, int index) {
    const int64_t rows = ROWS[want->shape][0], dim = ROWS[want->shape][1], n = rows * dim;
    double *w = numbers_of(want, index), *o = normals_in(NB_BF16, 1, n, 0, 2),
           *weight = normals_in(NB_F32, 2, dim, 1, 0.3);
    double *dy = normals_in(NB_BF16, 3, n, 0, 1), *g = normals_in(NB_BF16, 4, n, 0, 2), *sums = zeros(dim);
    const double width = (double)dim, root = width / 2 + 4, *rstd = want->results[GATED_RSTD].bytes;
    for (int64_t r = 0; r < rows; r++) {
        double mean = 0;
        for (int64_t c = 0; c < dim; c++) {
            const int64_t i = r * dim + c;
            mean += fabs(o[i] * rstd[r] * weight[c] * dy[i] * g[i]) * sigmoid(g[i]) / width;
        }
        for (int64_t c = 0; c < dim; c++) {
            const int64_t i = r * dim + c;
            const double normed = fabs(o[i] * rstd[r]), through = fabs(dy[i] * g[i]) * sigmoid(g[i]);
            sums[c] += through * normed;
            if (index == GATED_Y)
                w[i] = (root + 11) * fabs(w[i]);
            else if (index == GATED_DO)
                w[i] = rstd[r] * ((root + 12) * fabs(weight[c]) * through + (3 * root + width + 16) * normed * mean);
            else if (index == GATED_DG)
                w[i] = (root + 16) * fabs(dy[i] * weight[c]) * normed * sigmoid(g[i]) * (1 + fabs(g[i]));
        }
        if (index == GATED_RSTD)
            w[r] *= root;
    }
    for (int64_t c = 0; index == GATED_DW && c < dim; c++)
        w[c] = ((double)rows + root + 11) * sums[c];
    return w;
}

/* ---- the gate ---- */

static const double CLAMP = -0.25, NORMALIZER = 16;

static void run_gate(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    nb_backend *be = t->be;
    void *a = input_act(t, 1, n, 3), *bias = input_real(t, 2, dim, 0, 1), *dgate = input_real(t, 3, n, 0, 1);
    void *gate = output(t, "gate", be->real, n), *open = output(t, "open gate", be->real, n),
         *da = output(t, "da", be->act, n), *dbias = input(t, be->real, zeros(dim), dim);
    be->ops->gla_gate_forward(be, gate, a, bias, rows, dim, NORMALIZER, CLAMP);
    be->ops->gla_gate_forward(be, open, a, bias, rows, dim, NORMALIZER, -INFINITY);
    be->ops->gla_gate_backward(be, da, dbias, dgate, a, bias, rows, dim, NORMALIZER, CLAMP);
    keep(t, "dbias", dbias, be->real, dim, false);
}

/* An input whose gate lies at the corner may fall on either side of it. */
static double *work_gate(const trial *want, int index) {
    const int64_t rows = ROWS[want->shape][0], dim = ROWS[want->shape][1], n = rows * dim;
    double *w = numbers_of(want, index), *sums = zeros(dim), *a = normals_in(NB_BF16, 1, n, 0, 3);
    double *bias = normals_in(NB_F32, 2, dim, 0, 1), *dgate = normals_in(NB_F32, 3, n, 0, 1);
    const double *open = want->results[1].bytes;
    for (int64_t i = 0; i < n; i++) {
        const double size = fabs(a[i]) + fabs(bias[i % dim]), dx = fabs(dgate[i]) / NORMALIZER;
        const double corner = fabs(open[i] - CLAMP) < 1e-6 ? dx / U : 0;
        sums[i % dim] += dx * (8 + size) + corner;
        if (index < 2)
            w[i] = size / NORMALIZER + 8 * fabs(open[i]);
        else if (index == 2)
            w[i] = dx * (8 + size) + corner;
    }
    for (int64_t c = 0; index == 3 && c < dim; c++)
        w[c] = ((double)rows + 1) * sums[c];
    return w;
}

/* ---- vectors of length 1 ---- */

static void run_unit_vectors(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1];
    void *by_rows = input_real(t, 1, rows * dim, 0, 3), *by_columns = input_real(t, 2, rows * dim, 0, 3);
    t->be->ops->unit_vectors(t->be, by_rows, rows, dim, false);
    t->be->ops->unit_vectors(t->be, by_columns, rows, dim, true);
    keep(t, "rows", by_rows, t->be->real, rows * dim, false);
    keep(t, "columns", by_columns, t->be->real, rows * dim, false);
}

/* Lengths are summed in double, so that what is left is the one rounding of the result. */
static double *work_unit_vectors(const trial *want, int index) {
    double *w = numbers_of(want, index);
    for (int64_t i = 0; i < want->results[index].n; i++)
        w[i] = 1.01 * fabs(w[i]);
    return w;
}

static const double FACTOR = 0.3, TINY_EPS = 1e-6;

static void run_slerp(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    nb_backend *be = t->be;
    void *a = input_act(t, 1, n, 0.5), *b = input_act(t, 2, n, 2), *dout = input_act(t, 3, n, 1);
    void *alpha = input_real(t, 4, dim, 0, 1), *dalpha = input(t, be->real, zeros(dim), dim);
    const nb_mat out = asking(t, output(t, "out", be->act, n), be->act, rows, dim);
    void *da = output(t, "da", be->act, n);
    const nb_mat db = asking(t, output(t, "db", be->act, n), be->act, rows, dim);
    be->ops->slerp_forward(be, &out, a, b, alpha, FACTOR, TINY_EPS);
    expect_amax(t, &out);
    be->ops->slerp_backward(be, da, &db, dalpha, dout, a, b, alpha, FACTOR, TINY_EPS);
    expect_amax(t, &db);
    keep(t, "dalpha", dalpha, be->real, dim, false);
    be->ops->slerp_backward(be, dout, &db, dalpha, dout, a, b, alpha, FACTOR, TINY_EPS); /* da may be dout */
    keep(t, "da in place", dout, be->act, n, false);
}

enum { SLERP_OUT, SLERP_DA, SLERP_DB, SLERP_DALPHA, SLERP_IN_PLACE };

/* Magnitudes of a row: of A, B, of what makes u, and of du; and what they add up to. */
typedef struct slerp_row {
    double over_a, over_b, over_u, widened, along, along_a, along_b;
} slerp_row;

static double makes_u(const slerp_row *s, double a, double b, double t) {
    return fabs(a) * s->over_a + t * (fabs(a) * s->over_a + fabs(b) * s->over_b);
}

static double makes_du(const slerp_row *s, double a, double b, double t, double dout) {
    return s->over_u * (fabs(dout) + makes_u(s, a, b, t) * s->over_u * s->along);
}

static slerp_row slerp_row_of(const double *a, const double *b, const double *dout, const double *alpha, int64_t dim) {
    slerp_row s = {0};
    double aa = 0, bb = 0, uu = 0, mm = 0;
    for (int64_t c = 0; c < dim; c++) {
        aa += a[c] * a[c];
        bb += b[c] * b[c];
    }
    s.over_a = 1 / sqrt(aa + TINY_EPS);
    s.over_b = 1 / sqrt(bb + TINY_EPS);
    for (int64_t c = 0; c < dim; c++) {
        const double t = fabs(FACTOR * alpha[c]), u = a[c] * s.over_a + t * (b[c] * s.over_b - a[c] * s.over_a);
        uu += u * u;
        mm += makes_u(&s, a[c], b[c], t) * makes_u(&s, a[c], b[c], t);
    }
    s.over_u = 1 / sqrt(uu + TINY_EPS);
    s.widened = sqrt(mm) * s.over_u;
    for (int64_t c = 0; c < dim; c++)
        s.along += makes_u(&s, a[c], b[c], fabs(FACTOR * alpha[c])) * s.over_u * fabs(dout[c]);
    for (int64_t c = 0; c < dim; c++) {
        const double t = fabs(FACTOR * alpha[c]), du = makes_du(&s, a[c], b[c], t, dout[c]);
        s.along_a += fabs(a[c]) * s.over_a * (1 + t) * du;
        s.along_b += fabs(b[c]) * s.over_b * t * du;
    }
    return s;
}

static double *work_slerp(const trial *want, int index) {
    const int64_t rows = ROWS[want->shape][0], dim = ROWS[want->shape][1], n = rows * dim;
    double *w = numbers_of(want, index), *sums = zeros(dim), *a = normals_in(NB_BF16, 1, n, 0, 0.5);
    double *b = normals_in(NB_BF16, 2, n, 0, 2), *dout = normals_in(NB_BF16, 3, n, 0, 1);
    double *alpha = normals_in(NB_F32, 4, dim, 0, 1);
    const double width = (double)dim, root = width / 2 + 4, deep = 8 * root + 3 * width + 40;
    for (int64_t r = 0; r < rows; r++) {
        const slerp_row s = slerp_row_of(a + r * dim, b + r * dim, dout + r * dim, alpha, dim);
        for (int64_t c = 0; c < dim; c++) {
            const int64_t i = r * dim + c;
            const double t = fabs(FACTOR * alpha[c]), m = makes_u(&s, a[i], b[i], t);
            const double du = makes_du(&s, a[i], b[i], t, dout[i]), k = deep * (1 + s.widened);
            const double to_a = fabs(a[i]) * s.over_a, to_b = fabs(b[i]) * s.over_b;
            sums[c] += FACTOR * du * (to_a + to_b) * k;
            if (index == SLERP_OUT)
                w[i] = s.over_u * m * (2 * root + 12) * (1 + s.widened);
            else if (index == SLERP_DB)
                w[i] = s.over_b * k * (t * du + to_b * s.along_b);
            else if (index != SLERP_DALPHA)
                w[i] = s.over_a * k * ((1 + t) * du + to_a * s.along_a);
        }
    }
    for (int64_t c = 0; index == SLERP_DALPHA && c < dim; c++)
        w[c] = ((double)rows + 1) * sums[c];
    return w;
}

static int32_t power_of(const trial *t) {
    return 1 + t->shape % 2;
}

static void run_gain(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    nb_backend *be = t->be;
    void *x = input_act(t, 1, n, 1), *s = input_real(t, 2, dim, 0.5, 1), *dy = input_act(t, 3, n, 1);
    void *ds = input(t, be->real, zeros(dim), dim);
    const nb_mat y = asking(t, output(t, "y", be->act, n), be->act, rows, dim),
                 dx = asking(t, output(t, "dx", be->act, n), be->act, rows, dim);
    be->ops->gain_forward(be, &y, x, s, FACTOR, power_of(t));
    expect_amax(t, &y);
    be->ops->gain_backward(be, &dx, ds, dy, x, s, FACTOR, power_of(t));
    expect_amax(t, &dx);
    keep(t, "ds", ds, be->real, dim, false);
}

static double *work_gain(const trial *want, int index) {
    const int64_t rows = ROWS[want->shape][0], dim = ROWS[want->shape][1], n = rows * dim;
    double *w = numbers_of(want, index), *sums = zeros(dim), *x = normals_in(NB_BF16, 1, n, 0, 1);
    double *s = normals_in(NB_F32, 2, dim, 0.5, 1), *dy = normals_in(NB_BF16, 3, n, 0, 1);
    for (int64_t i = 0; i < n; i++) {
        const double slope = power_of(want) == 2 ? 2 * FACTOR * FACTOR * fabs(s[i % dim]) : FACTOR;
        sums[i % dim] += fabs(dy[i] * x[i]) * slope;
        if (index < 2)
            w[i] = 6 * fabs(w[i]);
    }
    for (int64_t c = 0; index == 2 && c < dim; c++)
        w[c] = ((double)rows + 8) * sums[c];
    return w;
}

static const test_case NORMS[] = {
    {"unit_vectors", "rows and columns", DOUBLE, SHAPES, run_unit_vectors, work_unit_vectors, NULL},
    {"slerp_forward slerp_backward", "bf16", DOUBLE, SHAPES, run_slerp, work_slerp, NULL},
    {"gain_forward gain_backward", "of both powers", DOUBLE, SHAPES, run_gain, work_gain, NULL},
    {"rmsnorm_forward rmsnorm_backward", "bf16", DOUBLE, SHAPES, run_rmsnorm, work_rmsnorm, NULL},
    {"add_rmsnorm_forward rmsnorm_add_forward rmsnorm_backward_add add_rmsnorm_backward", "as one after the other",
     BITS, SHAPES, run_additions, NULL, NULL},
    {"gated_norm_forward gated_norm_backward", "bf16", DOUBLE, SHAPES, run_gated_norm, work_gated_norm, NULL},
    {"gla_gate_forward gla_gate_backward", "clamped and open", DOUBLE, SHAPES, run_gate, work_gate, NULL},
};
const case_list norm_cases = {NORMS, sizeof NORMS / sizeof *NORMS};
