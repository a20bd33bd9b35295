/* test_ops_attention.c: softmax attention of the CPU backend under every instruction set, against the reference in
 * double. Builds with FMA agree bit for bit, and all for every number of threads. */
#include "backend/table.h"
#include "everywhere.h"

/* Sequences around the tile of 64, widths around the padding of 32, groups, and documents of these lengths (0 = whole
 * sequences). A shape's n is an index into this table. */
typedef struct attention_case {
    int64_t batch, seq, heads, kv_heads, head_dim;
    int32_t document;
} attention_case;

static const attention_case CASES[] = {
    {1, 1, 1, 1, 32, 0},    {2, 63, 2, 2, 24, 0},    {1, 64, 2, 1, 64, 0},  {1, 65, 3, 1, 128, 0},
    {2, 200, 4, 2, 32, 37}, {1, 300, 2, 1, 16, 129}, {1, 130, 2, 2, 80, 1}, {1, 257, 1, 1, 32, 64},
};

static nb_attention attention_of(shape s) {
    const attention_case *c = &CASES[s.n];
    int32_t *doc_start = poisoned((size_t)(c->batch * c->seq) * sizeof *doc_start);
    for (int64_t i = 0; i < c->batch * c->seq; i++) {
        int32_t t = (int32_t)(i % c->seq), phase = (int32_t)(i / c->seq) * 5; /* sequences break at different places */
        int32_t start = c->document ? t - (t + phase) % c->document : 0;
        doc_start[i] = start < 0 ? 0 : start;
    }
    nb_attention a = {.batch = c->batch,
                      .seq = c->seq,
                      .heads = c->heads,
                      .kv_heads = c->kv_heads,
                      .head_dim = c->head_dim,
                      .scale = 1 / sqrt((double)c->head_dim),
                      .doc_start = doc_start};
    return a;
}

typedef struct operands {
    nb_attention a;
    int64_t nq, nk, rows;
    double *q, *k, *v, *d_o, *o, *lse; /* o and lse: of the reference, rounded to what the backend stores */
} operands;

static double *rounded(nb_dtype type, const double *x, int64_t n) {
    return get(type, put(type, x, n), n);
}

static operands operands_of(shape s) {
    operands p = {.a = attention_of(s)};
    p.nq = p.a.batch * p.a.seq * p.a.heads * p.a.head_dim;
    p.nk = p.a.batch * p.a.seq * p.a.kv_heads * p.a.head_dim;
    p.rows = p.a.batch * p.a.heads * p.a.seq;
    p.q = act_in(1, p.nq, 1.5);
    p.k = act_in(2, p.nk, 1.5);
    p.v = act_in(3, p.nk, 1);
    p.d_o = act_in(4, p.nq, 1);
    double *o = zeros(p.nq), *lse = zeros(p.rows);
    nb_backend *ref = NULL;
    assert_int_equal(nb_backend_open("ref64", NULL, &ref, NULL), NB_OK);
    assert_int_equal(ref->ops->attention_forward(ref, &p.a, o, lse, p.q, p.k, p.v, NULL), NB_OK);
    nb_backend_free(ref);
    p.o = rounded(NB_BF16, o, p.nq);
    p.lse = rounded(NB_F32, lse, p.rows);
    return p;
}

static results run_attention(nb_backend *be, shape s) {
    results r = {0};
    operands p = operands_of(s);
    void *q = put(be->act, p.q, p.nq), *k = put(be->act, p.k, p.nk), *v = put(be->act, p.v, p.nk);
    void *o = put(be->act, NULL, p.nq), *lse = put(be->real, NULL, p.rows);
    void *dq = put(be->act, NULL, p.nq), *dk = put(be->act, NULL, p.nk), *dv = put(be->act, NULL, p.nk);
    assert_int_equal(be->ops->attention_forward(be, &p.a, o, lse, q, k, v, NULL), NB_OK);
    assert_int_equal(be->ops->attention_backward(be, &p.a, dq, dk, dv, put(be->act, p.d_o, p.nq),
                                                 put(be->act, p.o, p.nq), put(be->real, p.lse, p.rows), q, k, v, NULL),
                     NB_OK);
    add_result(&r, "o", o, be->act, p.nq);
    add_result(&r, "lse", lse, be->real, p.rows);
    add_result(&r, "dq", dq, be->act, p.nq);
    add_result(&r, "dk", dk, be->act, p.nk);
    add_result(&r, "dv", dv, be->act, p.nk);
    return r;
}

static double magnitude(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs(a[i] * b[i]);
    return sum;
}

/* Rounding errors in units of U. A score is off by (dim + 2) times the sum of its magnitudes; p by that, by the
 * roundings of its exponent, and by those of the sum; each tile rescales once more. Sums add their lengths. */
