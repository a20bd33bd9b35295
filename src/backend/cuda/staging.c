/* staging.c: what the host sends in every step (tokens, targets, positions) goes through pinned memory. The driver's own way
 * with pageable memory waits for the stream: at the end of a step the GPU would stand idle until the next step's numbers had
 * been copied twice.
 *
 * Two halves take turns. When one is full an event marks the last copy out of it, which is waited for before the half is
 * written again.
 */
#include "backend/cuda/staging.h"

#include <stdlib.h>
#include <string.h>

enum { HALF = 4 << 20, ALIGNED = 256 };

typedef struct ni_cuda_staging {
    char *halves[2]; /* the second NULL: the host has no memory to pin */
    cudaEvent_t left[2];
    bool waits[2]; /* for `left` */
    size_t used;   /* of the half at hand */
    int at;
} ni_cuda_staging;

static ni_cuda_staging *prepared(void) {
    ni_cuda_staging *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    cudaError_t code = cudaMallocHost((void **)&s->halves[0], 2 * (size_t)HALF);
    for (int i = 0; i < 2 && code == cudaSuccess; i++)
        code = cudaEventCreateWithFlags(&s->left[i], cudaEventDisableTiming);
    cudaGetLastError(); /* pageable memory does as well */
    if (code == cudaSuccess)
        s->halves[1] = s->halves[0] + HALF;
    return s;
}

static bool next_half(ni_cuda *cuda, ni_cuda_staging *s) {
    s->waits[s->at] = cudaEventRecord(s->left[s->at], cuda->stream) == cudaSuccess;
    const bool marked = s->waits[s->at];
    s->at ^= 1;
    s->used = 0;
    return marked && (!s->waits[s->at] || cudaEventSynchronize(s->left[s->at]) == cudaSuccess);
}

const void *ni_cuda_staged(ni_cuda *cuda, const void *from, size_t bytes) {
    if (bytes > HALF)
        return from;
    if (!cuda->staging)
        cuda->staging = prepared();
    ni_cuda_staging *const s = cuda->staging;
    if (!s || !s->halves[1] || (s->used + bytes > HALF && !next_half(cuda, s)))
        return from; /* a stream that is broken says so at the copy */
    char *const to = s->halves[s->at] + s->used;
    memcpy(to, from, bytes);
    s->used += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return to;
}

void ni_cuda_staging_free(ni_cuda_staging *s) {
    if (!s)
        return;
    for (int i = 0; i < 2; i++)
        if (s->left[i])
            cudaEventDestroy(s->left[i]);
    if (s->halves[0])
        cudaFreeHost(s->halves[0]);
    free(s);
}
