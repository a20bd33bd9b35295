/* library.h: the one door of libnibble-cuda.so, which the program opens at run time (src/backend/load.c). */
#ifndef NB_BACKEND_CUDA_LIBRARY_H
#define NB_BACKEND_CUDA_LIBRARY_H

#include "backend/table.h"

/* Whether library and program were built from one table: sizes of it and of what goes through it. */
typedef struct nb_cuda_library_fit {
    size_t table, mat, qtensor, error;
} nb_cuda_library_fit;

#define NB_CUDA_LIBRARY_FIT                                                                                            \
    { sizeof(nb_backend_ops), sizeof(nb_mat), sizeof(nb_qtensor), sizeof(nb_error) }

typedef nb_status nb_cuda_library_open_function(int device, nb_backend **out, nb_error *err);
typedef nb_cuda_library_fit nb_cuda_library_fit_function(void);

nb_cuda_library_open_function nb_cuda_library_open;
nb_cuda_library_fit_function nb_cuda_library_fits;

#endif
