/* state_copy.h: what mechanisms keep between steps, copied to the host and put back. */
#ifndef NI_TRAIN_STATE_COPY_H
#define NI_TRAIN_STATE_COPY_H

#include "trainer.h"

typedef struct ni_state_copy {
    nb_state_tensor *tensors; /* whose data is the host's */
    int32_t count;
} ni_state_copy;

/* On failure too the copy is to be freed. */
nb_status ni_state_copy_take(nb_trainer *trainer, ni_state_copy *out, nb_error *err);
void ni_state_copy_free(ni_state_copy *copy);

/* Gives the model what it still has tensors for; those whose name ends with `leave` (NULL: none) stay as they are. */
nb_status ni_state_copy_put(nb_trainer *trainer, const ni_state_copy *copy, const char *leave, nb_error *err);

#endif
