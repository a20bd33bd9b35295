/* test_ops_gradients.c: every backward operation of the double-precision reference against central differences of its
 * forward: loss = <c, forward(x)> for a fixed random c, so d loss / dx is backward(c). */
#include "backend/table.h"
#include "harness.h"

static nb_backend *be;

/* One forward pass into scratch outputs and its inner product with c. */
typedef struct problem {
    double *x[4];        /* inputs, in the order of the operation's arguments */
    double *y, *c, *aux; /* output, its weights, saved statistics */
    int64_t n, dim;
    const int32_t *index; /* tokens, positions or targets */
    nb_attention attention;
    double eps, normalizer, clamp, z_loss;
} problem;

/* ---- norms ---- */

static double rmsnorm_loss(void *context) {
    problem *p = context;
    const nb_mat y = nb_mat_of(p->y, NB_F64, p->n, p->dim);
    be->ops->rmsnorm_forward(be, &y, p->aux, p->x[0], p->x[1], p->eps);
    return inner(p->c, p->y, p->n * p->dim);
}

static void rmsnorm(void **state) {
    (void)state;
    problem p = {.n = 5, .dim = 12, .eps = 1e-2};
    int64_t n = p.n * p.dim;
    p.x[0] = normals(1, n, 0.3, 1);
    p.x[1] = normals(2, p.dim, 1, 0.5);
    p.y = put(NB_F64, NULL, n);
    p.aux = put(NB_F64, NULL, p.n);
    p.c = normals(3, n, 0, 1);
    rmsnorm_loss(&p);
    double *dx = put(NB_F64, NULL, n), *dw = zeros(p.dim);
    const nb_mat to = nb_mat_of(dx, NB_F64, p.n, p.dim);
    be->ops->rmsnorm_backward(be, &to, dw, p.c, p.x[0], p.x[1], p.aux);
    check_gradient("rmsnorm dx", p.x[0], n, dx, rmsnorm_loss, &p);
    check_gradient("rmsnorm dw", p.x[1], p.dim, dw, rmsnorm_loss, &p);
}

static double gated_norm_loss(void *context) {
    problem *p = context;
    const nb_mat y = nb_mat_of(p->y, NB_F64, p->n, p->dim);
    be->ops->gated_norm_forward(be, &y, p->aux, p->x[0], p->x[1], p->x[2], p->eps);
    return inner(p->c, p->y, p->n * p->dim);
}

static void gated_norm(void **state) {
    (void)state;
    problem p = {.n = 4, .dim = 10, .eps = 1e-2};
    int64_t n = p.n * p.dim;
    p.x[0] = normals(1, n, 0.2, 1);
    p.x[1] = normals(2, n, 0, 1.5);
    p.x[2] = normals(3, p.dim, 1, 0.5);
    p.y = put(NB_F64, NULL, n);
    p.aux = put(NB_F64, NULL, p.n);
    p.c = normals(4, n, 0, 1);
    gated_norm_loss(&p);
    double *d_o = put(NB_F64, NULL, n), *dg = put(NB_F64, NULL, n), *dw = zeros(p.dim);
    const nb_mat to_g = nb_mat_of(dg, NB_F64, p.n, p.dim);
    be->ops->gated_norm_backward(be, d_o, &to_g, dw, p.c, p.x[0], p.x[1], p.x[2], p.aux);
    check_gradient("gated_norm do", p.x[0], n, d_o, gated_norm_loss, &p);
    check_gradient("gated_norm dg", p.x[1], n, dg, gated_norm_loss, &p);
    check_gradient("gated_norm dw", p.x[2], p.dim, dw, gated_norm_loss, &p);
}

/* ---- elementwise ---- */

static double swiglu_loss(void *context) {
    problem *p = context;
    const nb_mat y = nb_mat_of(p->y, NB_F64, 1, p->n);
    be->ops->swiglu_forward(be, &y, p->x[0], p->x[1]);
    return inner(p->c, p->y, p->n);
}

