/* select.c: choices by their definitions: the k largest, what two choices have in common, which channels are hot. */
#include "backend/ref/select.h"
#include "backend/ref/numbers.h"
#include "backend/ref/ref.h"

#include <math.h>

/* ---- the k largest ---- */

static int64_t count_from(const float *scores, int64_t n, uint64_t key) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += ni_score_key(scores[i]) >= key;
    return count;
}

/* The key of the k-th largest, from its highest bit down: the largest that k scores reach. */
static uint32_t key_of_rank(const float *scores, int64_t n, int64_t k) {
    uint32_t key = 0;
    for (uint32_t bit = 0x80000000; bit; bit >>= 1)
        if (count_from(scores, n, key | bit) >= k)
            key |= bit;
    return key;
}

/* Does the score at a come after the one at b? */
static bool is_after(const float *scores, int32_t a, int32_t b) {
    uint32_t x = ni_score_key(scores[a]), y = ni_score_key(scores[b]);
    return x != y ? x < y : a > b;
}

/* Lets the index at `top` sink below those that come after it. */
static void sink(int32_t *index, const float *scores, int64_t top, int64_t count) {
    for (int64_t child = 2 * top + 1; child < count; child = 2 * top + 1) {
        child += child + 1 < count && is_after(scores, index[child + 1], index[child]);
        if (!is_after(scores, index[child], index[top]))
            return;
        int32_t moved = index[top];
        index[top] = index[child];
        index[child] = moved;
        top = child;
    }
}

void ni_sort_by_score(int32_t *index, const float *scores, int64_t count) {
    for (int64_t top = count / 2; top-- > 0;)
        sink(index, scores, top, count);
    for (int64_t end = count; end-- > 1;) { /* the last of all is on top */
        int32_t last = index[0];
        index[0] = index[end];
        index[end] = last;
        sink(index, scores, 0, end);
    }
}

void ni_ref_top_k(nb_backend *be, int32_t *out, const float *scores, int64_t n, int64_t k, bool by_index) {
    (void)be;
    if (k < 1)
        return;
    uint32_t key = key_of_rank(scores, n, k);
    int64_t ties = k - count_from(scores, n, (uint64_t)key + 1), found = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t own = ni_score_key(scores[i]);
        if (own > key || (own == key && ties-- > 0))
            out[found++] = (int32_t)i;
    }
    if (!by_index)
        ni_sort_by_score(out, scores, k);
}

void ni_ref_count_common(nb_backend *be, int64_t *count, const int32_t *a, const int32_t *b, int64_t k) {
    (void)be;
    int64_t common = 0;
    for (int64_t i = 0, j = 0; i < k && j < k;) {
        int32_t low = a[i] < b[j] ? a[i] : b[j];
        common += a[i] == b[j];
        i += a[i] == low;
        j += b[j] == low;
    }
    *count = common;
}

/* ---- hot channels ---- */

void ni_ref_column_errors(nb_backend *be, double *mean_abs_error, double *rms, const nb_mat *x, const nb_mat *decoded) {
    (void)be;
    for (int64_t c = 0; c < x->cols; c++) {
        double errors = 0, squares = 0;
        for (int64_t first = 0; first < x->rows; first += NI_SUM_CHUNK) {
            double chunk_errors = 0, chunk_squares = 0;
            for (int64_t r = first; r < x->rows && r < first + NI_SUM_CHUNK; r++) {
                double v = ni_mat_number(x, r, c);
                chunk_errors += fabs(v - ni_mat_number(decoded, r, c));
                chunk_squares += v * v;
            }
            errors += chunk_errors;
            squares += chunk_squares;
        }
        mean_abs_error[c] = errors / (double)x->rows;
        rms[c] = sqrt(squares / (double)x->rows);
    }
}

void ni_ref_hot_scores(nb_backend *be, float *scores, double *means, const double *facts, int64_t n, double keep,
                       bool normalized) {
    (void)be;
    const double *error_x = facts, *rms_x = facts + n, *error_w = facts + 2 * n, *rms_w = facts + 3 * n;
    double of_x = 0, of_w = 0;
    for (int64_t first = 0; first < n; first += NI_SUM_CHUNK) {
        double chunk_x = 0, chunk_w = 0;
        for (int64_t c = first; c < n && c < first + NI_SUM_CHUNK; c++) {
            double x = error_x[c] * (normalized ? rms_w[c] : 1), w = error_w[c] * (normalized ? rms_x[c] : 1);
            scores[c] = (float)((keep > 0 ? keep * (double)scores[c] : 0) + (1 - keep) * (x + w));
            chunk_x += x;
            chunk_w += w;
        }
        of_x += chunk_x;
        of_w += chunk_w;
    }
    means[0] = of_x / (double)n;
    means[1] = of_w / (double)n;
}
