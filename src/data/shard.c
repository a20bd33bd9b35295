/* shard.c: files of tokens, read in place and written atomically. */
#include "shard.h"
#include "files/npy.h"
#include "shard_foreign.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { HEADER_WORDS = 256, HEADER_BYTES = 4 * HEADER_WORDS };
enum { SEAL_WORD = 3, SUM_WORD = 4 }; /* of the header */
enum { PIECE_BYTES = 1 << 20 };       /* read at a time where all is read */
enum { DESCRIPTORS = 256 };           /* a run of thousands of shards holds no more of them open */

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
    out->sealed = header[SEAL_WORD] == NI_SHARD_SEAL;
    if (!out->sealed && (header[SUM_WORD] || header[SUM_WORD + 1]))
        return nb_fail(err, NB_BAD_FILE,
                       "the header is neither sealed nor zero behind its first words: it was damaged");
    memcpy(out->begin, header, sizeof header);
    out->tokens = (const char *)bytes + HEADER_BYTES;
    out->count = (int64_t)count;
    out->width = (int32_t)width;
    return NB_OK;
}

nb_status ni_shard_parse(const void *bytes, size_t size, ni_shard *out, nb_error *err) {
    *out = (ni_shard){.fd = -1};
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
                   "a .npy; make one with `nibble tokenize`; a file without a header is uint16:FILE, Megatron's is "
                   "named by its FILE.idx",
                   magic);
}

static nb_status take_file(const char *path, ni_shard *out, nb_error *err) {
    out->tokens = NULL;
    out->path = strdup(path);
    out->fd = open(path, O_RDONLY | O_CLOEXEC);
    nb_status status = out->fd < 0 || !out->path ? ni_fail_errno(err, path, "open") : NB_OK;
    if (out->fd >= DESCRIPTORS || status != NB_OK) {
        close(out->fd);
        out->fd = -1;
    }
    return status;
}

static nb_status open_foreign(const char *path, ni_shard *out, nb_error *err) {
    ni_foreign_shard foreign;
    NB_TRY(ni_foreign_shard_open(path, &foreign, err));
    out->width = foreign.width;
    out->count = foreign.count;
    nb_status status = take_file(foreign.path, out, err);
    free(foreign.path);
    return status;
}

/* The map serves for the header alone: who shortens a mapped file kills its readers. */
static nb_status open_told(const char *path, ni_shard *out, nb_error *err) {
    ni_file_map map;
    NB_TRY(ni_file_map_open(path, &map, err));
    nb_status status = ni_shard_parse(map.bytes, map.size, out, err);
    if (status != NB_OK)
        nb_fail_within(err, "%s", path);
    if (status == NB_OK) {
        out->offset = (const char *)out->tokens - (const char *)map.bytes;
        status = take_file(path, out, err);
    }
    ni_file_map_close(&map);
    return status;
}

nb_status ni_shard_open(const char *path, ni_shard *out, nb_error *err) {
    *out = (ni_shard){.fd = -1};
    nb_status status = ni_foreign_shard_is(path) ? open_foreign(path, out, err) : open_told(path, out, err);
    if (status != NB_OK)
        ni_shard_close(out);
    return status;
}

void ni_shard_close(ni_shard *shard) {
    if (shard->fd >= 0)
        close(shard->fd);
    free(shard->path);
    *shard = (ni_shard){.fd = -1};
}

static nb_status read_at(int fd, const ni_shard *shard, int64_t begin, size_t size, char *to, nb_error *err) {
    while (size > 0) {
        ssize_t got = pread(fd, to, size, (off_t)(shard->offset + begin));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return nb_fail(err, NB_IO_ERROR, "tokens cannot be read: %s", strerror(errno));
        if (got == 0)
            return nb_fail(err, NB_IO_ERROR,
                           "the file ends before byte %" PRId64 ", expected %" PRId64
                           " bytes: it was cut while it was in use",
                           shard->offset + begin, shard->offset + shard->count * shard->width);
        to += got;
        begin += got;
        size -= (size_t)got;
    }
    return NB_OK;
}

nb_status ni_shard_bytes(const ni_shard *shard, int64_t begin, size_t size, char *to, nb_error *err) {
    if (shard->tokens) {
        memcpy(to, (const char *)shard->tokens + begin, size);
        return NB_OK;
    }
    int fd = shard->fd >= 0 ? shard->fd : open(shard->path, O_RDONLY | O_CLOEXEC);
    nb_status status = fd >= 0 ? read_at(fd, shard, begin, size, to, err)
                               : nb_fail(err, NB_IO_ERROR, "tokens cannot be read: %s", strerror(errno));
    if (fd >= 0 && fd != shard->fd)
        close(fd);
    return status;
}

