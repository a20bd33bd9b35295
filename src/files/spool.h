/* spool.h: bytes that are written one after another and then read as one piece, for what is larger than memory.
 *
 * They lie in a file without a name in the folder of TMPDIR (else /var/tmp, which is a disk where /tmp may be memory),
 * so they are gone when the last view of them is, however the process ends.
 */
#ifndef NI_FILES_SPOOL_H
#define NI_FILES_SPOOL_H

#include "files/file.h"

typedef struct ni_spool ni_spool;

nb_status ni_spool_open(ni_spool **out, nb_error *err);
nb_status ni_spool_put(ni_spool *spool, const void *bytes, size_t size, nb_error *err);
/* All that was put, as a view to be closed by ni_file_map_close; frees the spool whatever happens. */
nb_status ni_spool_map(ni_spool *spool, ni_file_map *out, nb_error *err);
void ni_spool_abandon(ni_spool *spool); /* NULL is allowed */

#endif