static double *work_attention(int index, shape s, const results *want) {
    operands p = operands_of(s);
    const nb_attention *a = &p.a;
    const int64_t dim = a->head_dim, group = a->heads / a->kv_heads;
    const double length = (double)a->seq, depth = (double)dim + 2, tiles = length / 64 + 1;
    double *w = zeros(want->n[index]);
    for (int64_t b = 0; b < a->batch; b++) {
        for (int64_t h = 0; h < a->heads; h++) {
            for (int64_t t = 0; t < a->seq; t++) {
                int64_t at = ((b * a->seq + t) * a->heads + h) * dim, row = (b * a->heads + h) * a->seq + t;
                double largest = 0, lse = p.lse[row];
                for (int64_t j = a->doc_start[b * a->seq + t]; j <= t; j++)
                    largest = fmax(
                        largest,
                        a->scale * magnitude(p.q + at, p.k + ((b * a->seq + j) * a->kv_heads + h / group) * dim, dim));
                double forward = (2 * depth + 6) * largest + 2 * length + 16 * tiles + fabs(lse) + 16;
                double backward = (depth + 2) * largest + 2 * fabs(lse) + 6;
                double delta = magnitude(p.d_o + at, p.o + at, dim);
                if (index == 1)
                    w[row] = forward;
                for (int64_t j = a->doc_start[b * a->seq + t]; j <= t; j++) {
                    int64_t kv = ((b * a->seq + j) * a->kv_heads + h / group) * dim;
                    double prob = exp(a->scale * inner(p.q + at, p.k + kv, dim) - lse);
                    double ds = prob * (magnitude(p.d_o + at, p.v + kv, dim) + delta);
                    for (int64_t c = 0; c < dim; c++) {
                        if (index == 0)
                            w[at + c] += forward * prob * fabs(p.v[kv + c]);
                        else if (index == 2)
                            w[at + c] += (backward + depth + length + 4) * a->scale * ds * fabs(p.k[kv + c]);
                        else if (index == 3)
                            w[kv + c] +=
                                (backward + depth + length * (double)group + 4) * a->scale * ds * fabs(p.q[at + c]);
                        else if (index == 4)
                            w[kv + c] += (backward + length * (double)group + 4) * prob * fabs(p.d_o[at + c]);
                    }
                }
            }
        }
    }
    return w;
}

static void attention(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        shape s = {(int64_t)i, CASES[i].head_dim};
        everywhere("attention", run_attention, work_attention, s, FUSED);
    }
}

/* Scores far apart: the running maximum must carry the softmax over tiles without overflow. */
static void attention_with_far_scores(void **state) {
    (void)state;
    enum { SEQ = 200, DIM = 32 };
    int32_t *doc_start = poisoned(SEQ * sizeof *doc_start);
    memset(doc_start, 0, SEQ * sizeof *doc_start);
    nb_attention a = {
        .batch = 1, .seq = SEQ, .heads = 1, .kv_heads = 1, .head_dim = DIM, .scale = 1, .doc_start = doc_start};
    double *q = zeros(SEQ * DIM), *k = zeros(SEQ * DIM);
    for (int64_t t = 0; t < SEQ; t++) {
        int64_t mark = t / 50 + 1;
        q[t * DIM] = 16;
        k[t * DIM] = t % 50 == 7 ? 16 * (double)mark : -16; /* scores 256, 512, ... against -256 */
    }
    double *v = act_in(3, SEQ * DIM, 1);
    nb_backend *be = cpu(NB_ISA_AUTO, 2);
    uint16_t *o = put(NB_BF16, NULL, SEQ * DIM);
    float *lse = put(NB_F32, NULL, SEQ);
    assert_int_equal(be->ops->attention_forward(be, &a, o, lse, put(NB_BF16, q, SEQ * DIM), put(NB_BF16, k, SEQ * DIM),
                                                put(NB_BF16, v, SEQ * DIM), NULL),
                     NB_OK);
    nb_backend_free(be);
    for (int64_t t = 7; t < SEQ; t++) { /* all weight on the last of the marked keys */
        int64_t mark = (t - 7) / 50 + 1, best = 50 * mark - 43;
        assert_true(lse[t] == 256 * (float)mark);
        for (int64_t c = 0; c < DIM; c++)
            assert_true(ni_bf16_value(o[t * DIM + c]) == v[best * DIM + c]);
    }
}