static void swiglu(void **state) {
    (void)state;
    problem p = {.n = 64};
    p.x[0] = normals(1, p.n, 0, 2);
    p.x[1] = normals(2, p.n, 0, 1);
    p.y = put(NB_F64, NULL, p.n);
    p.c = normals(3, p.n, 0, 1);
    double *dgate = put(NB_F64, NULL, p.n), *dup = put(NB_F64, NULL, p.n);
    const nb_mat gate = nb_mat_of(dgate, NB_F64, 1, p.n), up = nb_mat_of(dup, NB_F64, 1, p.n);
    be->ops->swiglu_backward(be, &gate, &up, p.c, p.x[0], p.x[1]);
    check_gradient("swiglu dgate", p.x[0], p.n, dgate, swiglu_loss, &p);
    check_gradient("swiglu dup", p.x[1], p.n, dup, swiglu_loss, &p);
}

static double gate_loss(void *context) {
    problem *p = context;
    be->ops->gla_gate_forward(be, p->y, p->x[0], p->x[1], p->n, p->dim, p->normalizer, p->clamp);
    return inner(p->c, p->y, p->n * p->dim);
}

static void gate(void **state) {
    (void)state;
    for (int clamped = 0; clamped < 2; clamped++) {
        problem p = {.n = 6, .dim = 8, .normalizer = 2, .clamp = clamped ? -0.7 : -INFINITY};
        int64_t n = p.n * p.dim;
        p.x[0] = normals(1, n, 0, 2);
        p.x[1] = normals(2, p.dim, 0, 1);
        p.y = put(NB_F64, NULL, n);
        p.c = normals(3, n, 0, 1);
        double *da = put(NB_F64, NULL, n), *dbias = zeros(p.dim);
        be->ops->gla_gate_backward(be, da, dbias, p.c, p.x[0], p.x[1], p.n, p.dim, p.normalizer, p.clamp);
        check_gradient("gate da", p.x[0], n, da, gate_loss, &p);
        check_gradient("gate dbias", p.x[1], p.dim, dbias, gate_loss, &p);
        gate_loss(&p);
        int64_t at_clamp = 0;
        for (int64_t i = 0; i < n; i++) {
            at_clamp += p.y[i] == p.clamp;
            assert_true(p.y[i] <= 0);
        }
        assert_true(clamped ? at_clamp > 3 && at_clamp < n : at_clamp == 0);
    }
}

static double embed_loss(void *context) {
    problem *p = context;
    be->ops->embed_forward(be, p->y, p->x[0], p->index, p->n, p->dim);
    return inner(p->c, p->y, p->n * p->dim);
}

/* A token that comes twice, one that never comes; the gradient is added, as a tied head needs it. */
static void embedding(void **state) {
    (void)state;
    const int32_t tokens[] = {3, 0, 3, 6, 1};
    enum { VOCAB = 7 };
    problem p = {.n = 5, .dim = 4, .index = tokens};
    p.x[0] = normals(1, VOCAB * p.dim, 0, 1);
    p.y = put(NB_F64, NULL, p.n * p.dim);
    p.c = normals(2, p.n * p.dim, 0, 1);
    double *dtable = zeros(VOCAB * p.dim);
    be->ops->embed_backward(be, dtable, p.c, tokens, p.n, p.dim, VOCAB);
    check_gradient("embedding", p.x[0], VOCAB * p.dim, dtable, embed_loss, &p);
    double *twice = get(NB_F64, dtable, VOCAB * p.dim);
    be->ops->embed_backward(be, twice, p.c, tokens, p.n, p.dim, VOCAB);
    for (int64_t i = 0; i < VOCAB * p.dim; i++)
        assert_true(fabs(twice[i] - 2 * dtable[i]) <= 1e-14 * fabs(dtable[i]));
}

