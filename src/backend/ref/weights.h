/* weights.h: scalar references for mechanisms that pick columns and that watch weights against their codes. */
#ifndef NB_BACKEND_REF_WEIGHTS_H
#define NB_BACKEND_REF_WEIGHTS_H

#include "nibble/backend.h"

void nb_ref_gather_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns);
void nb_ref_scatter_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                            bool accumulate);
void nb_ref_column_norms(nb_backend *be, float *norms, const nb_mat *x);
void nb_ref_add_distance(nb_backend *be, float *distance, const float *a, const float *b, int64_t n);
int64_t nb_ref_reset_where(nb_backend *be, float *w, const float *q, const float *moved_w, const float *moved_q,
                           int64_t n, double threshold);
void nb_ref_bin_widths(nb_backend *be, float *out, const nb_qtensor *codes);
void nb_ref_round_by(nb_backend *be, const nb_qtensor *codes, const float *w, const float *guide);

#endif
