/* rows_mechanisms.c: what recipes do beyond quantizing, and what the lens measures, handed to their kernels. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantize.h"
#include "backend/cuda/rows.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/measure.h"
#include "backend/ref/operand_parts.h"

#include <math.h>
#include <stdlib.h>

static void *stream_of(nb_backend *be) {
    return nb_cuda_of(be)->stream;
}

/* ---- DGE, OCC ---- */

void nb_cuda_dge(nb_backend *be, void *dw, const void *w, const nb_operand *operand, double k, double cap) {
    const nb_qtensor codes = nb_codes_of(operand);
    nb_cuda_good(be, nb_cuda_launch_dge(stream_of(be), dw, w, &codes, (float)k, (float)cap), "dge");
}

nb_status nb_cuda_clamp_rows(nb_backend *be, const nb_mat *out, const nb_sparse *rest, const nb_mat *x, int64_t low,
                             int64_t high, bool whole, nb_error *err) {
    NB_TRY(nb_clamp_check(out, rest, x, low, high, whole, err));
    void *scratch = nb_cuda_scratch(be, nb_cuda_clamp_bytes(whole), "clamp_rows");
    if (!scratch)
        return nb_cuda_status(be, 0, "clamp_rows", err);
    return nb_cuda_status(be, nb_cuda_launch_clamp(stream_of(be), out, rest, x, low, high, whole, scratch), "clamp_rows",
                          err);
}

void nb_cuda_sparse_gemm(nb_backend *be, const nb_mat *c, const nb_sparse *s, const nb_mat *b) {
    nb_cuda_good(be, nb_cuda_launch_sparse_product(stream_of(be), c, s, b), "sparse_gemm");
}

void nb_cuda_sparse_add(nb_backend *be, const nb_mat *x, const nb_sparse *s) {
    nb_cuda_good(be, nb_cuda_launch_sparse_add(stream_of(be), x, s), "sparse_add");
}

/* ---- chosen columns ---- */

void nb_cuda_gather_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns) {
    nb_cuda_good(be, nb_cuda_launch_gather(stream_of(be), out, in, columns), "gather_columns");
}

void nb_cuda_scatter_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                             bool accumulate) {
    nb_cuda_good(be, nb_cuda_launch_scatter(stream_of(be), out, in, columns, accumulate), "scatter_columns");
}

void nb_cuda_column_norms(nb_backend *be, float *norms, const nb_mat *x) {
    nb_cuda_good(be, nb_cuda_launch_column_norms(stream_of(be), norms, x), "column_norms");
}

/* ---- weights against their codes ---- */

void nb_cuda_add_distance(nb_backend *be, float *distance, const float *a, const float *b, int64_t n) {
    nb_cuda_good(be, nb_cuda_launch_add_distance(stream_of(be), distance, a, b, n), "add_distance");
}

int64_t nb_cuda_reset_where(nb_backend *be, float *w, const float *q, const float *moved_w, const float *moved_q,
                            int64_t n, double threshold) {
    int64_t resets = 0, *count = nb_cuda_scratch(be, sizeof *count, "reset_where");
    if (!count)
        return 0;
    nb_cuda_fill_zero(be, count, sizeof *count);
    nb_cuda_good(be, nb_cuda_launch_reset_where(stream_of(be), w, q, moved_w, moved_q, n, threshold, count), "reset_where");
    nb_cuda_download(be, &resets, count, sizeof resets);
    return resets;
}

void nb_cuda_bin_widths(nb_backend *be, float *out, const nb_operand *operand) {
    const nb_qtensor codes = nb_codes_of(operand);
    nb_cuda_good(be, nb_cuda_launch_bin_widths(stream_of(be), out, &codes), "bin_widths");
}

void nb_cuda_round_by(nb_backend *be, nb_operand *operand, const float *w, const float *guide) {
    const nb_qtensor codes = nb_codes_of(operand);
    nb_error ignored;
    nb_cuda_good(be, nb_cuda_launch_round_by(stream_of(be), &codes, w, guide), "round_by");
    nb_cuda_fill_values(be, operand, &ignored); /* the codes changed; a fault is kept */
}

/* ---- the lens ---- */

void nb_cuda_measure(nb_backend *be, const nb_mat *x, nb_moments *moments, float *column_amax, float *tile_crest) {
    const int64_t tiles = ((x->rows + 15) / 16) * ((x->cols + 15) / 16);
    const size_t sums = sizeof(nb_cuda_moment_sums) * NB_CUDA_SUM_BLOCKS, columns = (size_t)x->cols * sizeof(float);
    char *memory = nb_cuda_scratch(be, sums + columns + (size_t)tiles * sizeof(float), "measure");
    nb_cuda_moment_sums total;
    *moments = (nb_moments){0};
    if (!memory)
        return;
    nb_cuda_moment_sums *partial = (nb_cuda_moment_sums *)(void *)memory;
    float *amaxes = (float *)(void *)(memory + sums), *crests = (float *)(void *)(memory + sums + columns);
    nb_cuda_good(be, nb_cuda_launch_measure(stream_of(be), x, partial, column_amax ? amaxes : NULL, tile_crest ? crests : NULL), "measure");
    nb_cuda_download(be, &total, partial, sizeof total);
    *moments = nb_moments_of_sums(total.count, x->rows * x->cols - total.count, total.amax, total.sums);
    if (column_amax)
        nb_cuda_download(be, column_amax, amaxes, columns);
    if (tile_crest)
        nb_cuda_download(be, tile_crest, crests, (size_t)tiles * sizeof(float));
}

/* Few queries are looked at, so they are looked at on the host, by the reference. */
void nb_cuda_measure_attention(nb_backend *be, const nb_attention *a, const void *q, const void *k, int64_t stride,
                               nb_attention_stats *stats) {
    const int64_t tokens = a->batch * a->seq, q_width = a->q_stride ? a->q_stride : a->heads * a->head_dim;
    const int64_t k_width = a->k_stride ? a->k_stride : a->kv_heads * a->head_dim;
    uint16_t *host_q = malloc((size_t)(tokens * q_width) * sizeof *host_q);
    uint16_t *host_k = malloc((size_t)(tokens * k_width) * sizeof *host_k);
    int32_t *starts = malloc((size_t)tokens * sizeof *starts);
    *stats = (nb_attention_stats){0};
    if (host_q && host_k && starts) {
        nb_attention here = *a;
        nb_cuda_download(be, host_q, q, (size_t)(tokens * q_width) * sizeof *host_q);
        nb_cuda_download(be, host_k, k, (size_t)(tokens * k_width) * sizeof *host_k);
        if (a->doc_start)
            nb_cuda_download(be, starts, a->doc_start, (size_t)tokens * sizeof *starts);
        here.doc_start = a->doc_start ? starts : NULL;
        nb_ref_measure_attention(be, &here, host_q, host_k, stride, stats);
    }
    free(host_q);
    free(host_k);
    free(starts);
}
