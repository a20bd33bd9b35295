/* spool.c: a temporary file whose name goes before anything is in it. */
#include "spool.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FOLDER_ROOM = 4096 };

struct ni_spool {
    FILE *file;
    size_t size;
    char folder[FOLDER_ROOM];
};

static nb_status fail(const ni_spool *spool, const char *what, nb_error *err) {
    char name[FOLDER_ROOM + 64];
    snprintf(name, sizeof name, "a temporary file in %s (TMPDIR names another folder)", spool->folder);
    return ni_fail_errno(err, name, what);
}

static nb_status begin(ni_spool *spool, nb_error *err) {
    char name[FOLDER_ROOM + 32];
    const char *folder = getenv("TMPDIR");
    snprintf(spool->folder, sizeof spool->folder, "%s", folder && *folder ? folder : "/var/tmp");
    snprintf(name, sizeof name, "%s/nibble-XXXXXX", spool->folder);
    const int fd = mkstemp(name);
    if (fd < 0)
        return fail(spool, "open", err);
    unlink(name);
    spool->file = fdopen(fd, "w+");
    if (spool->file)
        return NB_OK;
    close(fd);
    return fail(spool, "open", err);
}

nb_status ni_spool_open(ni_spool **out, nb_error *err) {
    ni_spool *spool = calloc(1, sizeof *spool);
    *out = NULL;
    if (!spool)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a temporary file");
    nb_status status = begin(spool, err);
    if (status == NB_OK)
        *out = spool;
    else
        ni_spool_abandon(spool);
    return status;
}

nb_status ni_spool_put(ni_spool *spool, const void *bytes, size_t size, nb_error *err) {
    if (size > 0 && fwrite(bytes, 1, size, spool->file) != size)
        return fail(spool, "write", err);
    spool->size += size;
    return NB_OK;
}

nb_status ni_spool_map(ni_spool *spool, ni_file_map *out, nb_error *err) {
    nb_status status = NB_OK;
    *out = (ni_file_map){NULL, 0};
    if (fflush(spool->file) != 0) {
        status = fail(spool, "write", err);
    } else if (spool->size > 0) {
        void *bytes = mmap(NULL, spool->size, PROT_READ, MAP_PRIVATE, fileno(spool->file), 0);
        if (bytes == MAP_FAILED)
            status = fail(spool, "map into memory", err);
        else
            *out = (ni_file_map){bytes, spool->size};
    }
    ni_spool_abandon(spool);
    return status;
}

void ni_spool_abandon(ni_spool *spool) {
    if (spool && spool->file)
        fclose(spool->file);
    free(spool);
}
