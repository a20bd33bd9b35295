/* neighbours.c: arrays are lent and borrowed, and one look says whether what is seen is what is there. */
#include "train/neighbours.h"

#include "backend/table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What a rank tells the others. */
typedef struct offer {
    uint8_t good; /* read from any byte */
    ni_lent lent;
} offer;
static_assert(sizeof(offer) <= NI_RANKS_WORD, "ranks tell each other so much at once");

static bool can_lend(const nb_ranks *ranks, const nb_backend *be) {
    return ranks->neighbours && be->companion && be->companion->lend;
}

static bool borrow(ni_neighbours *p, const offer *all, int32_t rank, int32_t first, int32_t count) {
    bool good = true;
    for (int32_t r = first; r < first + count; r++) {
        if (r != rank)
            p->theirs[r] = p->be->companion->borrow(p->be, &all[r].lent);
        good = good && (r == rank || p->theirs[r]);
    }
    return good;
}

/* Two numbers: one that the others look at, and where one of theirs is put. */
typedef struct stamp {
    uint64_t own, theirs;
} stamp;

static uint64_t stamp_of(int32_t rank) {
    return 0x9e3779b97f4a7c15U * ((uint64_t)rank + 1);
}

static bool sees(nb_backend *be, char *array, const char *theirs, int32_t rank) {
    nb_error ignored;
    stamp seen = {0};
    if (!be->companion->peek(be, array + offsetof(stamp, theirs), theirs, sizeof seen.theirs))
        return false;
    be->ops->download(be, &seen, array, sizeof seen);
    return be->ops->synchronize(be, &ignored) == NB_OK && seen.theirs == stamp_of(rank);
}

/* Whether all see what is there, which is put back. */
static nb_status look(const ni_neighbours *p, nb_ranks *ranks, char *array, bool *good, nb_error *err) {
    const ni_backend_ops *ops = p->be->ops;
    const stamp mark = {.own = stamp_of(ranks->rank)};
    stamp was;
    bool any;
    ops->download(p->be, &was, array, sizeof was);
    ops->upload(p->be, array, &mark, sizeof mark);
    NB_TRY(ops->synchronize(p->be, err));
    NB_TRY(ni_ranks_any(ranks, false, &any, err)); /* all have written */
    for (int32_t r = 0; r < p->world; r++)
        if (p->theirs[r])
            *good = *good && sees(p->be, array, p->theirs[r], r);
    NB_TRY(ni_ranks_any(ranks, !*good, &any, err)); /* all have looked */
    *good = !any;
    ops->upload(p->be, array, &was, sizeof was);
    return ops->synchronize(p->be, err);
}

static nb_status meet(ni_neighbours *p, nb_ranks *ranks, const offer *all, int32_t first, int32_t count, char *array,
                      bool *good, nb_error *err) {
    bool lacking = false;
    for (int32_t r = 0; r < p->world; r++)
        lacking = lacking || !all[r].good;
    *good = false;
    if (lacking)
        return NB_OK;
    const bool reached = borrow(p, all, ranks->rank, first, count);
    NB_TRY(ni_ranks_any(ranks, !reached, &lacking, err));
    *good = !lacking;
    return *good ? look(p, ranks, array, good, err) : NB_OK;
}

nb_status ni_neighbours_meet(nb_ranks *ranks, nb_backend *be, int32_t first, int32_t count, void *array,
                             ni_neighbours *out, nb_error *err) {
    bool good = false;
    *out = (ni_neighbours){.be = be, .own = array, .world = ranks->world};
    out->theirs = can_lend(ranks, be) ? calloc((size_t)ranks->world, sizeof *out->theirs) : NULL;
    offer mine = {0}, *all = ni_ranks_words(ranks);
    mine.good = out->theirs && be->companion->lend(be, array, &mine.lent);
    nb_status status = ni_ranks_gather(ranks, &mine, all, sizeof mine, err);
    if (status == NB_OK)
        status = meet(out, ranks, all, first, count, array, &good, err);
    if (status != NB_OK || !good)
        ni_neighbours_free(out);
    return status;
}

void ni_neighbours_free(ni_neighbours *p) {
    for (int32_t r = 0; p->theirs && r < p->world; r++)
        if (p->theirs[r])
            p->be->companion->give_back(p->be, p->theirs[r]);
    free(p->theirs);
    memset(p, 0, sizeof *p);
}
