/* isa.c: which instruction sets this machine runs. */
#include "backend/cpu/cpu.h"

#ifdef NI_ARM64
#include <sys/auxv.h>
#endif

const char *nb_isa_name(nb_isa isa) {
    switch (isa) {
    case NB_ISA_AUTO:
        return "auto";
    case NB_ISA_SCALAR:
        return "scalar";
    case NB_ISA_PORTABLE:
        return "portable";
    case NB_ISA_AVX2:
        return "avx2";
    case NB_ISA_AVX512:
        return "avx512";
    }
    return "unknown";
}

/* The features must match the compiler options of *_avx2.c and *_avx512.c in CMakeLists.txt. __builtin_cpu_supports
 * asks the operating system too (XGETBV): a kernel that does not save ZMM registers hides AVX-512 from it. F16C is in
 * every processor that has AVX2. */
bool ni_isa_available(nb_isa isa) {
    switch (isa) {
    case NB_ISA_AUTO:
    case NB_ISA_SCALAR:
    case NB_ISA_PORTABLE:
        return true;
#ifdef NI_X86
    case NB_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case NB_ISA_AVX512:
#ifdef NI_EMULATE_AVX512 /* tests/avx512_emulated.h */
        return ni_isa_available(NB_ISA_AVX2);
#endif
        return ni_isa_available(NB_ISA_AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
               __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16");
#else
    case NB_ISA_AVX2:
    case NB_ISA_AVX512:
        return false;
#endif
    }
    return false;
}

nb_isa ni_isa_best(void) {
    if (ni_isa_available(NB_ISA_AVX512))
        return NB_ISA_AVX512;
    return ni_isa_available(NB_ISA_AVX2) ? NB_ISA_AVX2 : NB_ISA_PORTABLE;
}

bool ni_isa_dotprod(void) {
#ifdef NI_ARM64
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return false;
#endif
}
