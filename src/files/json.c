/* json.c: jansson's lexer keeps a piece of text in a buffer that grows, and where it cannot grow it leaves bytes out
 * and goes on: "peak_flops" becomes "eak_flops", 12345 another number. So what it read is compared with the text: a sum
 * over all strings in their order, and no number so long that the buffer grew for it. Where that does not hold it reads
 * again behind a string that is as long as the longest piece to come, in an array with what is asked for: where that
 * string is whole the buffer grows no more.
 */
#include "files/json.h"

#include "files/file.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <utf8proc.h>

/* ---- what a text holds ---- */

enum {
    BUFFER = 15,  /* bytes for which the lexer's buffer does not grow */
    OBJECT = 320, /* of memory at most: an empty object with its table */
    MARK = 64     /* for each comma, colon, bracket and string: "1," is a number of 32 bytes and its place in a list */
};

typedef struct pieces {
    size_t longest; /* at least as long as any string, number or word as it is written: between two quotes */
    size_t word;    /* outside of strings */
    size_t values;  /* bytes of memory, at least as many as its values take, without the bytes of strings */
    uint64_t sum;   /* over all strings */
} pieces;

static const uint64_t SUM_BEGINS = 14695981039346656037u; /* FNV-1a */

static uint64_t add_bytes(uint64_t sum, const char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        sum = (sum ^ (unsigned char)bytes[i]) * 1099511628211u;
    return sum;
}

static uint64_t end_string(uint64_t sum) {
    return add_bytes(sum, "\xff", 1); /* which no string holds */
}

static utf8proc_int32_t four_digits(const char *at) {
    char digits[5] = "";
    memcpy(digits, at, 4);
    return (utf8proc_int32_t)strtol(digits, NULL, 16);
}

/* Adds what an escape in a string stands for; returns its length. */
static size_t add_escape(uint64_t *sum, const char *at, size_t left) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *known = left > 1 && at[1] ? strchr(from, at[1]) : NULL;
    utf8proc_uint8_t bytes[4];
    if (known || left < 6) {
        *sum = add_bytes(*sum, known ? &to[known - from] : at, 1);
        return left < 2 ? left : 2;
    }
    utf8proc_int32_t code = four_digits(at + 2);
    const bool pair = code >= 0xd800 && code < 0xdc00 && left >= 12;
    if (pair)
        code = 0x10000 + ((code - 0xd800) << 10) + (four_digits(at + 8) - 0xdc00);
    *sum = add_bytes(*sum, (const char *)bytes, (size_t)utf8proc_encode_char(code, bytes));
    return pair ? 12 : 6;
}

/* Returns where the string ends that begins at `i`: behind its quote. */
static size_t read_string(const char *bytes, size_t size, size_t i, uint64_t *sum) {
    while (i < size && bytes[i] != '"') {
        size_t plain = i;
        while (plain < size && bytes[plain] != '"' && bytes[plain] != '\\')
            plain++;
        *sum = add_bytes(*sum, bytes + i, plain - i);
        i = plain;
        if (i < size && bytes[i] == '\\')
            i += add_escape(sum, bytes + i, size - i);
    }
    *sum = end_string(*sum);
    return i < size ? i + 1 : size;
}

static pieces read_pieces(const char *bytes, size_t size) {
    pieces p = {.sum = SUM_BEGINS};
    size_t since = 0, word = 0, i = 0;
    while (i < size) {
        const size_t begin = i;
        const bool string = bytes[i] == '"', ends = string || strchr(" \t\r\n,:[]{}", bytes[i]);
        i = string ? read_string(bytes, size, i + 1, &p.sum) : i + 1;
        since = string ? 0 : since + 1;
        word = ends ? 0 : word + 1;
        p.word = word > p.word ? word : p.word;
        p.values += bytes[begin] == '{' ? OBJECT : string || strchr(",:[]}", bytes[begin]) ? MARK : 0;
        p.longest = i - begin > p.longest ? i - begin : p.longest;
        p.longest = since > p.longest ? since : p.longest;
    }
    return p;
}

static uint64_t add_strings(uint64_t sum, const json_t *json) {
    const char *key;
    json_t *value;
    size_t i;
    if (json_is_string(json))
        return end_string(add_bytes(sum, json_string_value(json), json_string_length(json)));
    json_array_foreach((json_t *)json, i, value) sum = add_strings(sum, value);
    json_object_foreach((json_t *)json, key, value) sum =
        add_strings(end_string(add_bytes(sum, key, strlen(key))), value);
    return sum;
}

