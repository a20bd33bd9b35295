/* build.c: puts a model together: parameters, then linear groups, then the memory of a pass. */
#include "backend/table.h"
#include "model/decoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

void nb_module_name(const nb_builder *builder, const char *inner, char name[NB_NAME_SIZE]) {
    if (builder->block < 0)
        snprintf(name, NB_NAME_SIZE, "%s", inner);
    else
        snprintf(name, NB_NAME_SIZE, "layers.%d.%s", builder->block, inner);
}

nb_status nb_declare(nb_builder *builder, const char *inner, const char *suffix, int64_t rows, int64_t cols,
                     int32_t *index, nb_error *err) {
    char module[NB_NAME_SIZE], name[NB_NAME_SIZE + 32];
    nb_module_name(builder, inner, module);
    snprintf(name, sizeof name, "model.%s.%s", module, suffix);
    return nb_params_declare(&builder->model->params, name, rows, cols, index, err);
}

nb_status nb_declare_norm(nb_builder *builder, const char *inner, int64_t dim, nb_norm *norm, nb_error *err) {
    norm->dim = dim;
    norm->eps = builder->model->config.norm_eps;
    return nb_declare(builder, inner, "weight", dim, 0, &norm->param, err);
}

void nb_build_norm(const nb_builder *builder, nb_norm *norm) {
    norm->weight = nb_params_value(&builder->model->params, norm->param);
    norm->grad = nb_params_grad(&builder->model->params, norm->param);
}

uint32_t *nb_amax_word(const nb_linear_group *group, bool gradients, nb_arena *arena) {
    return nb_linear_group_wants_amax(group, gradients) ? nb_arena_take(arena, sizeof(uint32_t)) : NULL;
}

size_t nb_act_bytes(const nb_builder *builder, int64_t cols) {
    return (size_t)(builder->model->max_rows * cols) * nb_dtype_size(builder->model->be->act);
}

size_t nb_real_bytes(const nb_builder *builder, int64_t cols) {
    return (size_t)(builder->model->max_rows * cols) * nb_dtype_size(builder->model->be->real);
}

/* ---- linear groups ---- */

