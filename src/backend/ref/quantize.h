/* quantize.h: the scalar reference of quantized operands, the definition that every faster path must equal bit by bit.
 *
 * The operations of nibble/backend.h over plain memory; `be` is not looked at and may be NULL. Scratch memory is taken
 * from the heap (NB_NO_MEMORY when there is none). Shapes, buffers and noise are checked (NB_BAD_USAGE).
 */
#ifndef NB_BACKEND_REF_QUANTIZE_H
#define NB_BACKEND_REF_QUANTIZE_H

#include "nibble/backend.h"

/* out[rows, cols] = quantized src (F32 or BF16); with `transpose`, out row r is src column r. `noise` may be NULL where
 * neither stochastic rounding nor fresh signs ask for it; `stats` may be NULL. */
nb_status nb_ref_quantize(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                          const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);

/* The same from the decoded values of another operand, which must not be rotated. */
nb_status nb_ref_requantize(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                            const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);

/* The same codes with rows and columns exchanged: 16x16 tiles, tensor scales, unscaled; row scales become column scales
 * and back. */
nb_status nb_ref_transpose_codes(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err);

/* Decoded values into F32 or BF16 (one rounding); without `with_tensor_scale` the tensor scale counts as 1. */
nb_status nb_ref_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                            bool with_tensor_scale, nb_error *err);

#endif
