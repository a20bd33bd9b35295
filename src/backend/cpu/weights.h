/* weights.h: the operations of ref/weights.h over the threads, a row or a piece at a time. */
#ifndef NB_BACKEND_CPU_WEIGHTS_H
#define NB_BACKEND_CPU_WEIGHTS_H

#include "nibble/backend.h"

void nb_cpu_gather_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns);
void nb_cpu_scatter_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                            bool accumulate);
void nb_cpu_column_norms(nb_backend *be, float *norms, const nb_mat *x);
void nb_cpu_add_distance(nb_backend *be, float *distance, const float *a, const float *b, int64_t n);
int64_t nb_cpu_reset_where(nb_backend *be, float *w, const float *q, const float *moved_w, const float *moved_q,
                           int64_t n, double threshold);
void nb_cpu_bin_widths(nb_backend *be, float *out, const nb_qtensor *codes);
void nb_cpu_round_by(nb_backend *be, const nb_qtensor *codes, const float *w, const float *guide);

#endif
