/* quantize.h: the scalar reference of quantized operands, the definition that every faster path must equal bit by bit.
 *
 * Codes lie in the canonical layout, in plain memory; `be` is not looked at and may be NULL. Scratch memory is taken
 * from the heap (NB_NO_MEMORY when there is none). Shapes, buffers and noise are checked (NB_BAD_USAGE).
 */
#ifndef NI_BACKEND_REF_QUANTIZE_H
#define NI_BACKEND_REF_QUANTIZE_H

#include "backend/ref/ref.h"

/* - quantize:        out[rows, cols] from src (F32 or BF16); with `transpose`, out row r is src column r.
 * - requantize:      the same from the exact decoded value (code x scale in FP32) of another operand.
 * - transpose_codes: the same codes with rows and columns exchanged; only where scales allow (16x16 tiles, tensor).
 * - dequantize:      decoded values, one rounding. Without `with_tensor_scale` that scale stays outside. */
nb_status ni_ref_quantize(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                          const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
nb_status ni_ref_requantize(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                            const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
nb_status ni_ref_transpose_codes(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err);
nb_status ni_ref_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                            bool with_tensor_scale, nb_error *err);

/* quantize under a given scale of the tensor, made from `outer_amax` [1] (host); NULL: from the source's own. Read by
 * E4M3 scales under one of the tensor. */
nb_status ni_ref_quantize_under(const nb_qtensor *out, const nb_mat *src, bool transpose, const nb_noise *noise,
                                const float *outer_amax, nb_quantize_stats *stats, nb_error *err);

/* The largest magnitude of what quantize would give codes: of the source rotated as `out` says. */
nb_status ni_ref_rotated_amax(const nb_qtensor *out, const nb_mat *src, bool transpose, const nb_noise *noise,
                              float *amax, nb_error *err);

#endif
