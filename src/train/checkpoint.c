/* checkpoint.c: a trainer to a folder and back.
 *
 * A checkpoint is made under a temporary name, synced and renamed, so that a kill or a full disk leaves the old ones
 * whole and no half of the new one. Loading verifies every checksum before it touches the trainer.
 */
#include "checkpoint.h"
#include "manifest.h"

#include "backend/backend.h"
#include "files/folder.h"
#include "files/safetensors.h"
#include "model/hf.h"
#include "recipe/recipe_yaml.h"
#include "run_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_PATH_SIZE (4 * NB_PATH_SIZE)

/* ---- tensors of the optimizer file ---- */

/* One tensor of optimizer.safetensors and where it lives. */
typedef struct slot {
    char name[3 * NB_NAME_SIZE];
    nb_tensor_dtype dtype;
    int32_t rank;
    int64_t shape[2];
    size_t bytes;
    void *data; /* in the backend's memory unless on_host */
    bool on_host;
    char mechanism[16]; /* that keeps it; empty for moments */
    bool anew;          /* loading leaves it as it is */
} slot;

static nb_tensor_dtype file_dtype(nb_dtype type) {
    switch (type) {
    case NB_F32:
        return NB_ST_F32;
    case NB_BF16:
        return NB_ST_BF16;
    case NB_F64:
        return NB_ST_F64;
    case NB_I32:
        return NB_ST_I32;
    case NB_F16:
        return NB_ST_F16;
    case NB_E4M3:
        return NB_ST_F8_E4M3;
    case NB_E5M2:
        return NB_ST_F8_E5M2;
    case NB_U8:
        break;
    }
    return NB_ST_U8;
}

static void add_moment(slot *to, const char *prefix, const nb_param *param, void *moments) {
    snprintf(to->name, sizeof to->name, "%s/%s", prefix, param->name);
    to->dtype = NB_ST_F32;
    to->rank = param->rank;
    to->shape[0] = param->rows;
    to->shape[1] = param->cols;
    to->bytes = (size_t)(param->rows * param->cols) * sizeof(float);
    to->data = (float *)moments + param->offset;
    to->on_host = false;
}

static void add_state(slot *to, const nb_state_tensor *state) {
    const char *name = strrchr(state->name, '/') + 1; /* "hcp.hcp.chosen" of "layers.0.mlp.input/hcp.hcp.chosen" */
    snprintf(to->name, sizeof to->name, "state/%s", state->name);
    snprintf(to->mechanism, sizeof to->mechanism, "%.*s", (int)strcspn(name, "."), name);
    to->dtype = file_dtype(state->dtype);
    to->rank = 1;
    to->shape[0] = state->elements;
    to->shape[1] = 1;
    to->bytes = (size_t)state->elements * nb_dtype_size(state->dtype);
    to->data = state->data;
    to->on_host = state->on_host;
}

/* Moments of every parameter and the state of every mechanism. Free with free(). */
static nb_status list_slots(nb_trainer *t, slot **out, int32_t *count, nb_error *err) {
    int32_t params = nb_model_param_count(t->model), states = nb_model_state(t->model, NULL, 0);
    slot *slots = calloc((size_t)(2 * params + states) + 1, sizeof *slots);
    nb_state_tensor *state = calloc((size_t)states + 1, sizeof *state);
    if (!slots || !state) {
        free(slots);
        free(state);
        return nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory");
    }
    nb_model_state(t->model, state, states);
    for (int32_t i = 0; i < params; i++) {
        add_moment(&slots[2 * i], "exp_avg", nb_model_param(t->model, i), t->optimizer.m);
        add_moment(&slots[2 * i + 1], "exp_avg_sq", nb_model_param(t->model, i), t->optimizer.v);
    }
    for (int32_t i = 0; i < states; i++)
        add_state(&slots[2 * params + i], &state[i]);
    free(state);
    *out = slots;
    *count = 2 * params + states;
    return NB_OK;
}

