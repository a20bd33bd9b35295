/* inference.c: a checkpoint's model, for evaluation and generation. */
#include "backend/table.h"
#include "evaluate.h"
#include "foreign.h"
#include "manifest.h"

#include "files/safetensors.h"
#include "model/hf.h"
#include "model/loss.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the checkpoint holds a tensor of a mechanism's state, at the size that the model wants it; NULL elsewhere. */
static const ni_file_tensor *find_state(const ni_safetensors *file, const nb_state_tensor *state) {
    char name[sizeof state->name + 8];
    snprintf(name, sizeof name, "state/%s", state->name);
    const ni_file_tensor *tensor = ni_safetensors_find(file, name);
    return tensor && tensor->bytes == (size_t)state->elements * nb_dtype_size(state->dtype) ? tensor : NULL;
}

/* Channels, averages and what else mechanisms go by in the forward pass: all of it, or, if the checkpoint lacks a part,
 * nothing; `missing` then says which. */
static nb_status load_state(nb_backend *be, nb_model *model, const ni_safetensors *file, nb_loaded *out,
                            nb_error *err) {
    int32_t count = nb_model_state(model, NULL, 0);
    nb_state_tensor *state = calloc((size_t)count + 1, sizeof *state);
    if (!state)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the state of %s", out->recipe.name);
    nb_model_state(model, state, count);
    for (int32_t i = 0; i < count && !out->missing[0]; i++)
        if (!find_state(file, &state[i]))
            snprintf(out->missing, sizeof out->missing, "%s", state[i].name);
    for (int32_t i = 0; i < count && !out->missing[0]; i++) {
        const ni_file_tensor *tensor = find_state(file, &state[i]);
        if (state[i].on_host)
            memcpy(state[i].data, tensor->data, tensor->bytes);
        else
            be->ops->upload(be, state[i].data, tensor->data, tensor->bytes);
    }
    free(state);
    return out->missing[0] ? NB_OK : nb_model_state_loaded(model, err);
}

static nb_status load_trained_state(nb_backend *be, const char *folder, bool required, nb_loaded *out, nb_error *err) {
    char path[2 * NB_PATH_SIZE];
    ni_safetensors *file;
    if (nb_model_state(out->model, NULL, 0) == 0)
        return NB_OK;
    snprintf(path, sizeof path, "%s/%s", folder, NI_OPTIMIZER_NAME);
    NB_TRY(ni_safetensors_open(path, &file, err));
    nb_status status = load_state(be, out->model, file, out, err);
    ni_safetensors_close(file);
    if (status == NB_OK && required && out->missing[0])
        status = nb_fail(err, NB_BAD_FILE,
                         "%s: state/%s is missing or of another size, and the trained recipe's forward needs it; hint: "
                         "--recipe gives another",
                         path, out->missing);
    return status;
}

static nb_status load(nb_backend *be, const char *folder, const ni_manifest *m, const nb_recipe *recipe, int64_t batch,
                      int64_t seq, nb_loaded *out, nb_error *err) {
    nb_model_config config;
    NB_TRY(ni_manifest_verify(folder, m, err));
    if (recipe)
        out->recipe = *recipe;
    else
        NB_TRY(ni_manifest_recipe(m, folder, &out->recipe, err));
    NB_TRY(ni_hf_config_read(folder, &config, err));
    NB_TRY(nb_model_create(be, &config, &out->recipe, batch ? batch : m->config.micro_batch, seq ? seq : m->config.seq,
                           false, &out->model, err));
    NB_TRY(ni_hf_load(be, out->model, folder, err));
    NB_TRY(load_trained_state(be, folder, recipe == NULL, out, err));
    nb_model_params_changed(out->model);
    return NB_OK;
}

/* The first tensor that mechanisms keep: a folder of another maker holds none of them. */
static void note_missing(nb_loaded *out) {
    nb_state_tensor first;
    if (nb_model_state(out->model, &first, 1) > 0)
        snprintf(out->missing, sizeof out->missing, "%s", first.name);
}

/* Parameters of a folder of another maker. */
static nb_status load_foreign(nb_backend *be, const char *folder, const nb_recipe *recipe, int64_t batch, int64_t seq,
                              nb_loaded *out, nb_error *err) {
    nb_model_config config;
    const nb_run_config *run = &out->info.config;
    NB_TRY(ni_foreign_info(folder, &out->info, err));
    NB_TRY(ni_hf_config_read(folder, &config, err));
    out->recipe = recipe ? *recipe : nb_recipe_bf16();
    NB_TRY(nb_model_create(be, &config, &out->recipe, batch ? batch : run->micro_batch, seq ? seq : run->seq, false,
                           &out->model, err));
    NB_TRY(ni_hf_load(be, out->model, folder, err));
    note_missing(out);
    nb_model_params_changed(out->model);
    return NB_OK;
}

nb_status nb_load_checkpoint(nb_backend *be, const char *folder, const nb_recipe *recipe, int64_t batch, int64_t seq,
                             nb_loaded *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    nb_status status;
    if (ni_is_foreign(folder)) {
        status = load_foreign(be, folder, recipe, batch, seq, out, err);
    } else {
        ni_manifest m;
        NB_TRY(ni_manifest_read(folder, &m, err));
        out->info.step = m.at.step;
        out->info.config = m.config;
        status = load(be, folder, &m, recipe, batch, seq, out, err);
        ni_manifest_free(&m);
    }
    if (status != NB_OK)
        nb_loaded_free(out);
    return status;
}

void nb_loaded_free(nb_loaded *loaded) {
    nb_model_free(loaded->model);
    loaded->model = NULL;
}

/* Channels that nobody chose yet are those of the first batch. */
static nb_status choose_channels(nb_loaded *loaded, const ni_dataset *set, ni_batch_buffer *buffer, const nb_pass *pass,
                                 nb_error *err) {
    if (loaded->first_batch || !strstr(loaded->missing, "hcp."))
        return NB_OK;
    NB_TRY(ni_dataset_fill(set, 0, buffer->view.batch, &buffer->buffers, err));
    NB_TRY(ni_model_observe(loaded->model, &buffer->view, pass, err));
    loaded->first_batch = true;
    return NB_OK;
}

nb_status nb_loaded_evaluate(nb_loaded *loaded, const char *data, int64_t sequences, nb_eval_report *report,
                             nb_error *err) {
    nb_run_config config = loaded->info.config;
    config.eval.sequences = sequences;
    int32_t vocab = nb_model_get_config(loaded->model)->vocab, end_of_text;
    ni_tokenizer *tokenizer = NULL;
    ni_dataset *set = NULL;
    ni_batch_buffer buffer = {0};
    nb_status status = ni_run_tokenizer(&config, vocab, &tokenizer, &end_of_text, err);
    ni_tokenizer_free(tokenizer);
    if (status == NB_OK)
        status = ni_open_validation(&config, data, vocab, end_of_text, &set, err);
    if (status == NB_OK)
        status = ni_batch_buffer_create(config.micro_batch, config.seq, &buffer, err);
    if (status == NB_OK) {
        nb_pass pass = ni_run_pass(&config, &loaded->recipe, loaded->info.step, 0);
        status = choose_channels(loaded, set, &buffer, &pass, err);
        if (status == NB_OK)
            status = ni_evaluate(loaded->model, set, &buffer, &pass, NULL, NULL, report, err);
    }
    ni_batch_buffer_free(&buffer);
    ni_dataset_free(set);
    return status;
}
