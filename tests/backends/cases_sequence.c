/* cases_sequence.c: softmax attention and gated linear attention, packed documents, against their definitions in
 * double.
 *
 * Tensor cores take BF16: a probability, its gradient, a decayed query, key or state may be rounded to it once on the
 * way. BF16 has 8 significant bits, so that rounding to nearest moves x by at most 2^-8 |x|: NARROW, in units of U. A
 * sum of one term, as in dV of a document's last key (P^T dO with the query at that key alone), comes as near to that
 * as its probability is near to a midpoint. What is summed stays in FP32. tests/test_ops_attention.c and
 * tests/test_ops_gla.c hold the CPU's kernels, which round nothing, to the FP32 terms alone.
 */
#include "trial.h"

#include "gla_case.h"

static const double NARROW = 0x1p16; /* B / U */

static int32_t *ends_of(const int32_t *start, int64_t batch, int64_t seq) {
    int32_t *end = poisoned((size_t)(batch * seq) * sizeof *end);
    for (int64_t i = batch * seq - 1; i >= 0; i--) {
        const bool last = i % seq == seq - 1 || start[i + 1] > start[i];
        end[i] = last ? (int32_t)(i % seq) + 1 : end[i + 1];
    }
    return end;
}

/* ---- softmax attention ---- */

typedef struct attention_case {
    int64_t batch, seq, heads, kv_heads, head_dim;
    int32_t document; /* length; 0: whole sequences */
    bool ends, apart; /* doc_end is given; q, k and v lie in one matrix, o in a wider one */
} attention_case;

static const attention_case ATTENTION[] = {
    {1, 1, 1, 1, 32, 0, false, false},    {2, 63, 2, 2, 24, 0, true, false},   {1, 64, 2, 1, 64, 0, false, true},
    {1, 65, 3, 1, 128, 0, false, false},  {2, 200, 4, 2, 32, 37, true, true},  {1, 300, 2, 1, 16, 129, false, false},
    {1, 130, 2, 2, 80, 1, true, false},   {1, 257, 1, 1, 32, 64, true, false}, {2, 128, 4, 2, 64, 50, true, true},
    {1, 193, 2, 1, 128, 70, false, true}, {1, 96, 2, 2, 256, 0, false, false}, {2, 129, 4, 2, 40, 50, true, true},
    {1, 140, 2, 1, 104, 0, false, false}, {1, 70, 2, 1, 8, 0, true, false},
};
enum { ATTENTION_SHAPES = sizeof ATTENTION / sizeof *ATTENTION };

/* Whole sequences, under any order of sums. */
static const attention_case WHOLE[] = {
    {2, 128, 2, 2, 64, 0, false, false}, {1, 256, 4, 2, 64, 0, true, true},    {2, 256, 2, 2, 128, 0, true, false},
    {1, 384, 4, 1, 128, 0, false, true}, {1, 128, 2, 1, 32, 0, true, false},   {1, 128, 2, 2, 96, 0, false, true},
    {1, 200, 4, 2, 64, 0, true, true},   {1, 193, 2, 2, 128, 0, false, false}, {1, 70, 2, 1, 8, 0, true, false},
    {1, 128, 2, 2, 256, 0, true, false},
};
enum { WHOLE_SHAPES = sizeof WHOLE / sizeof *WHOLE };

/* Documents whose number is known, under any order of sums: some end within a block of rows, some are one position
 * long, some a whole sequence, and there are more of them than the fewest that a plan is made for. */
static const attention_case PACKED[] = {
    {2, 128, 2, 2, 64, 50, true, false}, {1, 256, 4, 2, 64, 37, true, true}, {2, 256, 2, 2, 128, 129, false, false},
    {1, 384, 4, 1, 128, 70, true, true}, {2, 200, 4, 2, 32, 1, true, false}, {3, 130, 2, 1, 96, 64, false, true},
    {1, 193, 2, 2, 256, 61, true, true}, {1, 520, 2, 1, 64, 7, true, false}, {1, 513, 3, 3, 16, 200, true, false},
};
enum { PACKED_SHAPES = sizeof PACKED / sizeof *PACKED };

typedef struct softmax {
    nb_attention a; /* documents on the host */
    int64_t nq, nk, rows;
    double *q, *k, *v, *d_o, *o, *lse; /* o and lse: of the reference, rounded to what a backend stores */
    double narrowings;                 /* times that a term of dk and dv may be rounded to BF16 */
} softmax;

