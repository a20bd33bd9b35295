/* gemm.h: the plain matrix product of the CPU backend, by libraries and kernels of ours, on fixed output tiles. */
#ifndef NI_BACKEND_CPU_GEMM_H
#define NI_BACKEND_CPU_GEMM_H

#include "backend/cpu/cpu.h"

/* C[i,j] = (accumulate ? C : 0) + fl(rows[i]*cols[j]) * (op(A) op(B))[i,j]; the sum is rounded to F32 before it is
 * scaled. C is F32 or BF16. */
nb_status ni_cpu_gemm_scaled(nb_backend *be, const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b,
                             bool trans_b, const float *rows, const float *cols, bool accumulate, nb_error *err);

/* The product of one output tile, C (+)= op(A) op(B): views already cut to the tile. */
typedef struct ni_gemm_tile {
    nb_mat a, b, c;
    bool trans_a, trans_b, accumulate;
    const float *row_scale, *col_scale; /* of C's rows and columns, from this tile's first on; both NULL: none */
} ni_gemm_tile;

/* A view of `rows` x `cols` elements of m, from (row, col) on. */
nb_mat ni_mat_part(const nb_mat *m, int64_t row, int64_t col, int64_t rows, int64_t cols);

/* Whether an engine is the one to take for a product on this machine. */
typedef enum ni_gemm_fit {
    NI_GEMM_CANNOT, /* it does not multiply this here */
    NI_GEMM_SLOW,   /* it does, and others are known to be faster */
    NI_GEMM_FITS
} ni_gemm_fit;

/* A library or a kernel of ours that multiplies one tile on the calling thread. Made ready for the tile shapes of a
 * call beforehand, outside of the parallel region; `scratch` bytes are what run needs, 64-byte aligned. */
typedef struct ni_gemm_engine {
    const char *name;
    const char *f32, *bf16; /* the census's names of products of F32 alone, and of products with BF16 */
    /* Of BF16 by BF16, or of a product with F32 in it. *why: the reason, a clause. */
    ni_gemm_fit (*fit)(const ni_cpu *cpu, bool bf16, const char **why);
    /* Names the order of its sums: equal texts, equal bits. */
    void (*sums)(char *text, size_t size);
    nb_status (*prepare)(nb_backend *be, const ni_gemm_tile *tile, size_t *scratch, nb_error *err);
    bool (*run)(nb_backend *be, const ni_gemm_tile *tile, void *scratch);
    bool stores_bf16; /* C may be BF16 */
    bool scales;      /* row_scale and col_scale are applied */
    bool any_tiles;   /* bits do not depend on the tiles */
    /* Around all tiles of a call; NULL where there is nothing to do. */
    int (*enter)(void);
    void (*leave)(int before);
} ni_gemm_engine;

extern const ni_gemm_engine ni_gemm_onednn;   /* BF16 x BF16 */
extern const ni_gemm_engine ni_gemm_openblas; /* F32 and BF16 (widened) into F32 */
#ifdef NI_X86
extern const ni_gemm_engine ni_gemm_own_avx2, ni_gemm_own_avx512; /* F32 and BF16; both give the same bits */
#endif

/* ---- which of them multiplies (gemm_choice.c) ---- */

enum { NI_GEMM_ENGINES = 4, NI_GEMM_SUMS_SIZE = 64 };

typedef struct ni_gemm_candidate {
    const ni_gemm_engine *engine;
    ni_gemm_fit fit;
    const char *why;
} ni_gemm_candidate;

/* The engines in the order in which they are asked, and what each said; returns how many. The first that fits is
 * taken, else the first that is slow. */
int32_t ni_gemm_candidates(const ni_cpu *cpu, bool bf16, ni_gemm_candidate list[NI_GEMM_ENGINES]);

/* Fills cpu->products. */
void ni_gemm_choose(ni_cpu *cpu);

/* "2.6.0" */
void ni_onednn_version(char *text, size_t size);
void ni_openblas_version(char *text, size_t size);

/* Primitives that oneDNN made for this backend. */
typedef struct ni_onednn ni_onednn;
void ni_onednn_free(ni_onednn *d);

#endif