/* ---- saving ---- */

/* Host copies are made only where the backend's memory is not the host's. */
static nb_status write_slots(nb_trainer *t, const slot *slots, int32_t count, const char *path, nb_error *err) {
    bool same_memory = t->be->ops->alloc == nb_host_alloc;
    nb_file_tensor *tensors = calloc((size_t)count + 1, sizeof *tensors);
    nb_status status = tensors ? NB_OK : nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory");
    for (int32_t i = 0; status == NB_OK && i < count; i++) {
        const slot *s = &slots[i];
        tensors[i] = (nb_file_tensor){.name = s->name,
                                      .dtype = s->dtype,
                                      .rank = s->rank,
                                      .shape = {s->shape[0], s->shape[1]},
                                      .data = s->data,
                                      .bytes = s->bytes};
        if (same_memory || s->on_host)
            continue;
        void *copy = malloc(s->bytes);
        tensors[i].data = copy;
        if (copy)
            t->be->ops->download(t->be, copy, s->data, s->bytes);
        else
            status = nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory for %s", s->name);
    }
    if (status == NB_OK)
        status = nb_safetensors_write(path, tensors, count, NULL, 0, err);
    for (int32_t i = 0; tensors && !same_memory && i < count; i++)
        if (!slots[i].on_host)
            free((void *)tensors[i].data);
    free(tensors);
    return status;
}

char *nb_recipe_to_text(const nb_recipe *recipe) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    nb_recipe_print(recipe, NULL, NB_COMMENTS_NONE, to);
    fclose(to);
    return text;
}

static nb_status fill_folder(nb_trainer *t, const char *folder, nb_error *err) {
    char path[FILE_PATH_SIZE];
    NB_TRY(nb_hf_save(t->be, t->model, folder, NB_ST_F32, t->end_of_text, err));
    if (t->tokenizer)
        NB_TRY(nb_tokenizer_save(t->tokenizer, folder, err));
    slot *slots;
    int32_t count;
    NB_TRY(list_slots(t, &slots, &count, err));
    snprintf(path, sizeof path, "%s/%s", folder, NB_OPTIMIZER_NAME);
    nb_status status = write_slots(t, slots, count, path, err);
    free(slots);
    NB_TRY(status);
    nb_manifest manifest = {.at = t->at,
                            .updates = t->optimizer.updates,
                            .data_fingerprint = nb_dataset_fingerprint(t->train),
                            .config = t->config,
                            .recipe = nb_recipe_to_text(&t->recipe)};
    status = nb_manifest_write(folder, &manifest, err);
    free(manifest.recipe);
    return status;
}

nb_status nb_trainer_save(nb_trainer *t, const char *folder, nb_error *err) {
    nb_folder *made;
    NB_TRY(nb_folder_begin(folder, &made, err));
    nb_status status = fill_folder(t, nb_folder_path(made), err);
    if (status != NB_OK) {
        nb_folder_abandon(made);
        return status;
    }
    return nb_folder_commit(made, true, err);
}

/* ---- loading ---- */

static bool fits(const slot *s, const nb_file_tensor *tensor) {
    return tensor && tensor->dtype == s->dtype && tensor->bytes == s->bytes;
}

/* A run of another recipe may keep other things: a mechanism of which the file lacks a part begins anew as a whole. */
static void mark_what_begins_anew(slot *slots, int32_t count, const nb_safetensors *file) {
    for (int32_t i = 0; i < count; i++) {
        if (!slots[i].mechanism[0] || slots[i].anew || fits(&slots[i], nb_safetensors_find(file, slots[i].name)))
            continue;
        for (int32_t j = 0; j < count; j++)
            slots[j].anew = slots[j].anew || strcmp(slots[j].mechanism, slots[i].mechanism) == 0;
    }
}

