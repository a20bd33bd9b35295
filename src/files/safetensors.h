/* safetensors.h: reading and writing tensor files that anyone may have made.
 *
 * Layout: u64 little-endian header length, JSON header, data. Format: github.com/huggingface/safetensors.
 * Reading trusts nothing: sizes are checked for overflow, offsets for gaps, overlaps and the end of the file.
 */
#ifndef NB_FILES_SAFETENSORS_H
#define NB_FILES_SAFETENSORS_H

#include "nibble/status.h"
#include <stddef.h>
#include <stdint.h>

#define NB_TENSOR_RANK 8

typedef enum nb_tensor_dtype {
    NB_ST_F64,
    NB_ST_F32,
    NB_ST_F16,
    NB_ST_BF16,
    NB_ST_I64,
    NB_ST_I32,
    NB_ST_U32,
    NB_ST_U16,
    NB_ST_U8,
    NB_ST_I8,
    NB_ST_BOOL,
    NB_ST_F8_E4M3,
    NB_ST_F8_E5M2,
    NB_ST_U64,
    NB_ST_I16
} nb_tensor_dtype;
size_t nb_tensor_dtype_size(nb_tensor_dtype dtype);
const char *nb_tensor_dtype_name(nb_tensor_dtype dtype); /* "F32", as in the header */

typedef struct nb_file_tensor {
    const char *name;
    nb_tensor_dtype dtype;
    int32_t rank;
    int64_t shape[NB_TENSOR_RANK];
    const void *data; /* row-major, little-endian */
    size_t bytes;
} nb_file_tensor;

typedef struct nb_metadata {
    const char *key, *value;
} nb_metadata;

/* Writes `count` tensors to `path` atomically (temporary name, fsync, rename). `bytes` is checked against the shape. */
nb_status nb_safetensors_write(const char *path, const nb_file_tensor *tensors, int32_t count,
                               const nb_metadata *metadata, int32_t metadata_count, nb_error *err);

/* The same with data that is made when its turn comes: `source` points *data at the bytes of tensors[index], which must
 * live until its next call; tensors[].data is not looked at. Each tensor is asked for once, in the order of the file.
 */
typedef nb_status nb_tensor_source(void *context, int32_t index, const void **data, nb_error *err);
nb_status nb_safetensors_write_from(const char *path, const nb_file_tensor *tensors, int32_t count,
                                    const nb_metadata *metadata, int32_t metadata_count, nb_tensor_source *source,
                                    void *context, nb_error *err);

typedef struct nb_safetensors nb_safetensors;

/* Maps a file and checks its header. Tensors point into the map until nb_safetensors_close, in the order of the data.
 * Their data need not be aligned to its type: old files have headers of odd length. */
nb_status nb_safetensors_open(const char *path, nb_safetensors **out, nb_error *err);
/* The same over bytes already in memory (not copied), for tests and fuzzing. */
nb_status nb_safetensors_parse(const void *bytes, size_t size, nb_safetensors **out, nb_error *err);
void nb_safetensors_close(nb_safetensors *file);
int32_t nb_safetensors_count(const nb_safetensors *file);
const nb_file_tensor *nb_safetensors_at(const nb_safetensors *file, int32_t index);
const nb_file_tensor *nb_safetensors_find(const nb_safetensors *file, const char *name); /* NULL if absent */
const char *nb_safetensors_metadata(const nb_safetensors *file, const char *key);        /* NULL if absent */

#endif
