/* npy.c: the NumPy array format, numpy.lib.format versions 1.0 to 3.0.
 *
 * The header is the text of a Python dictionary with exactly the keys descr, fortran_order and shape. A scanner for
 * that one shape of text reads it: anything else, however valid as Python, is refused.
 */
#include "npy.h"
#include "file.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_LIMIT = 65536 };

static const struct {
    char descr[4]; /* without the mark of byte order */
    ni_tensor_dtype dtype;
} dtypes[] = {
    {"f8", NI_ST_F64}, {"f4", NI_ST_F32}, {"f2", NI_ST_F16}, {"i8", NI_ST_I64}, {"i4", NI_ST_I32}, {"i2", NI_ST_I16},
    {"i1", NI_ST_I8},  {"u8", NI_ST_U64}, {"u4", NI_ST_U32}, {"u2", NI_ST_U16}, {"u1", NI_ST_U8},  {"b1", NI_ST_BOOL},
};

/* ---- the dictionary ---- */

typedef struct scanner {
    const char *at, *end;
} scanner;

static void skip_spaces(scanner *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
        s->at++;
}

/* Takes `text` after spaces if it comes next. */
static bool take(scanner *s, const char *text) {
    size_t length = strlen(text);
    skip_spaces(s);
    if ((size_t)(s->end - s->at) < length || memcmp(s->at, text, length) != 0)
        return false;
    s->at += length;
    return true;
}

/* A quoted word without escapes, cut to `room`. */
static bool take_word(scanner *s, char *word, size_t room) {
    const char *quote = take(s, "'") ? "'" : take(s, "\"") ? "\"" : NULL;
    if (!quote)
        return false;
    const char *close = memchr(s->at, *quote, (size_t)(s->end - s->at));
    if (!close || (size_t)(close - s->at) >= room || memchr(s->at, '\\', (size_t)(close - s->at)))
        return false;
    memcpy(word, s->at, (size_t)(close - s->at));
    word[close - s->at] = 0;
    s->at = close + 1;
    return true;
}

static bool take_size(scanner *s, int64_t *value) {
    skip_spaces(s);
    const char *first = s->at;
    *value = 0;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++)
        if (__builtin_mul_overflow(*value, (int64_t)10, value) ||
            __builtin_add_overflow(*value, (int64_t)(*s->at - '0'), value))
            return false;
    take(s, "L"); /* Python 2 wrote long integers so */
    return s->at > first;
}

static bool take_shape(scanner *s, ni_file_tensor *tensor) {
    tensor->rank = 0;
    if (!take(s, "("))
        return false;
    while (!take(s, ")")) {
        if (tensor->rank == NI_TENSOR_RANK || !take_size(s, &tensor->shape[tensor->rank++]))
            return false;
        if (!take(s, ",")) /* a tuple of one has its comma: (3,) */
            return tensor->rank > 1 && take(s, ")");
    }
    return true;
}

typedef struct dictionary {
    bool descr, order, shape; /* seen */
    bool fortran;
} dictionary;

static bool take_entry(scanner *s, dictionary *d, ni_npy *out) {
    char key[16];
    if (!take_word(s, key, sizeof key) || !take(s, ":"))
        return false;
    if (strcmp(key, "descr") == 0 && !d->descr)
        return (d->descr = true) && take_word(s, out->descr, sizeof out->descr);
    if (strcmp(key, "shape") == 0 && !d->shape)
        return (d->shape = true) && take_shape(s, &out->tensor);
    if (strcmp(key, "fortran_order") != 0 || d->order)
        return false;
    d->order = true;
    d->fortran = take(s, "True");
    return d->fortran || take(s, "False");
}

static bool take_dictionary(scanner *s, dictionary *d, ni_npy *out) {
    if (!take(s, "{"))
        return false;
    while (!take(s, "}")) {
        if (!take_entry(s, d, out))
            return false;
        if (!take(s, ","))
            return take(s, "}") && d->descr && d->order && d->shape;
    }
    return d->descr && d->order && d->shape;
}

/* ---- the file ---- */

static nb_status dtype_of(ni_npy *npy, nb_error *err) {
    const char *descr = npy->descr;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (!*descr || strcmp(descr + 1, dtypes[i].descr) != 0)
            continue;
        npy->tensor.dtype = dtypes[i].dtype;
        bool one_byte = ni_tensor_dtype_size(dtypes[i].dtype) == 1;
        if (*descr == '<' || ((*descr == '|' || *descr == '>') && one_byte))
            return NB_OK;
        if (*descr == '>')
            return nb_fail(err, NB_BAD_FILE,
                           "the array is big-endian (%s), expected little-endian; convert with "
                           "a.astype('<%s')",
                           descr, dtypes[i].descr);
    }
    return nb_fail(err, NB_BAD_FILE,
                   "arrays of type '%s' cannot be read, expected plain numbers such as '<f4' or '<u2'", descr);
}

