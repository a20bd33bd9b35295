/* gla_case.h: shapes and numbers of gated linear attention, and what rounding may do to its results. */
#ifndef NI_TEST_GLA_CASE_H
#define NI_TEST_GLA_CASE_H

#include "backend/arguments.h"
#include "harness.h"

/* Sequences around the chunk of 32, widths around the padding of 32, documents of these lengths (0 = whole sequences),
 * gates of this size. Behind the first nine: every pair of widths for which a GPU has kernels of its own; the last are
 * whole chunks of several sequences and heads, and steep gates where documents begin inside of sub-blocks. */
typedef struct gla_case {
    int64_t batch, seq, heads, key_dim, value_dim;
    int32_t document;
    double gate;
} gla_case;

static const gla_case GLA[] = {
    {1, 1, 1, 16, 16, 0, 1},        {2, 31, 2, 24, 40, 0, 0.05},  {1, 32, 1, 32, 64, 0, 0.05},
    {1, 33, 2, 16, 32, 0, 0.5},     {2, 100, 2, 32, 16, 23, 0.1}, {1, 150, 1, 64, 32, 40, 0.02},
    {1, 40, 2, 16, 16, 1, 1},       {1, 70, 1, 16, 48, 0, 30},    {1, 130, 2, 64, 128, 0, 0.05},
    {1, 70, 1, 16, 128, 0, 0.1},    {1, 66, 1, 16, 192, 20, 0.1}, {1, 40, 1, 16, 264, 0, 0.1},
    {1, 70, 2, 32, 256, 33, 0.1},   {1, 66, 1, 32, 512, 0, 0.1},  {1, 70, 1, 128, 32, 0, 0.05},
    {1, 66, 1, 104, 72, 40, 0.1},   {1, 70, 1, 256, 24, 0, 0.05}, {1, 66, 1, 200, 64, 50, 0.1},
    {2, 144, 2, 72, 80, 50, 0.1},   {2, 40, 2, 16, 24, 0, 0.1},   {1, 320, 1, 128, 256, 90, 0.05},
    {1, 128, 1, 64, 256, 0, 0.05},  {2, 64, 1, 128, 128, 0, 0.1}, {2, 192, 2, 128, 256, 130, 0.05},
    {1, 128, 2, 256, 256, 40, 0.1}, {2, 128, 2, 128, 256, 11, 4}, {2, 70, 2, 16, 24, 9, 80},
};
enum { GLA_SHAPES = sizeof GLA / sizeof *GLA, GLA_FIRST = 9 };

/* First position of each one's document; sequences break at different places. */
static UNUSED int32_t *starts_of(int64_t batch, int64_t seq, int32_t document) {
    int32_t *start = poisoned((size_t)(batch * seq) * sizeof *start);
    for (int64_t i = 0; i < batch * seq; i++) {
        const int32_t t = (int32_t)(i % seq), phase = (int32_t)(i / seq) * 5;
        const int32_t first = document ? t - (t + phase) % document : 0;
        start[i] = first < 0 ? 0 : first;
    }
    return start;
}

typedef struct linear {
    ni_gla g; /* documents on the host */
    int64_t nk, nv;
    double *q, *k, *v, *gate, *d_o; /* exact in BF16, in F32 */
} linear;

static UNUSED linear linear_of(int which) {
    const gla_case *c = &GLA[which];
    linear p = {.g = {.batch = c->batch,
                      .seq = c->seq,
                      .heads = c->heads,
                      .key_dim = c->key_dim,
                      .value_dim = c->value_dim,
                      .scale = 1 / sqrt((double)c->key_dim),
                      .doc_start = starts_of(c->batch, c->seq, c->document)}};
    p.nk = c->batch * c->seq * c->heads * c->key_dim;
    p.nv = c->batch * c->seq * c->heads * c->value_dim;
    p.q = normals_in(NB_BF16, 1, p.nk, 0, 1);
    p.k = normals_in(NB_BF16, 2, p.nk, 0, 1);
    p.v = normals_in(NB_BF16, 3, p.nv, 0, 1);
    p.d_o = normals_in(NB_BF16, 4, p.nv, 0, 1);
    p.gate = normals_in(NB_F32, 5, p.nk, 0, c->gate);
    for (int64_t i = 0; i < p.nk; i++)
        p.gate[i] = -fabs(p.gate[i]);
    return p;
}

