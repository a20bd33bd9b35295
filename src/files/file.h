/* file.h: whole files in, whole files out, nothing half-written.
 *
 * A file that nibble writes appears under its name complete and synced, or not at all: bytes go to `NAME.tmp-PID-N` in
 * the same folder, which is synced and renamed. A full disk or a kill leaves the old file as it was.
 */
#ifndef NI_FILES_FILE_H
#define NI_FILES_FILE_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>

/* Reads a file of at most `limit` bytes into fresh memory with a 0 after the end (free with free()). */
nb_status ni_file_read(const char *path, size_t limit, char **bytes, size_t *size, nb_error *err);

/* Replaces `path` by these bytes: temporary name in the same folder, fsync, rename, fsync of the folder. */
nb_status ni_file_write(const char *path, const void *bytes, size_t size, nb_error *err);

/* Says in one sentence why a call just failed, by errno: NB_NO_MEMORY for ENOMEM, else NB_IO_ERROR. */
nb_status ni_fail_errno(nb_error *err, const char *path, const char *what);
#ifdef __clang_analyzer__ /* as nibble/status.h: never NB_OK */
#define ni_fail_errno(err, path, what) (ni_fail_errno(err, path, what), NB_IO_ERROR)
#endif

/* Whether something has this name. What cannot be looked at is an error, not an absence. */
nb_status ni_file_exists(const char *path, bool *exists, nb_error *err);

/* mkdir -p. */
nb_status ni_make_folders(const char *path, nb_error *err);

/* Fails where ni_make_folders would, or where nothing may be written into the folder, and leaves none behind. */
nb_status ni_try_folders(const char *path, nb_error *err);

/* A read-only view of a whole regular file. The pages follow the file: who shortens it meanwhile kills the reader. */
typedef struct ni_file_map {
    const void *bytes; /* NULL if the file is empty */
    size_t size;
} ni_file_map;
nb_status ni_file_map_open(const char *path, ni_file_map *out, nb_error *err);
void ni_file_map_close(ni_file_map *map);
/* Bytes that were read and are not needed for now: their pages leave the process, and come back when they are read. */
void ni_file_map_forget(const ni_file_map *map, const void *bytes, size_t size);

/* The streaming form of ni_file_write. Ends with a commit or, after a failure of a put, an abandon. */
typedef struct ni_writer ni_writer;
nb_status ni_writer_open(const char *path, ni_writer **out, nb_error *err);
nb_status ni_writer_put(ni_writer *writer, const void *bytes, size_t size, nb_error *err);
/* Overwrites bytes written before, for a header whose counts are known at the end. */
nb_status ni_writer_put_at(ni_writer *writer, size_t offset, const void *bytes, size_t size, nb_error *err);
/* Syncs, renames, syncs the folder; frees the writer whatever happens. */
nb_status ni_writer_commit(ni_writer *writer, nb_error *err);
/* Removes the temporary file and frees the writer. NULL is allowed. */
void ni_writer_abandon(ni_writer *writer);

/* Whether a name is one that a writer or a folder under construction uses ("x.bin.tmp-123-0"). */
bool ni_is_temporary_name(const char *name);

/* fsync of the folder that holds `path`, so that a rename in it survives a power cut. */
nb_status ni_sync_parent(const char *path, nb_error *err);

#endif
