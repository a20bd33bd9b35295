/* scaled.h: scalar references for tensors that live in few bits under one scale (arXiv:2310.18313 section 2). */
#ifndef NB_BACKEND_REF_SCALED_H
#define NB_BACKEND_REF_SCALED_H

#include "nibble/backend.h"

void nb_ref_scaled_encode(nb_backend *be, const nb_scaled *to, const float *from, int64_t n);
void nb_ref_scaled_decode(nb_backend *be, float *to, const nb_scaled *from, int64_t n);
void nb_ref_scaled_add(nb_backend *be, const nb_scaled *to, const nb_scaled *a, const nb_scaled *b, int64_t n);
void nb_ref_scaled_rescale(nb_backend *be, const nb_scaled *t, float scale, int64_t n);
void nb_ref_scaled_join(nb_backend *be, const nb_scaled *to, const nb_scaled *from, int64_t n);
double nb_ref_scaled_sum_squares(nb_backend *be, const nb_scaled *x, int64_t n);
void nb_ref_scaled_adamw(nb_backend *be, const nb_scaled *param, const nb_scaled *m, const nb_scaled *v,
                         const nb_scaled *grad, int64_t n, const nb_adamw *step);

/* The decode scale; 1 where there is none. */
static inline float nb_scaled_factor(const nb_scaled *t) {
    return t->scale ? *t->scale : 1.0f;
}

/* Sets the scale for numbers of this amax (bits of a magnitude) and returns what they are to be multiplied by. */
float nb_scaled_set(const nb_scaled *t, uint32_t amax_bits);

/* What numbers are multiplied by under a decode scale that is given. */
float nb_scaled_encode_of(float scale);

#endif
