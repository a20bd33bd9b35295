/* state.h: what mechanisms keep, as ranks see it. */
#ifndef NI_MODEL_STATE_H
#define NI_MODEL_STATE_H

#include "linear/mechanism.h"
#include "nibble/model.h"

/* The tensors of all layers' mechanisms that ranks combine in one way, in an order that is the same on every rank;
 * returns how many there are, at most `most` are written. */
int32_t ni_model_combined(nb_model *model, ni_combine how, ni_mechanism_tensor *list, int32_t most);

#endif
