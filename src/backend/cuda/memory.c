/* memory.c: the GPU's memory, its faults, and the scratch that operations share. */
#include "backend/cuda/cuda.h"
#include "backend/cuda/rows.h"

#include <stdio.h>

bool nb_cuda_good(nb_backend *be, int code, const char *what) {
    nb_cuda *cuda = nb_cuda_of(be);
    if (code == cudaSuccess)
        return true;
    if (cuda->fault_status == NB_OK)
        cuda->fault_status = nb_fail(&cuda->fault, code == cudaErrorMemoryAllocation ? NB_NO_MEMORY : NB_INTERNAL,
                                     "cuda: %s: %s", what, cudaGetErrorString((cudaError_t)code));
    return false;
}

/* A launch that was refused for its arguments ran nothing and broke nothing: it is told, not kept. */
static bool is_refusal(int code) {
    return code == cudaErrorInvalidValue || code == cudaErrorMisalignedAddress || code == cudaErrorNotSupported;
}

nb_status nb_cuda_status(nb_backend *be, int code, const char *what, nb_error *err) {
    nb_cuda *cuda = nb_cuda_of(be);
    if (cuda->fault_status == NB_OK && is_refusal(code))
        return nb_fail(err, NB_UNSUPPORTED, "cuda: %s refuses these shapes or addresses: %s", what,
                       cudaGetErrorString((cudaError_t)code));
    nb_cuda_good(be, code, what);
    if (cuda->fault_status != NB_OK && err)
        *err = cuda->fault;
    return cuda->fault_status;
}

void *nb_cuda_scratch(nb_backend *be, size_t bytes, const char *what) {
    nb_cuda *cuda = nb_cuda_of(be);
    if (bytes <= cuda->scratch_bytes)
        return cuda->scratch;
    size_t wanted = (bytes + ((size_t)16 << 20) - 1) >> 20 << 20;
    cudaFree(cuda->scratch); /* waits for what still reads it */
    cuda->scratch = NULL;
    cuda->scratch_bytes = 0;
    if (!nb_cuda_good(be, cudaMalloc(&cuda->scratch, wanted), what))
        return NULL;
    cuda->scratch_bytes = wanted;
    return cuda->scratch;
}

/* ---- the rows of memory ---- */

void *nb_cuda_alloc(nb_backend *be, size_t bytes, const char *what) {
    nb_cuda *cuda = nb_cuda_of(be);
    void *memory = NULL;
    (void)what; /* nb_backend_take makes a sentence of it */
    cudaError_t code = cudaMalloc(&memory, bytes ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* it is the caller's to tell, and no fault of an operation */
        return NULL;
    }
    if (!nb_cuda_good(be, code, "memory"))
        return NULL;
    nb_cuda_good(be, cudaMemsetAsync(memory, 0, bytes, cuda->stream), "memory");
    return memory;
}

void nb_cuda_release(nb_backend *be, void *memory) {
    nb_cuda_good(be, cudaFree(memory), "memory");
}

/* A copy from pageable memory returns once the bytes are in the driver's own buffer. */
void nb_cuda_upload(nb_backend *be, void *to, const void *from_host, size_t bytes) {
    if (bytes)
        nb_cuda_good(be, cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, nb_cuda_of(be)->stream),
                     "upload");
}

void nb_cuda_download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    nb_cuda *cuda = nb_cuda_of(be);
    if (bytes &&
        nb_cuda_good(be, cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, cuda->stream), "download"))
        nb_cuda_good(be, cudaStreamSynchronize(cuda->stream), "download");
}

void nb_cuda_copy(nb_backend *be, void *to, const void *from, size_t bytes) {
    if (bytes)
        nb_cuda_good(be, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nb_cuda_of(be)->stream), "copy");
}

void nb_cuda_fill_zero(nb_backend *be, void *to, size_t bytes) {
    if (bytes)
        nb_cuda_good(be, cudaMemsetAsync(to, 0, bytes, nb_cuda_of(be)->stream), "fill_zero");
}

nb_status nb_cuda_synchronize(nb_backend *be, nb_error *err) {
    return nb_cuda_status(be, cudaStreamSynchronize(nb_cuda_of(be)->stream), "an operation of the GPU", err);
}
