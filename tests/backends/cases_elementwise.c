/* cases_elementwise.c: memory, casts, sums of two, scales, SwiGLU, RoPE, embedding. */
#include "trial.h"

#include "format/hadamard.h"

static const int64_t SPANS[] = {1, 17, 4104, 40001};
static const int64_t ROWS[][2] = {{1, 16}, {3, 5}, {33, 100}, {130, 270}, {48, 32}};
enum { SPAN_SHAPES = sizeof SPANS / sizeof *SPANS, ROW_SHAPES = sizeof ROWS / sizeof *ROWS };

/* ---- memory ---- */

static void run_memory(trial *t) {
    enum { N = 10001 };
    nb_backend *be = t->be;
    const ni_backend_ops *ops = be->ops;
    uint8_t *image = poisoned(N), *back = poisoned(N);
    for (int i = 0; i < N; i++)
        image[i] = (uint8_t)(i * 7);
    uint8_t *fresh = ops->alloc(be, N, "a test"), *second = ops->alloc(be, N, "a test");
    ops->download(be, back, fresh, N);
    record(t, "fresh", back, NB_U8, N, true);
    ops->upload(be, fresh, image, N);
    memset(image, 1, N); /* it may be written again as soon as upload returns */
    ops->copy(be, second + 3, fresh + 1, N - 5);
    ops->fill_zero(be, fresh + 5, 100);
    EXPECT_OK(t, ops->synchronize(be, &err));
    ops->download(be, back, fresh, N);
    record(t, "partly cleared", back, NB_U8, N, true);
    ops->download(be, back, second, N);
    record(t, "copied", back, NB_U8, N, true);
    const uint8_t aligned = (uintptr_t)fresh % 64 == 0 && (uintptr_t)second % 64 == 0;
    record(t, "aligned", &aligned, NB_U8, 1, true);
    ops->release(be, second);
    ops->release(be, fresh);
}

static const test_case MEMORY[] = {
    {"alloc release upload download copy fill_zero synchronize", "bytes", BITS, 1, run_memory, NULL, NULL}};
const case_list memory_cases = {MEMORY, 1};

/* ---- sums and casts ---- */

