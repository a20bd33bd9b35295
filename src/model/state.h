/* state.h: what mechanisms keep, as ranks see it. */
#ifndef NI_MODEL_STATE_H
#define NI_MODEL_STATE_H

#include "linear/mechanism.h"
#include "nibble/model.h"

/* The tensors of all layers' mechanisms that ranks combine in one way, in an order that is the same on every rank;
 * returns how many there are, at most `most` are written. */
int32_t ni_model_combined(nb_model *model, ni_combine how, ni_mechanism_tensor *out, int32_t most);

/* Update `taken` of a calibration moved the masters; see `calibrate` in linear/mechanism.h. */
nb_status ni_model_calibrate(nb_model *model, const nb_pass *pass, int32_t taken, nb_error *err);

/* Whether a mechanism gives each element of a parameter a pace of its own: sum, steps and period of *out. */
bool ni_model_ramp(const nb_model *model, int32_t param, ni_ramped *out);

/* Where the optimizer, which moves this parameter now, leaves its largest magnitude; NULL: nobody asks. */
uint32_t *ni_model_maximum(nb_model *model, int32_t param);

/* Where it leaves the parameter rounded to act, for products in BF16; NULL: none reads it, or it moves again. */
void *ni_model_numbers(nb_model *model, int32_t param);

#endif
