/* checkpoint_state.h: what a checkpoint holds beside parameters and its page: optimizer.safetensors.
 *
 *     exp_avg/NAME, exp_avg_sq/NAME                moments in the type that the recipe keeps them in
 *     exp_avg_scale/NAME, exp_avg_sq_scale/NAME    F32 [1]: the decode scale, where that type has one
 *     master_scale/NAME                            F32 [1]: of a narrow master, whose values model.safetensors has
 *     state/MODULE/MECHANISM.WHAT                  state of mechanisms
 */
#ifndef NI_TRAIN_CHECKPOINT_STATE_H
#define NI_TRAIN_CHECKPOINT_STATE_H

#include "trainer.h"

nb_status ni_state_write(nb_trainer *t, const char *path, nb_error *err);

/* Where they are shared out, ni_state_write is rank 0's, which asks the others for moments one by one; and so for their
 * masters (an ni_hf_fetch; `self` is the nb_trainer). Meanwhile they are in ni_state_serve, until rank 0 comes to
 * ni_state_served, however its writing ended. What serving takes is there before rank 0 begins: who lacked it then
 * could only leave, and would not be heard. */
typedef struct ni_state_server ni_state_server;
nb_status ni_state_server_create(nb_trainer *t, ni_state_server **out, nb_error *err); /* NULL: nothing is shared out */
void ni_state_server_free(ni_state_server *server);                                    /* after a failure too */
nb_status ni_state_serve(ni_state_server *server, nb_error *err);
nb_status ni_state_master(void *self, int32_t index, void *host, nb_error *err);
nb_status ni_state_served(nb_trainer *t, nb_error *err);

/* With the same recipe every tensor must be there as it was. Another may keep other things: moments go from the file's
 * type to its own, and a mechanism of which the file lacks a part begins anew as a whole. */
nb_status ni_state_read(nb_trainer *t, const char *path, bool same_recipe, nb_error *err);

#endif