/* ---- behind a string that is long enough ---- */

typedef struct source { /* ["aaa...",BYTES] */
    const char *bytes;
    size_t size, longest, at;
} source;

static size_t feed(void *to, size_t room, void *user) {
    source *s = user;
    char *out = to;
    size_t n = 0;
    while (n < room) {
        const size_t text = s->longest + 4, left = room - n; /* where BYTES begin */
        if (s->at >= text && s->at < text + s->size) {
            const size_t rest = text + s->size - s->at, take = rest < left ? rest : left;
            memcpy(out + n, s->bytes + (s->at - text), take);
            n += take;
            s->at += take;
            continue;
        }
        if (s->at > text + s->size)
            break;
        out[n++] = s->at == text + s->size                 ? ']'
                   : s->at == 0                            ? '['
                   : s->at == 1 || s->at == s->longest + 2 ? '"'
                   : s->at == s->longest + 3               ? ','
                                                           : 'a';
        s->at++;
    }
    return n;
}

static json_t *read_behind(const char *bytes, size_t size, size_t flags, size_t longest) {
    source s = {.bytes = bytes, .size = size, .longest = longest};
    json_t *both = json_load_callback(feed, &s, flags, NULL), *root = json_array_get(both, 1);
    const bool good = json_array_size(both) == 2 && json_string_length(json_array_get(both, 0)) == s.longest &&
                      (json_is_object(root) || json_is_array(root));
    root = good ? json_incref(root) : NULL;
    json_decref(both);
    return root;
}

static json_t *read_whole(const char *bytes, size_t size, size_t flags) {
    const pieces p = read_pieces(bytes, size);
    json_t *root = json_loadb(bytes, size, flags, NULL);
    if (root && p.word <= BUFFER && add_strings(SUM_BEGINS, root) == p.sum)
        return root;
    json_decref(root);
    return read_behind(bytes, size, flags, p.longest);
}

/* Whether there is memory, now, for what a text may become: the values, the lexer's buffer as it grows, the string that
 * read_behind puts before. */
static bool has_memory(const char *bytes, size_t size) {
    const pieces p = read_pieces(bytes, size);
    json_malloc_t take;
    json_free_t give;
    json_get_alloc_funcs(&take, &give);
    void *room = take(p.values + size + 8 * p.longest + 4 * OBJECT);
    if (room)
        give(room);
    return room != NULL;
}

static json_t *lack_memory(json_error_t *where) {
    if (where) {
        *where = (json_error_t){.line = -1, .column = -1};
        snprintf(where->text, sizeof where->text, "out of memory");
        where->text[sizeof where->text - 1] = json_error_out_of_memory;
    }
    return NULL;
}

/* Most allocations that fail are told as errors of syntax, and a string whose closing quote found no room is read
 * beyond its end: nothing is begun without the memory for it, what does not parse is parsed once more, and the text is
 * blamed only where memory is there. */
json_t *ni_json_read(const char *bytes, size_t size, size_t flags, json_error_t *where) {
    if (!has_memory(bytes, size) && !has_memory(bytes, size))
        return lack_memory(where);
    json_t *root = read_whole(bytes, size, flags);
    root = root ? root : read_whole(bytes, size, flags);
    if (root || !where)
        return root;
    root = json_loadb(bytes, size, flags, where); /* for its words */
    if (root || !has_memory(bytes, size)) {
        json_decref(root);
        return lack_memory(where);
    }
    return NULL;
}

bool ni_json_lacked_memory(const json_error_t *where) {
    return json_error_code(where) == json_error_out_of_memory || !where->text[0];
}

nb_status ni_json_load_if_there(const char *path, json_t **out, nb_error *err) {
    enum { LIMIT = 1 << 30 };
    char *bytes;
    size_t size;
    json_error_t where;
    *out = NULL;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return NB_OK;
    NB_TRY(ni_file_read(path, LIMIT, &bytes, &size, err));
    json_t *root = ni_json_load(bytes, size, &where);
    free(bytes);
    if (!root && ni_json_lacked_memory(&where))
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to read it", path);
    if (!root)
        return nb_fail(err, NB_BAD_FILE, "%s:%d: not JSON: %s", path, where.line, where.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return nb_fail(err, NB_BAD_FILE, "%s: expected a JSON object", path);
    }
    *out = root;
    return NB_OK;
}
