/* quantize_kernels.h: what an instruction set provides to quantize an operand, a group of 64 rows at a time.
 *
 * quantize_band.inc is the one source; quantize_portable.c, quantize_avx2.c and quantize_avx512.c compile it for 4, 8
 * and 16 lanes. Groups are independent, so threads share them as they like.
 */
#ifndef NI_BACKEND_CPU_QUANTIZE_KERNELS_H
#define NI_BACKEND_CPU_QUANTIZE_KERNELS_H

#include "backend/table.h"
#include "format/hadamard.h"
#include "format/scale.h"

#define NI_GROUP_ROWS 64

/* One quantization, as every group sees it. */
typedef struct ni_quantize_job {
    const nb_qtensor *out;
    const nb_mat *src;      /* F32 or BF16; NULL for a requantization */
    const nb_qtensor *from; /* the operand to requantize; NULL otherwise */
    bool transpose;         /* operand row r is column r of src or from */
    ni_sign_mask signs;
    ni_noise_key noise;
    const float *outer_amax; /* [1] what the tensor's scale is made from; NULL: the amax of the input */
    /* scales that are known before the codes are written */
    ni_tensor_scale tensor;      /* E4M3 block scales */
    float tensor_amax;           /* what it was made from */
    float encode;                /* whole tensor, unscaled */
    const float *encode_columns; /* [cols]: a scale a column */
} ni_quantize_job;

typedef struct ni_quantize_kernels {
    /* Largest magnitude bits of the group that begins at row r0, after rotation. */
    uint32_t (*amax)(const ni_quantize_job *job, int64_t r0);
    /* amax[c] = max(amax[c], magnitude bits of column c of the group). */
    void (*amax_columns)(const ni_quantize_job *job, int64_t r0, uint32_t *amax);
    /* Largest magnitude bits of rows [r0, r1) of a source as it lies. */
    uint32_t (*amax_matrix)(const nb_mat *src, int64_t r0, int64_t r1);
    /* Block scales and codes of a group. x [rows of the group, cols] receives its rotated input; NULL: nobody asks. */
    void (*encode)(const ni_quantize_job *job, int64_t r0, float *x);
    /* ni_stats_chunk from the codes themselves, where a scale covers at least 16 columns: x [rows, cols] became the
     * rows of t from r0 on. */
    void (*stats)(const nb_qtensor *t, const float *x, int64_t r0, int64_t rows, nb_quantize_stats *chunk);
    /* Decoded columns [c0, c1) of a row; c0 divides by 16. */
    void (*decode)(const nb_qtensor *t, int64_t r, int64_t c0, int64_t c1, bool with_tensor_scale, float *x);
    void (*round_bf16)(uint16_t *to, const float *from, int64_t n);
} ni_quantize_kernels;

/* The functions of ref/quantize.h over the threads, bit for bit; quantize under a scale of the tensor made from
 * `outer_amax` [1]; NULL: from the source's own. */
nb_status ni_cpu_requantize(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                            const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
nb_status ni_cpu_transpose_codes(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err);
nb_status ni_cpu_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                            bool with_tensor_scale, nb_error *err);
nb_status ni_cpu_quantize_under(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                                const nb_noise *noise, const float *outer_amax, nb_quantize_stats *stats,
                                nb_error *err);

/* The largest magnitude of what quantize would give codes: of the source rotated as `out` says. */
float ni_cpu_rotated_amax(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                          const nb_noise *noise);

const ni_quantize_kernels *ni_quantize_kernels_of(nb_backend *be);

extern const ni_quantize_kernels ni_quantize_portable, ni_quantize_avx2, ni_quantize_avx512;

#endif
