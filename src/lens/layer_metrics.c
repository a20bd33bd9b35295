/* layer_metrics.c: attention, gates, approximations, alignment. */
#include "lens/layer_metrics.h"
#include "backend/table.h"
#include "lens/operand_metrics.h"
#include "lens/series_format.h"

#include <math.h>
#include <stdio.h>

bool ni_record_attention(ni_record *record, const char *module, nb_backend *be, const nb_attention *attention,
                         const void *q, const void *k, int64_t stride) {
    ni_attention_stats *on_device = ni_record_results(record, be), s;
    if (!on_device)
        return false;
    be->ops->measure_attention(be, attention, q, k, stride, on_device);
    be->ops->download(be, &s, on_device, sizeof s);
    if (!s.queries)
        return true;
    ni_record_scalar(record, module, "logit_max", s.logit_max);
    ni_record_scalar(record, module, "logit_amax", s.logit_amax);
    ni_record_scalar(record, module, "logit_kurtosis", s.logit_kurtosis);
    ni_record_scalar(record, module, "entropy", s.entropy);
    return true;
}

bool ni_record_gate(ni_record *record, const char *module, nb_backend *be, const nb_mat *pre_activation,
                    const void *bias) {
    const nb_mat *a = pre_activation, offsets = nb_mat_of(bias, be->real, 1, a->cols);
    double *on_device = ni_record_results(record, be), out[4]; /* least, greatest, sum, sum of squares */
    if (!on_device)
        return false;
    be->ops->measure_gate(be, on_device, a, bias ? &offsets : NULL);
    be->ops->download(be, out, on_device, sizeof out);
    double n = (double)(a->rows * a->cols);
    ni_record_scalar(record, module, "gate_min", out[0]);
    ni_record_scalar(record, module, "gate_max", out[1]);
    ni_record_scalar(record, module, "gate_amax", fmax(-out[0], out[1]));
    ni_record_scalar(record, module, "gate_mean", out[2] / n);
    ni_record_scalar(record, module, "gate_rms", sqrt(out[3] / n));
    return true;
}

bool ni_record_approximation(ni_record *record, const char *module, const char *mechanism, nb_backend *be,
                             const nb_mat *exact, const nb_mat *approximate, ni_lens_buffers *buffers) {
    double *on_device = ni_record_results(record, be), out[3]; /* x^2, (x - y)^2, x y */
    if (!on_device)
        return false;
    be->ops->measure_pair(be, on_device, exact, approximate);
    be->ops->download(be, out, on_device, sizeof out);
    const nb_quantize_stats s = {.sum_sq = out[0], .sum_sq_error = out[1], .sum_product = out[2]};
    ni_quantization_error e = ni_quantization_error_of(&s);
    char prefix[NI_SERIES_NAME_SIZE];
    snprintf(prefix, sizeof prefix, "%s/%s", module, mechanism);
    ni_record_scalar(record, prefix, "snr_db", e.snr_db);
    ni_record_scalar(record, prefix, "cosine", e.cosine);
    ni_record_scalar(record, prefix, "mse", s.sum_sq_error / (double)(exact->rows * exact->cols));
    return ni_record_moments(record, prefix, be, approximate, buffers);
}

bool ni_record_output(ni_record *record, const char *module, nb_backend *be, const nb_mat *y,
                      ni_lens_buffers *buffers) {
    char prefix[NI_SERIES_NAME_SIZE];
    snprintf(prefix, sizeof prefix, "%s/output", module);
    if (!ni_record_moments(record, prefix, be, y, buffers))
        return false;
    ni_record_vector(record, prefix, "channels", buffers->columns, y->cols);
    return true;
}

bool ni_record_alignment(ni_record *record, const char *module, nb_backend *be, const nb_mat *gate, const nb_mat *up) {
    double *on_device = ni_record_results(record, be), mean;
    if (!on_device)
        return false;
    be->ops->measure_alignment(be, on_device, gate, up);
    be->ops->download(be, &mean, on_device, sizeof mean);
    ni_record_scalar(record, module, "alignment", mean);
    return true;
}
