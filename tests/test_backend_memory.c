/* test_backend_memory.c: memory of a backend as programs outside have it: what goes in comes out, and what went wrong
 * with work that was queued before is told by who waits for it. */
#include "harness.h"

#include "backend/backend.h"
#include "backend/table.h"

static nb_status lose(nb_backend *be, nb_error *err) {
    (void)be;
    return nb_fail(err, NB_INTERNAL, "cuda: download: GPU 0 is lost");
}

static void bytes_come_back(void **state) {
    (void)state;
    const char *const names[] = {"cpu", "ref64"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        nb_backend *be;
        nb_error err = {0};
        const uint32_t in[3] = {1, 0x80000000u, 3};
        uint32_t out[3] = {0};
        assert_int_equal(nb_backend_open(names[i], NULL, &be, &err), NB_OK);
        void *memory = nb_backend_alloc(be, sizeof in);
        assert_int_equal(nb_backend_write(be, memory, in, sizeof in, &err), NB_OK);
        assert_int_equal(nb_backend_read(be, out, memory, sizeof in, &err), NB_OK);
        assert_memory_equal(in, out, sizeof in);
        nb_backend_release(be, memory);
        nb_backend_free(be);
    }
}

/* A backend whose work fails once it is waited for, as a GPU's does. */
static void faults_are_told(void **state) {
    (void)state;
    nb_backend *be;
    nb_error err = {0};
    uint32_t word = 7;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, &err), NB_OK);
    void *memory = nb_backend_alloc(be, sizeof word);
    ni_backend_ops ops = *be->ops;
    nb_backend lost = *be;
    ops.synchronize = lose;
    lost.ops = &ops;
    assert_int_equal(nb_backend_write(&lost, memory, &word, sizeof word, &err), NB_INTERNAL);
    assert_string_equal(err.message, "cuda: download: GPU 0 is lost");
    err = (nb_error){0};
    assert_int_equal(nb_backend_read(&lost, &word, memory, sizeof word, &err), NB_INTERNAL);
    assert_string_equal(err.message, "cuda: download: GPU 0 is lost");
    assert_int_equal(nb_backend_read(&lost, &word, memory, sizeof word, NULL), NB_INTERNAL);

    /* So do counts that come to the host. */
    static const nb_quantizer nvfp4 = {.element = NB_ELEMENT_E2M1,
                                       .scale_type = NB_SCALE_E4M3,
                                       .outer = NB_OUTER_TENSOR,
                                       .block_rows = 1,
                                       .block_cols = 16};
    static float numbers[16] = {1, 2, 3};
    static _Alignas(64) uint8_t codes[256];
    const nb_mat from = nb_mat_of(numbers, NB_F32, 1, 16);
    const nb_qtensor to = nb_qtensor_place(&nvfp4, 1, 16, codes);
    nb_quantize_stats stats;
    assert_true(nb_qtensor_bytes(&nvfp4, 1, 16).total <= sizeof codes);
    assert_int_equal(nb_quantize(be, &to, &from, false, NULL, &stats, &err), NB_OK);
    assert_int_equal(nb_quantize(&lost, &to, &from, false, NULL, &stats, &err), NB_INTERNAL);
    nb_backend_release(be, memory);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_back),
        cmocka_unit_test(faults_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
