/* weights.c: columns, distances, flips, resets, bins and guided rounding by their definitions. */
#include "backend/ref/numbers.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/quantize_parts.h"
#include "backend/ref/ref.h"
#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/hadamard.h"

#include <math.h>

/* ---- columns ---- */

void ni_ref_gather_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns) {
    (void)be;
    for (int64_t r = 0; r < out->rows; r++)
        for (int64_t i = 0; i < out->cols; i++) {
            int64_t to = r * out->stride + i, from = r * in->stride + columns[i];
            if (in->dtype == NB_BF16)
                ((uint16_t *)out->data)[to] = ((const uint16_t *)in->data)[from];
            else
                ((float *)out->data)[to] = ((const float *)in->data)[from];
        }
}

void ni_ref_scatter_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                            bool accumulate) {
    (void)be;
    for (int64_t r = 0; r < in->rows; r++)
        for (int64_t i = 0; i < in->cols; i++) {
            int64_t to = r * out->stride + columns[i], from = r * in->stride + i;
            if (in->dtype == NB_BF16)
                ((uint16_t *)out->data)[to] = ((const uint16_t *)in->data)[from];
            else
                ((float *)out->data)[to] =
                    (accumulate ? ((float *)out->data)[to] : 0) + ((const float *)in->data)[from];
        }
}

/* Of a column, of its squares or of its numbers. */
static double column_sum(const nb_mat *x, int64_t c, bool squares) {
    double sum = 0;
    for (int64_t first = 0; first < x->rows; first += NI_SUM_CHUNK) {
        double chunk = 0;
        for (int64_t r = first; r < x->rows && r < first + NI_SUM_CHUNK; r++) {
            const double v = ni_mat_number(x, r, c);
            chunk += squares ? v * v : v;
        }
        sum += chunk;
    }
    return sum;
}

void ni_ref_column_norms(nb_backend *be, float *norms, const nb_mat *x) {
    (void)be;
    for (int64_t c = 0; c < x->cols; c++)
        norms[c] += (float)sqrt(column_sum(x, c, true));
}

static void put_number(const nb_mat *m, int64_t r, int64_t c, float x) {
    if (m->dtype == NB_BF16)
        ((uint16_t *)m->data)[r * m->stride + c] = ni_bf16_even(x);
    else
        ((float *)m->data)[r * m->stride + c] = x;
}

void ni_ref_column_means(nb_backend *be, const nb_mat *means, const nb_mat *x) {
    (void)be;
    for (int64_t c = 0; c < x->cols; c++)
        put_number(means, 0, c, (float)(column_sum(x, c, false) / (double)x->rows));
}

void ni_ref_subtract_row(nb_backend *be, const nb_mat *out, const nb_mat *x, const nb_mat *row) {
    (void)be;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++)
            put_number(out, r, c, (float)ni_mat_number(x, r, c) - (float)ni_mat_number(row, 0, c));
}

void ni_ref_rotate_rows(nb_backend *be, const nb_mat *x, int32_t size, nb_signs signs, const nb_noise *noise) {
    (void)be;
    const ni_noise_key key = ni_noise_at(noise);
    for (int64_t first = 0; first < x->rows; first += size)
        for (int64_t c = 0; c < x->cols; c++) {
            float *column = (float *)x->data + first * x->stride + c, group[NI_HADAMARD_MAX];
            for (int32_t i = 0; i < size; i++)
                group[i] = column[i * x->stride];
            ni_hadamard(group, size, ni_signs_of(signs, &key));
            for (int32_t i = 0; i < size; i++)
                column[i * x->stride] = group[i];
        }
}

/* ---- weights ---- */

void ni_ref_add_distance(nb_backend *be, float *distance, const float *a, const float *b, int64_t n) {
    (void)be;
    for (int64_t i = 0; i < n; i++)
        distance[i] += fabsf(a[i] - b[i]);
}

void ni_ref_bin_distances(nb_backend *be, float *out, const float *w, const float *q, const float *widths, int64_t n) {
    (void)be;
    for (int64_t i = 0; i < n; i++)
        out[i] = widths[i] > 0 ? fabsf(w[i] - q[i]) / widths[i] : 0;
}

void ni_ref_add_flips(nb_backend *be, uint8_t *flips, const float *q, const float *q_before, const float *widths,
                      int64_t n) {
    (void)be;
    for (int64_t i = 0; i < n; i++)
        if (q[i] != q_before[i] && fabsf(q[i] - q_before[i]) >= 0.5f * widths[i] && flips[i] < UINT8_MAX)
            flips[i]++;
}

void ni_ref_reset_where(nb_backend *be, int64_t *resets, float *w, const float *q, const float *moved_w,
                        const float *moved_q, const uint8_t *flips, int32_t least_flips, int64_t n, double threshold) {
    (void)be;
    for (int64_t i = 0; i < n; i++)
        if (moved_w[i] > 0 && moved_q[i] >= threshold * moved_w[i] && (!flips || flips[i] >= least_flips)) {
            w[i] = q[i];
            *resets += 1;
        }
}

void ni_ref_bin_widths(nb_backend *be, float *out, const nb_operand *codes) {
    (void)be;
    nb_qtensor t = ni_codes_of(codes);
    ni_bin_widths_of(out, &t);
}

void ni_bin_widths_of(float *out, const nb_qtensor *codes) {
    /* half the gap below plus half the gap above; 6 has none above and counts the lower one twice (the authors' table)
     */
    static const float width[8] = {0.5f, 0.5f, 0.5f, 0.5f, 0.75f, 1, 1.5f, 2};
    for (int64_t r = 0; r < codes->rows; r++)
        for (int64_t c = 0; c < codes->cols; c++)
            out[r * codes->cols + c] = width[ni_code_at(codes, r, c) & 7] * ni_decode_scale(codes, r, c, true);
}

/* Magnitude code below |x|, then up by one if the guide, seen along the sign of x, is past the middle. */
static int guided(float x, float guide) {
    float a = fabsf(x), along = x < 0 ? -guide : guide;
    int below = 0;
    while (below < 7 && a >= ni_e2m1_value((uint8_t)(below + 1)))
        below++;
    if (below < 7 && along >= 0.5f * (ni_e2m1_value((uint8_t)below) + ni_e2m1_value((uint8_t)(below + 1))))
        below++;
    return x < 0 ? 8 | below : below;
}

void ni_ref_round_by(nb_backend *be, nb_operand *codes, const float *w, const float *guide) {
    (void)be;
    nb_qtensor t = ni_codes_of(codes);
    ni_round_codes_by(&t, w, guide);
}

void ni_round_codes_by(const nb_qtensor *codes, const float *w, const float *guide) {
    int64_t half = (codes->cols + 1) / 2;
    for (int64_t r = 0; r < codes->rows; r++)
        for (int64_t c = 0; c < codes->cols; c++) {
            float scale = ni_decode_scale(codes, r, c, true);
            if (!(scale > 0))
                continue; /* a block of zeros */
            int code = guided(w[r * codes->cols + c] / scale, guide[r * codes->cols + c] / scale);
            uint8_t *byte = &codes->codes[r * half + c / 2];
            *byte = (uint8_t)(c % 2 ? (*byte & 15) | code << 4 : (*byte & 240) | code);
        }
}
