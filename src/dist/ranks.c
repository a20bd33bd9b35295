/* ranks.c: gathers and broadcasts, made of trades; and who says what went wrong. */
#define _GNU_SOURCE /* CPU_COUNT */
#include "dist/ranks.h"

#include "dist/environment.h"
#include "dist/machine.h"
#include "dist/mpi.h"
#include "dist/tcp.h"

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

static void forget(nb_ranks *r) {
    if (r) {
        free(r->letters);
        free(r->words);
    }
    free(r);
}

nb_status ni_ranks_over(const ni_wire *wire, double patience, nb_ranks **out, nb_error *err) {
    const size_t world = (size_t)wire->world;
    nb_ranks *r = *out = calloc(1, sizeof *r);
    if (r)
        *r = (nb_ranks){.wire = *wire,
                        .rank = wire->rank,
                        .world = wire->world,
                        .near = 1,
                        .patience = patience,
                        .speaker = wire->rank,
                        .letters = calloc(2 * world, sizeof *r->letters),
                        .words = malloc(world * NI_RANKS_WORD)};
    if (r && r->letters && r->words)
        return NB_OK;
    wire->close(wire->self);
    forget(r);
    *out = NULL;
    return nb_fail(err, NB_NO_MEMORY, "ranks: out of memory");
}

/* POSIX's getenv gives memory that is not const, and wants it left alone. */
static const char *variable(const char *name) {
    return getenv(name);
}

/* Where a process runs. */
typedef struct machine {
    int32_t local_world; /* as its launcher says; 0: it says nothing */
    char name[NI_MACHINE_SIZE];
} machine;

/* Without a word of the launcher: ranks whose hosts have one name and started once are on one machine. */
static nb_status find_machine(nb_ranks *r, nb_error *err) {
    machine mine = {.local_world = r->local_world}, *all = ni_ranks_words(r);
    int32_t before = 0, same = 0;
    bool said = false;
    ni_machine_name(NI_BOOT_ID, mine.name);
    if (!mine.name[0])
        snprintf(mine.name, sizeof mine.name, "rank %d", (int)r->rank); /* alone, as far as anybody knows */
    const nb_status status = ni_ranks_gather(r, &mine, all, sizeof mine, err);
    for (int32_t i = 0; status == NB_OK && i < r->world; i++) {
        const bool here = strcmp(all[i].name, mine.name) == 0;
        said = said || all[i].local_world > 0;
        same += here;
        before += here && i < r->rank;
    }
    if (status == NB_OK && !said) {
        r->local = before;
        r->local_world = same;
    }
    return status;
}

/* Whether machines have one after the other the same power of two of ranks: all have to see it so. */
static nb_status find_near(nb_ranks *r, nb_error *err) {
    const int32_t near = r->local_world;
    bool apart = near < 1 || (near & (near - 1)) != 0 || r->world % near != 0 || r->local != r->rank % near, any;
    int32_t first = near;
    NB_TRY(ni_ranks_broadcast(r, &first, sizeof first, err));
    apart = apart || first != near;
    NB_TRY(ni_ranks_any(r, apart, &any, err));
    r->near = any ? 1 : near;
    return NB_OK;
}

bool ni_ranks_doubt(char *text, size_t size) {
    ni_place place;
    char why[100];
    if (ni_place_read(variable, &place, NULL) != NB_OK || place.launcher != NI_LAUNCHED_TCP || place.world < 2 ||
        !ni_tcp_is_unknown(&place, why, sizeof why))
        return false;
    snprintf(text, size, "rank %d: the address of rank 0, %s, is not found (%s); tried for %.0f s", (int)place.rank,
             place.address, why, place.patience);
    return true;
}

nb_status nb_ranks_open(nb_ranks **out, nb_error *err) {
    ni_place place;
    ni_wire wire;
    *out = NULL;
    if (ni_place_read(variable, &place, err) != NB_OK)
        return nb_fail_within(err, "environment");
    if (place.launcher == NI_LAUNCHED_ALONE)
        return NB_OK;
    NB_TRY(place.launcher == NI_LAUNCHED_MPI ? ni_mpi_open(&place, &wire, err) : ni_tcp_open(&place, &wire, err));
    NB_TRY(ni_ranks_over(&wire, place.patience, out, err));
    (*out)->local = place.local;
    (*out)->local_world = place.local_world;
    (*out)->neighbours = place.neighbours;
    const bool numbered = place.numbered;
    nb_status status = find_machine(*out, err);
    if (status == NB_OK)
        status = find_near(*out, err);
    if (numbered) /* the GPU that the launcher means */
        (*out)->local = place.local;
    if (status != NB_OK) {
        nb_ranks_close(*out, err);
        *out = NULL;
    }
    return status;
}

