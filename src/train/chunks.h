/* chunks.h: in which chunks gradients are summed over ranks (reduce.h has where each begins). */
#ifndef NI_TRAIN_CHUNKS_H
#define NI_TRAIN_CHUNKS_H

#include "reduce.h"

enum { NI_CHUNK_PARTS = 8 };   /* at least: the first goes when the backward pass has done an eighth */
enum { NI_CHUNK_DOUBLED = 4 }; /* times that the length of chunks doubles, from those that a pass leaves last on */

/* Those of narrow gradients, which are whole sections: an eighth of all or more, and the first section by itself. */
nb_status ni_chunk_sections(ni_reducer *x, const ni_param_array *grads, nb_error *err);

/* Elements of the longest one of real gradients. */
int64_t ni_chunk_most(const ni_reducer *x, const ni_param_array *grads);

#endif
