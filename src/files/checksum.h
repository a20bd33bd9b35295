/* checksum.h: XXH3-128 of bytes, as hexadecimal text. Finds flipped bits; no defence against an adversary. */
#ifndef NB_FILES_CHECKSUM_H
#define NB_FILES_CHECKSUM_H

#include "nibble/status.h"
#include <stddef.h>

#define NB_CHECKSUM_SIZE                                                                                               \
    33 /* 32 hexadecimal digits and a 0; the canonical (big-endian) form that xxhsum -H2 prints                        \
        */

void nb_checksum(const void *bytes, size_t size, char out[NB_CHECKSUM_SIZE]);
nb_status nb_checksum_file(const char *path, char out[NB_CHECKSUM_SIZE], nb_error *err);

#endif
