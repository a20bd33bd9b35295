/* mechanisms.c: what the operations of mechanisms and of the lens move and compute. */
#include "backend/paper/paper.h"
#include "backend/ref/dge_occ.h"

#include <string.h>

/* A row reads shapes alone: most of its arguments go unused. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

static double count_of(const nb_mat *m) {
    return (double)(m->rows * m->cols);
}

static double codes_bytes(const nb_operand *t) {
    return (double)nb_qtensor_bytes(&t->quantizer, t->rows, t->cols).total;
}

static double floats(int64_t n) {
    return sizeof(float) * (double)n;
}

/* Scale, cell, power by exponential and logarithm (which has a quotient), cap, product. */
void ni_paper_dge(nb_backend *be, void *dw, const ni_scaled *w, const nb_operand *codes, double k, double cap) {
    const int64_t n = codes->rows * codes->cols;
    const double scales = codes_bytes(codes) - (double)n / 2;
    NI_PAPER_NOTE_WORK(dge, floats(n) + (double)n * (double)nb_dtype_size(w->dtype) + scales, floats(n),
                       NI_PAPER_functions, 7.0 * (double)n, 9.0 * (double)n);
}

/* Order statistics by bisection over 16-bit keys: a comparison for each number and each bit. */
nb_status ni_paper_clamp_rows(nb_backend *be, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                              int64_t high, bool whole, nb_error *err) {
    NB_TRY(ni_clamp_check(out, rest, x, low, high, whole, err));
    const double entries = rest ? (double)x->rows * (double)rest->room : 0;
    NI_PAPER_NOTE(clamp_rows, ni_paper_mat_bytes(x), ni_paper_mat_bytes(out) + 6 * entries, NI_PAPER_work,
                  18 * count_of(x));
    if (whole) {
        enum { KEYS = 1 << 16 };
        ni_paper *p = be->state;
        ni_paper_room(be, NI_ROOM_SHARED, sizeof(uint32_t) * (double)p->cpu.threads * KEYS);
    }
    return NB_OK;
}

void ni_paper_sparse_add(nb_backend *be, const nb_mat *x, const ni_sparse *s) {
    const double entries = (double)x->rows * (double)s->room;
    NI_PAPER_NOTE(sparse_add, entries * ((s->exact ? 8 : 6) + (double)nb_dtype_size(x->dtype)),
                  entries * (double)nb_dtype_size(x->dtype), NI_PAPER_work, entries);
}

nb_status ni_paper_decode_with_rest(nb_backend *be, const nb_mat *out, const nb_operand *from, const ni_sparse *s,
                                    nb_error *err) {
    return ni_compose_decoded(be, out, from, s, err);
}

void ni_paper_round_under(nb_backend *be, const nb_mat *out, const nb_mat *x, nb_dtype type, float *now,
                          const float *past) {
    NI_PAPER_NOTE(round_under, 2 * ni_paper_mat_bytes(x), ni_paper_mat_bytes(out), NI_PAPER_stages, 3 * count_of(x));
}

void ni_paper_gather_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns) {
    NI_PAPER_NOTE(gather_columns, ni_paper_mat_bytes(out) + floats(out->cols), ni_paper_mat_bytes(out), NI_PAPER_moves,
                  0);
}

void ni_paper_scatter_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                              bool accumulate) {
    NI_PAPER_NOTE(scatter_columns, ni_paper_mat_bytes(in) * (accumulate ? 2 : 1) + floats(in->cols),
                  ni_paper_mat_bytes(in), accumulate ? NI_PAPER_work : NI_PAPER_moves, accumulate ? count_of(in) : 0);
}

void ni_paper_column_norms(nb_backend *be, float *norms, const nb_mat *x) {
    NI_PAPER_NOTE(column_norms, ni_paper_mat_bytes(x) + floats(x->cols), floats(x->cols), NI_PAPER_work,
                  2 * count_of(x));
}

void ni_paper_column_means(nb_backend *be, const nb_mat *means, const nb_mat *x) {
    NI_PAPER_NOTE(column_means, ni_paper_mat_bytes(x), ni_paper_mat_bytes(means), NI_PAPER_work, count_of(x));
}