static nb_status read_slot(nb_trainer *t, const slot *s, const nb_safetensors *file, const char *path, nb_error *err) {
    const nb_file_tensor *tensor = nb_safetensors_find(file, s->name);
    if (!tensor)
        return nb_fail(err, NB_BAD_FILE, "%s: tensor %s is missing", path, s->name);
    if (!fits(s, tensor))
        return nb_fail(err, NB_BAD_FILE, "%s: tensor %s is %s of %zu bytes; expected %s of %zu", path, s->name,
                       nb_tensor_dtype_name(tensor->dtype), tensor->bytes, nb_tensor_dtype_name(s->dtype), s->bytes);
    if (s->on_host)
        memcpy(s->data, tensor->data, s->bytes);
    else
        t->be->ops->upload(t->be, s->data, tensor->data, s->bytes);
    return NB_OK;
}

static nb_status read_slots(nb_trainer *t, slot *slots, int32_t count, const char *path, bool same_recipe,
                            nb_error *err) {
    nb_safetensors *file;
    NB_TRY(nb_safetensors_open(path, &file, err));
    if (!same_recipe)
        mark_what_begins_anew(slots, count, file);
    nb_status status = NB_OK;
    for (int32_t i = 0; status == NB_OK && i < count; i++)
        if (!slots[i].anew)
            status = read_slot(t, &slots[i], file, path, err);
    nb_safetensors_close(file);
    return status;
}

/* The model file must describe the model of the checkpoint: shapes alone do not tell, say, one rope_theta from another.
 */
static nb_status check_same_model(const nb_trainer *t, const char *folder, nb_error *err) {
    nb_model_config saved, now = t->model_config;
    NB_TRY(nb_hf_config_read(folder, &saved, err));
    const struct {
        const char *key;
        double saved, now;
    } keys[] = {
        {"family", saved.family, now.family},
        {"vocab", saved.vocab, now.vocab},
        {"hidden", saved.hidden, now.hidden},
        {"layers", saved.layers, now.layers},
        {"heads", saved.heads, now.heads},
        {"kv_heads", saved.kv_heads, now.kv_heads},
        {"head_dim", saved.head_dim, now.head_dim},
        {"intermediate", saved.intermediate, now.intermediate},
        {"rope_theta", saved.rope_theta, now.rope_theta},
        {"norm_eps", saved.norm_eps, now.norm_eps},
        {"tied", saved.tied, now.tied},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (keys[i].saved != keys[i].now && !(now.family == NB_GLA && strcmp(keys[i].key, "rope_theta") == 0))
            return nb_fail(err, NB_BAD_CONFIG, "%s/config.json: %s is %g there and %g in model %s; expected the same",
                           folder, keys[i].key, keys[i].saved, keys[i].now, t->config.model);
    return NB_OK;
}

static nb_status check_same_data(const nb_trainer *t, const char *folder, const nb_manifest *m, nb_error *err) {
    if (nb_dataset_fingerprint(t->train) != m->data_fingerprint)
        return nb_fail(err, NB_BAD_FILE,
                       "%s: was made with other data than %s holds now; hint: --from forks a run, or restore the data",
                       folder, t->config.data.train);
    return NB_OK;
}

/* A resumed run must be the run that stopped. */
static nb_status check_same_run(const nb_trainer *t, const char *folder, const nb_manifest *m, nb_error *err) {
    char key[NB_NAME_SIZE];
    if (nb_run_config_differs(&m->config, &t->config, key, sizeof key))
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: was made with another value of %s; expected the same to resume; hint: --from forks a run",
                       folder, key);
    char *recipe = nb_recipe_to_text(&t->recipe);
    bool same = recipe && strcmp(recipe, m->recipe) == 0;
    free(recipe);
    if (!same)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: was made when recipe %s said something else; hint: --from forks a run, or restore the file",
                       folder, t->config.recipe);
    return check_same_data(t, folder, m, err);
}

