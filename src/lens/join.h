/* join.h: two who look at the same pass. */
#ifndef NB_LENS_JOIN_H
#define NB_LENS_JOIN_H

#include "nibble/lens.h"

typedef struct nb_lens_pair {
    nb_lens lens;
    const nb_lens *members[2];
} nb_lens_pair;

/* One lens through which both look, `first` first; `pair` stays where it is while it is used. Where one is NULL the
 * other is returned, and NULL where both are. */
const nb_lens *nb_lens_join(nb_lens_pair *pair, const nb_lens *first, const nb_lens *second);

#endif