static nb_status remember(nb_model *model, nb_linear_group *group, nb_error *err) {
    if (model->group_count == model->group_capacity) {
        int32_t capacity = model->group_capacity ? 2 * model->group_capacity : 64;
        nb_linear_group **groups = realloc(model->groups, (size_t)capacity * sizeof *groups);
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

nb_status nb_build_group(nb_builder *builder, const char *input, const nb_projection *projections, int32_t count,
                         int64_t max_rows, nb_linear_group **out, nb_error *err) {
    nb_model *model = builder->model;
    char input_name[NB_NAME_SIZE], names[NB_GROUP_LAYERS][NB_NAME_SIZE];
    nb_plan plans[NB_GROUP_LAYERS];
    nb_linear_spec layers[NB_GROUP_LAYERS];
    nb_module_name(builder, input, input_name);
    for (int32_t i = 0; i < count; i++) {
        int32_t param = projections[i].param;
        nb_module_name(builder, projections[i].inner, names[i]);
        NB_TRY(nb_recipe_plan(builder->recipe, names[i], builder->block, model->config.layers, &plans[i], err));
        layers[i] = (nb_linear_spec){.name = names[i],
                                     .out = model->params.list[param].rows,
                                     .plan = &plans[i],
                                     .master = nb_params_value(&model->params, param),
                                     .grad = nb_params_grad(&model->params, param),
                                     .narrow = model->params.masters[param],
                                     .room = model->params.narrow ? &model->params.room : NULL};
    }
    const nb_group_spec spec = {.input = input_name,
                                .in = model->params.list[projections[0].param].cols,
                                .max_rows = max_rows,
                                .training = model->training,
                                .layers = layers,
                                .count = count};
    NB_TRY(nb_linear_group_create(model->be, &spec, out, err));
    nb_status status = remember(model, *out, err);
    if (status != NB_OK)
        nb_linear_group_free(*out);
    return status;
}

/* ---- the parts, in order ---- */

static nb_status create_branches(nb_model *model, nb_error *err) {
    int32_t count = 2 * model->config.layers;
    model->branches = calloc((size_t)count, sizeof *model->branches);
    model->stream = calloc((size_t)count + 1, sizeof *model->stream);
    if (!model->branches || !model->stream)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the parts of a model of %d blocks", model->config.layers);
    for (int32_t i = 0; i < count; i++) {
        nb_branch *branch = &model->branches[i];
        branch->kind = i % 2 == 0 ? model->traits->mixer_kind : &nb_mlp_kind;
        branch->layer = branch->kind->create(&model->config);
        if (!branch->layer)
            return nb_fail(err, NB_NO_MEMORY, "no memory for the parts of a model of %d blocks", model->config.layers);
    }
    return NB_OK;
}

static nb_status declare(nb_builder *builder, nb_error *err) {
    nb_model *model = builder->model;
    const nb_family_traits *traits = model->traits;
    const nb_model_config *c = &model->config;
    NB_TRY(nb_declare(builder, traits->embedding, "weight", c->vocab, c->hidden, &model->embedding, err));
    model->params.list[model->embedding].embedding = true;
    for (int32_t i = 0; i < 2 * c->layers; i++) {
        nb_branch *branch = &model->branches[i];
        builder->block = i / 2;
        const char *norm = i % 2 == 0 ? traits->mixer_norm : traits->mlp_norm;
        nb_params_begin_section(&model->params);
        NB_TRY(nb_declare_norm(builder, norm, c->hidden, &branch->norm, err));
        NB_TRY(branch->kind->declare(branch->layer, builder, err));
    }
    builder->block = -1;
    return nb_head_declare(builder, err);
}

static nb_status build(nb_builder *builder, nb_error *err) {
    nb_model *model = builder->model;
    for (int32_t i = 0; i < 2 * model->config.layers; i++) {
        nb_branch *branch = &model->branches[i];
        builder->block = i / 2;
        nb_build_norm(builder, &branch->norm);
        NB_TRY(branch->kind->build(branch->layer, builder, err));
    }
    builder->block = -1;
    return nb_head_build(builder, err);
}

/* Runs once to measure and once to place. Without a backward pass nothing needs to be saved: all layers share one set
 * of buffers, and the residual stream goes to and fro between two. */
static void place(nb_builder *builder) {
    nb_model *model = builder->model;
    nb_arena *saved = &model->saved, *working = &model->working;
    int32_t branches = 2 * model->config.layers;
    size_t hidden = nb_act_bytes(builder, model->config.hidden);
    saved->used = working->used = 0;
    for (int32_t i = 0; i <= branches; i++)
        model->stream[i] = model->training || i < 2 ? nb_arena_take(saved, hidden) : model->stream[i % 2];
    model->branch_buffer[0] = nb_arena_take(working, hidden);
    model->branch_buffer[1] = model->training ? nb_arena_take(working, hidden) : NULL;
    model->dstream = model->training ? nb_arena_take(working, hidden) : NULL;
    model->inputs = nb_arena_take(working, NB_INPUTS * (size_t)model->max_rows * sizeof(int32_t));
    model->clock = nb_arena_take(working, 2 * sizeof *model->clock);
    model->losses = nb_arena_take(working, NB_LOSS_SLOTS * sizeof *model->losses);
    bool asks = false;
    for (int32_t i = 0; model->training && i < branches; i++)
        asks |= model->branches[i].kind->wants_amax(model->branches[i].layer, true);
    model->dy_amax = asks ? nb_arena_take(working, sizeof *model->dy_amax) : NULL;
    size_t shared_saved = saved->used, shared_working = working->used;
    for (int32_t i = 0; i < branches; i++) {
        nb_branch *branch = &model->branches[i];
        builder->block = i / 2;
        saved->used = model->training ? saved->used : shared_saved;
        working->used = shared_working;
        branch->normed = nb_arena_take(saved, hidden);
        branch->rstd = nb_arena_take(saved, nb_real_bytes(builder, 1));
        branch->amax = !model->traits->post_norm && branch->kind->wants_amax(branch->layer, false)
                           ? nb_arena_take(saved, sizeof *branch->amax)
                           : NULL;
        branch->kind->place(branch->layer, builder, saved, working);
    }
    builder->block = -1;
    working->used = shared_working;
    nb_head_place(builder, working);
}

static nb_status reserve(nb_model *model, void **memory, size_t bytes, const char *what, nb_error *err) {
    nb_status status = nb_backend_take(model->be, bytes, what, memory, err);
    if (status != NB_OK)
        return nb_fail(err, status,
                       "no memory for %s: %zu MiB for %lld x %lld tokens; a smaller micro-batch needs less", what,
                       bytes >> 20, (long long)model->max_batch, (long long)model->max_seq);
    return NB_OK;
}

nb_status nb_model_assemble(nb_model *model, const nb_recipe *recipe, nb_error *err) {
    nb_builder builder = {.model = model, .recipe = recipe, .block = -1};
    model->params.be = model->be;
    NB_TRY(create_branches(model, err));
    NB_TRY(declare(&builder, err));
    NB_TRY(nb_params_allocate(&model->params, model->training ? recipe : NULL,
                              model->config.tied ? model->embedding : -1, err));
    NB_TRY(build(&builder, err));
    place(&builder);
    model->saved_bytes = model->saved.peak;
    model->working_bytes = model->working.peak;
    void *saved, *working, *scratch;
    NB_TRY(reserve(model, &saved, model->saved_bytes, "saved activations", err));
    model->saved.memory = saved;
    NB_TRY(reserve(model, &working, model->working_bytes, "working activations", err));
    model->working.memory = working;
    NB_TRY(reserve(model, &scratch, model->scratch.size, "operands of the linear layers", err));
    model->scratch.memory = scratch;
    place(&builder);
    return NB_OK;
}
