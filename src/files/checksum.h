/* checksum.h: XXH3-128 of bytes, as hexadecimal text. Finds flipped bits; no defence against an adversary. */
#ifndef NI_FILES_CHECKSUM_H
#define NI_FILES_CHECKSUM_H

#include "nibble/status.h"
#include <stddef.h>

#define NI_CHECKSUM_SIZE                                                                                               \
    33 /* 32 hexadecimal digits and a 0; the canonical (big-endian) form that xxhsum -H2 prints                        \
        */

void ni_checksum(const void *bytes, size_t size, char out[NI_CHECKSUM_SIZE]);
nb_status ni_checksum_file(const char *path, char out[NI_CHECKSUM_SIZE], nb_error *err);

#endif
