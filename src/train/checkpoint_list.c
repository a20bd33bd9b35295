/* checkpoint_list.c: which checkpoints a run folder holds, which of them is the newest good one, and which go. */
#include "checkpoint.h"
#include "foreign.h"
#include "manifest.h"

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

int32_t ni_checkpoint_list(const char *run_folder, int64_t *steps, int32_t most) {
    char path[FILE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/checkpoints", run_folder);
    DIR *dir = opendir(path);
    int32_t count = 0;
    for (struct dirent *item; dir && (item = readdir(dir));) {
        long long step;
        int used = 0;
        if (sscanf(item->d_name, "step-%lld%n", &step, &used) != 1 || item->d_name[used] != 0 || step < 0)
            continue;
        insert(steps, count, most, step);
        count++;
    }
    if (dir)
        closedir(dir);
    return count;
}

static bool is_among(int64_t step, const int64_t *steps, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        if (steps[i] == step)
            return true;
    return false;
}

nb_status ni_checkpoint_prune(const char *run_folder, int64_t keep, const int64_t *spared, int32_t spared_count,
                              nb_error *err) {
    if (keep <= 0)
        return NB_OK;
    int64_t steps[MOST_CHECKPOINTS];
    int32_t count = ni_checkpoint_list(run_folder, steps, MOST_CHECKPOINTS);
    for (int32_t i = 0; i < count && i < MOST_CHECKPOINTS; i++) {
        if (is_among(steps[i], spared, spared_count) || keep-- > 0)
            continue;
        char path[FILE_PATH_SIZE], gone[FILE_PATH_SIZE + 64];
        ni_checkpoint_path(run_folder, steps[i], path, sizeof path);
        /* A name that the next start sweeps away, so that a kill on the way leaves no half of a checkpoint. */
        snprintf(gone, sizeof gone, "%s.tmp-%ld-0", path, (long)getpid());
        if (rename(path, gone) != 0)
            return nb_fail(err, NB_IO_ERROR, "%s: cannot be renamed to be removed: %s", path, strerror(errno));
        NB_TRY(ni_folder_remove(gone, err));
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
    int32_t count = ni_checkpoint_list(run_folder, steps, MOST_CHECKPOINTS);
    for (int32_t i = 0; i < count && i < MOST_CHECKPOINTS; i++) {
        nb_error broken = {0};
        ni_checkpoint_path(run_folder, steps[i], path, size);
        if (nb_checkpoint_verify(path, &broken) == NB_OK)
            return NB_OK;
        if (note) {
            char sentence[sizeof broken.message + 64];
            snprintf(sentence, sizeof sentence, "checkpoint passed over: %s", broken.message);
            note(user, NB_NOTE_WARNING, sentence);
        }
    }
    path[0] = 0;
    return nb_fail(err, NB_BAD_FILE, "%s: holds no good checkpoint", run_folder);
}
