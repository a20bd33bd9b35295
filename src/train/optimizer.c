/* optimizer.c: AdamW over runs of parameters that share their weight decay. */
#include "optimizer.h"

#include <math.h>
#include <string.h>

nb_status nb_optimizer_create(nb_backend *be, int64_t elements, nb_optimizer *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    size_t bytes = (size_t)elements * nb_dtype_size(be->real);
    out->be = be;
    out->elements = elements;
    out->m = be->ops->alloc(be, bytes);
    out->v = be->ops->alloc(be, bytes);
    if (!out->m || !out->v) {
        nb_optimizer_free(out);
        return nb_fail(err, NB_NO_MEMORY, "optimizer: two moments of %.1f MiB do not fit in memory",
                       (double)bytes / 1048576.0);
    }
    return NB_OK;
}

void nb_optimizer_free(nb_optimizer *optimizer) {
    if (!optimizer->be)
        return;
    if (optimizer->m)
        optimizer->be->ops->release(optimizer->be, optimizer->m);
    if (optimizer->v)
        optimizer->be->ops->release(optimizer->be, optimizer->v);
    memset(optimizer, 0, sizeof *optimizer);
}

double nb_gradient_norm(nb_backend *be, const void *grads, int64_t elements, double scale) {
    return sqrt(be->ops->sum_squares(be, grads, elements)) * scale;
}

double nb_clip_factor(double norm, double clip) {
    return clip > 0 && norm > clip ? clip / norm : 1.0;
}

static bool is_decayed(const nb_param *param, const nb_run_config *config) {
    return param->decay && (!param->embedding || config->optimizer.decay_embeddings);
}

static void *element(void *array, int64_t index, nb_dtype type) {
    return (char *)array + (size_t)index * nb_dtype_size(type);
}

void nb_optimizer_update(nb_optimizer *optimizer, nb_model *model, const void *grads, const nb_run_config *config,
                         double lr, double grad_scale) {
    nb_backend *be = optimizer->be;
    optimizer->updates++;
    nb_adamw step = {.lr = lr,
                     .beta1 = config->optimizer.beta1,
                     .beta2 = config->optimizer.beta2,
                     .eps = config->optimizer.eps,
                     .grad_scale = grad_scale,
                     .step = optimizer->updates};
    int32_t count = nb_model_param_count(model);
    void *params = nb_model_params(model);
    for (int32_t i = 0; i < count;) {
        const nb_param *first = nb_model_param(model, i);
        bool decayed = is_decayed(first, config);
        int64_t end = first->offset + first->rows * first->cols;
        for (i++; i < count; i++) {
            const nb_param *next = nb_model_param(model, i);
            if (next->offset != end || is_decayed(next, config) != decayed)
                break;
            end += next->rows * next->cols;
        }
        step.weight_decay = decayed ? config->optimizer.weight_decay : 0;
        be->ops->adamw(be, element(params, first->offset, be->real), element(optimizer->m, first->offset, be->real),
                       element(optimizer->v, first->offset, be->real),
                       (const char *)grads + (size_t)first->offset * nb_dtype_size(be->real), end - first->offset,
                       &step);
    }
}
