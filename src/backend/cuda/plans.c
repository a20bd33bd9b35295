/* plans.c: the plans of plans.h: made, kept, written as lines of text and read from them.
 *
 *     cublaslt 130000, compute capability 9.0          who chose
 *     m n k lda ldb ldc a b c trans_a trans_b aligned scaling = 8 words of the algorithm, hexadecimal
 *
 * An algorithm may be kept and used again by the same version of the library (its documentation of
 * cublasLtMatmulAlgo_t).
 */
#include "backend/cuda/plans.h"

#include "backend/cuda/rows.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct ni_cuda_plans {
    ni_cuda_plan *at;
    int32_t count, room;
} ni_cuda_plans;

nb_status ni_cuda_library_failed(cublasStatus_t status, const ni_cuda_shape *s, nb_error *err) {
    static const char *const scalings[] = {"", ", FP8 under one scale", ", FP8 under scales of rows",
                                           ", NVFP4 by native units", ", MXFP4 by native units"};
    return nb_fail(err, status == CUBLAS_STATUS_NOT_SUPPORTED ? NB_UNSUPPORTED : NB_INTERNAL,
                   "cuda: cuBLASLt says %d (%s) to a product of [%" PRId64 ", %" PRId64 "] by [%" PRId64 ", %" PRId64
                   "]%s%s",
                   (int)status, cublasLtGetStatusString(status), s->m, s->k, s->k, s->n, scalings[s->scaling],
                   s->scaling == NI_CUDA_SCALING_NONE ? "" : "; hint: fp8_units: false, native_fp4: false");
}

static const char *name_of(const ni_cuda_shape *s) {
    enum { SIZE = 96 };
    char *name = malloc(SIZE);
    if (name)
        snprintf(name, SIZE, "product %" PRId64 "x%" PRId64 "x%" PRId64 "%s%s to %s", s->m, s->n, s->k,
                 s->trans_a ? " A^T" : "", s->trans_b ? " B^T" : "", s->c == CUDA_R_16BF ? "bf16" : "f32");
    return name;
}

static void free_plan(ni_cuda_plan *p) {
    free((void *)p->name);
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

static int32_t scale_mode(int32_t scaling) {
    switch (scaling) {
    case NI_CUDA_SCALING_ROWS:
        return CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    case NI_CUDA_SCALING_16:
        return CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
    case NI_CUDA_SCALING_32:
        return CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0;
    default:
        return CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    }
}

/* The library wants to see pointers when it chooses; each product sets its own. */
static cublasStatus_t describe_scales(const ni_cuda *cuda, ni_cuda_plan *p, const ni_cuda_shape *s) {
    const int32_t mode = scale_mode(s->scaling);
    const void *any = cuda->words;
    const int8_t fast = 0;
    if (s->scaling == NI_CUDA_SCALING_NONE)
        return CUBLAS_STATUS_SUCCESS;
    cublasStatus_t status =
        cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &any, sizeof any);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &any, sizeof any);
    return status;
}

/* Column-major views of the row-major matrices: B takes the library's first place. */
static cublasStatus_t describe(const ni_cuda *cuda, ni_cuda_plan *p, const ni_cuda_shape *s) {
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
        status = describe_scales(cuda, p, s);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&p->b, (cudaDataType_t)s->b, (uint64_t)(s->trans_b ? s->k : s->n),
                                            (uint64_t)(s->trans_b ? s->n : s->k), s->ldb);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&p->a, (cudaDataType_t)s->a, (uint64_t)(s->trans_a ? s->m : s->k),
                                            (uint64_t)(s->trans_a ? s->k : s->m), s->lda);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&p->c, (cudaDataType_t)s->c, (uint64_t)s->n, (uint64_t)s->m, s->ldc);
    return status;
}

/* In-place reductions add as blocks come: they are what a deterministic run must not have. */
static uint32_t reductions(const ni_cuda *cuda) {
    return cuda->permits.any_order ? CUBLASLT_REDUCTION_SCHEME_MASK
                                   : CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
}

