/* checksum.c: XXH3-128 through libxxhash. */
#include "checksum.h"
#include "file.h"

#include <stdio.h>
#include <xxhash.h>

void ni_checksum(const void *bytes, size_t size, char out[NI_CHECKSUM_SIZE]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        snprintf(out + 2 * i, 3, "%02x", canonical.digest[i]);
}

nb_status ni_checksum_file(const char *path, char out[NI_CHECKSUM_SIZE], nb_error *err) {
    ni_file_map map;
    NB_TRY(ni_file_map_open(path, &map, err));
    ni_checksum(map.bytes, map.size, out);
    ni_file_map_close(&map);
    return NB_OK;
}