/* What the pairs of positions add to the work of each result. */
typedef struct pair_work {
    double *o, *dq, *dk, *dv;
} pair_work;

/* A pair (t, s) that decays by exp(b) went through at most 3 (t - s) multiplied decays and 3 exponentials of sums of 32
 * gates a chunk (whose rounding is 32 |b| at most), then through sums over a width and the sequence. Where tensor cores
 * take BF16, one rounding to which is worth `narrow` of FP32, a decayed query, a decayed key, and between them their
 * score (in one chunk) or a state (across chunks) are rounded to it: three. */
static UNUSED void add_pair(const linear *p, pair_work *w, int64_t b, int64_t h, int64_t t, int64_t s, double narrow) {
    const ni_gla *g = &p->g;
    const int64_t kt = ((b * g->seq + t) * g->heads + h) * g->key_dim, ks = kt - (t - s) * g->heads * g->key_dim;
    const int64_t vt = ((b * g->seq + t) * g->heads + h) * g->value_dim, vs = vt - (t - s) * g->heads * g->value_dim;
    double gradient = 0, score = 0;
    for (int64_t j = 0; j < g->value_dim; j++)
        gradient += g->scale * fabs(p->d_o[vt + j] * p->v[vs + j]);
    for (int64_t i = 0; i < g->key_dim; i++) {
        double decay = 0;
        for (int64_t u = s + 1; u <= t; u++)
            decay += p->gate[ks + (u - s) * g->heads * g->key_dim + i];
        const double roundings =
            6 * (double)(t - s) + 32 * fabs(decay) + (double)(g->key_dim + g->value_dim + g->seq) + 64 + 3 * narrow;
        const double weight = roundings * exp(decay);
        score += weight * g->scale * fabs(p->q[kt + i] * p->k[ks + i]);
        w->dq[kt + i] += weight * gradient * fabs(p->k[ks + i]);
        w->dk[ks + i] += weight * gradient * fabs(p->q[kt + i]);
    }
    for (int64_t j = 0; j < g->value_dim; j++) {
        w->o[vt + j] += score * fabs(p->v[vs + j]);
        w->dv[vs + j] += score * fabs(p->d_o[vt + j]);
    }
}

/* dgate may be taken as the sum over later positions of the document of q dq - k dk. */
static UNUSED double *gate_work(const linear *p, const pair_work *w) {
    const ni_gla *g = &p->g;
    const int64_t pitch = g->heads * g->key_dim;
    double *sum = zeros(p->nk);
    for (int64_t b = 0; b < g->batch; b++)
        for (int64_t t = g->seq - 1; t >= 0; t--) {
            const bool last = t == g->seq - 1 || g->doc_start[b * g->seq + t + 1] == t + 1;
            for (int64_t i = (b * g->seq + t) * pitch; i < (b * g->seq + t + 1) * pitch; i++)
                sum[i] = (last ? 0 : sum[i + pitch]) + fabs(p->q[i]) * w->dq[i] + fabs(p->k[i]) * w->dk[i];
        }
    return sum;
}

/* Of result `index` of o, dq, dk, dv, dgate, in roundings of FP32. */
static UNUSED double *linear_work(const linear *p, int index, double narrow) {
    pair_work w = {zeros(p->nv), zeros(p->nk), zeros(p->nk), zeros(p->nv)};
    for (int64_t b = 0; b < p->g.batch; b++)
        for (int64_t h = 0; h < p->g.heads; h++)
            for (int64_t t = 0; t < p->g.seq; t++)
                for (int64_t j = p->g.doc_start[b * p->g.seq + t]; j <= t; j++)
                    add_pair(p, &w, b, h, t, j, narrow);
    double *all[] = {w.o, w.dq, w.dk, w.dv};
    return index < 4 ? all[index] : gate_work(p, &w);
}

#endif
