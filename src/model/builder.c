/* builder.c: what every part of a model is built with: names, parameters, norms, linear groups, sizes of buffers. */
#include "model/decoder.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- names, norms, buffers ---- */

void ni_module_name(const ni_builder *builder, const char *inner, char name[NB_NAME_SIZE]) {
    if (builder->block < 0)
        snprintf(name, NB_NAME_SIZE, "%s", inner);
    else
        snprintf(name, NB_NAME_SIZE, "layers.%d.%s", builder->block, inner);
}

nb_status ni_declare(ni_builder *builder, const char *inner, const char *suffix, int64_t rows, int64_t cols,
                     int32_t *index, nb_error *err) {
    char module[NB_NAME_SIZE], name[NB_NAME_SIZE + 32];
    ni_module_name(builder, inner, module);
    snprintf(name, sizeof name, "model.%s.%s", module, suffix);
    return ni_params_declare(&builder->model->params, name, rows, cols, index, err);
}

nb_status ni_declare_norm(ni_builder *builder, const char *inner, int64_t dim, ni_norm *norm, nb_error *err) {
    norm->dim = dim;
    norm->eps = builder->model->config.norm_eps;
    return ni_declare(builder, inner, "weight", dim, 0, &norm->param, err);
}

void ni_build_norm(const ni_builder *builder, ni_norm *norm) {
    norm->weight = ni_params_value(&builder->model->params, norm->param);
    norm->grad = ni_params_grad(&builder->model->params, norm->param);
}

/* They lie side by side, and all of a micro-batch's are cleared at once. */
ni_amaxes ni_amax_words(const ni_builder *builder, ni_wanted_amaxes wants) {
    uint32_t *words = wants.plain || wants.turned ? ni_arena_take(&builder->model->maxima, 2 * sizeof *words) : NULL;
    return (ni_amaxes){wants.plain ? words : NULL, wants.turned && words ? words + 1 : NULL};
}

size_t ni_act_bytes(const ni_builder *builder, int64_t cols) {
    return (size_t)(builder->model->max_rows * cols) * nb_dtype_size(builder->model->be->act);
}

size_t ni_real_bytes(const ni_builder *builder, int64_t cols) {
    return (size_t)(builder->model->max_rows * cols) * nb_dtype_size(builder->model->be->real);
}

/* ---- linear groups ---- */

static nb_status remember(nb_model *model, ni_linear_group *group, nb_error *err) {
    if (model->group_count == model->group_capacity) {
        int32_t capacity = model->group_capacity ? 2 * model->group_capacity : 64;
        ni_linear_group **groups = realloc(model->groups, (size_t)capacity * sizeof *groups);
        if (!groups)
            return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d groups of linear layers", capacity);
        model->groups = groups;
        model->group_capacity = capacity;
    }
    model->groups[model->group_count++] = group;
    model->group_bytes += group->bytes;
    if (group->scratch_bytes > model->scratch.size)
        model->scratch.size = group->scratch_bytes;
    return NB_OK;
}

nb_status ni_build_group(ni_builder *builder, const char *input, const ni_projection *projections, int32_t count,
                         int64_t max_rows, ni_linear_group **out, nb_error *err) {
    nb_model *model = builder->model;
    char input_name[NB_NAME_SIZE], names[NI_GROUP_LAYERS][NB_NAME_SIZE];
    nb_plan plans[NI_GROUP_LAYERS];
    ni_linear_spec layers[NI_GROUP_LAYERS];
    ni_module_name(builder, input, input_name);
    for (int32_t i = 0; i < count; i++) {
        int32_t param = projections[i].param;
        ni_module_name(builder, projections[i].inner, names[i]);
        NB_TRY(nb_recipe_plan(builder->recipe, names[i], builder->block, model->config.layers, &plans[i], err));
        layers[i] = (ni_linear_spec){.name = names[i],
                                     .out = model->params.list[param].rows,
                                     .plan = &plans[i],
                                     .master = ni_params_value(&model->params, param),
                                     .grad = ni_params_grad(&model->params, param),
                                     .narrow = model->params.masters[param],
                                     .room = model->params.narrow ? &model->params.room : NULL};
    }
    const ni_group_spec spec = {.input = input_name,
                                .in = model->params.list[projections[0].param].cols,
                                .max_rows = max_rows,
                                .training = model->training,
                                /* where readings of X cost more than memory does */
                                .early_wgrad_x = model->be->wants_amax && model->recompute == NB_RECOMPUTE_NONE,
                                .lays_early = builder->block >= 0, /* build.c */
                                .hands_codes = model->hands_codes,
                                .layers = layers,
                                .count = count};
    NB_TRY(ni_linear_group_create(model->be, &spec, out, err));
    nb_status status = remember(model, *out, err);
    if (status != NB_OK)
        ni_linear_group_free(*out);
    for (int32_t i = 0; status == NB_OK && i < count; i++)
        model->readers[projections[i].param] = (ni_weight_reader){*out, i};
    return status;
}
