/* params.h: all parameters in one array of masters and one of gradients, with Hugging Face's names.
 *
 * Tensors are declared first, then the arrays are made. Each tensor starts at a multiple of 16 elements; what lies
 * between is zero and stays zero.
 *
 * Where ranks share masters out (`parted`), those of linear layers are placed last (ni_params_place), once it is known
 * who reads them: a rank may lack some.
 *
 * Where the recipe keeps masters in fewer bits, those of linear layers (every matrix but the embedding) lie in an array
 * of their own; what reads one decodes it into a room that all share.
 *
 * A backward pass adds up gradients in `real`. Where the recipe keeps them in fewer bits it does so in a window that
 * holds one section at a time (a branch, the head, the embedding): when the pass is done with a section, its gradients
 * are packed and the window serves the next one. So gradients never lie in `real` whole. Nor do they where somebody
 * else keeps them (ni_model_create in param_array.h): then a complete section is handed on.
 */
#ifndef NI_MODEL_PARAMS_H
#define NI_MODEL_PARAMS_H

#include "linear/linear.h"
#include "model/param_array.h"

typedef struct ni_params {
    nb_backend *be;
    nb_param *list;
    int32_t count, capacity;
    int64_t elements;
    int32_t section;     /* first tensor of the section that is being declared */
    int32_t *section_of; /* [count]: first tensor of the section that each belongs to */
    ni_scaled *masters;  /* [count]: where each lies */
    void *values;        /* real: those that are not narrow; parted: nor of a linear layer */
    size_t values_bytes;
    bool parted;
    void *common, *own; /* parted, of linear layers: those that every rank has, and those of this one */
    size_t common_bytes, own_bytes;
    bool lacks;   /* some are another rank's alone */
    void *narrow; /* those that are, and their scales [count]; NULL where all are real */
    float *scales;
    size_t narrow_bytes;
    ni_master_room room;
    size_t room_bytes;
    ni_param_array grads; /* empty unless training */
    bool hands_on;        /* somebody else keeps them: grads has no data */
    ni_gradient_taker *taker;
    void *taker_self;
    void *window; /* real; NULL where grads are real and kept */
    size_t window_bytes;
    ni_gradient_watch *final; /* is told what a backward pass is done with; NULL: nobody */
    void *final_self;
    int64_t *window_at; /* [count]: element of the window where each gradient is added up */
    int32_t outlives;   /* the tensor that is added to by more than its section; -1 */
} ni_params;

/* What is declared from here on is a section of its own. */
void ni_params_begin_section(ni_params *params);

/* A matrix [rows, cols], decayed; or a vector [rows] (cols = 0), not decayed. *index says which it became. */
nb_status ni_params_declare(ni_params *params, const char *name, int64_t rows, int64_t cols, int32_t *index,
                            nb_error *err);
/* `recipe` says what is narrow; NULL unless training: then nothing is, and there are no gradients. `outlives`: a tensor
 * whose gradient is added to from the first section of the backward pass to the last (a tied embedding); -1 if there is
 * none. */
nb_status ni_params_allocate(ni_params *params, const nb_recipe *recipe, int32_t outlives, nb_error *err);
void ni_params_release(ni_params *params);

/* Where `parted`: memory for the masters of linear layers, by tensor. Until then their places mean nothing. */
typedef enum ni_master_place { NI_MASTER_COMMON, NI_MASTER_OWN, NI_MASTER_ELSEWHERE } ni_master_place;
bool ni_params_is_parted(const ni_params *params, int32_t index);
nb_status ni_params_place(ni_params *params, const ni_master_place *places, nb_error *err);

void *ni_params_value(const ni_params *params, int32_t index); /* in real; NULL where it is narrow, or elsewhere */
/* Values of a tensor in real: in place, or decoded and good until another is opened. What is written there counts once
 * it is closed. */
void *ni_params_open(ni_params *params, int32_t index);
void ni_params_close(ni_params *params, int32_t index);
void *ni_params_grad(const ni_params *params, int32_t index); /* where backward adds; NULL unless training */

/* Where gradients are real: zeroes what a backward pass only adds to. */
void ni_params_clear_sums(ni_params *params);

/* Clears the gradients, those that are packed unless a `whole` pass packs all of them anew; then packs the section that
 * begins with tensor `section`, once it is complete. Where gradients are real there is nothing to do but to tell who
 * watches. */
void ni_params_begin_backward(ni_params *params, bool whole);
void ni_params_pack(ni_params *params, int32_t section);

/* The same of all sections before that which begins with tensor `section`, from the last on, where no pass is to come.
 */
void ni_params_pack_before(ni_params *params, int32_t section);

#endif
