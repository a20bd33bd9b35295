/* profile.c: where the GPU's time goes. An event stands behind each operation that is enqueued; the time from one event
 * to the next is the later one's, and so a GPU that waits for the host shows as well, at what it waited for.
 */
#include "backend/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

typedef struct mark {
    cudaEvent_t event;
    const char *what;
} mark;

typedef struct ni_cuda_profile {
    mark *marks; /* the first is the start */
    int32_t count, room;
    int code; /* cudaError_t of the first event that failed */
} ni_cuda_profile;

void ni_cuda_profile_free(ni_cuda_profile *profile) {
    for (int32_t i = 0; profile && i < profile->count; i++)
        cudaEventDestroy(profile->marks[i].event);
    if (profile)
        free(profile->marks);
    free(profile);
}

void ni_cuda_mark(nb_backend *be, const char *what) {
    ni_cuda_profile *p = ni_cuda_of(be)->profile;
    if (!p || p->code)
        return;
    if (p->count == p->room) {
        const int32_t room = p->room ? 2 * p->room : 4096;
        mark *marks = realloc(p->marks, (size_t)room * sizeof *marks);
        if (!marks) {
            p->code = cudaErrorMemoryAllocation;
            return;
        }
        p->marks = marks;
        p->room = room;
    }
    mark *m = &p->marks[p->count];
    m->what = what;
    p->code = cudaEventCreate(&m->event);
    if (p->code)
        return;
    p->count++;
    p->code = cudaEventRecord(m->event, ni_cuda_of(be)->stream);
}

static nb_status start(nb_backend *be, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    NB_TRY(ni_cuda_status(be, cudaStreamSynchronize(cuda->stream), "a profile", err));
    ni_cuda_profile_free(cuda->profile);
    cuda->profile = calloc(1, sizeof *cuda->profile);
    if (!cuda->profile)
        return nb_fail(err, NB_NO_MEMORY, "cuda: no memory for a profile");
    ni_cuda_mark(be, "start");
    return NB_OK;
}

/* ---- lines ---- */

static int by_time(const void *a, const void *b) {
    const double x = ((const ni_profile_line *)a)->ms, y = ((const ni_profile_line *)b)->ms;
    return x < y ? 1 : x > y ? -1 : 0;
}

static ni_profile_line *line_of(ni_profile_line *all, int32_t *count, const char *what) {
    for (int32_t i = 0; i < *count; i++)
        if (strcmp(all[i].what, what) == 0)
            return &all[i];
    all[*count] = (ni_profile_line){.what = what};
    return &all[(*count)++];
}

static int add_up(const ni_cuda_profile *p, ni_profile_line *all, int32_t *count) {
    for (int32_t i = 1; i < p->count; i++) {
        float ms = 0;
        const cudaError_t code = cudaEventElapsedTime(&ms, p->marks[i - 1].event, p->marks[i].event);
        if (code != cudaSuccess)
            return code;
        ni_profile_line *line = line_of(all, count, p->marks[i].what);
        line->ms += (double)ms;
        line->calls++;
    }
    return cudaSuccess;
}

static nb_status stop(nb_backend *be, ni_profile_line *lines, int32_t room, int32_t *count, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    ni_cuda_profile *p = cuda->profile;
    *count = 0;
    if (!p)
        return NB_OK;
    cuda->profile = NULL; /* what follows is no part of it */
    ni_profile_line *all = calloc((size_t)p->count + 1, sizeof *all);
    int code = all ? p->code : (int)cudaErrorMemoryAllocation;
    if (!code)
        code = cudaStreamSynchronize(cuda->stream);
    if (!code)
        code = add_up(p, all, count);
    if (!code) {
        qsort(all, (size_t)*count, sizeof *all, by_time);
        memcpy(lines, all, (size_t)(*count < room ? *count : room) * sizeof *all);
    }
    free(all);
    ni_cuda_profile_free(p);
    return ni_cuda_status(be, code, "a profile", err);
}

const ni_profiler ni_cuda_profiler = {start, stop};
