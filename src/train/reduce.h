/* reduce.h: sums what ranks have, in the tree of accumulate.h continued over ranks.
 *
 * A rank holds an aligned block of micro-batches, so what it has added up is one node of the tree; here the nodes of
 * all ranks are added, the first and second, the third and fourth, then such pairs, and every rank gets the sum. The
 * bits are those of one process that had all micro-batches.
 *
 * Each rank adds up one piece of the array for all: pieces of the others come to it, the sums go back to them. That
 * moves what a ring does, 2 (world - 1) / world of the array out of and into each rank, but adds in an order that does
 * not depend on where the ring begins. Where sums are for owners alone (share.h), pieces go to the owner once they are
 * added up; of two ranks one owns what it adds, so that the other's numbers come to it and nothing goes back.
 *
 * Narrow gradients travel as they are, one byte an element in FP8, each tensor with its scale. arXiv:2310.18313 brings
 * all ranks under one scale first, because a network can only add numbers of one scale; here a rank adds, in FP32 and
 * with one rounding, and the scale is that of the sum. So the sum of many ranks does not saturate and is that of one.
 * Where a recipe asks for the paper's way, auto_scale.h makes the scales one and sums here are `joined`.
 */
#ifndef NI_TRAIN_REDUCE_H
#define NI_TRAIN_REDUCE_H

#include "circle.h"
#include "dist/ranks.h"
#include "model/param_array.h"
#include "neighbours.h"
#include "packed_rows.h"

enum { NI_REDUCED_BYTES = 64 << 20 }; /* of FP32 that is summed at a time */

typedef struct ni_reducer {
    nb_ranks *ranks;
    nb_backend *be;
    nb_dtype dtype;
    int64_t
        chunk; /* elements that are summed at a time: all where the type is narrow; on the host less, to begin early */
    ni_circle circle[2];
    int32_t circles;
    const int64_t *owned; /* [world + 1]: elements at which what ranks own begins; NULL: sums are for all */
    char *room;           /* backend: pieces of the other members */
    float *room_scales;   /* backend: [members * tensors], narrow */
    float *scales;        /* host: the same, and [tensors] */
    char *host[2];        /* what goes out and comes in, where the backend's memory is not the host's */
    ni_letter *letters;   /* [2 world] */
    size_t *ends;         /* [world + 1]: of a chunk that is gathered */
    int32_t *narrow; /* [narrow_chunks + 1]: first tensors of the chunks of narrow gradients; NULL: they go whole */
    int32_t narrow_chunks;
    size_t bytes;       /* of backend memory */
    bool joined;        /* narrow gradients are under one scale: each sum is rounded to it, and saturates */
    double look;        /* seconds that a thread looks for another's news before it sleeps */
    bool aside;         /* on a thread beside the backend's work: no operation of its table may be called */
    nb_backend *worker; /* whose operations may be; NULL: memory is the host's, and the thread adds by itself */
    ni_neighbours
        neighbours;      /* of circle 0: gradients are read where the others have them; theirs NULL: they are sent */
    ni_packed_rows rows; /* of the first section, which is a table: those alone are summed that a step touches */
} ni_reducer;

/* For arrays as `grads` are, of real numbers where each rank gets the sums of what it owns and those alone (`owned`,
 * which stays the caller's; NULL: all get all). `ranks` NULL: nothing is taken, and sums are what they are. `touched`:
 * the rows of the first section that a pass leaves last, where the gradients are real and that section is one table;
 * NULL: it is summed whole. */
nb_status ni_reducer_create(nb_ranks *ranks, const ni_param_array *grads, const int64_t *owned, ni_touched *touched,
                            ni_reducer *out, nb_error *err);
void ni_reducer_free(ni_reducer *x);

/* Two ranks in one circle. */
bool ni_reducer_is_pair(const ni_reducer *x);
/* Cuts an array of real numbers for all circles: the own piece of one is what the next shares. */
void ni_reducer_cut(const ni_reducer *x, int64_t elements);

/* Ranks on one machine whose GPUs reach each other read each other's gradients, from here on; says whether they do.
 * Every rank calls it. */
nb_status ni_reducer_meet_neighbours(ni_reducer *x, const ni_param_array *grads, bool *met, nb_error *err);

/* grads = the sum over all ranks, on all of them, or where it is owned. */
nb_status ni_reduce(ni_reducer *x, ni_param_array *grads, nb_error *err);

/* The sum over all ranks of `n` real numbers at `data`, in the backend's memory, on rank `to`; elsewhere they may be
 * written over. For reducers whose sums go to owners (`owned`). */
nb_status ni_reduce_to(const ni_reducer *x, float *data, int64_t n, int32_t to, nb_error *err);

/* The same of the first section, of which the rows that were touched are summed; all ranks have met. */
nb_status ni_reduce_rows_to(const ni_reducer *x, float *table, int32_t to, nb_error *err);

/* Whether this rank owns the table and reads the other's rows of a pair, all at once: then they may come before its own
 * pass has left the table, by ni_reduce_fetch_rows, and ni_reduce_add_rows stands for chunk 0. */
bool ni_reduce_may_fetch_rows(const ni_reducer *x);
nb_status ni_reduce_fetch_rows(const ni_reducer *x, nb_error *err);
void ni_reduce_add_rows(const ni_reducer *x, float *table);

/* Sums the rows of the first section that are not touched; where it is the head too, and before chunk 0. */
nb_status ni_reduce_untouched(const ni_reducer *x, const ni_param_array *grads, nb_error *err);

/* Which rows are touched, before the first section is summed and once all tokens of the step were noted. Nothing where
 * it is summed whole. */
nb_status ni_reducer_meet_rows(const ni_reducer *x, nb_error *err);

/* A part of it: chunk `index`, of narrow gradients whole sections, of real ones from element ni_reducer_chunk_at on,
 * after which the others may come in any order that is all ranks'. Those of the first section, which a backward pass
 * leaves last and all at once, have chunks of their own of up to twice the length, or one for the rows that are
 * touched, before which ranks have met (ni_reducer_meet_rows). After the last chunk and ni_reduce_done sums are there;
 * ranks may read each other's until all have heard of one another again, and only then may they be written over. */
nb_status ni_reduce_chunk(const ni_reducer *x, const ni_param_array *grads, int64_t index, nb_error *err);
nb_status ni_reduce_done(const ni_reducer *x, nb_error *err);
int64_t ni_reducer_chunks(const ni_reducer *x, const ni_param_array *grads);
int64_t ni_reducer_chunk_at(const ni_reducer *x, const ni_param_array *grads, int64_t index);

/* Whether a thread may sum them: in the host's memory or where the backend has a companion; narrow ones unless they are
 * joined. */
bool ni_reducer_goes_beside(const ni_reducer *x, const ni_param_array *grads);

/* What each rank has of an array in the backend's memory, to all: begin[r] .. begin[r + 1] are the bytes of rank r. */
nb_status ni_reducer_gather(const ni_reducer *x, char *array, const size_t *begin, nb_error *err);

/* `bytes` at `data` of the backend's memory, from one rank to another, at its own `data`; the rest pass NULL. */
nb_status ni_reducer_bring(const ni_reducer *x, int32_t from, int32_t to, void *data, size_t bytes, nb_error *err);

/* Sums of a few numbers in FP32, in the memory of `be`, through `room` on the host: [world][n]. */
nb_status ni_reduce_numbers(const ni_reducer *x, nb_backend *be, float *numbers, int64_t n, float *room, nb_error *err);

#endif
