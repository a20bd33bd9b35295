/* hadamard.h: the randomized Hadamard transform of a group of n = 16, 32, 64 or 128 neighbours on the contraction.
 *
 *     y = H (d * x) / sqrt(n)      d = +-1 signs, H the natural-order (Sylvester) matrix
 *
 * In FP32: signs, then stages 1, 2, 4, ... of (a + b, a - b), then one multiply by fl(1/sqrt(n)). H is symmetric and
 * orthogonal after the scaling, so two operands rotated alike keep their product.
 */
#ifndef NI_FORMAT_HADAMARD_H
#define NI_FORMAT_HADAMARD_H

#include "base/philox.h"
#include "format/ieee.h"
#include "format/noise.h"
#include "nibble/format.h"

#define NI_HADAMARD_MAX 128

/* Bit i % 32 of word i / 32 set: element i of a group is negated. */
typedef struct ni_sign_mask {
    uint32_t w[4];
} ni_sign_mask;

/* TransformerEngine's fixed pattern of 16 signs, repeated. */
#define NI_FIXED_SIGNS 0xD7E8u

static inline NI_HD ni_sign_mask ni_signs_of(nb_signs signs, const ni_noise_key *noise) {
    ni_sign_mask mask = {{0, 0, 0, 0}};
    if (signs == NB_SIGNS_FIXED) {
        for (int i = 0; i < 4; i++)
            mask.w[i] = NI_FIXED_SIGNS << 16 | NI_FIXED_SIGNS;
    } else if (signs == NB_SIGNS_FRESH) {
        ni_philox_words r = ni_philox(noise->seed, noise->signs, 0, noise->step, noise->micro_batch, NI_PURPOSE_SIGNS);
        for (int i = 0; i < 4; i++)
            mask.w[i] = r.w[i];
    }
    return mask;
}

/* fl(1/sqrt(n)) */
static inline NI_HD float ni_hadamard_factor(int n) {
    return n == 16 ? 0.25f : n == 32 ? 0x1.6a09e6p-3f : n == 64 ? 0.125f : 0x1.6a09e6p-4f;
}

static inline NI_HD void ni_hadamard(float *x, int n, ni_sign_mask signs) {
    for (int i = 0; i < n; i++)
        if (signs.w[i / 32] >> (i % 32) & 1u)
            x[i] = -x[i];
    for (int half = 1; half < n; half *= 2)
        for (int i = 0; i < n; i += 2 * half)
            for (int j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = ni_f32_add(a, b);
                x[j + half] = ni_f32_sub(a, b);
            }
    for (int i = 0; i < n; i++)
        x[i] = ni_f32_mul(x[i], ni_hadamard_factor(n));
}

/* x of y: the signs come last. */
static inline NI_HD void ni_hadamard_back(float *y, int n, ni_sign_mask signs) {
    const ni_sign_mask none = {{0, 0, 0, 0}};
    ni_hadamard(y, n, none);
    for (int i = 0; i < n; i++)
        if (signs.w[i / 32] >> (i % 32) & 1u)
            y[i] = -y[i];
}

#endif
