/* scaled.h: scalar references for tensors that live in few bits under one scale (arXiv:2310.18313 section 2). */
#ifndef NB_BACKEND_REF_SCALED_H
#define NB_BACKEND_REF_SCALED_H

#include "backend/ref/ref.h"

/* The decode scale; 1 where there is none. */
static inline float nb_scaled_factor(const nb_scaled *t) {
    return t->scale ? *t->scale : 1.0f;
}

/* Sets the scale for numbers of this amax (bits of a magnitude) and returns what they are to be multiplied by. */
float nb_scaled_set(const nb_scaled *t, uint32_t amax_bits);

/* What numbers are multiplied by under a decode scale that is given. */
float nb_scaled_encode_of(float scale);

#endif
