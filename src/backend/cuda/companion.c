/* companion.c: a second stream for another thread. It goes first: what it does is short, and ranks wait for it. */
#include "backend/cuda/cuda.h"

#include "backend/cuda/library.h"

#include <stdlib.h>
#include <string.h>

static nb_status use_quick_stream(nb_backend *worker, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(worker);
    int last, first;
    cudaStream_t quick;
    cudaError_t code = cudaDeviceGetStreamPriorityRange(&last, &first);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithPriority(&quick, cudaStreamNonBlocking, first);
    if (code != cudaSuccess)
        return ni_cuda_status(worker, code, "a second stream", err);
    cudaStreamDestroy(cuda->own);
    cuda->stream = cuda->own = quick;
    return NB_OK;
}

static nb_status companion_open(nb_backend *be, nb_backend **worker, nb_error *err) {
    NB_TRY(ni_cuda_library_open(ni_cuda_of(be)->device, worker, err));
    const nb_status status = use_quick_stream(*worker, err);
    if (status != NB_OK) {
        nb_backend_free(*worker);
        *worker = NULL;
    }
    return status;
}

static nb_status enter(nb_backend *worker, nb_error *err) {
    return ni_cuda_status(worker, cudaSetDevice(ni_cuda_of(worker)->device), "a second thread", err);
}

static void forget(void *mark) {
    if (mark)
        cudaEventDestroy((cudaEvent_t)mark);
}

static void *mark_here(nb_backend *be) {
    cudaEvent_t event;
    if (!ni_cuda_good(be, cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "a mark"))
        return NULL;
    if (ni_cuda_good(be, cudaEventRecord(event, ni_cuda_of(be)->stream), "a mark"))
        return event;
    forget(event);
    return NULL;
}

static nb_status await(nb_backend *worker, void *mark, nb_error *err) {
    if (!mark) /* the other backend knows why */
        return nb_fail(err, NB_INTERNAL, "cuda: a mark behind the backward pass could not be set");
    const cudaError_t code = cudaEventSynchronize((cudaEvent_t)mark);
    forget(mark);
    return ni_cuda_status(worker, code, "what was asked before", err);
}

static void follow(nb_backend *be, void *mark) {
    if (mark)
        ni_cuda_good(be, cudaStreamWaitEvent(ni_cuda_of(be)->stream, (cudaEvent_t)mark, 0), "a mark");
    forget(mark);
}

/* ---- memory of other processes ---- */

/* What is refused here is no fault of an operation: the caller goes another way. */
static bool lend(nb_backend *be, void *memory, ni_lent *out) {
    cudaIpcMemHandle_t handle;
    (void)be;
    _Static_assert(sizeof handle == sizeof out->words, "a handle of CUDA's");
    const cudaError_t code = cudaIpcGetMemHandle(&handle, memory);
    cudaGetLastError();
    memcpy(out->words, &handle, sizeof handle);
    return code == cudaSuccess;
}

static void *borrow(nb_backend *be, const ni_lent *lent) {
    cudaIpcMemHandle_t handle;
    void *memory = NULL;
    (void)be;
    memcpy(&handle, lent->words, sizeof handle);
    const cudaError_t code = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
    cudaGetLastError();
    return code == cudaSuccess ? memory : NULL;
}

/* A context that this broke says so to whoever asks next. */
static bool peek(nb_backend *be, void *to, const void *borrowed, size_t bytes) {
    const cudaStream_t stream = ni_cuda_of(be)->stream;
    cudaError_t code = cudaMemcpyAsync(to, borrowed, bytes, cudaMemcpyDeviceToDevice, stream);
    if (code == cudaSuccess)
        code = cudaStreamSynchronize(stream);
    cudaGetLastError();
    return code == cudaSuccess;
}

static void give_back(nb_backend *be, void *borrowed) {
    (void)be;
    cudaIpcCloseMemHandle(borrowed);
    cudaGetLastError();
}

const ni_companion ni_cuda_companion = {.open = companion_open,
                                        .enter = enter,
                                        .mark = mark_here,
                                        .await = await,
                                        .forget = forget,
                                        .follow = follow,
                                        .lend = lend,
                                        .borrow = borrow,
                                        .peek = peek,
                                        .give_back = give_back};
