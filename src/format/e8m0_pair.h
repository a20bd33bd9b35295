/* e8m0_pair.h: scales of two blocks of E4M3 at once (e8m0.h), whose largest magnitudes are BF16 numbers in the halves
 * of a word: in BF16 a power of two is its exponent alone, above seven bits, so scales are made by adding and
 * subtracting.
 */
#ifndef NI_FORMAT_E8M0_PAIR_H
#define NI_FORMAT_E8M0_PAIR_H

#include "format/e8m0.h"

#include <stdbool.h>

/* The largest magnitudes between which this holds: scale and inverse are normal numbers there, and nothing is Inf. */
#define NI_E8M0_PAIR_LEAST 0x04800480u
#define NI_E8M0_PAIR_MOST 0x7f7f7f7fu

/* The scales, as BF16: the exponent less that of 448 = 1.75 x 2^8, and one more where the fraction asks for it,
 * above 1.75 or above 1 as the rule has it, so that what is added carries. */
static inline NI_HD uint32_t ni_e8m0_pair_value(nb_scale_rule rule, uint32_t amax) {
    const uint32_t up = rule == NB_RULE_CEIL ? 0x001f001fu : rule == NB_RULE_CEIL_LOG2 ? 0x007f007fu : 0;
    return ((amax + up) & 0x7f807f80u) - (8u << 7 | 8u << 23);
}

/* 1 / value. */
static inline NI_HD uint32_t ni_e8m0_pair_inverse(uint32_t value) {
    return (254u << 7 | 254u << 23) - value;
}

#endif
