/* ops.h: the operations of the CPU backend, one row each.
 *
 * X(entry of nb_backend_ops, scalar reference, fast implementation). The reference runs under NB_ISA_SCALAR, the fast
 * one under every other instruction set; an operation that has no fast form yet names its reference twice.
 */
#ifndef NB_BACKEND_CPU_OPS_H
#define NB_BACKEND_CPU_OPS_H

#include "backend/backend.h"
#include "backend/cpu/dge_occ.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/measure.h"
#include "backend/cpu/ops_kernels.h"
#include "backend/cpu/packed.h"
#include "backend/cpu/quantize.h"
#include "backend/cpu/scaled.h"
#include "backend/cpu/weights.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/gemm.h"
#include "backend/ref/gemm_q.h"
#include "backend/ref/measure.h"
#include "backend/ref/quantize.h"
#include "backend/ref/ref.h"
#include "backend/ref/scaled.h"
#include "backend/ref/weights.h"

#define NB_CPU_OPS(X)                                                                                                  \
    /* memory */                                                                                                       \
    X(alloc, nb_host_alloc, nb_host_alloc)                                                                             \
    X(release, nb_host_release, nb_host_release)                                                                       \
    X(upload, nb_host_copy, nb_host_copy)                                                                              \
    X(download, nb_host_copy, nb_host_copy)                                                                            \
    X(copy, nb_host_copy, nb_host_copy)                                                                                \
    X(fill_zero, nb_host_fill_zero, nb_host_fill_zero)                                                                 \
    X(synchronize, nb_host_synchronize, nb_host_synchronize)                                                           \
    /* GEMM */                                                                                                         \
    X(gemm, nb_ref_gemm, nb_cpu_gemm)                                                                                  \
    X(gemm_kernel, nb_ref_gemm_kernel, nb_cpu_gemm_kernel)                                                             \
    /* quantized operands */                                                                                           \
    X(gemm_q, nb_ref_gemm_q, nb_cpu_gemm_q)                                                                            \
    X(gemm_q_kernel, nb_ref_gemm_q_kernel, nb_cpu_gemm_q_kernel)                                                       \
    X(quantize, nb_ref_quantize, nb_cpu_quantize)                                                                      \
    X(requantize, nb_ref_requantize, nb_cpu_requantize)                                                                \
    X(transpose_codes, nb_ref_transpose_codes, nb_cpu_transpose_codes)                                                 \
    X(dequantize, nb_ref_dequantize, nb_cpu_dequantize)                                                                \
    /* the rest of the model */                                                                                        \
    X(cast, nb_ref_cast, nb_cpu_cast)                                                                                  \
    X(add, nb_ref_f32_add, nb_cpu_add)                                                                                 \
    X(scale, nb_ref_scale, nb_cpu_scale)                                                                               \
    X(axpy, nb_ref_f32_axpy, nb_cpu_axpy)                                                                              \
    X(embed_forward, nb_ref_f32_embed_forward, nb_cpu_embed_forward)                                                   \
    X(embed_backward, nb_ref_f32_embed_backward, nb_cpu_embed_backward)                                                \
    X(rmsnorm_forward, nb_ref_f32_rmsnorm_forward, nb_cpu_rmsnorm_forward)                                             \
    X(rmsnorm_backward, nb_ref_f32_rmsnorm_backward, nb_cpu_rmsnorm_backward)                                          \
    X(rope, nb_ref_f32_rope, nb_cpu_rope)                                                                              \
    X(attention_forward, nb_ref_f32_attention_forward, nb_cpu_attention_forward)                                       \
    X(attention_backward, nb_ref_f32_attention_backward, nb_cpu_attention_backward)                                    \
    X(gla_forward, nb_ref_f32_gla_forward, nb_cpu_gla_forward)                                                         \
    X(gla_backward, nb_ref_f32_gla_backward, nb_cpu_gla_backward)                                                      \
    X(gla_gate_forward, nb_ref_f32_gla_gate_forward, nb_cpu_gla_gate_forward)                                          \
    X(gla_gate_backward, nb_ref_f32_gla_gate_backward, nb_cpu_gla_gate_backward)                                       \
    X(gated_norm_forward, nb_ref_f32_gated_norm_forward, nb_cpu_gated_norm_forward)                                    \
    X(gated_norm_backward, nb_ref_f32_gated_norm_backward, nb_cpu_gated_norm_backward)                                 \
    X(swiglu_forward, nb_ref_f32_swiglu_forward, nb_cpu_swiglu_forward)                                                \
    X(swiglu_backward, nb_ref_f32_swiglu_backward, nb_cpu_swiglu_backward)                                             \
    X(cross_entropy, nb_ref_f32_cross_entropy, nb_cpu_cross_entropy)                                                   \
    X(adamw, nb_ref_f32_adamw, nb_cpu_adamw)                                                                           \
    X(sum, nb_ref_f32_sum, nb_cpu_sum)                                                                                 \
    X(sum_squares, nb_ref_f32_sum_squares, nb_cpu_sum_squares)                                                         \
    /* tensors under one scale */                                                                                      \
    X(scaled_encode, nb_ref_scaled_encode, nb_cpu_scaled_encode)                                                       \
    X(scaled_decode, nb_ref_scaled_decode, nb_cpu_scaled_decode)                                                       \
    X(scaled_add, nb_ref_scaled_add, nb_cpu_scaled_add)                                                                \
    X(scaled_rescale, nb_ref_scaled_rescale, nb_cpu_scaled_rescale)                                                    \
    X(scaled_join, nb_ref_scaled_join, nb_cpu_scaled_join)                                                             \
    X(scaled_sum_squares, nb_ref_scaled_sum_squares, nb_cpu_scaled_sum_squares)                                        \
    X(scaled_adamw, nb_ref_scaled_adamw, nb_cpu_scaled_adamw)                                                          \
    /* mechanisms */                                                                                                   \
    X(dge, nb_ref_dge, nb_cpu_dge)                                                                                     \
    X(clamp_rows, nb_ref_clamp_rows, nb_cpu_clamp_rows)                                                                \
    X(sparse_gemm, nb_ref_sparse_gemm, nb_cpu_sparse_gemm)                                                             \
    X(sparse_add, nb_ref_sparse_add, nb_cpu_sparse_add)                                                                \
    X(gather_columns, nb_ref_gather_columns, nb_cpu_gather_columns)                                                    \
    X(scatter_columns, nb_ref_scatter_columns, nb_cpu_scatter_columns)                                                 \
    X(column_norms, nb_ref_column_norms, nb_cpu_column_norms)                                                          \
    X(add_distance, nb_ref_add_distance, nb_cpu_add_distance)                                                          \
    X(reset_where, nb_ref_reset_where, nb_cpu_reset_where)                                                             \
    X(bin_widths, nb_ref_bin_widths, nb_cpu_bin_widths)                                                                \
    X(round_by, nb_ref_round_by, nb_cpu_round_by)                                                                      \
    /* the lens */                                                                                                     \
    X(measure, nb_ref_measure, nb_cpu_measure)                                                                         \
    X(measure_attention, nb_ref_measure_attention, nb_cpu_measure_attention)

#endif
