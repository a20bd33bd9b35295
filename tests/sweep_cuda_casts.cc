/* sweep_cuda_casts.cc: every one of the 2^32 floats through our casts and those of CUDA's host headers.
 *
 * A C++ program because the headers are; built where CMake finds them. Takes under a minute a core.
 *     sweep_cuda_casts [FIRST LAST]      floats by their bits, hexadecimal; all of them by default
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>

#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/e5m2.h"

static const char *const names[] = {"e2m1", "e4m3", "e5m2", "bf16"};
enum { CASTS = 4 };

static uint32_t ours(int cast, float x) {
    switch (cast) {
    case 0:
        return ni_e2m1_even(x);
    case 1:
        return ni_e4m3_even(x);
    case 2:
        return ni_e5m2_even(x);
    default:
        return ni_bf16_even(x);
    }
}

static uint32_t cuda(int cast, float x) {
    switch (cast) {
    case 0:
        return __nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest);
    case 1:
        return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    case 2:
        return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2);
    default: {
        __nv_bfloat16_raw raw = __float2bfloat16_rn(x);
        return raw.x;
    }
    }
}

/* One name for all NaNs: which of them a cast gives is checked by test_format. */
static uint32_t canonical(int cast, uint32_t code) {
    if (cast == 3 && (code & 0x7fff) > 0x7f80)
        return 0x7fff;
    return cast == 1 && (code & 0x7f) == 0x7f ? 0x7f : cast == 2 && (code & 0x7f) > 0x7c ? 0x7f : code;
}

int main(int argc, char **argv) {
    uint64_t first = argc > 2 ? strtoull(argv[1], NULL, 16) : 0,
             last = argc > 2 ? strtoull(argv[2], NULL, 16) : 0xffffffff;
    uint64_t wrong = 0;
#pragma omp parallel for reduction(+ : wrong) schedule(static, 1 << 20)
    for (uint64_t bits = first; bits <= last; bits++) {
        float x = ni_f32_from((uint32_t)bits);
        for (int cast = 0; cast < CASTS; cast++) {
            uint32_t a = canonical(cast, ours(cast, x)), b = canonical(cast, cuda(cast, x));
            if (a != b && wrong++ < 10)
                printf("%s of 0x%08x: %x, CUDA %x\n", names[cast], (unsigned)bits, a, b);
        }
    }
    printf("%llu floats, %d casts, %llu differences\n", (unsigned long long)(last - first + 1), CASTS,
           (unsigned long long)wrong);
    return wrong != 0;
}
