/* tcp.c: letters over connections.
 *
 * A letter travels as a head and its bytes. The head carries the number of the trade: ranks that do not come to the
 * same trades in the same order find out. A rank that fails sends one last head, with its sentence behind it.
 */
#include "dist/tcp.h"

#include "base/progress.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LETTER = 1, LAST = 2 };

typedef struct head {
    uint32_t kind, number; /* LETTER: of the trade. LAST: a ni_wire_news follows */
    uint64_t bytes;
} head;

/* One direction of one connection in one trade. */
typedef struct way {
    head head;
    const char *out;
    char *in;
    size_t done, all; /* bytes, the head's among them */
} way;

typedef struct tcp {
    int32_t rank, world;
    uint32_t number;
    double look;          /* seconds in which nothing moves before a trade sleeps */
    int *sockets;         /* [world] */
    way *out, *in;        /* [world] */
    struct pollfd *polls; /* [world] */
} tcp;

static ni_trade lost(ni_wire_news *news, int32_t whose, const char *text) {
    *news = (ni_wire_news){.whose = whose, .status = NB_IO_ERROR, .lost = 1};
    snprintf(news->text, sizeof news->text, "%s", text);
    return NI_TRADE_LOST;
}

/* ---- out ---- */

/* As much as the connection takes. */
static bool push(int socket, way *w, bool *moved) {
    while (w->done < w->all) {
        const bool in_head = w->done < sizeof w->head;
        const char *from = in_head ? (const char *)&w->head + w->done : w->out + (w->done - sizeof w->head);
        const size_t left = in_head ? sizeof w->head - w->done : w->all - w->done;
        const ssize_t n = send(socket, from, left, MSG_NOSIGNAL | (in_head && w->all > sizeof w->head ? MSG_MORE : 0));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK;
        w->done += (size_t)n;
        *moved = true;
    }
    return true;
}

/* ---- in ---- */

