/* test_ops_gla.c: gated linear attention of the CPU backend against the recurrence in double. Builds with FMA agree bit
 * for bit, and all for every number of threads. */
#include "backend/table.h"
#include "everywhere.h"

#include "files/safetensors.h"

/* Sequences around the chunk of 32, widths around the padding of 32, documents of these lengths (0 = whole sequences),
 * gates of this size. A shape's n is an index into this table. */
typedef struct gla_case {
    int64_t batch, seq, heads, key_dim, value_dim;
    int32_t document;
    double gate;
} gla_case;

static const gla_case CASES[] = {
    {1, 1, 1, 16, 16, 0, 1},    {2, 31, 2, 24, 40, 0, 0.05},  {1, 32, 1, 32, 64, 0, 0.05},
    {1, 33, 2, 16, 32, 0, 0.5}, {2, 100, 2, 32, 16, 23, 0.1}, {1, 150, 1, 64, 32, 40, 0.02},
    {1, 40, 2, 16, 16, 1, 1},   {1, 70, 1, 16, 48, 0, 30},
};

static ni_gla gla_of(shape s) {
    const gla_case *c = &CASES[s.n];
    int32_t *doc_start = poisoned((size_t)(c->batch * c->seq) * sizeof *doc_start);
    for (int64_t i = 0; i < c->batch * c->seq; i++) {
        int32_t t = (int32_t)(i % c->seq), phase = (int32_t)(i / c->seq) * 5;
        int32_t start = c->document ? t - (t + phase) % c->document : 0;
        doc_start[i] = start < 0 ? 0 : start;
    }
    ni_gla g = {c->batch, c->seq, c->heads, c->key_dim, c->value_dim, 1 / sqrt((double)c->key_dim), doc_start};
    return g;
}

typedef struct operands {
    ni_gla g;
    int64_t nk, nv;
    double *q, *k, *v, *gate, *d_o;
} operands;

static operands operands_of(shape s) {
    operands p = {.g = gla_of(s)};
    p.nk = p.g.batch * p.g.seq * p.g.heads * p.g.key_dim;
    p.nv = p.g.batch * p.g.seq * p.g.heads * p.g.value_dim;
    p.q = act_in(1, p.nk, 1);
    p.k = act_in(2, p.nk, 1);
    p.v = act_in(3, p.nv, 1);
    p.d_o = act_in(4, p.nv, 1);
    p.gate = real_in(5, p.nk, 0, CASES[s.n].gate);
    for (int64_t i = 0; i < p.nk; i++)
        p.gate[i] = -fabs(p.gate[i]);
    return p;
}

static results run_gla(nb_backend *be, shape s) {
    results r = {0};
    operands p = operands_of(s);
    void *q = put(be->act, p.q, p.nk), *k = put(be->act, p.k, p.nk), *v = put(be->act, p.v, p.nv);
    void *gate = put(be->real, p.gate, p.nk), *o = put(be->act, NULL, p.nv), *dq = put(be->act, NULL, p.nk);
    void *dk = put(be->act, NULL, p.nk), *dv = put(be->act, NULL, p.nv), *dgate = put(be->real, NULL, p.nk);
    assert_int_equal(be->ops->gla_forward(be, &p.g, o, q, k, v, gate, NULL), NB_OK);
    assert_int_equal(be->ops->gla_backward(be, &p.g, dq, dk, dv, dgate, put(be->act, p.d_o, p.nv), q, k, v, gate, NULL),
                     NB_OK);
    add_result(&r, "o", o, be->act, p.nv);
    add_result(&r, "dq", dq, be->act, p.nk);
    add_result(&r, "dk", dk, be->act, p.nk);
    add_result(&r, "dv", dv, be->act, p.nv);
    add_result(&r, "dgate", dgate, be->real, p.nk);
    return r;
}

/* What one head adds to the work of each result. */
typedef struct head_work {
    double *o, *dq, *dk, *dv;
} head_work;

/* A pair (t, s) that decays by exp(b) went through at most 3 (t - s) multiplied decays and 3 exponentials of sums of 32
 * gates a chunk (whose rounding is 32 |b| at most), then through sums over a width and the sequence. */
static void add_pair(const operands *p, head_work *w, int64_t b, int64_t h, int64_t t, int64_t s) {
    const ni_gla *g = &p->g;
    const int64_t kt = ((b * g->seq + t) * g->heads + h) * g->key_dim, ks = kt - (t - s) * g->heads * g->key_dim;
    const int64_t vt = ((b * g->seq + t) * g->heads + h) * g->value_dim, vs = vt - (t - s) * g->heads * g->value_dim;
    double gradient = 0;
    for (int64_t j = 0; j < g->value_dim; j++)
        gradient += g->scale * fabs(p->d_o[vt + j] * p->v[vs + j]);
    for (int64_t i = 0; i < g->key_dim; i++) {
        double b_ts = 0;
        for (int64_t u = s + 1; u <= t; u++)
            b_ts += p->gate[ks + (u - s) * g->heads * g->key_dim + i];
        double roundings = 6 * (double)(t - s) + 32 * fabs(b_ts) + (double)(g->key_dim + g->value_dim + g->seq) + 64;
        double weight = roundings * exp(b_ts), score = weight * g->scale * fabs(p->q[kt + i] * p->k[ks + i]);
        w->dq[kt + i] += weight * gradient * fabs(p->k[ks + i]);
        w->dk[ks + i] += weight * gradient * fabs(p->q[kt + i]);
        for (int64_t j = 0; j < g->value_dim; j++) {
            w->o[vt + j] += score * fabs(p->v[vs + j]);
            w->dv[vs + j] += score * fabs(p->d_o[vt + j]);
        }
    }
}

