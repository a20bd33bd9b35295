/* gemm_choice.c: who multiplies plain numbers on this machine.
 *
 * An ordered list: each engine says whether it is fit for a product here and why not, by what is known of the
 * processor and of itself. Nothing is timed, so that the same machine always computes the same bits.
 */
#include "backend/cpu/gemm.h"

#include "backend/ref/gemm.h"

#include <stdio.h>
#include <string.h>

static const ni_gemm_engine *const engines[] = {
    &ni_gemm_onednn,
#ifdef NI_X86
    &ni_gemm_own_avx512,
#endif
    &ni_gemm_openblas,
#ifdef NI_X86
    &ni_gemm_own_avx2,
#endif
};
enum { ENGINES = sizeof engines / sizeof *engines };

int32_t ni_gemm_candidates(const ni_cpu *cpu, bool bf16, ni_gemm_candidate list[NI_GEMM_ENGINES]) {
    for (int i = 0; i < ENGINES; i++) {
        list[i] = (ni_gemm_candidate){.engine = engines[i]};
        list[i].fit = engines[i]->fit(cpu, bf16, &list[i].why);
    }
    return ENGINES;
}

static const ni_gemm_engine *first(const ni_cpu *cpu, bool bf16, ni_gemm_fit fit) {
    ni_gemm_candidate list[NI_GEMM_ENGINES];
    int32_t count = ni_gemm_candidates(cpu, bf16, list);
    for (int32_t i = 0; i < count; i++)
        if (list[i].fit == fit)
            return list[i].engine;
    return NULL;
}

void ni_gemm_choose(ni_cpu *cpu) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        cpu->products[bf16] = first(cpu, bf16, NI_GEMM_FITS);
        if (!cpu->products[bf16]) /* OpenBLAS multiplies anything anywhere */
            cpu->products[bf16] = first(cpu, bf16, NI_GEMM_SLOW);
    }
}

/* ---- the operations of the table ---- */

static bool both_bf16(nb_dtype a, nb_dtype b) {
    return a == NB_BF16 && b == NB_BF16;
}

const char *ni_cpu_gemm_kernel(nb_backend *be, nb_dtype a, nb_dtype b) {
    if (a == NB_F64 || b == NB_F64)
        return ni_ref_gemm_kernel(be, a, b);
    const ni_gemm_engine *engine = ni_cpu_of(be)->products[both_bf16(a, b)];
    return a == NB_BF16 || b == NB_BF16 ? engine->bf16 : engine->f32;
}

void ni_cpu_gemm_sums(nb_backend *be, nb_dtype a, nb_dtype b, char *text, size_t size) {
    ni_cpu_of(be)->products[both_bf16(a, b)]->sums(text, size);
}

char *ni_cpu_gemm_choices(nb_backend *be) {
    return ni_ref_gemm_choices(be);
}

nb_status ni_cpu_gemm_choose(nb_backend *be, const char *choices, nb_error *err) {
    return ni_ref_gemm_choose(be, choices, err);
}

/* Everything here sums in a fixed order: there is nothing to permit. */
nb_status ni_cpu_permit(nb_backend *be, const ni_permits *permits, nb_error *err) {
    return ni_ref_permit(be, permits, err);
}

nb_status ni_cpu_gemm_take(nb_backend *be, nb_dtype a, nb_dtype b, const char *sums, nb_error *err) {
    ni_cpu *cpu = ni_cpu_of(be);
    ni_gemm_candidate list[NI_GEMM_ENGINES];
    bool bf16 = both_bf16(a, b);
    char here[NI_GEMM_SUMS_SIZE];
    int32_t count = ni_gemm_candidates(cpu, bf16, list);
    for (int32_t i = 0; i < count; i++) {
        list[i].engine->sums(here, sizeof here);
        if (list[i].fit != NI_GEMM_CANNOT && strcmp(here, sums) == 0) {
            cpu->products[bf16] = list[i].engine;
            return NB_OK;
        }
    }
    cpu->products[bf16]->sums(here, sizeof here);
    return nb_fail(err, NB_UNSUPPORTED, "products of %s by %s: this machine has no sums \"%.63s\"; it has \"%s\"",
                   nb_dtype_name(a), nb_dtype_name(b), sums, here);
}
