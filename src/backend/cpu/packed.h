/* packed.h: the product of packed 4-bit operands, C = A B^T: what the driver and the kernels of the instruction sets
 * share.
 *
 * Both operands are unpacked into panels: A by groups of `rows` rows, B by groups of `cols` rows of B (columns of C),
 * both cut along the contraction into steps of 16 codes, zero-padded at the edges. A kernel multiplies one panel of A
 * with one panel of B over the whole contraction, which gives one micro-tile of C. In which order and layout a panel
 * holds a step is each kernel's own business.
 *
 * All kernels give the bits of ni_ref_gemm_q. Integer dots are exact in any order. The scales' product (two E4M3: at
 * most 8 significant bits) times the dot (at most 12) is exact in FP32, so a fused multiply-add rounds once, where the
 * reference rounds: at the addition. Powers of two may overflow, so E8M0 scales multiply and add in two steps. HiFloat4
 * doubles its elements before they are multiplied: at most 28 quarters, a dot of 64 of 16 bits, under scales of 6.
 */
#ifndef NI_BACKEND_CPU_PACKED_H
#define NI_BACKEND_CPU_PACKED_H

#include "backend/cpu/cpu.h"
#include "backend/ref/gemm_q.h"

enum { NI_PACKED_STEP = 16 }; /* codes */

/* One operand [rows, K], ready to be unpacked. */
typedef struct ni_packed_operand {
    const uint8_t *codes;  /* [rows, (K+1)/2] */
    const uint8_t *scales; /* [rows, K/block, scale_bytes], the first of which is in `scale`; NULL: none */
    int64_t rows, depth;   /* depth = K */
    int32_t block;         /* codes under one scale: 16, 32 or 64 */
    int32_t scale_bytes;   /* 1; 4: HiFloat4's, whose codes are doubled on the way */
    int8_t integer[16];    /* code -> integer */
    int8_t offset;         /* integer + offset >= 0, for kernels whose multiply takes one unsigned side */
    int8_t other_offset;   /* the other operand's */
    float scale[256];      /* scale byte -> its value times the unit of the integers */
} ni_packed_operand;

/* How a micro-tile is summed. */
typedef enum ni_packed_sum {
    NI_SUM_E4M3,       /* a scale each 16 */
    NI_SUM_E4M3_TILES, /* the same, shared by each 16 rows of B */
    NI_SUM_E8M0,       /* a power of two each 32 */
    NI_SUM_HIF4,       /* a scale each 64 */
    NI_SUM_WHOLE,      /* no scale within the sum */
    NI_SUM_COUNT
} ni_packed_sum;

/* Where sums go: C[i,j] = (accumulate ? C : 0) + sum * fl(outer_a[i]*outer_b[j]). */
typedef struct ni_packed_result {
    nb_mat c;
    bool accumulate;
    const float *outer_a; /* [M]; for NI_SUM_WHOLE times the units of the integers */
    const float *outer_b; /* [N] */
} ni_packed_result;

/* One micro-tile: `rows` x `cols` of C from (row, col) on, at most the kernel's size. */
typedef struct ni_packed_place {
    int64_t row, col, rows, cols;
    const char *ahead; /* 128 bytes a step are fetched from here: what later micro-tiles will read */
} ni_packed_place;

typedef struct ni_packed_kernel {
    const char *name;      /* "packed avx512-vnni" */
    int32_t rows, cols;    /* of a micro-tile */
    size_t step_a, step_b; /* bytes of one step of a panel; multiples of 64 */
    void (*pack_a)(void *panel, const ni_packed_operand *a, int64_t first_row);
    void (*pack_b)(void *panel, const ni_packed_operand *b, int64_t first_row);
    void (*multiply)(ni_packed_sum sum, const void *panel_a, const void *panel_b, int64_t steps,
                     const ni_packed_result *to, const ni_packed_place *at);
} ni_packed_kernel;

extern const ni_packed_kernel ni_packed_portable;
#ifdef NI_X86
extern const ni_packed_kernel ni_packed_avx2;
extern const ni_packed_kernel ni_packed_avx512;
#endif
#ifdef NI_ARM64
extern const ni_packed_kernel ni_packed_dotprod;
#endif

/* ---- packed.c: both products, with what is already there of B ---- */

bool ni_is_packed(ni_product product);

/* Panels of B for a product with an A of the element `other`. */
size_t ni_cpu_panel_bytes(nb_backend *be, int64_t rows, int64_t cols);
void ni_cpu_pack_panels(nb_backend *be, void *panels, const nb_qtensor *b, nb_element other);
nb_status ni_cpu_gemm_packed(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b,
                             const void *panels /* NULL: unpacked for this call */, bool accumulate, nb_error *err);

/* The codes in BF16, without what stays outside of the sum. */
nb_status ni_cpu_decode_inner(nb_backend *be, const nb_mat *out, const nb_qtensor *t, nb_error *err);
nb_status ni_cpu_gemm_decoded(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b,
                              const void *numbers /* that of B; NULL: decoded for this call */, bool accumulate,
                              nb_error *err);

#endif
