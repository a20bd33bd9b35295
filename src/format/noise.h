/* noise.h: the random bits of stochastic rounding (docs/formats.md, "Random bits").
 *
 * key = (seed, tensor), counter = (group, step, micro-batch, purpose). Element e of an operand, counted row-major with
 * the contraction contiguous, is lane e % 16 of group e / 16. No thread, tile or layout enters.
 *
 *     8 bits    lane j takes byte j % 4 of word j / 4 of one call
 *     16 bits   lane j takes half j % 2 of word (j % 8) / 2; lanes 8..15 from a second call of another purpose
 */
#ifndef NI_FORMAT_NOISE_H
#define NI_FORMAT_NOISE_H

#include "base/philox.h"
#include "nibble/format.h"

#define NI_NOISE_GROUP 16

/* A noise whose clock has been read. */
typedef struct ni_noise_key {
    uint32_t seed, tensor, signs, step, micro_batch;
} ni_noise_key;

/* Where the clock lies in memory that the caller can read. */
static inline NI_HD ni_noise_key ni_noise_at(const nb_noise *noise) {
    ni_noise_key key = {noise->seed, noise->tensor, noise->signs, 0, 0};
    if (noise->clock) {
        key.step = noise->clock[0];
        key.micro_batch = noise->clock[1];
    }
    return key;
}

/* The bits of the 16 lanes of one group, as u = r / 2^bits in [0, 1); exact in FP32. */
static inline NI_HD void ni_noise_group(const ni_noise_key *noise, uint32_t group, int bits, float u[NI_NOISE_GROUP]) {
    ni_philox_words r =
        ni_philox(noise->seed, noise->tensor, group, noise->step, noise->micro_batch, NI_PURPOSE_ROUNDING);
    if (bits == 8) {
        for (int j = 0; j < 16; j++)
            u[j] = (float)(r.w[j / 4] >> (8 * (j % 4)) & 0xffu) * 0x1p-8f;
        return;
    }
    ni_philox_words hi =
        ni_philox(noise->seed, noise->tensor, group, noise->step, noise->micro_batch, NI_PURPOSE_ROUNDING_HI);
    for (int j = 0; j < 8; j++) {
        u[j] = (float)(r.w[j / 2] >> (16 * (j % 2)) & 0xffffu) * 0x1p-16f;
        u[j + 8] = (float)(hi.w[j / 2] >> (16 * (j % 2)) & 0xffffu) * 0x1p-16f;
    }
}

#endif
