/* sample.h: the next token from logits. */
#ifndef NI_TRAIN_SAMPLE_H
#define NI_TRAIN_SAMPLE_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct ni_sampling {
    double temperature; /* 0 = the most likely token */
    int32_t top_k;      /* only the k most likely; 0 = all */
    double top_p;       /* of them the most likely that have this share together; 1 = all */
    uint32_t seed;
} ni_sampling;

/* Draws token number `index` of a text from logits [vocab]: softmax(logits / temperature), cut to the top k and
 * then to the share top_p, ties to the lower id. A pure function of its arguments. `scratch` holds [2, vocab] floats.
 */
int32_t ni_sample(const float *logits, int32_t vocab, const ni_sampling *how, int64_t index, float *scratch);

#endif
