/* measure.c: what a tensor and an attention layer look like, by the definitions. */
#include "backend/ref/measure.h"
#include "backend/ref/numbers.h"

#include <math.h>

enum { TILE = 16 };

ni_moments ni_moments_of_sums(int64_t count, int64_t nonfinite, double amax, const double sums[4]) {
    ni_moments m = {.count = count, .nonfinite = nonfinite, .amax = amax};
    if (count == 0)
        return m;
    double n = (double)count, mean = sums[0] / n, second = sums[1] / n, third = sums[2] / n, fourth = sums[3] / n;
    double variance = second - mean * mean;
    double centred = fourth - 4 * mean * third + 6 * mean * mean * second - 3 * mean * mean * mean * mean;
    m.mean = mean;
    m.rms = sqrt(second);
    if (variance > 1e-12 * second)
        m.excess_kurtosis = centred / (variance * variance) - 3;
    return m;
}

static double tile_crest_at(const nb_mat *x, int64_t row, int64_t col) {
    double largest = 0, squares = 0;
    int64_t count = 0;
    for (int64_t r = row; r < row + TILE && r < x->rows; r++)
        for (int64_t c = col; c < col + TILE && c < x->cols; c++) {
            double v = ni_mat_number(x, r, c);
            if (!isfinite(v))
                continue;
            largest = fmax(largest, fabs(v));
            squares += v * v;
            count++;
        }
    return squares > 0 ? largest / sqrt(squares / (double)count) : 0;
}

void ni_ref_measure(nb_backend *be, const nb_mat *x, ni_moments *moments, float *column_amax, float *tile_crest) {
    (void)be;
    double sum = 0, squares = 0, amax = 0;
    int64_t count = 0;
    for (int64_t c = 0; column_amax && c < x->cols; c++)
        column_amax[c] = 0;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) {
            double v = ni_mat_number(x, r, c);
            if (!isfinite(v))
                continue;
            count++;
            sum += v;
            squares += v * v;
            amax = fmax(amax, fabs(v));
            if (column_amax)
                column_amax[c] = fmaxf(column_amax[c], (float)fabs(v));
        }
    double n = count ? (double)count : 1, mean = sum / n, second = 0, fourth = 0;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) {
            double d = ni_mat_number(x, r, c) - mean;
            if (!isfinite(d))
                continue;
            second += d * d / n;
            fourth += d * d * d * d / n;
        }
    *moments = (ni_moments){
        count, x->rows * x->cols - count, amax,
        mean,  sqrt(squares / n),         second > 1e-12 * squares / n ? fourth / (second * second) - 3 : 0};
    for (int64_t r = 0; tile_crest && r < x->rows; r += TILE)
        for (int64_t c = 0; c < x->cols; c += TILE)
            *tile_crest++ = (float)tile_crest_at(x, r, c);
}

/* The value that would stand at `rank` if the values were sorted: Hoare's selection, which sorts no more than it must.
 * Values change places. */
static float value_of_rank(float *values, int64_t count, int64_t rank) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        float pivot = values[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i <= j) {
                float kept = values[i];
                values[i++] = values[j];
                values[j--] = kept;
            }
        }
        if (rank <= j)
            high = j;
        else if (rank >= i)
            low = i;
        else
            break;
    }
    return values[rank];
}

void ni_ref_summarize_crests(nb_backend *be, const ni_crest_map *maps, int32_t count) {
    (void)be;
    for (const ni_crest_map *m = maps; m < maps + count; m++) {
        float *const columns = m->summary + 2;
        float largest = 0;
        for (int64_t c = 0; c < m->cols; c++)
            columns[c] = 0;
        for (int64_t i = 0; i < m->rows * m->cols; i++)
            columns[i % m->cols] = fmaxf(columns[i % m->cols], m->crests[i]);
        for (int64_t c = 0; c < m->cols; c++)
            largest = fmaxf(largest, columns[c]);
        m->summary[0] = largest;
        m->summary[1] = value_of_rank(m->crests, m->rows * m->cols, ni_crest_rank(m->rows * m->cols));
    }
}

void ni_ref_count_scales(nb_backend *be, int64_t *counts, const uint8_t *scales, int64_t n) {
    (void)be;
    for (int i = 0; i < NI_SCALE_EXPONENTS; i++)
        counts[i] = 0;
    for (int64_t i = 0; i < n; i++)
        counts[scales[i] >> 3 & 15]++;
}

/* Scaled logit of query t and key s of one head. */
static double logit(const nb_attention *a, nb_dtype act, const void *q, const void *k, int64_t b, int64_t t, int64_t s,
                    int64_t head) {
    int64_t kv_head = head / (a->heads / a->kv_heads);
    nb_mat qm = nb_mat_of(q, act, a->batch * a->seq, a->heads * a->head_dim);
    nb_mat km = nb_mat_of(k, act, a->batch * a->seq, a->kv_heads * a->head_dim);
    qm.stride = ni_attention_pitch(a, a->q_stride, a->heads);
    km.stride = ni_attention_pitch(a, a->k_stride, a->kv_heads);
    double dot = 0;
    for (int64_t i = 0; i < a->head_dim; i++)
        dot += ni_mat_number(&qm, b * a->seq + t, head * a->head_dim + i) *
               ni_mat_number(&km, b * a->seq + s, kv_head * a->head_dim + i);
    return dot * a->scale;
}

static void measure_query(const nb_attention *a, nb_dtype act, const void *q, const void *k, int64_t b, int64_t t,
                          int64_t head, ni_attention_stats *sum) {
    int64_t first = a->doc_start ? a->doc_start[b * a->seq + t] : 0, keys = t - first + 1;
    double largest = -INFINITY, sums[4] = {0}, total = 0, weighted = 0;
    if (keys < 2)
        return;
    for (int64_t s = first; s <= t; s++) {
        double l = logit(a, act, q, k, b, t, s, head);
        largest = fmax(largest, l);
        sum->logit_amax = fmax(sum->logit_amax, fabs(l));
        sums[0] += l;
        sums[1] += l * l;
        sums[2] += l * l * l;
        sums[3] += l * l * l * l;
    }
    for (int64_t s = first; s <= t; s++) { /* entropy = log(sum e) - sum(e l)/sum(e), e = exp(l - largest) */
        double l = logit(a, act, q, k, b, t, s, head) - largest, e = exp(l);
        total += e;
        weighted += e * l;
    }
    sum->logit_max += largest;
    sum->logit_kurtosis += ni_moments_of_sums(keys, 0, 0, sums).excess_kurtosis;
    sum->entropy += log(total) - weighted / total;
    sum->queries++;
}

void ni_ref_measure_attention(nb_backend *be, const nb_attention *a, const void *q, const void *k, int64_t stride,
                              ni_attention_stats *stats) {
    *stats = (ni_attention_stats){0};
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t t = stride - 1; t < a->seq; t += stride)
            for (int64_t head = 0; head < a->heads; head++)
                measure_query(a, be->act, q, k, b, t, head, stats);
    double n = stats->queries ? (double)stats->queries : 1;
    stats->logit_max /= n;
    stats->logit_kurtosis /= n;
    stats->entropy /= n;
}
