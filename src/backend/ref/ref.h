/* ref.h: scalar references of the operations. Those marked NI_OP_TYPED in ops.inc are written once over the two types
 * of nibble/backend.h and compiled twice; the others are ni_ref_NAME. ni_ref_f32_NAME   act = BF16, real = F32   the
 * CPU backend under NB_ISA_SCALAR ni_ref_f64_NAME   act = F64,  real = F64   the ref64 backend
 *
 * The sources are the *.inc files of this folder. They compute in `real` and round at each store of an `act`, nowhere
 * else; sums run in index order. What each operation means is said in ops.inc.
 */
#ifndef NI_BACKEND_REF_REF_H
#define NI_BACKEND_REF_REF_H

#include "backend/table.h"

/* cast takes every pair of F32, BF16 and F64; scale computes in FP32, in double if a view is F64. */

/* Refuse shapes and strides that make no sense. */
nb_status ni_attention_check(const nb_attention *a, nb_error *err);
nb_status ni_gla_check(const ni_gla *g, nb_error *err);

/* Elements from one position to the next. */
static inline int64_t ni_attention_pitch(const nb_attention *a, int64_t stride, int64_t heads) {
    return stride ? stride : heads * a->head_dim;
}

/* The backward pass looks at operands of four bits as the forward pass did. */
static inline bool ni_attention_goes_back_in_four_bits(const nb_attention *a) {
    return a->rule.forward != NB_ATTENTION_BF16_OPERANDS && a->rule.backward == NB_ATTENTION_SAME;
}

#define NI_OP_MEMORY(type, name, arguments)
#define NI_OP_TYPED(type, name, arguments)                                                                             \
    type ni_ref_f32_##name arguments;                                                                                  \
    type ni_ref_f64_##name arguments;
#define NI_OP_PLAIN(type, name, arguments) type ni_ref_##name arguments;
#include "backend/ops.inc"

#endif
