/* join.h: two who look at the same pass. */
#ifndef NI_LENS_JOIN_H
#define NI_LENS_JOIN_H

#include "nibble/lens.h"

typedef struct ni_lens_both {
    nb_lens lens;
    const nb_lens *members[2];
} ni_lens_both;

typedef struct ni_lens_pair {
    ni_lens_both all, block; /* the block that is looked at now */
} ni_lens_pair;

/* One lens through which both look, `first` first; `pair` stays where it is while it is used. Where one is NULL the
 * other is returned, and NULL where both are. */
const nb_lens *ni_lens_join(ni_lens_pair *pair, const nb_lens *first, const nb_lens *second);

#endif
