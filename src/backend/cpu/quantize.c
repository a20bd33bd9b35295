/* quantize.c: quantizes operands in groups of 64 rows, shared out among the threads.
 *
 * A scale of the whole tensor (or of a column) needs its amax before the first code can be written: one pass over the
 * source more. Integer maxima do not depend on the order, and everything else belongs to one group, so the number of
 * threads changes no bit.
 */
#include "backend/cpu/cpu.h"

#include "backend/cpu/operand.h"
#include "backend/cpu/quantize_kernels.h"
#include "backend/ref/quantize.h"
#include "backend/ref/quantize_parts.h"
#include "format/e8m0.h"
#include "format/element.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

const ni_quantize_kernels *ni_quantize_kernels_of(nb_backend *be) {
#if defined(NI_X86)
    if (ni_cpu_of(be)->isa == NB_ISA_AVX512)
        return &ni_quantize_avx512;
    if (ni_cpu_of(be)->isa == NB_ISA_AVX2)
        return &ni_quantize_avx2;
#else
    (void)be;
#endif
    return &ni_quantize_portable;
}

static int64_t groups_of(int64_t rows) {
    return (rows + NI_GROUP_ROWS - 1) / NI_GROUP_ROWS;
}

static uint32_t max_of(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

float ni_cpu_amax(nb_backend *be, const nb_mat *x) {
    const ni_quantize_kernels *k = ni_quantize_kernels_of(be);
    uint32_t amax = 0;
    if (x->amax)
        return ni_f32_from(*x->amax);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) reduction(max : amax)
    for (int64_t group = 0; group < groups_of(x->rows); group++) {
        int64_t r0 = group * NI_GROUP_ROWS, r1 = r0 + NI_GROUP_ROWS < x->rows ? r0 + NI_GROUP_ROWS : x->rows;
        amax = max_of(amax, k->amax_matrix(x, r0, r1));
    }
    return ni_f32_from(amax);
}

/* Of the rotated input. Without rotation the order of the elements does not matter, and the source is read as it lies.
 */
static float tensor_amax(nb_backend *be, const ni_quantize_job *job) {
    uint32_t amax = 0;
    if (job->src && !job->out->quantizer.hadamard_size)
        return ni_cpu_amax(be, job->src);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) reduction(max : amax)
    for (int64_t group = 0; group < groups_of(job->out->rows); group++)
        amax = max_of(amax, ni_quantize_kernels_of(be)->amax(job, group * NI_GROUP_ROWS));
    return ni_f32_from(amax);
}

/* Encode scales of the columns, in memory of the backend that lasts until the end of this quantization. */
static nb_status column_scales(nb_backend *be, ni_quantize_job *job, nb_error *err) {
    const ni_quantize_kernels *k = ni_quantize_kernels_of(be);
    const nb_quantizer *q = &job->out->quantizer;
    int64_t cols = job->out->cols;
    int32_t threads = ni_cpu_of(be)->threads;
    void *memory = ni_cpu_shared(be, (size_t)threads * (size_t)cols * sizeof(uint32_t));
    uint32_t *amax = memory;
    if (!amax)
        return nb_fail(err, NB_NO_MEMORY, "quantize: no memory for the scales of %lld columns", (long long)cols);
    memset(amax, 0, (size_t)threads * (size_t)cols * sizeof *amax);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t group = 0; group < groups_of(job->out->rows); group++)
        k->amax_columns(job, group * NI_GROUP_ROWS, amax + omp_get_thread_num() * cols);
    float *encode = memory; /* takes the place of what is read */
    for (int64_t c = 0; c < cols; c++) {
        for (int32_t t = 1; t < threads; t++)
            amax[c] = max_of(amax[c], amax[t * cols + c]);
        float scale = ni_vector_encode(q->rule, ni_element_info(q->element)->max, ni_f32_from(amax[c]));
        memcpy(&encode[c], &scale, sizeof scale);
        job->out->outer_scales[c] = ni_vector_decode(scale);
    }
    job->encode_columns = encode;
    return NB_OK;
}

/* What must be known of the whole operand before its first code. */
static nb_status scales_first(nb_backend *be, ni_quantize_job *job, nb_error *err) {
    const nb_qtensor *out = job->out;
    const nb_quantizer *q = &out->quantizer;
    job->encode = 1.0f;
    if (q->scale_type == NB_SCALE_E4M3) {
        float amax = job->outer_amax ? *job->outer_amax : q->outer == NB_OUTER_TENSOR ? tensor_amax(be, job) : 0.0f;
        job->tensor = ni_tensor_scale_of(ni_e4m3_target_for(q), q->outer, amax);
        job->tensor_amax = amax;
        if (out->tensor_scale)
            *out->tensor_scale = job->tensor.sdec;
    } else if (q->scale_type == NB_SCALE_E8M0 && out->tensor_scale) {
        *out->tensor_scale = NI_FOUR_THIRDS;
    } else if (q->scale_type == NB_SCALE_F32 && out->tensor_scale) {
        job->encode = ni_vector_encode(q->rule, ni_element_info(q->element)->max, tensor_amax(be, job));
        *out->tensor_scale = ni_vector_decode(job->encode);
    } else if (q->scale_type == NB_SCALE_F32 && q->block_cols == 1) {
        return column_scales(be, job, err);
    }
    return NB_OK;
}

