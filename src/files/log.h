/* log.h: files that grow while a run goes: metrics, series, events.
 *
 * What was put is written by a flush, whole or not at all: after a full disk the file ends where it ended before, and
 * the next flush tries the same bytes again.
 */
#ifndef NI_FILES_LOG_H
#define NI_FILES_LOG_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct ni_log ni_log;

/* Opens `path` for appending; a new file's name is on disk when this returns. `fresh`: it must not be there yet. */
nb_status ni_log_open(const char *path, bool fresh, ni_log **out, nb_error *err);
void ni_log_close(ni_log *log); /* tries once more to write what waits; NULL is allowed */

/* Adds bytes to what the next flush writes. Without memory, or when 64 MiB wait already, the log takes nothing more and
 * each flush says so: a file that lacks a piece in the middle would serve nobody. */
void ni_log_put(ni_log *log, const void *bytes, size_t size);
nb_status ni_log_flush(ni_log *log, nb_error *err);
nb_status ni_log_sync(ni_log *log, nb_error *err); /* flush, and then fdatasync */

/* Cuts the file to `size` bytes. */
nb_status ni_log_cut(ni_log *log, size_t size, nb_error *err);

const char *ni_log_path(const ni_log *log);

/* Gives a file the first free name of PATH.damaged-1, -2, ... and says which in `aside`. */
nb_status ni_file_set_aside(const char *path, char *aside, size_t size, nb_error *err);

#endif
