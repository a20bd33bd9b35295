/* oscillation.c: following the first rows of a weight over a window of steps. What is followed stays on the device: a
 * step downloads nothing, a window's end two lines of counts. */
#include "lens/oscillation.h"
#include "backend/table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* The followed rows of an operand, as an operand of their own. */
static nb_qtensor first_rows(const nb_qtensor *q) {
    nb_qtensor view = *q;
    view.rows = q->rows < NI_FOLLOWED_ROWS ? q->rows : NI_FOLLOWED_ROWS;
    return view;
}

static bool is_of_use(const nb_lens_operand *seen) {
    return seen->quantized && seen->source && !seen->transposed && seen->source->dtype == NB_F32 &&
           !seen->quantized->quantizer.hadamard_size && seen->quantized->rows > 0 && seen->quantized->cols > 0;
}

size_t ni_followed_bytes(int64_t rows, int64_t cols) {
    size_t n = (size_t)((rows < NI_FOLLOWED_ROWS ? rows : NI_FOLLOWED_ROWS) * cols);
    return sizeof(int64_t) + n * (4 * sizeof(float) + 1);
}

void ni_follow_begin(ni_followed_weight *weight) {
    weight->seen = 0;
}

static ni_tracked tracked_of(const ni_followed_weight *weight) {
    int64_t n = weight->elements;
    float *numbers = (float *)(void *)((int64_t *)weight->memory + 1);
    return (ni_tracked){numbers,       numbers + n, numbers + 2 * n, numbers + 3 * n, (uint8_t *)(numbers + 4 * n),
                        weight->memory};
}

static bool place(ni_followed_weight *weight, nb_backend *be, int64_t rows, int64_t cols) {
    if (weight->be == be && weight->elements == rows * cols)
        return true;
    ni_follow_free(weight);
    weight->bytes = ni_followed_bytes(rows, cols);
    weight->memory = be->ops->alloc(be, weight->bytes, "weights that the lens follows");
    if (!weight->memory) {
        *weight = (ni_followed_weight){0};
        return false;
    }
    weight->be = be;
    weight->elements = rows * cols;
    return true;
}

bool ni_follow_step(ni_followed_weight *weight, const nb_lens_operand *seen) {
    if (!is_of_use(seen) || !seen->be->ops->track_codes)
        return false;
    nb_qtensor rows = first_rows(seen->quantized);
    if (!place(weight, seen->be, rows.rows, rows.cols))
        return false;
    nb_mat w = *seen->source;
    ni_tracked tracked = tracked_of(weight);
    w.rows = rows.rows;
    seen->be->ops->track_codes(seen->be, &tracked, &w, &rows, weight->seen++ == 0);
    return true;
}

bool ni_follow_end(ni_followed_weight *weight, ni_record *record, const char *prefix) {
    enum { FLIPS = NI_RATIO_COUNTS }; /* behind the counts */
    int64_t n = weight->elements, counts[FLIPS + 1], above_8 = 0, above_16 = 0;
    nb_backend *be = weight->be;
    static_assert(sizeof counts <= NI_RESULT_BYTES, "what a window saw is fetched in one piece");
    if (weight->seen < 2)
        return true;
    int64_t *on_device = ni_record_results(record, be);
    if (!on_device)
        return false;
    ni_tracked tracked = tracked_of(weight);
    be->ops->count_ratios(be, on_device, tracked.moved_q, tracked.moved_w, n);
    be->ops->copy(be, on_device + FLIPS, tracked.flips, sizeof *tracked.flips);
    be->ops->download(be, counts, on_device, sizeof counts);
    float shares[NI_RATIO_COUNTS];
    for (int i = 0; i < NI_RATIO_COUNTS; i++) { /* bins 6 and 7 begin above 8 and 16 */
        shares[i] = (float)counts[i] / (float)n;
        above_8 += i >= 6 ? counts[i] : 0;
        above_16 += i >= 7 ? counts[i] : 0;
    }
    ni_record_vector(record, prefix, "ratios", shares, NI_RATIO_COUNTS);
    ni_record_scalar(record, prefix, "ratio_above_8", (double)above_8 / (double)n);
    ni_record_scalar(record, prefix, "ratio_above_16", (double)above_16 / (double)n);
    ni_record_scalar(record, prefix, "flip_rate", (double)counts[FLIPS] / (double)(n * (weight->seen - 1)));
    weight->seen = 0;
    return true;
}

void ni_follow_free(ni_followed_weight *weight) {
    if (weight->be)
        nb_backend_release(weight->be, weight->memory);
    *weight = (ni_followed_weight){0};
}

/* ---- distance from the bin's centre ---- */

static void shares_of(const int64_t counts[NI_DISTANCE_COUNTS], float shares[NI_DISTANCE_COUNTS]) {
    int64_t total = 0;
    for (int i = 0; i < NI_DISTANCE_COUNTS; i++)
        total += counts[i];
    for (int i = 0; i < NI_DISTANCE_COUNTS; i++)
        shares[i] = total ? (float)counts[i] / (float)total : 0;
}

bool ni_bin_distances(ni_record *record, const nb_lens_operand *seen, float shares[10], int64_t *of) {
    nb_backend *be = seen->be;
    if (!is_of_use(seen) || !seen->operand || seen->source->stride != seen->source->cols || !be->ops->bin_widths ||
        seen->quantized->quantizer.element != NB_ELEMENT_E2M1)
        return false;
    nb_qtensor rows = first_rows(seen->quantized);
    int64_t n = rows.rows * rows.cols, all = seen->quantized->rows * rows.cols, counts[NI_DISTANCE_COUNTS];
    int64_t *on_device = ni_record_results(record, be);
    float *q = be->ops->alloc(be, 2 * (size_t)all * sizeof *q, "bins of the lens");
    nb_mat decoded = nb_mat_of(q, NB_F32, seen->quantized->rows, rows.cols);
    bool good = on_device && q && be->ops->decode(be, &decoded, seen->operand, false, NULL, true, NULL) == NB_OK;
    if (good) {
        float *widths = q + all;
        be->ops->bin_widths(be, widths, seen->operand);
        be->ops->count_distances(be, on_device, seen->source->data, q, widths, n);
        be->ops->download(be, counts, on_device, sizeof counts);
        shares_of(counts, shares);
        *of = n;
    }
    nb_backend_release(be, q);
    return good;
}
