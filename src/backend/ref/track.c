/* track.c: what the lens counts and sums on the device, by the definitions of ops.inc. */
#include "backend/ref/track.h"
#include "backend/ref/numbers.h"
#include "backend/ref/quantize_parts.h"
#include "backend/ref/ref.h"

#include <math.h>

/* ---- sums by columns ---- */

void ni_gate_column(const nb_mat *a, const nb_mat *bias, int64_t c, double out[4]) {
    out[0] = INFINITY;
    out[1] = -INFINITY;
    out[2] = out[3] = 0;
    for (int64_t first = 0; first < a->rows; first += NI_SUM_CHUNK) {
        double sum = 0, squares = 0;
        for (int64_t r = first; r < a->rows && r < first + NI_SUM_CHUNK; r++) {
            double x = ni_mat_number(a, r, c) + (bias ? ni_mat_number(bias, 0, c) : 0);
            out[0] = fmin(out[0], x);
            out[1] = fmax(out[1], x);
            sum += x;
            squares += x * x;
        }
        out[2] += sum;
        out[3] += squares;
    }
}

void ni_ref_measure_gate(nb_backend *be, double *out, const nb_mat *a, const nb_mat *bias) {
    (void)be;
    double all[4] = {INFINITY, -INFINITY, 0, 0};
    for (int64_t c = 0; c < a->cols; c++) {
        double one[4];
        ni_gate_column(a, bias, c, one);
        all[0] = fmin(all[0], one[0]);
        all[1] = fmax(all[1], one[1]);
        all[2] += one[2];
        all[3] += one[3];
    }
    for (int i = 0; i < 4; i++)
        out[i] = all[i];
}

void ni_pair_column(const nb_mat *x, const nb_mat *y, int64_t c, double out[3]) {
    out[0] = out[1] = out[2] = 0;
    for (int64_t first = 0; first < x->rows; first += NI_SUM_CHUNK) {
        double sums[3] = {0};
        for (int64_t r = first; r < x->rows && r < first + NI_SUM_CHUNK; r++) {
            double u = ni_mat_number(x, r, c), v = ni_mat_number(y, r, c);
            sums[0] += u * u;
            sums[1] += (u - v) * (u - v);
            sums[2] += u * v;
        }
        for (int i = 0; i < 3; i++)
            out[i] += sums[i];
    }
}

void ni_ref_measure_pair(nb_backend *be, double *out, const nb_mat *x, const nb_mat *y) {
    (void)be;
    out[0] = out[1] = out[2] = 0;
    for (int64_t c = 0; c < x->cols; c++) {
        double one[3];
        ni_pair_column(x, y, c, one);
        for (int i = 0; i < 3; i++)
            out[i] += one[i];
    }
}

/* ---- rows that belong together ---- */

double ni_row_alignment(const nb_mat *a, const nb_mat *b, int64_t r) {
    double dot = 0, aa = 0, bb = 0;
    for (int64_t first = 0; first < a->cols; first += NI_SUM_CHUNK) {
        double chunk[3] = {0};
        for (int64_t c = first; c < a->cols && c < first + NI_SUM_CHUNK; c++) {
            double x = ni_mat_number(a, r, c), y = ni_mat_number(b, r, c);
            chunk[0] += x * y;
            chunk[1] += x * x;
            chunk[2] += y * y;
        }
        dot += chunk[0];
        aa += chunk[1];
        bb += chunk[2];
    }
    return aa > 0 && bb > 0 ? fabs(dot) / sqrt(aa * bb) : 0;
}

void ni_ref_measure_alignment(nb_backend *be, double *out, const nb_mat *a, const nb_mat *b) {
    (void)be;
    double sum = 0;
    for (int64_t first = 0; first < a->rows; first += NI_SUM_CHUNK) {
        double chunk = 0;
        for (int64_t r = first; r < a->rows && r < first + NI_SUM_CHUNK; r++)
            chunk += ni_row_alignment(a, b, r);
        sum += chunk;
    }
    *out = sum / (double)a->rows;
}

/* ---- weights from step to step ---- */

void ni_ref_track_codes(nb_backend *be, const ni_tracked *t, const nb_mat *w, const nb_qtensor *codes, bool first) {
    (void)be;
    int64_t flips = first ? 0 : *t->flips;
    for (int64_t r = 0; r < w->rows; r++)
        for (int64_t c = 0; c < w->cols; c++) {
            int64_t i = r * w->cols + c;
            float now = ((const float *)w->data)[r * w->stride + c], q;
            uint8_t code = ni_code_at(codes, r, c);
            ni_decode_span(codes, r, c, c + 1, true, &q);
            if (first) {
                t->moved_w[i] = t->moved_q[i] = 0;
            } else {
                t->moved_w[i] += fabsf(now - t->w[i]);
                t->moved_q[i] += fabsf(q - t->q[i]);
                flips += code != t->codes[i] && (q != 0 || t->q[i] != 0);
            }
            t->w[i] = now;
            t->q[i] = q;
            t->codes[i] = code;
        }
    *t->flips = flips;
}

int ni_ratio_bin(float moved_q, float moved_w) {
    float ratio = moved_w > 0 ? moved_q / moved_w : 0;
    int bin = ratio > 0;
    for (float limit = 0.5f; bin > 0 && bin < NI_RATIO_COUNTS - 1 && ratio > limit; limit *= 2)
        bin++;
    return bin;
}

void ni_ref_count_ratios(nb_backend *be, int64_t *counts, const float *moved_q, const float *moved_w, int64_t n) {
    (void)be;
    for (int i = 0; i < NI_RATIO_COUNTS; i++)
        counts[i] = 0;
    for (int64_t i = 0; i < n; i++)
        counts[ni_ratio_bin(moved_q[i], moved_w[i])]++;
}

int ni_distance_bin(float w, float q, float width) {
    float bin = 20 * fabsf(w - q) / width;
    if (!(width > 0) || isinf(width) || isnan(bin))
        return -1;
    return bin < NI_DISTANCE_COUNTS - 1 ? (int)bin : NI_DISTANCE_COUNTS - 1; /* compared before it is cast: Inf */
}

void ni_ref_count_distances(nb_backend *be, int64_t *counts, const float *w, const float *q, const float *widths,
                            int64_t n) {
    (void)be;
    for (int i = 0; i < NI_DISTANCE_COUNTS; i++)
        counts[i] = 0;
    for (int64_t i = 0; i < n; i++) {
        int bin = ni_distance_bin(w[i], q[i], widths[i]);
        if (bin >= 0)
            counts[bin]++;
    }
}
