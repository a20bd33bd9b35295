/* scaled.h: tensors under one scale on the CPU: tiles are decoded, worked on in FP32 and rounded within the cache. */
#ifndef NB_BACKEND_CPU_SCALED_H
#define NB_BACKEND_CPU_SCALED_H

#include "nibble/backend.h"

void nb_cpu_scaled_encode(nb_backend *be, const nb_scaled *to, const float *from, int64_t n);
void nb_cpu_scaled_decode(nb_backend *be, float *to, const nb_scaled *from, int64_t n);
void nb_cpu_scaled_add(nb_backend *be, const nb_scaled *to, const nb_scaled *a, const nb_scaled *b, int64_t n);
void nb_cpu_scaled_rescale(nb_backend *be, const nb_scaled *t, float scale, int64_t n);
void nb_cpu_scaled_join(nb_backend *be, const nb_scaled *to, const nb_scaled *from, int64_t n);
double nb_cpu_scaled_sum_squares(nb_backend *be, const nb_scaled *t, int64_t n);
void nb_cpu_scaled_adamw(nb_backend *be, const nb_scaled *param, const nb_scaled *m, const nb_scaled *v,
                         const nb_scaled *grad, int64_t n, const nb_adamw *step);

#endif