static double *rounded(nb_dtype type, const double *x, int64_t n) {
    return get(type, put(type, x, n), n);
}

static softmax softmax_of(const attention_case *c) {
    softmax p = {.a = {.batch = c->batch,
                       .seq = c->seq,
                       .heads = c->heads,
                       .kv_heads = c->kv_heads,
                       .head_dim = c->head_dim,
                       .scale = 1 / sqrt((double)c->head_dim)}};
    p.narrowings = 1;
    p.a.doc_start = starts_of(c->batch, c->seq, c->document);
    p.nq = c->batch * c->seq * c->heads * c->head_dim;
    p.nk = c->batch * c->seq * c->kv_heads * c->head_dim;
    p.rows = c->batch * c->heads * c->seq;
    p.q = normals_in(NB_BF16, 1, p.nq, 0, 1.5);
    p.k = normals_in(NB_BF16, 2, p.nk, 0, 1.5);
    p.v = normals_in(NB_BF16, 3, p.nk, 0, 1);
    p.d_o = normals_in(NB_BF16, 4, p.nq, 0, 1);
    double *o = zeros(p.nq), *lse = zeros(p.rows);
    nb_backend *ref = NULL; /* its memory is the host's */
    assert_int_equal(nb_backend_open("ref64", NULL, &ref, NULL), NB_OK);
    assert_int_equal(ref->ops->attention_forward(ref, &p.a, o, lse, p.q, p.k, p.v, NULL), NB_OK);
    nb_backend_free(ref);
    p.o = rounded(NB_BF16, o, p.nq);
    p.lse = rounded(NB_F32, lse, p.rows);
    return p;
}

/* Rows of `width` numbers, each in a row of `stride` from column `at` on. */
static void spread(double *to, int64_t stride, int64_t at, const double *x, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * stride + at, x + r * width, (size_t)width * sizeof *x);
}

/* What lies in the columns from `at` on, as a dense result. */
static void keep_columns(trial *t, const char *what, const void *device, int64_t rows, int64_t stride, int64_t at,
                         int64_t width) {
    const size_t size = nb_dtype_size(t->be->act);
    const size_t bytes = (size_t)((rows - 1) * stride + at + width) * size; /* `device` may point into a row */
    uint8_t *all = poisoned(bytes), *dense = poisoned((size_t)(rows * width) * size);
    t->be->ops->download(t->be, all, device, bytes);
    for (int64_t r = 0; r < rows; r++)
        memcpy(dense + (size_t)(r * width) * size, all + (size_t)(r * stride + at) * size, (size_t)width * size);
    record(t, what, dense, t->be->act, rows * width, false);
}

static int64_t count_documents(const int32_t *start, int64_t batch, int64_t seq) {
    int64_t count = 0;
    for (int64_t i = 0; i < batch * seq; i++)
        count += start[i] == i % seq;
    return count;
}

