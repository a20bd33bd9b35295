/* announce.h: what a run says of itself. */
#ifndef NI_ANNOUNCE_H
#define NI_ANNOUNCE_H

#include "trainer.h"

/* One sentence to the callback for notes, where there is one. */
void ni_note(const nb_trainer *t, nb_note_kind kind, const char *format, ...) NB_PRINTF(3, 4);

/* Before the first step: what of the recipe will not act, what the lens leaves out, what inputs are doubtful, how
 * gradients and weights go between ranks. */
void ni_announce_run(nb_trainer *t);

/* At the end: what a step waited for other ranks. */
void ni_announce_waits(const nb_trainer *t);

#endif
