/* plans.h: which of cuBLASLt's kernels multiplies a shape. The library's heuristic is asked once for each, and the
 * answer is kept: within a run a product of one shape is always the same kernel, and adds in the same order each time.
 * A checkpoint keeps the answers too (ops.inc: gemm_choices), so that a resumed run does not ask again.
 */
#ifndef NI_BACKEND_CUDA_PLANS_H
#define NI_BACKEND_CUDA_PLANS_H

#include "backend/cuda/cuda.h"

/* Everything that the choice depends on; compared as bytes. */
typedef struct ni_cuda_shape {
    int64_t m, n, k, lda, ldb, ldc;
    int32_t a, b, c; /* cudaDataType_t */
    int32_t trans_a, trans_b;
    int32_t aligned; /* lowest set bit of the addresses, at most 256 */
    int32_t scaling; /* ni_cuda_scaling */
    int32_t padding; /* 0 */
} ni_cuda_shape;

typedef struct ni_cuda_plan {
    ni_cuda_shape key;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    const char *name; /* "product 32768x768x2304 to bf16", for profiles; the plans' */
} ni_cuda_plan;

/* The plan of a shape, made if it is new; good until the next call. */
nb_status ni_cuda_plan_for(ni_cuda *cuda, const ni_cuda_shape *s, const ni_cuda_plan **out, nb_error *err);

nb_status ni_cuda_library_failed(cublasStatus_t status, const ni_cuda_shape *s, nb_error *err);

#endif