static cublasStatus_t choose(ni_cuda *cuda, ni_cuda_plan *p, const ni_cuda_shape *s) {
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    const uint32_t schemes = reductions(cuda), aligned = (uint32_t)s->aligned;
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

/* ---- keeping them ---- */

static ni_cuda_plan *find(const ni_cuda *cuda, const ni_cuda_shape *s) {
    for (int32_t i = 0; cuda->plans && i < cuda->plans->count; i++)
        if (!memcmp(&cuda->plans->at[i].key, s, sizeof *s))
            return &cuda->plans->at[i];
    return NULL;
}

/* A plan without an algorithm, which is not yet counted. NULL: no memory. */
static ni_cuda_plan *next(ni_cuda *cuda, const ni_cuda_shape *s) {
    if (!cuda->plans && !(cuda->plans = calloc(1, sizeof *cuda->plans)))
        return NULL;
    ni_cuda_plans *all = cuda->plans;
    if (all->count == all->room) {
        const int32_t room = all->room ? 2 * all->room : 64;
        ni_cuda_plan *at = realloc(all->at, (size_t)room * sizeof *at);
        if (!at)
            return NULL;
        all->at = at;
        all->room = room;
    }
    ni_cuda_plan *p = &all->at[all->count];
    memset(p, 0, sizeof *p);
    p->key = *s;
    p->name = name_of(s);
    if (!p->name)
        return NULL;
    return p;
}

/* With the algorithm that is given, if the library takes it, or with its own. */
static nb_status make(ni_cuda *cuda, const ni_cuda_shape *s, const cublasLtMatmulAlgo_t *algorithm,
                      const ni_cuda_plan **out, nb_error *err) {
    cublasLtMatmulHeuristicResult_t fit;
    ni_cuda_plan *p = next(cuda, s);
    if (!p)
        return nb_fail(err, NB_NO_MEMORY, "cuda: no memory for the plans of products");
    cublasStatus_t status = describe(cuda, p, s);
    if (!status && algorithm) {
        p->algorithm = *algorithm;
        status = cublasLtMatmulAlgoCheck(cuda->lt, p->what, p->b, p->a, p->c, p->c, algorithm, &fit);
        if (!status && fit.workspaceSize > cuda->workspace_bytes)
            status = CUBLAS_STATUS_NOT_SUPPORTED;
    } else if (!status) {
        status = choose(cuda, p, s);
    }
    if (status) {
        free_plan(p);
        return ni_cuda_library_failed(status, s, err);
    }
    cuda->plans->count++;
    *out = p;
    return NB_OK;
}

nb_status ni_cuda_plan_for(ni_cuda *cuda, const ni_cuda_shape *s, const ni_cuda_plan **out, nb_error *err) {
    *out = find(cuda, s);
    return *out ? NB_OK : make(cuda, s, NULL, out, err);
}

/* ---- as text ---- */

static void name_chooser(const ni_cuda *cuda, char *text, size_t size) {
    snprintf(text, size, "cublaslt %zu, compute capability %d.%d", cublasLtGetVersion(), cuda->major, cuda->minor);
}

char *ni_cuda_gemm_choices(nb_backend *be) {
    const ni_cuda *cuda = ni_cuda_of(be);
    char *text = NULL, chooser[96];
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    name_chooser(cuda, chooser, sizeof chooser);
    if (cuda->plans && cuda->plans->count)
        fprintf(to, "%s\n", chooser);
    for (int32_t i = 0; cuda->plans && i < cuda->plans->count; i++) {
        const ni_cuda_plan *p = &cuda->plans->at[i];
        const ni_cuda_shape *s = &p->key;
        fprintf(to,
                "%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %d %d %d %d %d %d %d =", s->m,
                s->n, s->k, s->lda, s->ldb, s->ldc, s->a, s->b, s->c, s->trans_a, s->trans_b, s->aligned, s->scaling);
        for (int w = 0; w < 8; w++)
            fprintf(to, " %" PRIx64, p->algorithm.data[w]);
        fputc('\n', to);
    }
    if (fclose(to) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static bool parse(const char *line, ni_cuda_shape *s, cublasLtMatmulAlgo_t *algorithm) {
    int used = 0;
    memset(s, 0, sizeof *s);
    if (sscanf(line, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %d %d %d %d %d %d %d =%n",
               &s->m, &s->n, &s->k, &s->lda, &s->ldb, &s->ldc, &s->a, &s->b, &s->c, &s->trans_a, &s->trans_b,
               &s->aligned, &s->scaling, &used) != 13 ||
        !used || s->scaling < 0 || s->scaling >= NI_CUDA_SCALINGS)
        return false;
    for (int w = 0; w < 8; w++) {
        int more = 0;
        if (sscanf(line + used, " %" SCNx64 "%n", &algorithm->data[w], &more) != 1)
            return false;
        used += more;
    }
    return true;
}

static nb_status take_line(ni_cuda *cuda, const char *line, nb_error *err) {
    ni_cuda_shape s;
    cublasLtMatmulAlgo_t algorithm;
    const ni_cuda_plan *made;
    if (!parse(line, &s, &algorithm))
        return nb_fail(err, NB_UNSUPPORTED, "cuda: \"%.60s\" is no choice of a product's kernel", line);
    ni_cuda_plan *p = find(cuda, &s);
    if (!p)
        return make(cuda, &s, &algorithm, &made, err);
    if (!memcmp(&p->algorithm, &algorithm, sizeof algorithm))
        return NB_OK;
    cublasLtMatmulHeuristicResult_t fit;
    cublasStatus_t status = cublasLtMatmulAlgoCheck(cuda->lt, p->what, p->b, p->a, p->c, p->c, &algorithm, &fit);
    if (!status && fit.workspaceSize > cuda->workspace_bytes)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (status)
        return ni_cuda_library_failed(status, &s, err);
    p->algorithm = algorithm;
    return NB_OK;
}

nb_status ni_cuda_gemm_choose(nb_backend *be, const char *choices, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    char ours[96], line[512];
    int refused = 0, lines = 0;
    nb_error first = {0};
    name_chooser(cuda, ours, sizeof ours);
    for (const char *at = choices; *at; lines++) {
        const size_t length = strcspn(at, "\n");
        snprintf(line, sizeof line, "%.*s", (int)(length < sizeof line ? length : sizeof line - 1), at);
        at += length + (at[length] == '\n');
        if (lines == 0 && strcmp(line, ours) != 0)
            return nb_fail(err, NB_UNSUPPORTED,
                           "cuda: kernels of its products were chosen by %.90s; here %s chooses anew", line, ours);
        if (lines > 0 && take_line(cuda, line, refused ? NULL : &first) != NB_OK)
            refused++;
    }
    if (!refused)
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "cuda: %d of %d kernels of its products cannot be had, first: %.600s", refused,
                   lines - 1, first.message);
}
