/* build.c: puts a model together from its parts, in order: parameters, then linear groups, then the memory of a pass.
 */
#include "backend/table.h"
#include "model/decoder.h"

#include <stdlib.h>

static nb_status create_branches(nb_model *model, nb_error *err) {
    int32_t count = 2 * model->config.layers;
    model->branches = calloc((size_t)count, sizeof *model->branches);
    model->stream = calloc((size_t)count + 1, sizeof *model->stream);
    if (!model->branches || !model->stream)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the parts of a model of %d blocks", model->config.layers);
    for (int32_t i = 0; i < count; i++) {
        ni_branch *branch = &model->branches[i];
        branch->kind = i % 2 == 0 ? model->traits->mixer_kind : &ni_mlp_kind;
        branch->layer = branch->kind->create(&model->config);
        if (!branch->layer)
            return nb_fail(err, NB_NO_MEMORY, "no memory for the parts of a model of %d blocks", model->config.layers);
    }
    return NB_OK;
}

static nb_status declare(ni_builder *builder, nb_error *err) {
    nb_model *model = builder->model;
    const ni_family_traits *traits = model->traits;
    const nb_model_config *c = &model->config;
    NB_TRY(ni_declare(builder, traits->embedding, "weight", c->vocab, c->hidden, &model->embedding, err));
    model->params.list[model->embedding].embedding = true;
    if (traits->sphere)
        model->params.list[model->embedding].unit = NB_UNIT_ROWS;
    for (int32_t i = 0; i < 2 * c->layers; i++) {
        ni_branch *branch = &model->branches[i];
        builder->block = i / 2;
        const char *norm = i % 2 == 0 ? traits->mixer_norm : traits->mlp_norm;
        ni_params_begin_section(&model->params);
        NB_TRY(traits->sphere ? ni_sphere_declare(builder, branch, err)
                              : ni_declare_norm(builder, norm, c->hidden, &branch->norm, err));
        NB_TRY(branch->kind->declare(branch->layer, builder, err));
    }
    builder->block = -1;
    return ni_head_declare(builder, err);
}

static nb_status build(ni_builder *builder, nb_error *err) {
    nb_model *model = builder->model;
    for (int32_t i = 0; i < 2 * model->config.layers; i++) {
        ni_branch *branch = &model->branches[i];
        builder->block = i / 2;
        if (model->traits->sphere)
            ni_gain_build(builder, &branch->alpha);
        else
            ni_build_norm(builder, &branch->norm);
        branch->first_group = model->group_count;
        NB_TRY(branch->kind->build(branch->layer, builder, err));
        branch->groups = model->group_count - branch->first_group;
    }
    builder->block = -1;
    return ni_head_build(builder, err);
}

static void place_stream(ni_builder *builder) {
    nb_model *model = builder->model;
    const int32_t branches = 2 * model->config.layers;
    const size_t hidden = ni_act_bytes(builder, model->config.hidden);
    const bool between = model->recompute == NB_RECOMPUTE_BLOCK; /* blocks alone; inside of them one for all */
    for (int32_t i = 0; i <= branches; i++) {
        const bool own = model->training ? !between || i % 2 == 0 || i == 1 : i < 2;
        model->stream[i] = own ? ni_arena_take(&model->saved, hidden) : model->stream[i % 2];
    }
}

static void place_norm(ni_builder *builder, ni_branch *branch) {
    nb_model *model = builder->model;
    branch->normed = ni_arena_take(&model->saved, ni_act_bytes(builder, model->config.hidden));
    branch->rstd = ni_arena_take(&model->saved, ni_real_bytes(builder, 1));
    if (!model->traits->post_norm && !model->traits->sphere)
        branch->amaxes = ni_amax_words(builder, branch->kind->wants(branch->layer, false));
}

static void place_layer(ni_builder *builder, int32_t i, size_t work) {
    nb_model *model = builder->model;
    ni_branch *branch = &model->branches[i];
    builder->block = i / 2;
    model->working.used = work;
    branch->kind->place(branch->layer, builder, &model->saved, &model->working);
}

/* MLPs that are made again lie over each other; their norms do not. */
static void place_mlps_together(ni_builder *builder, size_t work) {
    ni_arena *saved = &builder->model->saved;
    const size_t begin = saved->used;
    size_t end = begin;
    for (int32_t i = 1; i < 2 * builder->model->config.layers; i += 2) {
        saved->used = begin;
        place_layer(builder, i, work);
        end = saved->used > end ? saved->used : end;
    }
    saved->used = end;
}

/* Blocks that are made again lie over each other; without a backward pass every branch does. */
static void place_branches(ni_builder *builder) {
    nb_model *model = builder->model;
    const size_t work = model->working.used;
    const bool mlps_together = model->recompute == NB_RECOMPUTE_MLP, blocks = model->recompute == NB_RECOMPUTE_BLOCK;
    if (mlps_together)
        place_mlps_together(builder, work);
    const size_t begin = model->saved.used;
    for (int32_t i = 0; i < 2 * model->config.layers; i++) {
        if (!model->training || (blocks && i % 2 == 0))
            model->saved.used = begin;
        place_norm(builder, &model->branches[i]);
        if (!mlps_together || i % 2 == 0)
            place_layer(builder, i, work);
    }
    builder->block = -1;
    model->working.used = work;
}

