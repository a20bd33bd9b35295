/* products.h: whose sums a run is made of: BF16 by BF16, and with FP32. */
#ifndef NI_TRAIN_PRODUCTS_H
#define NI_TRAIN_PRODUCTS_H

#include "nibble/train.h"

enum { NI_SUMS_SIZE = 64 };

/* What the backend calls the order of its sums; "" where that is not known. */
typedef struct ni_products {
    char bf16[NI_SUMS_SIZE], f32[NI_SUMS_SIZE];
    char *choices; /* algorithms of a GPU's library, a line a shape (ops.inc: gemm_choices); owned; NULL: none */
} ni_products;

ni_products ni_products_of(nb_backend *be);
void ni_products_free(ni_products *products);

/* The backend multiplies as the checkpoint in `folder` says from here on. Where this machine cannot, it goes on with
 * its own and says so: the bits of the rest are not those of a run that never stopped. */
void ni_products_take(nb_backend *be, const ni_products *saved, const char *folder,
                      const nb_train_callbacks *callbacks);

#endif
