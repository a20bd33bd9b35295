/* operand_metrics.c: moments, channels, tiles, scales and error of one operand. */
#include "lens/operand_metrics.h"
#include "backend/table.h"
#include "lens/tiles.h"

#include <math.h>

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

static void take_error(ni_record *record, const ni_asked *asked, const void *results) {
    const ni_quantization_error e = ni_quantization_error_of(results);
    ni_record_scalar(record, asked->prefix, "flushed", e.flushed);
    ni_record_scalar(record, asked->prefix, "saturated", e.saturated);
    if (asked->has_scales)
        ni_record_scalar(record, asked->prefix, "zero_scales", e.zero_scales);
    ni_record_scalar(record, asked->prefix, "snr_db", e.snr_db);
    ni_record_scalar(record, asked->prefix, "cosine", e.cosine);
    if (asked->is_gradient)
        ni_record_scalar(record, asked->prefix, "rho", e.rho);
}

static bool ask_error(ni_record *record, const char *prefix, const nb_lens_operand *seen) {
    ni_asked *asked = ni_ask(record, seen->be, prefix, sizeof *seen->stats, 0, take_error);
    if (!asked)
        return false;
    asked->has_scales = !seen->quantized || seen->quantized->scales;
    asked->is_gradient = seen->role == NB_DGRAD_DY || seen->role == NB_WGRAD_DY;
    seen->be->ops->copy(seen->be, ni_asked_results(record, asked), seen->stats, sizeof *seen->stats);
    ni_asked_now(record);
    return true;
}

/* ---- scales ---- */

static void take_scales(ni_record *record, const ni_asked *asked, const void *results) {
    const int64_t *counts = results;
    float shares[NI_SCALE_EXPONENTS];
    double exponents[NI_SCALE_EXPONENTS];
    int64_t count = 0;
    for (int i = 0; i < NI_SCALE_EXPONENTS; i++)
        count += counts[i];
    for (int i = 0; i < NI_SCALE_EXPONENTS; i++) {
        shares[i] = (float)share(counts[i], count);
        exponents[i] = i - 7; /* E4M3's bias; the first bin holds subnormal scales too */
    }
    ni_record_shares(record, asked->prefix, "scales", shares, NI_SCALE_EXPONENTS, exponents, (double)count);
}

static bool ask_scales(ni_record *record, const char *prefix, const nb_lens_operand *seen) {
    const nb_qtensor *q = seen->quantized;
    if (!q->scales || q->quantizer.scale_type != NB_SCALE_E4M3)
        return true;
    const int64_t count = q->rows * ((q->cols + q->quantizer.block_cols - 1) / q->quantizer.block_cols);
    const ni_asked *asked = ni_ask(record, seen->be, prefix, NI_SCALE_EXPONENTS * sizeof(int64_t), 0, take_scales);
    if (!asked)
        return false;
    seen->be->ops->count_scales(seen->be, ni_asked_results(record, asked), q->scales, count);
    ni_asked_now(record);
    return true;
}

/* ---- moments, channels, tiles ---- */

/* Results: moments, maxima of the columns, the summary of crests. */
static size_t columns_at(void) {
    return sizeof(ni_moments);
}

static size_t summary_at(int64_t cols) {
    return columns_at() + (size_t)cols * sizeof(float);
}

static void take_crests(ni_record *record, const ni_asked *asked, const float *summary) {
    ni_record_vector(record, asked->prefix, "crest_columns", summary + 2, asked->map.cols);
    ni_record_scalar(record, asked->prefix, "crest_max", summary[0]);
    ni_record_scalar(record, asked->prefix, "crest_p99", summary[1]);
}

static void take_matrix(ni_record *record, const ni_asked *asked, const void *results) {
    const char *at = results;
    const ni_moments *m = results;
    const float *columns = (const float *)(const void *)(at + columns_at());
    ni_record_scalar(record, asked->prefix, "amax", m->amax);
    ni_record_scalar(record, asked->prefix, "rms", m->rms);
    ni_record_scalar(record, asked->prefix, "kurtosis", m->excess_kurtosis);
    if (m->nonfinite)
        ni_record_scalar(record, asked->prefix, "nonfinite", (double)m->nonfinite);
    if (asked->channels)
        ni_record_vector(record, asked->prefix, "channels", columns, asked->cols);
    if (asked->map_here)
        ni_record_tiles(record, asked->prefix, asked->map_here, asked->rows, asked->cols);
    if (asked->map.summary)
        take_crests(record, asked, (const float *)(const void *)(at + summary_at(asked->cols)));
    if (asked->then)
        asked->then(asked->owner, asked->which, columns, asked->cols);
}

bool ni_measure_matrix(ni_record *record, const char *prefix, nb_backend *be, const nb_mat *x, ni_measured wanted) {
    const int64_t width = (x->cols + 15) / 16, height = (x->rows + 15) / 16;
    const bool crests = wanted.crests && width * height > 0, map = crests || (wanted.tiles && width * height > 0);
    const size_t bytes = summary_at(x->cols) + (crests ? (size_t)(2 + width) * sizeof(float) : 0);
    ni_asked *asked = ni_ask(record, be, prefix, bytes, map ? width * height : 0, take_matrix);
    if (!asked)
        return false;
    char *results = ni_asked_results(record, asked);
    asked->rows = x->rows;
    asked->cols = x->cols;
    asked->channels = wanted.channels;
    asked->keeps_map = wanted.tiles;
    asked->map.rows = height;
    asked->map.cols = width;
    asked->map.summary = crests ? (float *)(void *)(results + summary_at(x->cols)) : NULL;
    asked->then = wanted.then;
    asked->owner = wanted.owner;
    asked->which = wanted.which;
    be->ops->measure(be, x, (ni_moments *)(void *)results, (float *)(void *)(results + columns_at()),
                     asked->map.crests);
    ni_asked_now(record);
    return true;
}

bool ni_record_operand(ni_record *record, const char *prefix, const nb_lens_operand *seen, bool source_known,
                       ni_measured wanted) {
    if (seen->source && !source_known && !ni_measure_matrix(record, prefix, seen->be, seen->source, wanted))
        return false;
    if (seen->stats && !ask_error(record, prefix, seen))
        return false;
    return !seen->quantized || ask_scales(record, prefix, seen);
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
