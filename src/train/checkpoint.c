/* checkpoint.c: a trainer to a folder and back.
 *
 * A checkpoint is made under a temporary name, synced and renamed, so that a kill or a full disk leaves the old ones
 * whole and no half of the new one. Loading verifies every checksum before it touches the trainer.
 */
#include "checkpoint.h"
#include "base/text.h"
#include "checkpoint_state.h"
#include "foreign.h"
#include "manifest.h"

#include "backend/table.h"
#include "files/folder.h"
#include "model/hf.h"
#include "recipe/recipe_yaml.h"
#include "run_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_PATH_SIZE (4 * NB_PATH_SIZE)

/* ---- saving ---- */

char *ni_recipe_to_text(const nb_recipe *recipe) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    bool whole = ni_recipe_print(recipe, NULL, NI_COMMENTS_NONE, to);
    return ni_memory_text(to, &text, whole);
}

static nb_status fill_folder(nb_trainer *t, const char *folder, nb_error *err) {
    char path[FILE_PATH_SIZE];
    NB_TRY(ni_hf_save_from(t->be, t->model, ni_state_master, t, folder, NI_ST_F32,
                           (ni_hf_marks){t->end_of_text, t->end_of_text}, err));
    if (t->tokenizer && t->at.step > 0) /* at step 0 the model is still as its maker left it */
        NB_TRY(ni_tokenizer_open_with_end(t->tokenizer, err));
    NB_TRY(t->tokenizer ? ni_tokenizer_save(t->tokenizer, folder, err) : ni_kept_write(&t->kept, folder, err));
    snprintf(path, sizeof path, "%s/%s", folder, NI_OPTIMIZER_NAME);
    NB_TRY(ni_state_write(t, path, err));
    ni_manifest manifest = {.at = t->at,
                            .updates = t->optimizer.updates,
                            .data_fingerprint = ni_dataset_fingerprint(t->train),
                            .data_sum = ni_dataset_sum(t->train),
                            .val_sum = t->val ? ni_dataset_sum(t->val) : 0,
                            .products = ni_products_of(t->be),
                            .config = t->config,
                            .recipe = ni_recipe_to_text(&t->recipe)};
    /* What was downloaded is what the backend had only if nothing went wrong with it on the way. */
    nb_status status = t->be->ops->synchronize(t->be, err);
    if (status == NB_OK)
        status = ni_manifest_write(folder, &manifest, err);
    ni_products_free(&manifest.products);
    free(manifest.recipe);
    return status;
}

nb_status nb_trainer_save(nb_trainer *t, const char *folder, nb_error *err) {
    ni_folder *made;
    if (ni_trainer_check_params(t, err) != NB_OK)
        return nb_fail_within(err, "no checkpoint is written");
    NB_TRY(ni_folder_begin(folder, true, &made, err));
    nb_status status = fill_folder(t, ni_folder_path(made), err);
    if (status == NB_OK)
        status = ni_folder_sync(made, err);
    if (status == NB_OK && nb_checkpoint_verify(ni_folder_path(made), err) != NB_OK)
        status = nb_fail_within(err, "the checkpoint does not read back as it was written");
    if (status != NB_OK) {
        ni_folder_abandon(made);
        return status;
    }
    return ni_folder_commit(made, err);
}

/* ---- loading ---- */

/* The model file must describe the model of the checkpoint: shapes alone do not tell, say, one rope_theta from another.
 */
static nb_status check_same_model(const nb_trainer *t, const char *folder, nb_error *err) {
    nb_model_config saved, now = t->model_config;
    NB_TRY(ni_hf_config_read(folder, &saved, err));
    const struct {
        const char *key;
        double saved, now;
    } keys[] = {
        {"vocab", saved.vocab, now.vocab},
        {"hidden", saved.hidden, now.hidden},
        {"layers", saved.layers, now.layers},
        {"heads", saved.heads, now.heads},
        {"kv_heads", saved.kv_heads, now.kv_heads},
        {"head_dim", saved.head_dim, now.head_dim},
        {"intermediate", saved.intermediate, now.intermediate},
        {"rope_theta", saved.rope_theta, now.rope_theta},
        {"rope_scaling.factor", saved.rope_factor, now.rope_factor},
        {"rope_scaling.low", saved.rope_low, now.rope_low},
        {"rope_scaling.high", saved.rope_high, now.rope_high},
        {"rope_scaling.original", saved.rope_original, now.rope_original},
        {"norm_eps", saved.norm_eps, now.norm_eps},
        {"tied", saved.tied, now.tied},
    };
    if (saved.family != now.family)
        return nb_fail(err, NB_BAD_CONFIG, "%s/config.json: family is %s there and %s in model %s; expected the same",
                       folder, nb_family_name(saved.family), nb_family_name(now.family), t->config.model);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (keys[i].saved != keys[i].now && !(now.family == NB_GLA && strcmp(keys[i].key, "rope_theta") == 0))
            return nb_fail(err, NB_BAD_CONFIG, "%s/config.json: %s is %g there and %g in model %s; expected the same",
                           folder, keys[i].key, keys[i].saved, keys[i].now, t->config.model);
    return NB_OK;
}

