/* circle.h: ranks that sum, and which piece of an array each of them adds up. */
#ifndef NI_TRAIN_CIRCLE_H
#define NI_TRAIN_CIRCLE_H

#include "model/param_array.h"

enum { NI_PIECE_ALIGNED = 64 }; /* bytes at whose multiples pieces begin */

typedef struct ni_circle {
    int32_t count, self;   /* members; which of them this rank is */
    int32_t first, stride; /* member i is rank first + i stride */
    size_t *begin;         /* [count + 1]: bytes of the chunk at which pieces begin */
    int32_t *tensor;       /* [count + 1]: the same in tensors, where the type is narrow */
} ni_circle;

nb_status ni_circle_take_memory(ni_circle *c, nb_error *err);
void ni_circle_free(ni_circle *c);

/* Bytes begin .. end - 1 in pieces as equal as their alignment lets them be. */
void ni_circle_cut(const ni_circle *c, size_t begin, size_t end);
/* All of `bytes` is one member's. */
void ni_circle_cut_for(const ni_circle *c, int32_t member, size_t bytes);
/* Whole tensors begin .. end - 1: a sum has one scale. Each goes to the member in whose share of the range its middle
 * lies. */
void ni_circle_cut_tensors(const ni_circle *c, const ni_param_array *grads, int32_t begin, int32_t end);

/* Bytes of a member's piece. */
size_t ni_circle_piece(const ni_circle *c, int32_t member);
/* Where what another member has of the own piece lies in a room for all of them, and what that room takes: each piece
 * may be one unit longer in another chunk. */
size_t ni_circle_place(const ni_circle *c, int32_t member);
size_t ni_circle_room(const ni_circle *c);

#endif
