/* arrivals.h: weights of other ranks, read where they put them, while the forward pass goes on.
 *
 * Ranks whose GPUs reach each other's memory tell each other once that their parcels are made (hand_over.h). Copy
 * engines then bring those of the others section by section, and the forward pass waits on the GPU for what it is about
 * to read. All is asked for before the first branch of a pass, so that it goes in one piece (overlap.c). BF16 numbers
 * come to where layers read them, the rest to the room; codes before the pass, which wants all of them at its
 * beginning.
 */
#ifndef NI_TRAIN_ARRIVALS_H
#define NI_TRAIN_ARRIVALS_H

#include "hand_over.h"

/* Whether rooms may be read, if ranks turn out to see each other's memory: then all parcels have a place there. */
bool ni_arrivals_possible(const ni_share *share, const ni_reducer *reducer);

/* Once ranks read each other's gradients. Every rank calls it. */
nb_status ni_arrivals_meet(ni_hand_over *x, nb_error *err);
/* Before any rank frees its room. */
void ni_arrivals_part(ni_hand_over *x);

/* Before own parcels are made: the others have read those before. */
nb_status ni_arrivals_settle(ni_hand_over *x, nb_error *err);
/* Own parcels were asked for; the others' come from here on, each before a pass reads it. */
nb_status ni_arrivals_begin(ni_hand_over *x, nb_error *err);

#endif