static void run_shape(trial *t, const attention_case *c, bool counted) {
    const softmax p = softmax_of(c);
    nb_backend *be = t->be;
    const size_t size = nb_dtype_size(be->act), words = (size_t)(c->batch * c->seq) * sizeof(int32_t);
    const int64_t rows = c->batch * c->seq, wide = c->heads * c->head_dim, narrow = c->kv_heads * c->head_dim;
    const int64_t all = c->apart ? wide + 2 * narrow : 0, far = c->apart ? wide + 8 : wide;
    nb_attention a = p.a;
    a.doc_start = upload(t, p.a.doc_start, words);
    a.documents = counted || !c->document ? count_documents(p.a.doc_start, c->batch, c->seq) : 0;
    a.doc_end = c->ends ? upload(t, ends_of(p.a.doc_start, c->batch, c->seq), words) : NULL;
    uint8_t *q, *k, *v, *dq, *dk, *dv;
    if (c->apart) {
        double *together = zeros(rows * all);
        spread(together, all, 0, p.q, rows, wide);
        spread(together, all, wide, p.k, rows, narrow);
        spread(together, all, wide + narrow, p.v, rows, narrow);
        q = input(t, be->act, together, rows * all);
        dq = scratch(t, (size_t)(rows * all) * size);
        k = q + (size_t)wide * size, v = k + (size_t)narrow * size;
        dk = dq + (size_t)wide * size, dv = dk + (size_t)narrow * size;
        a.q_stride = a.k_stride = a.v_stride = all;
        a.o_stride = far;
    } else {
        q = input(t, be->act, p.q, p.nq), k = input(t, be->act, p.k, p.nk), v = input(t, be->act, p.v, p.nk);
        dq = scratch(t, (size_t)p.nq * size), dk = scratch(t, (size_t)p.nk * size),
        dv = scratch(t, (size_t)p.nk * size);
    }
    double *far_o = zeros(rows * far), *far_do = zeros(rows * far);
    spread(far_o, far, 0, p.o, rows, wide);
    spread(far_do, far, 0, p.d_o, rows, wide);
    void *o = input(t, be->act, zeros(rows * far), rows * far), *lse = output(t, "lse", be->real, p.rows);
    nb_mat all_o = asking_both(t, o, be->act, rows, wide), all_dv = asking_both(t, dv, be->act, rows, narrow);
    all_o.stride = far;
    all_dv.stride = c->apart ? all : narrow;
    a.o_amax = all_o.amax, a.o_turned_amax = all_o.turned_amax;
    a.dv_amax = all_dv.amax, a.dv_turned_amax = all_dv.turned_amax;
    EXPECT_OK(t, be->ops->attention_forward(be, &a, o, lse, q, k, v, &err));
    EXPECT_OK(t, be->ops->attention_backward(be, &a, dq, dk, dv, input(t, be->act, far_do, rows * far),
                                             input(t, be->act, far_o, rows * far), input(t, be->real, p.lse, p.rows), q,
                                             k, v, &err));
    expect_both(t, &all_o);
    expect_both(t, &all_dv);
    keep_columns(t, "o", o, rows, far, 0, wide);
    keep_columns(t, "dq", dq, rows, c->apart ? all : wide, 0, wide);
    keep_columns(t, "dk", dk, rows, c->apart ? all : narrow, 0, narrow);
    keep_columns(t, "dv", dv, rows, c->apart ? all : narrow, 0, narrow);
    if (c->apart)
        keep_columns(t, "beside o", o, rows, far, wide, 8);
}

static void run_attention(trial *t) {
    run_shape(t, &ATTENTION[t->shape], false);
}

/* The fastest engine that there is, of any order of sums; a GPU without cuDNN, or whose cuDNN takes not both passes of
 * this shape, says so: its own kernel has had its turn above. Its results need not repeat themselves. */
static void run_any_order(trial *t, const attention_case *c) {
    nb_backend *be = t->be;
    const ni_permits any = {.any_order = true}, none = {.any_order = false};
    const int64_t narrow = c->kv_heads * c->head_dim, wide = c->heads * c->head_dim, all = wide + 2 * narrow;
    const int32_t *starts = starts_of(c->batch, c->seq, c->document);
    nb_attention a = {.batch = c->batch,
                      .seq = c->seq,
                      .heads = c->heads,
                      .kv_heads = c->kv_heads,
                      .head_dim = c->head_dim,
                      .scale = 1 / sqrt((double)c->head_dim),
                      .doc_start = upload(t, starts, (size_t)(c->batch * c->seq) * sizeof *starts),
                      .documents = count_documents(starts, c->batch, c->seq)};
    if (c->apart)
        a.q_stride = a.k_stride = a.v_stride = all, a.o_stride = wide + 8;
    EXPECT_OK(t, be->ops->permit(be, &any, &err));
    const bool cuda = strncmp(be->name, "cuda", 4) == 0;
    const char *why = "", *name = cuda ? be->ops->attention_kernel(be, &a, &why) : NULL;
    if (cuda && (!name || strncmp(name, "cudnn", 5) != 0 || strstr(name, "flash"))) {
        nb_error err = {0};
        snprintf(err.message, sizeof err.message, "%.100s: %.200s", name ? name : "no kernel", why);
        fail_trial(t, "cuDNN", NB_UNSUPPORTED, &err);
    } else {
        run_shape(t, c, true);
    }
    EXPECT_OK(t, be->ops->permit(be, &none, &err));
}

static void run_whole(trial *t) {
    run_any_order(t, &WHOLE[t->shape]);
}

static void run_packed(trial *t) {
    run_any_order(t, &PACKED[t->shape]);
}

enum { LSE, O, DQ, DK, DV, BESIDE_O };

static double magnitude(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs(a[i] * b[i]);
    return sum;
}

/* One query: a score is off by (dim + 2) times the sum of its magnitudes; p by that, by the roundings of its exponent,
 * and by those of the sum; each tile rescales once more. Sums add their lengths. */
