/* rebuild.c: makes the model anew in the middle of a run: named modules go to BF16, or the run begins again. */
#include "backend/table.h"
#include "trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Copies of what mechanisms keep between steps, on the host. */
typedef struct saved_state {
    nb_state_tensor *tensors;
    int32_t count;
} saved_state;

static void free_state(saved_state *state) {
    for (int32_t i = 0; i < state->count; i++)
        free(state->tensors[i].data);
    free(state->tensors);
    memset(state, 0, sizeof *state);
}

static nb_status save_state(nb_trainer *t, saved_state *out, nb_error *err) {
    int32_t count = nb_model_state(t->model, NULL, 0);
    out->count = 0;
    out->tensors = calloc((size_t)count + 1, sizeof *out->tensors);
    if (!out->tensors)
        return nb_fail(err, NB_NO_MEMORY, "rebuild: out of memory");
    nb_model_state(t->model, out->tensors, count);
    for (int32_t i = 0; i < count; i++) {
        nb_state_tensor *tensor = &out->tensors[i];
        size_t bytes = (size_t)tensor->elements * nb_dtype_size(tensor->dtype);
        const void *live = tensor->data;
        tensor->data = malloc(bytes + 1);
        out->count = i + 1;
        if (!tensor->data)
            return nb_fail(err, NB_NO_MEMORY, "rebuild: out of memory for %s", tensor->name);
        if (tensor->on_host)
            memcpy(tensor->data, live, bytes);
        else
            t->be->ops->download(t->be, tensor->data, live, bytes);
    }
    return NB_OK;
}

/* Gives the new model the state of the modules that still have it. */
static nb_status restore_state(nb_trainer *t, const saved_state *saved, nb_error *err) {
    int32_t count = nb_model_state(t->model, NULL, 0);
    nb_state_tensor *fresh = calloc((size_t)count + 1, sizeof *fresh);
    if (!fresh)
        return nb_fail(err, NB_NO_MEMORY, "rebuild: out of memory");
    nb_model_state(t->model, fresh, count);
    for (int32_t i = 0; i < count; i++)
        for (int32_t j = 0; j < saved->count; j++) {
            const nb_state_tensor *old = &saved->tensors[j];
            if (strcmp(fresh[i].name, old->name) != 0 || fresh[i].elements != old->elements)
                continue;
            size_t bytes = (size_t)old->elements * nb_dtype_size(old->dtype);
            if (fresh[i].on_host)
                memcpy(fresh[i].data, old->data, bytes);
            else
                t->be->ops->upload(t->be, fresh[i].data, old->data, bytes);
        }
    free(fresh);
    return nb_model_state_loaded(t->model, err);
}

static nb_status create_model(nb_trainer *t, nb_error *err) {
    nb_model_free(t->model);
    t->model = NULL;
    const nb_model_options how = ni_run_model_options(&t->config);
    NB_TRY(nb_model_create_with(t->be, &t->model_config, &t->working_recipe, &how, &t->model, err));
    return ni_trainer_renew_combiner(t, err);
}

static nb_status keep_in_bf16(nb_trainer *t, nb_error *err) {
    nb_keep *keep = &t->working_recipe.keep;
    for (int32_t i = 0; i < t->config.bad_numbers.bf16_module_count; i++) {
        if (keep->module_count == NB_KEEP_MODULES)
            return nb_fail(err, NB_BAD_CONFIG,
                           "bad_numbers.bf16_modules: with keep.modules of the recipe more than %d patterns",
                           NB_KEEP_MODULES);
        memcpy(keep->modules[keep->module_count++], t->config.bad_numbers.bf16_modules[i], NB_NAME_SIZE);
    }
    return NB_OK;
}

nb_status ni_trainer_modules_to_bf16(nb_trainer *t, nb_error *err) {
    NB_TRY(keep_in_bf16(t, err));
    void *params = ni_model_copy_masters(t->model);
    if (!params)
        return nb_fail(err, NB_NO_MEMORY, "rebuild: a copy of the parameters does not fit in memory");
    saved_state state = {0};
    nb_status status = save_state(t, &state, err);
    const bool was_torn = t->torn;
    t->torn = t->torn || status == NB_OK; /* until the new model holds all of the old one's state */
    if (status == NB_OK)
        status = create_model(t, err);
    if (status == NB_OK) {
        ni_model_restore_masters(t->model, params);
        nb_model_params_changed(t->model);
        t->at.modules_in_bf16 = true;
        status = restore_state(t, &state, err);
    }
    if (status == NB_OK)
        t->torn = was_torn;
    t->be->ops->release(t->be, params);
    free_state(&state);
    return status;
}

nb_status ni_trainer_restart(nb_trainer *t, nb_error *err) {
    t->working_recipe = t->recipe;
    t->torn = true;
    NB_TRY(create_model(t, err));
    nb_model_init_within(t->model, (uint32_t)t->config.seeds.init, t->config.init.cut);
    nb_model_params_changed(t->model);
    ni_optimizer_restart(&t->optimizer);
    memset(&t->at, 0, sizeof t->at);
    t->torn = false;
    return NB_OK;
}
