/* layer_metrics.c: attention, gates, approximations, alignment. */
#include "lens/layer_metrics.h"
#include "backend/table.h"
#include "format/bf16.h"
#include "lens/operand_metrics.h"
#include "lens/series_format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void nb_record_attention(nb_record *record, const char *module, nb_backend *be, const nb_attention *attention,
                         const void *q, const void *k, int64_t stride) {
    nb_attention_stats s;
    be->ops->measure_attention(be, attention, q, k, stride, &s);
    if (!s.queries)
        return;
    nb_record_scalar(record, module, "logit_max", s.logit_max);
    nb_record_scalar(record, module, "logit_amax", s.logit_amax);
    nb_record_scalar(record, module, "logit_kurtosis", s.logit_kurtosis);
    nb_record_scalar(record, module, "entropy", s.entropy);
}

static double element(const void *values, nb_dtype dtype, int64_t at) {
    return dtype == NB_BF16  ? (double)nb_bf16_value(((const uint16_t *)values)[at])
           : dtype == NB_F64 ? ((const double *)values)[at]
                             : (double)((const float *)values)[at];
}

bool nb_record_gate(nb_record *record, const char *module, nb_backend *be, const nb_mat *pre_activation,
                    const void *bias) {
    const nb_mat *a = pre_activation;
    size_t size = nb_dtype_size(a->dtype), row_bytes = (size_t)a->cols * size;
    size_t bias_bytes = bias ? (size_t)a->cols * nb_dtype_size(be->real) : 0;
    char *host = malloc(row_bytes + bias_bytes);
    if (!host)
        return false;
    double least = INFINITY, greatest = -INFINITY, sum = 0, squares = 0;
    if (bias)
        be->ops->download(be, host + row_bytes, bias, bias_bytes);
    for (int64_t r = 0; r < a->rows; r++) {
        be->ops->download(be, host, (const char *)a->data + (size_t)(r * a->stride) * size, row_bytes);
        for (int64_t c = 0; c < a->cols; c++) {
            double x = element(host, a->dtype, c) + (bias ? element(host + row_bytes, be->real, c) : 0);
            least = fmin(least, x);
            greatest = fmax(greatest, x);
            sum += x;
            squares += x * x;
        }
    }
    free(host);
    double n = (double)(a->rows * a->cols);
    nb_record_scalar(record, module, "gate_min", least);
    nb_record_scalar(record, module, "gate_max", greatest);
    nb_record_scalar(record, module, "gate_amax", fmax(-least, greatest));
    nb_record_scalar(record, module, "gate_mean", sum / n);
    nb_record_scalar(record, module, "gate_rms", sqrt(squares / n));
    return true;
}

bool nb_record_approximation(nb_record *record, const char *module, const char *mechanism, nb_backend *be,
                             const nb_mat *exact, const nb_mat *approximate) {
    nb_quantize_stats s = {0};
    size_t bytes = (size_t)exact->cols * sizeof(uint16_t);
    uint16_t *rows = NULL;
    if (exact->dtype != NB_BF16 || approximate->dtype != NB_BF16 || !(rows = malloc(2 * bytes)))
        return false;
    for (int64_t r = 0; r < exact->rows; r++) {
        be->ops->download(be, rows, (const uint16_t *)exact->data + r * exact->stride, bytes);
        be->ops->download(be, rows + exact->cols, (const uint16_t *)approximate->data + r * approximate->stride, bytes);
        for (int64_t c = 0; c < exact->cols; c++) {
            double x = nb_bf16_value(rows[c]), y = nb_bf16_value(rows[exact->cols + c]);
            s.sum_sq += x * x;
            s.sum_sq_error += (x - y) * (x - y);
            s.sum_product += x * y;
        }
    }
    free(rows);
    nb_quantization_error e = nb_quantization_error_of(&s);
    char prefix[NB_SERIES_NAME_SIZE];
    snprintf(prefix, sizeof prefix, "%s/%s", module, mechanism);
    nb_record_scalar(record, prefix, "snr_db", e.snr_db);
    nb_record_scalar(record, prefix, "cosine", e.cosine);
    nb_record_scalar(record, prefix, "mse", s.sum_sq_error / (double)(exact->rows * exact->cols));
    return true;
}

void nb_record_alignment(nb_record *record, const char *module, const nb_mat *gate, const nb_mat *up) {
    double sum = 0;
    for (int64_t r = 0; r < gate->rows; r++) {
        double dot = 0, a = 0, b = 0;
        for (int64_t c = 0; c < gate->cols; c++) {
            double x = element(gate->data, gate->dtype, r * gate->stride + c);
            double y = element(up->data, up->dtype, r * up->stride + c);
            dot += x * y;
            a += x * x;
            b += y * y;
        }
        sum += a > 0 && b > 0 ? fabs(dot) / sqrt(a * b) : 0;
    }
    nb_record_scalar(record, module, "alignment", sum / (double)gate->rows);
}
