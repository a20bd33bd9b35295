/* model.c: the public face of a model: made, fed one micro-batch at a time, freed. */
#include "backend/table.h"
#include "model/decoder.h"
#include "model/state.h"

#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

static nb_status check_request(const nb_model_config *config, int64_t batch, int64_t seq, nb_error *err) {
    if (!ni_family_find(config->family))
        return nb_fail(err, NB_UNSUPPORTED, "model %s: family %s cannot be built", config->name,
                       nb_family_name(config->family));
    if (batch < 1 || seq < 1 || batch > INT32_MAX / seq)
        return nb_fail(err, NB_BAD_CONFIG, "micro-batch of %lld x %lld tokens; expected at least 1 x 1 and at most %d",
                       (long long)batch, (long long)seq, INT32_MAX);
    if (seq > config->max_seq)
        return nb_fail(err, NB_BAD_CONFIG, "sequences of %lld tokens; model %s has max_seq %d", (long long)seq,
                       config->name, config->max_seq);
    return NB_OK;
}

nb_status nb_model_create(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe, int64_t batch,
                          int64_t seq, bool training, nb_model **out, nb_error *err) {
    const nb_model_options options = {.batch = batch, .seq = seq, .training = training};
    return nb_model_create_with(be, config, recipe, &options, out, err);
}

nb_status nb_model_create_with(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe,
                               const nb_model_options *options, nb_model **out, nb_error *err) {
    return ni_model_create(be, config, recipe, options, &(ni_model_shared){0}, out, err);
}

nb_status ni_model_create(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe,
                          const nb_model_options *options, const ni_model_shared *shared, nb_model **out,
                          nb_error *err) {
    const int64_t batch = options->batch, seq = options->seq;
    NB_TRY(nb_model_config_check(config, err));
    NB_TRY(check_request(config, batch, seq, err));
    nb_model *model = calloc(1, sizeof *model);
    if (!model)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a model");
    model->be = be;
    model->config = *config;
    model->traits = ni_family_find(config->family);
    model->training = options->training;
    model->params.hands_on = shared->hands_on;
    model->params.parted = shared->parted;
    model->hands_codes = shared->hands_codes;
    model->recompute = options->training ? options->recompute : NB_RECOMPUTE_NONE;
    model->head.asked_rows = options->head_rows;
    model->max_batch = batch;
    model->max_seq = seq;
    model->max_rows = batch * seq;
    model->doc_end = calloc((size_t)model->max_rows, sizeof *model->doc_end);
    nb_status status =
        model->doc_end ? ni_model_assemble(model, recipe, err) : nb_fail(err, NB_NO_MEMORY, "no memory for a model");
    if (status != NB_OK) {
        nb_model_free(model);
        return status;
    }
    *out = model;
    return NB_OK;
}

void nb_model_free(nb_model *model) {
    if (!model)
        return;
    nb_backend *be = model->be;
    void *const memory[] = {model->saved.memory, model->working.memory, model->scratch.memory, model->kept};
    for (int32_t i = 0; i < model->group_count; i++)
        ni_linear_group_free(model->groups[i]);
    for (int32_t i = 0; model->branches && i < 2 * model->config.layers; i++)
        free(model->branches[i].layer);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            be->ops->release(be, memory[i]);
    ni_params_release(&model->params);
    free(model->doc_end);
    free(model->branches);
    free(model->stream);
    free(model->groups);
    free(model->readers);
    free(model);
}

/* ---- one micro-batch ---- */

/* Positions of a document lie together, and each knows the first of them. Filled on the host, where they still are,
 * while a GPU waits for it: no division a token. */
static nb_status find_documents(nb_model *model, const nb_batch *batch, nb_error *err) {
    const int64_t seq = batch->seq;
    model->documents = 0;
    for (int64_t s = 0; s < batch->batch; s++) {
        const int32_t *start = batch->doc_start + s * seq;
        int32_t *end = model->doc_end + s * seq;
        for (int64_t i = 0; i < seq; i++)
            if (start[i] != i && (i == 0 || start[i] != start[i - 1]))
                return nb_fail(
                    err, NB_BAD_USAGE,
                    "doc_start %d at position %lld of sequence %lld; expected %lld, where a document starts, "
                    "or that of the position before",
                    start[i], (long long)i, (long long)s, (long long)i);
        for (int64_t i = seq; i-- > 0;) {
            const bool last = i == seq - 1 || start[i + 1] == i + 1;
            end[i] = last ? (int32_t)i + 1 : end[i + 1];
            model->documents += last;
        }
    }
    return NB_OK;
}

