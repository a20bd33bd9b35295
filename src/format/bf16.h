/* bf16.h: BF16 <-> wider floats, one number at a time.
 *
 * Rounding is to nearest, ties to even, whatever the processor's mode; subnormals are kept; a NaN stays a (quiet) NaN.
 */
#ifndef NB_FORMAT_BF16_H
#define NB_FORMAT_BF16_H

#include <stdint.h>
#include <string.h>

static inline float nb_bf16_to_f32(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t nb_bf16_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* One rounding, not two: the double is first cut to FP32 with its lost bits kept as a sticky last bit. */
static inline uint16_t nb_bf16_from_f64(double value) {
    float cut = (float)value;
    uint32_t bits;
    memcpy(&bits, &cut, sizeof bits);
    if ((double)cut != value && cut == cut) {
        double magnitude = value < 0 ? -value : value, kept = cut < 0 ? -(double)cut : (double)cut;
        if (kept > magnitude)
            bits -= 1;
        bits |= 1;
        memcpy(&cut, &bits, sizeof cut);
    }
    return nb_bf16_from_f32(cut);
}

#endif
