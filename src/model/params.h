/* params.h: all parameters in one array of masters and one of gradients, with Hugging Face's names.
 *
 * Tensors are declared first, then the arrays are made. Each tensor starts at a multiple of 16 elements; what lies
 * between is zero and stays zero.
 */
#ifndef NB_MODEL_PARAMS_H
#define NB_MODEL_PARAMS_H

#include "nibble/model.h"

typedef struct nb_params {
    nb_backend *be;
    nb_param *list;
    int32_t count, capacity;
    int64_t elements;
    void *values; /* real [elements] */
    void *grads;  /* real [elements]; NULL unless training */
} nb_params;

/* A matrix [rows, cols], decayed; or a vector [rows] (cols = 0), not decayed. *index says which it became. */
nb_status nb_params_declare(nb_params *params, const char *name, int64_t rows, int64_t cols, int32_t *index,
                            nb_error *err);
nb_status nb_params_allocate(nb_params *params, bool training, nb_error *err);
void nb_params_release(nb_params *params);

void *nb_params_value(const nb_params *params, int32_t index);
void *nb_params_grad(const nb_params *params, int32_t index); /* NULL unless training */

#endif
