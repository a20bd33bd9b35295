/* gemm.c: products of plain numbers by cuBLASLt, FP32 sums.
 *
 * Row-major C = op(A) op(B) is column-major C^T = op(B)^T op(A)^T: B takes the library's first place. Every layout that
 * the model asks for is one that the library takes, so nothing is transposed by copying.
 *
 * The library's heuristic is asked once for each shape and the answer is kept: within a run a product of one shape is
 * always the same kernel, and it adds in the same order each time (no reduction by atomics is allowed).
 */
#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What decides which kernel runs. */
typedef struct shape {
    int64_t m, n, k, lda, ldb, ldc;
    int32_t a, b, c; /* nb_dtype */
    int32_t trans_a, trans_b;
    int32_t aligned; /* lowest set bit of the addresses, at most 256 */
} shape;

typedef struct plan {
    shape key;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} plan;

typedef struct ni_cuda_plans {
    plan *at;
    int32_t count, room;
} ni_cuda_plans;

static nb_status library_failed(cublasStatus_t status, const char *what, const shape *s, nb_error *err) {
    return nb_fail(err, NB_INTERNAL, "cuda: cuBLASLt says %d (%s) to %s of [%lld, %lld] by [%lld, %lld]", (int)status,
                   cublasLtGetStatusString(status), what, (long long)s->m, (long long)s->k, (long long)s->k,
                   (long long)s->n);
}

static void free_plan(plan *p) {
    if (p->what)
        cublasLtMatmulDescDestroy(p->what);
    if (p->a)
        cublasLtMatrixLayoutDestroy(p->a);
    if (p->b)
        cublasLtMatrixLayoutDestroy(p->b);
    if (p->c)
        cublasLtMatrixLayoutDestroy(p->c);
}

void ni_cuda_plans_free(ni_cuda_plans *plans) {
    for (int32_t i = 0; plans && i < plans->count; i++)
        free_plan(&plans->at[i]);
    if (plans)
        free(plans->at);
    free(plans);
}

/* ---- what is asked for ---- */

static int32_t alignment(const void *a, const void *b, const void *c) {
    uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | 256;
    return (int32_t)(all & (~all + 1));
}

static shape shape_of(const ni_cuda_product *p) {
    shape s;
    memset(&s, 0, sizeof s); /* it is compared as bytes */
    s.m = p->c.rows;
    s.n = p->c.cols;
    s.k = p->trans_a ? p->a.rows : p->a.cols;
    s.lda = p->a.stride;
    s.ldb = p->b.stride;
    s.ldc = p->c.stride;
    s.a = p->a.dtype;
    s.b = p->b.dtype;
    s.c = p->c.dtype;
    s.trans_a = p->trans_a;
    s.trans_b = p->trans_b;
    s.aligned = alignment(p->a.data, p->b.data, p->c.data);
    return s;
}

static cudaDataType_t type_of(int32_t dtype) {
    return dtype == NB_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* Column-major views of the row-major matrices. */
static cublasStatus_t describe(plan *p, const shape *s) {
    const cublasOperation_t first = s->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = s->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtPointerMode_t device = CUBLASLT_POINTER_MODE_DEVICE;
    cublasStatus_t status = cublasLtMatmulDescCreate(&p->what, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_POINTER_MODE, &device, sizeof device);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&p->b, type_of(s->b), (uint64_t)(s->trans_b ? s->k : s->n),
                                            (uint64_t)(s->trans_b ? s->n : s->k), s->ldb);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&p->a, type_of(s->a), (uint64_t)(s->trans_a ? s->m : s->k),
                                            (uint64_t)(s->trans_a ? s->k : s->m), s->lda);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&p->c, type_of(s->c), (uint64_t)s->n, (uint64_t)s->m, s->ldc);
    return status;
}

static cublasStatus_t choose(ni_cuda *cuda, plan *p, const shape *s) {
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t aligned = (uint32_t)s->aligned;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&wish);
    if (!status)
        status = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                      &cuda->workspace_bytes, sizeof cuda->workspace_bytes);
    if (!status)
        status = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                                                      sizeof schemes);
    static const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4 && !status; i++)
        status = cublasLtMatmulPreferenceSetAttribute(wish, sides[i], &aligned, sizeof aligned);
    if (!status)
        status = cublasLtMatmulAlgoGetHeuristic(cuda->lt, p->what, p->b, p->a, p->c, p->c, wish, 1, &best, &found);
    if (wish)
        cublasLtMatmulPreferenceDestroy(wish);
    if (!status && !found)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (!status)
        p->algorithm = best.algo;
    return status;
}

static nb_status make_plan(ni_cuda *cuda, const shape *s, const plan **out, nb_error *err) {
    ni_cuda_plans *all = cuda->plans;
    if (all->count == all->room) {
        int32_t room = all->room ? 2 * all->room : 64;
        plan *at = realloc(all->at, (size_t)room * sizeof *at);
        if (!at)
            return nb_fail(err, NB_NO_MEMORY, "cuda: no memory for the plans of products");
        all->at = at;
        all->room = room;
    }
    plan *p = &all->at[all->count];
    memset(p, 0, sizeof *p);
    p->key = *s;
    cublasStatus_t status = describe(p, s);
    if (!status)
        status = choose(cuda, p, s);
    if (status) {
        free_plan(p);
        return library_failed(status, "a product", s, err);
    }
    all->count++;
    *out = p;
    return NB_OK;
}

static nb_status plan_for(ni_cuda *cuda, const shape *s, const plan **out, nb_error *err) {
    if (!cuda->plans && !(cuda->plans = calloc(1, sizeof *cuda->plans)))
        return nb_fail(err, NB_NO_MEMORY, "cuda: no memory for the plans of products");
    for (int32_t i = 0; i < cuda->plans->count; i++)
        if (!memcmp(&cuda->plans->at[i].key, s, sizeof *s)) {
            *out = &cuda->plans->at[i];
            return NB_OK;
        }
    return make_plan(cuda, s, out, err);
}

nb_status ni_cuda_multiply_plain(nb_backend *be, const ni_cuda_product *p, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    const shape s = shape_of(p);
    const plan *found = NULL;
    const float *alpha = p->alpha ? p->alpha : cuda->words + NI_CUDA_ONE;
    const float *beta = p->beta ? p->beta : cuda->words + NI_CUDA_ZERO;
    if (s.m == 0 || s.n == 0)
        return NB_OK;
    NB_TRY(plan_for(cuda, &s, &found, err));
    cublasStatus_t status = cublasLtMatmul(cuda->lt, found->what, alpha, p->b.data, found->b, p->a.data, found->a, beta,
                                           p->c.data, found->c, p->c.data, found->c, &found->algorithm, cuda->workspace,
                                           cuda->workspace_bytes, cuda->stream);
    return status ? library_failed(status, "a product", &s, err) : NB_OK;
}
