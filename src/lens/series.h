/* series.h: numbers over steps, in one append-only file that survives a crash.
 *
 *     file   = magic "nibble series 1\n", chunk, chunk, ...
 *     chunk  = u32 0x4353424E ("NBSC") | u32 payload bytes | i64 step | u64 XXH3-64 of the payload, step as seed |
 * payload record = 'N' u32 id u16 length bytes      names an id, once in the file | 'S' u32 id f32 value             a
 * scalar | 'V' u32 id u32 count f32[count]  a vector
 *
 * Little-endian. One chunk holds all that one step recorded, under one checksum: a step is there whole or not at all.
 * A torn tail (a crash while writing) ends the file for readers and is cut off by the next writer. A file with damage
 * is set aside by the next writer, which goes on with its good beginning.
 */
#ifndef NI_LENS_SERIES_H
#define NI_LENS_SERIES_H

#include "nibble/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct ni_series_writer ni_series_writer;

/* Opens `path` for appending, creating it if it is not there. Chunks of steps >= `first_step` are dropped (a resumed
 * run writes them again), and so is a torn tail. */
nb_status ni_series_writer_open(const char *path, int64_t first_step, ni_series_writer **out, nb_error *err);
void ni_series_writer_close(ni_series_writer *writer); /* drops what was not committed */

/* Adds to the current step. Running out of memory is remembered and reported by ni_series_commit. */
void ni_series_put(ni_series_writer *writer, const char *name, double value);
void ni_series_put_vector(ni_series_writer *writer, const char *name, const float *values, int64_t count);

/* Writes all that was put since the last commit as one chunk of `step`. */
nb_status ni_series_commit(ni_series_writer *writer, int64_t step, nb_error *err);
void ni_series_forget(ni_series_writer *writer); /* what was put since the last commit, but for new names */
nb_status ni_series_sync(ni_series_writer *writer, nb_error *err); /* what was committed is on disk */

const char *ni_series_aside(const ni_series_writer *writer); /* the name of what was set aside; "": nothing was */

/* One number or vector of one name at one step. */
typedef struct ni_series_point {
    int64_t step;
    int64_t count;       /* 1 for a scalar */
    const float *values; /* [count]; inside the reader's memory */
} ni_series_point;

typedef struct ni_series_reader ni_series_reader;

/* Reads a whole file; trusts nothing in it. `cut` (may be NULL) tells how many bytes of a torn tail were left out. */
nb_status ni_series_read(const char *path, ni_series_reader **out, int64_t *cut, nb_error *err);
nb_status ni_series_parse(const void *bytes, size_t size, ni_series_reader **out, int64_t *cut, nb_error *err);
void ni_series_reader_free(ni_series_reader *reader);

int32_t ni_series_names(const ni_series_reader *reader);
const char *ni_series_name(const ni_series_reader *reader, int32_t name);
int32_t ni_series_find(const ni_series_reader *reader, const char *name); /* -1 if absent */
int64_t ni_series_points(const ni_series_reader *reader, int32_t name);
ni_series_point ni_series_at(const ni_series_reader *reader, int32_t name, int64_t index); /* in order of the file */

/* A sample that is spread over steps says over how many, under this name, at the first of them. */
#define NI_SERIES_SPREAD "sample/steps"

/* Where a point belongs: at the first step of its sample, if it is one of those that looked at its block; else at its
 * own. */
int64_t ni_series_sample(const ni_series_reader *reader, int32_t name, int64_t step);

#endif
