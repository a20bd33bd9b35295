/* numbers.h: numbers of a matrix of any type, in double; and how long the chunks of a sum are. */
#ifndef NB_BACKEND_REF_NUMBERS_H
#define NB_BACKEND_REF_NUMBERS_H

#include "backend/table.h"
#include "format/bf16.h"

enum { NB_SUM_CHUNK = 256 };

static inline double nb_mat_number(const nb_mat *x, int64_t row, int64_t col) {
    int64_t at = row * x->stride + col;
    switch (x->dtype) {
    case NB_BF16:
        return nb_bf16_value(((const uint16_t *)x->data)[at]);
    case NB_F64:
        return ((const double *)x->data)[at];
    default:
        return ((const float *)x->data)[at];
    }
}

#endif
