/* operand_metrics.c: moments, channels, tiles, scales and error of one operand. */
#include "lens/operand_metrics.h"
#include "backend/table.h"
#include "lens/tiles.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(void **memory, int64_t *room, int64_t need, size_t size) {
    if (need <= *room)
        return true;
    void *grown = realloc(*memory, (size_t)need * size);
    if (!grown)
        return false;
    *memory = grown;
    *room = need;
    return true;
}

static bool reserve_there(ni_lens_buffers *b, nb_backend *be, int64_t need) {
    if (b->be == be && need <= b->there_room)
        return true;
    if (b->be)
        nb_backend_release(b->be, b->there);
    b->there = be->ops->alloc(be, (size_t)need, "what the lens measures");
    b->be = b->there ? be : NULL;
    b->there_room = b->there ? need : 0;
    return b->there;
}

void ni_lens_buffers_free(ni_lens_buffers *b) {
    free(b->measured);
    free(b->scales);
    if (b->be)
        nb_backend_release(b->be, b->there);
    *b = (ni_lens_buffers){0};
}

size_t ni_lens_buffers_bytes(const ni_lens_buffers *b) {
    return (size_t)(b->measured_room + b->scale_room + b->there_room);
}

/* ---- error ---- */

static double share(int64_t part, int64_t whole) {
    return whole ? (double)part / (double)whole : 0;
}

ni_quantization_error ni_quantization_error_of(const nb_quantize_stats *s) {
    /* sum q^2 = sum (x - q)^2 - sum x^2 + 2 sum x q */
    double decoded_squares = s->sum_sq_error - s->sum_sq + 2 * s->sum_product;
    return (ni_quantization_error){
        .flushed = share(s->flushed, s->nonzero),
        .saturated = share(s->saturated, s->elements),
        .zero_scales = share(s->zero_scales, s->blocks),
        .snr_db = 10 * log10(s->sum_sq / s->sum_sq_error),
        .cosine = s->sum_product / sqrt(s->sum_sq * decoded_squares),
        .rho = sqrt(s->sum_sq / s->sum_sq_error),
    };
}

static void record_error(ni_record *record, const char *prefix, const nb_lens_operand *seen) {
    ni_quantization_error e = ni_quantization_error_of(seen->stats);
    ni_record_scalar(record, prefix, "flushed", e.flushed);
    ni_record_scalar(record, prefix, "saturated", e.saturated);
    if (!seen->quantized || seen->quantized->scales)
        ni_record_scalar(record, prefix, "zero_scales", e.zero_scales);
    ni_record_scalar(record, prefix, "snr_db", e.snr_db);
    ni_record_scalar(record, prefix, "cosine", e.cosine);
    if (seen->role == NB_DGRAD_DY || seen->role == NB_WGRAD_DY)
        ni_record_scalar(record, prefix, "rho", e.rho);
}

/* ---- scales ---- */

void ni_scale_histogram(const uint8_t *scales, int64_t count, float shares[16]) {
    int64_t counts[16] = {0};
    for (int64_t i = 0; i < count; i++)
        counts[scales[i] >> 3 & 15]++;
    for (int i = 0; i < 16; i++)
        shares[i] = (float)share(counts[i], count);
}

static void record_scales(ni_record *record, const char *prefix, const nb_lens_operand *seen, ni_lens_buffers *b) {
    const nb_qtensor *q = seen->quantized;
    if (!q->scales || q->quantizer.scale_type != NB_SCALE_E4M3)
        return;
    int64_t count = q->rows * ((q->cols + q->quantizer.block_cols - 1) / q->quantizer.block_cols);
    if (!reserve((void **)&b->scales, &b->scale_room, count, 1))
        return;
    seen->be->ops->download(seen->be, b->scales, q->scales, (size_t)count);
    float shares[16];
    ni_scale_histogram(b->scales, count, shares);
    double exponents[16];
    for (int i = 0; i < 16; i++)
        exponents[i] = i - 7; /* E4M3's bias; the first bin holds subnormal scales too */
    ni_record_shares(record, prefix, "scales", shares, 16, exponents, (double)count);
}

/* ---- moments, channels, tiles ---- */

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

