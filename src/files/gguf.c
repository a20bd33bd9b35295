/* gguf.c: keys are gathered in memory, tensors go to the file one at a time. */
#include "files/gguf.h"
#include "files/file.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 3, ALIGNMENT = 32 };
enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_BOOL = 7, KIND_TEXT = 8, KIND_ARRAY = 9 };

/* ---- types ---- */

static const struct {
    ni_gguf_type type;
    const char *name;
    int64_t block; /* elements */
    size_t bytes;  /* of a block */
} types[] = {{NI_GGUF_F32, "F32", 1, 4},
             {NI_GGUF_F16, "F16", 1, 2},
             {NI_GGUF_BF16, "BF16", 1, 2},
             {NI_GGUF_MXFP4, "MXFP4", 32, 17},
             {NI_GGUF_NVFP4, "NVFP4", 64, 36}};
enum { TYPE_COUNT = sizeof types / sizeof types[0] };

size_t ni_gguf_row_bytes(ni_gguf_type type, int64_t elements) {
    for (int i = 0; i < TYPE_COUNT; i++)
        if (types[i].type == type && elements % types[i].block == 0)
            return (size_t)(elements / types[i].block) * types[i].bytes;
    return 0;
}

const char *ni_gguf_type_name(ni_gguf_type type) {
    for (int i = 0; i < TYPE_COUNT; i++)
        if (types[i].type == type)
            return types[i].name;
    return "?";
}

/* ---- bytes that grow ---- */

typedef struct bytes {
    char *data;
    size_t size, room;
    bool failed;
} bytes;

static void append(bytes *b, const void *data, size_t size) {
    if (b->failed || size > SIZE_MAX / 4 - b->size) {
        b->failed = true;
        return;
    }
    if (b->size + size > b->room) {
        size_t room = 2 * (b->size + size) + 256;
        char *more = realloc(b->data, room);
        if (!more) {
            b->failed = true;
            return;
        }
        b->data = more;
        b->room = room;
    }
    if (size)
        memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void append_u32(bytes *b, uint32_t value) {
    append(b, &value, sizeof value);
}

static void append_u64(bytes *b, uint64_t value) {
    append(b, &value, sizeof value);
}

static void append_text(bytes *b, const char *text, size_t size) {
    append_u64(b, size);
    append(b, text, size);
}

/* ---- keys ---- */

struct ni_gguf {
    bytes keys;
    uint64_t count;
};

ni_gguf *ni_gguf_new(void) {
    return calloc(1, sizeof(ni_gguf));
}

void ni_gguf_free(ni_gguf *file) {
    if (file)
        free(file->keys.data);
    free(file);
}

static void begin_key(ni_gguf *file, const char *key, uint32_t kind) {
    file->count++;
    append_text(&file->keys, key, strlen(key));
    append_u32(&file->keys, kind);
}

static void begin_array(ni_gguf *file, const char *key, uint32_t kind, uint64_t count) {
    begin_key(file, key, KIND_ARRAY);
    append_u32(&file->keys, kind);
    append_u64(&file->keys, count);
}

void ni_gguf_put_u32(ni_gguf *file, const char *key, uint32_t value) {
    begin_key(file, key, KIND_U32);
    append_u32(&file->keys, value);
}

void ni_gguf_put_f32(ni_gguf *file, const char *key, float value) {
    begin_key(file, key, KIND_F32);
    append(&file->keys, &value, sizeof value);
}

void ni_gguf_put_bool(ni_gguf *file, const char *key, bool value) {
    const uint8_t byte = value;
    begin_key(file, key, KIND_BOOL);
    append(&file->keys, &byte, 1);
}

void ni_gguf_put_text(ni_gguf *file, const char *key, const char *text) {
    begin_key(file, key, KIND_TEXT);
    append_text(&file->keys, text, strlen(text));
}

void ni_gguf_begin_texts(ni_gguf *file, const char *key, uint64_t count) {
    begin_array(file, key, KIND_TEXT, count);
}

void ni_gguf_begin_floats(ni_gguf *file, const char *key, uint64_t count) {
    begin_array(file, key, KIND_F32, count);
}

void ni_gguf_begin_ints(ni_gguf *file, const char *key, uint64_t count) {
    begin_array(file, key, KIND_I32, count);
}

void ni_gguf_add_text(ni_gguf *file, const char *text, size_t size) {
    append_text(&file->keys, text, size);
}

void ni_gguf_add_float(ni_gguf *file, float value) {
    append(&file->keys, &value, sizeof value);
}

void ni_gguf_add_int(ni_gguf *file, int32_t value) {
    append(&file->keys, &value, sizeof value);
}

/* ---- the file ---- */

static size_t padding(size_t size) {
    return (ALIGNMENT - size % ALIGNMENT) % ALIGNMENT;
}

static size_t tensor_bytes(const ni_gguf_tensor *t) {
    return (size_t)t->rows * ni_gguf_row_bytes(t->type, t->cols);
}

static nb_status make_header(const ni_gguf *file, const ni_gguf_tensor *tensors, int32_t count, bytes *header,
                             nb_error *err) {
    static const char zeros[ALIGNMENT];
    uint64_t offset = 0;
    append(header, "GGUF", 4);
    append_u32(header, VERSION);
    append_u64(header, (uint64_t)count);
    append_u64(header, file->count);
    append(header, file->keys.data, file->keys.size);
    for (int32_t i = 0; i < count; i++) {
        const ni_gguf_tensor *t = &tensors[i];
        if (tensor_bytes(t) == 0)
            return nb_fail(err, NB_BAD_USAGE, "tensor '%s': rows of %lld elements do not make whole blocks of %s",
                           t->name, (long long)t->cols, ni_gguf_type_name(t->type));
        append_text(header, t->name, strlen(t->name));
        append_u32(header, (uint32_t)t->rank);
        append_u64(header, (uint64_t)t->cols);
        if (t->rank == 2)
            append_u64(header, (uint64_t)t->rows);
        append_u32(header, (uint32_t)t->type);
        append_u64(header, offset);
        offset += tensor_bytes(t) + padding(tensor_bytes(t));
    }
    append(header, zeros, padding(header->size));
    if (file->keys.failed || header->failed)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the header of a file");
    return NB_OK;
}

static nb_status put_tensors(ni_writer *writer, const ni_gguf_tensor *tensors, int32_t count, ni_gguf_source *source,
                             void *context, nb_error *err) {
    static const char zeros[ALIGNMENT];
    for (int32_t i = 0; i < count; i++) {
        const void *data = NULL;
        const size_t size = tensor_bytes(&tensors[i]);
        NB_TRY(source(context, i, &data, err));
        NB_TRY(ni_writer_put(writer, data, size, err));
        NB_TRY(ni_writer_put(writer, zeros, padding(size), err));
    }
    return NB_OK;
}

nb_status ni_gguf_write(const ni_gguf *file, const char *path, const ni_gguf_tensor *tensors, int32_t count,
                        ni_gguf_source *source, void *context, nb_error *err) {
    bytes header = {0};
    ni_writer *writer = NULL;
    nb_status status = make_header(file, tensors, count, &header, err);
    if (status != NB_OK)
        nb_fail_within(err, "%s", path);
    if (status == NB_OK)
        status = ni_writer_open(path, &writer, err);
    if (status == NB_OK)
        status = ni_writer_put(writer, header.data, header.size, err);
    if (status == NB_OK)
        status = put_tensors(writer, tensors, count, source, context, err);
    free(header.data);
    if (status != NB_OK) {
        ni_writer_abandon(writer);
        return status;
    }
    return ni_writer_commit(writer, err);
}