void ni_paper_subtract_row(nb_backend *be, const nb_mat *out, const nb_mat *x, const nb_mat *row) {
    NI_PAPER_NOTE(subtract_row, ni_paper_mat_bytes(x) + ni_paper_mat_bytes(row), ni_paper_mat_bytes(out), NI_PAPER_work,
                  2 * count_of(x));
}

void ni_paper_rotate_rows(nb_backend *be, const nb_mat *x, int32_t size, nb_signs signs, const nb_noise *noise) {
    double stages = 2; /* signs, the factor */
    for (int32_t n = size; n > 1; n /= 2)
        stages++;
    NI_PAPER_NOTE(rotate_rows, ni_paper_mat_bytes(x), ni_paper_mat_bytes(x), NI_PAPER_work, stages * count_of(x));
}

/* Two rotations, of x and of g; two sums, a scale and a comparison. */
void ni_paper_quest_backward(nb_backend *be, const nb_mat *g, const nb_mat *x, const nb_quantizer *q) {
    double stages = 2;
    for (int32_t n = q->hadamard_size; n > 1; n /= 2)
        stages++;
    NI_PAPER_NOTE(quest_backward, ni_paper_mat_bytes(g) + (x ? ni_paper_mat_bytes(x) : 0), ni_paper_mat_bytes(g),
                  NI_PAPER_work, (x ? 2 * stages + 6 : stages) * count_of(g));
}

void ni_paper_add_distance(nb_backend *be, float *distance, const float *a, const float *b, int64_t n) {
    NI_PAPER_NOTE(add_distance, floats(3 * n), floats(n), NI_PAPER_work, 3.0 * (double)n);
}

void ni_paper_bin_widths(nb_backend *be, float *out, const nb_operand *codes) {
    const int64_t n = codes->rows * codes->cols;
    NI_PAPER_NOTE(bin_widths, codes_bytes(codes), floats(n), NI_PAPER_work, 2.0 * (double)n);
}

void ni_paper_round_by(nb_backend *be, nb_operand *codes, const float *w, const float *guide) {
    const int64_t n = codes->rows * codes->cols;
    NI_PAPER_NOTE(round_by, codes_bytes(codes) + floats(2 * n), codes_bytes(codes), NI_PAPER_work, 5.0 * (double)n);
}

/* ---- measurements ---- */

void ni_paper_measure(nb_backend *be, const nb_mat *x, ni_moments *moments, float *column_amax, float *tile_crest) {
    NI_PAPER_NOTE(measure, ni_paper_mat_bytes(x), 0, NI_PAPER_work, 8 * count_of(x));
}

void ni_paper_summarize_crests(nb_backend *be, const ni_crest_map *maps, int32_t count) {
    int64_t crests = 0;
    for (int32_t i = 0; i < count; i++)
        crests += maps[i].rows * maps[i].cols;
    NI_PAPER_NOTE(summarize_crests, floats(crests), 0, NI_PAPER_work, 2.0 * (double)crests);
}

void ni_paper_count_scales(nb_backend *be, int64_t *counts, const uint8_t *scales, int64_t n) {
    NI_PAPER_NOTE(count_scales, (double)n, 16.0 * sizeof *counts, NI_PAPER_work, (double)n);
}

void ni_paper_measure_attention(nb_backend *be, const nb_attention *a, const void *q, const void *k, int64_t stride,
                                ni_attention_stats *stats) {
    const int64_t queries = (a->seq + stride - 1) / stride;
    const double sampled = (double)(a->batch * a->heads * queries);
    NI_PAPER_NOTE(measure_attention,
                  2 * ((double)a->head_dim * sampled + (double)(a->batch * a->seq * a->kv_heads * a->head_dim)), 0,
                  NI_PAPER_attention, (double)a->head_dim * sampled * (double)(a->seq + 1));
}

/* ---- choices, and what the lens follows ---- */