/* Codes of a group and, while it is in the cache, statistics: chunk by chunk, in the reference's order. */
static void encode_and_measure(const ni_quantize_kernels *k, const ni_quantize_job *job, int64_t r0, float *memory,
                               nb_quantize_stats *chunks) {
    const nb_qtensor *out = job->out;
    int64_t cols = out->cols, left = out->rows - r0, rows = left < NI_GROUP_ROWS ? left : NI_GROUP_ROWS;
    float *x = memory, *decoded = memory + NI_GROUP_ROWS * cols;
    k->encode(job, r0, x);
    for (int64_t r = 0; r < rows; r += NI_STATS_ROWS) {
        int64_t count = rows - r < NI_STATS_ROWS ? rows - r : NI_STATS_ROWS;
        nb_quantize_stats *chunk = &chunks[(r0 + r) / NI_STATS_ROWS];
        if (out->quantizer.block_cols != 1 && out->quantizer.scale_type != NB_SCALE_HIF4) {
            k->stats(out, x + r * cols, r0 + r, count, chunk);
            continue;
        }
        for (int64_t i = 0; i < count; i++)
            k->decode(out, r0 + r + i, 0, cols, true, decoded + i * cols);
        ni_stats_chunk(out, x + r * cols, decoded, r0 + r, count, chunk);
    }
}

static nb_status run_and_measure(nb_backend *be, const ni_quantize_job *job, nb_quantize_stats *stats, nb_error *err) {
    int64_t groups = groups_of(job->out->rows), count = (job->out->rows + NI_STATS_ROWS - 1) / NI_STATS_ROWS;
    size_t bytes = (NI_GROUP_ROWS + NI_STATS_ROWS) * (size_t)job->out->cols * sizeof(float);
    nb_quantize_stats *chunks = malloc((size_t)count * sizeof *chunks); /* the shared memory may hold column scales */
    bool short_of_memory = !chunks;
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) reduction(|| : short_of_memory)
    for (int64_t group = 0; group < groups; group++) {
        float *memory = ni_cpu_scratch(be, omp_get_thread_num(), bytes);
        if (memory && chunks)
            encode_and_measure(ni_quantize_kernels_of(be), job, group * NI_GROUP_ROWS, memory, chunks);
        else
            short_of_memory = true;
    }
    if (!short_of_memory)
        ni_stats_total(job->out, chunks, count, stats);
    free(chunks);
    return short_of_memory ? nb_fail(err, NB_NO_MEMORY, "quantize: no memory for statistics") : NB_OK;
}

static nb_status run(nb_backend *be, ni_quantize_job *job, nb_quantize_stats *stats, nb_error *err) {
    const ni_quantize_kernels *k = ni_quantize_kernels_of(be);
    const nb_quantizer *q = &job->out->quantizer;
    if (q->hadamard_size)
        job->signs = ni_signs_of(q->hadamard_signs, &job->noise);
    NB_TRY(scales_first(be, job, err));
    if (stats)
        return run_and_measure(be, job, stats, err);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t group = 0; group < groups_of(job->out->rows); group++)
        k->encode(job, group * NI_GROUP_ROWS, NULL);
    return NB_OK;
}

static ni_noise_key key_of(const nb_noise *noise) {
    return noise ? ni_noise_at(noise) : (ni_noise_key){0};
}

float ni_cpu_rotated_amax(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                          const nb_noise *noise) {
    ni_quantize_job job = {.out = out, .src = src, .transpose = transpose, .noise = key_of(noise)};
    if (out->quantizer.hadamard_size)
        job.signs = ni_signs_of(out->quantizer.hadamard_signs, &job.noise);
    return tensor_amax(be, &job);
}

nb_status ni_cpu_quantize_under(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                                const nb_noise *noise, const float *outer_amax, nb_quantize_stats *stats,
                                nb_error *err) {
    NB_TRY(ni_check_source(src, err));
    NB_TRY(ni_check_quantize(out, src->rows, src->cols, transpose, noise, err));
    ni_quantize_job job = {
        .out = out, .src = src, .transpose = transpose, .noise = key_of(noise), .outer_amax = outer_amax};
    return run(be, &job, stats, err);
}

nb_status ni_cpu_requantize(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                            const nb_noise *noise, nb_quantize_stats *stats, nb_error *err) {
    NB_TRY(ni_check_requantize(src, err));
    NB_TRY(ni_check_quantize(out, src->rows, src->cols, transpose, noise, err));
    ni_quantize_job job = {.out = out, .from = src, .transpose = transpose, .noise = key_of(noise)};
    return run(be, &job, stats, err);
}

/* ---- codes exchanged ---- */

