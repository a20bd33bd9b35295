/* alike.h: whether ranks train one and the same run. */
#ifndef NI_TRAIN_ALIKE_H
#define NI_TRAIN_ALIKE_H

#include "nibble/train.h"

/* NB_BAD_CONFIG on all ranks where one read another run file, recipe or data than rank 0, or would sum products in
 * another order. */
nb_status ni_trainer_check_alike(const nb_trainer *trainer, nb_error *err);

#endif
