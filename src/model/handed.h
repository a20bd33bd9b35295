/* handed.h: parameters as another rank reads them: those that linear layers alone read (linear/handed.c), and an
 * embedding whose rows are looked up: all ranks have a place for its master, in which others have what is read of it.
 */
#ifndef NI_MODEL_HANDED_H
#define NI_MODEL_HANDED_H

#include "linear/linear.h"
#include "nibble/model.h"

/* Of a model that was created to hand on codes. *why: what reads the master, where it is NI_HANDED_MASTER. */
ni_handed ni_model_handed(const nb_model *model, int32_t param, const char **why);
size_t ni_model_handed_bytes(const nb_model *model, int32_t param);

/* Before parcels of the tensors begin .. end - 1 are made: what is stale of them, by few calls as far as can be. */
nb_status ni_model_ready_to_put(nb_model *model, int32_t begin, int32_t end, const nb_pass *pass, nb_error *err);
/* Out of a rank that has the master, into one that lacks it. */
nb_status ni_model_put(nb_model *model, int32_t param, const nb_pass *pass, void *parcel, nb_error *err);
nb_status ni_model_take(nb_model *model, int32_t param, void *parcel, nb_error *err);

/* Numbers of a parameter that layers read as they are lie at `place` from here on (ni_weight_lay); false: it has none.
 */
bool ni_model_lay(nb_model *model, int32_t param, void *place);

/* Called before a forward pass reads a section of parameters (ni_model_gradients has which are in it); in the end with
 * INT32_MAX. NULL: nobody is. */
typedef nb_status ni_weight_watch(void *self, int32_t section, nb_error *err);
void ni_model_watch_weights(nb_model *model, ni_weight_watch *watch, void *self);

#endif
