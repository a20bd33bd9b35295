/* memory.c: the GPU's memory, its faults, and the scratch that operations share. */
#include "backend/cuda/cuda.h"
#include "backend/cuda/rows.h"

#include <stdio.h>

bool ni_cuda_good(nb_backend *be, int code, const char *what) {
    ni_cuda *cuda = ni_cuda_of(be);
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

nb_status ni_cuda_status(nb_backend *be, int code, const char *what, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (cuda->fault_status == NB_OK && is_refusal(code))
        return nb_fail(err, NB_UNSUPPORTED, "cuda: %s refuses these shapes or addresses: %s", what,
                       cudaGetErrorString((cudaError_t)code));
    ni_cuda_good(be, code, what);
    if (cuda->fault_status != NB_OK && err)
        *err = cuda->fault;
    return cuda->fault_status;
}

void *ni_cuda_scratch(nb_backend *be, size_t bytes, const char *what) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (bytes <= cuda->scratch_bytes)
        return cuda->scratch;
    size_t wanted = (bytes + ((size_t)16 << 20) - 1) >> 20 << 20;
    cudaFree(cuda->scratch); /* waits for what still reads it */
    cuda->scratch = NULL;
    cuda->scratch_bytes = 0;
    if (!ni_cuda_good(be, cudaMalloc(&cuda->scratch, wanted), what))
        return NULL;
    cuda->scratch_bytes = wanted;
    return cuda->scratch;
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
