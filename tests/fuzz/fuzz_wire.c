/* fuzz_wire.c: any bytes from the other side of the ranks' connections: rendezvous, letters, last words.
 *
 * There is no network and no clock: the linker turns the calls of the system that rendezvous.c and tcp.c make to the
 * functions at the end of this file (--wrap, in CMakeLists.txt). An input is
 *
 *     byte 0   how many ranks (2 to 5), and which of them this is
 *     byte 1   bit 0: connections whose bytes are used up stay silent, else they are closed; bit 1: calls are refused;
 *              bits 2 to 4: at most 1, 2, 4 .. bytes are taken by one send, 0: all
 *     byte 2   what the ranks do once they have met, two bits an exchange
 *     then     pieces: a byte that says which connection (in the order of their beginning) and how many bytes follow
 *              (the byte after it), and those
 */
#include "fuzz.h"

#include "dist/ranks.h"
#include "dist/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 8, SOCKETS = 16, FIRST = 1 << 20, HEAD = 3, HELLO = 32, ADDRESS = 144 };
enum { CLOSED = -1, OPEN = -2, DOOR = -3 }; /* of a socket without a connection */

static struct {
    const uint8_t *bytes;
    size_t size, at[CONNECTIONS], in_piece[CONNECTIONS]; /* the next piece of each, and how much of it is gone */
    int sockets[SOCKETS];                                /* the connection of each, or one of the above */
    int taken, begun;
    bool silent, refused, playing;
    unsigned most;
    double clock;
} net;

static const uint8_t secret[8] = {1, 2, 3, 4, 5, 6, 7, 8};

/* ---- the bytes of a connection ---- */

/* The piece that connection `k` is at, or NULL. */
static const uint8_t *piece(int k, size_t *left) {
    for (size_t at = net.at[k]; at + 2 <= net.size; at += 2 + net.bytes[at + 1]) {
        const size_t length = net.bytes[at + 1], there = net.size - at - 2 < length ? net.size - at - 2 : length;
        if (net.bytes[at] % CONNECTIONS != k || net.in_piece[k] >= there) {
            net.in_piece[k] = 0;
            continue;
        }
        net.at[k] = at;
        *left = there - net.in_piece[k];
        return net.bytes + at + 2 + net.in_piece[k];
    }
    net.at[k] = net.size;
    return NULL;
}

/* Magic numbers and secrets that hold, so that what lies behind them is reached. */
void fuzz_repair(uint8_t *bytes, size_t size) {
    const int32_t world = size ? 2 + bytes[0] % 4 : 0, rank = size ? bytes[0] / 4 % world : 0;
    bool seen[CONNECTIONS] = {false};
    for (size_t at = HEAD; at + 2 <= size; at += 2 + bytes[at + 1]) {
        const int k = bytes[at] % CONNECTIONS;
        const uint32_t magic[2] = {0x6e69626c, 1};
        uint8_t *from = bytes + at + 2;
        size_t length = size - at - 2 < bytes[at + 1] ? size - at - 2 : bytes[at + 1];
        if (seen[k] || length < HELLO)
            continue;
        seen[k] = true;
        if (rank == 0 || k >= rank) {
            memcpy(from, magic, sizeof magic);
            memcpy(from + 12, &world, sizeof world);
            memcpy(from + 24, rank == 0 ? (const uint8_t[8]){0} : secret, sizeof secret);
        } else if (k == 0) {
            for (; length >= ADDRESS; length -= ADDRESS, from += ADDRESS)
                memcpy(from, secret, sizeof secret);
        }
    }
}

/* ---- what ranks do ---- */

static nb_status exchange(nb_ranks *r, int which, nb_error *err) {
    int64_t numbers[8] = {0};
    bool any;
    switch (which) {
    case 0:
        return ni_ranks_any(r, false, &any, err);
    case 1:
        return ni_ranks_gather(r, &(int64_t){7}, numbers, sizeof *numbers, err);
    case 2:
        return ni_ranks_broadcast(r, numbers, sizeof numbers, err);
    default:
        return nb_ranks_agree(r, NB_OK, err);
    }
}