/* The sentence behind a last head. */
static ni_trade read_last(const tcp *t, int32_t whose, ni_wire_news *news) {
    const int socket = t->sockets[whose];
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    ni_wire_news said;
    size_t got = 0;
    while (got < sizeof said && poll(&wait, 1, 1000) > 0) {
        const ssize_t n = recv(socket, (char *)&said + got, sizeof said - got, 0);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    if (got < sizeof said)
        return lost(news, whose, "is gone (the connection is closed)");
    if (said.whose < 0 || said.whose >= t->world || said.status <= NB_OK || said.status > NB_INTERNAL)
        return lost(news, whose, "says something that is not understood, and ends");
    *news = said;
    news->text[sizeof news->text - 1] = 0;
    return said.lost ? NI_TRADE_LOST : NI_TRADE_TOLD;
}

static ni_trade check_head(const tcp *t, int32_t whose, const way *w, ni_wire_news *news) {
    if (w->head.kind == LAST)
        return read_last(t, whose, news);
    if (w->head.kind == LETTER && w->head.number == t->number && w->head.bytes == w->all - sizeof w->head)
        return NI_TRADE_DONE;
    news->whose = whose;
    snprintf(news->text, sizeof news->text,
             "rank %d is at exchange %u with %llu bytes and this one at %u with %zu; expected all ranks to do the same",
             (int)whose, (unsigned)w->head.number, (unsigned long long)w->head.bytes, (unsigned)t->number,
             w->all - sizeof w->head);
    return NI_TRADE_BROKEN;
}

/* As much as has come. */
static ni_trade pull(const tcp *t, int32_t whose, way *w, bool *moved, ni_wire_news *news) {
    while (w->done < w->all) {
        const bool in_head = w->done < sizeof w->head;
        char *to = in_head ? (char *)&w->head + w->done : w->in + (w->done - sizeof w->head);
        const size_t left = in_head ? sizeof w->head - w->done : w->all - w->done;
        const ssize_t n = recv(t->sockets[whose], to, left, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return NI_TRADE_DONE;
        if (n <= 0)
            return lost(news, whose, "is gone (the connection is closed)");
        w->done += (size_t)n;
        *moved = true;
        if (w->done == sizeof w->head) {
            const ni_trade how = check_head(t, whose, w, news);
            if (how != NI_TRADE_DONE)
                return how;
        }
    }
    return NI_TRADE_DONE;
}

/* ---- a trade ---- */

static void begin(tcp *t, const ni_letter *out, const ni_letter *in) {
    t->number++;
    for (int32_t r = 0; r < t->world; r++) {
        t->out[r] = (way){.head = {LETTER, t->number, out[r].bytes}, .out = out[r].data};
        t->in[r] = (way){.in = in[r].data};
        t->polls[r].fd = t->sockets[r];
        if (r != t->rank && out[r].bytes > 0) /* empty letters do not travel */
            t->out[r].all = sizeof(head) + out[r].bytes;
        if (r != t->rank && in[r].bytes > 0)
            t->in[r].all = sizeof(head) + in[r].bytes;
    }
}

/* Everything that can be done without waiting. A connection that takes nothing more may still have news to give. */
static ni_trade move_on(tcp *t, bool *moved, bool *whole, ni_wire_news *news) {
    *whole = true;
    for (int32_t r = 0; r < t->world; r++) {
        way *out = &t->out[r], *in = &t->in[r];
        if (r == t->rank)
            continue;
        const bool sent = push(t->sockets[r], out, moved);
        const ni_trade how = pull(t, r, in, moved, news);
        if (how != NI_TRADE_DONE)
            return how;
        if (!sent)
            return lost(news, r, "is gone (the connection is broken)");
        t->polls[r].events = (short)((out->done < out->all ? POLLOUT : 0) | (in->done < in->all ? POLLIN : 0));
        t->polls[r].fd = t->polls[r].events ? t->sockets[r] : -1;
        *whole = *whole && !t->polls[r].events;
    }
    return NI_TRADE_DONE;
}

static ni_trade silent(const tcp *t, double patience, ni_wire_news *news) {
    int32_t r = 0;
    char text[64];
    while (r < t->world - 1 && (r == t->rank || t->in[r].done == t->in[r].all))
        r++;
    snprintf(text, sizeof text, "has said nothing for %.0f s", patience);
    return lost(news, r, text);
}

static ni_trade trade(void *self, const ni_letter *out, const ni_letter *in, double patience, ni_wire_news *news) {
    tcp *t = self;
    double last = ni_seconds();
    begin(t, out, in);
    for (;;) {
        bool moved = false, whole;
        const ni_trade how = move_on(t, &moved, &whole, news);
        if (how != NI_TRADE_DONE || whole)
            return how;
        if (moved)
            last = ni_seconds();
        const double since = ni_seconds() - last, left = patience - since;
        if (left <= 0)
            return silent(t, patience, news);
        if (since < t->look) {
            sched_yield();
            continue;
        }
        t->polls[t->rank].fd = -1;
        if (poll(t->polls, (nfds_t)t->world, left < 1e6 ? (int)(left * 1e3) + 1 : 1000000) < 0 && errno != EINTR) {
            snprintf(news->text, sizeof news->text, "poll: %s", strerror(errno));
            return NI_TRADE_BROKEN;
        }
    }
}

static void look(void *self, double seconds) {
    tcp *t = self;
    t->look = seconds;
}

/* ---- the end ---- */

static bool is_between_letters(const way *out) {
    return out->done == 0 || out->done == out->all;
}

/* What is half sent is given up, and the connection closed behind it, which says enough: a last head would stand in the
 * middle of a letter. */
static void fail(void *self, const ni_wire_news *why) {
    tcp *t = self;
    const head last = {LAST, 0, sizeof *why};
    for (int32_t r = 0; r < t->world; r++)
        if (t->sockets[r] >= 0 && is_between_letters(&t->out[r]) &&
            send(t->sockets[r], &last, sizeof last, MSG_NOSIGNAL | MSG_MORE) == (ssize_t)sizeof last)
            (void)!send(t->sockets[r], why, sizeof *why, MSG_NOSIGNAL);
}

/* A connection that is closed over unread bytes takes what was sent back with it: so the others are read out, for a
 * second at most. */
static void drain(int socket, double until) {
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    char bytes[4096];
    shutdown(socket, SHUT_WR);
    for (double left; (left = until - ni_seconds()) > 0;) {
        if (poll(&wait, 1, (int)(left * 1e3) + 1) <= 0)
            continue;
        const ssize_t n = recv(socket, bytes, sizeof bytes, 0);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return;
    }
}

static void close_all(void *self) {
    tcp *t = self;
    const double until = ni_seconds() + 1;
    for (int32_t r = 0; r < t->world; r++)
        if (t->sockets[r] >= 0)
            shutdown(t->sockets[r], SHUT_WR);
    for (int32_t r = 0; r < t->world; r++)
        if (t->sockets[r] >= 0) {
            drain(t->sockets[r], until);
            close(t->sockets[r]);
        }
    free(t->sockets);
    free(t->out);
    free(t->in);
    free(t->polls);
    free(t);
}

static nb_status take_memory(const ni_place *p, tcp **out, nb_error *err) {
    const size_t world = (size_t)p->world;
    tcp *t = *out = calloc(1, sizeof *t);
    if (!t)
        return nb_fail(err, NB_NO_MEMORY, "tcp: out of memory");
    t->rank = p->rank;
    t->sockets = malloc(world * sizeof *t->sockets);
    t->out = calloc(world, sizeof *t->out);
    t->in = calloc(world, sizeof *t->in);
    t->polls = calloc(world, sizeof *t->polls);
    if (!t->sockets || !t->out || !t->in || !t->polls) {
        close_all(t);
        return nb_fail(err, NB_NO_MEMORY, "tcp: out of memory");
    }
    t->world = p->world;
    return NB_OK;
}

nb_status ni_tcp_open(const ni_place *place, ni_wire *out, nb_error *err) {
    tcp *t;
    NB_TRY(take_memory(place, &t, err));
    *out = (ni_wire){.name = "tcp",
                     .self = t,
                     .rank = place->rank,
                     .world = place->world,
                     .trade = trade,
                     .look = look,
                     .fail = fail,
                     .close = close_all};
    nb_status status = ni_tcp_meet(place, t->sockets, err);
    if (status != NB_OK)
        close_all(t);
    return status;
}
