/* rebuild.c: makes the model anew in the middle of a run: named modules go to BF16, or the run begins again. */
#include "arrivals.h"
#include "backend/table.h"
#include "model/masters.h"
#include "state_copy.h"

#include <string.h>

/* Gradients go with the model: ranks that read each other's let go of the old ones before, and meet again. */
static nb_status create_model(nb_trainer *t, nb_error *err) {
    const bool seen = t->reducer.neighbours.theirs; /* alike on all ranks */
    bool ignored;
    ni_arrivals_part(&t->handed);
    ni_neighbours_free(&t->reducer.neighbours);
    ni_neighbours_free(&t->reducer.rows.seen);
    if (seen)
        NB_TRY(ni_ranks_any(t->ranks, false, &ignored, err)); /* all have let go */
    nb_model_free(t->model);
    t->model = NULL;
    NB_TRY(ni_trainer_create_model(t, err));
    if (seen)
        NB_TRY(ni_reducer_meet_neighbours(&t->reducer, ni_model_gradients(t->model), &ignored, err));
    NB_TRY(ni_trainer_renew_handed(t, err));
    if (seen)
        NB_TRY(ni_arrivals_meet(&t->handed, err));
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
    ni_master_copy params;
    ni_state_copy state = {0};
    nb_status status = ni_model_copy_masters(t->model, &params, err);
    if (status != NB_OK)
        nb_fail_within(err, "rebuild");
    if (status == NB_OK)
        status = ni_state_copy_take(t, &state, err);
    const bool was_torn = t->torn;
    t->torn = t->torn || status == NB_OK; /* until the new model holds all of the old one's state */
    if (status == NB_OK)
        status = create_model(t, err);
    if (status == NB_OK) {
        ni_model_restore_masters(t->model, &params);
        nb_model_params_changed(t->model);
        t->at.modules_in_bf16 = true;
        status = ni_state_copy_put(t, &state, NULL, err);
    }
    if (status == NB_OK)
        t->torn = was_torn;
    ni_master_copy_free(&params);
    ni_state_copy_free(&state);
    return status;
}

nb_status ni_trainer_restart(nb_trainer *t, nb_error *err) {
    t->working_recipe = t->recipe;
    t->torn = true;
    NB_TRY(create_model(t, err));
    nb_model_init_within(t->model, (uint32_t)t->config.seeds.init, t->config.init.cut);
    nb_model_params_changed(t->model);
    ni_optimizer_restart(&t->optimizer);
    ni_auto_scale_restart(&t->auto_scale);
    memset(&t->at, 0, sizeof t->at);
    t->torn = false;
    return NB_OK;
}
