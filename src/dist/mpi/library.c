/* library.c: libnibble-mpi.so: letters over MPI.
 *
 * Messages are sent and received without waiting and then tested in turn, so that a rank that says nothing is found by
 * a time limit: inside of a waiting call of MPI there is none. The two that cannot be avoided, at the start and at the
 * end, are made by a thread that is given up where it does not come back. A process that dies is noticed by mpirun,
 * which ends the others.
 */
#include "dist/mpi.h"

#include "base/limited.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_BYTES = 1 << 30 }; /* of a message: MPI counts in int */

typedef struct mpi {
    int32_t rank, world;
    int number; /* of the trade: the tag of its messages */
    MPI_Request *requests;
    int32_t *whose; /* [most] */
    int count, most;
    double patience;
} mpi;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static ni_trade broken(ni_wire_news *news, int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    if (code != MPI_SUCCESS)
        MPI_Error_string(code, text, &length);
    snprintf(news->text, sizeof news->text, "%s: %.500s", what, text);
    return NI_TRADE_BROKEN;
}

static int messages_of(size_t bytes) {
    return (int)((bytes + MOST_BYTES - 1) / MOST_BYTES);
}

static bool make_room(mpi *m, const ni_letter *out, const ni_letter *in) {
    int need = 0;
    for (int32_t r = 0; r < m->world; r++)
        need += r == m->rank ? 0 : messages_of(out[r].bytes) + messages_of(in[r].bytes);
    if (need == 0 || need <= m->most)
        return true;
    free(m->requests);
    free(m->whose);
    m->requests = malloc((size_t)need * sizeof *m->requests);
    m->whose = malloc((size_t)need * sizeof *m->whose);
    m->most = m->requests && m->whose ? need : 0;
    return m->most > 0;
}

static int post(mpi *m, int32_t peer, const ni_letter *letter, bool out) {
    int code = MPI_SUCCESS;
    for (size_t at = 0; code == MPI_SUCCESS && at < letter->bytes; at += MOST_BYTES) {
        const size_t left = letter->bytes - at;
        const int n = left < MOST_BYTES ? (int)left : MOST_BYTES;
        m->whose[m->count] = peer;
        MPI_Request *request = &m->requests[m->count++];
        code = out ? MPI_Isend((char *)letter->data + at, n, MPI_BYTE, peer, m->number, MPI_COMM_WORLD, request)
                   : MPI_Irecv((char *)letter->data + at, n, MPI_BYTE, peer, m->number, MPI_COMM_WORLD, request);
    }
    return code;
}

/* Tests what is under way until all is done; more and more rarely where nothing moves. */
static ni_trade finish(mpi *m, double patience, ni_wire_news *news) {
    int left = m->count, tests = 0;
    double last = now();
    while (left > 0) {
        int done, which;
        const int code = MPI_Testany(m->count, m->requests, &which, &done, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS)
            return broken(news, code, "a message failed");
        if (done && which != MPI_UNDEFINED) {
            left--;
            m->whose[which] = -1;
            last = now();
            tests = 0;
            continue;
        }
        if (++tests < 1000)
            continue;
        if (now() - last > patience) {
            for (int i = 0; i < m->count; i++)
                news->whose = m->whose[i] >= 0 ? m->whose[i] : news->whose;
            news->status = NB_IO_ERROR;
            news->lost = 1;
            snprintf(news->text, sizeof news->text, "has said nothing for %.0f s", patience);
            return NI_TRADE_LOST;
        }
        const struct timespec pause = {.tv_nsec = tests < 10000 ? 20 * 1000 : 1000 * 1000};
        nanosleep(&pause, NULL);
    }
    return NI_TRADE_DONE;
}

static ni_trade trade(void *self, const ni_letter *out, const ni_letter *in, double patience, ni_wire_news *news) {
    mpi *m = self;
    int code = MPI_SUCCESS;
    m->number = (m->number + 1) & 0x7fff; /* every MPI has tags up to here */
    m->count = 0;
    if (!make_room(m, out, in))
        return broken(news, MPI_SUCCESS, "out of memory");
    for (int32_t step = 1; code == MPI_SUCCESS && step < m->world; step++) { /* not all to the same rank first */
        const int32_t to = (m->rank + step) % m->world, from = (m->rank + m->world - step) % m->world;
        code = post(m, from, &in[from], false);
        if (code == MPI_SUCCESS)
            code = post(m, to, &out[to], true);
    }
    return code == MPI_SUCCESS ? finish(m, patience, news) : broken(news, code, "a message cannot be sent");
}

/* mpirun ends the others. */
static void fail(void *self, const ni_wire_news *why) {
    (void)self;
    fflush(NULL);
    MPI_Abort(MPI_COMM_WORLD, nb_status_exit(why->status));
}

/* ---- the start and the end ---- */

/* Both wait for other ranks. */
static int call_init(void *provided) {
    return MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, provided);
}

static int call_finalize(void *nothing) {
    (void)nothing;
    return MPI_Finalize();
}

/* A rank that does not come to the end with the others is left behind: mpirun sees to it. */
static void finalize(void *self) {
    mpi *m = self;
    int code;
    ni_call_within(call_finalize, NULL, m->patience, &code);
    free(m->requests);
    free(m->whose);
    free(m);
}

ni_mpi_library_open_function ni_mpi_library_open;

__attribute__((visibility("default"))) const char *ni_mpi_library_open(size_t fit, double patience, ni_wire *out) {
    int code = 0, rank, world;
    if (fit != NI_MPI_FIT)
        return "is of another version than this program; hint: make";
    mpi *m = calloc(1, sizeof *m);
    int *level = calloc(1, sizeof *level); /* the call's, where it does not come back */
    if (!m || !level) {
        free(m);
        free(level);
        return "found no memory";
    }
    const bool came = ni_call_within(call_init, level, patience, &code);
    const int provided = came ? *level : 0;
    free(came ? level : NULL);
    if (!came || code != MPI_SUCCESS || provided < MPI_THREAD_SERIALIZED) {
        free(m);
        return !came                 ? "waited for other ranks in MPI_Init for as long as NIBBLE_PATIENCE says"
               : code != MPI_SUCCESS ? "could not start MPI"
                                     : "found an MPI without MPI_THREAD_SERIALIZED";
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    *m = (mpi){.rank = rank, .world = world, .patience = patience};
    *out = (ni_wire){
        .name = "mpi", .self = m, .rank = rank, .world = world, .trade = trade, .fail = fail, .close = finalize};
    return NULL;
}
