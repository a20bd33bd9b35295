/* hand_over.h: what a rank that moved masters gives to the others (share.h): codes, BF16 numbers or masters.
 *
 * A weight travels as what the next passes read of it, where that can be (linear/handed.c). Its master is then up to
 * date on its owner alone, until somebody looks at it: a lens, a checkpoint.
 */
#ifndef NI_TRAIN_HAND_OVER_H
#define NI_TRAIN_HAND_OVER_H

#include "share.h"

typedef struct ni_hand_over {
    nb_model *model;
    const ni_share *share;
    const ni_reducer *reducer;
    bool any; /* else all travel as masters */
    char *room;
    size_t bytes;                       /* of the room */
    size_t *masters, *codes;            /* [tensors + 1]: where parcels of either kind begin in the room */
    size_t *begin;                      /* [world + 1] */
    bool behind;                        /* masters of other ranks are older than what was handed over */
    int64_t coded, numbers, as_masters; /* weights that travel so */
    size_t code_bytes;
    const char *why; /* the first matrix that is no embedding travels as a master */
} ni_hand_over;

nb_status ni_hand_over_create(const ni_share *share, nb_model *model, const ni_reducer *reducer, ni_hand_over *out,
                              nb_error *err);
void ni_hand_over_free(ni_hand_over *x);

/* After the optimizer: masters that travel. After nb_model_params_changed: the rest. */
nb_status ni_hand_over_masters(ni_hand_over *x, nb_error *err);
nb_status ni_hand_over_codes(ni_hand_over *x, const nb_pass *pass, nb_error *err);

/* All masters to all ranks, where some are behind. Every rank calls it. */
nb_status ni_hand_over_whole(ni_hand_over *x, nb_error *err);

#endif
