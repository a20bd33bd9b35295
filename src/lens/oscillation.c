/* oscillation.c: following the first rows of a weight over a window of steps. What is followed stays on the device: a
 * step downloads nothing, a window's end two lines of counts. */
#include "lens/oscillation.h"
#include "backend/table.h"

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

/* Results: counts of ratios, and flips behind them; `rows` are the elements, `cols` the steps between. */
static void take_window(ni_record *record, const ni_asked *asked, const void *results) {
    const int64_t *counts = results, flips = counts[NI_RATIO_COUNTS], n = asked->rows;
    int64_t above_8 = 0, above_16 = 0;
    float shares[NI_RATIO_COUNTS];
    for (int i = 0; i < NI_RATIO_COUNTS; i++) { /* bins 6 and 7 begin above 8 and 16 */
        shares[i] = (float)counts[i] / (float)n;
        above_8 += i >= 6 ? counts[i] : 0;
        above_16 += i >= 7 ? counts[i] : 0;
    }
    ni_record_vector(record, asked->prefix, "ratios", shares, NI_RATIO_COUNTS);
    ni_record_scalar(record, asked->prefix, "ratio_above_8", (double)above_8 / (double)n);
    ni_record_scalar(record, asked->prefix, "ratio_above_16", (double)above_16 / (double)n);
    ni_record_scalar(record, asked->prefix, "flip_rate", (double)flips / (double)(n * asked->cols));
}

bool ni_follow_end(ni_followed_weight *weight, ni_record *record, const char *prefix) {
    nb_backend *be = weight->be;
    if (weight->seen < 2)
        return true;
    ni_asked *asked = ni_ask(record, be, prefix, (NI_RATIO_COUNTS + 1) * sizeof(int64_t), 0, take_window);
    if (!asked)
        return false;
    ni_tracked tracked = tracked_of(weight);
    int64_t *counts = ni_asked_results(record, asked);
    asked->rows = weight->elements;
    asked->cols = weight->seen - 1;
    be->ops->count_ratios(be, counts, tracked.moved_q, tracked.moved_w, weight->elements);
    be->ops->copy(be, counts + NI_RATIO_COUNTS, tracked.flips, sizeof *tracked.flips);
    ni_asked_now(record);
    weight->seen = 0;
    return true;
}

void ni_follow_free(ni_followed_weight *weight) {
    if (weight->be)
        nb_backend_release(weight->be, weight->memory);
    *weight = (ni_followed_weight){0};
}

/* ---- distance from the bin's centre ---- */

/* Results: counts. */
static void take_distances(ni_record *record, const ni_asked *asked, const void *results) {
    static const double limits[NI_DISTANCE_COUNTS] = {0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5};
    const int64_t *counts = results;
    int64_t total = 0;
    float shares[NI_DISTANCE_COUNTS];
    for (int i = 0; i < NI_DISTANCE_COUNTS; i++)
        total += counts[i];
    for (int i = 0; i < NI_DISTANCE_COUNTS; i++)
        shares[i] = total ? (float)counts[i] / (float)total : 0;
    ni_record_shares(record, asked->prefix, "bin_distances", shares, NI_DISTANCE_COUNTS, limits, (double)asked->rows);
}

void ni_bin_room_free(ni_bin_room *room) {
    if (room->be)
        nb_backend_release(room->be, room->memory);
    *room = (ni_bin_room){0};
}

/* What its codes decode to, and the width of each one's bin. */
size_t ni_bin_bytes(int64_t rows, int64_t cols) {
    return 2 * (size_t)(rows * cols) * sizeof(float);
}

static float *reserve(ni_bin_room *room, nb_backend *be, size_t bytes) {
    if (room->be == be && bytes <= room->bytes)
        return room->memory;
    ni_bin_room_free(room);
    room->memory = be->ops->alloc(be, bytes, "bins of the lens");
    room->be = room->memory ? be : NULL;
    room->bytes = room->memory ? bytes : 0;
    return room->memory;
}

static bool ask_distances(ni_record *record, const char *prefix, ni_bin_room *room, const nb_lens_operand *seen) {
    nb_backend *be = seen->be;
    const nb_qtensor rows = first_rows(seen->quantized);
    const int64_t n = rows.rows * rows.cols, all = seen->quantized->rows * rows.cols;
    float *const q = reserve(room, be, ni_bin_bytes(seen->quantized->rows, rows.cols)), *const widths =
                                                                                            q ? q + all : NULL;
    const nb_mat decoded = nb_mat_of(q, NB_F32, seen->quantized->rows, rows.cols);
    if (!q || be->ops->decode(be, &decoded, seen->operand, false, NULL, true, NULL) != NB_OK)
        return false;
    ni_asked *asked = ni_ask(record, be, prefix, NI_DISTANCE_COUNTS * sizeof(int64_t), 0, take_distances);
    if (!asked)
        return false;
    asked->rows = n;
    be->ops->bin_widths(be, widths, seen->operand);
    be->ops->count_distances(be, ni_asked_results(record, asked), seen->source->data, q, widths, n);
    ni_asked_now(record);
    return true;
}

bool ni_record_bin_distances(ni_record *record, const char *prefix, ni_bin_room *room, const nb_lens_operand *seen) {
    if (!is_of_use(seen) || !seen->operand || seen->source->stride != seen->source->cols ||
        !seen->be->ops->bin_widths || seen->quantized->quantizer.element != NB_ELEMENT_E2M1)
        return true;
    const bool good = ask_distances(record, prefix, room, seen);
    if (seen->be->host_memory)
        ni_bin_room_free(room);
    return good;
}
