/* arena.h: one block of backend memory, measured first and handed out second.
 *
 * The code that takes pieces runs twice: once over an arena without memory, which only counts, and once over the
 * memory of that size. So a size is never computed apart from its use.
 */
#ifndef NI_MODEL_ARENA_H
#define NI_MODEL_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct ni_arena {
    uint8_t *memory; /* 64-byte aligned; NULL while measuring */
    size_t used, peak;
} ni_arena;

/* What an allocation of so many bytes takes. */
static inline size_t ni_arena_round(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static inline void *ni_arena_take(ni_arena *arena, size_t bytes) {
    size_t at = arena->used;
    arena->used += (bytes + 63) / 64 * 64;
    arena->peak = arena->used > arena->peak ? arena->used : arena->peak;
    return arena->memory ? arena->memory + at : NULL;
}

#endif
