/* shard.h: files of tokens.
 *
 * These layouts are read, piece by piece: a file that is cut while it is read is an error, never a dead process.
 *   llm.c .bin   256 int32 (magic, version, count, zeros), then the tokens;
 *                magic 20240520 version 1: uint16; magic 20240801 version 7: uint32
 *   .npy         one dimension of uint16 or uint32
 * and those of shard_foreign.h, whose names say what they are: NAME.idx, uint16:NAME, uint32:NAME.
 * The .bin layout is written. Format: github.com/karpathy/llm.c, dev/data/data_common.py. What we write is sealed:
 * int32 3 is NI_SHARD_SEAL, 4 and 5 are the XXH3-64 of the header with these two as 0, seeded by the XXH3-64 of the
 * tokens.
 */
#ifndef NI_DATA_SHARD_H
#define NI_DATA_SHARD_H

#include "files/file.h"
#include "nibble/status.h"
#include <stdbool.h>
#include <stdint.h>

#define NI_SHARD_SEAL 0x4C53424E /* "NBSL" */

typedef struct ni_shard {
    const void *tokens; /* [count], in the caller's memory; perhaps unaligned in a .npy. NULL: in the file `fd` */
    int fd;             /* -1: opened at each reading, where descriptors are getting scarce */
    char *path;         /* NULL with `tokens` */
    int64_t offset;     /* of the tokens in the file */
    int64_t count;
    int32_t width;      /* bytes of a token: 2 or 4 */
    int32_t begin[256]; /* the header of a .bin */
    bool sealed;
} ni_shard;

/* Opens a file; its layout is told by its name (shard_foreign.h) or its first bytes. */
nb_status ni_shard_open(const char *path, ni_shard *out, nb_error *err);
/* The same over bytes in memory, which must outlive the shard. */
nb_status ni_shard_parse(const void *bytes, size_t size, ni_shard *out, nb_error *err);
void ni_shard_close(ni_shard *shard);

/* Copies tokens [first, first + count) out; the range must lie inside. Ids above INT32_MAX become INT32_MAX, which no
 * vocabulary holds. Fails where the file no longer holds them. */
nb_status ni_shard_read(const ni_shard *shard, int64_t first, int64_t count, int32_t *out, nb_error *err);

/* The bytes of the tokens from byte `begin` on. */
nb_status ni_shard_bytes(const ni_shard *shard, int64_t begin, size_t size, char *to, nb_error *err);

/* What one reading of a whole shard shows. */
typedef struct ni_shard_survey {
    uint64_t tokens_sum; /* XXH3-64 of the tokens' bytes */
    int64_t beyond;      /* position of the first token outside the vocabulary, or -1 */
} ni_shard_survey;

/* Reads all of it. NB_BAD_FILE where it is sealed and the seal does not agree. `vocab` is that of `beyond`. */
nb_status ni_shard_survey_all(const ni_shard *shard, int64_t vocab, ni_shard_survey *out, nb_error *err);

/* Writes a .bin atomically, tokens arriving in pieces. Width 2 takes ids below 65536. */
typedef struct ni_shard_writer ni_shard_writer;
nb_status ni_shard_writer_open(const char *path, int32_t width, ni_shard_writer **out, nb_error *err);
nb_status ni_shard_writer_put(ni_shard_writer *writer, const int32_t *tokens, int64_t count, nb_error *err);
/* Both free the writer; NULL is allowed for abandon. */
nb_status ni_shard_writer_commit(ni_shard_writer *writer, nb_error *err);
void ni_shard_writer_abandon(ni_shard_writer *writer);

#endif
