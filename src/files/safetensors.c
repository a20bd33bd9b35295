/* safetensors.c: tensor files by the layout of github.com/huggingface/safetensors.
 *
 * A reader meets files that anyone may have made. The header is JSON of at most 100 MB (the limit of the original
 * implementation); every size is computed with overflow checks; the tensors must tile the data exactly, in any order.
 */
#include "safetensors.h"
#include "file.h"
#include "json.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_LIMIT 100000000u

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [NI_ST_F64] = {"F64", 8},         [NI_ST_F32] = {"F32", 4},   [NI_ST_F16] = {"F16", 2},
    [NI_ST_BF16] = {"BF16", 2},       [NI_ST_I64] = {"I64", 8},   [NI_ST_I32] = {"I32", 4},
    [NI_ST_U32] = {"U32", 4},         [NI_ST_U16] = {"U16", 2},   [NI_ST_U8] = {"U8", 1},
    [NI_ST_I8] = {"I8", 1},           [NI_ST_BOOL] = {"BOOL", 1}, [NI_ST_F8_E4M3] = {"F8_E4M3", 1},
    [NI_ST_F8_E5M2] = {"F8_E5M2", 1}, [NI_ST_U64] = {"U64", 8},   [NI_ST_I16] = {"I16", 2},
};
enum { DTYPE_COUNT = sizeof dtypes / sizeof dtypes[0] };

size_t ni_tensor_dtype_size(ni_tensor_dtype dtype) {
    return (size_t)dtype < DTYPE_COUNT ? dtypes[dtype].size : 0;
}

const char *ni_tensor_dtype_name(ni_tensor_dtype dtype) {
    return (size_t)dtype < DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

/* Bytes of a tensor from its shape; false on overflow or a negative size. */
static bool bytes_of_shape(const ni_file_tensor *tensor, size_t *bytes) {
    size_t product = ni_tensor_dtype_size(tensor->dtype);
    for (int32_t i = 0; i < tensor->rank; i++)
        if (tensor->shape[i] < 0 || __builtin_mul_overflow(product, (size_t)tensor->shape[i], &product))
            return false;
    *bytes = product;
    return true;
}

/* ---- reading ---- */

typedef struct named_tensor {
    ni_file_tensor *tensor;
} named_tensor;

struct ni_safetensors {
    ni_file_map map; /* bytes NULL if the caller owns the memory */
    json_t *header;  /* owns the names and the metadata */
    const char *data;
    size_t data_size;
    int32_t count;
    ni_file_tensor *tensors; /* in the order of the data */
    named_tensor *by_name;
};

static nb_status read_shape(const json_t *shape, ni_file_tensor *tensor, nb_error *err) {
    size_t rank = json_array_size(shape);
    if (!json_is_array(shape) || rank > NI_TENSOR_RANK)
        return nb_fail(err, NB_BAD_FILE, "tensor '%s': expected a shape of at most %d dimensions", tensor->name,
                       NI_TENSOR_RANK);
    tensor->rank = (int32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *extent = json_array_get(shape, i);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return nb_fail(err, NB_BAD_FILE, "tensor '%s': dimension %zu of the shape is not a size", tensor->name, i);
        tensor->shape[i] = json_integer_value(extent);
    }
    return NB_OK;
}

static nb_status read_dtype(const json_t *value, ni_file_tensor *tensor, nb_error *err) {
    const char *name = json_string_value(value);
    for (int i = 0; name && i < DTYPE_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            tensor->dtype = (ni_tensor_dtype)i;
            return NB_OK;
        }
    return nb_fail(err, NB_BAD_FILE, "tensor '%s': unknown dtype '%.32s'", tensor->name, name ? name : "(not text)");
}

static nb_status read_entry(const ni_safetensors *file, const json_t *entry, ni_file_tensor *tensor, nb_error *err) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !offsets)
        return nb_fail(err, NB_BAD_FILE, "tensor '%s': expected exactly dtype, shape and data_offsets", tensor->name);
    NB_TRY(read_dtype(json_object_get(entry, "dtype"), tensor, err));
    NB_TRY(read_shape(json_object_get(entry, "shape"), tensor, err));
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return nb_fail(err, NB_BAD_FILE, "tensor '%s': data_offsets is not a pair of integers", tensor->name);
    json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > file->data_size)
        return nb_fail(err, NB_BAD_FILE,
                       "tensor '%s': bytes %" PRId64 " to %" PRId64 " do not lie in the %zu bytes of data; the file is "
                       "truncated or damaged",
                       tensor->name, (int64_t)from, (int64_t)to, file->data_size);
    size_t bytes = 0;
    if (!bytes_of_shape(tensor, &bytes) || bytes != (size_t)(to - from))
        return nb_fail(err, NB_BAD_FILE, "tensor '%s': its shape needs %zu bytes of %s, data_offsets give %" PRId64,
                       tensor->name, bytes, ni_tensor_dtype_name(tensor->dtype), (int64_t)(to - from));
    tensor->data = file->data + from;
    tensor->bytes = bytes;
    return NB_OK;
}

