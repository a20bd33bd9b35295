/* temporary.h: a fresh folder for a test's files. */
#ifndef NI_TESTS_TEMPORARY_H
#define NI_TESTS_TEMPORARY_H

#include "files/folder.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka set-up: *state becomes the path of an empty folder. */
static int temporary_folder(void **state) {
    const char *base = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/nibble-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(path))
        return -1;
    *state = strdup(path);
    return *state ? 0 : -1;
}

/* cmocka tear-down: removes it with all in it. */
static int remove_temporary_folder(void **state) {
    nb_status status = ni_folder_remove(*state, NULL);
    free(*state);
    return status == NB_OK ? 0 : -1;
}

/* `folder/name` in one of eight buffers used in turn. */
static const char *in_folder(void **state, const char *name) {
    static char paths[8][600];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", (const char *)*state, name);
    return path;
}

#endif
