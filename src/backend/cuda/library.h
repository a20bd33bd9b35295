/* library.h: the one door of libnibble-cuda.so, which the program opens at run time (src/backend/load.c). */
#ifndef NI_BACKEND_CUDA_LIBRARY_H
#define NI_BACKEND_CUDA_LIBRARY_H

#include "backend/table.h"

/* A GPU and what stands between it and the program, for `nibble info`. Versions as CUDA counts them: 13000 is 13.0. */
typedef struct ni_cuda_facts {
    char name[64];
    int count, device; /* GPUs that are seen, and which of them this is */
    int major, minor;  /* compute capability */
    int multiprocessors;
    size_t memory;             /* bytes */
    int driver, runtime;       /* the newest CUDA that the driver knows; the one that the library was built with */
    size_t cublaslt;           /* 130001: 13.0.1 */
    size_t cudnn;              /* 91900: 9.19.0; 0: none that can be used */
    char cudnn_why[160];       /* then: why */
    bool fp8_units, fp4_units; /* that this library has products for */
} ni_cuda_facts;

/* Whether library and program were built from one table: sizes of it and of what goes through it. */
typedef struct ni_cuda_library_fit {
    size_t table, mat, qtensor, error, facts;
} ni_cuda_library_fit;

#define NI_CUDA_LIBRARY_FIT                                                                                            \
    {                                                                                                                  \
        sizeof(ni_backend_ops) + sizeof(nb_backend) + sizeof(ni_companion), sizeof(nb_mat), sizeof(nb_qtensor),        \
            sizeof(nb_error), sizeof(ni_cuda_facts)                                                                    \
    }

typedef nb_status ni_cuda_library_open_function(int device, nb_backend **out, nb_error *err);
typedef nb_status ni_cuda_library_describe_function(int device, ni_cuda_facts *facts, nb_error *err);
typedef ni_cuda_library_fit ni_cuda_library_fit_function(void);

ni_cuda_library_open_function ni_cuda_library_open;
ni_cuda_library_describe_function ni_cuda_library_describe;
ni_cuda_library_fit_function ni_cuda_library_fits;

#endif
