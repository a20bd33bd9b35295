/* oscillation.c: following the first rows of a weight over a window of steps. */
#include "lens/oscillation.h"
#include "backend/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The followed rows of an operand, as an operand of their own. */
static nb_qtensor first_rows(const nb_qtensor *q) {
    nb_qtensor view = *q;
    view.rows = q->rows < NB_FOLLOWED_ROWS ? q->rows : NB_FOLLOWED_ROWS;
    return view;
}

static size_t code_bytes(const nb_quantizer *quantizer, int64_t rows, int64_t cols) {
    return nb_qtensor_bytes(quantizer, rows, cols).codes;
}

size_t nb_followed_bytes(const nb_quantizer *quantizer, int64_t rows, int64_t cols) {
    int64_t followed = rows < NB_FOLLOWED_ROWS ? rows : NB_FOLLOWED_ROWS;
    return 6 * (size_t)(followed * cols) * sizeof(float) + 2 * code_bytes(quantizer, followed, cols);
}

void nb_follow_begin(nb_followed_weight *weight) {
    weight->seen = 0;
    weight->flips = 0;
}

/* w, q and, where there is room for them, the codes of this step, on the host. */
static bool fetch(const nb_lens_operand *seen, const nb_qtensor *rows, float *w, float *q, uint8_t *codes) {
    nb_backend *be = seen->be;
    size_t bytes = (size_t)(rows->rows * rows->cols) * sizeof(float);
    void *decoded = be->ops->alloc(be, bytes, "decoded weights of the lens");
    if (!decoded)
        return false;
    nb_mat out = nb_mat_of(decoded, NB_F32, rows->rows, rows->cols);
    bool good = be->ops->dequantize(be, &out, rows, false, true, NULL) == NB_OK;
    be->ops->download(be, q, decoded, bytes);
    be->ops->download(be, w, seen->source->data, bytes);
    if (codes)
        be->ops->download(be, codes, rows->codes, code_bytes(&rows->quantizer, rows->rows, rows->cols));
    be->ops->release(be, decoded);
    return good;
}

/* How many elements changed their code; 0 and -0 are one. q drifts with its scales, a code does not. */
static int64_t count_flips(const nb_qtensor *rows, const uint8_t *before, const uint8_t *now, const float *q_before,
                           const float *q_now) {
    int64_t row_bytes = (int64_t)code_bytes(&rows->quantizer, 1, rows->cols), flips = 0;
    bool wide = row_bytes == rows->cols && rows->cols > 1;
    for (int64_t r = 0; r < rows->rows; r++)
        for (int64_t c = 0; c < rows->cols; c++) {
            int64_t at = r * row_bytes + (wide ? c : c / 2), i = r * rows->cols + c;
            int changed = before[at] ^ now[at];
            changed = wide ? changed : c % 2 ? changed >> 4 : changed & 15;
            flips += changed && (q_before[i] != 0 || q_now[i] != 0);
        }
    return flips;
}

bool nb_follow_step(nb_followed_weight *weight, const nb_lens_operand *seen) {
    if (!seen->quantized || !seen->source || seen->transposed || seen->source->dtype != NB_F32 ||
        seen->source->stride != seen->source->cols || seen->quantized->quantizer.hadamard_size)
        return false;
    nb_qtensor rows = first_rows(seen->quantized);
    int64_t n = rows.rows * rows.cols;
    if (n < 1)
        return false;
    if (weight->elements != n) {
        size_t bytes = nb_followed_bytes(&rows.quantizer, rows.rows, rows.cols);
        float *memory = malloc(bytes);
        if (!memory)
            return false;
        free(weight->memory);
        weight->memory = memory;
        weight->bytes = bytes;
        weight->elements = n;
        weight->seen = weight->flips = 0;
    }
    float *w = weight->memory, *q = w + n, *dist_w = q + n, *dist_q = dist_w + n, *w_next = dist_q + n,
          *q_next = w_next + n;
    size_t size = code_bytes(&rows.quantizer, rows.rows, rows.cols);
    uint8_t *codes = (uint8_t *)(q_next + n), *codes_next = codes + size;
    if (!fetch(seen, &rows, w_next, q_next, codes_next))
        return false;
    if (weight->seen++ == 0) {
        memset(dist_w, 0, 2 * (size_t)n * sizeof *dist_w);
    } else {
        for (int64_t i = 0; i < n; i++) {
            dist_w[i] += fabsf(w_next[i] - w[i]);
            dist_q[i] += fabsf(q_next[i] - q[i]);
        }
        weight->flips += count_flips(&rows, codes, codes_next, q, q_next);
    }
    memcpy(w, w_next, 2 * (size_t)n * sizeof *w);
    memcpy(codes, codes_next, size);
    return true;
}