static nb_status check_metadata(const json_t *metadata, nb_error *err) {
    if (!json_is_object(metadata))
        return nb_fail(err, NB_BAD_FILE, "__metadata__ is not an object");
    json_t *pairs = (json_t *)metadata; /* iterating needs no const, and changes nothing */
    for (void *at = json_object_iter(pairs); at; at = json_object_iter_next(pairs, at))
        if (!json_is_string(json_object_iter_value(at)))
            return nb_fail(err, NB_BAD_FILE, "__metadata__: the value of '%s' is not text", json_object_iter_key(at));
    return NB_OK;
}

static int by_position(const void *a, const void *b) {
    const ni_file_tensor *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q)
        return p < q ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const named_tensor *)a)->tensor->name, ((const named_tensor *)b)->tensor->name);
}

static nb_status check_tiling(const ni_safetensors *file, nb_error *err) {
    const char *at = file->data;
    for (int32_t i = 0; i < file->count; i++) {
        const ni_file_tensor *tensor = &file->tensors[i];
        if ((const char *)tensor->data != at)
            return nb_fail(err, NB_BAD_FILE, "tensor '%s' begins at byte %td of the data, expected %td: a %s",
                           tensor->name, (const char *)tensor->data - file->data, at - file->data,
                           (const char *)tensor->data > at ? "gap" : "overlap with the tensor before it");
        at += tensor->bytes;
    }
    if (at != file->data + file->data_size)
        return nb_fail(err, NB_BAD_FILE, "the data has %td bytes after the last tensor that belong to none",
                       file->data + file->data_size - at);
    return NB_OK;
}

static nb_status read_tensors(ni_safetensors *file, nb_error *err) {
    size_t entries = json_object_size(file->header);
    if (entries >= INT32_MAX)
        return nb_fail(err, NB_BAD_FILE, "%zu tensors are more than can be", entries);
    file->tensors = calloc(entries + 1, sizeof *file->tensors);
    file->by_name = calloc(entries + 1, sizeof *file->by_name);
    if (!file->tensors || !file->by_name)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the names of %zu tensors", entries);
    for (void *at = json_object_iter(file->header); at; at = json_object_iter_next(file->header, at)) {
        const char *name = json_object_iter_key(at);
        if (strcmp(name, "__metadata__") == 0) {
            NB_TRY(check_metadata(json_object_iter_value(at), err));
            continue;
        }
        ni_file_tensor *tensor = &file->tensors[file->count++];
        tensor->name = name;
        NB_TRY(read_entry(file, json_object_iter_value(at), tensor, err));
    }
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_position);
    for (int32_t i = 0; i < file->count; i++)
        file->by_name[i].tensor = &file->tensors[i];
    qsort(file->by_name, (size_t)file->count, sizeof *file->by_name, by_name);
    return check_tiling(file, err);
}

