/* shard_foreign.c: token files of other programs: where the tokens are, how wide, how many. */
#include "shard_foreign.h"
#include "files/file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char magic[9] = "MMIDIDX\0";
enum { INDEX_HEAD = sizeof magic + 8 + 1 + 8 + 8 };

size_t ni_headerless_word(const char *path) {
    const size_t word = strlen("uint16:");
    return strncmp(path, "uint16:", word) == 0 || strncmp(path, "uint32:", word) == 0 ? word : 0;
}

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

bool ni_foreign_shard_is(const char *path) {
    return ni_headerless_word(path) > 0 || ends_with(path, ".idx");
}

/* ---- Megatron's index ---- */

static uint64_t word_at(const unsigned char *bytes, size_t at) {
    uint64_t word;
    memcpy(&word, bytes + at, sizeof word);
    return word;
}

static int32_t width_of(unsigned type) {
    return type == 4 ? 4 : type == 8 ? 2 : 0;
}

/* The stream is NAME.bin as it lies, so its sequences must be all of it, in order. */
static nb_status check_sequences(const unsigned char *lengths, const unsigned char *places, uint64_t sequences,
                                 int64_t tokens_size, ni_foreign_shard *out, nb_error *err) {
    int64_t at = 0;
    for (uint64_t i = 0; i < sequences; i++) {
        int32_t length;
        int64_t place;
        memcpy(&length, lengths + 4 * i, sizeof length);
        memcpy(&place, places + 8 * i, sizeof place);
        if (length < 0 || place != at || length > (tokens_size - at) / out->width)
            return nb_fail(err, NB_BAD_FILE,
                           "sequence %" PRIu64 " of %" PRId32 " tokens lies at byte %" PRId64 "; expected byte %" PRId64
                           " of the %" PRId64 " of the tokens",
                           i, length, place, at, tokens_size);
        at += (int64_t)length * out->width;
    }
    if (at != tokens_size)
        return nb_fail(err, NB_BAD_FILE,
                       "its sequences are %" PRId64 " bytes, the tokens beside it are %" PRId64 ": one of both is cut "
                       "short, or they do not belong together",
                       at, tokens_size);
    out->count = at / out->width;
    return NB_OK;
}

nb_status ni_megatron_parse(const void *data, size_t size, int64_t tokens_size, ni_foreign_shard *out, nb_error *err) {
    const unsigned char *bytes = data;
    if (size < INDEX_HEAD || memcmp(bytes, magic, sizeof magic) != 0)
        return nb_fail(err, NB_BAD_FILE, "not an index of Megatron-LM: expected it to begin with MMIDIDX");
    const uint64_t version = word_at(bytes, sizeof magic);
    const unsigned type = bytes[sizeof magic + 8];
    if (version != 1)
        return nb_fail(err, NB_BAD_FILE, "an index of version %" PRIu64 "; expected 1", version);
    out->width = width_of(type);
    if (!out->width)
        return nb_fail(err, NB_BAD_FILE, "tokens of Megatron's type %u; expected 8 (uint16) or 4 (int32)", type);
    const uint64_t sequences = word_at(bytes, sizeof magic + 9), documents = word_at(bytes, sizeof magic + 17);
    const size_t rest = size - INDEX_HEAD;
    if (sequences > rest / 12 || documents > (rest - 12 * sequences) / 8)
        return nb_fail(err, NB_BAD_FILE,
                       "%" PRIu64 " sequences and %" PRIu64 " documents do not fit its %zu bytes: it is cut short",
                       sequences, documents, size);
    const unsigned char *lengths = bytes + INDEX_HEAD;
    return check_sequences(lengths, lengths + 4 * sequences, sequences, tokens_size, out, err);
}

/* ---- files ---- */

static nb_status size_of(const char *path, int64_t *size, nb_error *err) {
    struct stat status;
    if (stat(path, &status) != 0)
        return ni_fail_errno(err, path, "open");
    *size = (int64_t)status.st_size;
    return NB_OK;
}

static nb_status open_index(const char *path, ni_foreign_shard *out, nb_error *err) {
    ni_file_map map;
    int64_t tokens_size;
    memcpy(out->path + strlen(path) - strlen(".idx"), ".bin", strlen(".bin"));
    NB_TRY(size_of(out->path, &tokens_size, err));
    NB_TRY(ni_file_map_open(path, &map, err));
    nb_status status = ni_megatron_parse(map.bytes, map.size, tokens_size, out, err);
    ni_file_map_close(&map);
    return status == NB_OK ? NB_OK : nb_fail_within(err, "%s", path);
}

static nb_status open_headerless(const char *path, ni_foreign_shard *out, nb_error *err) {
    int64_t size;
    const size_t word = ni_headerless_word(path);
    memmove(out->path, path + word, strlen(path + word) + 1);
    out->width = strncmp(path, "uint16:", word) == 0 ? 2 : 4;
    NB_TRY(size_of(out->path, &size, err));
    if (size % out->width)
        return nb_fail(err, NB_BAD_FILE, "%s: %" PRId64 " bytes are no whole number of %d-byte tokens", path, size,
                       (int)out->width);
    out->count = size / out->width;
    return NB_OK;
}

nb_status ni_foreign_shard_open(const char *path, ni_foreign_shard *out, nb_error *err) {
    *out = (ni_foreign_shard){.path = strdup(path)};
    if (!out->path)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for its name", path);
    nb_status status = ni_headerless_word(path) ? open_headerless(path, out, err) : open_index(path, out, err);
    if (status != NB_OK) {
        free(out->path);
        out->path = NULL;
    }
    return status;
}
