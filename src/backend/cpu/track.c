/* track.c: what the lens counts and sums, over the threads: whole columns, whole rows, counts. */
#include "backend/ref/track.h"
#include "backend/cpu/cpu.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/numbers.h"
#include "backend/ref/quantize_parts.h"
#include "backend/ref/ref.h"
#include "format/element.h"

#include <math.h>

#define THREADS num_threads(ni_cpu_of(be)->threads) schedule(static)

/* ---- sums by columns ---- */

void ni_cpu_measure_gate(nb_backend *be, double *out, const nb_mat *a, const nb_mat *bias) {
    double(*columns)[4] = ni_cpu_shared(be, (size_t)a->cols * sizeof *columns);
    if (!columns) { /* no room for them: slower, with none */
        ni_ref_measure_gate(be, out, a, bias);
        return;
    }
#pragma omp parallel for THREADS
    for (int64_t c = 0; c < a->cols; c++)
        ni_gate_column(a, bias, c, columns[c]);
    out[0] = INFINITY;
    out[1] = -INFINITY;
    out[2] = out[3] = 0;
    for (int64_t c = 0; c < a->cols; c++) {
        out[0] = fmin(out[0], columns[c][0]);
        out[1] = fmax(out[1], columns[c][1]);
        out[2] += columns[c][2];
        out[3] += columns[c][3];
    }
}

void ni_cpu_measure_pair(nb_backend *be, double *out, const nb_mat *x, const nb_mat *y) {
    double(*columns)[3] = ni_cpu_shared(be, (size_t)x->cols * sizeof *columns);
    if (!columns) {
        ni_ref_measure_pair(be, out, x, y);
        return;
    }
#pragma omp parallel for THREADS
    for (int64_t c = 0; c < x->cols; c++)
        ni_pair_column(x, y, c, columns[c]);
    out[0] = out[1] = out[2] = 0;
    for (int64_t c = 0; c < x->cols; c++)
        for (int i = 0; i < 3; i++)
            out[i] += columns[c][i];
}

/* ---- rows that belong together ---- */

void ni_cpu_measure_alignment(nb_backend *be, double *out, const nb_mat *a, const nb_mat *b) {
    int64_t chunks = (a->rows + NI_SUM_CHUNK - 1) / NI_SUM_CHUNK;
    double *sums = ni_cpu_shared(be, (size_t)chunks * sizeof *sums), sum = 0;
    if (!sums) {
        ni_ref_measure_alignment(be, out, a, b);
        return;
    }
#pragma omp parallel for THREADS
    for (int64_t i = 0; i < chunks; i++) {
        sums[i] = 0;
        for (int64_t r = i * NI_SUM_CHUNK; r < a->rows && r < (i + 1) * NI_SUM_CHUNK; r++)
            sums[i] += ni_row_alignment(a, b, r);
    }
    for (int64_t i = 0; i < chunks; i++)
        sum += sums[i];
    *out = sum / (double)a->rows;
}

/* ---- weights from step to step ---- */

/* True where neighbours in groups of 16 share their scale: not where each column has its own. */
static bool scales_by_groups(const nb_qtensor *codes) {
    return codes->quantizer.scale_type != NB_SCALE_F32 || !codes->outer_scales || codes->quantizer.block_rows == 1;
}

/* The reference on one row, with the values of all codes at hand and a scale read once for 16 of them. */
static int64_t track_row(const ni_tracked *t, const float *w, const nb_qtensor *row, const float *values, bool first) {
    bool bytes = ni_element_info(row->quantizer.element)->bits == 8;
    int64_t flips = 0;
    for (int64_t c = 0, end = 0; c < row->cols;) {
        float scale = ni_decode_scale(row, 0, c, true);
        for (end += 16; c < end && c < row->cols; c++) {
            uint8_t code = bytes ? row->codes[c] : row->codes[c / 2] >> (4 * (c % 2)) & 15;
            float q = ni_f32_mul(values[code], scale);
            t->moved_w[c] = first ? 0 : t->moved_w[c] + fabsf(w[c] - t->w[c]);
            t->moved_q[c] = first ? 0 : t->moved_q[c] + fabsf(q - t->q[c]);
            flips += !first && code != t->codes[c] && (q != 0 || t->q[c] != 0);
            t->w[c] = w[c];
            t->q[c] = q;
            t->codes[c] = code;
        }
    }
    return flips;
}

void ni_cpu_track_codes(nb_backend *be, const ni_tracked *t, const nb_mat *w, const nb_qtensor *codes, bool first) {
    const ni_element_row *element = ni_element_info(codes->quantizer.element);
    float values[256];
    int64_t flips = first ? 0 : *t->flips;
    if (!scales_by_groups(codes)) {
        ni_ref_track_codes(be, t, w, codes, first);
        return;
    }
    for (int code = 0; code < 1 << element->bits; code++)
        values[code] = element->value((uint8_t)code);
#pragma omp parallel for THREADS reduction(+ : flips)
    for (int64_t r = 0; r < w->rows; r++) {
        int64_t at = r * w->cols;
        ni_tracked row = {t->w + at, t->q + at, t->moved_w + at, t->moved_q + at, t->codes + at, NULL};
        nb_qtensor one = ni_qtensor_row(codes, r);
        flips += track_row(&row, (const float *)w->data + r * w->stride, &one, values, first);
    }
    *t->flips = flips;
}

void ni_cpu_count_ratios(nb_backend *be, int64_t *counts, const float *moved_q, const float *moved_w, int64_t n) {
    int64_t bins[NI_RATIO_COUNTS] = {0};
#pragma omp parallel for THREADS reduction(+ : bins[:NI_RATIO_COUNTS])
    for (int64_t i = 0; i < n; i++)
        bins[ni_ratio_bin(moved_q[i], moved_w[i])]++;
    for (int i = 0; i < NI_RATIO_COUNTS; i++)
        counts[i] = bins[i];
}

void ni_cpu_count_distances(nb_backend *be, int64_t *counts, const float *w, const float *q, const float *widths,
                            int64_t n) {
    int64_t bins[NI_DISTANCE_COUNTS] = {0};
#pragma omp parallel for THREADS reduction(+ : bins[:NI_DISTANCE_COUNTS])
    for (int64_t i = 0; i < n; i++) {
        int bin = ni_distance_bin(w[i], q[i], widths[i]);
        if (bin >= 0)
            bins[bin]++;
    }
    for (int i = 0; i < NI_DISTANCE_COUNTS; i++)
        counts[i] = bins[i];
}
