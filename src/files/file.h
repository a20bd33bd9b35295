/* file.h: whole files in, whole files out, nothing half-written. */
#ifndef NB_FILES_FILE_H
#define NB_FILES_FILE_H

#include "nibble/status.h"
#include <stddef.h>

/* Reads a file of at most `limit` bytes into fresh memory with a 0 after the end (free with free()). */
nb_status nb_file_read(const char *path, size_t limit, char **bytes, size_t *size, nb_error *err);

/* Replaces `path` by these bytes: temporary name in the same folder, fsync, rename, fsync of the folder. */
nb_status nb_file_write(const char *path, const void *bytes, size_t size, nb_error *err);

/* mkdir -p. */
nb_status nb_make_folders(const char *path, nb_error *err);

#endif