static nb_status check_batch(nb_model *model, const nb_batch *batch, bool targets, int64_t *scored, nb_error *err) {
    if (batch->batch < 1 || batch->seq < 1 || batch->batch > model->max_rows / batch->seq)
        return nb_fail(err, NB_BAD_USAGE, "micro-batch of %lld x %lld tokens; the model was made for %lld x %lld",
                       (long long)batch->batch, (long long)batch->seq, (long long)model->max_batch,
                       (long long)model->max_seq);
    const int32_t vocab = model->config.vocab;
    *scored = 0;
    for (int64_t i = 0; i < batch->batch * batch->seq; i++) {
        if (batch->tokens[i] < 0 || batch->tokens[i] >= vocab)
            return nb_fail(err, NB_BAD_FILE, "token %d at position %lld of the batch; model %s has a vocabulary of %d",
                           batch->tokens[i], (long long)i, model->config.name, vocab);
        if (targets && batch->targets[i] >= vocab)
            return nb_fail(err, NB_BAD_FILE, "target %d at position %lld of the batch; model %s has a vocabulary of %d",
                           batch->targets[i], (long long)i, model->config.name, vocab);
        *scored += targets && batch->targets[i] >= 0;
    }
    return find_documents(model, batch, err);
}

ni_run ni_model_begin(nb_model *model, const nb_batch *batch, const nb_pass *pass, bool targets, bool training) {
    nb_backend *be = model->be;
    const int64_t rows = batch->batch * batch->seq;
    const int32_t *from[] = {batch->tokens, targets ? batch->targets : batch->tokens, batch->positions,
                             batch->doc_start, model->doc_end};
    int32_t *to[NI_INPUTS];
    for (int i = 0; i < NI_INPUTS; i++) {
        to[i] = model->inputs + i * model->max_rows;
        be->ops->upload(be, to[i], from[i], (size_t)rows * sizeof(int32_t));
    }
    const uint32_t clock[2] = {pass->step, pass->micro_batch};
    be->ops->upload(be, model->clock, clock, sizeof clock);
    model->pass = *pass;
    model->pass.clock = model->clock;
    model->scratch.used = model->scratch.kept = 0;
    ni_run run = {.be = be,
                  .pass = &model->pass,
                  .scratch = &model->scratch,
                  .batch = batch->batch,
                  .seq = batch->seq,
                  .rows = rows,
                  .tokens = to[0],
                  .targets = to[1],
                  .positions = to[2],
                  .doc_start = to[3],
                  .doc_end = to[4],
                  .documents = model->documents,
                  .training = training,
                  .kept = -1};
    return run;
}

static void *last_of_stream(const nb_model *model) {
    return model->stream[2 * model->config.layers];
}

double *ni_model_loss_slots(nb_model *model) {
    return model->losses;
}

nb_status ni_model_fetch_losses(nb_model *model, int64_t count, double *sums, nb_error *err) {
    model->be->ops->download(model->be, sums, model->losses, (size_t)count * sizeof *sums);
    return model->be->ops->synchronize(model->be, err);
}

nb_status ni_model_queue_loss(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *sum, int64_t *scored,
                              nb_error *err) {
    NB_TRY(check_batch(model, batch, true, scored, err));
    ni_run run = ni_model_begin(model, batch, pass, true, false);
    NB_TRY(ni_decoder_forward(model, &run, err));
    return ni_head_loss(model, &run, last_of_stream(model), *scored, NULL, sum, err);
}

static nb_status mechanisms_after_step(nb_model *model, const nb_pass *pass, nb_error *err) {
    model->params.room.holds = NULL; /* the masters moved */
    for (int32_t i = 0; i < model->group_count; i++)
        NB_TRY(ni_linear_group_after_step(model->groups[i], pass, &model->scratch, err));
    return NB_OK;
}

nb_status ni_model_observe(nb_model *model, const nb_batch *batch, const nb_pass *pass, nb_error *err) {
    int64_t scored;
    NB_TRY(check_batch(model, batch, true, &scored, err));
    ni_run run = ni_model_begin(model, batch, pass, true, true);
    NB_TRY(ni_decoder_forward(model, &run, err));
    NB_TRY(ni_head_loss(model, &run, last_of_stream(model), scored, NULL, model->losses, err));
    return mechanisms_after_step(model, &model->pass, err);
}

/* Gradients are narrow, or those of this batch alone (`fresh`), or what there was and those of this batch. Linear
 * layers write theirs first and the head's weight is among them; only what is scattered or added up is zeroed. */
static void begin_gradients(nb_model *model, bool fresh, int64_t scored) {
    ni_params *params = &model->params;
    if (params->window)
        ni_params_begin_backward(params, scored > 0);
    else if (!fresh)
        return;
    else if (scored == 0) /* no backward pass follows */
        ni_param_array_zero(&params->grads);
    if (scored == 0)
        return;
    if (!params->window)
        ni_params_clear_sums(params);
    for (int32_t i = 0; i < model->group_count; i++)
        ni_linear_group_begin_gradients(model->groups[i]);
}

static nb_status queue_loss_and_grads(nb_model *model, const nb_batch *batch, const nb_pass *pass, bool fresh,
                                      double *sum, int64_t *scored, nb_error *err) {
    if (!model->training)
        return nb_fail(err, NB_BAD_USAGE, "model %s was made without gradients", model->config.name);
    NB_TRY(check_batch(model, batch, true, scored, err));
    ni_run run = ni_model_begin(model, batch, pass, true, true);
    begin_gradients(model, fresh, *scored);
    NB_TRY(ni_decoder_forward(model, &run, err));
    NB_TRY(ni_head_loss(model, &run, last_of_stream(model), *scored, model->dstream, sum, err));
    if (*scored > 0)
        return ni_decoder_backward(model, &run, err);
    if (model->params.hands_on)
        ni_params_pack_before(&model->params, model->head.norm.param);
    return NB_OK;
}