void ni_paper_top_k(nb_backend *be, int32_t *out, const float *scores, int64_t n, int64_t k, bool by_index) {
    NI_PAPER_NOTE(top_k, floats(n), floats(k), NI_PAPER_work, (double)n);
}

void ni_paper_count_common(nb_backend *be, int64_t *count, const int32_t *a, const int32_t *b, int64_t k) {
    NI_PAPER_NOTE(count_common, floats(2 * k), sizeof *count, NI_PAPER_work, 2.0 * (double)k);
}

void ni_paper_column_errors(nb_backend *be, double *mean_abs_error, double *rms, const nb_mat *x,
                            const nb_mat *decoded) {
    NI_PAPER_NOTE(column_errors, ni_paper_mat_bytes(x) + ni_paper_mat_bytes(decoded), 16.0 * (double)x->cols,
                  NI_PAPER_work, 5 * count_of(x));
}

void ni_paper_hot_scores(nb_backend *be, float *scores, double *means, const double *facts, int64_t n, double keep,
                         bool normalized) {
    NI_PAPER_NOTE(hot_scores, 32.0 * (double)n + floats(n), floats(n), NI_PAPER_work, 8.0 * (double)n);
}

void ni_paper_bin_distances(nb_backend *be, float *out, const float *w, const float *q, const float *widths,
                            int64_t n) {
    NI_PAPER_NOTE(bin_distances, floats(3 * n), floats(n), NI_PAPER_work, 3.0 * (double)n);
}

void ni_paper_add_flips(nb_backend *be, uint8_t *flips, const float *q, const float *q_before, const float *widths,
                        int64_t n) {
    NI_PAPER_NOTE(add_flips, floats(3 * n) + (double)n, (double)n, NI_PAPER_work, 4.0 * (double)n);
}

void ni_paper_reset_where(nb_backend *be, int64_t *resets, float *w, const float *q, const float *moved_w,
                          const float *moved_q, const uint8_t *flips, int32_t least_flips, int64_t n,
                          double threshold) {
    NI_PAPER_NOTE(reset_where, floats(4 * n) + (flips ? (double)n : 0), floats(n), NI_PAPER_work, 3.0 * (double)n);
}

void ni_paper_measure_gate(nb_backend *be, double *out, const nb_mat *a, const nb_mat *bias) {
    NI_PAPER_NOTE(measure_gate, ni_paper_mat_bytes(a), 4 * sizeof *out, NI_PAPER_work, 6 * count_of(a));
}

void ni_paper_measure_pair(nb_backend *be, double *out, const nb_mat *x, const nb_mat *y) {
    NI_PAPER_NOTE(measure_pair, ni_paper_mat_bytes(x) + ni_paper_mat_bytes(y), 3 * sizeof *out, NI_PAPER_work,
                  7 * count_of(x));
}

void ni_paper_measure_alignment(nb_backend *be, double *out, const nb_mat *a, const nb_mat *b) {
    NI_PAPER_NOTE(measure_alignment, ni_paper_mat_bytes(a) + ni_paper_mat_bytes(b), sizeof *out, NI_PAPER_work,
                  6 * count_of(a));
}

void ni_paper_track_codes(nb_backend *be, const ni_tracked *t, const nb_mat *w, const nb_qtensor *codes, bool first) {
    const int64_t n = w->rows * w->cols;
    NI_PAPER_NOTE(track_codes, floats(5 * n) + 1.5 * (double)n, floats(4 * n) + (double)n, NI_PAPER_work,
                  8.0 * (double)n);
}

void ni_paper_count_ratios(nb_backend *be, int64_t *counts, const float *moved_q, const float *moved_w, int64_t n) {
    NI_PAPER_NOTE(count_ratios, floats(2 * n), 12.0 * sizeof *counts, NI_PAPER_work, 2.0 * (double)n);
}

void ni_paper_count_distances(nb_backend *be, int64_t *counts, const float *w, const float *q, const float *widths,
                              int64_t n) {
    NI_PAPER_NOTE(count_distances, floats(3 * n), 10.0 * sizeof *counts, NI_PAPER_work, 4.0 * (double)n);
}
