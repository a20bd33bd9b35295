/* neighbours.h: GPUs of one machine that read each other's memory, so that an exchange needs no kernel.
 *
 * NCCL's sends and receives are kernels that take multiprocessors from the backward pass which they are to go on
 * behind. What is read from another GPU's memory is moved by copy engines, which no product waits for; ranks say to
 * each other over the host's wire when there is something to read.
 */
#ifndef NI_TRAIN_NEIGHBOURS_H
#define NI_TRAIN_NEIGHBOURS_H

#include "backend/backend.h"
#include "dist/ranks.h"

typedef struct ni_neighbours {
    nb_backend *be;
    const char *own; /* an array that the others read as this rank reads theirs */
    char **theirs;   /* [world]: where this process sees that of each rank; NULL where it does not */
    int32_t world;
} ni_neighbours;

/* For `count` ranks from `first` on, this one among them, which lie on one machine; every rank calls it, with an array
 * of 16 bytes or more whose ends and middle are alike in all of them. Where one of them cannot reach another, none has
 * neighbours afterwards: out->theirs is NULL. */
nb_status ni_neighbours_meet(nb_ranks *ranks, nb_backend *be, int32_t first, int32_t count, void *array,
                             ni_neighbours *out, nb_error *err);
void ni_neighbours_free(ni_neighbours *p);

#endif