/* Where the dictionary lies: after magic, version and a length of 2 or 4 bytes. */
static nb_status find_header(const unsigned char *bytes, size_t size, size_t *begin, size_t *length, nb_error *err) {
    if (size < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return nb_fail(err, NB_BAD_FILE, "not a .npy file: expected it to begin with \\x93NUMPY");
    if (bytes[6] < 1 || bytes[6] > 3)
        return nb_fail(err, NB_BAD_FILE, ".npy version %d.%d is not known, expected 1.0 to 3.0", bytes[6], bytes[7]);
    *begin = bytes[6] == 1 ? 10 : 12;
    *length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (bytes[6] > 1)
        *length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (*length > HEADER_LIMIT || *length > size - *begin)
        return nb_fail(err, NB_BAD_FILE, "the header claims %zu bytes, the file has %zu (limit %d)", *length, size,
                       HEADER_LIMIT);
    return NB_OK;
}

nb_status ni_npy_view(const void *bytes, size_t size, ni_npy *out, nb_error *err) {
    size_t begin = 0, length = 0, need;
    *out = (ni_npy){0};
    NB_TRY(find_header(bytes, size, &begin, &length, err));
    scanner s = {(const char *)bytes + begin, (const char *)bytes + begin + length};
    dictionary d = {0};
    bool good = take_dictionary(&s, &d, out);
    skip_spaces(&s);
    if (!good || s.at != s.end)
        return nb_fail(err, NB_BAD_FILE,
                       "the header is not {'descr': '<f4', 'fortran_order': False, 'shape': (rows, cols)}; structured "
                       "arrays cannot be read");
    NB_TRY(dtype_of(out, err));
    if (d.fortran && out->tensor.rank > 1)
        return nb_fail(err, NB_BAD_FILE,
                       "the array is in Fortran order, expected C order; convert with "
                       "numpy.ascontiguousarray");
    need = ni_tensor_dtype_size(out->tensor.dtype);
    for (int32_t i = 0; i < out->tensor.rank; i++)
        if (__builtin_mul_overflow(need, (size_t)out->tensor.shape[i], &need))
            return nb_fail(err, NB_BAD_FILE, "the shape overflows the size of memory");
    if (need != size - begin - length)
        return nb_fail(err, NB_BAD_FILE, "the shape needs %zu bytes of %s, the file has %zu after its header%s", need,
                       out->descr, size - begin - length, need > size - begin - length ? ": it is cut short" : "");
    out->tensor.data = (const char *)bytes + begin + length;
    out->tensor.bytes = need;
    return NB_OK;
}

nb_status ni_npy_parse(const void *bytes, size_t size, ni_npy *out, nb_error *err) {
    NB_TRY(ni_npy_view(bytes, size, out, err));
    out->memory = malloc(out->tensor.bytes + 1);
    if (!out->memory)
        return nb_fail(err, NB_NO_MEMORY, "no memory for an array of %zu bytes", out->tensor.bytes);
    memcpy(out->memory, out->tensor.data, out->tensor.bytes);
    out->tensor.data = out->memory;
    return NB_OK;
}

nb_status ni_npy_read(const char *path, ni_npy *out, nb_error *err) {
    ni_file_map map;
    *out = (ni_npy){0};
    NB_TRY(ni_file_map_open(path, &map, err));
    nb_status status = ni_npy_parse(map.bytes, map.size, out, err);
    ni_file_map_close(&map);
    if (status != NB_OK)
        nb_fail_within(err, "%s", path);
    return status;
}

void ni_npy_free(ni_npy *npy) {
    free(npy->memory);
    *npy = (ni_npy){0};
}

nb_status ni_npy_write_f32(const char *path, const float *data, int64_t rows, int64_t cols, nb_error *err) {
    enum { PREAMBLE = 10, ALIGNMENT = 64 }; /* numpy aligns the data to 64 bytes */
    char header[2 * ALIGNMENT + 1];
    size_t count;
    if (rows < 0 || cols < 0 || __builtin_mul_overflow((size_t)rows, (size_t)cols, &count) ||
        count > SIZE_MAX / sizeof *data)
        return nb_fail(err, NB_BAD_USAGE, "%s: an array of %" PRId64 " x %" PRId64 " cannot be", path, rows, cols);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    int used = snprintf(header + PREAMBLE, sizeof header - PREAMBLE,
                        "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }", rows, cols);
    size_t total = ((size_t)used + PREAMBLE + 1 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    memset(header + PREAMBLE + used, ' ', total - PREAMBLE - (size_t)used);
    header[total - 1] = '\n';
    header[8] = (char)(total - PREAMBLE);
    header[9] = (char)((total - PREAMBLE) >> 8);
    ni_writer *writer;
    NB_TRY(ni_writer_open(path, &writer, err));
    nb_status status = ni_writer_put(writer, header, total, err);
    if (status == NB_OK)
        status = ni_writer_put(writer, data, count * sizeof *data, err);
    if (status != NB_OK) {
        ni_writer_abandon(writer);
        return status;
    }
    return ni_writer_commit(writer, err);
}
