/* memory.c: the GPU's memory, its faults, and the scratch that operations share. */
#include "backend/cuda/alphas.h"
#include "backend/cuda/maxima.h"
#include "backend/cuda/rows.h"

#include <stdio.h>

/* ---- what goes wrong ----
 *
 * A fault of the GPU (an address that is not there, a card that is gone) leaves a context in which nothing works any
 * more: it stays. A launch that was refused for its arguments ran nothing and broke nothing, and memory that ran out
 * may suffice for the next who asks: those are told once. */

static bool is_refusal(int code) {
    return code == cudaErrorInvalidValue || code == cudaErrorMisalignedAddress || code == cudaErrorNotSupported;
}

/* An address may be refused before a launch or be found wrong by a kernel: after the latter the stream says so too. */
static bool is_broken(const ni_cuda *cuda, int code) {
    cudaGetLastError(); /* what is told here must not pass for the fault of the next launch */
    if (code == cudaErrorMemoryAllocation)
        return false;
    if (!is_refusal(code))
        return true;
    const cudaError_t now = cudaStreamQuery(cuda->stream);
    cudaGetLastError();
    return now != cudaSuccess && now != cudaErrorNotReady;
}

static bool is_gone(int code) {
    return code == cudaErrorECCUncorrectable || code == cudaErrorNvlinkUncorrectable ||
           code == cudaErrorDevicesUnavailable || code == cudaErrorNoDevice || code == cudaErrorUnknown ||
           code == cudaErrorContained || code == cudaErrorExternalDevice;
}

/* An operation that returns a status may refuse (`refusable`); one that returns none was given something impossible. */
static nb_status describe(const ni_cuda *cuda, int code, const char *what, bool refusable, nb_error *err) {
    const char *says = cudaGetErrorString((cudaError_t)code);
    if (code == cudaErrorMemoryAllocation)
        return nb_fail(err, NB_NO_MEMORY, "cuda: %s: no memory left on %s", what, cuda->name);
    if (!cuda->broken)
        return nb_fail(err, refusable ? NB_UNSUPPORTED : NB_INTERNAL, "cuda: %s refuses these shapes or addresses: %s",
                       what, says);
    if (is_gone(code))
        return nb_fail(err, NB_INTERNAL,
                       "cuda: %s: GPU %d (%s) is lost: %s; hint: checkpoints on disk are whole, nibble train --resume "
                       "goes on once the GPU is back",
                       what, cuda->device, cuda->name, says);
    return nb_fail(err, NB_INTERNAL,
                   "cuda: %s: %s; the GPU's context is gone; hint: --resume from the last checkpoint, and "
                   "scripts/gpu-check finds which operation it was",
                   what, says);
}

static bool note(nb_backend *be, int code, const char *what, bool refusable) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (code == cudaSuccess) {
        ni_cuda_mark(be, what);
        return true;
    }
    if (cuda->fault_status == NB_OK) { /* the first one: others follow from it */
        cuda->broken = is_broken(cuda, code);
        cuda->fault_status = describe(cuda, code, what, refusable, &cuda->fault);
    }
    return false;
}

bool ni_cuda_good(nb_backend *be, int code, const char *what) {
    return note(be, code, what, false);
}

void ni_cuda_keep(nb_backend *be, const nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (cuda->fault_status == NB_OK) {
        cuda->fault_status = err->status;
        cuda->fault = *err;
    }
}

nb_status ni_cuda_status(nb_backend *be, int code, const char *what, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    note(be, code, what, true);
    const nb_status status = cuda->fault_status;
    if (status != NB_OK && err)
        *err = cuda->fault;
    if (!cuda->broken)
        cuda->fault_status = NB_OK;
    return status;
}

void *ni_cuda_scratch(nb_backend *be, size_t bytes, const char *what) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (bytes <= cuda->scratch_bytes)
        return cuda->scratch;
    size_t wanted = (bytes + ((size_t)16 << 20) - 1) >> 20 << 20;
    cudaFree(cuda->scratch); /* waits for what still reads it */
    cuda->scratch = NULL;
    cuda->scratch_bytes = 0;
    const cudaError_t code = cudaMalloc(&cuda->scratch, wanted);
    if (code == cudaErrorMemoryAllocation && cuda->fault_status == NB_OK) {
        size_t left = 0, all = 0;
        cudaGetLastError();
        cudaMemGetInfo(&left, &all);
        cuda->fault_status = nb_fail(
            &cuda->fault, NB_NO_MEMORY, "cuda: no memory for %.1f MiB of scratch of %s; %s has %.1f of %.1f GiB left",
            (double)wanted / 1048576, what, cuda->name, (double)left / 1073741824, (double)all / 1073741824);
        return NULL;
    }
    if (!ni_cuda_good(be, code, what) ||
        !ni_cuda_good(be, cudaMemsetAsync(cuda->scratch, 0, wanted, cuda->stream), what))
        return NULL;
    cuda->scratch_bytes = wanted;
    return cuda->scratch;
}

bool ni_cuda_left(nb_backend *be, size_t *left, size_t *all) {
    (void)be; /* its GPU is this thread's */
    const cudaError_t code = cudaMemGetInfo(left, all);
    if (code != cudaSuccess)
        cudaGetLastError(); /* a question, no fault */
    return code == cudaSuccess;
}

/* ---- the rows of memory ---- */

void *ni_cuda_alloc(nb_backend *be, size_t bytes, const char *what) {
    ni_cuda *cuda = ni_cuda_of(be);
    void *memory = NULL;
    (void)what; /* ni_backend_take makes a sentence of it */
    cudaError_t code = cudaMalloc(&memory, bytes ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* it is the caller's to tell, and no fault of an operation */
        return NULL;
    }
    if (!ni_cuda_good(be, code, "memory"))
        return NULL;
    ni_cuda_good(be, cudaMemsetAsync(memory, 0, bytes, cuda->stream), "memory");
    return memory;
}

void ni_cuda_release(nb_backend *be, void *memory) {
    ni_cuda_alphas_forget(be); /* scales may lie there */
    ni_cuda_maxima_forget(be);
    ni_cuda_good(be, cudaFree(memory), "memory");
}

/* A copy from pageable memory returns once the bytes are in the driver's own buffer. */
void ni_cuda_upload(nb_backend *be, void *to, const void *from_host, size_t bytes) {
    if (bytes)
        ni_cuda_good(be, cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, ni_cuda_of(be)->stream),
                     "upload");
}

void ni_cuda_download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (bytes &&
        ni_cuda_good(be, cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, cuda->stream), "download"))
        ni_cuda_good(be, cudaStreamSynchronize(cuda->stream), "download");
}

void ni_cuda_copy(nb_backend *be, void *to, const void *from, size_t bytes) {
    if (bytes)
        ni_cuda_good(be, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ni_cuda_of(be)->stream), "copy");
}

void ni_cuda_fill_zero(nb_backend *be, void *to, size_t bytes) {
    if (bytes)
        ni_cuda_good(be, cudaMemsetAsync(to, 0, bytes, ni_cuda_of(be)->stream), "fill_zero");
}

nb_status ni_cuda_synchronize(nb_backend *be, nb_error *err) {
    return ni_cuda_status(be, cudaStreamSynchronize(ni_cuda_of(be)->stream), "an operation of the GPU", err);
}
