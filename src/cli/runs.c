/* runs.c: what a folder on the command line means. */
#include "cli/runs.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

nb_status ni_cli_checkpoint(const char *folder, char path[NB_PATH_SIZE], nb_error *err) {
    if (strlen(folder) >= NB_PATH_SIZE)
        return nb_fail(err, NB_BAD_USAGE, "%.64s...: the path is too long", folder);
    if (holds(folder, "run.yaml") && !holds(folder, "config.json"))
        return nb_checkpoint_newest(folder, path, NB_PATH_SIZE, tell, NULL, err);
    snprintf(path, NB_PATH_SIZE, "%s", folder);
    return NB_OK;
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The BF16 twins of a comparison come first. */
static int twins_first(const struct dirent **a, const struct dirent **b) {
    bool a_twin = strncmp((*a)->d_name, "bf16", 4) == 0, b_twin = strncmp((*b)->d_name, "bf16", 4) == 0;
    return a_twin != b_twin ? b_twin - a_twin : strcmp((*a)->d_name, (*b)->d_name);
}

static nb_status take_inside(const char *parent, ni_take_run *take, void *context, int32_t *runs, nb_error *err) {
    char path[2 * NB_PATH_SIZE];
    struct dirent **names;
    nb_status status = NB_OK;
    int count = scandir(parent, &names, NULL, twins_first);
    for (int i = 0; i < count; i++) {
        int length = snprintf(path, sizeof path, "%s/%s", parent, names[i]->d_name);
        if (status == NB_OK && names[i]->d_name[0] != '.' && (size_t)length < sizeof path && holds(path, "run.yaml")) {
            status = take(context, path, err);
            ++*runs;
        }
        free(names[i]);
    }
    if (count >= 0)
        free(names);
    return status;
}

nb_status ni_cli_each_run(int32_t count, char *const *folders, ni_take_run *take, void *context, nb_error *err) {
    int32_t runs = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t before = runs;
        if (count > 1 && access(folders[i], F_OK) == 0 && !is_folder(folders[i]))
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