void nb_ranks_close(nb_ranks *ranks, const nb_error *why) {
    if (!ranks)
        return;
    if (why && why->status != NB_OK && !ranks->agreed) {
        ni_wire_news news = {.whose = ranks->rank, .status = why->status};
        snprintf(news.text, sizeof news.text, "%.*s", NI_WIRE_TEXT - 1, why->message);
        if (ranks->device.trade)
            ranks->device.fail(ranks->device.self, &news);
        ranks->wire.fail(ranks->wire.self, ranks->heard.text[0] ? &ranks->heard : &news);
    }
    if (ranks->device.trade)
        ranks->device.close(ranks->device.self);
    ranks->wire.close(ranks->wire.self);
    forget(ranks);
}

int32_t nb_ranks_rank(const nb_ranks *ranks) {
    return ranks ? ranks->rank : 0;
}

int32_t nb_ranks_world(const nb_ranks *ranks) {
    return ranks ? ranks->world : 1;
}

int32_t nb_ranks_local(const nb_ranks *ranks) {
    return ranks ? ranks->local : 0;
}

int32_t nb_ranks_local_world(const nb_ranks *ranks) {
    return ranks ? ranks->local_world : 1;
}

bool nb_ranks_speaks(const nb_ranks *ranks) {
    return !ranks || ranks->speaker == ranks->rank;
}

/* ---- trades ---- */

/* A rank has a thread that computes and one that exchanges. */
double ni_ranks_look(nb_ranks *r, double seconds) {
    cpu_set_t mine;
    const bool few = sched_getaffinity(0, sizeof mine, &mine) != 0 || CPU_COUNT(&mine) < 2 * nb_ranks_local_world(r);
    const double granted = few ? 0 : seconds;
    if (r && r->wire.look)
        r->wire.look(r->wire.self, granted);
    return granted;
}

/* The rank that failed says why itself; of one that is gone the lowest that is left does. */
static nb_status hear(nb_ranks *ranks, const char *wire, ni_trade how, ni_wire_news *news, nb_error *err) {
    if (how != NI_TRADE_BROKEN)
        ranks->heard = *news;
    if (how == NI_TRADE_TOLD) {
        ranks->speaker = news->whose;
        return nb_fail(err, news->status, "rank %d: %s", (int)news->whose, news->text);
    }
    if (how == NI_TRADE_LOST) {
        ranks->speaker = news->whose == 0 ? 1 : 0;
        return nb_fail(err, NB_IO_ERROR,
                       "rank %d of %d %s; hint: its own output says more; --resume goes on from the newest checkpoint",
                       (int)news->whose, (int)ranks->world, news->text);
    }
    ranks->speaker = ranks->rank;
    return nb_fail(err, NB_IO_ERROR, "%s: %s", wire, news->text);
}

static nb_status trade_over(nb_ranks *ranks, const ni_wire *wire, const ni_letter *out, const ni_letter *in,
                            nb_error *err) {
    ni_wire_news news = {.whose = ranks->rank};
    ranks->agreed = false;
    const ni_trade how = wire->trade(wire->self, out, in, ranks->patience, &news);
    return how == NI_TRADE_DONE ? NB_OK : hear(ranks, wire->name, how, &news, err);
}

nb_status ni_ranks_trade(nb_ranks *ranks, const ni_letter *out, const ni_letter *in, nb_error *err) {
    return trade_over(ranks, &ranks->wire, out, in, err);
}

nb_status ni_ranks_trade_device(nb_ranks *ranks, const ni_letter *out, const ni_letter *in, nb_error *err) {
    return trade_over(ranks, &ranks->device, out, in, err);
}

void *ni_ranks_words(nb_ranks *ranks) {
    memset(ranks->words, 0, (size_t)ranks->world * NI_RANKS_WORD);
    return ranks->words;
}

/* Two letters for every rank, empty. */
static ni_letter *no_letters(const nb_ranks *ranks) {
    memset(ranks->letters, 0, 2 * (size_t)ranks->world * sizeof *ranks->letters);
    return ranks->letters;
}

