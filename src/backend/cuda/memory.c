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

nb_status nb_cuda_status(nb_backend *be, int code, const char *what, nb_error *err) {
    nb_cuda *cuda = nb_cuda_of(be);
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