static nb_status check_same_data(const nb_trainer *t, const char *folder, const ni_manifest *m, nb_error *err) {
    uint64_t sum = ni_dataset_sum(t->train), said = m->data_sum;
    if (!said) { /* a checkpoint from before whole shards were summed */
        said = m->data_fingerprint;
        sum = ni_dataset_fingerprint(t->train);
    }
    const char *changed = sum != said ? t->config.data.train : NULL;
    if (!changed && t->val && m->val_sum && m->val_sum != ni_dataset_sum(t->val))
        changed = t->config.data.val;
    if (!changed)
        return NB_OK;
    return nb_fail(err, NB_BAD_FILE,
                   "%s: was made with other data than %s holds now; hint: --from forks a run, or restore the data",
                   folder, changed);
}

/* A resumed run must be the run that stopped. */
static nb_status check_same_run(const nb_trainer *t, const char *folder, const ni_manifest *m, nb_error *err) {
    char key[NB_NAME_SIZE];
    if (ni_run_config_differs(&m->config, &t->config, key, sizeof key))
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: was made with another value of %s; expected the same to resume; hint: --from forks a run",
                       folder, key);
    /* Read and written anew, the recipe of an older checkpoint has the defaults of keys that it could not know. */
    nb_recipe before;
    NB_TRY(ni_manifest_recipe(m, folder, &before, err));
    if (!ni_recipes_agree(&before, &t->recipe))
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: was made when recipe %s said something else; hint: --from forks a run, or restore the file",
                       folder, t->config.recipe);
    return check_same_data(t, folder, m, err);
}

/* The run that a branch leaves must have been the same until there. */
static nb_status check_trunk(const nb_trainer *t, const char *folder, const ni_manifest *m, nb_error *err) {
    char key[NB_NAME_SIZE];
    nb_run_config config = m->config;
    nb_recipe trunk;
    memcpy(config.recipe, t->config.recipe, sizeof config.recipe);
    if (ni_run_config_differs(&config, &t->config, key, sizeof key))
        return nb_fail(err, NB_BAD_CONFIG, "%s: was made with another value of %s; expected the same to branch from it",
                       folder, key);
    NB_TRY(ni_manifest_recipe(m, folder, &trunk, err));
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
    NB_TRY(ni_hf_load(t->be, t->model, folder, err));
    snprintf(path, sizeof path, "%s/%s", folder, NI_OPTIMIZER_NAME);
    NB_TRY(ni_state_read(t, path, same_recipe, err));
    return nb_model_state_loaded(t->model, err);
}

/* A row of the embedding means a token of the tokenizer that the model was trained with. Where nibble cannot read that
 * one, the run file is believed. */
static nb_status check_tokenizer(const nb_trainer *t, const char *folder, nb_error *err) {
    ni_tokenizer *theirs;
    if (!t->tokenizer || ni_tokenizer_load(folder, &theirs, NULL) != NB_OK)
        return NB_OK;
    bool same = ni_tokenizer_equal(t->tokenizer, theirs);
    int32_t vocab = ni_tokenizer_vocab(theirs);
    ni_tokenizer_free(theirs);
    if (same)
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG,
                   "data.tokenizer: %s (%d tokens) is not the tokenizer of %s (%d tokens); expected the same, for the "
                   "model knows no other; hint: nibble tokenize --tokenizer %s",
                   t->config.data.tokenizer, ni_tokenizer_vocab(t->tokenizer), folder, vocab, folder);
}

