/* rows_canonical.c: operands in the canonical layout (nb_qtensor): for programs outside, files and tests. */
#include "backend/cuda/coded.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantize.h"
#include "backend/cuda/rows.h"
#include "backend/ref/gemm_q.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"

#include <stdlib.h>

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* ---- quantizing ---- */

static nb_status count_stats(nb_backend *be, const nb_qtensor *out, const float *x, nb_quantize_stats *chunks,
                             nb_quantize_stats *stats, nb_error *err) {
    const int64_t count = (out->rows + NI_STATS_ROWS - 1) / NI_STATS_ROWS;
    nb_quantize_stats *host = malloc((size_t)count * sizeof *host);
    if (!host)
        return nb_fail(err, NB_NO_MEMORY, "quantize: no memory for statistics");
    nb_status status = ni_cuda_status(be, ni_cuda_quantize_stats(stream_of(be), chunks, out, x), "quantize", err);
    ni_cuda_download(be, host, chunks, (size_t)count * sizeof *host);
    ni_stats_total(out, host, count, stats);
    free(host);
    return status;
}

static nb_status quantize(nb_backend *be, const nb_qtensor *out, const ni_cuda_source *from, bool transpose,
                          const nb_noise *noise, nb_quantize_stats *stats, nb_error *err) {
    const nb_quantizer *q = &out->quantizer;
    const int64_t n = out->rows * out->cols, chunks = (out->rows + NI_STATS_ROWS - 1) / NI_STATS_ROWS;
    const size_t x_bytes = rounded((size_t)n * sizeof(float));
    const size_t amax_bytes = rounded((size_t)(out->rows + out->cols) * sizeof(uint32_t));
    char *memory = ni_cuda_scratch(be, x_bytes + amax_bytes + (size_t)chunks * sizeof(nb_quantize_stats), "quantize");
    if (!memory)
        return ni_cuda_status(be, 0, "quantize", err);
    ni_cuda_noise key = {0};
    if (noise)
        key = (ni_cuda_noise){noise->seed, noise->tensor, noise->signs, noise->clock};
    ni_cuda_encoding e = {.x = (float *)(void *)memory,
                          .rows = out->rows,
                          .cols = out->cols,
                          .quantizer = *q,
                          .out = *out,
                          .amax = (uint32_t *)(void *)(memory + x_bytes),
                          .noise = key};
    const bool whole = q->scale_type == NB_SCALE_E4M3 || (q->block_rows != 1 && q->block_cols != 1);
    int code = ni_cuda_load_source(stream_of(be), (float *)(void *)memory, from, transpose);
    if (!code)
        code = ni_cuda_rotate(stream_of(be), (float *)(void *)memory, out->rows, out->cols, q, &key);
    ni_cuda_fill_zero(be, e.amax, amax_bytes);
    if (!code && whole)
        code = ni_cuda_amax(stream_of(be), e.amax, e.x, n);
    if (!code)
        code = ni_cuda_encode(stream_of(be), &e);
    NB_TRY(ni_cuda_status(be, code, "quantize", err));
    return stats ? count_stats(be, out, e.x, (nb_quantize_stats *)(void *)(memory + x_bytes + amax_bytes), stats, err)
                 : NB_OK;
}

nb_status ni_cuda_quantize(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                           const nb_noise *noise, nb_quantize_stats *stats, nb_error *err) {
    NB_TRY(ni_check_source(src, err));
    NB_TRY(ni_check_quantize(out, src->rows, src->cols, transpose, noise, err));
    const ni_cuda_source from = {.numbers = *src, .rows = src->rows, .cols = src->cols};
    return quantize(be, out, &from, transpose, noise, stats, err);
}

nb_status ni_cuda_requantize(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                             const nb_noise *noise, nb_quantize_stats *stats, nb_error *err) {
    NB_TRY(ni_check_requantize(src, err));
    NB_TRY(ni_check_quantize(out, src->rows, src->cols, transpose, noise, err));
    const ni_cuda_source from = {.codes = *src, .rows = src->rows, .cols = src->cols};
    return quantize(be, out, &from, transpose, noise, stats, err);
}

nb_status ni_cuda_transpose_codes(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err) {
    NB_TRY(ni_check_transpose_codes(out, src, err));
    return ni_cuda_status(be, ni_cuda_launch_turn(stream_of(be), out, src), "transpose_codes", err);
}

nb_status ni_cuda_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                             bool with_tensor_scale, nb_error *err) {
    NB_TRY(ni_check_dequantize(out, src, transpose, err));
    nb_qtensor from = *src;
    if (!with_tensor_scale)
        from.tensor_scale = NULL;
    return ni_cuda_status(be, ni_cuda_launch_decode(stream_of(be), out, &from, transpose, NULL, true), "dequantize",
                          err);
}

/* ---- multiplying ---- */

static ni_cuda_outer outer_of(const nb_qtensor *t) {
    const nb_quantizer *q = &t->quantizer;
    bool rows = q->scale_type == NB_SCALE_F32 && q->block_rows == 1 && q->block_cols == NB_BLOCK_ALL;
    return rows ? (ni_cuda_outer){t->outer_scales, 1} : (ni_cuda_outer){t->tensor_scale, 0};
}

nb_status ni_cuda_gemm_q(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, bool accumulate,
                         nb_error *err) {
    NB_TRY(ni_gemm_q_check(c, a, b, err));
    const ni_cuda_units units = ni_cuda_units_for(ni_cuda_of(be), a, b);
    if (units != NI_CUDA_BF16) {
        void *room = ni_cuda_scratch(be, ni_cuda_coded_bytes(units, a, b), "gemm_q");
        if (!room)
            return ni_cuda_status(be, 0, "gemm_q", err);
        return ni_cuda_multiply_coded(be, units, c, a, b, accumulate, room, err);
    }
    const size_t bytes_a = rounded((size_t)(a->rows * a->cols) * sizeof(uint16_t));
    const size_t bytes_b = rounded((size_t)(b->rows * b->cols) * sizeof(uint16_t));
    char *memory = ni_cuda_scratch(be, bytes_a + bytes_b + (size_t)(c->rows * c->cols) * sizeof(float), "gemm_q");
    if (!memory)
        return ni_cuda_status(be, 0, "gemm_q", err);
    ni_cuda_product p = {.a = nb_mat_of(memory, NB_BF16, a->rows, a->cols),
                         .b = nb_mat_of(memory + bytes_a, NB_BF16, b->rows, b->cols),
                         .c = nb_mat_of(memory + bytes_a + bytes_b, NB_F32, c->rows, c->cols),
                         .trans_b = true};
    int code = ni_cuda_launch_decode(stream_of(be), &p.a, a, false, NULL, false);
    if (!code)
        code = ni_cuda_launch_decode(stream_of(be), &p.b, b, false, NULL, false);
    NB_TRY(ni_cuda_status(be, code, "gemm_q", err));
    NB_TRY(ni_cuda_multiply_plain(be, &p, err));
    return ni_cuda_status(
        be, ni_cuda_launch_scaled_result(stream_of(be), c, &p.c, outer_of(a), outer_of(b), accumulate), "gemm_q", err);
}

const char *ni_cuda_gemm_q_kernel(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    return ni_cuda_product_kernel(be, a, b);
}