static nb_status read_header(ni_safetensors *file, const char *bytes, size_t size, nb_error *err) {
    if (size < 8)
        return nb_fail(err, NB_BAD_FILE, "%zu bytes are too few for a safetensors file", size);
    uint64_t length;
    memcpy(&length, bytes, 8);
    if (length > HEADER_LIMIT || length > size - 8)
        return nb_fail(err, NB_BAD_FILE,
                       "a header of %" PRIu64 " bytes does not fit (file %zu bytes, limit %u); not safetensors, or cut "
                       "short",
                       length, size, HEADER_LIMIT);
    if (length == 0 || bytes[8] != '{')
        return nb_fail(err, NB_BAD_FILE, "the header is not a JSON object; expected a safetensors file");
    json_error_t where;
    file->header = ni_json_load(bytes + 8, (size_t)length, &where);
    /* Of an allocation that failed early jansson says nothing at all. */
    if (!file->header && ni_json_lacked_memory(&where))
        return nb_fail(err, NB_NO_MEMORY, "no memory to read the header of %" PRIu64 " bytes", length);
    if (!file->header)
        return nb_fail(err, NB_BAD_FILE, "header, byte %d: %s", where.position, where.text);
    if (!json_is_object(file->header))
        return nb_fail(err, NB_BAD_FILE, "the header is not a JSON object; expected a safetensors file");
    file->data = bytes + 8 + length;
    file->data_size = size - 8 - (size_t)length;
    return read_tensors(file, err);
}

nb_status ni_safetensors_parse(const void *bytes, size_t size, ni_safetensors **out, nb_error *err) {
    *out = NULL;
    ni_safetensors *file = calloc(1, sizeof *file);
    if (!file)
        return nb_fail(err, NB_NO_MEMORY, "no memory to read a safetensors file");
    nb_status status = read_header(file, bytes, size, err);
    if (status != NB_OK) {
        ni_safetensors_close(file);
        return status;
    }
    *out = file;
    return NB_OK;
}

nb_status ni_safetensors_open(const char *path, ni_safetensors **out, nb_error *err) {
    ni_file_map map;
    *out = NULL;
    NB_TRY(ni_file_map_open(path, &map, err));
    nb_status status = ni_safetensors_parse(map.bytes, map.size, out, err);
    if (status != NB_OK) {
        ni_file_map_close(&map);
        nb_fail_within(err, "%s", path);
        return status;
    }
    (*out)->map = map;
    return NB_OK;
}

void ni_safetensors_close(ni_safetensors *file) {
    if (!file)
        return;
    json_decref(file->header);
    free(file->tensors);
    free(file->by_name);
    ni_file_map_close(&file->map);
    free(file);
}

int32_t ni_safetensors_count(const ni_safetensors *file) {
    return file->count;
}

const ni_file_tensor *ni_safetensors_at(const ni_safetensors *file, int32_t index) {
    return index >= 0 && index < file->count ? &file->tensors[index] : NULL;
}

const ni_file_tensor *ni_safetensors_find(const ni_safetensors *file, const char *name) {
    ni_file_tensor named = {.name = name};
    named_tensor key = {&named};
    const named_tensor *found = bsearch(&key, file->by_name, (size_t)file->count, sizeof key, by_name);
    return found ? found->tensor : NULL;
}

void ni_safetensors_forget(const ni_safetensors *file, const ni_file_tensor *tensor) {
    if (file->map.bytes)
        ni_file_map_forget(&file->map, tensor->data, tensor->bytes);
}

const char *ni_safetensors_metadata(const ni_safetensors *file, const char *key) {
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

/* ---- writing ---- */

/* Adds `key: value` to an object; steals `value`. A key that is there already is refused. */
static nb_status add_once(json_t *object, const char *key, json_t *value, nb_error *err) {
    if (json_object_get(object, key)) {
        json_decref(value);
        return nb_fail(err, NB_BAD_USAGE, "the name '%s' occurs twice", key);
    }
    if (!value || json_object_set_new(object, key, value) != 0)
        return nb_fail(err, NB_NO_MEMORY, "'%.64s' cannot be put into a header: not UTF-8, or no memory", key);
    return NB_OK;
}

static nb_status describe_tensor(json_t *header, const ni_file_tensor *tensor, size_t *offset, nb_error *err) {
    size_t bytes = 0, end = 0;
    if (!tensor->name || tensor->rank < 0 || tensor->rank > NI_TENSOR_RANK || !bytes_of_shape(tensor, &bytes) ||
        bytes != tensor->bytes || __builtin_add_overflow(*offset, bytes, &end) || end > INT64_MAX)
        return nb_fail(err, NB_BAD_USAGE, "tensor '%s': %zu bytes are given, its shape needs %zu",
                       tensor->name ? tensor->name : "(no name)", tensor->bytes, bytes);
    json_t *shape = json_array();
    for (int32_t i = 0; i < tensor->rank; i++)
        if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
            json_decref(shape);
            return nb_fail(err, NB_NO_MEMORY, "no memory for the header of a file");
        }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", ni_tensor_dtype_name(tensor->dtype), "shape", shape,
                              "data_offsets", (json_int_t)*offset, (json_int_t)end);
    *offset = end;
    return add_once(header, tensor->name, entry, err);
}

