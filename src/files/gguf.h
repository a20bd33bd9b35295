/* gguf.h: writing GGUF, the files of ggml and llama.cpp.
 *
 *     "GGUF"  u32 version 3  u64 tensors  u64 keys
 *     keys    text key, u32 type, value; an array is u32 type, u64 count, values
 *     tensors text name, u32 rank, u64 sizes (innermost first), u32 type, u64 offset
 *     zeros to a multiple of 32, then the data, each tensor at a multiple of 32
 *
 * A text is a u64 length and its bytes. Format: github.com/ggml-org/ggml, docs/gguf.md.
 */
#ifndef NI_FILES_GGUF_H
#define NI_FILES_GGUF_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ggml's numbers for the types that nibble writes. */
typedef enum ni_gguf_type {
    NI_GGUF_F32 = 0,
    NI_GGUF_F16 = 1,
    NI_GGUF_BF16 = 30,
    NI_GGUF_MXFP4 = 39,
    NI_GGUF_NVFP4 = 40
} ni_gguf_type;
/* Bytes of a row of so many elements; 0 where they do not make whole blocks. */
size_t ni_gguf_row_bytes(ni_gguf_type type, int64_t elements);
const char *ni_gguf_type_name(ni_gguf_type type);

typedef struct ni_gguf_tensor {
    char name[64]; /* ggml has room for no more */
    ni_gguf_type type;
    int32_t rank;       /* 1 or 2 */
    int64_t rows, cols; /* rank 1: rows = 1 */
} ni_gguf_tensor;

/* The keys of a file. A put that fails is told by ni_gguf_write. Free with ni_gguf_free (NULL is allowed). */
typedef struct ni_gguf ni_gguf;
ni_gguf *ni_gguf_new(void); /* NULL without memory */
void ni_gguf_free(ni_gguf *file);
void ni_gguf_put_u32(ni_gguf *file, const char *key, uint32_t value);
void ni_gguf_put_f32(ni_gguf *file, const char *key, float value);
void ni_gguf_put_bool(ni_gguf *file, const char *key, bool value);
void ni_gguf_put_text(ni_gguf *file, const char *key, const char *text);

/* An array whose values follow by ni_gguf_add_*, exactly `count` of the one kind. */
void ni_gguf_begin_texts(ni_gguf *file, const char *key, uint64_t count);
void ni_gguf_begin_floats(ni_gguf *file, const char *key, uint64_t count);
void ni_gguf_begin_ints(ni_gguf *file, const char *key, uint64_t count);
void ni_gguf_add_text(ni_gguf *file, const char *text, size_t size);
void ni_gguf_add_float(ni_gguf *file, float value);
void ni_gguf_add_int(ni_gguf *file, int32_t value);

/* Writes the file atomically. Each tensor is asked for once, in its turn; its data must live until the next call. */
typedef nb_status ni_gguf_source(void *context, int32_t index, const void **data, nb_error *err);
nb_status ni_gguf_write(const ni_gguf *file, const char *path, const ni_gguf_tensor *tensors, int32_t count,
                        ni_gguf_source *source, void *context, nb_error *err);

#endif
