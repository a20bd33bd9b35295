/* products.h: whose sums a run is made of: BF16 by BF16, and with FP32. */
#ifndef NB_TRAIN_PRODUCTS_H
#define NB_TRAIN_PRODUCTS_H

#include "nibble/train.h"

enum { NB_SUMS_SIZE = 64 };

/* What the backend calls the order of its sums; "" where that is not known. */
typedef struct nb_products {
    char bf16[NB_SUMS_SIZE], f32[NB_SUMS_SIZE];
} nb_products;

nb_products nb_products_of(nb_backend *be);

/* The backend multiplies as the checkpoint in `folder` says from here on. Where this machine cannot, it goes on with
 * its own and says so: the bits of the rest are not those of a run that never stopped. */
void nb_products_take(nb_backend *be, const nb_products *saved, const char *folder,
                      const nb_train_callbacks *callbacks);

#endif
