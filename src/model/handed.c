/* handed.c: finds the linear layer that reads a parameter. */
#include "model/handed.h"
#include "model/decoder.h"

typedef struct reader {
    ni_linear_group *group;
    ni_linear *layer;
} reader;

static reader reader_of(const nb_model *model, int32_t param) {
    const void *master = ni_params_value(&model->params, param);
    for (int32_t i = 0; master && i < model->group_count; i++)
        for (int32_t j = 0; j < model->groups[i]->count; j++)
            if (model->groups[i]->layers[j].master == master)
                return (reader){model->groups[i], &model->groups[i]->layers[j]};
    return (reader){NULL, NULL};
}

ni_handed ni_model_handed(const nb_model *model, int32_t param, const char **why) {
    const reader r = reader_of(model, param);
    *why = model->params.list[param].embedding ? "an embedding" : "a vector, or a master in few bits";
    if (!r.layer || model->params.list[param].embedding)
        return NI_HANDED_MASTER;
    *why = "brought back to length 1 after a step";
    return model->traits->sphere ? NI_HANDED_MASTER : ni_weight_handed(r.group, r.layer, why);
}

size_t ni_model_handed_bytes(const nb_model *model, int32_t param) {
    const char *why;
    const reader r = reader_of(model, param);
    return ni_model_handed(model, param, &why) == NI_HANDED_MASTER ? 0 : ni_weight_handed_bytes(r.group, r.layer);
}

nb_status ni_model_put(nb_model *model, int32_t param, const nb_pass *pass, void *parcel, nb_error *err) {
    const reader r = reader_of(model, param);
    return ni_weight_put(r.group, r.layer, pass, &model->scratch, parcel, err);
}

nb_status ni_model_take(nb_model *model, int32_t param, void *parcel, nb_error *err) {
    const reader r = reader_of(model, param);
    return ni_weight_take(r.group, r.layer, parcel, err);
}
