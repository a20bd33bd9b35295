/* format.h: what 4, 8 and 16 bits mean, and what a quantizer is.
 *
 * The numeric contract is docs/formats.md. Values here are plain data: nothing in this header allocates.
 */
#ifndef NIBBLE_FORMAT_H
#define NIBBLE_FORMAT_H

#include "status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Types of plain numbers in memory. */
typedef enum nb_dtype { NB_F32, NB_BF16, NB_F64, NB_I32, NB_U8, NB_F16, NB_E4M3, NB_E5M2 } nb_dtype;
NB_API size_t nb_dtype_size(nb_dtype type);      /* bytes of one number */
NB_API const char *nb_dtype_name(nb_dtype type); /* "f32", "bf16", ... */

/* Element formats that a quantizer writes. BF16 means "not quantized". */
typedef enum nb_element {
    NB_ELEMENT_BF16,
    NB_ELEMENT_E2M1, /* FP4: 0 .5 1 1.5 2 3 4 6 and their negatives */
    NB_ELEMENT_INT4, /* -7 .. 7; the "e1m2" of the FP4-DGE-OCC research code */
    NB_ELEMENT_E4M3, /* FP8, largest 448 */
    NB_ELEMENT_E5M2, /* FP8, largest 57344 */
    NB_ELEMENT_S1P2, /* 0 .25 .5 ... 1.75 and their negatives: HiFloat4's, under its scales alone */
    NB_ELEMENT_COUNT
} nb_element;

/* How the scale of one block is stored. */
typedef enum nb_scale_type {
    NB_SCALE_NONE, /* element format alone */
    NB_SCALE_E4M3, /* NVFP4: one E4M3 byte a block, under an FP32 outer scale */
    NB_SCALE_E8M0, /* MX: one power of two a block */
    NB_SCALE_F32,  /* one float a block: vector-wise and tensor-wise formats */
    NB_SCALE_HIF4  /* HiFloat4: four bytes a block of 64 (format/hif4.h): a float of 8 bits and 24 doublings */
} nb_scale_type;

/* How a block's amax becomes its scale. What each means for each scale type: docs/formats.md. */
typedef enum nb_scale_rule {
    NB_RULE_ABSMAX,   /* largest magnitude maps to the largest code */
    NB_RULE_FLOOR,    /* E8M0: exponent rounded down (OCP MX); may saturate */
    NB_RULE_CEIL,     /* E8M0: exponent rounded up (truncation free) */
    NB_RULE_POW2,     /* F32 scale restricted to powers of two */
    NB_RULE_HEADROOM, /* E4M3: largest magnitude maps to 6*16/17, so that rounding the scale never saturates */
    NB_RULE_QUEST,    /* E8M0: from the spread of the block, best for a normal distribution; clips (arXiv:2505.14669) */
    NB_RULE_EDEN,     /* E4M3: scales of a rotated group corrected so that it keeps its length along itself, and rounded
                         stochastically (MS-EDEN, arXiv:2601.22813) */
    NB_RULE_CEIL_LOG2, /* E8M0: log2 of the largest magnitude rounded up: it becomes at most the largest power of two */
    NB_RULE_THREE_QUARTERS /* E8M0: as FLOOR, of numbers times 3/4, so that none saturates; the 4/3 that makes up for it
                              is the tensor's scale (arXiv:2502.20586) */
} nb_scale_rule;

/* The scale above the block scales. */
typedef enum nb_outer_scale {
    NB_OUTER_NONE,
    NB_OUTER_TENSOR,     /* one FP32 scale from the tensor's amax (NVFP4) */
    NB_OUTER_UNIT,       /* the FP32 scale of an amax of 1, which nobody looks for: for numbers of at most 1 */
    NB_OUTER_ROW128,     /* one FP32 scale for each 1x128 (TetraJet-v2's double block) */
    NB_OUTER_ROW128_POW2 /* the same, rounded up to a power of two: products stay exact in BF16 */
} nb_outer_scale;

typedef enum nb_rounding {
    NB_ROUND_EVEN,       /* nearest, ties to the even code */
    NB_ROUND_UP,         /* nearest, ties toward +inf (arXiv:2501.17116 appendix A) */
    NB_ROUND_STOCHASTIC, /* by the bits of a Philox counter */
    NB_ROUND_AWAY        /* nearest, ties away from zero: HiFloat4's (arXiv:2602.11287) */
} nb_rounding;

typedef enum nb_signs {
    NB_SIGNS_NONE,  /* plain Hadamard */
    NB_SIGNS_FIXED, /* TransformerEngine's 16-element pattern 0xD7E8, repeated */
    NB_SIGNS_FRESH  /* a pattern a call, from the Philox key; both operands of a GEMM share it */
} nb_signs;

/* Four Over Six (arXiv:2512.02010): each NVFP4 block's largest magnitude becomes 6 or 4, whichever gives the smaller
 * error: a sum of squares, of magnitudes, or the largest. */
