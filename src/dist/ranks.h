/* ranks.h: what ranks say to each other. Every rank calls the same of these in the same order; a world of one, which
 * NULL stands for, comes back at once.
 *
 * What fails in all of them alike: a rank that failed elsewhere (its sentence is passed on), and one that is gone.
 */
#ifndef NI_DIST_RANKS_H
#define NI_DIST_RANKS_H

#include "dist/wire.h"
#include "nibble/ranks.h"

struct nb_ranks {
    ni_wire wire;
    ni_wire device; /* for letters in a GPU's memory; trade NULL: there is none (nccl.h) */
    int32_t rank, world, local, local_world;
    int32_t
        near; /* ranks near .. 2 near are on one machine, and so on; 1: that is not so, or they are no power of two */
    bool neighbours;    /* GPUs of one machine may read each other's memory */
    double patience;    /* seconds */
    int32_t speaker;    /* rank that prints what went wrong; own rank until news comes */
    bool agreed;        /* the last failure is known to all: nobody must be told */
    ni_letter *letters; /* [2 world]: of gathers and broadcasts */
    char *words;        /* [world][NI_RANKS_WORD]: ni_ranks_words */
    ni_wire_news heard; /* what ended a trade, passed on as it is: who failed, or is gone; an empty text: nothing */
};

/* Room for a word from each rank, [world] of one size of at most NI_RANKS_WORD bytes: zeros, to gather into and to
 * read. There is one such room. What lies in it is gone with the next ni_ranks_words, ni_ranks_any or nb_ranks_agree,
 * which use it; the other calls below leave it alone. So read it before any of these three, or copy what is needed
 * later. It is there from the beginning: a rank that had no memory for it would turn to its failure (nb_ranks_agree)
 * while the others wait for its word. */
enum { NI_RANKS_WORD = sizeof(nb_error) };
void *ni_ranks_words(nb_ranks *ranks);

/* out, in: [world] letters of host memory (wire.h). */
nb_status ni_ranks_trade(nb_ranks *ranks, const ni_letter *out, const ni_letter *in, nb_error *err);

/* The same over ranks->device, with letters in the memory of its GPU. What filled them is done, and so is the trade. */
nb_status ni_ranks_trade_device(nb_ranks *ranks, const ni_letter *out, const ni_letter *in, nb_error *err);

/* all[r * bytes] becomes what rank r gave as `mine`, which may lie in its place already. */
nb_status ni_ranks_gather(nb_ranks *ranks, const void *mine, void *all, size_t bytes, nb_error *err);

/* Pieces of one array: rank r has data[begin[r]] .. data[begin[r + 1]], and all get the whole. begin: [world + 1]. */
nb_status ni_ranks_gather_pieces(nb_ranks *ranks, void *data, const size_t *begin, nb_error *err);

/* While a rank waits for others its processor looks again and again for `seconds`, which saves the time that it takes
 * to wake, and sleeps then: for ranks whose work is a GPU's. Returns 0, and they sleep at once, where processors are
 * few. */
double ni_ranks_look(nb_ranks *ranks, double seconds);

/* What rank 0 has. */
nb_status ni_ranks_broadcast(nb_ranks *ranks, void *data, size_t bytes, nb_error *err);

/* What rank `from` has, to rank `to` alone. All call it; `data` is looked at by these two. */
nb_status ni_ranks_hand(nb_ranks *ranks, int32_t from, int32_t to, void *data, size_t bytes, nb_error *err);

/* Whether any rank says so. */
nb_status ni_ranks_any(nb_ranks *ranks, bool mine, bool *any, nb_error *err);

/* Whether nb_ranks_open is going to wait, for what no wait may mend: no name service knows the machine of rank 0 (which
 * may only be starting). `text` says so in a sentence, for who can print. */
bool ni_ranks_doubt(char *text, size_t size);

/* Ranks over a wire: what nb_ranks_open makes once it has one. Takes the wire over; on failure closes it. */
nb_status ni_ranks_over(const ni_wire *wire, double patience, nb_ranks **out, nb_error *err);

#endif
