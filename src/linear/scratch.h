/* scratch.h: working memory of one pass of a group of linear layers. Temporaries are handed out from the front and
 * taken back in one move; what layers share (X in codes) is handed out from the back and stays until the pass ends.
 *
 *     size_t mark = scratch->used;
 *     void *sum = nb_scratch_take(scratch, bytes);     NULL if it does not fit: nb_scratch_short says how much was
 *     ...
 *     scratch->used = mark;
 *
 * Nothing is cleared. The memory is the backend's; only the addresses are computed here.
 */
#ifndef NB_LINEAR_SCRATCH_H
#define NB_LINEAR_SCRATCH_H

#include "nibble/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct nb_scratch {
    uint8_t *memory; /* 64-byte aligned */
    size_t size;
    size_t used, kept; /* from the front, from the back */
} nb_scratch;

/* What a piece of so many bytes takes. */
static inline size_t nb_scratch_room(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static inline void *nb_scratch_take(nb_scratch *scratch, size_t bytes) {
    size_t room = nb_scratch_room(bytes);
    if (!scratch->memory || room > scratch->size - scratch->used - scratch->kept)
        return NULL;
    void *piece = scratch->memory + scratch->used;
    scratch->used += room;
    return piece;
}

/* The same from the back: stays when the front is taken back. */
static inline void *nb_scratch_keep(nb_scratch *scratch, size_t bytes) {
    size_t room = nb_scratch_room(bytes);
    if (!scratch->memory || room > scratch->size - scratch->used - scratch->kept)
        return NULL;
    scratch->kept += room;
    return scratch->memory + (scratch->size / 64 * 64 - scratch->kept);
}

/* A scratch that is too small is a wrong sum in one of the *_scratch functions. */
static inline nb_status nb_scratch_short(const nb_scratch *scratch, const char *what, size_t bytes, nb_error *err) {
    return nb_fail(err, NB_INTERNAL, "scratch memory: %zu bytes for %s do not fit in the %zu left of %zu", bytes, what,
                   scratch->size - scratch->used - scratch->kept, scratch->size);
}

#endif