/* Largest crest of each column of tiles, written over the first row of the map; then the whole map's extremes. */
static void record_crests(ni_record *record, const char *prefix, const nb_mat *source, ni_lens_buffers *b) {
    int64_t width = (source->cols + 15) / 16, height = (source->rows + 15) / 16, count = width * height;
    float *columns = b->crests + count;
    memcpy(columns, b->crests, (size_t)width * sizeof *columns);
    for (int64_t i = width; i < count; i++)
        columns[i % width] = fmaxf(columns[i % width], b->crests[i]);
    ni_record_vector(record, prefix, "crest_columns", columns, width);
    float largest = 0;
    for (int64_t i = 0; i < width; i++)
        largest = fmaxf(largest, columns[i]);
    ni_record_scalar(record, prefix, "crest_max", largest);
    ni_record_scalar(record, prefix, "crest_p99",
                     value_of_rank(b->crests, count, (int64_t)(0.99 * (double)(count - 1))));
}

bool ni_record_moments(ni_record *record, const char *prefix, nb_backend *be, const nb_mat *x, ni_lens_buffers *b) {
    const int64_t width = (x->cols + 15) / 16, tiles = width * ((x->rows + 15) / 16);
    const int64_t columns_at = (int64_t)sizeof(ni_moments), crests_at = columns_at + x->cols * (int64_t)sizeof(float),
                  end = crests_at + tiles * (int64_t)sizeof(float);
    if (!reserve(&b->measured, &b->measured_room, end + width * (int64_t)sizeof(float), 1) ||
        !reserve_there(b, be, end))
        return false;
    char *there = b->there, *here = b->measured;
    ni_moments *m = b->measured;
    b->columns = (float *)(void *)(here + columns_at);
    b->crests = (float *)(void *)(here + crests_at);
    be->ops->measure(be, x, b->there, (float *)(void *)(there + columns_at), (float *)(void *)(there + crests_at));
    be->ops->download(be, here, there, (size_t)end);
    ni_record_scalar(record, prefix, "amax", m->amax);
    ni_record_scalar(record, prefix, "rms", m->rms);
    ni_record_scalar(record, prefix, "kurtosis", m->excess_kurtosis);
    if (m->nonfinite)
        ni_record_scalar(record, prefix, "nonfinite", (double)m->nonfinite);
    return true;
}

static bool record_source(ni_record *record, const char *prefix, const nb_lens_operand *seen, bool tiles,
                          ni_lens_buffers *b) {
    if (!ni_record_moments(record, prefix, seen->be, seen->source, b))
        return false;
    ni_record_vector(record, prefix, "channels", b->columns, seen->source->cols);
    if (tiles)
        ni_record_tiles(record, prefix, b->crests, seen->source->rows, seen->source->cols);
    record_crests(record, prefix, seen->source, b);
    return true;
}

bool ni_record_operand(ni_record *record, const char *prefix, const nb_lens_operand *seen, bool source_known,
                       bool tiles, ni_lens_buffers *buffers) {
    if (seen->source && !source_known && !record_source(record, prefix, seen, tiles, buffers))
        return false;
    if (seen->stats)
        record_error(record, prefix, seen);
    if (seen->quantized)
        record_scales(record, prefix, seen, buffers);
    return true;
}

/* ---- what does not apply ---- */

void ni_note_skipped(ni_skipped *skipped, const char *prefix, const nb_lens_operand *seen) {
    const nb_qtensor *q = seen->quantized;
    if (!seen->source)
        ni_skip_note(skipped, "amax, rms, kurtosis, channels, crests", "made from the codes of another role", prefix);
    if (!q && seen->stats) {
        ni_skip_note(skipped, "scales", "a mechanism multiplies it in parts", prefix);
        return;
    }
    if (!q) {
        ni_skip_note(skipped, "error and scales", "this product runs in BF16", prefix);
        if (seen->role == NB_FPROP_W)
            ni_skip_note(skipped, "oscillation", "the weight is not quantized", prefix);
        return;
    }
    if (!seen->stats)
        ni_skip_note(skipped, "error", "a mechanism rounds this operand and counts nothing", prefix);
    if (q->quantizer.scale_type != NB_SCALE_E4M3)
        ni_skip_note(skipped, "histogram of block scales", "its scales are not in E4M3", prefix);
    if (seen->role != NB_FPROP_W)
        return;
    if (q->quantizer.hadamard_size)
        ni_skip_note(skipped, "oscillation and bin distances", "the weight is rotated before it is quantized", prefix);
    else if (q->quantizer.element != NB_ELEMENT_E2M1)
        ni_skip_note(skipped, "bin distances", "the weight is not in E2M1", prefix);
}