/* dgate may be taken as the sum over later positions of the document of q dq - k dk. */
static double *gate_work(const operands *p, const head_work *w) {
    const ni_gla *g = &p->g;
    const int64_t pitch = g->heads * g->key_dim;
    double *sum = zeros(p->nk);
    for (int64_t b = 0; b < g->batch; b++) {
        for (int64_t t = g->seq - 1; t >= 0; t--) {
            bool last = t == g->seq - 1 || g->doc_start[b * g->seq + t + 1] == t + 1;
            for (int64_t i = (b * g->seq + t) * pitch; i < (b * g->seq + t + 1) * pitch; i++)
                sum[i] = (last ? 0 : sum[i + pitch]) + fabs(p->q[i]) * w->dq[i] + fabs(p->k[i]) * w->dk[i];
        }
    }
    return sum;
}

static double *work_gla(int index, shape s, const results *want) {
    (void)want;
    operands p = operands_of(s);
    head_work w = {zeros(p.nv), zeros(p.nk), zeros(p.nk), zeros(p.nv)};
    for (int64_t b = 0; b < p.g.batch; b++)
        for (int64_t h = 0; h < p.g.heads; h++)
            for (int64_t t = 0; t < p.g.seq; t++)
                for (int64_t j = p.g.doc_start[b * p.g.seq + t]; j <= t; j++)
                    add_pair(&p, &w, b, h, t, j);
    double *all[] = {w.o, w.dq, w.dk, w.dv};
    return index < 4 ? all[index] : gate_work(&p, &w);
}

static void gla(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        shape s = {(int64_t)i, CASES[i].key_dim};
        everywhere("gla", run_gla, work_gla, s, FUSED);
    }
}

/* fla's plain reference, written by scripts/check_fla.py; in FP32, whose rounding it holds to 7e-7 of the norm. */
static void agrees_with_fla(void **state) {
    (void)state;
    ni_safetensors *file;
    nb_error err = {0};
    if (ni_safetensors_open(NI_TEST_GOLDEN "/fla_gla.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    static const char *const names[] = {"q", "k", "v", "gate", "d_o", "o", "dq", "dk", "dv", "dgate"};
    const ni_file_tensor *t[10];
    for (int i = 0; i < 10; i++)
        assert_non_null(t[i] = ni_safetensors_find(file, names[i]));
    int64_t seq = t[0]->shape[1], heads = t[0]->shape[2], nk = seq * heads * t[0]->shape[3],
            nv = seq * heads * t[2]->shape[3];
    int32_t *starts = poisoned((size_t)seq * sizeof *starts);
    memset(starts, 0, (size_t)seq * sizeof *starts);
    ni_gla g = {1, seq, heads, t[0]->shape[3], t[2]->shape[3], 1 / sqrt((double)t[0]->shape[3]), starts};
    nb_backend *backends[] = {NULL, cpu(NB_ISA_SCALAR, 1), cpu(NB_ISA_AUTO, 2)};
    assert_int_equal(nb_backend_open("ref64", NULL, &backends[0], NULL), NB_OK);
    /* our CPU backends take and give BF16; o and the gradients see a few roundings of 2^-9 */
    static const double limits[] = {1e-6, 0.01, 0.01};
    for (int b = 0; b < 3; b++) {
        nb_backend *be = backends[b];
        void *in[5], *out[5];
        for (int i = 0; i < 5; i++) {
            int64_t n = i == 2 || i == 4 ? nv : nk;
            in[i] = put(i == 3 ? be->real : be->act, get(NB_F32, t[i]->data, n), n);
            out[i] = put(i == 4 ? be->real : be->act, NULL, i == 0 || i == 3 ? nv : nk);
        }
        assert_int_equal(be->ops->gla_forward(be, &g, out[0], in[0], in[1], in[2], in[3], &err), NB_OK);
        assert_int_equal(
            be->ops->gla_backward(be, &g, out[1], out[2], out[3], out[4], in[4], in[0], in[1], in[2], in[3], &err),
            NB_OK);
        for (int i = 0; i < 5; i++) {
            int64_t n = i == 0 || i == 3 ? nv : nk;
            double *got = get(i == 4 ? be->real : be->act, out[i], n), *want = get(NB_F32, t[5 + i]->data, n), off = 0;
            for (int64_t j = 0; j < n; j++)
                off += (got[j] - want[j]) * (got[j] - want[j]);
            off = sqrt(off / inner(want, want, n));
            if (!(off <= limits[b]))
                fail_msg("%s on %s is %g of its norm away from fla's", names[5 + i], be->name, off);
        }
        nb_backend_free(be);
    }
    ni_safetensors_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(gla, release_buffers),
        cmocka_unit_test_teardown(agrees_with_fla, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
