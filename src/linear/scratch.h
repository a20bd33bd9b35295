/* scratch.h: working memory of one pass of a group of linear layers. Temporaries are handed out from the front and
 * taken back in one move; what lasts until the pass ends is handed out from the back.
 *
 *     size_t mark = scratch->used;
 *     NB_TRY(ni_scratch_place(scratch, bytes, "a sum", &sum, err));
 *     ...
 *     scratch->used = mark;
 *
 * How much there must be is not computed apart from its use: the same code runs once over a scratch that only counts
 * (ni_scratch_counting) and gives out addresses that nobody may follow. Nothing is cleared. The memory is the
 * backend's; only the addresses are computed here.
 */
#ifndef NI_LINEAR_SCRATCH_H
#define NI_LINEAR_SCRATCH_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_scratch {
    uint8_t *memory; /* 64-byte aligned */
    size_t size;
    size_t used, kept; /* from the front, from the back */
    bool counting;
    size_t peak; /* the most that was used and kept together, while counting */
} ni_scratch;

static inline ni_scratch ni_scratch_counting(void) {
    ni_scratch scratch = {.size = SIZE_MAX / 4, .counting = true};
    return scratch;
}

/* What a piece of so many bytes takes. */
static inline size_t ni_scratch_room(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* Takes `room` bytes at `at` from the beginning. */
static inline void *ni_scratch_at(ni_scratch *scratch, size_t at) {
    size_t all = scratch->used + scratch->kept;
    if (!scratch->counting)
        return scratch->memory + at;
    scratch->peak = all > scratch->peak ? all : scratch->peak;
    return (void *)(uintptr_t)(64 + at);
}

static inline bool ni_scratch_fits(const ni_scratch *scratch, size_t room) {
    return (scratch->memory || scratch->counting) && room <= scratch->size - scratch->used - scratch->kept;
}

/* NULL if it does not fit. */
static inline void *ni_scratch_take(ni_scratch *scratch, size_t bytes) {
    size_t room = ni_scratch_room(bytes), at = scratch->used;
    if (!ni_scratch_fits(scratch, room))
        return NULL;
    scratch->used += room;
    return ni_scratch_at(scratch, at);
}

/* The same from the back: stays when the front is taken back. */
static inline void *ni_scratch_keep(ni_scratch *scratch, size_t bytes) {
    size_t room = ni_scratch_room(bytes);
    if (!ni_scratch_fits(scratch, room))
        return NULL;
    scratch->kept += room;
    return ni_scratch_at(scratch, scratch->size / 64 * 64 - scratch->kept);
}

/* A scratch that is too small: the walk that measured it did not come by here. */
static inline nb_status ni_scratch_short(const ni_scratch *scratch, const char *what, size_t bytes, nb_error *err) {
    return nb_fail(err, NB_INTERNAL, "scratch memory: %zu bytes for %s do not fit in the %zu left of %zu", bytes, what,
                   scratch->size - scratch->used - scratch->kept, scratch->size);
}

static inline nb_status ni_scratch_place(ni_scratch *scratch, size_t bytes, const char *what, void **memory,
                                         nb_error *err) {
    *memory = ni_scratch_take(scratch, bytes);
    return *memory ? NB_OK : ni_scratch_short(scratch, what, bytes, err);
}

static inline nb_status ni_scratch_place_kept(ni_scratch *scratch, size_t bytes, const char *what, void **memory,
                                              nb_error *err) {
    *memory = ni_scratch_keep(scratch, bytes);
    return *memory ? NB_OK : ni_scratch_short(scratch, what, bytes, err);
}

#endif
