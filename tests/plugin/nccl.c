/* nccl.c: a libnccl.so.2, and a libcuda.so.1, without a GPU: what src/dist/nccl.c asks of them, over files, for
 * backends whose memory is the host's (stub.c). A receive comes to its end when the stream is asked and the file is
 * there, so that a rank whose peer is gone waits as it would for NCCL.
 *
 * NIBBLE_STUB_NCCL=join: no communicator comes about, as for two ranks of one GPU; wait: the call does not come back,
 * as where a rank is gone; die: the process ends in it.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DOOR __attribute__((visibility("default")))
enum { SUCCESS = 0, SYSTEM_ERROR = 2, USAGE = 5, NOT_READY = 600, MOST = 64, PATH_SIZE = 300 };

typedef struct id {
    char folder[128];
} id;

typedef struct receive {
    char path[PATH_SIZE];
    void *to;
    size_t bytes;
} receive;

typedef struct comm {
    char folder[128];
    int rank, group;
    receive pending[MOST];
    int count;
    bool bad;
} comm;

/* The stream is asked without the communicator: there is one. */
static comm *the_comm;

static void path_of(const comm *c, int from, int to, char *path) {
    const int group = c->group;
    snprintf(path, PATH_SIZE, "%.100s/%d-%d-%d", c->folder, group, from, to);
}

DOOR int ncclGetVersion(int *version);
DOOR int ncclGetVersion(int *version) {
    *version = 22703;
    return SUCCESS;
}

DOOR int ncclGetUniqueId(id *out);
DOOR int ncclGetUniqueId(id *out) {
    snprintf(out->folder, sizeof out->folder, "nccl-XXXXXX");
    return mkdtemp(out->folder) ? SUCCESS : SYSTEM_ERROR;
}

DOOR int ncclCommInitRank(comm **out, int ranks, id with, int rank);
DOOR int ncclCommInitRank(comm **out, int ranks, id with, int rank) {
    const char *asked = getenv("NIBBLE_STUB_NCCL");
    (void)ranks;
    if (asked && strcmp(asked, "join") == 0)
        return USAGE;
    if (asked && strcmp(asked, "die") == 0)
        raise(SIGKILL);
    while (asked && strcmp(asked, "wait") == 0)
        pause();
    *out = the_comm = calloc(1, sizeof **out);
    if (!*out)
        return SYSTEM_ERROR;
    memcpy((*out)->folder, with.folder, sizeof with.folder);
    (*out)->rank = rank;
    return SUCCESS;
}

DOOR int ncclCommDestroy(comm *c);
DOOR int ncclCommDestroy(comm *c) {
    the_comm = NULL;
    free(c);
    return SUCCESS;
}

DOOR int ncclCommAbort(comm *c);
DOOR int ncclCommAbort(comm *c) {
    return ncclCommDestroy(c);
}

DOOR int ncclCommGetAsyncError(comm *c, int *error);
DOOR int ncclCommGetAsyncError(comm *c, int *error) {
    *error = c->bad ? SYSTEM_ERROR : SUCCESS;
    return SUCCESS;
}

DOOR int ncclGroupStart(void);
DOOR int ncclGroupStart(void) {
    the_comm->group++;
    the_comm->count = 0;
    return SUCCESS;
}

DOOR int ncclGroupEnd(void);
DOOR int ncclGroupEnd(void) {
    return SUCCESS;
}

DOOR int ncclSend(const void *from, size_t count, int type, int peer, comm *c, void *stream);
DOOR int ncclSend(const void *from, size_t count, int type, int peer, comm *c, void *stream) {
    char path[PATH_SIZE], half[PATH_SIZE + 8];
    (void)type, (void)stream;
    path_of(c, c->rank, peer, path);
    snprintf(half, sizeof half, "%s.half", path);
    FILE *file = fopen(half, "wb");
    if (!file)
        return SYSTEM_ERROR;
    const bool whole = fwrite(from, 1, count, file) == count;
    return fclose(file) == 0 && whole && rename(half, path) == 0 ? SUCCESS : SYSTEM_ERROR;
}

DOOR int ncclRecv(void *to, size_t count, int type, int peer, comm *c, void *stream);
DOOR int ncclRecv(void *to, size_t count, int type, int peer, comm *c, void *stream) {
    (void)type, (void)stream;
    if (c->count == MOST)
        return SYSTEM_ERROR;
    char path[PATH_SIZE];
    path_of(c, peer, c->rank, path);
    receive *r = &c->pending[c->count++];
    *r = (receive){.to = to, .bytes = count};
    memcpy(r->path, path, sizeof path);
    return SUCCESS;
}

DOOR const char *ncclGetErrorString(int result);
DOOR const char *ncclGetErrorString(int result) {
    return result == USAGE ? "invalid usage" : result == SUCCESS ? "no error" : "unhandled system error";
}

/* True once nothing is to come. */
static bool try_receive(comm *c, receive *r) {
    FILE *file = fopen(r->path, "rb");
    char more;
    if (!file)
        return false;
    if (fread(r->to, 1, r->bytes, file) != r->bytes || fread(&more, 1, 1, file) != 0)
        c->bad = true; /* sender and receiver disagree on the length */
    fclose(file);
    unlink(r->path);
    return true;
}

DOOR int cuStreamQuery(void *stream);
DOOR int cuStreamQuery(void *stream) {
    (void)stream;
    while (the_comm->count > 0 && !the_comm->bad && try_receive(the_comm, &the_comm->pending[the_comm->count - 1]))
        the_comm->count--;
    return the_comm->count == 0 && !the_comm->bad ? SUCCESS : NOT_READY;
}

DOOR int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority);
DOOR int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    (void)priority;
    static char some;
    (void)flags;
    *stream = &some;
    return SUCCESS;
}

DOOR int cuStreamDestroy_v2(void *stream);
DOOR int cuStreamDestroy_v2(void *stream) {
    (void)stream;
    return SUCCESS;
}

DOOR int cuCtxGetCurrent(void **context);
DOOR int cuCtxGetCurrent(void **context) {
    static char some;
    *context = &some;
    return SUCCESS;
}

DOOR int cuCtxSetCurrent(void *context);
DOOR int cuCtxSetCurrent(void *context) {
    return context ? SUCCESS : USAGE;
}
