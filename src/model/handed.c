/* handed.c: finds the linear layer that reads a parameter. */
#include "model/handed.h"
#include "model/decoder.h"

static ni_linear *layer_of(const ni_weight_reader *r) {
    return r->group ? &r->group->layers[r->layer] : NULL;
}

ni_handed ni_model_handed(const nb_model *model, int32_t param, const char **why) {
    const ni_weight_reader *r = &model->readers[param];
    *why = model->params.list[param].embedding ? "an embedding" : "a vector";
    if (!r->group || model->params.list[param].embedding)
        return NI_HANDED_MASTER;
    *why = "brought back to length 1 after a step";
    return model->traits->sphere ? NI_HANDED_MASTER : ni_weight_handed(r->group, layer_of(r), why);
}

size_t ni_model_handed_bytes(const nb_model *model, int32_t param) {
    const char *why;
    const ni_weight_reader *r = &model->readers[param];
    return ni_model_handed(model, param, &why) == NI_HANDED_MASTER ? 0 : ni_weight_handed_bytes(r->group, layer_of(r));
}

nb_status ni_model_put(nb_model *model, int32_t param, const nb_pass *pass, void *parcel, nb_error *err) {
    const ni_weight_reader *r = &model->readers[param];
    return ni_weight_put(r->group, layer_of(r), pass, &model->scratch, parcel, err);
}

nb_status ni_model_take(nb_model *model, int32_t param, void *parcel, nb_error *err) {
    const ni_weight_reader *r = &model->readers[param];
    return ni_weight_take(r->group, layer_of(r), parcel, err);
}
