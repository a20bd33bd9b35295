/* select.h: what the references of choices share with faster code: how scores are ordered. */
#ifndef NI_BACKEND_REF_SELECT_H
#define NI_BACKEND_REF_SELECT_H

#include "format/ieee.h"
#include <stdint.h>

/* A number that is larger where the score is: 0 for NaN, one for both zeros. */
static inline NI_HD uint32_t ni_score_key(float score) {
    uint32_t bits = ni_f32_bits(score);
    if ((bits & 0x7fffffff) > NI_F32_INF_BITS)
        return 0;
    if ((bits & 0x7fffffff) == 0)
        bits = 0;
    return bits >> 31 ? ~bits : bits | 0x80000000;
}

/* Puts indices in the order of their scores, the highest first, ties by index. In place: a heap. */
void ni_sort_by_score(int32_t *index, const float *scores, int64_t count);

#endif
