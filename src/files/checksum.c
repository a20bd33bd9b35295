/* checksum.c: XXH3-128 through libxxhash. */
#include "checksum.h"
#include "file.h"

#include <stdio.h>
#include <xxhash.h>

static void write_digest(XXH128_hash_t hash, char out[NI_CHECKSUM_SIZE]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        snprintf(out + 2 * i, 3, "%02x", canonical.digest[i]);
}

void ni_checksum(const void *bytes, size_t size, char out[NI_CHECKSUM_SIZE]) {
    write_digest(XXH3_128bits(bytes, size), out);
}

/* A piece at a time, so that a checkpoint that is verified costs the process no memory of its size. */
nb_status ni_checksum_file(const char *path, char out[NI_CHECKSUM_SIZE], nb_error *err) {
    enum { PIECE = 1 << 20 };
    ni_file_map map;
    NB_TRY(ni_file_map_open(path, &map, err));
    XXH3_state_t *state = XXH3_createState();
    if (state) {
        XXH3_128bits_reset(state);
        for (size_t at = 0; at < map.size; at += PIECE) {
            const size_t left = map.size - at, size = left < PIECE ? left : PIECE;
            const char *piece = (const char *)map.bytes + at;
            XXH3_128bits_update(state, piece, size);
            ni_file_map_forget(&map, piece, size);
        }
        write_digest(XXH3_128bits_digest(state), out);
        XXH3_freeState(state);
    }
    ni_file_map_close(&map);
    return state ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for its checksum", path);
}