/* One product for q, k and v: each head's channels lie among those of the others, and nothing else is touched. */
static void strides(void **state) {
    (void)state;
    enum { BATCH = 2, SEQ = 70, HEADS = 4, KV = 2, DIM = 24, ROWS = BATCH * SEQ };
    enum { Q = HEADS * DIM, K = KV * DIM, ALL = Q + 2 * K };
    int32_t *doc_start = poisoned(ROWS * sizeof *doc_start);
    for (int i = 0; i < ROWS; i++)
        doc_start[i] = i % SEQ < 20 ? 0 : 20;
    const nb_attention dense = {.batch = BATCH,
                                .seq = SEQ,
                                .heads = HEADS,
                                .kv_heads = KV,
                                .head_dim = DIM,
                                .scale = 0.2,
                                .doc_start = doc_start};
    nb_attention wide = dense;
    wide.q_stride = wide.k_stride = wide.v_stride = ALL;
    wide.o_stride = Q + 8;
    nb_backend *backends[] = {cpu(NB_ISA_SCALAR, 1), cpu(NB_ISA_PORTABLE, 1), cpu(NB_ISA_AUTO, 2)};
    for (int i = 0; i < 3; i++) {
        nb_backend *be = backends[i];
        const double *values = act_in(5, ROWS * ALL, 1), *gradient = act_in(6, ROWS * Q, 1);
        uint16_t *qkv = put(NB_BF16, values, ROWS * ALL), *dqkv = put(NB_BF16, NULL, ROWS * ALL);
        uint16_t *q = put(NB_BF16, NULL, ROWS * Q), *k = put(NB_BF16, NULL, ROWS * K),
                 *v = put(NB_BF16, NULL, ROWS * K);
        uint16_t *dq = put(NB_BF16, NULL, ROWS * Q), *dk = put(NB_BF16, NULL, ROWS * K);
        uint16_t *dv = put(NB_BF16, NULL, ROWS * K), *o = put(NB_BF16, NULL, ROWS * Q),
                 *d_o = put(NB_BF16, gradient, ROWS * Q);
        uint16_t *far_o = put(NB_BF16, zeros(ROWS * (Q + 8)), ROWS * (Q + 8)),
                 *far_do = put(NB_BF16, zeros(ROWS * (Q + 8)), ROWS * (Q + 8));
        float *lse = put(NB_F32, NULL, BATCH * HEADS * SEQ), *far_lse = put(NB_F32, NULL, BATCH * HEADS * SEQ);
        for (int r = 0; r < ROWS; r++) {
            memcpy(q + r * Q, qkv + r * ALL, Q * sizeof *q);
            memcpy(k + r * K, qkv + r * ALL + Q, K * sizeof *k);
            memcpy(v + r * K, qkv + r * ALL + Q + K, K * sizeof *v);
            memcpy(far_do + r * (Q + 8), d_o + r * Q, Q * sizeof *d_o);
        }
        const ni_backend_ops *ops = be->ops;
        assert_int_equal(ops->attention_forward(be, &dense, o, lse, q, k, v, NULL), NB_OK);
        uint32_t amax = 0, want = 0;
        nb_attention wide_with_amax = wide;
        wide_with_amax.o_amax = &amax;
        assert_int_equal(ops->attention_forward(be, &wide_with_amax, far_o, far_lse, qkv, qkv + Q, qkv + Q + K, NULL),
                         NB_OK);
        assert_int_equal(ops->attention_backward(be, &dense, dq, dk, dv, d_o, o, lse, q, k, v, NULL), NB_OK);
        assert_int_equal(ops->attention_backward(be, &wide, dqkv, dqkv + Q, dqkv + Q + K, far_do, far_o, far_lse, qkv,
                                                 qkv + Q, qkv + Q + K, NULL),
                         NB_OK);
        assert_memory_equal(lse, far_lse, BATCH * HEADS * SEQ * sizeof *lse);
        for (int r = 0; r < ROWS; r++) {
            assert_memory_equal(far_o + r * (Q + 8), o + r * Q, Q * sizeof *o);
            assert_memory_equal(dqkv + r * ALL, dq + r * Q, Q * sizeof *dq);
            assert_memory_equal(dqkv + r * ALL + Q, dk + r * K, K * sizeof *dk);
            assert_memory_equal(dqkv + r * ALL + Q + K, dv + r * K, K * sizeof *dv);
            for (int c = Q; c < Q + 8; c++)
                assert_int_equal(far_o[r * (Q + 8) + c], 0);
            for (int c = 0; c < Q; c++) {
                const uint32_t bits = ni_f32_magnitude(ni_bf16_value(o[r * Q + c]));
                want = bits > want ? bits : want;
            }
        }
        assert_int_equal(amax, want);
        nb_backend_free(be);
    }
    nb_error err = {0};
    nb_attention narrow = wide;
    narrow.v_stride = K - 1;
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    assert_int_equal(be->ops->attention_forward(be, &narrow, NULL, NULL, NULL, NULL, NULL, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "v_stride 47; expected 0 (dense) or at least 48"));
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(attention, release_buffers),
        cmocka_unit_test_teardown(attention_with_far_scores, release_buffers),
        cmocka_unit_test_teardown(strides, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
