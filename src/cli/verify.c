/* verify.c: `nibble verify`: reads everything under a path again and compares it with the checksums that it carries. */
#include "base/text.h"
#include "cli/cli.h"
#include "data/dataset.h"
#include "data/shard.h"
#include "files/file.h"
#include "files/safetensors.h"
#include "lens/series.h"
#include "lens/tensorboard.h"
#include "nibble/train.h"
#include "train/manifest.h"
#include "train/metrics.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PATH_LIMIT 2048

static const ni_command_line line = {
    .usage = "PATH...",
    .about =
        "Reads checkpoints, run folders, token shards and folders of them, safetensors, series and event files, and "
        "compares\n"
        "every byte that has a checksum with it. A line for each: good, wrong and why, or plain (whole, and without a\n"
        "checksum of its own). Exit status 0 if nothing is wrong, else 1.\n"
        "Example: nibble verify runs/demo data/tinystories",
    .least = 1,
    .most = -1,
};

typedef struct tally {
    int32_t good, plain, wrong;
} tally;

/* Says what became of `path`. An error is one of the thing that is verified, never of the command. */
static void tell(tally *t, nb_status status, bool summed, const char *path, const nb_error *why) {
    if (status != NB_OK)
        printf("wrong  %s\n", why->message);
    else
        printf("%s  %s\n", summed ? "good " : "plain", path);
    t->wrong += status != NB_OK;
    t->good += status == NB_OK && summed;
    t->plain += status == NB_OK && !summed;
}

static bool exists_in(const char *folder, const char *name) {
    char path[PATH_LIMIT];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return stat(path, &st) == 0;
}

/* ---- files ---- */

static void verify_shard(tally *t, const char *path) {
    ni_shard shard;
    ni_shard_survey seen;
    nb_error err = {0};
    nb_status status = ni_shard_open(path, &shard, &err);
    bool sealed = false;
    if (status == NB_OK) {
        sealed = shard.sealed;
        status = ni_shard_survey_all(&shard, INT32_MAX, &seen, &err);
        if (status != NB_OK)
            nb_fail_within(&err, "%s", path);
        ni_shard_close(&shard);
    }
    tell(t, status, sealed, path, &err);
}

static void verify_log(tally *t, const char *path) {
    char *bytes;
    size_t size;
    nb_error err = {0};
    nb_status status = ni_file_read(path, SIZE_MAX / 2, &bytes, &size, &err);
    bool summed = true, torn, damaged = false;
    if (status == NB_OK) {
        if (ni_ends_with(path, ".jsonl")) {
            summed = false; /* each line is read, and carries no checksum */
            ni_metrics_keep(bytes, size, INT64_MAX, INT64_MAX, &damaged);
        } else if (ni_ends_with(path, ".nbs")) {
            int64_t cut = 0;
            ni_series_reader *reader = NULL;
            status = ni_series_parse(bytes, size, &reader, &cut, &err);
            ni_series_reader_free(reader);
            damaged = status == NB_BAD_FILE || cut > 0;
        } else {
            damaged = ni_events_good(bytes, size, &torn) != size && !torn;
        }
        free(bytes);
        if (damaged)
            status = nb_fail(&err, NB_BAD_FILE, "%s: is damaged, or its end is not whole", path);
    }
    tell(t, status, summed, path, &err);
}

static void verify_tensors(tally *t, const char *path) {
    ni_safetensors *file;
    nb_error err = {0};
    nb_status status = ni_safetensors_open(path, &file, &err);
    if (status == NB_OK)
        ni_safetensors_close(file);
    tell(t, status, false, path, &err);
}

static bool is_shard(const char *name) {
    return ni_ends_with(name, ".bin") || ni_ends_with(name, ".npy");
}

static bool is_log(const char *name) {
    return ni_ends_with(name, ".jsonl") || ni_ends_with(name, ".nbs") || strstr(name, ".tfevents.") != NULL;
}

static bool verify_file(tally *t, const char *path) {
    if (is_shard(path))
        verify_shard(t, path);
    else if (is_log(path))
        verify_log(t, path);
    else if (ni_ends_with(path, ".safetensors"))
        verify_tensors(t, path);
    else
        return false;
    return true;
}

/* ---- folders ---- */

/* Names of a folder in order; free with free_names. 0 of one that is not there; one that cannot be listed is wrong. */
static int names_of(tally *t, const char *folder, struct dirent ***names) {
    *names = NULL;
    int count = scandir(folder, names, NULL, alphasort);
    nb_error err = {0};
    if (count < 0 && errno != ENOENT)
        tell(t, ni_fail_errno(&err, folder, "list the folder"), true, folder, &err);
    return count < 0 ? 0 : count;
}

