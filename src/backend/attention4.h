/* attention4.h: blocks of attention's operands in four bits, as the numbers that their codes stand for.
 *
 * A block's numbers become code * decode, with code = E2M1(x * encode) to nearest, ties to even:
 *     NVFP4   16 numbers, decode = E4M3(amax * s / 6), encode = 1 / (decode / s); s = 1, or 448 * 6 for P in two levels
 *     MXFP4   32 numbers, decode = 2^(floor(log2 amax) - 2), encode = 1 / decode
 * which BF16 holds exactly. In two levels what they stand for is `unit` = 1 / s times that, which is left to who
 * divides the sum of P V. (docs/formats.md; the orders of operations are those of quantized operands.) */
#ifndef NI_BACKEND_ATTENTION4_H
#define NI_BACKEND_ATTENTION4_H

#include "format/e2m1.h"
#include "format/e8m0.h"
#include "format/scale.h"
#include "nibble/backend.h"

/* How blocks of one operand are rounded. */
typedef struct ni_four_bits {
    nb_attention_format format;
    int32_t block;      /* numbers */
    ni_tensor_scale up; /* NVFP4 */
} ni_four_bits;

typedef struct ni_four_scale {
    float encode, decode;
} ni_four_scale;

static inline NI_HD ni_four_bits ni_four_bits_of(nb_attention_format format, nb_attention_levels levels) {
    ni_four_bits f;
    f.format = format;
    f.block = format == NB_ATTENTION_MXFP4 ? 32 : 16;
    f.up = ni_tensor_scale_of(ni_e4m3_target_of(NB_RULE_ABSMAX),
                              levels == NB_ATTENTION_TWO_LEVELS ? NB_OUTER_UNIT : NB_OUTER_NONE, 1.0f);
    return f;
}

/* Of a block whose largest magnitude is `amax`; under an E4M3 scale of zero all are zero. */
static inline NI_HD ni_four_scale ni_four_scale_of(const ni_four_bits *f, float amax) {
    ni_four_scale s;
    if (f->format == NB_ATTENTION_MXFP4) {
        const uint8_t byte = ni_e8m0_floor(amax, 6.0f);
        s.encode = ni_e8m0_inverse(byte);
        s.decode = ni_e8m0_value(byte);
    } else {
        const uint8_t byte = ni_block_scale_byte(f->up, amax);
        s.encode = byte ? ni_block_encode(byte, f->up.sdec) : 0.0f;
        s.decode = ni_e4m3_value(byte);
    }
    return s;
}

static inline NI_HD float ni_four_value(ni_four_scale s, float x) {
    return ni_f32_mul(ni_e2m1_value(ni_e2m1_even(ni_f32_mul(x, s.encode))), s.decode);
}

#endif
