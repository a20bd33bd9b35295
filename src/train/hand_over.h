/* hand_over.h: what a rank that moved masters gives to the others (share.h): codes, BF16 numbers or masters.
 *
 * A weight travels as what the next passes read of it, where that can be (linear/handed.c): then its owner alone has
 * its master (model/masters.h). Rank 0 has a place for it too where somebody looks at masters (a lens), and it is
 * brought there when that is about to happen.
 */
#ifndef NI_TRAIN_HAND_OVER_H
#define NI_TRAIN_HAND_OVER_H

#include "share.h"

enum { NI_HANDED_BYTES = 256 << 20 }; /* of the room of a run */

typedef struct ni_hand_over {
    nb_model *model;
    const ni_share *share;
    const ni_reducer *reducer;
    bool any;   /* some travel as codes or numbers */
    bool looks; /* rank 0 has a place for all masters, as it told the others */
    char *room;
    size_t most, bytes;                 /* of the room: unless one parcel is larger, and as it is */
    size_t *parcel, *at;                /* [tensors]: bytes of each parcel, 0: it is a master; where in the room */
    int32_t *round, rounds;             /* [tensors]: of those that go at once */
    size_t *begin;                      /* [world + 1] */
    bool due;                           /* a model was made or loaded: nothing of it was handed over yet */
    bool behind;                        /* what rank 0 has of others' masters is older than what was handed over */
    int64_t coded, numbers, as_masters; /* weights that travel so */
    size_t code_bytes;
    ni_neighbours seen;  /* rooms of others, read behind the forward pass (arrivals.h); theirs NULL: parcels are sent */
    void **mark;         /* [sections]: behind it a section's parcels are here; NULL: none come */
    bool *laid;          /* [tensors]: layers read it in the room */
    int32_t asked, come; /* sections whose parcels were asked for, and those that the pass waited for */
    size_t vectors;  /* bytes of the room behind parcels: masters that travel, where they are vectors alone and others
                        may read the room; 0: they are sent */
    const char *why; /* the first matrix that is no embedding travels as a master */
} ni_hand_over;

/* `most` bytes go at once, and one parcel at least. */
nb_status ni_hand_over_create(const ni_share *share, nb_model *model, const ni_reducer *reducer, size_t most,
                              ni_hand_over *out, nb_error *err);
void ni_hand_over_free(ni_hand_over *x);

/* After the optimizer: masters that travel, unless others read them with the rest. After nb_model_params_changed: the
 * rest. */
nb_status ni_hand_over_masters(ni_hand_over *x, nb_error *err);
nb_status ni_hand_over_codes(ni_hand_over *x, const nb_pass *pass, nb_error *err);

/* Both, before the first pass of a model that was made or loaded. Every rank calls it. */
nb_status ni_hand_over_due(ni_hand_over *x, const nb_pass *pass, nb_error *err);

/* Masters of others to rank 0, where it has a place for them and they are behind. Every rank calls it. */
nb_status ni_hand_over_whole(ni_hand_over *x, nb_error *err);

/* Whether this rank's master of a tensor is that of its owner. */
bool ni_hand_over_has(const ni_hand_over *x, int32_t index);

#endif
