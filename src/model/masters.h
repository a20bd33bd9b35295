/* masters.h: masters that ranks share out, and copies of them.
 *
 * Where a weight goes to other ranks as codes or BF16 numbers (handed.h), nobody but its owner needs its master. All
 * ranks have a place for the others: embeddings, vectors, and what a mechanism looks at.
 */
#ifndef NI_MODEL_MASTERS_H
#define NI_MODEL_MASTERS_H

#include "model/param_array.h"

/* Of a model that was created `parted`: the masters of the tensors begin .. end - 1 are this rank's, where they go to
 * others as handed.h has it; `all`: there is room for the others' too. Nothing for other models. */
nb_status ni_model_part_masters(nb_model *model, int32_t begin, int32_t end, bool all, nb_error *err);

/* Masters that all ranks have lie in arrays, in the order of tensors; NULL and 0: there is none. */
typedef struct ni_master_array {
    char *data;
    size_t bytes;
} ni_master_array;
enum { NI_MASTER_ARRAYS = 3 };
void ni_model_master_arrays(const nb_model *model, ni_master_array arrays[NI_MASTER_ARRAYS]);

/* The masters that are here, as they are, in backend memory; and back: those that another model of the same shape has
 * too. Free a copy with ni_master_copy_free, whatever became of it. */
typedef struct ni_master_copy {
    nb_backend *be;
    char *data, *scales;
    size_t *at; /* [count + 1]: where each begins; one of no bytes was elsewhere */
} ni_master_copy;
nb_status ni_model_copy_masters(const nb_model *model, ni_master_copy *out, nb_error *err);
void ni_model_restore_masters(nb_model *model, const ni_master_copy *copy);
void ni_master_copy_free(ni_master_copy *copy);

#endif