static float *hard_numbers(int64_t n) {
    static const float special[] = {0.0f,       -0.0f,           INFINITY,     -INFINITY,   NAN,       0x1p-149f,
                                    -0x1p-130f, 0x1.fffffep127f, 0x1.ff8p127f, 0x1.0081p0f, 0x1.01p0f, 0x1.03p0f};
    float *x = poisoned((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = i % 3 ? datum(DATA_WIDE, 5, i) : special[i / 3 % 12];
    return x;
}

static void run_casts(trial *t) {
    const int64_t n = SPANS[t->shape];
    const float *x = hard_numbers(n);
    uint16_t *narrow = poisoned((size_t)n * 2);
    for (int64_t i = 0; i < n; i++)
        narrow[i] = (uint16_t)(i * 40503u);
    const void *wide = upload(t, x, (size_t)n * 4), *small = upload(t, narrow, (size_t)n * 2);
    t->be->ops->cast(t->be, output(t, "to bf16", NB_BF16, n), NB_BF16, wide, NB_F32, n);
    t->be->ops->cast(t->be, output(t, "to f32", NB_F32, n), NB_F32, small, NB_BF16, n);
}

static void run_add(trial *t) {
    const int64_t n = SPANS[t->shape];
    void *a = input_act(t, 1, n, 1), *b = input_act(t, 2, n, 30);
    t->be->ops->add(t->be, output(t, "sum", t->be->act, n), a, b, n);
    t->be->ops->add(t->be, a, a, b, n);
    keep(t, "in place", a, t->be->act, n, true);
}

static void run_axpy(trial *t) {
    const int64_t n = SPANS[t->shape];
    void *y = input_real(t, 4, n, 0, 3);
    t->be->ops->axpy(t->be, y, 0.75, input_real(t, 3, n, 0, 1), n);
    keep(t, "y", y, t->be->real, n, false);
}

static double three(const trial *t) {
    (void)t;
    return 3;
}

/* A view with a stride on each side; both kinds of scale, each alone, and neither; both types on both sides. */
static void run_scale(trial *t) {
    const int64_t rows = ROWS[t->shape][0], cols = ROWS[t->shape][1], wide = cols + 3, n = rows * wide;
    const float *by_row = input_real(t, 1, rows, 0, 1), *by_col = input_real(t, 2, cols, 0, 1);
    const nb_mat in = {input_act(t, 3, n, 1), t->be->act, rows, cols, wide, NULL, NULL};
    const nb_mat master = {input_real(t, 4, n, 0, 1), t->be->real, rows, cols, wide, NULL, NULL};
    for (int i = 0; i < 8; i++) {
        const nb_dtype type = i & 4 ? t->be->real : t->be->act;
        const nb_mat out = {output(t, i & 4 ? "f32" : "bf16", type, n), type, rows, cols, wide, NULL, NULL};
        t->be->ops->scale(t->be, &out, i % 3 ? &in : &master, i & 1 ? by_row : NULL, i & 2 ? by_col : NULL);
    }
}

/* ---- SwiGLU ---- */

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* Gates from the linear range to where exp overflows and vanishes. */
static double *gates(int64_t n) {
    double *g = normals_in(NB_BF16, 1, n, 0, 3);
    const double far[] = {-200, -95, -88.5, -87, 60, 95, 200, 0};
    for (int64_t i = 0; i < 8 && i * 3 < n; i++)
        g[i * 3] = ni_bf16_value(ni_bf16_even((float)far[i]));
    return g;
}

static void run_swiglu(trial *t) {
    const int64_t n = SPANS[t->shape];
    nb_backend *be = t->be;
    void *g = input(t, be->act, gates(n), n), *u = input_act(t, 2, n, 1), *dy = input_act(t, 3, n, 1);
    nb_mat y = nb_mat_of(output(t, "y", be->act, n), be->act, 1, n);
    nb_mat dg = nb_mat_of(output(t, "dgate", be->act, n), be->act, 1, n);
    nb_mat du = nb_mat_of(output(t, "dup", be->act, n), be->act, 1, n);
    be->ops->swiglu_forward(be, &y, g, u);
    be->ops->swiglu_backward(be, &dg, &du, dy, g, u);
}

enum { TILED_ROWS = 48, TILED_COLS = 104 };

static void run_swiglu_tiles(trial *t) {
    const int64_t n = TILED_ROWS * TILED_COLS;
    nb_backend *be = t->be;
    void *g = input(t, be->act, gates(n), n), *u = input_act(t, 2, n, 1), *dy = input_act(t, 3, n, 1);
    const nb_mat y = asking_both(t, output(t, "y", be->act, n), be->act, TILED_ROWS, TILED_COLS),
                 dg = asking_both(t, output(t, "dgate", be->act, n), be->act, TILED_ROWS, TILED_COLS),
                 du = asking_both(t, output(t, "dup", be->act, n), be->act, TILED_ROWS, TILED_COLS);
    be->ops->swiglu_forward(be, &y, g, u);
    be->ops->swiglu_backward(be, &dg, &du, dy, g, u);
    expect_both(t, &y);
    expect_both(t, &dg);
    expect_both(t, &du);
}

static double *slopes_of_swiglu(const trial *want, int index, int64_t n) {
    double *w = numbers_of(want, index), *g = gates(n), *u = normals_in(NB_BF16, 2, n, 0, 1),
           *dy = normals_in(NB_BF16, 3, n, 0, 1);
    for (int64_t i = 0; i < n; i++)
        w[i] = index == 1 ? 12 * fabs(dy[i] * u[i]) * sigmoid(g[i]) * (1 + fabs(g[i])) : 8 * fabs(w[i]);
    return w;
}

static double *work_swiglu(const trial *want, int index) {
    return slopes_of_swiglu(want, index, SPANS[want->shape]);
}

static double *work_swiglu_tiles(const trial *want, int index) {
    return slopes_of_swiglu(want, index, TILED_ROWS * TILED_COLS);
}

/* ---- RoPE ---- */

static void turn(trial *t, const ni_rope *how) {
    const int64_t rows = ROWS[t->shape][0], half = ROWS[t->shape][1], n = rows * 3 * 2 * half;
    const size_t bytes = (size_t)rows * sizeof(int32_t);
    const int32_t *positions = upload(t, integers(rows, 1500), bytes), *low = upload(t, integers(rows, 7), bytes);
    void *forward = input_act(t, 1, n, 1), *back = input_act(t, 2, n, 1);
    const nb_mat from = asking_both(t, back, t->be->act, rows, 6 * half),
                 to = asking(t, forward, t->be->act, rows, 6 * half);
    t->be->ops->rope(t->be, &from, low, 3, how, true); /* a short table first, then a longer one */
    t->be->ops->rope(t->be, &to, positions, 3, how, false);
    expect_both(t, &from);
    expect_amax(t, &to);
    keep(t, "turned", forward, t->be->act, n, false);
    keep(t, "turned back", back, t->be->act, n, false);
}

static void run_rope(trial *t) {
    turn(t, &(ni_rope){.theta = 10000});
}

/* Of channels to 96: some turn as they would, some slower, some in between. */
static void run_rope_scaled(trial *t) {
    turn(t, &(ni_rope){10000, 8, 1, 4, 512});
}

static double *work_rope(const trial *want, int index) {
    const int64_t n = want->results[index].n, half = ROWS[want->shape][1];
    double *w = zeros(n), *x = normals_in(NB_BF16, index ? 2 : 1, n, 0, 1);
    for (int64_t i = 0; i < n; i++) {
        const int64_t pair = i / (2 * half) * 2 * half + i % half;
        w[i] = 3 * (fabs(x[pair]) + fabs(x[pair + half]));
    }
    return w;
}

/* ---- embedding ---- */

enum { VOCAB = 37 };

static void run_embed(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    const int32_t *tokens = upload(t, integers(rows, VOCAB), (size_t)rows * sizeof(int32_t));
    t->be->ops->embed_forward(t->be, output(t, "x", t->be->act, n), input_real(t, 1, VOCAB * dim, 0, 1), tokens, rows,
                              dim);
}

static void run_embed_backward(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = rows * dim;
    const int32_t *tokens = upload(t, integers(rows, VOCAB), (size_t)rows * sizeof(int32_t));
    void *gradient = input_real(t, 2, VOCAB * dim, 0, 1);
    t->be->ops->embed_backward(t->be, gradient, input_act(t, 3, n, 1), tokens, rows, dim, VOCAB);
    keep(t, "dtable", gradient, t->be->real, VOCAB * dim, false);
}

/* Every third row, from the last on. */
static void run_rows(trial *t) {
    const int64_t rows = ROWS[t->shape][0], dim = ROWS[t->shape][1], n = (rows + 2) / 3;
    int32_t *list = integers(n, VOCAB);
    for (int64_t i = 0; i < n; i++)
        list[i] = (int32_t)(rows - 1 - 3 * i);
    const int32_t *places = upload(t, list, (size_t)n * sizeof *list);
    void *table = input_real(t, 1, rows * dim, 0, 1), *other = input_real(t, 2, rows * dim, 0, 1);
    void *taken = output(t, "taken", t->be->real, n * dim);
    t->be->ops->take_rows(t->be, taken, table, places, n, dim);
    t->be->ops->put_rows(t->be, other, taken, places, n, dim);
    keep(t, "put", other, t->be->real, rows * dim, true);
}

/* At most as many additions as there are rows. */
static double rows_added(const trial *t) {
    return (double)ROWS[t->shape][0] + 1;
}

static const test_case ELEMENTWISE[] = {
    {"cast", "all kinds of numbers", BITS, SPAN_SHAPES, run_casts, NULL, NULL},
    {"add", "bf16", BITS, SPAN_SHAPES, run_add, NULL, NULL},
    {"axpy", "f32", PRODUCTS, SPAN_SHAPES, run_axpy, NULL, three},
    {"scale", "strided, by row and column", BITS, ROW_SHAPES, run_scale, NULL, NULL},
    {"swiglu_forward swiglu_backward", "far gates", DOUBLE, SPAN_SHAPES, run_swiglu, work_swiglu, NULL},
    {"swiglu_forward swiglu_backward", "maxima", DOUBLE, 1, run_swiglu_tiles, work_swiglu_tiles, NULL},
    {"rope", "there and back", DOUBLE, ROW_SHAPES, run_rope, work_rope, NULL},
    {"rope", "scaled", DOUBLE, ROW_SHAPES, run_rope_scaled, work_rope, NULL},
    {"embed_forward", "rows", BITS, ROW_SHAPES, run_embed, NULL, NULL},
    {"take_rows put_rows", "every third", BITS, ROW_SHAPES, run_rows, NULL, NULL},
    {"embed_backward", "repeated tokens", PRODUCTS, ROW_SHAPES, run_embed_backward, NULL, rows_added},
};
const case_list elementwise_cases = {ELEMENTWISE, sizeof ELEMENTWISE / sizeof *ELEMENTWISE};
