/* rows_mechanisms.c: what recipes do beyond quantizing, and what the lens measures, handed to their kernels. */
#include "backend/cuda/crests.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantize.h"
#include "backend/cuda/rows.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/measure.h"
#include "backend/ref/operand_parts.h"

#include <math.h>
#include <stdlib.h>

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

/* ---- DGE, OCC ---- */

void ni_cuda_dge(nb_backend *be, void *dw, const ni_scaled *w, const nb_operand *operand, double k, double cap) {
    const nb_qtensor codes = ni_codes_of(operand);
    ni_cuda_good(be, ni_cuda_launch_dge(stream_of(be), dw, w, &codes, (float)k, (float)cap), "dge");
}

nb_status ni_cuda_clamp_rows(nb_backend *be, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                             int64_t high, bool whole, nb_error *err) {
    NB_TRY(ni_clamp_check(out, rest, x, low, high, whole, err));
    void *scratch = ni_cuda_scratch(be, ni_cuda_clamp_bytes(whole), "clamp_rows");
    if (!scratch)
        return ni_cuda_status(be, 0, "clamp_rows", err);
    return ni_cuda_status(be, ni_cuda_launch_clamp(stream_of(be), out, rest, x, low, high, whole, scratch),
                          "clamp_rows", err);
}

/* An amax is the bits of a float. */
void ni_cuda_round_under(nb_backend *be, const nb_mat *out, const nb_mat *x, nb_dtype type, float *now,
                         const float *past) {
    uint32_t *amax = now ? (uint32_t *)(void *)now : ni_cuda_scratch(be, sizeof *amax, "round_under");
    if (amax)
        ni_cuda_good(be, ni_cuda_launch_round_under(stream_of(be), out, x, type, amax, past), "round_under");
}

void ni_cuda_sparse_add(nb_backend *be, const nb_mat *x, const ni_sparse *s) {
    ni_cuda_good(be, ni_cuda_launch_sparse_add(stream_of(be), x, s), "sparse_add");
}

/* ---- chosen columns ---- */

void ni_cuda_gather_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns) {
    ni_cuda_good(be, ni_cuda_launch_gather(stream_of(be), out, in, columns), "gather_columns");
}

void ni_cuda_rotate_rows(nb_backend *be, const nb_mat *x, int32_t size, nb_signs signs, const nb_noise *noise) {
    ni_cuda_good(be, ni_cuda_launch_rotate_rows(stream_of(be), x, size, signs, noise), "rotate_rows");
}

void ni_cuda_quest_backward(nb_backend *be, const nb_mat *g, const nb_mat *x, const nb_quantizer *q) {
    ni_cuda_good(be, ni_cuda_launch_quest_backward(stream_of(be), g, x, q), "quest_backward");
}

void ni_cuda_scatter_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                             bool accumulate) {
    ni_cuda_good(be, ni_cuda_launch_scatter(stream_of(be), out, in, columns, accumulate), "scatter_columns");
}

void ni_cuda_column_norms(nb_backend *be, float *norms, const nb_mat *x) {
    double *partial = ni_cuda_scratch(be, ni_cuda_column_chunks_bytes(x->rows, x->cols), "column_norms");
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_column_norms(stream_of(be), norms, x, partial), "column_norms");
}

void ni_cuda_column_means(nb_backend *be, const nb_mat *means, const nb_mat *x) {
    double *partial = ni_cuda_scratch(be, ni_cuda_column_chunks_bytes(x->rows, x->cols), "column_means");
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_column_means(stream_of(be), means, x, partial), "column_means");
}

void ni_cuda_subtract_row(nb_backend *be, const nb_mat *out, const nb_mat *x, const nb_mat *row) {
    ni_cuda_good(be, ni_cuda_launch_subtract_row(stream_of(be), out, x, row), "subtract_row");
}

/* ---- weights against their codes ---- */

void ni_cuda_add_distance(nb_backend *be, float *distance, const float *a, const float *b, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_add_distance(stream_of(be), distance, a, b, n), "add_distance");
}

void ni_cuda_bin_distances(nb_backend *be, float *out, const float *w, const float *q, const float *widths, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_bin_distances(stream_of(be), out, w, q, widths, n), "bin_distances");
}

void ni_cuda_add_flips(nb_backend *be, uint8_t *flips, const float *q, const float *q_before, const float *widths,
                       int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_add_flips(stream_of(be), flips, q, q_before, widths, n), "add_flips");
}

void ni_cuda_reset_where(nb_backend *be, int64_t *resets, float *w, const float *q, const float *moved_w,
                         const float *moved_q, const uint8_t *flips, int32_t least_flips, int64_t n, double threshold) {
    ni_cuda_good(
        be, ni_cuda_launch_reset_where(stream_of(be), resets, w, q, moved_w, moved_q, flips, least_flips, n, threshold),
        "reset_where");
}

void ni_cuda_bin_widths(nb_backend *be, float *out, const nb_operand *operand) {
    const nb_qtensor codes = ni_codes_of(operand);
    ni_cuda_good(be, ni_cuda_launch_bin_widths(stream_of(be), out, &codes), "bin_widths");
}

