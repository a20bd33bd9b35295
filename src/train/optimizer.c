/* optimizer.c: AdamW, all tensors in one call. */
#include "optimizer.h"
#include "backend/table.h"
#include "model/state.h"

#include <stdlib.h>
#include <string.h>

nb_status ni_optimizer_create(nb_backend *be, const nb_model *model, const nb_optimizer_state *state, int32_t begin,
                              int32_t end, ni_optimizer *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    out->be = be;
    out->begin = begin;
    out->end = end;
    const nb_param *params = nb_model_param(model, 0);
    int32_t count = nb_model_param_count(model);
    out->tensors = calloc((size_t)count, sizeof *out->tensors);
    if (!out->tensors)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", count);
    NB_TRY(ni_param_array_create_part(be, params, count, begin, end, state->m, state->scale, "first moments", &out->m,
                                      err));
    return ni_param_array_create_part(be, params, count, begin, end, state->v, state->scale, "second moments", &out->v,
                                      err);
}

void ni_optimizer_free(ni_optimizer *optimizer) {
    ni_param_array_free(&optimizer->m);
    ni_param_array_free(&optimizer->v);
    free(optimizer->tensors);
    memset(optimizer, 0, sizeof *optimizer);
}

void ni_optimizer_restart(ni_optimizer *optimizer) {
    ni_param_array_zero(&optimizer->m);
    ni_param_array_zero(&optimizer->v);
    optimizer->updates = 0;
}

double ni_clip_factor(double norm, double clip) {
    return clip > 0 && norm > clip ? clip / norm : 1.0;
}

static bool is_decayed(const nb_param *param, const nb_run_config *config) {
    if (!param->decay) /* a norm or a bias */
        return config->optimizer.decay_norms;
    return !param->embedding || config->optimizer.decay_embeddings;
}

static ni_adamw_tensor tensor_of(const ni_optimizer *optimizer, const nb_model *model, const ni_param_array *grads,
                                 const nb_run_config *config, int32_t index) {
    const nb_param *p = nb_model_param(model, index);
    return (ni_adamw_tensor){.param = ni_model_master(model, index),
                             .m = ni_param_array_at(&optimizer->m, index),
                             .v = ni_param_array_at(&optimizer->v, index),
                             .grad = ni_param_array_at(grads, index),
                             .n = p->rows * p->cols,
                             .weight_decay = is_decayed(p, config) ? config->optimizer.weight_decay : 0};
}

/* Where a mechanism has the pace of each element. */
static bool update_ramped(const ni_optimizer *optimizer, const nb_model *model, int32_t index, const ni_adamw_tensor *t,
                          const ni_adamw *step) {
    ni_ramped r = {.param = t->param.data,
                   .m = t->m.data,
                   .v = t->v.data,
                   .grad = t->grad.data,
                   .n = t->n,
                   .weight_decay = t->weight_decay};
    if (!ni_model_ramp(model, index, &r))
        return false;
    optimizer->be->ops->adamw_ramped(optimizer->be, &r, step);
    return true;
}

void ni_optimizer_update(ni_optimizer *optimizer, nb_model *model, const ni_param_array *grads,
                         const nb_run_config *config, double lr, double grad_scale, bool ramped) {
    int32_t plain = 0;
    optimizer->updates++;
    const ni_adamw step = {.lr = lr,
                           .beta1 = config->optimizer.beta1,
                           .beta2 = config->optimizer.beta2,
                           .eps = config->optimizer.eps,
                           .grad_scale = grad_scale,
                           .step = optimizer->updates};
    for (int32_t i = optimizer->begin; i < optimizer->end; i++) {
        optimizer->tensors[plain] = tensor_of(optimizer, model, grads, config, i);
        if (ramped && update_ramped(optimizer, model, i, &optimizer->tensors[plain], &step))
            continue;
        optimizer->tensors[plain].copy = ni_model_numbers(model, i);
        optimizer->tensors[plain++].amax = ni_model_maximum(model, i);
    }
    if (plain > 0)
        optimizer->be->ops->adamw(optimizer->be, optimizer->tensors, plain, &step);
}
