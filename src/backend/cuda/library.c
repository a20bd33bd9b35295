/* library.c: what this library was built from, for the program that opens it. */
#include "backend/cuda/library.h"

__attribute__((visibility("default"))) ni_cuda_library_fit ni_cuda_library_fits(void) {
    const ni_cuda_library_fit fit = NI_CUDA_LIBRARY_FIT;
    return fit;
}
