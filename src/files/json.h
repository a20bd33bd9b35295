/* json.h: reading and writing JSON where memory may be short. */
#ifndef NI_FILES_JSON_H
#define NI_FILES_JSON_H

#include "nibble/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The value (json_decref it) that `size` bytes are, an object or an array; NULL where they are none, which `where` (may
 * be NULL) explains, or where memory runs out: then its code is json_error_out_of_memory. Nothing is ever left out of
 * what is read. A text that does not parse is called damaged only where, behind that, memory for one of its size is
 * there: where memory stays short it is memory that is told. `flags` are jansson's. */
json_t *ni_json_read(const char *bytes, size_t size, size_t flags, json_error_t *where);

/* Whether that is why. */
bool ni_json_lacked_memory(const json_error_t *where);

/* The object that a file holds (json_decref it); *out is NULL where there is no such file, and on an error.
 * NB_BAD_FILE: it holds something else; NB_IO_ERROR, NB_NO_MEMORY. */
nb_status ni_json_load_if_there(const char *path, json_t **out, nb_error *err);

static inline json_t *ni_json_load(const char *bytes, size_t size, json_error_t *where) {
    return ni_json_read(bytes, size, JSON_REJECT_DUPLICATES, where);
}

/* Adds a value, whose reference it takes. Where one cannot be made or added the whole becomes NULL and stays it, so
 * that what is written at the end is all of it or an error. */
static inline void ni_json_put(json_t **object, const char *key, json_t *value) {
    if (json_object_set_new(*object, key, value) == 0)
        return;
    json_decref(*object);
    *object = NULL;
}

static inline void ni_json_push(json_t **array, json_t *value) {
    if (json_array_append_new(*array, value) == 0)
        return;
    json_decref(*array);
    *array = NULL;
}

typedef struct ni_json_buffer {
    char *text;
    size_t used, room;
    int failed;
} ni_json_buffer;

static inline int ni_json_take(const char *piece, size_t size, void *user) {
    ni_json_buffer *b = (ni_json_buffer *)user;
    if (!b->failed && b->used + size + 1 > b->room) {
        size_t room = 2 * (b->used + size + 1);
        char *text = (char *)realloc(b->text, room);
        b->failed = !text;
        if (text) {
            b->text = text;
            b->room = room;
        }
    }
    if (b->failed)
        return -1;
    memcpy(b->text + b->used, piece, size);
    b->used += size;
    b->text[b->used] = 0;
    return 0;
}

/* The text of a value (free with free()); NULL where it is NULL or memory runs out. json_dumps goes on behind a piece
 * that it could not take, and leaves it out. */
static inline char *ni_json_text(const json_t *json, size_t flags) {
    ni_json_buffer b = {NULL, 0, 0, 0};
    if (json && json_dump_callback(json, ni_json_take, &b, flags) == 0 && !b.failed)
        return b.text;
    free(b.text);
    return NULL;
}

#endif
