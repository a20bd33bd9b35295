/* skipped.h: what could not be measured, and why: nothing is left out in silence. */
#ifndef NI_LENS_SKIPPED_H
#define NI_LENS_SKIPPED_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_skip {
    const char *what, *why; /* "oscillation", "in BF16"; literals */
    char first[128];        /* where it was first met: "layers.0.mlp.up_proj/fprop.w" */
    int32_t count;          /* operands or modules; each is told once */
} ni_skip;

enum { NI_SKIPS_MOST = 32 };

typedef struct ni_skipped {
    ni_skip items[NI_SKIPS_MOST];
    int32_t count;
    bool changed; /* since it was last written */
} ni_skipped;

void ni_skip_note(ni_skipped *skipped, const char *what, const char *why, const char *where);

/* Writes "what: why (n operands, the first WHERE)", one a line, if there is something new. */
nb_status ni_skipped_write(ni_skipped *skipped, const char *path, nb_error *err);

#endif
