/* shard_foreign.h: token files of other programs, whose layout their first bytes do not tell.
 *
 *   NAME.idx      Megatron-LM's index of NAME.bin beside it (megatron/core/datasets/indexed_dataset.py):
 *                     "MMIDIDX\0\0", uint64 version 1, uint8 type, uint64 sequences S, uint64 documents D,
 *                     int32 lengths [S], int64 places in NAME.bin [S], int64 documents [D]
 *                 types 4 (int32) and 8 (uint16); the sequences must fill NAME.bin one behind the other
 *   uint16:NAME   tokens from the first byte to the last (nanoGPT's train.bin); uint32:NAME the same
 */
#ifndef NI_DATA_SHARD_FOREIGN_H
#define NI_DATA_SHARD_FOREIGN_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_foreign_shard {
    char *path; /* where the tokens are, from the first byte on; to be freed */
    int32_t width;
    int64_t count;
} ni_foreign_shard;

/* The word "uint16:" or "uint32:" before a path: how long it is, 0 where there is none. */
size_t ni_headerless_word(const char *path);

/* True if the name says so; then *out, or the reason why not. */
bool ni_foreign_shard_is(const char *path);
nb_status ni_foreign_shard_open(const char *path, ni_foreign_shard *out, nb_error *err);

/* An index in memory, beside tokens of so many bytes. */
nb_status ni_megatron_parse(const void *data, size_t size, int64_t tokens_size, ni_foreign_shard *out, nb_error *err);

#endif