static void work_of_query(double *w, int index, const softmax *p, int64_t b, int64_t h, int64_t t) {
    const nb_attention *a = &p->a;
    const int64_t dim = a->head_dim, group = a->heads / a->kv_heads;
    const double length = (double)a->seq, depth = (double)dim + 2, tiles = length / 64 + 1;
    const int64_t at = ((b * a->seq + t) * a->heads + h) * dim, row = (b * a->heads + h) * a->seq + t;
    double largest = 0, lse = p->lse[row];
    for (int64_t j = a->doc_start[b * a->seq + t]; j <= t; j++)
        largest = fmax(largest,
                       a->scale * magnitude(p->q + at, p->k + ((b * a->seq + j) * a->kv_heads + h / group) * dim, dim));
    const double forward = (2 * depth + 6) * largest + 2 * length + 16 * tiles + fabs(lse) + 16;
    const double backward = (depth + 2) * largest + 2 * fabs(lse) + 6, delta = magnitude(p->d_o + at, p->o + at, dim);
    if (index == LSE)
        w[row] = forward;
    for (int64_t j = a->doc_start[b * a->seq + t]; j <= t && index != LSE; j++) {
        const int64_t kv = ((b * a->seq + j) * a->kv_heads + h / group) * dim;
        const double prob = exp(a->scale * inner(p->q + at, p->k + kv, dim) - lse);
        const double ds = a->scale * prob * (magnitude(p->d_o + at, p->v + kv, dim) + delta);
        const double into_o = (forward + NARROW) * prob, into_q = (backward + depth + length + 4 + NARROW) * ds;
        const double narrow = p->narrowings * NARROW;
        const double into_k = (backward + depth + length * (double)group + 4 + narrow) * ds;
        const double into_v = (backward + length * (double)group + 4 + narrow) * prob;
        for (int64_t c = 0; c < dim; c++) {
            if (index == O)
                w[at + c] += into_o * fabs(p->v[kv + c]);
            else if (index == DQ)
                w[at + c] += into_q * fabs(p->k[kv + c]);
            else if (index == DK)
                w[kv + c] += into_k * fabs(p->q[at + c]);
            else
                w[kv + c] += into_v * fabs(p->d_o[at + c]);
        }
    }
}

static double *work_of(const trial *want, int index, softmax p) {
    double *w = zeros(want->results[index].n);
    for (int64_t b = 0; b < p.a.batch && index != BESIDE_O; b++)
        for (int64_t h = 0; h < p.a.heads; h++)
            for (int64_t t = 0; t < p.a.seq; t++)
                work_of_query(w, index, &p, b, h, t);
    return w;
}

static double *work_attention(const trial *want, int index) {
    return work_of(want, index, softmax_of(&ATTENTION[want->shape]));
}

/* With grouped queries cuDNN rounds dk and dv of each query head to BF16 before it adds them. */
static double *work_any_order(const trial *want, int index, const attention_case *c) {
    softmax p = softmax_of(c);
    p.narrowings = p.a.heads > p.a.kv_heads ? 2 : 1;
    return work_of(want, index, p);
}

static double *work_whole(const trial *want, int index) {
    return work_any_order(want, index, &WHOLE[want->shape]);
}

static double *work_packed(const trial *want, int index) {
    return work_any_order(want, index, &PACKED[want->shape]);
}

/* Scores far apart: the running maximum must carry the softmax over tiles without overflow; all weight lies on one key.
 */
static void run_far(trial *t) {
    enum { SEQ = 200, DIM = 32 };
    int32_t *start = poisoned(SEQ * sizeof *start);
    memset(start, 0, SEQ * sizeof *start);
    nb_attention a = {.batch = 1, .seq = SEQ, .heads = 1, .kv_heads = 1, .head_dim = DIM, .scale = 1};
    a.doc_start = upload(t, start, SEQ * sizeof *start);
    double *q = zeros(SEQ * DIM), *k = zeros(SEQ * DIM);
    for (int64_t i = 0; i < SEQ; i++) {
        q[i * DIM] = 16;
        k[i * DIM] = i % 50 == 7 ? 16 * (double)(i / 50 + 1) : -16; /* scores 256, 512, ... against -256 */
    }
    nb_backend *be = t->be;
    EXPECT_OK(t, be->ops->attention_forward(be, &a, output(t, "o", be->act, SEQ * DIM), output(t, "lse", be->real, SEQ),
                                            input(t, be->act, q, SEQ * DIM), input(t, be->act, k, SEQ * DIM),
                                            input_act(t, 3, SEQ * DIM, 1), &err));
}

