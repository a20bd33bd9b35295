/* handed.c: finds the linear layer that reads a parameter; of an embedding, which layers do not read, passes read what
 * rounds to BF16.
 */
#include "model/handed.h"
#include "backend/table.h"
#include "model/decoder.h"

static ni_linear *layer_of(const ni_weight_reader *r) {
    return r->group ? &r->group->layers[r->layer] : NULL;
}

/* An embedding that is no head: rows of it are looked up, each rounded. */
static bool is_table(const nb_model *model, int32_t param) {
    return model->params.list[param].embedding && !model->readers[param].group;
}

ni_handed ni_model_handed(const nb_model *model, int32_t param, const char **why) {
    const ni_weight_reader *r = &model->readers[param];
    *why = "brought back to length 1 after a step";
    if (model->traits->sphere)
        return NI_HANDED_MASTER;
    *why = is_table(model, param) ? "an embedding" : "a vector";
    if (is_table(model, param))
        return model->hands_codes && model->be->act == NB_BF16 ? NI_HANDED_NUMBERS : NI_HANDED_MASTER;
    if (!r->group || model->params.list[param].embedding)
        return NI_HANDED_MASTER;
    return ni_weight_handed(r->group, layer_of(r), why);
}

static int64_t length_of(const nb_model *model, int32_t param) {
    return model->params.list[param].rows * model->params.list[param].cols;
}

size_t ni_model_handed_bytes(const nb_model *model, int32_t param) {
    const char *why;
    const ni_weight_reader *r = &model->readers[param];
    if (ni_model_handed(model, param, &why) == NI_HANDED_MASTER)
        return 0;
    if (is_table(model, param))
        return (size_t)length_of(model, param) * nb_dtype_size(model->be->act);
    return ni_weight_handed_bytes(r->group, layer_of(r));
}

/* All that `group` multiplies is of these parameters, and no mechanism looks at it. */
static bool is_within(const nb_model *model, const ni_linear_group *group, int32_t begin, int32_t end) {
    int32_t found = 0;
    for (int32_t i = begin; i < end; i++)
        found += model->readers[i].group == group;
    return found == group->count && group->mechanism_count == 0;
}

nb_status ni_model_ready_to_put(nb_model *model, int32_t begin, int32_t end, const nb_pass *pass, nb_error *err) {
    nb_pass alone = *pass;
    alone.lens = NULL; /* it looks at passes */
    for (int32_t i = 0; i < model->group_count; i++) {
        const int32_t first = i;
        while (i < model->group_count && is_within(model, model->groups[i], begin, end))
            i++;
        NB_TRY(ni_linear_groups_ready(model->groups + first, i - first, &alone, err));
    }
    return NB_OK;
}

nb_status ni_model_put(nb_model *model, int32_t param, const nb_pass *pass, void *parcel, nb_error *err) {
    const ni_weight_reader *r = &model->readers[param];
    if (!is_table(model, param))
        return ni_weight_put(r->group, layer_of(r), pass, &model->scratch, parcel, err);
    const ni_scaled *master = &model->params.masters[param];
    model->be->ops->cast(model->be, parcel, model->be->act, master->data, master->dtype, length_of(model, param));
    return NB_OK;
}

nb_status ni_model_take(nb_model *model, int32_t param, void *parcel, nb_error *err) {
    const ni_weight_reader *r = &model->readers[param];
    if (!is_table(model, param))
        return ni_weight_take(r->group, layer_of(r), parcel, err);
    const ni_scaled *master = &model->params.masters[param];
    model->be->ops->cast(model->be, master->data, master->dtype, parcel, model->be->act, length_of(model, param));
    return NB_OK;
}

bool ni_model_lay(nb_model *model, int32_t param, void *place) {
    const ni_weight_reader *r = &model->readers[param];
    const char *why;
    if (!r->group || ni_model_handed(model, param, &why) != NI_HANDED_NUMBERS)
        return false;
    ni_weight_lay(r->group, layer_of(r), place);
    return true;
}

void ni_model_watch_weights(nb_model *model, ni_weight_watch *watch, void *self) {
    model->weights.watch = watch;
    model->weights.self = self;
}
