/* library.c: what this library was built from, for the program that opens it. */
#include "backend/cuda/library.h"

__attribute__((visibility("default"))) nb_cuda_library_fit nb_cuda_library_fits(void) {
    const nb_cuda_library_fit fit = NB_CUDA_LIBRARY_FIT;
    return fit;
}
