/* checkpoint_list.c: which checkpoints a run folder holds, which of them is the newest good one, and which go. */
#include "checkpoint.h"
#include "foreign.h"
#include "manifest.h"

#include "files/file.h"
#include "files/folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_CHECKPOINTS 4096
#define FILE_PATH_SIZE (2 * NB_PATH_SIZE)

void ni_checkpoint_path(const char *run_folder, int64_t step, char *path, size_t size) {
    snprintf(path, size, "%s/checkpoints/step-%08lld", run_folder, (long long)step);
}

/* Keeps the `most` largest steps, largest first. */
static void insert(int64_t *steps, int32_t count, int32_t most, int64_t step) {
    int32_t i = count < most ? count : most - 1;
    if (most == 0 || (count >= most && steps[i] >= step))
        return;
    for (; i > 0 && steps[i - 1] < step; i--)
        steps[i] = steps[i - 1];
    steps[i] = step;
}

/* The step that a name stands for; -1 if checkpoints have no such name ("step-99", "step-00000004.old"). */
static int64_t step_of_name(const char *name) {
    char again[40];
    long long step = -1;
    if (sscanf(name, "step-%lld", &step) != 1 || step < 0)
        return -1;
    snprintf(again, sizeof again, "step-%08lld", step);
    return strcmp(name, again) == 0 ? step : -1;
}

nb_status ni_checkpoint_list(const char *run_folder, int64_t *steps, int32_t most, int32_t *count, nb_error *err) {
    char path[FILE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/checkpoints", run_folder);
    *count = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT || errno == ENOTDIR ? NB_OK : ni_fail_errno(err, path, "list the checkpoints");
    for (struct dirent *item; (errno = 0, item = readdir(dir));) {
        int64_t step = step_of_name(item->d_name);
        if (step >= 0)
            insert(steps, (*count)++, most, step);
    }
    nb_status status = errno == 0 ? NB_OK : ni_fail_errno(err, path, "list the checkpoints");
    closedir(dir);
    return status;
}

static bool is_among(int64_t step, const int64_t *steps, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        if (steps[i] == step)
            return true;
    return false;
}

/* Whether a verdict is about the checkpoint, not about reading it. */
static bool is_verdict(nb_status status) {
    return status == NB_BAD_FILE || status == NB_BAD_CONFIG || status == NB_UNSUPPORTED;
}

/* A name that the next start sweeps away, so that neither a kill on the way nor a power cut (the name is on disk before
 * a file goes) leaves half of a checkpoint under its name. */
static nb_status remove_checkpoint(const char *path, nb_error *err) {
    char gone[FILE_PATH_SIZE + 64], page[FILE_PATH_SIZE + 64];
    bool ours;
    snprintf(page, sizeof page, "%s/%s", path, NI_MANIFEST_NAME);
    NB_TRY(ni_file_exists(page, &ours, err));
    if (!ours)
        return NB_OK;
    snprintf(gone, sizeof gone, "%s.tmp-%ld-0", path, (long)getpid());
    if (rename(path, gone) != 0)
        return ni_fail_errno(err, path, "rename, in order to remove it,");
    NB_TRY(ni_sync_parent(gone, err));
    return ni_folder_remove(gone, err);
}

nb_status ni_checkpoint_prune(const char *run_folder, int64_t keep, int64_t known, const int64_t *spared,
                              int32_t spared_count, nb_error *err) {
    int64_t steps[MOST_CHECKPOINTS];
    int32_t count;
    if (keep <= 0)
        return NB_OK;
    NB_TRY(ni_checkpoint_list(run_folder, steps, MOST_CHECKPOINTS, &count, err));
    for (int32_t i = 0; i < count && i < MOST_CHECKPOINTS; i++) {
        char path[FILE_PATH_SIZE];
        ni_checkpoint_path(run_folder, steps[i], path, sizeof path);
        if (is_among(steps[i], spared, spared_count))
            continue;
        if (keep == 0) {
            NB_TRY(remove_checkpoint(path, err));
            continue;
        }
        nb_status status = steps[i] == known ? NB_OK : nb_checkpoint_verify(path, err);
        if (status != NB_OK && !is_verdict(status))
            return status;
        keep -= status == NB_OK;
    }
    return NB_OK;
}

nb_status nb_checkpoint_verify(const char *folder, nb_error *err) {
    ni_manifest manifest;
    NB_TRY(ni_manifest_read(folder, &manifest, err));
    nb_status status = ni_manifest_verify(folder, &manifest, err);
    ni_manifest_free(&manifest);
    return status;
}

nb_status nb_checkpoint_info_read(const char *folder, nb_checkpoint_info *out, nb_error *err) {
    ni_manifest manifest;
    if (ni_is_foreign(folder))
        return ni_foreign_info(folder, out, err);
    NB_TRY(ni_manifest_read(folder, &manifest, err));
    out->step = manifest.at.step;
    out->config = manifest.config;
    ni_manifest_free(&manifest);
    return NB_OK;
}

nb_status nb_checkpoint_newest(const char *run_folder, char *path, size_t size,
                               void (*note)(void *user, nb_note_kind kind, const char *sentence), void *user,
                               nb_error *err) {
    int64_t steps[MOST_CHECKPOINTS];
    int32_t count;
    path[0] = 0;
    NB_TRY(ni_checkpoint_list(run_folder, steps, MOST_CHECKPOINTS, &count, err));
    for (int32_t i = 0; i < count && i < MOST_CHECKPOINTS; i++) {
        nb_error broken = {0};
        ni_checkpoint_path(run_folder, steps[i], path, size);
        nb_status status = nb_checkpoint_verify(path, &broken);
        if (status == NB_OK)
            return NB_OK;
        path[0] = 0;
        if (!is_verdict(status))
            return nb_fail(err, status, "%s", broken.message);
        if (note) {
            char sentence[sizeof broken.message + 64];
            snprintf(sentence, sizeof sentence, "checkpoint passed over: %s", broken.message);
            note(user, NB_NOTE_WARNING, sentence);
        }
    }
    if (count == 0)
        return nb_fail(err, NB_BAD_FILE, "%s: holds no checkpoint", run_folder);
    return nb_fail(err, NB_BAD_FILE, "%s/checkpoints: holds %d checkpoint%s and none is good", run_folder, count,
                   count == 1 ? "" : "s");
}
