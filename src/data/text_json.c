/* text_json.c: JSON lines: an object a line, its text in one field. */
#include "text_file.h"

#include "files/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The next line that is not blank: sets its size and moves *at behind it; NULL at the end. */
static const char *next_line(const char **at, const char *end, size_t *size, int64_t *number) {
    while (*at < end) {
        const char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
        *at = stop ? stop + 1 : end;
        ++*number;
        *size = (size_t)((stop ? stop : end) - line);
        while (*size > 0 && strchr(" \t\r", line[*size - 1]) && line[*size - 1])
            --*size;
        if (*size > 0)
            return line;
    }
    return NULL;
}

static bool ends_with(const char *path, size_t length, const char *end) {
    size_t n = strlen(end);
    return length > n && strncmp(path + length - n, end, n) == 0;
}

static bool is_named_so(const char *path) {
    size_t length = strlen(path);
    if (ends_with(path, length, ".gz"))
        length -= 3;
    else if (ends_with(path, length, ".zst"))
        length -= 4;
    return ends_with(path, length, ".jsonl") || ends_with(path, length, ".ndjson");
}

bool ni_text_is_json_lines(const char *path, const char *bytes, size_t size) {
    enum { ENOUGH = 2 };
    const char *at = bytes, *end = bytes + size, *line;
    int64_t number = 0;
    int objects = 0;
    if (is_named_so(path))
        return size > 0;
    while (objects < ENOUGH && (line = next_line(&at, end, &size, &number)) != NULL) {
        json_t *object = line[0] == '{' ? ni_json_read(line, size, JSON_ALLOW_NUL, NULL) : NULL;
        bool is = json_is_object(object) && json_object_size(object) > 0;
        json_decref(object);
        if (!is)
            return false;
        objects++;
    }
    return objects > 0;
}

static size_t skip_blanks(const char *bytes, size_t size, size_t at) {
    while (at < size && bytes[at] && strchr(" \t\r\n", bytes[at]))
        at++;
    return at;
}

nb_status ni_text_check_json(const char *path, const char *bytes, size_t size, nb_error *err) {
    const size_t first = skip_blanks(bytes, size, 0);
    const char open = first < size ? bytes[first] : 0;
    size_t next = skip_blanks(bytes, size, first + 1);
    if (open == '[' && next < size && bytes[next] == '{')
        next = skip_blanks(bytes, size, next + 1);
    else if (open != '{' || !memchr(bytes + first, '\n', next - first))
        return NB_OK;
    if (next >= size || bytes[next] != '"')
        return NB_OK;
    return nb_fail(err, NB_BAD_FILE,
                   "%s: is JSON, %s; expected JSON lines, an object a line; hint: jq -c '%s' FILE > FILE.jsonl, or "
                   "--as-is to take the bytes",
                   path, open == '[' ? "an array of objects" : "an object over several lines",
                   open == '[' ? ".[]" : ".");
}

static const char *kind_of(const json_t *value) {
    static const char *const kinds[] = {"an object", "an array", "a string", "a number",
                                        "a number",  "true",     "false",    "null"};
    return kinds[json_typeof(value)];
}

static nb_status no_field(const char *path, int64_t number, const json_t *object, const char *field, nb_error *err) {
    char keys[200] = "";
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        size_t used = strlen(keys);
        if (json_is_string(value) && used + strlen(key) + 3 < sizeof keys)
            snprintf(keys + used, sizeof keys - used, "%s%s", used ? ", " : "", key);
    }
    const json_t *there = json_object_get(object, field);
    return nb_fail(
        err, NB_BAD_FILE, "%s, line %" PRId64 ": %s \"%.40s\"%s%s; expected a string there%s%s", path, number,
        there ? "what is under" : "no text under", field, there ? " is " : "", there ? kind_of(there) : "",
        keys[0] ? "; hint: --field NAME, and this line has strings under: " : ", and this line has no other", keys);
}

nb_status ni_text_take_field(const char *path, const char *bytes, size_t size, const char *field, char **out,
                             size_t *out_size, nb_error *err) {
    const char *at = bytes, *end = bytes + size, *line;
    int64_t number = 0;
    size_t length, used = 0;
    nb_status status = NB_OK;
    char *to = malloc(size + 1); /* quotes and the key take more than a NUL, escapes more than what they stand for */
    *out = NULL;
    *out_size = 0;
    if (!to)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for its texts", path);
    while (status == NB_OK && (line = next_line(&at, end, &length, &number)) != NULL) {
        json_error_t problem;
        json_t *object = ni_json_read(line, length, JSON_ALLOW_NUL, &problem);
        const json_t *text = json_object_get(object, field);
        if (!object && ni_json_lacked_memory(&problem)) {
            status = nb_fail(err, NB_NO_MEMORY, "%s, line %" PRId64 ": no memory to read it", path, number);
        } else if (!json_is_object(object)) {
            status = nb_fail(err, NB_BAD_FILE, "%s, line %" PRId64 ": %s; expected one JSON object a line", path,
                             number, object ? "not an object" : problem.text);
        } else if (!json_is_string(text)) {
            status = no_field(path, number, object, field, err);
        } else {
            memcpy(to + used, json_string_value(text), json_string_length(text));
            used += json_string_length(text);
            to[used++] = 0;
        }
        json_decref(object);
    }
    if (status != NB_OK) {
        free(to);
        return status;
    }
    *out = to;
    *out_size = used;
    return NB_OK;
}