static int32_t token_at(const char *bytes, int32_t width, int64_t index) {
    uint16_t narrow;
    uint32_t wide;
    if (width == 2) {
        memcpy(&narrow, bytes + 2 * index, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, bytes + 4 * index, sizeof wide);
    return wide > INT32_MAX ? INT32_MAX : (int32_t)wide;
}

nb_status ni_shard_read(const ni_shard *shard, int64_t first, int64_t count, int32_t *out, nb_error *err) {
    enum { PIECE = 4096 };
    char bytes[4 * PIECE];
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < PIECE ? count - done : PIECE;
        NB_TRY(ni_shard_bytes(shard, (first + done) * shard->width, (size_t)(n * shard->width), bytes, err));
        for (int64_t i = 0; i < n; i++)
            out[done + i] = token_at(bytes, shard->width, i);
        done += n;
    }
    return NB_OK;
}

/* ---- reading all of it ---- */

static int64_t find_beyond(const char *bytes, int32_t width, int64_t count, int64_t vocab) {
    if (width == 2 && vocab > UINT16_MAX)
        return -1;
    for (int64_t i = 0; i < count; i++)
        if (token_at(bytes, width, i) >= vocab)
            return i;
    return -1;
}

static uint64_t seal_of(const int32_t header[HEADER_WORDS], uint64_t tokens_sum) {
    int32_t blank[HEADER_WORDS];
    memcpy(blank, header, sizeof blank);
    blank[SUM_WORD] = blank[SUM_WORD + 1] = 0;
    return XXH3_64bits_withSeed(blank, sizeof blank, tokens_sum);
}

nb_status ni_shard_survey_all(const ni_shard *shard, int64_t vocab, ni_shard_survey *out, nb_error *err) {
    XXH3_state_t *sum = XXH3_createState();
    char *bytes = malloc(PIECE_BYTES);
    nb_status status = sum && bytes ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory to read the tokens");
    *out = (ni_shard_survey){.beyond = -1};
    if (status == NB_OK)
        XXH3_64bits_reset(sum);
    for (int64_t at = 0, all = shard->count * shard->width; status == NB_OK && at < all; at += PIECE_BYTES) {
        size_t n = (size_t)(all - at < PIECE_BYTES ? all - at : PIECE_BYTES);
        status = ni_shard_bytes(shard, at, n, bytes, err);
        if (status != NB_OK)
            break;
        XXH3_64bits_update(sum, bytes, n);
        int64_t beyond = out->beyond < 0 ? find_beyond(bytes, shard->width, (int64_t)n / shard->width, vocab) : -1;
        if (beyond >= 0)
            out->beyond = at / shard->width + beyond;
    }
    if (status == NB_OK)
        out->tokens_sum = XXH3_64bits_digest(sum);
    XXH3_freeState(sum);
    free(bytes);
    uint64_t said;
    memcpy(&said, &shard->begin[SUM_WORD], sizeof said);
    if (status == NB_OK && shard->sealed && seal_of(shard->begin, out->tokens_sum) != said)
        return nb_fail(err, NB_BAD_FILE, "its checksum does not agree: it was damaged or edited since it was written");
    return status;
}

/* ---- writing ---- */

struct ni_shard_writer {
    ni_writer *file;
    XXH3_state_t *sum; /* of the tokens */
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
    writer->sum = XXH3_createState();
    if (!writer->sum) {
        ni_shard_writer_abandon(writer);
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to write tokens", path);
    }
    XXH3_64bits_reset(writer->sum);
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
        XXH3_64bits_update(writer->sum, from, (size_t)(n * writer->width));
        NB_TRY(ni_writer_put(writer->file, from, (size_t)(n * writer->width), err));
        done += n;
    }
    writer->count += count;
    return NB_OK;
}

nb_status ni_shard_writer_commit(ni_shard_writer *writer, nb_error *err) {
    const int layout = writer->width == 2 ? 0 : 1;
    int32_t header[HEADER_WORDS] = {layouts[layout].magic, layouts[layout].version, (int32_t)writer->count,
                                    NI_SHARD_SEAL};
    const uint64_t seal = seal_of(header, XXH3_64bits_digest(writer->sum));
    memcpy(&header[SUM_WORD], &seal, sizeof seal);
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
    XXH3_freeState(writer->sum);
    free(writer);
}
