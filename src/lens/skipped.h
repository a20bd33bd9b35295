/* skipped.h: what could not be measured, and why: nothing is left out in silence. */
#ifndef NB_LENS_SKIPPED_H
#define NB_LENS_SKIPPED_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct nb_skip {
    const char *what, *why; /* "oscillation", "in BF16"; literals */
    char first[128];        /* where it was first met: "layers.0.mlp.up_proj/fprop.w" */
    int32_t count;          /* operands or modules; each is told once */
} nb_skip;

enum { NB_SKIPS_MOST = 32 };

typedef struct nb_skipped {
    nb_skip items[NB_SKIPS_MOST];
    int32_t count;
    bool changed; /* since it was last written */
} nb_skipped;

void nb_skip_note(nb_skipped *skipped, const char *what, const char *why, const char *where);

/* Writes "what: why (n operands, the first WHERE)", one a line, if there is something new. */
nb_status nb_skipped_write(nb_skipped *skipped, const char *path, nb_error *err);

#endif
