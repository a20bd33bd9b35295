/* dge_occ.h: DGE and OCC on the CPU: selection instead of sorting, rows over the threads. */
#ifndef NB_BACKEND_CPU_DGE_OCC_H
#define NB_BACKEND_CPU_DGE_OCC_H

#include "nibble/backend.h"

void nb_cpu_dge(nb_backend *be, void *dw, const void *w, const nb_qtensor *codes, double k, double cap);
nb_status nb_cpu_clamp_rows(nb_backend *be, const nb_mat *out, const nb_sparse *rest, const nb_mat *x, int64_t low,
                            int64_t high, bool whole, nb_error *err);
void nb_cpu_sparse_gemm(nb_backend *be, const nb_mat *c, const nb_sparse *s, const nb_mat *b);
void nb_cpu_sparse_add(nb_backend *be, const nb_mat *x, const nb_sparse *s);

#endif
