/* ops.h: the operations of the CPU backend, one row each.
 *
 * X(entry of nb_backend_ops, scalar reference, fast implementation). The reference runs under NB_ISA_SCALAR, the fast
 * one under every other instruction set; an operation that has no fast form yet names its reference twice.
 */
#ifndef NB_BACKEND_CPU_OPS_H
#define NB_BACKEND_CPU_OPS_H

#include "backend/backend.h"
#include "backend/ref/gemm.h"

#define NB_CPU_OPS(X)                                                                                                  \
    /* memory */                                                                                                       \
    X(alloc, nb_host_alloc, nb_host_alloc)                                                                             \
    X(release, nb_host_release, nb_host_release)                                                                       \
    X(upload, nb_host_copy, nb_host_copy)                                                                              \
    X(download, nb_host_copy, nb_host_copy)                                                                            \
    X(copy, nb_host_copy, nb_host_copy)                                                                                \
    X(fill_zero, nb_host_fill_zero, nb_host_fill_zero)                                                                 \
    X(synchronize, nb_host_synchronize, nb_host_synchronize)                                                           \
    /* GEMM */                                                                                                         \
    X(gemm, nb_ref_gemm, nb_ref_gemm)

#endif
