/* gemm_q.h: the product of two quantized operands: what it means, and its scalar reference.
 *
 * An element of an operand is  code * unit * inner(row, k) * outer(row)  where `unit` is the step of the element
 * format's codes (1/2 for E2M1 counted as integers, 1 for INT4), `inner` the part of the scale that varies along the
 * contraction, and `outer` the part that does not and so stays outside the sum:
 *
 *     C[i,j] = (accumulate ? C : 0) + alpha(i,j) * sum over k,     alpha(i,j) = fl(outer_a(i) * outer_b(j))
 */
#ifndef NB_BACKEND_REF_GEMM_Q_H
#define NB_BACKEND_REF_GEMM_Q_H

#include "backend/ref/ref.h"

/* How a pair of operands is summed. */
typedef enum nb_product {
    NB_PRODUCT_NONE,        /* cannot be multiplied */
    NB_PRODUCT_BLOCKS,      /* one scale byte a block: exact integer dot a block, times both scales, blocks in order */
    NB_PRODUCT_WHOLE,       /* no inner scale: exact integer dot over all of K */
    NB_PRODUCT_BF16,        /* operands decoded to BF16, exactly; FP32 sum */
    NB_PRODUCT_BF16_ROUNDED /* operands decoded and rounded to BF16; FP32 sum */
} nb_product;

nb_product nb_product_of(const nb_quantizer *a, const nb_quantizer *b);

/* 2 for E2M1, 1 for INT4: codes count in steps of 1/nb_code_steps. */
int32_t nb_code_steps(nb_element element);

/* The code of a 4-bit element as an integer of such steps. */
int32_t nb_code_integer(nb_element element, uint8_t code);

/* Value of one scale byte (E4M3 or E8M0). */
float nb_scale_value(nb_scale_type type, uint8_t byte);

/* outer(row) of the formula above. */
float nb_outer_of_row(const nb_qtensor *t, int64_t row);

/* Refuses shapes, types and pairs that do not make a product. */
nb_status nb_gemm_q_check(const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, nb_error *err);

/* "decoded-bf16 exact" or "bf16-rounded"; NULL for the other products. */
const char *nb_product_decoded_name(nb_product product);

#endif
