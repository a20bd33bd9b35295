/* units.h: which units of an NVIDIA GPU multiply a pair of operands (backend/cuda), so that who plans a run on paper
 * says the same (backend/paper). The choice is static: by the pair of quantizers and what the run permits.
 *
 *     FP8      compute capability 9.0; both operands under one scale a row, one a tensor, or none; elements that E4M3
 *              (or E5M2) holds exactly. FP32 sums of 128 products each (fast accumulation off) times the scales of row
 *              and column. 128 products of 4-bit codes are summed exactly (but for E2M1 beyond 4096, where nearly all
 *              are 6 by 6); those of 8-bit codes are cut to 13 bits behind the largest, and only multiplied so where a
 *              run says fp8_units: all. tests/backends/fp8_units.h has it to the bit
 *     FP8_MX   the same where a run says fp8_units: mxfp4; E2M1 under E8M0 scales of 32, both operands; sums are cut
 *     FP8_POW2 the same where a run says fp8_units: all; E2M1 under powers of two a row or a column, one of them along
 *              the contraction or the other side E4M3 or E5M2 under a power of two; sums are cut
 *     NVFP4    compute capability 10.0, 10.3, 12.0; E2M1 under E4M3 scales of 16, and one of the tensor, in alpha
 *     MXFP4    the same; E2M1 under E8M0 scales of 32
 *
 * Everything else is multiplied as BF16, and so is what does not divide: FP8 needs N and K in sixteens, 4 bits in 32.
 */
#ifndef NI_BACKEND_UNITS_H
#define NI_BACKEND_UNITS_H

#include "backend/arguments.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ni_units {
    NI_UNITS_BF16,
    NI_UNITS_FP8,
    NI_UNITS_FP8_MX,   /* MXFP4 by units for 8 bits */
    NI_UNITS_FP8_POW2, /* scales that are powers of two, on whichever side of the sum */
    NI_UNITS_NVFP4,
    NI_UNITS_MXFP4
} ni_units;

bool ni_has_fp4_units(int major, int minor); /* of this compute capability */

/* Of A B^T. */
ni_units ni_units_of(int major, int minor, const ni_permits *permits, const nb_quantizer *a, const nb_quantizer *b);
bool ni_units_take(ni_units units, int64_t n, int64_t k); /* a product of this N and K */

/* E2M1 under powers of two of rows or of columns; E4M3 or E5M2 under one scale of the tensor, whatever its rule. */
bool ni_is_pow2(const nb_quantizer *q);
/* Scales are of rows, of the tensor or none: they stay outside of a sum. */
bool ni_is_scaled_outside(const nb_quantizer *q);
bool ni_is_4bit(const nb_quantizer *q);
/* E2M1 under scales of that type, one for `block` of a row. */
bool ni_is_in_blocks(const nb_quantizer *q, nb_scale_type type, int32_t block);

/* Rows of so many numbers, those of models, that a warp clamps in its registers by counting (cuda/clamp_counted.cu). */
#define NI_COUNTED_WIDTHS(X)                                                                                           \
    X(512) X(768) X(1024) X(1536) X(1792) X(2048) X(2816) X(3072) X(4096) X(5120) X(5632) X(6144)
bool ni_is_counted_width(int64_t cols);

#ifdef __cplusplus
}
#endif
#endif
