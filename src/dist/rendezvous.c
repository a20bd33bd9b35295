/* rendezvous.c: how ranks of the TCP wire meet.
 *
 * Rank 0 waits at the address. Each other rank opens a door of its own (a port that the system chooses), calls rank 0,
 * says who it is, and keeps that connection. When all have called, rank 0 tells them where each other's doors are and a
 * number that nobody else knows; then rank r calls the ranks 1 .. r - 1 and is called by r + 1 .. world - 1.
 */
#include "dist/tcp.h"

#include "base/progress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAGIC = 0x6e69626c, FIT = 1 };

/* Who calls. All fields as the sender's processor has them: FIT is not 1 for one of other byte order. */
typedef struct hello {
    uint32_t magic, fit;
    int32_t rank, world;
    uint32_t port; /* of the caller's own door, as the network has it */
    uint32_t nothing;
    uint64_t secret; /* 0 towards rank 0 */
} hello;

typedef struct door {
    uint64_t secret;
    struct sockaddr_storage at;
    socklen_t size;
} door;

static nb_status late(const ni_place *p, const char *what, nb_error *err) {
    return nb_fail(err, NB_IO_ERROR,
                   "tcp: rank %d of %d at %s port %d: %s within %.0f s; hint: NIBBLE_PATIENCE=SECONDS", (int)p->rank,
                   (int)p->world, p->address, (int)p->port, what, p->patience);
}

static nb_status no(const ni_place *p, const char *what, nb_error *err) {
    return nb_fail(err, NB_IO_ERROR, "tcp: rank %d of %d: %s: %s", (int)p->rank, (int)p->world, what, strerror(errno));
}

/* Waits until the socket can be read (or written), at most until `until`. */
static bool ready(int socket, short events, double until) {
    struct pollfd wait = {.fd = socket, .events = events};
    for (double left; (left = until - ni_seconds()) > 0;) {
        const int found = poll(&wait, 1, (int)(left * 1e3) + 1);
        if (found > 0)
            return true;
        if (found < 0 && errno != EINTR)
            return false;
    }
    return false;
}

