/* pieces.h: pieces of a chunk go to who adds them up, and sums come back (reduce.h): read by members of a circle where
 * the others have them, else sent from GPU to GPU, through copies on the host, or from where they lie there.
 */
#ifndef NI_TRAIN_PIECES_H
#define NI_TRAIN_PIECES_H

#include "reduce.h"

/* Whose operations are asked for. */
nb_backend *ni_reducer_hand(const ni_reducer *x);

/* Members of this circle read pieces where they are. */
bool ni_pieces_read(const ni_reducer *x, const ni_circle *c);
/* Where member i has what lies at `data` here. */
const char *ni_pieces_theirs(const ni_reducer *x, const ni_circle *c, int32_t member, const char *data);
/* What was asked for is done, and so it is with the other members: what they have may be read. */
nb_status ni_pieces_meet(const ni_reducer *x, const ni_circle *c, nb_error *err);
/* And the others have read what they wanted. */
nb_status ni_pieces_rest(const ni_reducer *x, nb_error *err);

/* What all members have of the own piece of the chunk at `data`; ni_pieces_part: where it is then. */
nb_status ni_pieces_fetch(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err);
char *ni_pieces_part(const ni_reducer *x, const ni_circle *c, char *data, int32_t member);
/* The pieces that the members have added up: to all of them, or to one, in whose place for them they belong. */
nb_status ni_pieces_give_back(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err);
nb_status ni_pieces_give_to(const ni_reducer *x, const ni_circle *c, char *data, int32_t to, nb_error *err);

/* Letters to and from the other members of a circle, of host memory; empty ones to everybody else. */
void ni_pieces_no_letters(const ni_reducer *x);
void ni_pieces_letters(const ni_reducer *x, const ni_circle *c, int32_t member, ni_letter out, ni_letter in);
nb_status ni_pieces_trade(const ni_reducer *x, nb_error *err);

#endif