/* Bin of a ratio: 0 for 0, 1 for (0, 1/2], then one a doubling. */
static int bin_of(float ratio) {
    if (ratio == 0)
        return 0;
    int bin = 1;
    for (float limit = 0.5f; bin < NB_RATIO_BINS - 1 && ratio > limit; limit *= 2)
        bin++;
    return bin;
}

void nb_follow_end(nb_followed_weight *weight, nb_record *record, const char *prefix) {
    int64_t n = weight->elements, above_8 = 0, above_16 = 0, counts[NB_RATIO_BINS] = {0};
    if (weight->seen < 2)
        return;
    const float *dist_w = weight->memory + 2 * n, *dist_q = dist_w + n;
    for (int64_t i = 0; i < n; i++) {
        float ratio = dist_w[i] > 0 ? dist_q[i] / dist_w[i] : 0;
        counts[bin_of(ratio)]++;
        above_8 += ratio > 8;
        above_16 += ratio > 16;
    }
    float shares[NB_RATIO_BINS];
    for (int i = 0; i < NB_RATIO_BINS; i++)
        shares[i] = (float)counts[i] / (float)n;
    nb_record_vector(record, prefix, "ratios", shares, NB_RATIO_BINS);
    nb_record_scalar(record, prefix, "ratio_above_8", (double)above_8 / (double)n);
    nb_record_scalar(record, prefix, "ratio_above_16", (double)above_16 / (double)n);
    nb_record_scalar(record, prefix, "flip_rate", (double)weight->flips / (double)(n * (weight->seen - 1)));
    weight->seen = 0;
}

void nb_follow_free(nb_followed_weight *weight) {
    free(weight->memory);
    *weight = (nb_followed_weight){0};
}

/* ---- distance from the bin's centre ---- */

static void count(const float *w, const float *q, const float *widths, int64_t n, float shares[10]) {
    int64_t counts[10] = {0}, total = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(widths[i] > 0) || !isfinite(widths[i]))
            continue;
        int bin = (int)(20 * fabsf(w[i] - q[i]) / widths[i]);
        counts[bin < 9 ? bin : 9]++;
        total++;
    }
    for (int i = 0; i < 10; i++)
        shares[i] = total ? (float)counts[i] / (float)total : 0;
}

bool nb_bin_distances(const nb_lens_operand *seen, float shares[10]) {
    const nb_qtensor *q = seen->quantized;
    nb_backend *be = seen->be;
    if (!q || !seen->operand || !seen->source || seen->transposed || seen->source->dtype != NB_F32 ||
        !be->ops->bin_widths || seen->source->stride != seen->source->cols || q->quantizer.element != NB_ELEMENT_E2M1 ||
        q->quantizer.hadamard_size)
        return false;
    nb_qtensor rows = first_rows(q);
    int64_t n = rows.rows * rows.cols;
    size_t bytes = (size_t)n * sizeof(float);
    float *host = malloc(3 * bytes), *widths = be->ops->alloc(be, sizeof(float) * (size_t)(q->rows * q->cols), "bins of the lens");
    bool good = host && widths && fetch(seen, &rows, host, host + n, NULL);
    if (good) {
        be->ops->bin_widths(be, widths, seen->operand);
        be->ops->download(be, host + 2 * n, widths, bytes);
        count(host, host + n, host + 2 * n, n, shares);
    }
    be->ops->release(be, widths);
    free(host);
    return good;
}
