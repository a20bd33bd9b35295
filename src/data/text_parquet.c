/* text_parquet.c: a column of a Parquet file, by libnibble-parquet.so. */
#include "text_file.h"

#include "base/beside.h"
#include "files/spool.h"
#include "parquet.h"

#include <string.h>

enum { ZEROS_ONE_IN = 20 }; /* bytes: more are no text */

#define LIBRARY "libnibble-parquet.so"

bool ni_text_is_parquet(const char *bytes, size_t size) {
    return size >= 4 && memcmp(bytes, "PAR1", 4) == 0;
}

static nb_status other_version(nb_error *err) {
    return nb_fail(err, NB_UNSUPPORTED, LIBRARY " is of another version than this program; hint: make parquet");
}

static nb_status open_library(const char *path, ni_parquet_library_read_function **read, nb_error *err) {
    char why[512];
    void *library = ni_open_beside(LIBRARY, why, sizeof why);
    if (!library && why[0])
        return nb_fail(err, NB_UNSUPPORTED, "%s: is a Parquet file, and " LIBRARY " cannot be opened: %s", path, why);
    if (!library)
        return nb_fail(err, NB_UNSUPPORTED,
                       "%s: is a Parquet file, and there is no " LIBRARY
                       " beside the program, which reads them; hint: make parquet, or three lines of pyarrow "
                       "(docs/data.md) that write its texts into 'nibble tokenize -'",
                       path);
    return ni_find_function(library, NI_PARQUET_READ, read) ? NB_OK : other_version(err);
}

/* Where rows go. */
typedef struct rows {
    ni_spool *spool;
    size_t bytes, zeros; /* inside of rows */
    nb_status status;
    nb_error *err;
} rows;

static bool take(void *context, const char *text, size_t size) {
    rows *to = context;
    const char *at = text, *end = text + size;
    for (to->bytes += size; at < end && (at = memchr(at, 0, (size_t)(end - at))) != NULL; at++)
        to->zeros++;
    to->status = ni_spool_put(to->spool, text, size, to->err);
    if (to->status == NB_OK)
        to->status = ni_spool_put(to->spool, "", 1, to->err);
    return to->status == NB_OK;
}

static nb_status fill(ni_parquet_library_read_function *read, const char *path, const char *bytes, size_t size,
                      const char *column, ni_spool *spool, nb_error *err) {
    char why[NI_PARQUET_WHY] = "";
    rows to = {.spool = spool, .err = err};
    switch (read(NI_PARQUET_FIT, bytes, size, column, take, &to, why)) {
    case NI_PARQUET_DONE:
        if (to.zeros > to.bytes / ZEROS_ONE_IN)
            return nb_fail(err, NB_BAD_FILE,
                           "%s: its column \"%.40s\" has zeros inside of its rows, as UTF-16 has; expected UTF-8", path,
                           column);
        return NB_OK;
    case NI_PARQUET_STOPPED:
        return to.status;
    case NI_PARQUET_BAD_FILE:
        return nb_fail(err, NB_BAD_FILE, "%s: %s", path, why);
    case NI_PARQUET_NO_MEMORY:
        return nb_fail(err, NB_NO_MEMORY, "%s: %s", path, why);
    case NI_PARQUET_UNFIT:
        break;
    }
    return other_version(err);
}

nb_status ni_text_take_column(const char *path, const char *bytes, size_t size, const char *column, ni_file_map *out,
                              nb_error *err) {
    ni_parquet_library_read_function *read;
    ni_spool *spool;
    *out = (ni_file_map){NULL, 0};
    NB_TRY(open_library(path, &read, err));
    NB_TRY(ni_spool_open(&spool, err));
    nb_status status = fill(read, path, bytes, size, column, spool, err);
    if (status == NB_OK)
        return ni_spool_map(spool, out, err);
    ni_spool_abandon(spool);
    return status;
}
