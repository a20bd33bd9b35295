/* lens_npz.c: a zip of .npy files, stored as they are: what NumPy calls npz (numpy.lib.format; PKWARE's
 * APPNOTE 6.3, 4.3). */
#include "cli/lens_npz.h"
#include "files/file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { LOCAL = 30, CENTRAL = 46, END = 22, NPY_HEAD = 128, NAME_LIMIT = 1024, MEMBER_LIMIT = 65535 };

typedef struct zip {
    ni_writer *writer;
    uint64_t at;    /* bytes written */
    char *contents; /* the central directory: an entry a member */
    size_t used, room;
    int32_t members;
} zip;

static char *put16(char *to, uint32_t value) {
    to[0] = (char)value;
    to[1] = (char)(value >> 8);
    return to + 2;
}

static char *put32(char *to, uint32_t value) {
    return put16(put16(to, value), value >> 16);
}

/* What both headers of a member have in common, from "version needed" to "length of the extra field". */
static char *put_common(char *to, const char *bytes, size_t size, size_t name) {
    const uint32_t utf8 = 0x0800, first_of_january_1980 = 0x21;
    uint32_t crc = (uint32_t)crc32_z(0, (const unsigned char *)bytes, size);
    to = put16(put16(put16(to, 20), utf8), 0);
    to = put16(put16(to, 0), first_of_january_1980);
    to = put32(put32(put32(to, crc), (uint32_t)size), (uint32_t)size);
    return put16(put16(to, (uint32_t)name), 0);
}

static nb_status add_member(zip *z, const char *name, const char *bytes, size_t size, nb_error *err) {
    size_t length = strlen(name);
    if (z->members == MEMBER_LIMIT || z->at + size + LOCAL + length > UINT32_MAX)
        return nb_fail(
            err, NB_UNSUPPORTED,
            "more than %d arrays or 4 GiB, which a zip cannot hold; hint: --metric or --module leave some out",
            MEMBER_LIMIT);
    size_t needed = z->used + CENTRAL + length + END;
    if (needed > z->room) {
        char *more = realloc(z->contents, 2 * needed);
        if (!more)
            return nb_fail(err, NB_NO_MEMORY, "no memory for the names of %" PRId32 " arrays", z->members);
        z->contents = more;
        z->room = 2 * needed;
    }
    char head[LOCAL], *entry = z->contents + z->used;
    put_common(put32(head, 0x04034b50), bytes, size, length);
    char *end = put_common(put16(put32(entry, 0x02014b50), 20), bytes, size, length);
    memset(end, 0, CENTRAL - (size_t)(end - entry)); /* no comment, first disk, no attributes */
    put32(entry + CENTRAL - 4, (uint32_t)z->at);
    memcpy(entry + CENTRAL, name, length);
    z->used += CENTRAL + length;
    z->members++;
    z->at += LOCAL + length + size;
    NB_TRY(ni_writer_put(z->writer, head, sizeof head, err));
    NB_TRY(ni_writer_put(z->writer, name, length, err));
    return ni_writer_put(z->writer, bytes, size, err);
}

static nb_status put_end(zip *z, nb_error *err) {
    char end[END] = {0};
    char *to = put16(put16(put32(end, 0x06054b50) + 4, (uint32_t)z->members), (uint32_t)z->members);
    put32(put32(to, (uint32_t)z->used), (uint32_t)z->at);
    NB_TRY(ni_writer_put(z->writer, z->contents, z->used, err));
    return ni_writer_put(z->writer, end, sizeof end, err);
}

/* Version 1.0: magic, length of the header, a dictionary, filled up to NPY_HEAD bytes. */
static void put_npy_head(char *to, const char *descr, int64_t rows, int64_t cols) {
    char shape[48];
    if (cols == 1)
        snprintf(shape, sizeof shape, "(%" PRId64 ",)", rows);
    else
        snprintf(shape, sizeof shape, "(%" PRId64 ", %" PRId64 ")", rows, cols);
    memset(to, ' ', NPY_HEAD);
    memcpy(to, "\x93NUMPY\x01\x00", 8);
    put16(to + 8, NPY_HEAD - 10);
    int used = snprintf(to + 10, NPY_HEAD - 10, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
    to[10 + used] = ' ';
    to[NPY_HEAD - 1] = '\n';
}

static nb_status add_series(zip *z, const ni_series_reader *r, int32_t n, nb_error *err) {
    const int64_t rows = ni_series_points(r, n);
    int64_t cols = 1;
    for (int64_t i = 0; i < rows; i++)
        cols = ni_series_at(r, n, i).count > cols ? ni_series_at(r, n, i).count : cols;
    size_t values_size = NPY_HEAD + (size_t)rows * (size_t)cols * sizeof(float);
    size_t steps_size = NPY_HEAD + (size_t)rows * sizeof(int64_t);
    char *values = malloc(values_size), *steps = malloc(steps_size), member[NAME_LIMIT];
    if (!values || !steps) {
        free(values);
        free(steps);
        return nb_fail(err, NB_NO_MEMORY, "no memory for %" PRId64 " samples of %s", rows, ni_series_name(r, n));
    }
    put_npy_head(values, "<f4", rows, cols);
    put_npy_head(steps, "<i8", rows, 1);
    for (int64_t i = 0; i < rows; i++) {
        ni_series_point at = ni_series_at(r, n, i);
        for (int64_t k = 0; k < cols; k++) {
            float value = k < at.count ? at.values[k] : NAN;
            memcpy(values + NPY_HEAD + (size_t)(i * cols + k) * sizeof value, &value, sizeof value);
        }
        memcpy(steps + NPY_HEAD + (size_t)i * sizeof at.step, &at.step, sizeof at.step);
    }
    snprintf(member, sizeof member, "%s.npy", ni_series_name(r, n));
    nb_status status = add_member(z, member, values, values_size, err);
    snprintf(member, sizeof member, "%s@step.npy", ni_series_name(r, n));
    if (status == NB_OK)
        status = add_member(z, member, steps, steps_size, err);
    free(values);
    free(steps);
    return status;
}

nb_status ni_lens_npz(const ni_series_reader *r, ni_lens_wants *wants, const void *context, const char *path,
                      nb_error *err) {
    zip z = {0};
    NB_TRY(ni_writer_open(path, &z.writer, err));
    nb_status status = NB_OK;
    for (int32_t n = 0; status == NB_OK && n < ni_series_names(r); n++)
        if (wants(context, ni_series_name(r, n)) && ni_series_points(r, n) > 0)
            status = add_series(&z, r, n, err);
    if (status == NB_OK)
        status = put_end(&z, err);
    free(z.contents);
    if (status == NB_OK)
        return ni_writer_commit(z.writer, err);
    ni_writer_abandon(z.writer);
    nb_fail_within(err, "%s", path);
    return status;
}