static void check_meeting(const ni_place *place) {
    int sockets[8];
    nb_error err = {0};
    nb_status status = ni_tcp_meet(place, sockets, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    for (int32_t r = 0; r < place->world; r++) {
        FUZZ_CHECK(status != NB_OK || (sockets[r] >= 0) == (r != place->rank));
        for (int32_t q = 0; q < r; q++)
            FUZZ_CHECK(sockets[r] < 0 || sockets[r] != sockets[q]);
        if (sockets[r] >= 0)
            close(sockets[r]);
    }
}

static void check_talk(const ni_place *place, unsigned what) {
    ni_wire wire;
    nb_ranks *r;
    nb_error err = {0};
    nb_status status = ni_tcp_open(place, &wire, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status != NB_OK || ni_ranks_over(&wire, place->patience, &r, &err) != NB_OK)
        return;
    for (int i = 0; i < 4 && status == NB_OK; i++, what >>= 2) {
        status = exchange(r, (int)(what & 3), &err);
        FUZZ_CHECK(status >= NB_OK && status <= NB_INTERNAL);
        FUZZ_CHECK((status == NB_OK) == (err.status == NB_OK) && (status != NB_OK || err.message[0] == 0));
    }
    nb_ranks_close(r, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    if (size < HEAD)
        return 0;
    ni_place place = {.launcher = NI_LAUNCHED_TCP, .world = 2 + bytes[0] % 4, .address = "a", .port = 1, .patience = 9};
    place.rank = bytes[0] / 4 % place.world;
    for (int talk = 0; talk < 2; talk++) {
        memset(&net, 0, sizeof net);
        net.bytes = bytes;
        net.size = size;
        net.silent = bytes[1] & 1;
        net.refused = bytes[1] & 2;
        net.most = bytes[1] >> 2 & 7;
        for (int k = 0; k < CONNECTIONS; k++)
            net.at[k] = HEAD;
        for (int k = 0; k < SOCKETS; k++)
            net.sockets[k] = CLOSED;
        net.playing = true;
        if (talk)
            check_talk(&place, bytes[2]);
        else
            check_meeting(&place);
        net.playing = false;
        for (int k = 0; k < SOCKETS; k++)
            FUZZ_CHECK(net.sockets[k] == CLOSED);
    }
    return 0;
}

/* ---- the system's calls: sockets are numbers from FIRST on ---- */

#define WRAPPED(type, name, ...)                                                                                       \
    type __real_##name(__VA_ARGS__);                                                                                   \
    type __wrap_##name(__VA_ARGS__);                                                                                   \
    type __wrap_##name(__VA_ARGS__)

static bool is_ours(int fd) {
    return fd >= FIRST && fd < FIRST + SOCKETS;
}

static int *socket_of(int fd) {
    FUZZ_CHECK(is_ours(fd) && net.sockets[fd - FIRST] != CLOSED);
    return &net.sockets[fd - FIRST];
}

static int fails(int why) {
    errno = why;
    return -1;
}

/* Whether another connection comes: while the input has bytes for it. */
static bool is_called(void) {
    size_t left;
    return net.begun < CONNECTIONS && piece(net.begun, &left);
}

static bool is_readable(int socket) {
    size_t left;
    return socket == DOOR ? is_called() : socket >= 0 && (piece(socket, &left) || !net.silent);
}

WRAPPED(int, socket, int family, int type, int protocol) {
    if (!net.playing)
        return __real_socket(family, type, protocol);
    FUZZ_CHECK(family == AF_INET || family == AF_INET6);
    if (net.taken == SOCKETS)
        return fails(EMFILE);
    net.sockets[net.taken] = OPEN;
    return FIRST + net.taken++;
}

WRAPPED(int, bind, int fd, const struct sockaddr *at, socklen_t size) {
    return is_ours(fd) ? 0 : __real_bind(fd, at, size);
}

WRAPPED(int, listen, int fd, int most) {
    if (!is_ours(fd))
        return __real_listen(fd, most);
    *socket_of(fd) = DOOR;
    return 0;
}

WRAPPED(int, connect, int fd, const struct sockaddr *at, socklen_t size) {
    if (!is_ours(fd))
        return __real_connect(fd, at, size);
    FUZZ_CHECK(*socket_of(fd) == OPEN);
    FUZZ_CHECK(size == (at->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
    if (net.refused || net.begun == CONNECTIONS)
        return fails(ECONNREFUSED);
    *socket_of(fd) = net.begun++;
    return 0;
}

WRAPPED(int, accept, int fd, struct sockaddr *at, socklen_t *size) {
    if (!is_ours(fd))
        return __real_accept(fd, at, size);
    FUZZ_CHECK(*socket_of(fd) == DOOR);
    if (!is_called())
        return fails(EAGAIN);
    if (net.taken == SOCKETS) {
        net.begun++; /* nobody waits for it */
        return fails(EMFILE);
    }
    net.sockets[net.taken] = net.begun++;
    return FIRST + net.taken++;
}

WRAPPED(int, close, int fd) {
    if (!is_ours(fd))
        return __real_close(fd);
    *socket_of(fd) = CLOSED;
    return 0;
}

WRAPPED(int, shutdown, int fd, int how) {
    return is_ours(fd) ? 0 : __real_shutdown(fd, how);
}

WRAPPED(int, setsockopt, int fd, int level, int name, const void *value, socklen_t size) {
    return is_ours(fd) ? 0 : __real_setsockopt(fd, level, name, value, size);
}

WRAPPED(int, getsockname, int fd, struct sockaddr *at, socklen_t *size) {
    const struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(4000)};
    if (!is_ours(fd))
        return __real_getsockname(fd, at, size);
    memcpy(at, &here, sizeof here);
    *size = sizeof here;
    return 0;
}

WRAPPED(int, getpeername, int fd, struct sockaddr *at, socklen_t *size) {
    return is_ours(fd) ? __wrap_getsockname(fd, at, size) : __real_getpeername(fd, at, size);
}

int __real_fcntl(int fd, int what, ...);
int __wrap_fcntl(int fd, int what, ...);
int __wrap_fcntl(int fd, int what, ...) {
    va_list list;
    va_start(list, what);
    void *value = va_arg(list, void *);
    va_end(list);
    return is_ours(fd) ? 0 : __real_fcntl(fd, what, value);
}

WRAPPED(ssize_t, send, int fd, const void *from, size_t size, int flags) {
    if (!is_ours(fd))
        return __real_send(fd, from, size, flags);
    FUZZ_CHECK(*socket_of(fd) >= 0);
    const size_t most = net.most ? (size_t)1 << (net.most - 1) : size;
    return (ssize_t)(size < most ? size : most);
}

WRAPPED(ssize_t, recv, int fd, void *to, size_t size, int flags) {
    if (!is_ours(fd))
        return __real_recv(fd, to, size, flags);
    const int k = *socket_of(fd);
    size_t left;
    FUZZ_CHECK(k >= 0);
    const uint8_t *from = piece(k, &left);
    if (!from)
        return net.silent ? fails(EAGAIN) : 0;
    size = size < left ? size : left;
    memcpy(to, from, size);
    net.in_piece[k] += size;
    return (ssize_t)size;
}

WRAPPED(int, poll, struct pollfd *fds, nfds_t count, int wait) {
    int found = 0;
    if (!net.playing)
        return __real_poll(fds, count, wait);
    FUZZ_CHECK(wait >= 0);
    for (nfds_t i = 0; i < count; i++) {
        fds[i].revents = 0;
        if (fds[i].fd < 0)
            continue;
        fds[i].revents = (short)(fds[i].events & (POLLOUT | (is_readable(*socket_of(fds[i].fd)) ? POLLIN : 0)));
        found += fds[i].revents != 0;
    }
    net.clock += found ? 1e-6 : 1e-3 * (double)wait;
    return found;
}

/* What a compiler that fortifies makes of these two, as Ubuntu's does by default. */
WRAPPED(ssize_t, __recv_chk, int fd, void *to, size_t size, size_t room, int flags) {
    FUZZ_CHECK(size <= room);
    return __wrap_recv(fd, to, size, flags);
}

WRAPPED(int, __poll_chk, struct pollfd *fds, nfds_t count, int wait, size_t room) {
    FUZZ_CHECK(count * sizeof *fds <= room);
    return __wrap_poll(fds, count, wait);
}

WRAPPED(int, clock_gettime, clockid_t which, struct timespec *out) {
    if (!net.playing)
        return __real_clock_gettime(which, out);
    out->tv_sec = (time_t)net.clock;
    out->tv_nsec = (long)((net.clock - (double)out->tv_sec) * 1e9);
    return 0;
}

WRAPPED(int, nanosleep, const struct timespec *wanted, struct timespec *left) {
    if (!net.playing)
        return __real_nanosleep(wanted, left);
    net.clock += (double)wanted->tv_sec + 1e-9 * (double)wanted->tv_nsec;
    return 0;
}

WRAPPED(ssize_t, getrandom, void *to, size_t size, unsigned flags) {
    if (!net.playing)
        return __real_getrandom(to, size, flags);
    FUZZ_CHECK(size == sizeof secret);
    memcpy(to, secret, sizeof secret);
    return (ssize_t)size;
}

static struct sockaddr_in rank_0 = {.sin_family = AF_INET};
static struct addrinfo found_0 = {
    .ai_family = AF_INET, .ai_addr = (struct sockaddr *)&rank_0, .ai_addrlen = sizeof rank_0};

WRAPPED(int, getaddrinfo, const char *name, const char *port, const struct addrinfo *wish, struct addrinfo **out) {
    if (!net.playing)
        return __real_getaddrinfo(name, port, wish, out);
    *out = &found_0;
    return 0;
}

WRAPPED(void, freeaddrinfo, struct addrinfo *list) {
    if (list != &found_0)
        __real_freeaddrinfo(list);
}
