/* series_format.h: the bytes that series_writer.c and series_reader.c agree on; the layout is in series.h. */
#ifndef NI_LENS_SERIES_FORMAT_H
#define NI_LENS_SERIES_FORMAT_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NI_SERIES_MAGIC "nibble series 1\n"
#define NI_SERIES_MAGIC_SIZE 16
#define NI_SERIES_CHUNK_MAGIC 0x4353424Eu
#define NI_SERIES_NAME_SIZE 256 /* with the final 0 */
#define NI_SERIES_NAMES_MOST (1 << 24)

typedef struct ni_series_chunk {
    uint32_t magic;
    uint32_t bytes;
    int64_t step;
    uint64_t checksum;
} ni_series_chunk;

enum { NI_SERIES_RECORD_NAME = 'N', NI_SERIES_RECORD_SCALAR = 'S', NI_SERIES_RECORD_VECTOR = 'V' };

uint64_t ni_series_checksum(int64_t step, const void *payload, size_t bytes);

/* Who hears of what a file holds. Each returns false to end the scan. */
typedef struct ni_series_visitor {
    void *user;
    bool (*chunk)(void *user, int64_t step);    /* before its records; false: leave it and the rest out */
    bool (*name)(void *user, const char *name); /* ids are 0, 1, 2, ... in this order */
    bool (*values)(void *user, int64_t step, uint32_t id, uint32_t count, const unsigned char *f32); /* unaligned */
} ni_series_visitor;

/* Whether bytes behind the last good chunk are the beginning of one of `first_step` or later, as a crash leaves it,
 * rather than damage. */
bool ni_series_is_torn(const void *bytes, size_t size, int64_t first_step);

/* Reads chunk after chunk as long as they are whole and sound. `*good` is the offset behind the last one visited;
 * `*refused` (may be NULL) tells that a visitor, not the file, ended the scan. */
nb_status ni_series_scan(const void *bytes, size_t size, const ni_series_visitor *visitor, size_t *good, bool *refused,
                         nb_error *err);

#endif