nb_status ni_model_queue_loss_and_grads(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *sum,
                                        int64_t *scored, nb_error *err) {
    return queue_loss_and_grads(model, batch, pass, true, sum, scored, err);
}

static nb_status fetch_loss(nb_model *model, int64_t scored, double *loss, nb_error *err) {
    double sum;
    NB_TRY(ni_model_fetch_losses(model, 1, &sum, err));
    *loss = ni_mean_loss(sum, scored);
    return NB_OK;
}

nb_status nb_model_loss(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *loss, nb_error *err) {
    int64_t scored;
    NB_TRY(ni_model_queue_loss(model, batch, pass, model->losses, &scored, err));
    return fetch_loss(model, scored, loss, err);
}

nb_status nb_model_loss_and_grads(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *loss,
                                  nb_error *err) {
    int64_t scored;
    NB_TRY(queue_loss_and_grads(model, batch, pass, false, model->losses, &scored, err));
    return fetch_loss(model, scored, loss, err);
}

nb_status nb_model_logits(nb_model *model, const nb_batch *batch, const nb_pass *pass, float *logits, nb_error *err) {
    int64_t scored;
    NB_TRY(check_batch(model, batch, false, &scored, err));
    ni_run run = ni_model_begin(model, batch, pass, false, false);
    NB_TRY(ni_decoder_forward(model, &run, err));
    return ni_head_logits(model, &run, logits, err);
}

/* ---- parameters ---- */

const nb_model_config *nb_model_get_config(const nb_model *model) {
    return &model->config;
}

int32_t nb_model_param_count(const nb_model *model) {
    return model->params.count;
}

const nb_param *nb_model_param(const nb_model *model, int32_t index) {
    return &model->params.list[index];
}

int64_t nb_model_param_elements(const nb_model *model) {
    return model->params.elements;
}

void *nb_model_params(nb_model *model) {
    return model->params.narrow || model->params.parted ? NULL : model->params.values;
}

uint32_t *ni_model_maximum(nb_model *model, int32_t param) {
    const ni_weight_reader *r = &model->readers[param];
    ni_linear *const layer = r->group ? &r->group->layers[r->layer] : NULL;
    if (!model->weight_maxima || (layer && !layer->maximum))
        return NULL;
    if (layer)
        layer->maximum_found = true;
    return model->weight_maxima + param; /* others' too: words side by side are cleared at once */
}

void *ni_model_numbers(nb_model *model, int32_t param) {
    const ni_weight_reader *r = &model->readers[param];
    ni_linear *const layer = r->group ? &r->group->layers[r->layer] : NULL;
    if (!layer || !layer->master || !layer->weight || layer->weight_lies || model->traits->sphere)
        return NULL;
    layer->weight_found = true;
    return layer->weight;
}

ni_scaled ni_model_master(const nb_model *model, int32_t index) {
    return model->params.masters[index];
}

void *ni_model_param_open(nb_model *model, int32_t index) {
    return ni_params_open(&model->params, index);
}

void ni_model_param_close(nb_model *model, int32_t index) {
    ni_params_close(&model->params, index);
}

void ni_model_param_read(nb_model *model, int32_t index, void *host) {
    const nb_param *p = &model->params.list[index];
    size_t bytes = (size_t)(p->rows * p->cols) * nb_dtype_size(model->be->real);
    model->be->ops->download(model->be, host, ni_params_open(&model->params, index), bytes);
}

void *nb_model_grads(nb_model *model) {
    return model->params.window ? NULL : model->params.grads.data;
}

ni_param_array *ni_model_gradients(nb_model *model) {
    return &model->params.grads;
}

void ni_model_watch_gradients(nb_model *model, ni_gradient_watch *watch, void *self) {
    model->params.final = watch;
    model->params.final_self = self;
}

void ni_model_hand_gradients_to(nb_model *model, ni_gradient_taker *taker, void *self) {
    model->params.taker = taker;
    model->params.taker_self = self;
}

ni_master_bytes ni_model_master_bytes(const nb_model *model) {
    const ni_params *p = &model->params;
    return (ni_master_bytes){p->values_bytes + p->common_bytes + p->own_bytes, p->narrow_bytes, p->room_bytes};
}

size_t ni_model_gradient_window(const nb_model *model) {
    return model->params.window_bytes;
}

void nb_model_params_changed(nb_model *model) {
    for (int32_t i = 0; i < model->group_count; i++)
        ni_linear_group_changed(model->groups[i]);
}

nb_status nb_model_after_step(nb_model *model, const nb_pass *pass, nb_error *err) {
    ni_sphere_project(model);
    return mechanisms_after_step(model, pass, err);
}