/* The first seven positions see equal scores alone: an average. */
static double *work_far(const trial *want, int index) {
    double *w = zeros(want->results[index].n);
    for (int64_t i = 0; i < want->results[index].n; i++)
        w[i] = index == 0 && i < 7 * 32 ? 2 * NARROW : index == 0 ? 64 * fabs(numbers_of(want, 0)[i]) : 5000;
    return w;
}

/* ---- gated linear attention ---- */

static void run_gla(trial *t) {
    const linear p = linear_of(t->shape);
    nb_backend *be = t->be;
    ni_gla g = p.g;
    g.doc_start = upload(t, p.g.doc_start, (size_t)(g.batch * g.seq) * sizeof(int32_t));
    const size_t left = be->ops->gla_left_bytes(be, &g);
    g.left = left && t->shape % 2 ? scratch(t, left) : NULL;
    void *q = input(t, be->act, p.q, p.nk), *k = input(t, be->act, p.k, p.nk), *v = input(t, be->act, p.v, p.nv);
    void *gate = input(t, be->real, p.gate, p.nk), *d_o = input(t, be->act, p.d_o, p.nv);
    void *o = output(t, "o", be->act, p.nv), *dq = output(t, "dq", be->act, p.nk), *dk = output(t, "dk", be->act, p.nk);
    void *dv = output(t, "dv", be->act, p.nv), *dgate = output(t, "dgate", be->real, p.nk);
    const int64_t rows = g.batch * g.seq, keys = g.heads * g.key_dim, values = g.heads * g.value_dim;
    const nb_mat slopes[] = {asking_both(t, dq, be->act, rows, keys), asking_both(t, dk, be->act, rows, keys),
                             asking_both(t, dv, be->act, rows, values)};
    for (int i = 0; i < 3; i++)
        g.amax[i] = slopes[i].amax, g.turned_amax[i] = slopes[i].turned_amax;
    EXPECT_OK(t, be->ops->gla_forward(be, &g, o, q, k, v, gate, &err));
    EXPECT_OK(t, be->ops->gla_backward(be, &g, dq, dk, dv, dgate, d_o, q, k, v, gate, &err));
    for (int i = 0; i < 3; i++)
        expect_both(t, &slopes[i]);
}

static double *work_gla(const trial *want, int index) {
    const linear p = linear_of(want->shape);
    return linear_work(&p, index, NARROW);
}

/* ---- the same with its gate: made where it is read, or before and behind ---- */

/* Shapes of GLA: padded keys, documents inside of sub-blocks, several blocks of channels, steep gates; scans by
 * warpgroups. */
static const int MADE[] = {4, 7, 15, 17, 18, 23, 24, 25, 26};
enum { MADE_SHAPES = sizeof MADE / sizeof *MADE };

typedef struct made_gate {
    linear p; /* with the gate that is made */
    double *a, *bias;
    double normalizer, clamp;
} made_gate;

static double open_gate(const made_gate *m, int64_t i) {
    const double x = m->a[i] + m->bias[i % (m->p.g.heads * m->p.g.key_dim)];
    return ((x < 0 ? x : 0) - log1p(exp(-fabs(x)))) / m->normalizer;
}

static made_gate made_of(int shape) {
    made_gate m = {.p = linear_of(MADE[shape])};
    m.normalizer = 1 / GLA[MADE[shape]].gate;
    m.clamp = shape % 3 ? -2 / m.normalizer : -INFINITY;
    m.a = normals_in(NB_BF16, 6, m.p.nk, 0, 2);
    m.bias = normals_in(NB_F32, 7, m.p.g.heads * m.p.g.key_dim, 0, 1);
    for (int64_t i = 0; i < m.p.nk; i++)
        m.p.gate[i] = fmax(open_gate(&m, i), m.clamp);
    return m;
}

