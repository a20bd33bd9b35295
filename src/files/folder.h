/* folder.h: folders that appear whole, such as checkpoints, and the safe removal of folder trees. */
#ifndef NI_FILES_FOLDER_H
#define NI_FILES_FOLDER_H

#include "nibble/status.h"
#include <stdbool.h>

/* A folder under construction. Fill ni_folder_path() with files, then commit. */
typedef struct ni_folder ni_folder;

/* Whether a folder can take this name: what is no folder under it, and without `replace` a folder with something in it,
 * is NB_IO_ERROR. For who has much to do before ni_folder_begin, which asks the same. */
nb_status ni_folder_check(const char *path, bool replace, nb_error *err);

/* Makes an empty folder `path.tmp-PID-N` beside `path`. Parents of `path` must exist. */
nb_status ni_folder_begin(const char *path, bool replace, ni_folder **out, nb_error *err);

/* Where to write meanwhile: the temporary folder. */
const char *ni_folder_path(const ni_folder *folder);

/* Syncs every file in it and lets the system's copies of them go, so that who reads them now reads the disk. */
nb_status ni_folder_sync(const ni_folder *folder, nb_error *err);

/* Syncs every file in it, renames it to its final name, syncs the parent, frees `folder` whatever happens; after a
 * failure the temporary folder is gone. If the final name exists: with `replace` the two are exchanged in one step and
 * the old one removed, otherwise NB_IO_ERROR. */
nb_status ni_folder_commit(ni_folder *folder, nb_error *err);

/* Removes the temporary folder and frees `folder`. NULL is allowed. */
void ni_folder_abandon(ni_folder *folder);

/* Removes a folder and all in it. Never follows a symbolic link; a missing folder is no error. */
nb_status ni_folder_remove(const char *path, nb_error *err);

/* Removes what a killed process left in `path`: entries whose names ni_is_temporary_name. Only for folders with one
 * writer, such as a run folder, and only while it does not write. */
nb_status ni_folder_remove_abandoned(const char *path, nb_error *err);

#endif
