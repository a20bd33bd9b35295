/* rank_card.h: a card of a test: a CPU backend whose memory is not the host's as far as ranks know, with a companion.
 * Ranks read each other's memory there, as GPUs of one machine do. What is asked for is done at once, so a mark says
 * nothing.
 */
#ifndef NI_TEST_RANK_CARD_H
#define NI_TEST_RANK_CARD_H

#include "backend/backend.h"
#include "backend/table.h"
#include "rank_case.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CARD_BYTES = 1 << 28 };

typedef struct card {
    nb_backend backend;
    ni_backend_ops ops;
    nb_backend *inside;
} card;

static struct {
    char *memory; /* [MOST][CARD_BYTES], at one address in all ranks */
    size_t used;  /* of this rank's */
    int32_t rank;
    int marks_set, marks_met;
} cards;

/* Before ranks begin. */
static UNUSED void make_cards(void) {
    cards.memory = mmap(NULL, (size_t)MOST * CARD_BYTES, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(cards.memory != MAP_FAILED);
}

static void *card_alloc(nb_backend *be, size_t bytes, const char *what) {
    (void)be;
    (void)what;
    char *memory = cards.memory + (size_t)cards.rank * CARD_BYTES + cards.used;
    cards.used += (bytes + 63) / 64 * 64;
    if (cards.used > CARD_BYTES)
        abort();
    memset(memory, 0, bytes);
    return memory;
}

static void card_release(nb_backend *be, void *memory) {
    (void)be;
    (void)memory;
}

static nb_status card_open(nb_backend *be, nb_backend **worker, nb_error *err) {
    const nb_backend_options one = {.threads = 1};
    (void)be;
    return nb_backend_open("cpu", &one, worker, err);
}

static nb_status card_enter(nb_backend *worker, nb_error *err) {
    (void)worker;
    (void)err;
    return NB_OK;
}

static void *card_mark(nb_backend *be) {
    (void)be;
    cards.marks_set++;
    return malloc(1);
}

static nb_status card_await(nb_backend *worker, void *mark, nb_error *err) {
    (void)worker;
    if (!mark)
        return nb_fail(err, NB_INTERNAL, "no mark was set");
    cards.marks_met++;
    free(mark);
    return NB_OK;
}

static void card_follow(nb_backend *be, void *mark) {
    (void)be;
    cards.marks_met += mark != NULL;
    free(mark);
}

static bool card_lend(nb_backend *be, void *memory, ni_lent *out) {
    (void)be;
    memcpy(out->words, &memory, sizeof memory);
    return true;
}

static void *card_borrow(nb_backend *be, const ni_lent *lent) {
    void *memory;
    (void)be;
    memcpy(&memory, lent->words, sizeof memory);
    return memory;
}

static bool card_peek(nb_backend *be, void *to, const void *borrowed, size_t bytes) {
    (void)be;
    memcpy(to, borrowed, bytes);
    return true;
}

static const ni_companion card_companion = {.open = card_open,
                                            .enter = card_enter,
                                            .mark = card_mark,
                                            .await = card_await,
                                            .forget = free,
                                            .follow = card_follow,
                                            .lend = card_lend,
                                            .borrow = card_borrow,
                                            .peek = card_peek,
                                            .give_back = card_release};

/* This rank's, with nothing on it; `reached`: by the others. */
static UNUSED nb_backend *take_card(card *out, nb_ranks *r, bool reached) {
    const nb_backend_options one = {.threads = 1};
    if (nb_backend_open("cpu", &one, &out->inside, NULL) != NB_OK)
        abort();
    cards.rank = nb_ranks_rank(r);
    cards.used = 0;
    out->ops = *out->inside->ops;
    out->ops.alloc = card_alloc;
    out->ops.release = card_release;
    out->backend = *out->inside;
    out->backend.ops = &out->ops;
    out->backend.host_memory = false;
    out->backend.companion = &card_companion;
    r->neighbours = reached;
    return &out->backend;
}

/* Others may read what is here until all have heard of one another. */
static UNUSED void hear(nb_ranks *r) {
    bool any;
    CHECK(ni_ranks_any(r, false, &any, NULL) == NB_OK);
}

static UNUSED void free_card(card *c) {
    nb_backend_free(c->inside);
}

#endif
