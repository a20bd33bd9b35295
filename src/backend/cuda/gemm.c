/* gemm.c: one product by cuBLASLt, FP32 sums.
 *
 * Row-major C = op(A) op(B) is column-major C^T = op(B)^T op(A)^T: B takes the library's first place. Every layout that
 * the model asks for is one that the library takes, so nothing is transposed by copying. Which kernel runs: plans.h.
 */
#include "backend/cuda/plans.h"

#include <string.h>

static int32_t alignment(const void *a, const void *b, const void *c) {
    uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | 256;
    return (int32_t)(all & (~all + 1));
}

static cudaDataType_t type_of(nb_dtype dtype, ni_cuda_scaling scaling) {
    if (scaling == NI_CUDA_SCALING_16 || scaling == NI_CUDA_SCALING_32)
        return CUDA_R_4F_E2M1;
    return dtype == NB_BF16   ? CUDA_R_16BF
           : dtype == NB_E4M3 ? CUDA_R_8F_E4M3
           : dtype == NB_E5M2 ? CUDA_R_8F_E5M2
                              : CUDA_R_32F;
}

static ni_cuda_shape shape_of(const ni_cuda_product *p) {
    ni_cuda_shape s;
    memset(&s, 0, sizeof s); /* it is compared as bytes */
    s.m = p->c.rows;
    s.n = p->c.cols;
    s.k = p->trans_a ? p->a.rows : p->a.cols;
    s.lda = p->a.stride;
    s.ldb = p->b.stride;
    s.ldc = p->c.stride;
    s.a = type_of(p->a.dtype, p->scaling);
    s.b = type_of(p->b.dtype, p->scaling);
    s.c = type_of(p->c.dtype, NI_CUDA_SCALING_NONE);
    s.trans_a = p->trans_a;
    s.trans_b = p->trans_b;
    s.aligned = alignment(p->a.data, p->b.data, p->c.data);
    s.scaling = p->scaling;
    return s;
}

/* The plan is one for all products of the shape; where their scales are is each one's own. */
static cublasStatus_t point_at_scales(const ni_cuda_plan *plan, const ni_cuda_product *p) {
    if (p->scaling == NI_CUDA_SCALING_NONE)
        return CUBLAS_STATUS_SUCCESS;
    cublasStatus_t status = cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                                                           &p->b_scale, sizeof p->b_scale);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->a_scale,
                                                sizeof p->a_scale);
    return status;
}

nb_status ni_cuda_multiply_plain(nb_backend *be, const ni_cuda_product *p, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    const ni_cuda_shape s = shape_of(p);
    const ni_cuda_plan *found = NULL;
    const float *alpha = p->alpha ? p->alpha : cuda->words + NI_CUDA_ONE;
    const float *beta = p->beta ? p->beta : cuda->words + NI_CUDA_ZERO;
    if (s.m == 0 || s.n == 0)
        return NB_OK;
    NB_TRY(ni_cuda_plan_for(cuda, &s, &found, err));
    cublasStatus_t status = point_at_scales(found, p);
    if (!status)
        status = cublasLtMatmul(cuda->lt, found->what, alpha, p->b.data, found->b, p->a.data, found->a, beta, p->c.data,
                                found->c, p->c.data, found->c, &found->algorithm, cuda->workspace,
                                cuda->workspace_bytes, cuda->stream);
    ni_cuda_mark(be, found->name);
    return status ? ni_cuda_library_failed(status, &s, err) : NB_OK;
}
