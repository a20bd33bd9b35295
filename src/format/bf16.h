/* bf16.h: BF16 <-> wider floats, one number at a time.
 *
 * Rounding is to nearest, ties to even, whatever the processor's mode; subnormals are kept; a NaN stays a (quiet) NaN.
 */
#ifndef NB_FORMAT_BF16_H
#define NB_FORMAT_BF16_H

#include <stdint.h>
#include <string.h>

static inline float nb_bf16_value(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t nb_bf16_even(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
