/* json.h: reading JSON where memory may be short. */
#ifndef NI_FILES_JSON_H
#define NI_FILES_JSON_H

#include <jansson.h>

/* jansson tells most allocations that fail in its lexer as errors of syntax, and a good file must not be called damaged
 * for them: what does not parse is parsed once more. */
static inline json_t *ni_json_load(const char *bytes, size_t size, json_error_t *where) {
    json_t *root = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, where);
    return root ? root : json_loadb(bytes, size, JSON_REJECT_DUPLICATES, where);
}

#endif