static void free_names(struct dirent **names, int count) {
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

static void verify_unlisted(tally *t, const char *folder, const ni_manifest *m) {
    struct dirent **names;
    int count = names_of(t, folder, &names);
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name;
        nb_error err = {0};
        if (name[0] != '.' && strcmp(name, NI_MANIFEST_NAME) != 0 && !ni_manifest_lists(m, name)) {
            nb_fail(&err, NB_BAD_FILE, "%s/%s: is not listed in %s, so nibble does not read it; others may", folder,
                    name, NI_MANIFEST_NAME);
            tell(t, NB_BAD_FILE, true, folder, &err);
        }
    }
    free_names(names, count);
}

static void verify_checkpoint(tally *t, const char *folder) {
    ni_manifest m;
    nb_error err = {0};
    nb_status status = ni_manifest_read(folder, &m, &err);
    if (status != NB_OK) {
        tell(t, status, true, folder, &err);
        return;
    }
    const char *name;
    json_t *entry;
    int32_t wrong = t->wrong;
    json_object_foreach(json_object_get(m.root, "files"), name, entry) {
        status = ni_manifest_verify_file(folder, &m, name, &err);
        if (status != NB_OK)
            tell(t, status, true, folder, &err);
    }
    verify_unlisted(t, folder, &m);
    if (t->wrong == wrong) {
        status = ni_manifest_verify(folder, &m, &err);
        tell(t, status, true, folder, &err);
    }
    ni_manifest_free(&m);
}

/* The data as the newest checkpoint says it was. */
static void verify_data(tally *t, const char *run, const char *pattern, uint64_t said, const ni_manifest *m,
                        int64_t sequences) {
    ni_dataset_options options = {.seq = m->config.seq, .vocab = INT32_MAX, .end_of_text = -1, .sequences = sequences};
    ni_dataset *data;
    nb_error err = {0};
    if (!said || !*pattern)
        return;
    nb_status status = ni_dataset_open(&pattern, 1, &options, &data, &err);
    if (status == NB_OK) {
        if (ni_dataset_sum(data) != said)
            status = nb_fail(&err, NB_BAD_FILE, "%s: is other data than %s was made with", pattern, run);
        ni_dataset_free(data);
    }
    tell(t, status, true, pattern, &err);
}

static void verify_files(tally *t, const char *folder) {
    struct dirent **names;
    char path[PATH_LIMIT];
    int count = names_of(t, folder, &names);
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] != '.' && !strstr(names[i]->d_name, ".damaged-") &&
            snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name) < (int)sizeof path)
            verify_file(t, path);
    }
    free_names(names, count);
}

static void verify_run(tally *t, const char *run) {
    char path[PATH_LIMIT], newest[PATH_LIMIT];
    struct dirent **names;
    nb_error err = {0};
    snprintf(path, sizeof path, "%s/checkpoints", run);
    int count = names_of(t, path, &names);
    for (int i = 0; i < count; i++) {
        if (strncmp(names[i]->d_name, "step-", 5) == 0 &&
            snprintf(path, sizeof path, "%s/checkpoints/%s", run, names[i]->d_name) < (int)sizeof path)
            verify_checkpoint(t, path);
    }
    free_names(names, count);
    verify_files(t, run);
    snprintf(path, sizeof path, "%s/lens", run);
    verify_files(t, path);
    ni_manifest m;
    if (nb_checkpoint_newest(run, newest, sizeof newest, NULL, NULL, &err) != NB_OK ||
        ni_manifest_read(newest, &m, &err) != NB_OK)
        return;
    verify_data(t, run, m.config.data.train, m.data_sum, &m, 0);
    verify_data(t, run, m.config.data.val, m.val_sum, &m, m.config.eval.sequences);
    ni_manifest_free(&m);
}

static void verify(tally *t, const char *path) {
    struct stat st;
    nb_error err = {0};
    const int32_t before = t->good + t->plain + t->wrong;
    if (stat(path, &st) != 0)
        tell(t, ni_fail_errno(&err, path, "examine"), true, path, &err);
    else if (!S_ISDIR(st.st_mode))
        verify_file(t, path);
    else if (exists_in(path, "run.yaml") || exists_in(path, "checkpoints"))
        verify_run(t, path);
    else if (exists_in(path, NI_MANIFEST_NAME) || exists_in(path, NI_OPTIMIZER_NAME))
        verify_checkpoint(t, path);
    else
        verify_files(t, path);
    if (t->good + t->plain + t->wrong > before)
        return;
    nb_fail(&err, NB_BAD_USAGE,
            "%s: holds nothing that can be verified; expected a checkpoint, a run folder, "
            "token shards, a series or .safetensors",
            path);
    tell(t, NB_BAD_USAGE, true, path, &err);
}

nb_status ni_cli_verify(int argc, char **argv, nb_error *err) {
    int32_t count;
    tally t = {0};
    NB_TRY(ni_cli_parse(&line, argc, argv, NULL, &count, err));
    if (count < 0)
        return NB_OK;
    for (int32_t i = 1; i <= count; i++)
        verify(&t, argv[i]);
    printf("%d good, %d without a checksum of their own, %d wrong\n", t.good, t.plain, t.wrong);
    return t.wrong == 0 ? NB_OK : nb_fail(err, NB_IO_ERROR, "%d wrong", t.wrong);
}
