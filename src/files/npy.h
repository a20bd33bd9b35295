/* npy.h: NumPy arrays, versions 1.0 to 3.0, little-endian, C order. */
#ifndef NI_FILES_NPY_H
#define NI_FILES_NPY_H

#include "safetensors.h"

typedef struct ni_npy {
    ni_file_tensor tensor; /* data points into `memory`; name is NULL */
    char descr[8];         /* "<f4", "<u2", ... as the file says */
    void *memory;
} ni_npy;

/* Reads a whole file. Refuses Fortran order, big-endian and object arrays with the reason. */
nb_status ni_npy_read(const char *path, ni_npy *out, nb_error *err);
nb_status ni_npy_parse(const void *bytes, size_t size, ni_npy *out, nb_error *err); /* copies what it needs */
void ni_npy_free(ni_npy *npy);

/* The same without a copy: `tensor.data` points into `bytes`, perhaps unaligned; `memory` is NULL. */
nb_status ni_npy_view(const void *bytes, size_t size, ni_npy *out, nb_error *err);

/* Writes float32 [rows, cols] atomically. */
nb_status ni_npy_write_f32(const char *path, const float *data, int64_t rows, int64_t cols, nb_error *err);

#endif
