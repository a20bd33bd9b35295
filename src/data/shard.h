/* shard.h: files of tokens.
 *
 * Two layouts are read, both mapped into memory and never copied:
 *   llm.c .bin   256 int32 (magic, version, count, zeros), then the tokens;
 *                magic 20240520 version 1: uint16; magic 20240801 version 7: uint32
 *   .npy         one dimension of uint16 or uint32
 * The .bin layout is written. Format: github.com/karpathy/llm.c, dev/data/data_common.py.
 */
#ifndef NI_DATA_SHARD_H
#define NI_DATA_SHARD_H

#include "files/file.h"
#include "nibble/status.h"
#include <stdint.h>

typedef struct ni_shard {
    ni_file_map map;    /* bytes NULL if the caller owns the memory */
    const void *tokens; /* [count]; perhaps unaligned in a .npy */
    int64_t count;
    int32_t width; /* bytes of a token: 2 or 4 */
} ni_shard;

/* Maps a file; its layout is told by its first bytes. */
nb_status ni_shard_open(const char *path, ni_shard *out, nb_error *err);
/* The same over bytes in memory, which must outlive the shard. */
nb_status ni_shard_parse(const void *bytes, size_t size, ni_shard *out, nb_error *err);
void ni_shard_close(ni_shard *shard);

/* Copies tokens [first, first + count) out; the range must lie inside. Ids above INT32_MAX become INT32_MAX, which no
 * vocabulary holds. */
void ni_shard_read(const ni_shard *shard, int64_t first, int64_t count, int32_t *out);

/* Position of the first token outside [0, vocab) among the first `limit` tokens, or -1. */
int64_t ni_shard_find_beyond(const ni_shard *shard, int64_t vocab, int64_t limit);

/* Writes a .bin atomically, tokens arriving in pieces. Width 2 takes ids below 65536. */
typedef struct ni_shard_writer ni_shard_writer;
nb_status ni_shard_writer_open(const char *path, int32_t width, ni_shard_writer **out, nb_error *err);
nb_status ni_shard_writer_put(ni_shard_writer *writer, const int32_t *tokens, int64_t count, nb_error *err);
/* Both free the writer; NULL is allowed for abandon. */
nb_status ni_shard_writer_commit(ni_shard_writer *writer, nb_error *err);
void ni_shard_writer_abandon(ni_shard_writer *writer);

#endif
