/* scales.h: watches whether quantizers still hold their numbers.
 *
 * A scale that does not fit its tensor gives no NaN: elements saturate beyond the largest code, or whole blocks vanish
 * because their scale rounds to zero. Some of both is normal (nearest E4M3 scales clip a block's largest element now
 * and then); a large share means that the format has lost the tensor.
 */
#ifndef NI_TRAIN_SCALES_H
#define NI_TRAIN_SCALES_H

#include "nibble/lens.h"
#include <stddef.h>

enum { NI_SCALES_TEXT = 160 }; /* bytes that hold its sentence */

typedef struct ni_scale_watch {
    nb_lens lens;        /* give this to a pass */
    double limit;        /* largest share of saturated elements, or of vanished blocks */
    int32_t operands;    /* beyond the limit in this pass */
    double worst;        /* the largest share, and whose it is */
    bool worst_vanished; /* blocks vanished; else elements saturated */
    char where[256];     /* "layers.0.mlp.up_proj fprop.w" */
} ni_scale_watch;

/* Begins a pass: `watch` stays where it is until the pass is over. */
const nb_lens *ni_scale_watch_begin(ni_scale_watch *watch, double limit);

/* One sentence about the pass; false if every operand is within the limit. */
bool ni_scale_watch_text(const ni_scale_watch *watch, char *text, size_t size);

#endif
