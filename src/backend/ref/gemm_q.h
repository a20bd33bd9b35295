/* gemm_q.h: the product of two quantized operands: what it means, and its scalar reference.
 *
 * An element of an operand is  code * unit * inner(row, k) * outer(row)  where `unit` is the step of the element
 * format's codes (1/2 for E2M1 counted as integers, 1/4 for S1P2, 1 for INT4), `inner` the part of the scale that
 * varies along the contraction, and `outer` the part that does not and so stays outside the sum:
 *
 *     C[i,j] = (accumulate ? C : 0) + alpha(i,j) * sum over k,     alpha(i,j) = fl(outer_a(i) * outer_b(j))
 */
#ifndef NI_BACKEND_REF_GEMM_Q_H
#define NI_BACKEND_REF_GEMM_Q_H

#include "backend/ref/ref.h"

/* How a pair of operands is summed. */
typedef enum ni_product {
    NI_PRODUCT_NONE,        /* cannot be multiplied */
    NI_PRODUCT_BLOCKS,      /* one scale byte a block: exact integer dot a block, times both scales, blocks in order */
    NI_PRODUCT_WHOLE,       /* no inner scale: exact integer dot over all of K */
    NI_PRODUCT_BF16,        /* operands decoded to BF16, exactly; FP32 sum */
    NI_PRODUCT_BF16_ROUNDED /* operands decoded and rounded to BF16; FP32 sum */
} ni_product;

ni_product ni_product_of(const nb_quantizer *a, const nb_quantizer *b);

/* 2 for E2M1, 4 for S1P2, 1 for INT4: codes count in steps of 1/ni_code_steps. */
int32_t ni_code_steps(nb_element element);

/* The code of a 4-bit element as an integer of such steps. */
int32_t ni_code_integer(nb_element element, uint8_t code);

/* Value of one scale byte (E4M3, E8M0, or the E6M2 of HiFloat4). */
float ni_scale_value(nb_scale_type type, uint8_t byte);

/* outer(row) of the formula above. */
float ni_outer_of_row(const nb_qtensor *t, int64_t row);

/* C[M,N] = (accumulate ? C : 0) + A[M,K] B[N,K]^T by the formula, for the kinds of ni_product; C is BF16 or F32. */
nb_status ni_ref_gemm_q(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, bool accumulate,
                        nb_error *err);

/* Refuses shapes, types and pairs that do not make a product. */
nb_status ni_gemm_q_check(const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, nb_error *err);

/* "decoded-bf16 exact" or "bf16-rounded"; NULL for the other products. */
const char *ni_product_decoded_name(ni_product product);

#endif