/* Rows of 16 codes in 64 bits each; blocks of 8, 4, 2 and 1 codes change places across the diagonal. */
static void transpose_16x16(uint64_t row[16]) {
    static const uint64_t low[4] = {0x0f0f0f0f0f0f0f0f, 0x00ff00ff00ff00ff, 0x0000ffff0000ffff, 0x00000000ffffffff};
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < 16; i++)
            if (!(i >> s & 1)) {
                uint64_t swap = (row[i] >> (4 << s) ^ row[i + (1 << s)]) & low[s];
                row[i] ^= swap << (4 << s);
                row[i + (1 << s)] ^= swap;
            }
}

/* The 16x16 codes whose first is (r, c) of out. */
static void transpose_tile(const nb_qtensor *out, const nb_qtensor *src, int64_t r, int64_t c) {
    uint64_t row[16];
    for (int64_t i = 0; i < 16; i++)
        memcpy(&row[i], src->codes + (c + i) * (src->cols / 2) + r / 2, sizeof row[i]);
    transpose_16x16(row);
    for (int64_t i = 0; i < 16; i++)
        memcpy(out->codes + (r + i) * (out->cols / 2) + c / 2, &row[i], sizeof row[i]);
    for (int64_t i = 0; src->scales && i < 16; i++)
        out->scales[(r + i) * (out->cols / 16) + c / 16] = src->scales[c * (src->cols / 16) + r / 16];
}

/* The same of bytes; edges are shorter. */
static void transpose_bytes(const nb_qtensor *out, const nb_qtensor *src, int64_t r, int64_t c) {
    for (int64_t i = r; i < r + 16 && i < out->rows; i++)
        for (int64_t k = c; k < c + 16 && k < out->cols; k++)
            out->codes[i * out->cols + k] = src->codes[k * src->cols + i];
}

nb_status ni_cpu_transpose_codes(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err) {
    NB_TRY(ni_check_transpose_codes(out, src, err));
    bool bytes = ni_element_info(src->quantizer.element)->bits == 8;
    if (!bytes && (src->rows % 16 || src->cols % 16))
        return ni_ref_transpose_codes(be, out, src, err);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t r = 0; r < out->rows; r += 16)
        for (int64_t c = 0; c < out->cols; c += 16)
            if (bytes)
                transpose_bytes(out, src, r, c);
            else
                transpose_tile(out, src, r, c);
    if (src->outer_scales) /* one a row of src: one a column of out, or the reverse */
        memcpy(out->outer_scales, src->outer_scales,
               nb_qtensor_bytes(&src->quantizer, src->rows, src->cols).outer_scales);
    if (src->tensor_scale)
        *out->tensor_scale = *src->tensor_scale;
    return NB_OK;
}

/* ---- decoding ---- */

enum { DECODE_ROWS = 16, DECODE_COLS = 128 };

static void put_span(const ni_quantize_kernels *k, const nb_mat *out, int64_t at, const float *x, int64_t n) {
    if (out->dtype == NB_BF16)
        k->round_bf16((uint16_t *)out->data + at, x, n);
    else
        memcpy((float *)out->data + at, x, (size_t)n * sizeof *x);
}

/* Decoded rows [r0, r0 + rows) of src become columns of out. */
static void decode_transposed(const ni_quantize_kernels *k, const nb_mat *out, const nb_qtensor *src, int64_t r0,
                              int64_t rows, bool with_tensor_scale) {
    float x[DECODE_ROWS][DECODE_COLS], column[DECODE_ROWS];
    for (int64_t c0 = 0; c0 < src->cols; c0 += DECODE_COLS) {
        int64_t cols = src->cols - c0 < DECODE_COLS ? src->cols - c0 : DECODE_COLS;
        for (int64_t r = 0; r < rows; r++)
            k->decode(src, r0 + r, c0, c0 + cols, with_tensor_scale, x[r]);
        for (int64_t c = 0; c < cols; c++) {
            for (int64_t r = 0; r < rows; r++)
                column[r] = x[r][c];
            put_span(k, out, (c0 + c) * out->stride + r0, column, rows);
        }
    }
}

nb_status ni_cpu_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                            bool with_tensor_scale, nb_error *err) {
    NB_TRY(ni_check_dequantize(out, src, transpose, err));
    const ni_quantize_kernels *k = ni_quantize_kernels_of(be);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static)
    for (int64_t r0 = 0; r0 < src->rows; r0 += DECODE_ROWS) {
        int64_t rows = src->rows - r0 < DECODE_ROWS ? src->rows - r0 : DECODE_ROWS;
        if (transpose) {
            decode_transposed(k, out, src, r0, rows, with_tensor_scale);
            continue;
        }
        float x[DECODE_COLS];
        for (int64_t r = r0; r < r0 + rows; r++)
            for (int64_t c = 0; c < src->cols; c += DECODE_COLS) {
                int64_t n = src->cols - c < DECODE_COLS ? src->cols - c : DECODE_COLS;
                k->decode(src, r, c, c + n, with_tensor_scale, x);
                put_span(k, out, r * out->stride + c, x, n);
            }
    }
    return NB_OK;
}