static bool send_all(int socket, const void *data, size_t bytes) {
    for (size_t sent = 0; sent < bytes;) {
        const ssize_t n = send(socket, (const char *)data + sent, bytes - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return false;
        sent += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool receive_all(int socket, void *data, size_t bytes, double until) {
    for (size_t got = 0; got < bytes;) {
        if (!ready(socket, POLLIN, until))
            return false;
        const ssize_t n = recv(socket, (char *)data + got, bytes - got, 0);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        got += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void set_port(struct sockaddr_storage *at, uint16_t port) {
    if (at->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)at)->sin6_port = port;
    else
        ((struct sockaddr_in *)at)->sin_port = port;
}

/* A socket that listens at a port of all interfaces, IPv6 and IPv4; port 0: the system chooses. */
static int listen_at(int port, uint16_t *chosen) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int yes = 1, zero = 0;
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    int s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool bound = s >= 0 && setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero) == 0 &&
                 setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
                 bind(s, (struct sockaddr *)&six, sizeof six) == 0;
    if (!bound && (s < 0 || errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) { /* a machine without IPv6 */
        if (s >= 0)
            close(s);
        s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bound = s >= 0 && setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
                bind(s, (struct sockaddr *)&four, sizeof four) == 0;
    }
    if (!bound || listen(s, SOMAXCONN) != 0 || fcntl(s, F_SETFL, O_NONBLOCK) != 0 ||
        getsockname(s, (struct sockaddr *)&at, &size) != 0) {
        const int why = errno;
        if (s >= 0)
            close(s);
        errno = why;
        return -1;
    }
    *chosen =
        at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port : ((struct sockaddr_in *)&at)->sin_port;
    return s;
}

/* Calls and sends end here: a peer that lives and takes nothing is not waited for. */
static bool limit(int socket, double until) {
    const double left = until - ni_seconds();
    const struct timeval most = {.tv_sec = left > 1 ? (time_t)left : 1};
    return setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most) == 0;
}

static int call(const struct sockaddr *at, socklen_t size, double until) {
    int s = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s >= 0 && limit(s, until) && connect(s, at, size) == 0)
        return s;
    const int why = errno == EINPROGRESS ? ETIMEDOUT : errno;
    if (s >= 0)
        close(s);
    errno = why;
    return -1;
}

/* 0, or what gai_strerror makes a sentence of. */
static int resolve(const ni_place *p, struct addrinfo **found) {
    const struct addrinfo wish = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char port[16];
    snprintf(port, sizeof port, "%d", (int)p->port);
    return getaddrinfo(p->address, port, &wish, found);
}

bool ni_tcp_is_unknown(const ni_place *place, char *why, size_t size) {
    struct addrinfo *found;
    const int result = place->rank > 0 ? resolve(place, &found) : 0;
    if (place->rank > 0 && result == 0)
        freeaddrinfo(found);
    snprintf(why, size, "%s", result ? gai_strerror(result) : "");
    return result != 0;
}

/* Rank 0 may not have started yet, nor its machine have a name: until it answers. */
static nb_status call_rank_0(const ni_place *p, double until, int *out, nb_error *err) {
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    char why[160] = "";
    for (; ni_seconds() < until; nanosleep(&pause, NULL)) {
        struct addrinfo *found;
        const int result = resolve(p, &found);
        if (result != 0) {
            snprintf(why, sizeof why, "its address is not found (%.100s)", gai_strerror(result));
            continue;
        }
        *out = -1;
        for (const struct addrinfo *a = found; a && *out < 0; a = a->ai_next)
            *out = call(a->ai_addr, a->ai_addrlen, until);
        snprintf(why, sizeof why, "rank 0 did not answer (%.100s)", strerror(errno));
        freeaddrinfo(found);
        if (*out >= 0)
            return NB_OK;
    }
    return late(p, why, err);
}

/* The next caller who knows the secret; others are hung up on. *who: -1 if nobody came in time. */
static nb_status next_caller(const ni_place *p, int door_socket, uint64_t secret, double until, int *sockets,
                             hello *caller, int *who, nb_error *err) {
    *who = -1;
    while (ready(door_socket, POLLIN, until)) {
        const int s = accept(door_socket, NULL, NULL); /* does not wait: a caller may be gone again */
        const double soon = ni_seconds() + 5;
        if (s < 0)
            continue;
        fcntl(s, F_SETFD, FD_CLOEXEC);
        fcntl(s, F_SETFL, 0);
        if (!limit(s, until) || !receive_all(s, caller, sizeof *caller, soon < until ? soon : until) ||
            caller->magic != MAGIC || caller->fit != FIT || caller->secret != secret) {
            close(s);
            continue;
        }
        if (caller->world != p->world || caller->rank <= p->rank || caller->rank >= p->world ||
            sockets[caller->rank] >= 0) {
            const bool twice = caller->world == p->world && caller->rank > p->rank && caller->rank < p->world;
            close(s);
            return nb_fail(err, NB_BAD_USAGE, "tcp: a process calls itself rank %d of %d and this is rank %d of %d%s",
                           (int)caller->rank, (int)caller->world, (int)p->rank, (int)p->world,
                           twice ? ", and that one is here already; expected each rank once" : "; expected one world");
        }
        sockets[ *who = caller->rank] = s;
        return NB_OK;
    }
    return NB_OK;
}

static nb_status missing(const ni_place *p, const int *sockets, nb_error *err) {
    char what[160];
    int32_t count = 0, first = -1;
    for (int32_t r = p->rank + 1; r < p->world; r++)
        if (sockets[r] < 0) {
            first = count++ ? first : r;
        }
    snprintf(what, sizeof what, "%d of %d ranks did not come (the first that is missing is rank %d)", (int)count,
             (int)p->world, (int)first);
    return late(p, what, err);
}

/* ---- both sides ---- */

static nb_status receive_callers(const ni_place *p, double until, int *sockets, door *doors, nb_error *err) {
    uint16_t port;
    uint64_t secret = 0;
    nb_status status = NB_OK;
    const int listening = listen_at(p->port, &port);
    if (listening < 0)
        return nb_fail(err, NB_IO_ERROR, "tcp: rank 0 cannot wait at port %d: %s; hint: another MASTER_PORT",
                       (int)p->port, strerror(errno));
    for (int32_t here = 1; status == NB_OK && here < p->world; here++) {
        hello caller;
        int who;
        status = next_caller(p, listening, 0, until, sockets, &caller, &who, err);
        if (status == NB_OK && who < 0)
            status = missing(p, sockets, err);
        if (status != NB_OK)
            break;
        doors[who].size = sizeof doors[who].at;
        if (getpeername(sockets[who], (struct sockaddr *)&doors[who].at, &doors[who].size) != 0)
            status = no(p, "the address of a caller", err);
        set_port(&doors[who].at, (uint16_t)caller.port);
    }
    close(listening);
    while (status == NB_OK && secret == 0)
        if (getrandom(&secret, sizeof secret, 0) != (ssize_t)sizeof secret)
            status = no(p, "a random number", err);
    for (int32_t r = 0; r < p->world; r++)
        doors[r].secret = secret;
    for (int32_t r = 1; status == NB_OK && r < p->world; r++)
        if (!send_all(sockets[r], doors, (size_t)p->world * sizeof *doors))
            status = no(p, "telling a rank where the others are", err);
    return status;
}

static nb_status introduce(const ni_place *p, int socket, uint16_t port, uint64_t secret, nb_error *err) {
    const hello self = {.magic = MAGIC, .fit = FIT, .rank = p->rank, .world = p->world, .port = port, .secret = secret};
    return send_all(socket, &self, sizeof self) ? NB_OK : no(p, "saying who this is", err);
}

/* An address that connect() can be given, whatever rank 0 sent. */
static bool is_address(const door *d) {
    return (d->at.ss_family == AF_INET && d->size == sizeof(struct sockaddr_in)) ||
           (d->at.ss_family == AF_INET6 && d->size == sizeof(struct sockaddr_in6));
}

static nb_status call_and_be_called(const ni_place *p, int listening, uint16_t port, double until, int *sockets,
                                    door *doors, nb_error *err) {
    NB_TRY(call_rank_0(p, until, &sockets[0], err));
    NB_TRY(introduce(p, sockets[0], port, 0, err));
    if (!receive_all(sockets[0], doors, (size_t)p->world * sizeof *doors, until))
        return late(p, "rank 0 did not say where the others are, or ended: not all ranks came", err);
    for (int32_t r = 1; r < p->rank; r++) {
        if (!is_address(&doors[r]))
            return nb_fail(err, NB_IO_ERROR,
                           "tcp: rank %d of %d: rank 0 gives no address of rank %d; expected IPv4's or IPv6's; "
                           "hint: one build of nibble for all ranks",
                           (int)p->rank, (int)p->world, (int)r);
        sockets[r] = call((const struct sockaddr *)&doors[r].at, doors[r].size, until);
        if (sockets[r] < 0)
            return no(p, "calling another rank", err);
        NB_TRY(introduce(p, sockets[r], port, doors[r].secret, err));
    }
    for (int32_t r = p->rank + 1; r < p->world; r++) {
        hello caller;
        int who;
        NB_TRY(next_caller(p, listening, doors[r].secret, until, sockets, &caller, &who, err));
        if (who < 0)
            return missing(p, sockets, err);
    }
    return NB_OK;
}

/* Letters go at once, and are sent and received beside each other. */
static nb_status prepare(const ni_place *p, const int *sockets, nb_error *err) {
    const int yes = 1;
    for (int32_t r = 0; r < p->world; r++)
        if (sockets[r] >= 0 && (setsockopt(sockets[r], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0 ||
                                setsockopt(sockets[r], SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes) != 0 ||
                                fcntl(sockets[r], F_SETFL, O_NONBLOCK) != 0))
            return no(p, "setting up a connection", err);
    return NB_OK;
}

nb_status ni_tcp_meet(const ni_place *p, int *sockets, nb_error *err) {
    const double until = ni_seconds() + p->patience;
    door *doors = calloc((size_t)p->world, sizeof *doors);
    nb_status status;
    for (int32_t r = 0; r < p->world; r++)
        sockets[r] = -1;
    if (!doors)
        return nb_fail(err, NB_NO_MEMORY, "tcp: out of memory");
    if (p->rank == 0) {
        status = receive_callers(p, until, sockets, doors, err);
    } else {
        uint16_t port;
        const int listening = listen_at(0, &port);
        status = listening < 0 ? no(p, "a port to be called at", err)
                               : call_and_be_called(p, listening, port, until, sockets, doors, err);
        if (listening >= 0)
            close(listening);
    }
    free(doors);
    return status == NB_OK ? prepare(p, sockets, err) : status;
}
