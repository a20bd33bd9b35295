/* safetensors.h: reading and writing tensor files that anyone may have made.
 *
 * Layout: u64 little-endian header length, JSON header, data. Format: github.com/huggingface/safetensors.
 * Reading trusts nothing: sizes are checked for overflow, offsets for gaps, overlaps and the end of the file.
 */
#ifndef NI_FILES_SAFETENSORS_H
#define NI_FILES_SAFETENSORS_H

#include "nibble/status.h"
#include <stddef.h>
#include <stdint.h>

#define NI_TENSOR_RANK 8

typedef enum ni_tensor_dtype {
    NI_ST_F64,
    NI_ST_F32,
    NI_ST_F16,
    NI_ST_BF16,
    NI_ST_I64,
    NI_ST_I32,
    NI_ST_U32,
    NI_ST_U16,
    NI_ST_U8,
    NI_ST_I8,
    NI_ST_BOOL,
    NI_ST_F8_E4M3,
    NI_ST_F8_E5M2,
    NI_ST_U64,
    NI_ST_I16
} ni_tensor_dtype;
size_t ni_tensor_dtype_size(ni_tensor_dtype dtype);
const char *ni_tensor_dtype_name(ni_tensor_dtype dtype); /* "F32", as in the header */

typedef struct ni_file_tensor {
    const char *name;
    ni_tensor_dtype dtype;
    int32_t rank;
    int64_t shape[NI_TENSOR_RANK];
    const void *data; /* row-major, little-endian */
    size_t bytes;
} ni_file_tensor;

typedef struct ni_metadata {
    const char *key, *value;
} ni_metadata;

/* Writes `count` tensors to `path` atomically (temporary name, fsync, rename). `bytes` is checked against the shape. */
nb_status ni_safetensors_write(const char *path, const ni_file_tensor *tensors, int32_t count,
                               const ni_metadata *metadata, int32_t metadata_count, nb_error *err);

/* The same with data that is made when its turn comes: `source` points *data at the bytes of tensors[index], which must
 * live until its next call; tensors[].data is not looked at. Each tensor is asked for once, in the order of the file.
 */
typedef nb_status ni_tensor_source(void *context, int32_t index, const void **data, nb_error *err);
nb_status ni_safetensors_write_from(const char *path, const ni_file_tensor *tensors, int32_t count,
                                    const ni_metadata *metadata, int32_t metadata_count, ni_tensor_source *source,
                                    void *context, nb_error *err);

typedef struct ni_safetensors ni_safetensors;

/* Maps a file and checks its header. Tensors point into the map until ni_safetensors_close, in the order of the data.
 * Their data need not be aligned to its type: old files have headers of odd length. */
nb_status ni_safetensors_open(const char *path, ni_safetensors **out, nb_error *err);
/* The same over bytes already in memory (not copied), for tests and fuzzing. */
nb_status ni_safetensors_parse(const void *bytes, size_t size, ni_safetensors **out, nb_error *err);
void ni_safetensors_close(ni_safetensors *file);
int32_t ni_safetensors_count(const ni_safetensors *file);
const ni_file_tensor *ni_safetensors_at(const ni_safetensors *file, int32_t index);
const ni_file_tensor *ni_safetensors_find(const ni_safetensors *file, const char *name); /* NULL if absent */
/* A tensor was read: its pages leave the process until somebody reads it again. */
void ni_safetensors_forget(const ni_safetensors *file, const ni_file_tensor *tensor);
const char *ni_safetensors_metadata(const ni_safetensors *file, const char *key); /* NULL if absent */

#endif
