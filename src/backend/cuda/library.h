/* library.h: the one door of libnibble-cuda.so, which the program opens at run time (src/backend/load.c). */
#ifndef NI_BACKEND_CUDA_LIBRARY_H
#define NI_BACKEND_CUDA_LIBRARY_H

#include "backend/table.h"

/* Whether library and program were built from one table: sizes of it and of what goes through it. */
typedef struct ni_cuda_library_fit {
    size_t table, mat, qtensor, error;
} ni_cuda_library_fit;

#define NI_CUDA_LIBRARY_FIT                                                                                            \
    { sizeof(ni_backend_ops), sizeof(nb_mat), sizeof(nb_qtensor), sizeof(nb_error) }

typedef nb_status ni_cuda_library_open_function(int device, nb_backend **out, nb_error *err);
typedef ni_cuda_library_fit ni_cuda_library_fit_function(void);

ni_cuda_library_open_function ni_cuda_library_open;
ni_cuda_library_fit_function ni_cuda_library_fits;

#endif
