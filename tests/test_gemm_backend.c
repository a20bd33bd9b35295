/* test_gemm_backend.c: the CPU backend object: creation, options, memory. */
#include "backend/table.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"

static void creates_every_available_isa(void **state) {
    (void)state;
    for (int isa = NB_ISA_AUTO; isa <= NB_ISA_AVX512; isa++) {
        nb_backend_options options = {2, (nb_isa)isa};
        nb_backend *be = NULL;
        nb_error err = {0};
        nb_status status = nb_backend_open("cpu", &options, &be, &err);
        if (!ni_isa_available((nb_isa)isa)) {
            assert_int_equal(status, NB_UNSUPPORTED);
            continue;
        }
        assert_int_equal(status, NB_OK);
        assert_int_equal(ni_cpu_of(be)->threads, 2);
        assert_int_not_equal(ni_cpu_of(be)->isa, NB_ISA_AUTO);
        assert_int_equal(be->act, NB_BF16);
        assert_int_equal(be->real, NB_F32);
        assert_non_null(be->ops->gemm);
        nb_backend_free(be);
    }
    nb_backend_free(NULL);
}

static void refuses_bad_options(void **state) {
    (void)state;
    nb_backend *be = NULL;
    nb_error err = {0};
    nb_backend_options negative = {-1, NB_ISA_AUTO};
    assert_int_equal(nb_backend_open("cpu", &negative, &be, &err), NB_BAD_USAGE);
    nb_backend_options unknown = {0, (nb_isa)99};
    assert_int_equal(nb_backend_open("cpu", &unknown, &be, &err), NB_BAD_USAGE);
    assert_null(be);
}

static void memory_is_aligned_and_zero(void **state) {
    (void)state;
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        unsigned char *p = be->ops->alloc(be, bytes, "a test");
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(p[i], 0);
        be->ops->release(be, p);
    }
    assert_null(be->ops->alloc(be, SIZE_MAX - 8, "a test"));
    nb_backend_free(be);
}

static void scratch_grows_and_stays(void **state) {
    (void)state;
    nb_backend_options options = {3, NB_ISA_AUTO};
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
    char *own = ni_cpu_scratch(be, 2, 100);
    char *shared = ni_cpu_shared(be, NI_CPU_SHARED_BYTES + 1);
    assert_non_null(own);
    assert_non_null(shared);
    assert_ptr_not_equal(own, shared);
    assert_ptr_equal(ni_cpu_scratch(be, 2, 4096), own);
    assert_int_equal(ni_cpu_scratch_total(be), 4096 + NI_CPU_SHARED_BYTES + 4096);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creates_every_available_isa),
        cmocka_unit_test(refuses_bad_options),
        cmocka_unit_test(memory_is_aligned_and_zero),
        cmocka_unit_test(scratch_grows_and_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