/* Checkpoints of this run bring the files along that are there already, where the run file names no tokenizer. */
static bool is_listed(const void *manifest, const char *name) {
    return ni_manifest_lists(manifest, name);
}

/* `manifest`: what is not listed there is not read; NULL: a folder of another maker. */
static nb_status keep_tokenizer_files(nb_trainer *t, const char *folder, const ni_manifest *manifest, nb_error *err) {
    if (t->tokenizer)
        return NB_OK;
    NB_TRY(ni_kept_read(folder, &t->kept, err));
    if (manifest)
        ni_kept_drop(&t->kept, is_listed, manifest);
    return NB_OK;
}

/* A folder of another maker: parameters alone, at step 0. */
static nb_status load_foreign(nb_trainer *t, const char *folder, nb_error *err) {
    NB_TRY(check_same_model(t, folder, err));
    NB_TRY(check_tokenizer(t, folder, err));
    NB_TRY(keep_tokenizer_files(t, folder, NULL, err));
    NB_TRY(ni_trainer_restart(t, err));
    NB_TRY(ni_hf_load(t->be, t->model, folder, err));
    nb_model_params_changed(t->model);
    return NB_OK;
}

/* Whether the checkpoint is one that such a start may take. */
static nb_status check_start(const nb_trainer *t, const char *folder, const ni_manifest *m, nb_start as,
                             nb_error *err) {
    if (as == NB_START_RESUME)
        return check_same_run(t, folder, m, err);
    if (as == NB_START_BRANCH)
        return check_trunk(t, folder, m, err);
    return check_tokenizer(t, folder, err);
}

/* Everything that tells without tensors. */
static nb_status check_folder(const nb_trainer *t, const char *folder, const ni_manifest *m, nb_start as,
                              nb_error *err) {
    NB_TRY(check_same_model(t, folder, err));
    NB_TRY(check_start(t, folder, m, as, err));
    if (m->at.step > t->steps)
        return nb_fail(err, NB_BAD_CONFIG, "%s: is at step %lld, beyond the %lld steps of this run", folder,
                       (long long)m->at.step, (long long)t->steps);
    return NB_OK;
}

nb_status ni_checkpoint_check(const nb_trainer *t, const char *folder, nb_start as, nb_error *err) {
    ni_manifest m;
    if (as == NB_START_FORK && ni_is_foreign(folder)) {
        NB_TRY(check_same_model(t, folder, err));
        return check_tokenizer(t, folder, err);
    }
    NB_TRY(ni_manifest_read(folder, &m, err));
    nb_status status = check_folder(t, folder, &m, as, err);
    if (status == NB_OK && as == NB_START_FORK && m.at.step == t->steps)
        status = nb_fail(err, NB_BAD_CONFIG,
                         "%s: is at step %lld, where this run ends; expected steps that are left to train; hint: steps "
                         "counts from step 0, not from the checkpoint",
                         folder, (long long)m.at.step);
    ni_manifest_free(&m);
    return status;
}

nb_status nb_trainer_load(nb_trainer *t, const char *folder, nb_start as, nb_error *err) {
    ni_manifest m;
    if (as == NB_START_FORK && ni_is_foreign(folder))
        return load_foreign(t, folder, err);
    NB_TRY(ni_manifest_read(folder, &m, err));
    nb_status status = ni_manifest_verify(folder, &m, err);
    if (status == NB_OK)
        status = check_folder(t, folder, &m, as, err);
    if (status == NB_OK && as != NB_START_FORK && m.at.modules_in_bf16 && !t->at.modules_in_bf16)
        status = ni_trainer_modules_to_bf16(t, err);
    if (status == NB_OK)
        status = keep_tokenizer_files(t, folder, &m, err);
    t->torn = t->torn || status == NB_OK; /* some tensors of here, some of there, until all are read */
    if (status == NB_OK)
        status = load_tensors(t, folder, as == NB_START_RESUME, err);
    if (status == NB_OK) {
        bool in_bf16 = t->at.modules_in_bf16;
        t->at = m.at;
        t->at.modules_in_bf16 = in_bf16;
        t->optimizer.updates = m.updates;
        if (as != NB_START_FORK)
            ni_products_take(t->be, &m.products, folder, &t->callbacks);
        nb_model_params_changed(t->model);
        t->handed.due = t->share.out;
        t->torn = false;
    }
    ni_manifest_free(&m);
    return status;
}