static double rope_loss(void *context) {
    problem *p = context;
    memcpy(p->y, p->x[0], (size_t)(p->n * 2 * p->dim) * sizeof *p->y);
    const nb_mat y = nb_mat_of(p->y, NB_F64, p->n, 2 * p->dim);
    be->ops->rope(be, &y, p->index, 2, &(ni_rope){.theta = 100}, false);
    return inner(p->c, p->y, p->n * 2 * p->dim);
}

static void rope(void **state) {
    (void)state;
    const int32_t positions[] = {0, 1, 2, 0, 1000};
    problem p = {.n = 5, .dim = 6, .index = positions};
    int64_t n = p.n * 2 * p.dim;
    p.x[0] = normals(1, n, 0, 1);
    p.y = put(NB_F64, NULL, n);
    p.c = normals(2, n, 0, 1);
    double *dx = get(NB_F64, p.c, n);
    const nb_mat turned = nb_mat_of(dx, NB_F64, p.n, 2 * p.dim);
    be->ops->rope(be, &turned, positions, 2, &(ni_rope){.theta = 100}, true);
    check_gradient("rope", p.x[0], n, dx, rope_loss, &p);
    /* position 0 stands still; position 1, pair 1 turns by theta^(-2/6) */
    rope_loss(&p);
    assert_memory_equal(p.y, p.x[0], 2 * 6 * sizeof *p.y);
    double angle = pow(100, -2.0 / 6), a = p.x[0][13], b = p.x[0][16];
    assert_true(fabs(p.y[13] - (a * cos(angle) - b * sin(angle))) < 1e-14);
    assert_true(fabs(p.y[16] - (b * cos(angle) + a * sin(angle))) < 1e-14);
}

/* ---- cross entropy ---- */

/* Sum over the scored rows of scale (loss + z_loss lse^2): what dlogits is the gradient of. */
static double cross_entropy_loss(void *context) {
    problem *p = context;
    be->ops->cross_entropy(be, p->y, p->aux, NULL, p->x[0], p->index, p->n, p->dim, 1, p->z_loss);
    double sum = 0;
    for (int64_t r = 0; r < p->n; r++)
        sum += p->index[r] < 0 ? 0 : p->y[r] + p->z_loss * p->aux[r] * p->aux[r];
    return 0.25 * sum;
}

static void cross_entropy(void **state) {
    (void)state;
    const int32_t targets[] = {2, -1, 0, 10, -1};
    for (int with_z = 0; with_z < 2; with_z++) {
        problem p = {.n = 5, .dim = 11, .index = targets, .z_loss = with_z ? 0.1 : 0};
        int64_t n = p.n * p.dim;
        p.x[0] = normals(1, n, 0.5, 2);
        p.y = put(NB_F64, NULL, p.n);
        p.aux = put(NB_F64, NULL, p.n);
        double *dlogits = put(NB_F64, NULL, n);
        be->ops->cross_entropy(be, p.y, NULL, dlogits, p.x[0], targets, p.n, p.dim, 0.25, p.z_loss);
        assert_true(p.y[1] == 0 && p.y[4] == 0 && p.y[0] > 0);
        for (int64_t c = 0; c < p.dim; c++)
            assert_true(dlogits[p.dim + c] == 0 && dlogits[4 * p.dim + c] == 0);
        check_gradient("cross entropy", p.x[0], n, dlogits, cross_entropy_loss, &p);
        double *in_place = get(NB_F64, p.x[0], n);
        be->ops->cross_entropy(be, p.y, NULL, in_place, in_place, targets, p.n, p.dim, 0.25, p.z_loss);
        check_equal_bytes("in place", in_place, dlogits, (size_t)n * sizeof *dlogits);
    }
}

/* ---- attention ---- */

static double attention_loss(void *context) {
    problem *p = context;
    nb_error err;
    assert_int_equal(be->ops->attention_forward(be, &p->attention, p->y, p->aux, p->x[0], p->x[1], p->x[2], &err),
                     NB_OK);
    return inner(p->c, p->y, p->n);
}

