/* layer_metrics.c: attention, gates, approximations, alignment. */
#include "lens/layer_metrics.h"
#include "backend/table.h"
#include "lens/operand_metrics.h"
#include "lens/series_format.h"

#include <math.h>
#include <stdio.h>

static void take_attention(ni_record *record, const ni_asked *asked, const void *results) {
    const ni_attention_stats *s = results;
    if (!s->queries)
        return;
    ni_record_scalar(record, asked->prefix, "logit_max", s->logit_max);
    ni_record_scalar(record, asked->prefix, "logit_amax", s->logit_amax);
    ni_record_scalar(record, asked->prefix, "logit_kurtosis", s->logit_kurtosis);
    ni_record_scalar(record, asked->prefix, "entropy", s->entropy);
}

bool ni_record_attention(ni_record *record, const char *module, nb_backend *be, const nb_attention *attention,
                         const void *q, const void *k, int64_t stride) {
    const ni_asked *asked = ni_ask(record, be, module, sizeof(ni_attention_stats), 0, take_attention);
    if (!asked)
        return false;
    be->ops->measure_attention(be, attention, q, k, stride, ni_asked_results(record, asked));
    ni_asked_now(record);
    return true;
}

/* Least, greatest, sum, sum of squares. */
static void take_gate(ni_record *record, const ni_asked *asked, const void *results) {
    const double *of = results, n = (double)(asked->rows * asked->cols);
    ni_record_scalar(record, asked->prefix, "gate_min", of[0]);
    ni_record_scalar(record, asked->prefix, "gate_max", of[1]);
    ni_record_scalar(record, asked->prefix, "gate_amax", fmax(-of[0], of[1]));
    ni_record_scalar(record, asked->prefix, "gate_mean", of[2] / n);
    ni_record_scalar(record, asked->prefix, "gate_rms", sqrt(of[3] / n));
}

bool ni_record_gate(ni_record *record, const char *module, nb_backend *be, const nb_mat *pre_activation,
                    const void *bias) {
    const nb_mat *a = pre_activation, offsets = nb_mat_of(bias, be->real, 1, a->cols);
    ni_asked *asked = ni_ask(record, be, module, 4 * sizeof(double), 0, take_gate);
    if (!asked)
        return false;
    asked->rows = a->rows;
    asked->cols = a->cols;
    be->ops->measure_gate(be, ni_asked_results(record, asked), a, bias ? &offsets : NULL);
    ni_asked_now(record);
    return true;
}

/* Sums of x^2, (x - y)^2, x y. */
static void take_approximation(ni_record *record, const ni_asked *asked, const void *results) {
    const double *of = results;
    const nb_quantize_stats s = {.sum_sq = of[0], .sum_sq_error = of[1], .sum_product = of[2]};
    const ni_quantization_error e = ni_quantization_error_of(&s);
    ni_record_scalar(record, asked->prefix, "snr_db", e.snr_db);
    ni_record_scalar(record, asked->prefix, "cosine", e.cosine);
    ni_record_scalar(record, asked->prefix, "mse", s.sum_sq_error / (double)(asked->rows * asked->cols));
}

bool ni_record_approximation(ni_record *record, const char *module, const char *mechanism, nb_backend *be,
                             const nb_mat *exact, const nb_mat *approximate) {
    char prefix[NI_SERIES_NAME_SIZE];
    snprintf(prefix, sizeof prefix, "%s/%s", module, mechanism);
    ni_asked *asked = ni_ask(record, be, prefix, 3 * sizeof(double), 0, take_approximation);
    if (!asked)
        return false;
    asked->rows = exact->rows;
    asked->cols = exact->cols;
    be->ops->measure_pair(be, ni_asked_results(record, asked), exact, approximate);
    ni_asked_now(record);
    return ni_measure_matrix(record, prefix, be, approximate, (ni_measured){.crests = false});
}

bool ni_record_output(ni_record *record, const char *module, nb_backend *be, const nb_mat *y, bool tiles) {
    char prefix[NI_SERIES_NAME_SIZE];
    snprintf(prefix, sizeof prefix, "%s/output", module);
    return ni_measure_matrix(record, prefix, be, y, (ni_measured){.channels = true, .tiles = tiles});
}

static void take_alignment(ni_record *record, const ni_asked *asked, const void *results) {
    ni_record_scalar(record, asked->prefix, "alignment", *(const double *)results);
}

bool ni_record_alignment(ni_record *record, const char *module, nb_backend *be, const nb_mat *gate, const nb_mat *up) {
    const ni_asked *asked = ni_ask(record, be, module, sizeof(double), 0, take_alignment);
    if (!asked)
        return false;
    be->ops->measure_alignment(be, ni_asked_results(record, asked), gate, up);
    ni_asked_now(record);
    return true;
}
