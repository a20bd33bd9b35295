/* nccl.c: the few functions of NCCL and of CUDA's driver that trades need, found by name. */
#include "dist/nccl.h"

#include "base/beside.h"
#include "base/limited.h"
#include "base/progress.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* As nccl.h of NCCL 2 declares them: an ABI that has not changed since sends came (2.7). */
enum { SUCCESS = 0, IN_PROGRESS = 7, INT8 = 0, OLDEST = 2700 };
typedef struct nccl_id {
    char internal[128];
} nccl_id;
typedef struct ncclComm *nccl_comm;

/* As cuda.h declares them. */
enum { CU_NON_BLOCKING = 1, CU_NOT_READY = 600, FIRST = -100 }; /* the highest priority that there is: it is clamped */
typedef struct CUstream_st *cu_stream;
typedef struct CUctx_st *cu_context;

typedef struct nccl {
    int32_t rank, world;
    nccl_comm comm;
    cu_stream stream;
    bool dead; /* aborted */
    int (*get_version)(int *version);
    int (*get_unique_id)(nccl_id *id);
    int (*comm_init_rank)(nccl_comm *comm, int ranks, nccl_id id, int rank);
    int (*comm_destroy)(nccl_comm comm);
    int (*comm_abort)(nccl_comm comm);
    int (*comm_get_async_error)(nccl_comm comm, int *error);
    int (*send)(const void *from, size_t count, int type, int peer, nccl_comm comm, cu_stream stream);
    int (*recv)(void *to, size_t count, int type, int peer, nccl_comm comm, cu_stream stream);
    int (*group_start)(void);
    int (*group_end)(void);
    const char *(*error_string)(int result);
    int (*stream_create)(cu_stream *stream, unsigned flags, int priority);
    int (*stream_query)(cu_stream stream);
    int (*stream_destroy)(cu_stream stream);
    int (*context_of_thread)(cu_context *context);
    int (*use_context)(cu_context context);
} nccl;

/* ---- opening ---- */

static bool find_all(nccl *n, void *library, void *driver) {
    const struct {
        void *in;
        const char *name;
        void *function;
    } wanted[] = {{library, "ncclGetVersion", &n->get_version},
                  {library, "ncclGetUniqueId", &n->get_unique_id},
                  {library, "ncclCommInitRank", &n->comm_init_rank},
                  {library, "ncclCommDestroy", &n->comm_destroy},
                  {library, "ncclCommAbort", &n->comm_abort},
                  {library, "ncclCommGetAsyncError", &n->comm_get_async_error},
                  {library, "ncclSend", &n->send},
                  {library, "ncclRecv", &n->recv},
                  {library, "ncclGroupStart", &n->group_start},
                  {library, "ncclGroupEnd", &n->group_end},
                  {library, "ncclGetErrorString", &n->error_string},
                  {driver, "cuStreamCreateWithPriority", &n->stream_create},
                  {driver, "cuStreamQuery", &n->stream_query},
                  {driver, "cuStreamDestroy_v2", &n->stream_destroy},
                  {driver, "cuCtxGetCurrent", &n->context_of_thread},
                  {driver, "cuCtxSetCurrent", &n->use_context}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!ni_find_function(wanted[i].in, wanted[i].name, wanted[i].function))
            return false;
    return true;
}

/* NULL, and why not. */
static nccl *open_libraries(char *why, size_t size) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void *library = driver ? dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL) : NULL;
    int version = 0;
    if (!library) {
        const char *text = dlerror();
        snprintf(why, size, "%.200s", text ? text : "libnccl.so.2 cannot be opened");
        return NULL;
    }
    nccl *n = calloc(1, sizeof *n);
    if (!n || !find_all(n, library, driver) || n->get_version(&version) != SUCCESS || version < OLDEST) {
        snprintf(why, size, "libnccl.so.2 is of version %d, or lacks a function; expected 2.7 or later", version);
        free(n);
        return NULL;
    }
    snprintf(why, size, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    return n;
}

/* What the thread that joins needs, which may outlive `nccl`. */
typedef struct joining {
    int32_t rank, world;
    nccl_id id;
    nccl_comm comm;
    cu_context context;
    int (*comm_init_rank)(nccl_comm *comm, int ranks, nccl_id id, int rank);
    int (*use_context)(cu_context context);
} joining;

enum { NO_DEVICE = 1 }; /* ncclUnhandledCudaError */

static int call_join(void *self) {
    joining *j = self;
    return j->use_context(j->context) == 0 ? j->comm_init_rank(&j->comm, j->world, j->id, j->rank) : NO_DEVICE;
}

/* ncclCommInitRank waits for all ranks, for ever if one is gone. It is called on a thread that can be left behind; a
 * communicator that does not block could be aborted instead, but each of its calls would have to be waited for. */
