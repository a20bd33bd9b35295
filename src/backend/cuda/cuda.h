/* cuda.h: inside the CUDA backend: one GPU, one stream, its scratch memory and its libraries.
 *
 * Operations are enqueued and return at once. What goes wrong on the way is kept as the backend's fault, the first one
 * wins, and `synchronize` reports it; an operation that returns a status reports it at once where it is known. What
 * broke nothing (a refused launch, memory that ran out) is told once; a fault of the GPU stays.
 * The host side is C11; kernels are launched through the extern "C" functions of the headers beside the *.cu files.
 */
#ifndef NI_BACKEND_CUDA_CUDA_H
#define NI_BACKEND_CUDA_CUDA_H

#include "backend/table.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

struct ni_cuda_alpha_table;
struct ni_cuda_cudnn;
struct ni_cuda_plans;
struct ni_cuda_profile;
struct ni_cuda_turn_table;

typedef struct ni_cuda {
    int device;
    int major, minor; /* compute capability */
    int multiprocessors;
    char name[64];            /* "NVIDIA H100 80GB HBM3" */
    cudaStream_t stream, own; /* where work is queued; what the backend made for that */
    cublasLtHandle_t lt;
    void *workspace; /* of cuBLASLt */
    size_t workspace_bytes;
    void *scratch; /* of one operation; grows, and so a training step allocates nothing once it has run */
    size_t scratch_bytes;
    uint32_t *tile_room; /* of the kernels that make tiles (quantize.h); of further matrices of a producer */
    uint32_t *parted;    /* of the kernel that parts contractions (parted.h), zero between its launches */
    float *words;        /* device constants and results: NI_CUDA_ZERO, ... */
    struct ni_cuda_plans *plans;
    struct ni_cuda_alpha_table *alphas; /* alphas.h; NULL until a product asks */
    struct ni_cuda_turn_table *turns;   /* rope.c; NULL until RoPE asks */
    struct ni_cuda_maxima *maxima;      /* maxima.h; NULL until a model has some cleared */
    ni_permits permits;
    /* Name of what attention_kernel was last asked about, and why: one for all blocks of a model. */
    char attention[128], attention_why[400];
    struct ni_cuda_cudnn *cudnn;     /* cudnn_attention.h; NULL until a run permits any order of sums */
    struct ni_cuda_profile *profile; /* NULL unless it is being taken */
    nb_status fault_status;          /* of the first thing that went wrong; NB_OK once it was told, unless `broken` */
    nb_error fault;
    bool broken; /* nothing works on the GPU any more */
} ni_cuda;

/* Words of ni_cuda.words; MENDED counts, as an integer, rows that units for 8 bits could not multiply (mx_bytes.h). */
enum { NI_CUDA_ZERO, NI_CUDA_ONE, NI_CUDA_ALPHA, NI_CUDA_MENDED, NI_CUDA_WORDS = 16 };

/* A sum of products is one contraction (joined.h); dW of several layers is one launch (parted.h). */
static inline bool ni_cuda_joins(const ni_cuda *cuda) {
    return cuda->major == 9 && cuda->minor == 0;
}

static inline ni_cuda *ni_cuda_of(nb_backend *be) {
    return be->state;
}

/* Keeps `code` as the fault of `what` if it is one. Returns whether it was good. */
bool ni_cuda_good(nb_backend *be, int code, const char *what);

/* Keeps what an operation without a status was told, for the next that has one. */
void ni_cuda_keep(nb_backend *be, const nb_error *err);

/* The same as ni_cuda_good for operations that return a status. */
nb_status ni_cuda_status(nb_backend *be, int code, const char *what, nb_error *err);

/* ---- profile.c ---- */

extern const ni_profiler ni_cuda_profiler;
/* What ran since the last mark was `what`, a text that lives as long as the backend. Nothing where nobody takes one. */
void ni_cuda_mark(nb_backend *be, const char *what);
void ni_cuda_profile_free(struct ni_cuda_profile *profile);

/* ---- rope.c ---- */

/* Angles of `n` tokens, made where they are not there yet. */
struct ni_cuda_turns ni_cuda_turns_of(nb_backend *be, const struct ni_rope *how, int64_t head_dim, int64_t n);
void ni_cuda_turns_free(struct ni_cuda_turn_table *table);

/* ---- companion.c ---- */

extern const ni_companion ni_cuda_companion;

bool ni_cuda_left(nb_backend *be, size_t *left, size_t *all); /* nb_backend.left */

/* Scratch memory of one operation: `bytes`, 256-byte aligned, not cleared, good until the next call. NULL keeps a fault
 * that says what it was for. */
void *ni_cuda_scratch(nb_backend *be, size_t bytes, const char *what);

/* ---- operand_layout.c ---- */

/* nb_operand.form */
enum {
    NI_CUDA_ACROSS = 1,   /* its values lie as [cols, rows] */
    NI_CUDA_UNCODED = 2,  /* values alone: it is only multiplied */
    NI_CUDA_BORROWED = 4, /* its values are another operand's: `numbers` says where */
    NI_CUDA_CARRIED = 16, /* its values carry scales of rows that are powers of two: nothing stays outside of the sum */
    NI_CUDA_POW2 = 32,    /* bytes both ways in the place of values, a scale of the tensor (pow2_bytes.h) */
    NI_CUDA_BESIDE =
        64,           /* E4M3 bytes of its four-bit codes behind its values: a weight of a product by units for 8 bits
                             and of a sparse one */
    NI_CUDA_BYTES = 8 /* E4M3 bytes of its four-bit codes in the place of values, for units that multiply those; of
                             MXFP4 with scales of rows (mx_bytes.h) */
};
/* The BF16 values of an operand that has codes, and its bytes behind them. */
uint16_t *ni_cuda_values_of(const nb_operand *o);
uint8_t *ni_cuda_bytes_beside(const nb_operand *o);
/* Makes them anew from the codes, or the bytes that stand in their place. */
nb_status ni_cuda_fill_values(nb_backend *be, const nb_operand *o, nb_error *err);

/* ---- gemm.c: products of plain numbers by cuBLASLt ---- */

/* What stays beside the numbers of a product, for units that multiply codes (coded.h). */
typedef enum ni_cuda_scaling {
    NI_CUDA_SCALING_NONE,
    NI_CUDA_SCALING_WORD, /* FP8: one FP32 scale an operand */
    NI_CUDA_SCALING_ROWS, /* FP8: an FP32 scale a row of both operands */
    NI_CUDA_SCALING_16,   /* E2M1: an E4M3 byte for 16, swizzled */
    NI_CUDA_SCALING_32,   /* E2M1: an E8M0 byte for 32, swizzled */
    NI_CUDA_SCALINGS
} ni_cuda_scaling;

/* C[M,N] = beta C + alpha op(A) op(B), FP32 sums, rounded once to C's type; alpha and beta are device words. */
typedef struct ni_cuda_product {
    nb_mat a, b, c;
    bool trans_a, trans_b;     /* as in the table's gemm: trans_a reads A as [K, M], trans_b reads B as [N, K] */
    const float *alpha, *beta; /* device; NULL: 1, 0 */
    ni_cuda_scaling scaling;
    const void *a_scale, *b_scale; /* device; as `scaling` says */
} ni_cuda_product;
nb_status ni_cuda_multiply_plain(nb_backend *be, const ni_cuda_product *p, nb_error *err);
void ni_cuda_plans_free(struct ni_cuda_plans *plans);

#endif