static void attention(void **state) {
    (void)state;
    /* two sequences of documents: [0 1 2 3 | 4 5 | 6 7 8] and one whole */
    const int32_t doc_start[] = {0, 0, 0, 0, 4, 4, 6, 6, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    const int kv_heads[] = {4, 2, 1};
    for (int i = 0; i < 3; i++) {
        problem p = {.attention = {.batch = 2,
                                   .seq = 9,
                                   .heads = 4,
                                   .kv_heads = kv_heads[i],
                                   .head_dim = 6,
                                   .scale = 0.7,
                                   .doc_start = doc_start}};
        int64_t nq = p.n = 2 * 9 * 4 * 6, nk = 2 * 9 * kv_heads[i] * 6;
        p.x[0] = normals(1, nq, 0, 1);
        p.x[1] = normals(2, nk, 0, 1);
        p.x[2] = normals(3, nk, 0, 1);
        p.y = put(NB_F64, NULL, nq);
        p.aux = put(NB_F64, NULL, 2 * 4 * 9);
        p.c = normals(4, nq, 0, 1);
        attention_loss(&p);
        double *dq = put(NB_F64, NULL, nq), *dk = put(NB_F64, NULL, nk), *dv = put(NB_F64, NULL, nk);
        nb_error err;
        assert_int_equal(
            be->ops->attention_backward(be, &p.attention, dq, dk, dv, p.c, p.y, p.aux, p.x[0], p.x[1], p.x[2], &err),
            NB_OK);
        check_gradient("attention dq", p.x[0], nq, dq, attention_loss, &p);
        check_gradient("attention dk", p.x[1], nk, dk, attention_loss, &p);
        check_gradient("attention dv", p.x[2], nk, dv, attention_loss, &p);
        /* the first position of a document sees itself alone: o = v */
        int64_t group = 4 / kv_heads[i];
        for (int64_t h = 0; h < 4; h++)
            for (int64_t c = 0; c < 6; c++)
                assert_true(fabs(p.y[(4 * 4 + h) * 6 + c] - p.x[2][(4 * kv_heads[i] + h / group) * 6 + c]) < 1e-14);
    }
}

static void attention_refuses(void **state) {
    (void)state;
    const nb_attention uneven = {.batch = 1, .seq = 3, .heads = 4, .kv_heads = 3, .head_dim = 8, .scale = 1};
    nb_error err = {0};
    assert_int_equal(be->ops->attention_forward(be, &uneven, NULL, NULL, NULL, NULL, NULL, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "3 key heads"));
}

/* ---- gated linear attention ---- */

typedef struct scan {
    ni_gla g;
    double *x[4], *o, *c; /* q, k, v, gate */
    int64_t nk, nv;
} scan;

static double gla_loss(void *context) {
    scan *p = context;
    nb_error err;
    assert_int_equal(be->ops->gla_forward(be, &p->g, p->o, p->x[0], p->x[1], p->x[2], p->x[3], &err), NB_OK);
    return inner(p->c, p->o, p->nv);
}

static void gla(void **state) {
    (void)state;
    const int32_t doc_start[] = {0, 0, 0, 3, 3, 5, 5, 0, 0, 0, 0, 0, 0, 6};
    scan p = {
        .g = {.batch = 2, .seq = 7, .heads = 2, .key_dim = 3, .value_dim = 4, .scale = 0.6, .doc_start = doc_start},
        .nk = 2 * 7 * 2 * 3,
        .nv = 2 * 7 * 2 * 4};
    for (uint32_t i = 0; i < 4; i++)
        p.x[i] = normals(i, i == 2 ? p.nv : p.nk, 0, 1);
    for (int64_t i = 0; i < p.nk; i++)
        p.x[3][i] = -fabs(p.x[3][i]);
    p.o = put(NB_F64, NULL, p.nv);
    p.c = normals(5, p.nv, 0, 1);
    double *dq = put(NB_F64, NULL, p.nk), *dk = put(NB_F64, NULL, p.nk), *dv = put(NB_F64, NULL, p.nv);
    double *dgate = put(NB_F64, NULL, p.nk);
    nb_error err;
    assert_int_equal(be->ops->gla_backward(be, &p.g, dq, dk, dv, dgate, p.c, p.x[0], p.x[1], p.x[2], p.x[3], &err),
                     NB_OK);
    check_gradient("gla dq", p.x[0], p.nk, dq, gla_loss, &p);
    check_gradient("gla dk", p.x[1], p.nk, dk, gla_loss, &p);
    check_gradient("gla dv", p.x[2], p.nv, dv, gla_loss, &p);
    check_gradient("gla dgate", p.x[3], p.nk, dgate, gla_loss, &p);
    /* the first position of a document: o = scale (q.k) v, whatever came before */
    for (int64_t j = 0; j < 4; j++)
        assert_true(fabs(p.o[3 * 8 + j] - 0.6 * inner(p.x[0] + 3 * 6, p.x[1] + 3 * 6, 3) * p.x[2][3 * 8 + j]) < 1e-14);
}

/* ---- optimizer and sums ---- */

/* arXiv:1711.05101, algorithm 2, with the bias corrections written out as that paper does. */
static void adamw(void **state) {
    (void)state;
    enum { N = 9, STEPS = 4 };
    double *param = normals(1, N, 0, 1), *m = zeros(N), *v = zeros(N);
    double *want = get(NB_F64, param, N), first[N] = {0}, second[N] = {0};
    for (int64_t t = 1; t <= STEPS; t++) {
        const ni_adamw step = {3e-2, 0.9, 0.95, 1e-8, 0.5, t};
        double *grad = normals(10 + (uint32_t)t, N, 0, 1);
        const ni_adamw_tensor all = ni_adamw_plain(NB_F64, param, m, v, grad, N, 0.1);
        be->ops->adamw(be, &all, 1, &step);
        for (int i = 0; i < N; i++) {
            double g = 0.5 * grad[i];
            first[i] = 0.9 * first[i] + 0.1 * g;
            second[i] = 0.95 * second[i] + 0.05 * g * g;
            double mhat = first[i] / (1 - pow(0.9, (double)t)), vhat = second[i] / (1 - pow(0.95, (double)t));
            want[i] -= 3e-2 * (mhat / (sqrt(vhat) + 1e-8) + 0.1 * want[i]);
            assert_true(fabs(param[i] - want[i]) <= 1e-14);
        }
    }
}

static void sums_and_elements(void **state) {
    (void)state;
    double x[] = {1, -2, 4}, y[] = {0.5, 0.25, 8}, out[3];
    be->ops->sum(be, &out[0], x, 3);
    be->ops->sum_squares(be, &out[1], x, 3);
    assert_true(out[0] == 3 && out[1] == 21);
    be->ops->add(be, out, x, y, 3);
    assert_true(out[0] == 1.5 && out[1] == -1.75 && out[2] == 12);
    be->ops->axpy(be, y, 2, x, 3);
    assert_true(y[0] == 2.5 && y[1] == -3.75 && y[2] == 16);
}

static int create(void **state) {
    (void)state;
    return nb_backend_open("ref64", NULL, &be, NULL);
}

static int destroy(void **state) {
    (void)state;
    nb_backend_free(be);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(rmsnorm, release_buffers),
        cmocka_unit_test_teardown(gated_norm, release_buffers),
        cmocka_unit_test_teardown(swiglu, release_buffers),
        cmocka_unit_test_teardown(gate, release_buffers),
        cmocka_unit_test_teardown(embedding, release_buffers),
        cmocka_unit_test_teardown(rope, release_buffers),
        cmocka_unit_test_teardown(cross_entropy, release_buffers),
        cmocka_unit_test_teardown(attention, release_buffers),
        cmocka_unit_test_teardown(attention_refuses, release_buffers),
        cmocka_unit_test_teardown(gla, release_buffers),
        cmocka_unit_test_teardown(adamw, release_buffers),
        cmocka_unit_test_teardown(sums_and_elements, release_buffers),
    };
    return cmocka_run_group_tests(tests, create, destroy);
}