static void run_made(trial *t) {
    const made_gate m = made_of(t->shape);
    nb_backend *be = t->be;
    ni_gla g = m.p.g;
    const int64_t nk = m.p.nk, nv = m.p.nv, rows = g.batch * g.seq, keys = g.heads * g.key_dim;
    g.doc_start = upload(t, m.p.g.doc_start, (size_t)rows * sizeof(int32_t));
    const size_t left = be->ops->gla_left_bytes(be, &g);
    g.left = left && t->shape % 2 ? scratch(t, left) : NULL;
    void *q = input(t, be->act, m.p.q, nk), *k = input(t, be->act, m.p.k, nk), *v = input(t, be->act, m.p.v, nv);
    void *d_o = input(t, be->act, m.p.d_o, nv), *o = output(t, "o", be->act, nv), *dq = output(t, "dq", be->act, nk),
         *dk = output(t, "dk", be->act, nk), *dv = output(t, "dv", be->act, nv);
    const ni_gla_gate made = {.a = input(t, be->act, m.a, nk),
                              .bias = input(t, be->real, m.bias, keys),
                              .normalizer = m.normalizer,
                              .clamp = m.clamp,
                              .da = output(t, "da", be->act, nk),
                              .dbias = input(t, be->real, zeros(keys), keys)};
    void *gate = NULL, *dgate = NULL;
    if (be->makes_gates) {
        g.made = &made;
    } else {
        gate = scratch(t, (size_t)nk * nb_dtype_size(be->real));
        dgate = scratch(t, (size_t)nk * nb_dtype_size(be->real));
        be->ops->gla_gate_forward(be, gate, made.a, made.bias, rows, keys, made.normalizer, made.clamp);
    }
    EXPECT_OK(t, be->ops->gla_forward(be, &g, o, q, k, v, gate, &err));
    EXPECT_OK(t, be->ops->gla_backward(be, &g, dq, dk, dv, dgate, d_o, q, k, v, gate, &err));
    if (!be->makes_gates)
        be->ops->gla_gate_backward(be, made.da, made.dbias, dgate, made.a, made.bias, rows, keys, made.normalizer,
                                   made.clamp);
    keep(t, "dbias", made.dbias, be->real, keys, false);
}

enum { MADE_DA = 4, MADE_DBIAS };

/* A slope is a sigmoid, at most 1, of dgate; a gate that lies at the corner may fall on either side of it. */
static double *work_made(const trial *want, int index) {
    const made_gate m = made_of(want->shape);
    const int64_t keys = m.p.g.heads * m.p.g.key_dim, rows = m.p.nk / keys;
    double *w = linear_work(&m.p, index < MADE_DA ? index : MADE_DA, NARROW), *sums = zeros(keys);
    const double *da = numbers_of(want, MADE_DA);
    for (int64_t i = 0; i < m.p.nk && index >= MADE_DA; i++) {
        const double size = fabs(m.a[i]) + fabs(m.bias[i % keys]);
        const double corner = fabs(open_gate(&m, i) - m.clamp) < 1e-4 / m.normalizer ? w[i] / m.normalizer / U : 0;
        w[i] = w[i] / m.normalizer + fabs(da[i]) * (8 + size) + corner;
        sums[i % keys] += w[i] + (double)(rows + 1) * fabs(da[i]);
    }
    return index == MADE_DBIAS ? sums : w;
}

/* A name and a reason for what a model needs. */
static void run_names(trial *t) {
    const char *why[2] = {NULL, NULL};
    const nb_attention a = {.batch = 1, .seq = 64, .heads = 4, .kv_heads = 2, .head_dim = 64, .scale = 0.125};
    const ni_gla g = {.batch = 1, .seq = 64, .heads = 2, .key_dim = 32, .value_dim = 64, .scale = 1};
    const char *names[2] = {t->be->ops->attention_kernel(t->be, &a, &why[0]),
                            t->be->ops->gla_kernel(t->be, &g, &why[1])};
    for (int i = 0; i < 2; i++) {
        const uint8_t said = names[i] && names[i][0] && why[i] && why[i][0];
        record(t, "a name and a reason", &said, NB_U8, 1, true);
    }
}

static const test_case SEQUENCES[] = {
    {"attention_kernel gla_kernel", "names", BITS, 1, run_names, NULL, NULL},
    {"attention_forward attention_backward", "documents, groups, strides", DOUBLE, ATTENTION_SHAPES, run_attention,
     work_attention, NULL},
    {"attention_forward attention_backward", "any order of sums", DOUBLE, WHOLE_SHAPES, run_whole, work_whole, NULL},
    {"attention_forward attention_backward", "documents in any order of sums", DOUBLE, PACKED_SHAPES, run_packed,
     work_packed, NULL},
    {"attention_forward", "far scores", DOUBLE, 1, run_far, work_far, NULL},
    {"gla_forward gla_backward gla_left_bytes", "documents, all gates", DOUBLE, GLA_SHAPES, run_gla, work_gla, NULL},
    {"gla_forward gla_backward gla_gate_forward gla_gate_backward", "gates of what makes them", DOUBLE, MADE_SHAPES,
     run_made, work_made, NULL},
};
const case_list sequence_cases = {SEQUENCES, sizeof SEQUENCES / sizeof *SEQUENCES};
