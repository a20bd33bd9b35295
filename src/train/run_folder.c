/* run_folder.c: the folder of a run, and whether a run can begin in it. */
#include "run_folder.h"
#include "checkpoint.h"
#include "checkpoint_state.h"
#include "manifest.h"

#include "files/file.h"
#include "files/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static nb_status refuse_a_run(const char *out, nb_error *err) {
    char path[NI_RUN_PATH_SIZE];
    int64_t step;
    int32_t count;
    bool metrics;
    snprintf(path, sizeof path, "%s/metrics.jsonl", out);
    NB_TRY(ni_file_exists(path, &metrics, err));
    NB_TRY(ni_checkpoint_list(out, &step, 1, &count, err));
    if (!metrics && count == 0)
        return NB_OK;
    return nb_fail(err, NB_BAD_USAGE,
                   "%s: holds a run already; hint: --resume goes on with it, --set out=... starts another", out);
}

bool ni_writes(const nb_trainer *t) {
    return nb_ranks_rank(t->ranks) == 0;
}

static nb_status fail_busy(const char *out, nb_error *err) {
    return nb_fail(err, NB_IO_ERROR, "%s: another process is training in this folder", out);
}

/* That the run folder can be made, or is there and nobody trains in it. */
static nb_status try_folder(const nb_trainer *t, nb_error *err) {
    char path[NI_RUN_PATH_SIZE];
    if (!ni_writes(t))
        return NB_OK;
    snprintf(path, sizeof path, "%s/checkpoints", t->config.out);
    NB_TRY(ni_try_folders(path, err));
    const int held = open(t->config.out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool busy = held >= 0 && flock(held, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (held >= 0)
        close(held);
    return busy ? fail_busy(t->config.out, err) : NB_OK;
}

nb_status nb_trainer_check(nb_trainer *t, nb_start start, const char *from, nb_error *err) {
    const char *out = t->config.out;
    char path[NI_RUN_PATH_SIZE], manifest[NI_RUN_PATH_SIZE + 32];
    nb_error none = {0};
    int64_t step;
    int32_t count = 0;
    NB_TRY(try_folder(t, err));
    if (start != NB_START_RESUME && start != NB_START_BRANCH)
        NB_TRY(refuse_a_run(out, err));
    if (start == NB_START_FORK)
        return ni_checkpoint_check(t, from, start, err);
    if (start != NB_START_NEW)
        NB_TRY(ni_checkpoint_list(out, &step, 1, &count, err));
    if (count > 0) {
        ni_checkpoint_path(out, step, path, sizeof path);
        snprintf(manifest, sizeof manifest, "%s/" NI_MANIFEST_NAME, path);
        nb_status status = access(manifest, F_OK) == 0 ? ni_checkpoint_check(t, path, NB_START_RESUME, &none) : NB_OK;
        if (status != NB_OK && status != NB_BAD_FILE) /* a damaged one is passed over when the run begins */
            return nb_fail(err, status, "%s", none.message);
    } else if (start == NB_START_BRANCH) {
        return ni_checkpoint_check(t, from, start, err);
    }
    return NB_OK;
}

nb_status ni_run_folder_take(const nb_trainer *t, int *lock, nb_error *err) {
    const char *out = t->config.out;
    char path[NI_RUN_PATH_SIZE];
    if (!ni_writes(t))
        return NB_OK;
    snprintf(path, sizeof path, "%s/checkpoints", out);
    NB_TRY(ni_make_folders(path, err));
    *lock = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0)
        return nb_fail(err, NB_IO_ERROR, "%s: cannot be opened: %s", out, strerror(errno));
    if (flock(*lock, LOCK_EX | LOCK_NB) != 0)
        return fail_busy(out, err);
    return NB_OK;
}

nb_status ni_run_folder_sweep(const nb_trainer *t, nb_error *err) {
    static const char *const folders[] = {"", "/checkpoints", "/lens"};
    char path[NI_RUN_PATH_SIZE];
    for (size_t i = 0; ni_writes(t) && i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s%s", t->config.out, folders[i]);
        NB_TRY(ni_folder_remove_abandoned(path, err));
    }
    return NB_OK;
}

/* Writes a text into the run folder and frees it. */
static nb_status put_text(const nb_trainer *t, const char *name, char *text, nb_error *err) {
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory for %s", t->config.out, name);
    char path[NI_RUN_PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", t->config.out, name);
    nb_status status = ni_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

nb_status ni_run_folder_census(const nb_trainer *t, nb_error *err) {
    return ni_writes(t) ? put_text(t, "census.txt", ni_census_text(t), err) : NB_OK;
}

nb_status ni_run_folder_describe(const nb_trainer *t, nb_error *err) {
    if (!ni_writes(t))
        return NB_OK;
    NB_TRY(put_text(t, "run.yaml", nb_run_config_text(&t->config), err));
    NB_TRY(put_text(t, "recipe.yaml", ni_recipe_to_text(&t->recipe), err));
    return ni_run_folder_census(t, err);
}

nb_status ni_run_folder_newest(const nb_trainer *t, char *path, size_t size, nb_error *err) {
    int64_t step;
    int32_t count;
    path[0] = 0;
    NB_TRY(ni_checkpoint_list(t->config.out, &step, 1, &count, err));
    if (count == 0)
        return NB_OK;
    nb_status status = nb_checkpoint_newest(t->config.out, path, size, t->callbacks.note, t->callbacks.user, err);
    if (status != NB_OK) {
        char why[sizeof err->message];
        snprintf(why, sizeof why, "%s", err ? err->message : "");
        return status == NB_BAD_FILE ? nb_fail(err, status, "%s; hint: move them away to begin at step 0", why)
                                     : status;
    }
    return NB_OK;
}
