/* shard.c: files of tokens, read in place and written atomically. */
#include "shard.h"
#include "files/npy.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_WORDS = 256, HEADER_BYTES = 4 * HEADER_WORDS };

static const struct { int32_t magic, version, width; } layouts[] = {{20240520, 1, 2}, {20240801, 7, 4}};
enum { LAYOUT_COUNT = sizeof layouts / sizeof layouts[0] };

/* ---- reading ---- */

static nb_status parse_npy(const void *bytes, size_t size, ni_shard *out, nb_error *err) {
    ni_npy npy;
    NB_TRY(ni_npy_view(bytes, size, &npy, err));
    bool known = npy.tensor.dtype == NI_ST_U16 || npy.tensor.dtype == NI_ST_U32;
    if (!known || npy.tensor.rank != 1)
        return nb_fail(err, NB_BAD_FILE,
                       "an array of %s with %d dimensions is no token file, expected uint16 or uint32 with one",
                       npy.descr, (int)npy.tensor.rank);
    out->tokens = npy.tensor.data;
    out->count = npy.tensor.shape[0];
    out->width = (int32_t)ni_tensor_dtype_size(npy.tensor.dtype);
    return NB_OK;
}

static nb_status parse_bin(const void *bytes, size_t size, int layout, ni_shard *out, nb_error *err) {
    int32_t header[HEADER_WORDS];
    if (size < HEADER_BYTES)
        return nb_fail(err, NB_BAD_FILE, "%zu bytes: cut short inside the header of %d bytes", size, HEADER_BYTES);
    memcpy(header, bytes, sizeof header);
    if (header[1] != layouts[layout].version)
        return nb_fail(err, NB_BAD_FILE,
                       "version %" PRId32 " of magic %" PRId32 " is not known, expected version %" PRId32, header[1],
                       header[0], layouts[layout].version);
    uint64_t count = (uint32_t)header[2], width = (uint64_t)layouts[layout].width;
    uint64_t have = size - HEADER_BYTES;
    if (have != count * width)
        return nb_fail(err, NB_BAD_FILE,
                       "the header says %" PRIu64 " tokens of %" PRIu64 " bytes, the file holds %" PRIu64
                       " bytes of tokens%s",
                       count, width, have, have < count * width ? ": it is cut short" : "");
    out->tokens = (const char *)bytes + HEADER_BYTES;
    out->count = (int64_t)count;
    out->width = (int32_t)width;
    return NB_OK;
}

nb_status ni_shard_parse(const void *bytes, size_t size, ni_shard *out, nb_error *err) {
    *out = (ni_shard){0};
    if (size >= 6 && memcmp(bytes, "\x93NUMPY", 6) == 0)
        return parse_npy(bytes, size, out, err);
    int32_t magic = 0;
    if (size >= sizeof magic)
        memcpy(&magic, bytes, sizeof magic);
    for (int i = 0; i < LAYOUT_COUNT; i++)
        if (magic == layouts[i].magic)
            return parse_bin(bytes, size, i, out, err);
    return nb_fail(err, NB_BAD_FILE,
                   "not a token file: begins with %" PRId32
                   ", expected magic 20240520 (uint16) or 20240801 (uint32) or "
                   "a .npy; make one with `nibble tokenize`",
                   magic);
}

nb_status ni_shard_open(const char *path, ni_shard *out, nb_error *err) {
    ni_file_map map;
    *out = (ni_shard){0};
    NB_TRY(ni_file_map_open(path, &map, err));
    nb_status status = ni_shard_parse(map.bytes, map.size, out, err);
    if (status != NB_OK) {
        ni_file_map_close(&map);
        nb_fail_within(err, "%s", path);
        return status;
    }
    out->map = map;
    return NB_OK;
}

void ni_shard_close(ni_shard *shard) {
    ni_file_map_close(&shard->map);
    *shard = (ni_shard){0};
}

static uint32_t token_at(const ni_shard *shard, int64_t index) {
    const char *at = (const char *)shard->tokens + index * shard->width;
    uint16_t narrow;
    uint32_t wide;
    if (shard->width == 2) {
        memcpy(&narrow, at, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, at, sizeof wide);
    return wide;
}

void ni_shard_read(const ni_shard *shard, int64_t first, int64_t count, int32_t *out) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t token = token_at(shard, first + i);
        out[i] = token > INT32_MAX ? INT32_MAX : (int32_t)token;
    }
}

int64_t ni_shard_find_beyond(const ni_shard *shard, int64_t vocab, int64_t limit) {
    int64_t end = shard->count < limit ? shard->count : limit;
    if (shard->width == 2 && vocab > UINT16_MAX)
        return -1;
    for (int64_t i = 0; i < end; i++)
        if (token_at(shard, i) >= vocab)
            return i;
    return -1;
}

/* ---- writing ---- */

struct ni_shard_writer {
    ni_writer *file;
    int32_t width;
    int64_t count;
};

nb_status ni_shard_writer_open(const char *path, int32_t width, ni_shard_writer **out, nb_error *err) {
    const int32_t blank[HEADER_WORDS] = {0};
    *out = NULL;
    if (width != 2 && width != 4)
        return nb_fail(err, NB_BAD_USAGE, "%s: tokens of %d bytes, expected 2 or 4", path, (int)width);
    ni_shard_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to write tokens", path);
    writer->width = width;
    nb_status status = ni_writer_open(path, &writer->file, err);
    if (status == NB_OK)
        status = ni_writer_put(writer->file, blank, sizeof blank, err);
    if (status != NB_OK) {
        ni_shard_writer_abandon(writer);
        return status;
    }
    *out = writer;
    return NB_OK;
}

nb_status ni_shard_writer_put(ni_shard_writer *writer, const int32_t *tokens, int64_t count, nb_error *err) {
    enum { PIECE = 4096 };
    uint16_t narrow[PIECE];
    if (count > INT32_MAX - writer->count)
        return nb_fail(err, NB_BAD_USAGE, "a token file cannot hold more than %d tokens", INT32_MAX);
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < PIECE ? count - done : PIECE;
        for (int64_t i = 0; i < n; i++) {
            int32_t token = tokens[done + i];
            if (token < 0 || (writer->width == 2 && token > UINT16_MAX))
                return nb_fail(err, NB_BAD_USAGE, "token %" PRId32 " does not fit %d bytes", token, (int)writer->width);
            narrow[i] = (uint16_t)token;
        }
        const void *from = writer->width == 2 ? (const void *)narrow : (const void *)(tokens + done);
        NB_TRY(ni_writer_put(writer->file, from, (size_t)(n * writer->width), err));
        done += n;
    }
    writer->count += count;
    return NB_OK;
}

nb_status ni_shard_writer_commit(ni_shard_writer *writer, nb_error *err) {
    const int layout = writer->width == 2 ? 0 : 1;
    const int32_t header[3] = {layouts[layout].magic, layouts[layout].version, (int32_t)writer->count};
    nb_status status = ni_writer_put_at(writer->file, 0, header, sizeof header, err);
    if (status == NB_OK) {
        status = ni_writer_commit(writer->file, err);
        writer->file = NULL;
    }
    ni_shard_writer_abandon(writer);
    return status;
}

void ni_shard_writer_abandon(ni_shard_writer *writer) {
    if (!writer)
        return;
    ni_writer_abandon(writer->file);
    free(writer);
}
