/* masters.c: who has which masters, and copies of those that are here. */
#include "model/masters.h"
#include "backend/table.h"
#include "model/decoder.h"
#include "model/handed.h"

#include <stdlib.h>
#include <string.h>

/* ---- sharing out ---- */

static ni_master_place place_of(const nb_model *model, int32_t param, bool own) {
    const char *why;
    if (ni_model_handed(model, param, &why) == NI_HANDED_MASTER)
        return NI_MASTER_COMMON;
    return own ? NI_MASTER_OWN : NI_MASTER_ELSEWHERE;
}

/* Layers were made before their masters had a place. */
static void tell_layers(nb_model *model) {
    for (int32_t i = 0; i < model->params.count; i++) {
        const ni_weight_reader *r = &model->readers[i];
        if (!r->group || !ni_params_is_parted(&model->params, i))
            continue;
        ni_linear *layer = &r->group->layers[r->layer];
        layer->master = ni_params_value(&model->params, i);
        layer->elsewhere = !layer->master;
    }
}

nb_status ni_model_part_masters(nb_model *model, int32_t begin, int32_t end, bool all, nb_error *err) {
    const int32_t count = model->params.count;
    if (!model->params.parted)
        return NB_OK;
    ni_master_place *places = calloc((size_t)count, sizeof *places);
    if (!places)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", count);
    for (int32_t i = 0; i < count; i++)
        places[i] = place_of(model, i, all || (i >= begin && i < end));
    const nb_status status = ni_params_place(&model->params, places, err);
    free(places);
    if (status == NB_OK)
        tell_layers(model);
    return status;
}

void ni_model_master_arrays(const nb_model *model, ni_master_array arrays[NI_MASTER_ARRAYS]) {
    const ni_params *p = &model->params;
    arrays[0] = (ni_master_array){p->values, p->values_bytes};
    arrays[1] = (ni_master_array){p->common, p->common_bytes};
    arrays[2] = (ni_master_array){p->narrow, p->narrow_bytes};
}

/* ---- copies ---- */

enum { ALIGNED = 64 };

static size_t master_bytes(const nb_model *model, int32_t index) {
    const nb_param *p = nb_model_param(model, index);
    const ni_scaled master = ni_model_master(model, index);
    return master.data ? (size_t)(p->rows * p->cols) * nb_dtype_size(master.dtype) : 0;
}

nb_status ni_model_copy_masters(const nb_model *model, ni_master_copy *out, nb_error *err) {
    const ni_params *params = &model->params;
    const size_t count = (size_t)params->count, scales = params->scales ? count * sizeof *params->scales : 0;
    const ni_backend_ops *ops = model->be->ops;
    void *data;
    *out = (ni_master_copy){.be = model->be, .at = calloc(count + 1, sizeof *out->at)};
    if (!out->at)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", params->count);
    for (size_t i = 0; i < count; i++)
        out->at[i + 1] = out->at[i] + (master_bytes(model, (int32_t)i) + ALIGNED - 1) / ALIGNED * ALIGNED;
    NB_TRY(ni_backend_take(model->be, out->at[count] + scales, "a copy of the parameters", &data, err));
    out->data = data;
    out->scales = scales ? out->data + out->at[count] : NULL;
    for (size_t i = 0; i < count; i++)
        if (out->at[i + 1] > out->at[i])
            ops->copy(model->be, out->data + out->at[i], params->masters[i].data, master_bytes(model, (int32_t)i));
    if (scales)
        ops->copy(model->be, out->scales, params->scales, scales);
    return NB_OK;
}

void ni_model_restore_masters(nb_model *model, const ni_master_copy *copy) {
    const ni_params *params = &model->params;
    const ni_backend_ops *ops = model->be->ops;
    for (int32_t i = 0; i < params->count; i++)
        if (copy->at[i + 1] > copy->at[i] && params->masters[i].data)
            ops->copy(model->be, params->masters[i].data, copy->data + copy->at[i], master_bytes(model, i));
    if (copy->scales)
        ops->copy(model->be, params->scales, copy->scales, (size_t)params->count * sizeof *params->scales);
}

void ni_master_copy_free(ni_master_copy *copy) {
    nb_backend_release(copy->be, copy->data);
    free(copy->at);
    memset(copy, 0, sizeof *copy);
}