/* The run that a branch leaves must have been the same until there. */
static nb_status check_trunk(const nb_trainer *t, const char *folder, const nb_manifest *m, nb_error *err) {
    char key[NB_NAME_SIZE];
    nb_run_config config = m->config;
    nb_recipe trunk;
    memcpy(config.recipe, t->config.recipe, sizeof config.recipe);
    if (nb_run_config_differs(&config, &t->config, key, sizeof key))
        return nb_fail(err, NB_BAD_CONFIG, "%s: was made with another value of %s; expected the same to branch from it",
                       folder, key);
    NB_TRY(nb_manifest_recipe(m, folder, &trunk, err));
    int64_t alike = nb_recipe_alike_steps(&trunk, &t->recipe, t->steps);
    if (alike < m->at.step)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: is at step %lld, and its recipe %s trains as %s only until step %lld; expected a "
                       "checkpoint no later",
                       folder, (long long)m->at.step, trunk.name, t->recipe.name, (long long)alike);
    return check_same_data(t, folder, m, err);
}

static nb_status load_tensors(nb_trainer *t, const char *folder, bool same_recipe, nb_error *err) {
    char path[FILE_PATH_SIZE];
    NB_TRY(nb_hf_load(t->be, t->model, folder, err));
    slot *slots;
    int32_t count;
    NB_TRY(list_slots(t, &slots, &count, err));
    snprintf(path, sizeof path, "%s/%s", folder, NB_OPTIMIZER_NAME);
    nb_status status = read_slots(t, slots, count, path, same_recipe, err);
    free(slots);
    NB_TRY(status);
    return nb_model_state_loaded(t->model, err);
}

/* A folder of another maker: parameters alone. */
static bool is_foreign(const char *folder) {
    char ours[FILE_PATH_SIZE], theirs[FILE_PATH_SIZE];
    snprintf(ours, sizeof ours, "%s/%s", folder, NB_MANIFEST_NAME);
    snprintf(theirs, sizeof theirs, "%s/config.json", folder);
    return access(ours, F_OK) != 0 && access(theirs, F_OK) == 0;
}

static nb_status load_foreign(nb_trainer *t, const char *folder, nb_error *err) {
    NB_TRY(check_same_model(t, folder, err));
    NB_TRY(nb_hf_load(t->be, t->model, folder, err));
    nb_model_params_changed(t->model);
    return NB_OK;
}

nb_status nb_trainer_load(nb_trainer *t, const char *folder, nb_start as, nb_error *err) {
    nb_manifest m;
    if (as == NB_START_FORK && is_foreign(folder))
        return load_foreign(t, folder, err);
    NB_TRY(nb_manifest_read(folder, &m, err));
    nb_status status = nb_manifest_verify(folder, &m, err);
    if (status == NB_OK)
        status = check_same_model(t, folder, err);
    if (status == NB_OK && as == NB_START_RESUME)
        status = check_same_run(t, folder, &m, err);
    if (status == NB_OK && as == NB_START_BRANCH)
        status = check_trunk(t, folder, &m, err);
    if (status == NB_OK && m.at.step > t->steps)
        status = nb_fail(err, NB_BAD_CONFIG, "%s: is at step %lld, beyond the %lld steps of this run", folder,
                         (long long)m.at.step, (long long)t->steps);
    if (status == NB_OK && as != NB_START_FORK && m.at.modules_in_bf16 && !t->at.modules_in_bf16)
        status = nb_trainer_modules_to_bf16(t, err);
    if (status == NB_OK)
        status = load_tensors(t, folder, as == NB_START_RESUME, err);
    if (status == NB_OK) {
        bool in_bf16 = t->at.modules_in_bf16;
        t->at = m.at;
        t->at.modules_in_bf16 = in_bf16;
        t->optimizer.updates = m.updates;
        nb_model_params_changed(t->model);
    }
    nb_manifest_free(&m);
    return status;
}
