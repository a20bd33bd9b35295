/* gemm.h: scalar references of the two matrix products. */
#ifndef NI_BACKEND_REF_GEMM_H
#define NI_BACKEND_REF_GEMM_H

#include "backend/ref/ref.h"

/* Refuses shapes and types that do not make a product; every implementation of `gemm` begins with it. */
nb_status ni_gemm_check(const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b, bool trans_b, nb_error *err);

/* C[M,N] = (accumulate ? C : 0) + op(A)[M,K] op(B)[K,N]: a triple loop, k in order. Sums in F32, in F64 if C is F64. */

#endif