static nb_status make_header(const ni_file_tensor *tensors, const int32_t *order, int32_t count,
                             const ni_metadata *metadata, int32_t metadata_count, char **text, nb_error *err) {
    json_t *header = json_object();
    nb_status status = header ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory for a header");
    if (status == NB_OK && metadata_count > 0) {
        json_t *pairs = json_object();
        status = add_once(header, "__metadata__", pairs, err);
        for (int32_t i = 0; status == NB_OK && i < metadata_count; i++)
            status = add_once(pairs, metadata[i].key, json_string(metadata[i].value), err);
    }
    size_t offset = 0;
    for (int32_t i = 0; status == NB_OK && i < count; i++)
        status = describe_tensor(header, &tensors[order[i]], &offset, err);
    *text = status == NB_OK ? ni_json_text(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (status == NB_OK && !*text)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a header");
    return status;
}

/* Wider types first (stable), so that every tensor is aligned to its type however odd the sizes before it. Returns the
 * indices in the order of the file. */
static int32_t *in_order_of_alignment(const ni_file_tensor *tensors, int32_t count) {
    int32_t *order = malloc(((size_t)count + 1) * sizeof *order), n = 0;
    for (size_t size = 8; order && size > 0; size /= 2)
        for (int32_t i = 0; i < count; i++)
            if (ni_tensor_dtype_size(tensors[i].dtype) == size)
                order[n++] = i;
    return order;
}

static nb_status put_header(ni_writer *writer, const char *header, nb_error *err) {
    const char spaces[8] = "        ";
    size_t length = strlen(header), padding = (8 - length % 8) % 8;
    uint64_t total = length + padding;
    NB_TRY(ni_writer_put(writer, &total, sizeof total, err));
    NB_TRY(ni_writer_put(writer, header, length, err));
    return ni_writer_put(writer, spaces, padding, err);
}

nb_status ni_safetensors_write_from(const char *path, const ni_file_tensor *tensors, int32_t count,
                                    const ni_metadata *metadata, int32_t metadata_count, ni_tensor_source *source,
                                    void *context, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        if ((size_t)tensors[i].dtype >= DTYPE_COUNT)
            return nb_fail(err, NB_BAD_USAGE, "%s: tensor %d has no dtype of safetensors", path, (int)i);
    int32_t *order = in_order_of_alignment(tensors, count);
    if (!order)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to write %d tensors", path, (int)count);
    char *header = NULL;
    ni_writer *writer = NULL;
    nb_status status = make_header(tensors, order, count, metadata, metadata_count, &header, err);
    if (status != NB_OK)
        nb_fail_within(err, "%s", path);
    if (status == NB_OK)
        status = ni_writer_open(path, &writer, err);
    if (status == NB_OK)
        status = put_header(writer, header, err);
    for (int32_t i = 0; status == NB_OK && i < count; i++) {
        const void *data = NULL;
        status = source(context, order[i], &data, err);
        if (status == NB_OK)
            status = ni_writer_put(writer, data, tensors[order[i]].bytes, err);
    }
    free(header);
    free(order);
    if (status != NB_OK) {
        ni_writer_abandon(writer);
        return status;
    }
    return ni_writer_commit(writer, err);
}

static nb_status data_in_memory(void *context, int32_t index, const void **data, nb_error *err) {
    (void)err;
    *data = ((const ni_file_tensor *)context)[index].data;
    return NB_OK;
}

nb_status ni_safetensors_write(const char *path, const ni_file_tensor *tensors, int32_t count,
                               const ni_metadata *metadata, int32_t metadata_count, nb_error *err) {
    void *list = (void *)tensors; /* read only */
    return ni_safetensors_write_from(path, tensors, count, metadata, metadata_count, data_in_memory, list, err);
}
