/* ops_kernels.c: which instruction set's kernels a backend runs. */
#include "backend/cpu/ops_kernels.h"
#include "backend/cpu/cpu.h"

const ni_cpu_kernels *ni_cpu_kernels_of(nb_backend *be) {
#ifdef NI_X86
    if (ni_cpu_of(be)->isa == NB_ISA_AVX512)
        return &ni_cpu_kernels_avx512;
    if (ni_cpu_of(be)->isa == NB_ISA_AVX2)
        return &ni_cpu_kernels_avx2;
#else
    (void)be;
#endif
    return &ni_cpu_kernels_portable;
}
