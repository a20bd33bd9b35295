/* scaled.h: scalar references for tensors that live in few bits under one scale (arXiv:2310.18313 section 2). */
#ifndef NI_BACKEND_REF_SCALED_H
#define NI_BACKEND_REF_SCALED_H

#include "backend/ref/ref.h"

/* The decode scale; 1 where there is none. */
static inline float ni_scaled_factor(const ni_scaled *t) {
    return t->scale ? *t->scale : 1.0f;
}

/* Sets the scale for numbers of this amax (bits of a magnitude) and returns what they are to be multiplied by. */
float ni_scaled_set(const ni_scaled *t, uint32_t amax_bits);

/* True if nothing of it is narrow. */
static inline bool ni_adamw_is_plain(const ni_adamw_tensor *t, nb_dtype real) {
    return t->param.dtype == real && t->m.dtype == real && t->v.dtype == real && t->grad.dtype == real;
}

/* The update of tensors of which nothing is narrow. */
typedef void ni_adamw_update(nb_backend *be, const ni_adamw_tensor *tensors, int32_t count, const ni_adamw *step);

/* AdamW in FP32 on a tensor of which something is narrow, by the plain update of one number at a time. */
void ni_scaled_adamw(const ni_adamw_tensor *tensor, const ni_adamw *step, ni_adamw_update *update);

/* Element i, decoded. */
float ni_scaled_value(const ni_scaled *t, int64_t i);

/* What numbers are multiplied by under a decode scale that is given. */
float ni_scaled_encode_of(float scale);

#endif
