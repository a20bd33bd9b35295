/* numbers.h: numbers of a matrix of any type, in double; and how long the chunks of a sum are. */
#ifndef NI_BACKEND_REF_NUMBERS_H
#define NI_BACKEND_REF_NUMBERS_H

#include "backend/table.h"
#include "format/bf16.h"

enum { NI_SUM_CHUNK = 256 };

static inline double ni_mat_number(const nb_mat *x, int64_t row, int64_t col) {
    int64_t at = row * x->stride + col;
    switch (x->dtype) {
    case NB_BF16:
        return ni_bf16_value(((const uint16_t *)x->data)[at]);
    case NB_F64:
        return ((const double *)x->data)[at];
    default:
        return ((const float *)x->data)[at];
    }
}

#endif
