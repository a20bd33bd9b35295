/* quantize.h: quantized operands on the CPU: the reference's bits, by SIMD kernels over bands of rows. */
#ifndef NB_BACKEND_CPU_QUANTIZE_H
#define NB_BACKEND_CPU_QUANTIZE_H

#include "backend/cpu/cpu.h"

nb_status nb_cpu_quantize(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                          const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
nb_status nb_cpu_requantize(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                            const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
nb_status nb_cpu_transpose_codes(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err);
nb_status nb_cpu_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                            bool with_tensor_scale, nb_error *err);

#endif
