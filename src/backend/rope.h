/* rope.h: how fast RoPE turns the pairs of a head (arXiv:2104.09864), for hosts and devices.
 *
 * Pair i of head_dim / 2 turns by theta^(-2i/head_dim) a token. LLaMA 3.1 and later stretch what is slow: turns of
 * fewer than `low` rounds over `original` tokens become `factor` times slower, those of more than `high` rounds stay,
 * and between the two the share goes over linearly in the number of rounds ("llama3" of transformers' rope_scaling).
 */
#ifndef NI_BACKEND_ROPE_H
#define NI_BACKEND_ROPE_H

#include "base/philox.h"
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct ni_rope {
    double theta;
    double factor, low, high, original; /* factor 0: nothing is stretched, and the others say nothing */
} ni_rope;

static inline bool ni_rope_is_same(const ni_rope *a, const ni_rope *b) {
    return a->theta == b->theta && a->factor == b->factor && a->low == b->low && a->high == b->high &&
           a->original == b->original;
}

static inline NI_HD double ni_rope_frequency(const ni_rope *r, int64_t i, int64_t head_dim) {
    const double frequency = pow(r->theta, -2.0 * (double)i / (double)head_dim);
    if (r->factor == 0)
        return frequency;
    const double rounds = r->original * frequency / 6.283185307179586476925;
    if (rounds > r->high)
        return frequency;
    if (rounds < r->low)
        return frequency / r->factor;
    const double kept = (rounds - r->low) / (r->high - r->low);
    return (1 - kept) * frequency / r->factor + kept * frequency;
}

#endif
