/* tokenizer_kept.c: files of a tokenizer, read and written to the byte. */
#include "tokenizer_kept.h"

#include "files/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[NI_KEPT_MAX] = {[NI_KEPT_MODEL] = NI_TOKENIZER_MODEL,
                                               [NI_KEPT_CONFIG] = NI_TOKENIZER_CONFIG,
                                               [NI_KEPT_JSON] = NI_TOKENIZER_JSON,
                                               "special_tokens_map.json",
                                               "added_tokens.json",
                                               "vocab.json",
                                               "merges.txt"};

static nb_status path_of(const char *folder, const char *name, char *path, size_t size, nb_error *err) {
    int n = snprintf(path, size, "%s/%s", folder, name);
    return n >= 0 && (size_t)n < size ? NB_OK : nb_fail(err, NB_BAD_USAGE, "%.100s...: the name is too long", folder);
}

nb_status ni_kept_read(const char *folder, ni_tokenizer_kept *kept, nb_error *err) {
    ni_kept_free(kept);
    for (int i = 0; i < NI_KEPT_MAX; i++) {
        char path[4096];
        bool exists;
        NB_TRY(path_of(folder, names[i], path, sizeof path, err));
        NB_TRY(ni_file_exists(path, &exists, err));
        if (exists)
            NB_TRY(ni_file_read(path, NI_KEPT_LIMIT, &kept->files[i].bytes, &kept->files[i].size, err));
    }
    return NB_OK;
}

void ni_kept_drop(ni_tokenizer_kept *kept, bool (*is_listed)(const void *context, const char *name),
                  const void *context) {
    for (int i = 0; i < NI_KEPT_MAX; i++)
        if (kept->files[i].bytes && !is_listed(context, names[i])) {
            free(kept->files[i].bytes);
            kept->files[i] = (ni_kept_file){NULL, 0};
        }
}

nb_status ni_kept_write(const ni_tokenizer_kept *kept, const char *folder, nb_error *err) {
    for (int i = 0; i < NI_KEPT_MAX; i++) {
        char path[4096];
        if (!kept->files[i].bytes)
            continue;
        NB_TRY(path_of(folder, names[i], path, sizeof path, err));
        NB_TRY(ni_file_write(path, kept->files[i].bytes, kept->files[i].size, err));
    }
    return NB_OK;
}

void ni_kept_free(ni_tokenizer_kept *kept) {
    for (int i = 0; i < NI_KEPT_MAX; i++)
        free(kept->files[i].bytes);
    *kept = (ni_tokenizer_kept){0};
}

const ni_kept_file *ni_kept_find(const ni_tokenizer_kept *kept, const char *name) {
    static const ni_kept_file none = {NULL, 0};
    for (int i = 0; i < NI_KEPT_MAX; i++)
        if (strcmp(names[i], name) == 0)
            return &kept->files[i];
    return &none;
}

void ni_kept_replace(ni_kept_file *file, char *text) {
    free(file->bytes);
    *file = (ni_kept_file){text, strlen(text)};
}

int ni_kept_count(const ni_tokenizer_kept *kept) {
    int count = 0;
    for (int i = 0; i < NI_KEPT_MAX; i++)
        count += kept->files[i].bytes != NULL;
    return count;
}
