/* text_unpack.c: gzip by zlib (RFC 1952), zstd by its library (RFC 8878). */
#include "text_file.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

typedef struct unpacked {
    char *bytes;
    size_t size, room;
} unpacked;

/* Room for more, twice as much each time. */
static nb_status grow(const char *path, unpacked *to, nb_error *err) {
    size_t room = to->room ? 2 * to->room : 1 << 16;
    char *bytes = realloc(to->bytes, room);
    if (!bytes)
        return nb_fail(err, NB_NO_MEMORY, "%s: %zu bytes of it unpacked do not fit in memory; hint: unpack it first",
                       path, room);
    to->bytes = bytes;
    to->room = room;
    return NB_OK;
}

static nb_status gunzip_on(const char *path, z_stream *z, unpacked *to, const char *bytes, size_t size, nb_error *err) {
    size_t at = 0;
    int said = Z_OK;
    while (said != Z_STREAM_END || at < size) {
        if (said == Z_STREAM_END) { /* another member; zeros behind the last one are padding */
            if (bytes[at] == 0)
                return NB_OK;
            inflateReset(z);
        }
        if (to->size == to->room)
            NB_TRY(grow(path, to, err));
        size_t in = size - at < INT_MAX ? size - at : INT_MAX, out = to->room - to->size;
        out = out < INT_MAX ? out : INT_MAX;
        z->next_in = (z_const Bytef *)(bytes + at);
        z->avail_in = (uInt)in;
        z->next_out = (Bytef *)(to->bytes + to->size);
        z->avail_out = (uInt)out;
        said = inflate(z, Z_NO_FLUSH);
        at += in - z->avail_in;
        to->size += out - z->avail_out;
        if (said == Z_BUF_ERROR || (said == Z_OK && at == size && z->avail_out > 0))
            return nb_fail(err, NB_BAD_FILE, "%s: the gzip file ends too early; expected a whole one", path);
        if (said != Z_OK && said != Z_STREAM_END)
            return nb_fail(err, NB_BAD_FILE, "%s: the gzip file is damaged near byte %zu: %s", path, at,
                           z->msg ? z->msg : "it cannot be unpacked");
    }
    return NB_OK;
}

static nb_status gunzip(const char *path, unpacked *to, const char *bytes, size_t size, nb_error *err) {
    z_stream z = {0};
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) /* 16: gzip alone */
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to unpack it", path);
    nb_status status = gunzip_on(path, &z, to, bytes, size, err);
    inflateEnd(&z);
    return status;
}

static nb_status unzstd_on(const char *path, ZSTD_DCtx *z, unpacked *to, const char *bytes, size_t size,
                           nb_error *err) {
    ZSTD_inBuffer in = {bytes, size, 0};
    size_t left = 1;
    bool full = false;
    while (in.pos < size || full) {
        if (to->size == to->room)
            NB_TRY(grow(path, to, err));
        ZSTD_outBuffer out = {to->bytes, to->room, to->size};
        left = ZSTD_decompressStream(z, &out, &in);
        if (ZSTD_isError(left))
            return nb_fail(err, NB_BAD_FILE, "%s: the zstd file is damaged near byte %zu: %s", path, in.pos,
                           ZSTD_getErrorName(left));
        to->size = out.pos;
        full = out.pos == out.size && left != 0; /* more may wait inside */
    }
    return left == 0 ? NB_OK
                     : nb_fail(err, NB_BAD_FILE, "%s: the zstd file ends too early; expected a whole one", path);
}

static nb_status unzstd(const char *path, unpacked *to, const char *bytes, size_t size, nb_error *err) {
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (!z)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to unpack it", path);
    nb_status status = unzstd_on(path, z, to, bytes, size, err);
    ZSTD_freeDCtx(z);
    return status;
}

nb_status ni_text_unpack(const char *path, const char *bytes, size_t size, char **out, size_t *out_size,
                         nb_error *err) {
    unpacked to = {0};
    bool gzip = size >= 2 && memcmp(bytes, "\x1f\x8b", 2) == 0,
         zstd = size >= 4 && memcmp(bytes, "\x28\xb5\x2f\xfd", 4) == 0;
    *out = NULL;
    *out_size = 0;
    if (!gzip && !zstd)
        return NB_OK;
    nb_status status = grow(path, &to, err);
    if (status == NB_OK)
        status = gzip ? gunzip(path, &to, bytes, size, err) : unzstd(path, &to, bytes, size, err);
    if (status != NB_OK) {
        free(to.bytes);
        return status;
    }
    *out = to.bytes;
    *out_size = to.size;
    return NB_OK;
}
