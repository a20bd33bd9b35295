/* sample.c: sampling with a counter-based generator, so that a seed gives the same text everywhere. */
#include "nibble/text.h"

#include "base/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int32_t most_likely(const float *logits, int32_t vocab) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Uniform in [0, 1) with 53 bits. */
static double uniform(uint32_t seed, int64_t index) {
    ni_philox_words r = ni_philox(seed, 0, (uint32_t)index, (uint32_t)((uint64_t)index >> 32), 0, NI_PURPOSE_SAMPLE);
    return (double)(((uint64_t)r.w[0] << 21) ^ (r.w[1] >> 11)) * 0x1p-53;
}

/* Leaves the most likely, whose sum first reaches the share; returns it. `sorted` holds [vocab]. */
static double cut_to_share(float *weights, int32_t vocab, double share, double sum, float *sorted) {
    if (share >= 1)
        return sum;
    memcpy(sorted, weights, (size_t)vocab * sizeof *sorted);
    qsort(sorted, (size_t)vocab, sizeof *sorted, descending);
    int32_t count = 0, equal = 0;
    double kept = 0;
    while (count < vocab && (count == 0 || kept < share * sum))
        kept += (double)sorted[count++];
    const float least = sorted[count - 1];
    for (int32_t i = 0; i < count; i++)
        equal += sorted[i] == least;
    for (int32_t i = 0; i < vocab; i++)
        if (weights[i] < least || (weights[i] == least && equal-- <= 0))
            weights[i] = 0;
    return kept;
}

int32_t nb_sample(const float *logits, int32_t vocab, const nb_sampling *how, int64_t index, float *scratch) {
    int32_t best = most_likely(logits, vocab);
    if (how->temperature <= 0 || how->top_k == 1)
        return best;
    float least = -INFINITY;
    int32_t at_least = vocab; /* how many of the logits equal to the threshold may take part */
    if (how->top_k > 0 && how->top_k < vocab) {
        memcpy(scratch, logits, (size_t)vocab * sizeof *scratch);
        qsort(scratch, (size_t)vocab, sizeof *scratch, descending);
        least = scratch[how->top_k - 1];
        at_least = 0;
        for (int32_t i = 0; i < how->top_k; i++)
            at_least += scratch[i] == least;
    }
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++) {
        bool takes_part = logits[i] > least || (logits[i] == least && at_least-- > 0);
        scratch[i] = takes_part ? (float)exp(((double)logits[i] - (double)logits[best]) / how->temperature) : 0;
        sum += (double)scratch[i];
    }
    sum = cut_to_share(scratch, vocab, how->top_p, sum, scratch + vocab);
    double target = uniform(how->seed, index) * sum;
    for (int32_t i = 0; i < vocab; i++) {
        target -= (double)scratch[i];
        if (target < 0 && scratch[i] > 0)
            return i;
    }
    return best;
}