typedef enum nb_four_six { NB_FOUR_SIX_NONE, NB_FOUR_SIX_MSE, NB_FOUR_SIX_MAE, NB_FOUR_SIX_MAX } nb_four_six;
typedef enum nb_four_six_order {
    NB_FOUR_SIX_IN_ORDER, /* errors are added as they lie, of a tile in pairs of rows (TransformerEngine) */
    NB_FOUR_SIX_IN_EIGHTS /* in eight lanes, as the authors' code does in PyTorch */
} nb_four_six_order;

/* Everything that is applied to one GEMM operand. Blocks are counted along the contraction (columns of the operand). */
typedef struct nb_quantizer {
    nb_element element;
    nb_scale_type scale_type;
    nb_scale_rule rule;
    nb_outer_scale outer;
    int32_t block_rows; /* 1 or 16; NB_BLOCK_ALL = every row */
    int32_t block_cols; /* 16, 32, 64; NB_BLOCK_ALL = the whole row; 1 under NB_BLOCK_ALL rows: a scale a column */
    nb_rounding round;
    int32_t sr_bits;       /* 8 or 16; read where bits are drawn: stochastic rounding, NB_RULE_EDEN */
    int32_t hadamard_size; /* 0 = none, else 16, 32, 64 or 128 */
    nb_signs hadamard_signs;
    bool hadamard_round_bf16; /* round the rotated values to BF16 before quantizing (TransformerEngine does) */
    nb_four_six four_six;     /* the two below are read where it is not NONE */
    int32_t four_six_top;     /* the largest block scale that the tensor's amax is given: 256 or 448 */
    nb_four_six_order four_six_order;
} nb_quantizer;

#define NB_BLOCK_ALL 0

/* A quantizer that leaves numbers in BF16. */
NB_API nb_quantizer nb_quantizer_bf16(void);
NB_API bool nb_quantizer_is_bf16(const nb_quantizer *q);
/* True if elements or scales are rounded by random bits. */
NB_API bool nb_quantizer_draws_bits(const nb_quantizer *q);
NB_API bool nb_quantizer_equal(const nb_quantizer *a, const nb_quantizer *b);

/* Checks that the fields make sense together; the reason goes to err. */
NB_API nb_status nb_quantizer_check(const nb_quantizer *q, nb_error *err);

/* Checks that an operand of this shape can be quantized: columns divide by the block and by the Hadamard size. */
NB_API nb_status nb_quantizer_check_shape(const nb_quantizer *q, int64_t rows, int64_t cols, nb_error *err);

/* One-line text in the recipe grammar: "{format: nvfp4, block: 1x16, round: stochastic, sr_bits: 8}".
 * Writes at most `size` bytes with the final 0; returns `text`. */
NB_API char *nb_quantizer_text(const nb_quantizer *q, char *text, size_t size);

/* Where the random bits of one quantization come from (docs/formats.md, "Random bits"). */
typedef struct nb_noise {
    uint32_t seed;         /* the run's rounding seed */
    uint32_t tensor;       /* nb_name_hash of tensor name and role */
    uint32_t signs;        /* nb_name_hash shared by both operands of the GEMM: fresh Hadamard signs */
    const uint32_t *clock; /* [2] backend memory: optimizer step and micro-batch; NULL: both 0 */
} nb_noise;

/* 32-bit hash of "name/role" that keys the random bits. `role` may be NULL. */
NB_API uint32_t nb_name_hash(const char *name, const char *role);

/* A quantized operand [rows, cols], contraction contiguous. Buffers belong to whoever placed them and live where the
 * backend's memory lives. Pointers that the format does not use are NULL. */
typedef struct nb_qtensor {
    nb_quantizer quantizer;
    int64_t rows, cols;
    uint8_t *codes;      /* 4-bit: [rows, (cols+1)/2], element 2i in the low nibble; 8-bit: [rows, cols] */
    uint8_t *scales;     /* E4M3 or E8M0: [rows, cols/block_cols], tiles of 16x16 replicated to their rows;
                            HiFloat4: [rows, cols/64, 4] */
    float *outer_scales; /* F32 decode scales: [rows, cols/128] for ROW128; [rows] for whole-row blocks,
                            [cols] for whole-column blocks; else NULL */
    float *tensor_scale; /* [1] decode scale: Sdec of NVFP4, the scale of a tensor-wise format, 4/3 of THREE_QUARTERS */
} nb_qtensor;

/* Bytes of each buffer of an operand of this shape; 0 for one that is not used. */
typedef struct nb_qtensor_size {
    size_t codes, scales, outer_scales, tensor_scale;
    size_t total; /* of all four, each rounded up to 64 bytes: what nb_qtensor_place needs */
} nb_qtensor_size;
NB_API nb_qtensor_size nb_qtensor_bytes(const nb_quantizer *q, int64_t rows, int64_t cols);

/* Lays the four buffers out in `memory` (nb_qtensor_bytes().total bytes, 64-byte aligned). */
NB_API nb_qtensor nb_qtensor_place(const nb_quantizer *q, int64_t rows, int64_t cols, void *memory);

#ifdef __cplusplus
}
#endif
#endif
