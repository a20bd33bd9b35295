/* test_ops_gla.c: gated linear attention of the CPU backend against the recurrence in double. Builds with FMA agree bit
 * for bit, and all for every number of threads. */
#include "backend/table.h"
#include "everywhere.h"
#include "gla_case.h"

#include "files/safetensors.h"

static results run_gla(nb_backend *be, shape s) {
    results r = {0};
    const linear p = linear_of((int)s.n); /* a shape's n is an index into the table */
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

static double *work_gla(int index, shape s, const results *want) {
    (void)want;
    const linear p = linear_of((int)s.n);
    return linear_work(&p, index, 0);
}

static void gla(void **state) {
    (void)state;
    for (size_t i = 0; i < GLA_FIRST; i++) {
        shape s = {(int64_t)i, GLA[i].key_dim};
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
    ni_gla g = {.batch = 1,
                .seq = seq,
                .heads = heads,
                .key_dim = t[0]->shape[3],
                .value_dim = t[2]->shape[3],
                .scale = 1 / sqrt((double)t[0]->shape[3]),
                .doc_start = starts};
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