/* Where quantizers ask for them: a reading of each weight less in a step. */
static void place_weight_maxima(nb_model *model, ni_arena *working) {
    const size_t bytes = (size_t)model->params.count * sizeof *model->weight_maxima;
    const bool asked =
        model->training && model->be->wants_amax && !model->traits->sphere; /* which moves masters again */
    model->weight_maxima = asked ? ni_arena_take(working, bytes) : NULL;
    for (int32_t i = 0; i < model->params.count; i++) {
        const ni_weight_reader *r = &model->readers[i];
        if (r->group && r->group->layers[r->layer].master)
            r->group->layers[r->layer].maximum = model->weight_maxima ? model->weight_maxima + i : NULL;
    }
}

/* W of dgrad that the groups of a branch make at once, right before its backward pass: the largest branch's room is
 * that of all. Measuring, or laid. */
static size_t lay_early_weights(const nb_model *model, const ni_branch *branch, char *room) {
    size_t bytes = 0;
    for (int32_t i = 0; i < branch->groups; i++) {
        ni_linear_group *group = model->groups[branch->first_group + i];
        if (room)
            ni_linear_group_lay_early(group, room + bytes);
        bytes += group->early_bytes;
    }
    return bytes;
}

static void place_early_weights(nb_model *model, ni_arena *working) {
    const int32_t branches = 2 * model->config.layers;
    size_t most = 0;
    for (int32_t i = 0; i < branches; i++) {
        const size_t bytes = lay_early_weights(model, &model->branches[i], NULL);
        most = bytes > most ? bytes : most;
    }
    char *const room = most ? ni_arena_take(working, most) : NULL;
    for (int32_t i = 0; room && i < branches; i++)
        lay_early_weights(model, &model->branches[i], room);
}

/* Runs once to measure and once to place. Without a backward pass nothing needs to be saved: all layers share one set
 * of buffers, and the residual stream goes to and fro between two. */
static void place(ni_builder *builder) {
    nb_model *model = builder->model;
    ni_arena *saved = &model->saved, *working = &model->working;
    int32_t branches = 2 * model->config.layers;
    size_t hidden = ni_act_bytes(builder, model->config.hidden);
    saved->used = working->used = model->maxima.used = 0;
    model->maxima.memory = ni_arena_take(working, model->maxima.peak); /* measured with the others */
    place_stream(builder);
    model->branch_buffer[0] = ni_arena_take(working, hidden);
    model->branch_buffer[1] = model->training ? ni_arena_take(working, hidden) : NULL;
    model->dstream = model->training ? ni_arena_take(working, hidden) : NULL;
    model->inputs = ni_arena_take(working, NI_INPUTS * (size_t)model->max_rows * sizeof(int32_t));
    model->clock = ni_arena_take(working, 2 * sizeof *model->clock);
    model->losses = ni_arena_take(working, NI_LOSS_SLOTS * sizeof *model->losses);
    place_weight_maxima(model, working);
    place_early_weights(model, working);
    ni_sphere_place(builder, working);
    for (int32_t i = 0; model->training && i < branches; i++) {
        ni_branch *branch = &model->branches[i];
        ni_wanted_amaxes wants = branch->kind->wants(branch->layer, true);
        wants.turned &= !model->traits->sphere; /* slerp does not look at them */
        branch->dy_amaxes = ni_amax_words(builder, wants);
    }
    place_branches(builder);
    ni_head_place(builder, working);
}

static nb_status reserve(nb_model *model, void **memory, size_t bytes, const char *what, nb_error *err) {
    nb_status status = ni_backend_take(model->be, bytes, what, memory, err);
    if (status != NB_OK)
        return nb_fail(err, status, "no memory for %s: %zu MiB for %lld x %lld tokens", what, bytes >> 20,
                       (long long)model->max_batch, (long long)model->max_seq);
    return NB_OK;
}

nb_status ni_model_assemble(nb_model *model, const nb_recipe *recipe, nb_error *err) {
    ni_builder builder = {.model = model, .recipe = recipe, .block = -1};
    model->params.be = model->be;
    NB_TRY(create_branches(model, err));
    NB_TRY(declare(&builder, err));
    model->readers = calloc((size_t)model->params.count, sizeof *model->readers);
    if (!model->readers)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", model->params.count);
    NB_TRY(ni_params_allocate(&model->params, model->training ? recipe : NULL,
                              model->config.tied ? model->embedding : -1, err));
    NB_TRY(build(&builder, err));
    place(&builder);
    model->saved_bytes = model->saved.peak;
    model->working_bytes = model->working.peak + model->maxima.peak;
    void *saved, *working, *scratch;
    NB_TRY(reserve(model, &saved, model->saved_bytes, "saved activations", err));
    model->saved.memory = saved;
    NB_TRY(reserve(model, &working, model->working_bytes, "working activations", err));
    model->working.memory = working;
    NB_TRY(reserve(model, &scratch, model->scratch.size, "operands of the linear layers", err));
    model->scratch.memory = scratch;
    place(&builder);
    return ni_sphere_upload(model, err);
}
