/* gemm_without.c: in the places of OpenBLAS and oneDNN where a build has neither (NIBBLE_CARRIED): plain loops, for
 * what no kernel of ours multiplies. */
#include "backend/cpu/gemm.h"

#include "backend/ref/ref.h"

#include <stdio.h>

static ni_gemm_fit loops_fit(const ni_cpu *cpu, bool bf16, const char **why) {
    (void)cpu, (void)bf16;
    *why = "this build has no OpenBLAS, and plain loops are for processors without AVX2";
    return NI_GEMM_SLOW;
}

static void loops_sums(char *text, size_t size) {
    snprintf(text, size, "loops");
}

static nb_status loops_prepare(nb_backend *be, const ni_gemm_tile *tile, size_t *scratch, nb_error *err) {
    (void)be, (void)tile, (void)err;
    *scratch = 0;
    return NB_OK;
}

static bool loops_run(nb_backend *be, const ni_gemm_tile *t, void *scratch) {
    (void)scratch;
    nb_error err;
    return ni_ref_gemm(be, &t->c, &t->a, t->trans_a, &t->b, t->trans_b, t->accumulate, &err) == NB_OK;
}

const ni_gemm_engine ni_gemm_openblas = {
    .name = "loops",
    .f32 = "f32 loops",
    .bf16 = "bf16 widened, f32 loops",
    .fit = loops_fit,
    .sums = loops_sums,
    .prepare = loops_prepare,
    .run = loops_run,
};

static ni_gemm_fit none_fit(const ni_cpu *cpu, bool bf16, const char **why) {
    (void)cpu, (void)bf16;
    *why = "this build has no oneDNN";
    return NI_GEMM_CANNOT;
}

static void none_sums(char *text, size_t size) {
    snprintf(text, size, "onednn none");
}

const ni_gemm_engine ni_gemm_onednn = {
    .name = "onednn", .f32 = "f32 onednn", .bf16 = "bf16 onednn", .fit = none_fit, .sums = none_sums};

void ni_onednn_version(char *text, size_t size) {
    snprintf(text, size, "none");
}

void ni_openblas_version(char *text, size_t size) {
    snprintf(text, size, "none");
}

void ni_onednn_free(ni_onednn *d) {
    (void)d; /* none was made */
}
