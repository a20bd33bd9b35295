/* quantize.h: the scalar reference of quantized operands, the definition that every faster path must equal bit by bit.
 *
 * The operations of ops.inc over plain memory; `be` is not looked at and may be NULL. Scratch memory is taken
 * from the heap (NB_NO_MEMORY when there is none). Shapes, buffers and noise are checked (NB_BAD_USAGE).
 */
#ifndef NI_BACKEND_REF_QUANTIZE_H
#define NI_BACKEND_REF_QUANTIZE_H

#include "backend/ref/ref.h"

/* quantize under a given scale of the tensor, made from `outer_amax` [1] (host); NULL: from the source's own. Read by
 * E4M3 scales under one of the tensor. */
nb_status ni_ref_quantize_under(const nb_qtensor *out, const nb_mat *src, bool transpose, const nb_noise *noise,
                                const float *outer_amax, nb_quantize_stats *stats, nb_error *err);

#endif