static bool join(nccl *n, const nccl_id *id, double patience, char *why, size_t size) {
    joining *j = calloc(1, sizeof *j);
    int result = SUCCESS;
    if (!j || n->stream_create(&n->stream, CU_NON_BLOCKING, FIRST) != 0 || n->context_of_thread(&j->context) != 0) {
        snprintf(why, size, "no stream on the GPU");
        free(j);
        return false;
    }
    j->rank = n->rank;
    j->world = n->world;
    j->id = *id;
    j->comm_init_rank = n->comm_init_rank;
    j->use_context = n->use_context;
    if (!ni_call_within(call_join, j, patience, &result)) {
        snprintf(why, size, "ncclCommInitRank has waited for the other ranks for %.0f s", patience);
        return false;
    }
    n->comm = result == SUCCESS ? j->comm : NULL;
    free(j);
    if (result != SUCCESS)
        snprintf(why, size, "ncclCommInitRank: %.150s", n->error_string(result));
    return result == SUCCESS;
}

static void close_nccl(void *self) {
    nccl *n = self;
    if (!n)
        return;
    if (n->comm && !n->dead)
        n->comm_destroy(n->comm);
    if (n->stream)
        n->stream_destroy(n->stream);
    free(n);
}

/* ---- a trade ---- */

static ni_trade broken(const nccl *n, int result, const char *what, ni_wire_news *news) {
    snprintf(news->text, sizeof news->text, "%s: %.200s", what, n->error_string(result));
    return NI_TRADE_BROKEN;
}

/* Waits for the stream; where it does not come to its end in time, or NCCL finds a rank gone, the communicator is given
 * up, which ends what is under way. */
static ni_trade finish(nccl *n, double patience, ni_wire_news *news) {
    const double until = ni_seconds() + patience;
    for (int tests = 0;; tests++) {
        const int state = n->stream_query(n->stream);
        int error = SUCCESS;
        if (state == 0)
            return NI_TRADE_DONE;
        const int asked = n->comm_get_async_error(n->comm, &error);
        const bool failed = state != CU_NOT_READY || asked != SUCCESS || (error != SUCCESS && error != IN_PROGRESS);
        if (failed || ni_seconds() > until) {
            n->comm_abort(n->comm);
            n->dead = true;
            if (failed)
                return broken(n, error, "an exchange failed", news);
            snprintf(news->text, sizeof news->text, "an exchange has not ended after %.0f s", patience);
            return NI_TRADE_BROKEN;
        }
        const struct timespec pause = {.tv_nsec = 20 * 1000};
        if (tests > 1000)
            nanosleep(&pause, NULL);
    }
}

static ni_trade trade(void *self, const ni_letter *out, const ni_letter *in, double patience, ni_wire_news *news) {
    nccl *n = self;
    int result = n->group_start();
    for (int32_t step = 1; result == SUCCESS && step < n->world; step++) {
        const int32_t to = (n->rank + step) % n->world, from = (n->rank + n->world - step) % n->world;
        if (out[to].bytes > 0)
            result = n->send(out[to].data, out[to].bytes, INT8, to, n->comm, n->stream);
        if (result == SUCCESS && in[from].bytes > 0)
            result = n->recv(in[from].data, in[from].bytes, INT8, from, n->comm, n->stream);
    }
    const int ended = n->group_end();
    if (result != SUCCESS || ended != SUCCESS)
        return broken(n, result != SUCCESS ? result : ended, "an exchange cannot begin", news);
    return finish(n, patience, news);
}

/* The others hear of it over the host's wire. */
static void fail(void *self, const ni_wire_news *why) {
    nccl *n = self;
    (void)why;
    if (!n->dead)
        n->comm_abort(n->comm);
    n->dead = true;
}

nb_status ni_ranks_use_nccl(nb_ranks *ranks, char *why, size_t size, nb_error *err) {
    nccl_id id = {{0}};
    bool lacking;
    if (!ranks || ranks->device.trade)
        return NB_OK;
    nccl *n = open_libraries(why, size);
    bool good = n && (ranks->rank > 0 || n->get_unique_id(&id) == SUCCESS);
    nb_status status = ni_ranks_any(ranks, !good, &lacking, err);
    if (status == NB_OK && !lacking) {
        n->rank = ranks->rank;
        n->world = ranks->world;
        status = ni_ranks_broadcast(ranks, &id, sizeof id, err);
        good = status == NB_OK && join(n, &id, ranks->patience, why, size);
        if (status == NB_OK)
            status = ni_ranks_any(ranks, !good, &lacking, err);
    }
    if (status == NB_OK && !lacking) {
        ranks->device = (ni_wire){.name = "nccl",
                                  .self = n,
                                  .rank = n->rank,
                                  .world = n->world,
                                  .trade = trade,
                                  .fail = fail,
                                  .close = close_nccl};
        return NB_OK;
    }
    if (status == NB_OK && good)
        snprintf(why, size, "another rank has no NCCL, or could not join");
    close_nccl(n);
    return status;
}