nb_status ni_ranks_gather_pieces(nb_ranks *ranks, void *data, const size_t *begin, nb_error *err) {
    if (!ranks)
        return NB_OK;
    ni_letter *out = no_letters(ranks), *in = out + ranks->world;
    for (int32_t r = 0; r < ranks->world; r++) {
        out[r] = (ni_letter){(char *)data + begin[ranks->rank], begin[ranks->rank + 1] - begin[ranks->rank]};
        in[r] = (ni_letter){(char *)data + begin[r], begin[r + 1] - begin[r]};
    }
    return ni_ranks_trade(ranks, out, in, err);
}

nb_status ni_ranks_gather(nb_ranks *ranks, const void *mine, void *all, size_t bytes, nb_error *err) {
    char *place = (char *)all + (size_t)nb_ranks_rank(ranks) * bytes;
    if (place != mine)
        memcpy(place, mine, bytes);
    if (!ranks)
        return NB_OK;
    ni_letter *out = no_letters(ranks), *in = out + ranks->world;
    for (int32_t r = 0; r < ranks->world; r++) {
        out[r] = (ni_letter){place, bytes};
        in[r] = (ni_letter){(char *)all + (size_t)r * bytes, bytes};
    }
    return ni_ranks_trade(ranks, out, in, err);
}

nb_status ni_ranks_broadcast(nb_ranks *ranks, void *data, size_t bytes, nb_error *err) {
    if (!ranks)
        return NB_OK;
    ni_letter *out = no_letters(ranks), *in = out + ranks->world;
    for (int32_t r = 0; r < ranks->world; r++)
        out[r] = (ni_letter){data, ranks->rank == 0 ? bytes : 0};
    in[0] = (ni_letter){data, bytes};
    return ni_ranks_trade(ranks, out, in, err);
}

nb_status ni_ranks_hand(nb_ranks *ranks, int32_t from, int32_t to, void *data, size_t bytes, nb_error *err) {
    if (!ranks)
        return NB_OK;
    ni_letter *out = no_letters(ranks), *in = out + ranks->world;
    if (ranks->rank == from)
        out[to] = (ni_letter){data, bytes};
    if (ranks->rank == to)
        in[from] = (ni_letter){data, bytes};
    return ni_ranks_trade(ranks, out, in, err);
}

nb_status ni_ranks_any(nb_ranks *ranks, bool mine, bool *any, nb_error *err) {
    *any = mine;
    if (!ranks)
        return NB_OK;
    const uint8_t said = mine; /* no bool: any byte may come */
    uint8_t *all = ni_ranks_words(ranks);
    nb_status status = ni_ranks_gather(ranks, &said, all, sizeof said, err);
    for (int32_t r = 0; r < ranks->world; r++)
        *any = *any || all[r] != 0;
    return status;
}

/* What became of a rank. */
typedef struct fate {
    nb_status status;
    char message[sizeof((nb_error *)0)->message];
} fate;
static_assert(sizeof(fate) <= NI_RANKS_WORD && sizeof(machine) <= NI_RANKS_WORD,
              "ranks tell each other so much at once");

nb_status nb_ranks_agree(nb_ranks *ranks, nb_status mine, nb_error *err) {
    nb_error own = {.status = NB_OK}; /* ours may be NULL */
    if (!ranks)
        return mine;
    nb_status *all = ni_ranks_words(ranks);
    nb_status status = ni_ranks_gather(ranks, &mine, all, sizeof mine, err ? err : &own);
    int32_t first = 0;
    while (first < ranks->world && all[first] == NB_OK)
        first++;
    if (status != NB_OK || first == ranks->world)
        return status;
    fate *fates = ni_ranks_words(ranks), said = {.status = mine};
    snprintf(said.message, sizeof said.message, "%s", mine != NB_OK && err ? err->message : "");
    status = ni_ranks_gather(ranks, &said, fates, sizeof said, &own);
    if (status == NB_OK) {
        ranks->agreed = true;
        ranks->speaker = first;
        const nb_status how = fates[first].status;
        status = nb_fail(err, how > NB_OK && how <= NB_INTERNAL ? how : NB_INTERNAL, "%.*s",
                         (int)sizeof fates->message - 1, fates[first].message);
    } else if (err) {
        *err = own;
    }
    return status;
}
