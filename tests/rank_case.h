/* rank_case.h: ranks that are processes of a test, over TCP. */
#ifndef NI_TEST_RANK_CASE_H
#define NI_TEST_RANK_CASE_H

#include "dist/environment.h"
#include "dist/ranks.h"
#include "dist/tcp.h"
#include "harness.h"
#include "ports.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 6 };

/* Ends a rank that is not what it should be; cmocka's own way out works in the first process alone. */
#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: rank %d of %d: %s\n", __FILE__, __LINE__, (int)nb_ranks_rank(r),                   \
                    (int)nb_ranks_world(r), #what);                                                                    \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static UNUSED nb_ranks *meet(int32_t rank, int32_t world, int32_t port, double patience) {
    const ni_place place = {.launcher = NI_LAUNCHED_TCP,
                            .rank = rank,
                            .world = world,
                            .address = "127.0.0.1",
                            .port = port,
                            .patience = patience};
    ni_wire wire;
    nb_ranks *r = NULL;
    nb_error err = {0};
    alarm(240); /* one that waits for ever fails */
    if (ni_tcp_open(&place, &wire, &err) != NB_OK || ni_ranks_over(&wire, patience, &r, &err) != NB_OK) {
        fprintf(stderr, "rank %d: %s\n", (int)rank, err.message);
        _exit(1);
    }
    return r;
}

static UNUSED int32_t new_port(void) {
    const int32_t port = hold_port();
    assert_true(port > 0);
    return port;
}

/* Runs `body` in `world` processes; returns how many seconds it took. All must end with 0, or, of `lost`, by a signal.
 */
static UNUSED double run_ranks(int32_t world, double patience, int32_t lost, void (*body)(nb_ranks *r)) {
    const int32_t port = new_port();
    struct timespec begin, end;
    pid_t pids[MOST];
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int32_t rank = 0; rank < world; rank++) {
        pids[rank] = fork();
        assert_true(pids[rank] >= 0);
        if (pids[rank] == 0) {
            body(meet(rank, world, port, patience));
            _exit(0);
        }
    }
    for (int32_t rank = 0; rank < world; rank++) {
        int status;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        if (rank == lost)
            assert_true(WIFSIGNALED(status));
        else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("rank %d of %d ended with status %#x", (int)rank, (int)world, (unsigned)status);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

#endif