void ni_cuda_round_by(nb_backend *be, nb_operand *operand, const float *w, const float *guide) {
    const nb_qtensor codes = ni_codes_of(operand);
    nb_error err;
    ni_cuda_good(be, ni_cuda_launch_round_by(stream_of(be), &codes, w, guide), "round_by");
    if (ni_cuda_fill_values(be, operand, &err) != NB_OK) /* the codes changed */
        ni_cuda_keep(be, &err);
}

/* ---- choices ---- */

void ni_cuda_top_k(nb_backend *be, int32_t *out, const float *scores, int64_t n, int64_t k, bool by_index) {
    void *scratch = ni_cuda_scratch(be, ni_cuda_top_k_bytes(n), "top_k");
    if (scratch)
        ni_cuda_good(be, ni_cuda_launch_top_k(stream_of(be), out, scores, n, k, by_index, scratch), "top_k");
}

void ni_cuda_count_common(nb_backend *be, int64_t *count, const int32_t *a, const int32_t *b, int64_t k) {
    ni_cuda_good(be, ni_cuda_launch_count_common(stream_of(be), count, a, b, k), "count_common");
}

void ni_cuda_column_errors(nb_backend *be, double *mean_abs_error, double *rms, const nb_mat *x,
                           const nb_mat *decoded) {
    ni_cuda_good(be, ni_cuda_launch_column_errors(stream_of(be), mean_abs_error, rms, x, decoded), "column_errors");
}

void ni_cuda_hot_scores(nb_backend *be, float *scores, double *means, const double *facts, int64_t n, double keep,
                        bool normalized) {
    ni_cuda_good(be, ni_cuda_launch_hot_scores(stream_of(be), scores, means, facts, n, keep, normalized), "hot_scores");
}

/* ---- what the lens follows: results stay in the GPU's memory ---- */

static double *parts_for(nb_backend *be, int64_t count, const char *what) {
    return ni_cuda_scratch(be, (size_t)count * sizeof(double), what);
}

void ni_cuda_measure_gate(nb_backend *be, double *out, const nb_mat *a, const nb_mat *bias) {
    double *parts = parts_for(be, ni_cuda_column_sums(4, a->rows, a->cols), "measure_gate");
    if (parts)
        ni_cuda_good(be, ni_cuda_launch_measure_gate(stream_of(be), out, a, bias, parts), "measure_gate");
}

void ni_cuda_measure_pair(nb_backend *be, double *out, const nb_mat *x, const nb_mat *y) {
    double *parts = parts_for(be, ni_cuda_column_sums(3, x->rows, x->cols), "measure_pair");
    if (parts)
        ni_cuda_good(be, ni_cuda_launch_measure_pair(stream_of(be), out, x, y, parts), "measure_pair");
}

void ni_cuda_measure_alignment(nb_backend *be, double *out, const nb_mat *a, const nb_mat *b) {
    double *parts = parts_for(be, ni_cuda_row_sums(a->rows, a->cols), "measure_alignment");
    if (parts)
        ni_cuda_good(be, ni_cuda_launch_measure_alignment(stream_of(be), out, a, b, parts), "measure_alignment");
}

void ni_cuda_track_codes(nb_backend *be, const ni_tracked *t, const nb_mat *w, const nb_qtensor *codes, bool first) {
    const ni_cuda_tracked tracked = {t->w, t->q, t->moved_w, t->moved_q, t->codes, t->flips};
    ni_cuda_good(be, ni_cuda_launch_track_codes(stream_of(be), &tracked, w, codes, first), "track_codes");
}

void ni_cuda_count_ratios(nb_backend *be, int64_t *counts, const float *moved_q, const float *moved_w, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_count_bins(stream_of(be), counts, moved_q, moved_w, NULL, n, NI_RATIO_COUNTS),
                 "count_ratios");
}

void ni_cuda_count_distances(nb_backend *be, int64_t *counts, const float *w, const float *q, const float *widths,
                             int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_count_bins(stream_of(be), counts, w, q, widths, n, NI_DISTANCE_COUNTS),
                 "count_distances");
}

/* ---- the lens ---- */

void ni_cuda_measure(nb_backend *be, const nb_mat *x, ni_moments *moments, float *column_amax, float *tile_crest) {
    const size_t bytes = ni_cuda_measure_bytes(x);
    ni_cuda_moment_sums *partial = ni_cuda_scratch(be, bytes ? bytes : 1, "measure");
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_measure(stream_of(be), x, partial, moments, column_amax, tile_crest),
                     "measure");
}

void ni_cuda_summarize_crests(nb_backend *be, const ni_crest_map *maps, int32_t count) {
    ni_cuda_good(be, ni_cuda_launch_crests(stream_of(be), maps, count), "summarize_crests");
}

void ni_cuda_count_scales(nb_backend *be, int64_t *counts, const uint8_t *scales, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_count_scales(stream_of(be), counts, scales, n), "count_scales");
}

void ni_cuda_measure_attention(nb_backend *be, const nb_attention *a, const void *q, const void *k, int64_t stride,
                               ni_attention_stats *stats) {
    const int64_t queries = a->batch * a->heads * (a->seq / stride);
    ni_attention_stats *each = ni_cuda_scratch(be, sizeof *each * (size_t)(queries ? queries : 1), "measure_attention");
    if (each)
        ni_cuda_good(be, ni_cuda_launch_measure_attention(stream_of(be), a, q, k, stride, each, stats),
                     "measure_attention");
}
