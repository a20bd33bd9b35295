/* runs.c: what a folder on the command line means. */
#include "cli/runs.h"

#include "cli/cli.h"
#include "files/file.h"
#include "files/json.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool holds(const char *folder, const char *name) {
    char path[2 * NB_PATH_SIZE];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    return length > 0 && (size_t)length < sizeof path && access(path, F_OK) == 0;
}

static void tell(void *user, nb_note_kind kind, const char *sentence) {
    (void)user;
    if (kind == NB_NOTE_WARNING)
        fprintf(stderr, "note: %s\n", sentence);
}

/* Whether a folder is that of a run, or the folder "checkpoints" of one; `run` has the size of a path. */
static bool is_run(const char *folder, char *run) {
    static const char inside[] = "checkpoints";
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    snprintf(run, NB_PATH_SIZE, "%.*s", (int)length, folder);
    if (holds(run, "config.json"))
        return false;
    if (holds(run, "run.yaml"))
        return true;
    const char *slash = strrchr(run, '/'), *name = slash ? slash + 1 : run;
    if (strcmp(name, inside) != 0)
        return false;
    if (!slash)
        snprintf(run, NB_PATH_SIZE, ".");
    else
        run[slash == run ? 1 : slash - run] = 0;
    return holds(run, "run.yaml");
}

nb_status ni_cli_checkpoint(const char *folder, char path[NB_PATH_SIZE], nb_error *err) {
    char run[NB_PATH_SIZE];
    if (strlen(folder) >= NB_PATH_SIZE)
        return nb_fail(err, NB_BAD_USAGE, "%.64s...: the path is too long", folder);
    if (is_run(folder, run))
        return nb_checkpoint_newest(run, path, NB_PATH_SIZE, tell, NULL, err);
    if (!ni_cli_is_folder(folder))
        return nb_fail(err, NB_BAD_FILE,
                       "%s: no such folder; expected a run, or a checkpoint, as RUN/checkpoints/step-00001000", folder);
    snprintf(path, NB_PATH_SIZE, "%s", folder);
    return NB_OK;
}

nb_status ni_cli_check_model(const char *model, nb_error *err) {
    char run[NB_PATH_SIZE], path[NB_PATH_SIZE];
    if (strlen(model) >= NB_PATH_SIZE || !strchr(model, '/') || !is_run(model, run))
        return NB_OK;
    const bool found = nb_checkpoint_newest(run, path, NB_PATH_SIZE, NULL, NULL, NULL) == NB_OK;
    return nb_fail(err, NB_BAD_CONFIG, "model: %s is a run folder; expected one of its checkpoints%s%s", model,
                   found ? "; hint: " : ", and it has none", found ? path : "");
}

nb_status ni_cli_sequences(int64_t given, const nb_run_config *run, int64_t *sequences, nb_error *err) {
    *sequences = given == NI_OF_RUN ? run->eval.sequences : given;
    if (*sequences < 0)
        return nb_fail(err, NB_BAD_USAGE, "--sequences: %lld; expected 0 (all) or more", (long long)given);
    return NB_OK;
}

/* The BF16 twins of a comparison come first. */
static int twins_first(const struct dirent **a, const struct dirent **b) {
    bool a_twin = strncmp((*a)->d_name, "bf16", 4) == 0, b_twin = strncmp((*b)->d_name, "bf16", 4) == 0;
    return a_twin != b_twin ? b_twin - a_twin : strcmp((*a)->d_name, (*b)->d_name);
}

/* Where a comparison named the recipe of a run ("NAME-seed2"): its place in compare.json; after all of them if nowhere.
 */
static size_t place_of(const json_t *comparison, const char *run) {
    const json_t *order = json_object_get(comparison, "order"); /* while it runs */
    const json_t *recipes = order ? order : json_object_get(comparison, "recipes");
    size_t i = 0;
    for (; i < json_array_size(recipes); i++) {
        const json_t *at = json_array_get(recipes, i);
        const char *name = json_string_value(order ? at : json_object_get(at, "recipe"));
        size_t length = name ? strlen(name) : 0;
        if (length && strncmp(run, name, length) == 0 && strncmp(run + length, "-seed", 5) == 0)
            break;
    }
    return i;
}

/* Runs of a comparison in the order in which it was asked for; a stable sort of a short list. */
static nb_status order_as_asked(const char *parent, struct dirent **names, int count, nb_error *err) {
    char path[2 * NB_PATH_SIZE];
    json_t *comparison;
    snprintf(path, sizeof path, "%s/compare.json", parent);
    NB_TRY(ni_json_load_if_there(path, &comparison, err));
    for (int i = 1; comparison && i < count; i++)
        for (int k = i; k > 0 && place_of(comparison, names[k - 1]->d_name) > place_of(comparison, names[k]->d_name);
             k--) {
            struct dirent *other = names[k];
            names[k] = names[k - 1];
            names[k - 1] = other;
        }
    json_decref(comparison);
    return NB_OK;
}

static nb_status take_inside(const char *parent, ni_take_run *take, void *context, int32_t *runs, nb_error *err) {
    char path[2 * NB_PATH_SIZE];
    struct dirent **names;
    int count = scandir(parent, &names, NULL, twins_first);
    if (count < 0)
        return errno == ENOENT || errno == ENOTDIR ? NB_OK : ni_fail_errno(err, parent, "list the folder");
    nb_status status = order_as_asked(parent, names, count, err);
    for (int i = 0; i < count; i++) {
        int length = snprintf(path, sizeof path, "%s/%s", parent, names[i]->d_name);
        if (status == NB_OK && names[i]->d_name[0] != '.' && (size_t)length < sizeof path && holds(path, "run.yaml")) {
            status = take(context, path, err);
            ++*runs;
        }
        free(names[i]);
    }
    free(names);
    return status;
}

nb_status ni_cli_each_run(int32_t count, char *const *folders, ni_take_run *take, void *context, nb_error *err) {
    int32_t runs = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t before = runs;
        if (count > 1 && access(folders[i], F_OK) == 0 && !ni_cli_is_folder(folders[i]))
            continue;
        if (holds(folders[i], "run.yaml")) {
            NB_TRY(take(context, folders[i], err));
            runs++;
        } else {
            NB_TRY(take_inside(folders[i], take, context, &runs, err));
        }
        if (runs == before)
            return nb_fail(err, NB_BAD_FILE,
                           "%s: holds neither run.yaml nor folders with one; expected what nibble train or compare "
                           "wrote",
                           folders[i]);
    }
    return runs > 0 ? NB_OK : nb_fail(err, NB_BAD_FILE, "no folder of a run among the %d names", (int)count);
}
