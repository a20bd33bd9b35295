/* keys_read.c: from a tree to a struct, by a table of keys. */
#include "config/keys_walk.h"
#include "config/suggest.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

nb_status ni_keys_fail(nb_error *err, const ni_yaml_node *node, const char *path, const char *format, ...) {
    char text[700], above[NI_KEYS_PATH_SIZE], full[2 * NI_KEYS_PATH_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const ni_yaml_node *at = path ? ni_yaml_find(node, path) : NULL;
    ni_keys_join(full, sizeof full, ni_yaml_path(node, above, sizeof above), path ? path : "");
    return ni_yaml_fail(err, at ? at : node, "%s%s%s", full, *full ? ": " : "", text);
}

/* ---- single values ---- */

/* What stands at a node, for "expected ..., found ...". */
static const char *found(const ni_yaml_node *node, char *text, size_t size) {
    if (node->kind == NI_YAML_LIST)
        return "a list";
    if (node->kind == NI_YAML_MAP)
        return "keys";
    snprintf(text, size, "'%.60s'", node->text);
    return text;
}

static nb_status fail_type(nb_error *err, const ni_yaml_node *node, const char *expected) {
    char text[80];
    return ni_keys_fail(err, node, NULL, "expected %s, found %s", expected, found(node, text, sizeof text));
}

static nb_status fail_words(nb_error *err, const ni_yaml_node *node, const ni_key *row, const char *or_what) {
    char list[400] = "";
    size_t used = 0;
    bool scalar = node->kind == NI_YAML_SCALAR;
    ni_suggestion s = ni_suggest(scalar ? node->text : "");
    for (const ni_word *w = row->words; w && w->name && used < sizeof list - 1; w++) {
        if (strcmp(w->name, "null") == 0)
            continue;
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", w->name);
        ni_suggest_offer(&s, w->name);
    }
    char text[80];
    return ni_keys_fail(err, node, NULL, "expected %s%s, found %s%s%s%s", or_what, list, found(node, text, sizeof text),
                        scalar && s.best ? "; did you mean '" : "", scalar && s.best ? s.best : "",
                        scalar && s.best ? "'?" : "");
}

static bool find_word(const ni_key *row, const ni_yaml_node *node, double *value) {
    for (const ni_word *w = row->words; w && w->name; w++)
        if (node->kind == NI_YAML_SCALAR && strcmp(w->name, node->text) == 0) {
            *value = w->value;
            return true;
        }
    return false;
}

/* Decimal numbers only: no hexadecimal, no "nan", no blanks. Overflow gives infinity. */
static bool read_decimal(const char *text, double *value) {
    for (const char *c = text; *c; c++)
        if (!isdigit((unsigned char)*c) && !strchr("+-.eE", *c))
            return false;
    char *end;
    *value = strtod(text, &end);
    return *text && *end == 0;
}

static nb_status read_number(const ni_key *row, void *field, const ni_yaml_node *node, nb_error *err) {
    double value;
    bool integer = row->type == NI_KEY_INT;
    if (!find_word(row, node, &value)) {
        if (node->kind != NI_YAML_SCALAR || node->quoted || !read_decimal(node->text, &value) ||
            (integer && isfinite(value) && value != floor(value))) {
            const char *what = integer ? "a whole number" : "a number";
            return row->words ? fail_words(err, node, row, integer ? "a whole number or " : "a number or ")
                              : fail_type(err, node, what);
        }
        char range[96];
        ni_keys_range(row, range, sizeof range);
        bool any = row->low == 0 && row->high == 0;
        if (!isfinite(value) || (integer && fabs(value) > 9007199254740992.0)) /* 2^53: exact in a double */
            return ni_keys_fail(err, node, NULL, "%.60s is too large a number", node->text);
        if ((!any && (value < row->low || value > row->high)) || (row->positive && !(value > 0)))
            return ni_keys_fail(err, node, NULL, "%.60s is out of range: expected %s", node->text, range);
        if (integer && row->size == sizeof(int32_t) && fabs(value) > INT32_MAX)
            return ni_keys_fail(err, node, NULL, "%.60s is too large a number", node->text);
    }
    if (!integer)
        *(double *)field = value;
    else if (row->size == sizeof(int32_t))
        *(int32_t *)field = (int32_t)value;
    else
        *(int64_t *)field = (int64_t)value;
    return NB_OK;
}

static nb_status read_text(char *to, size_t size, const ni_yaml_node *node, nb_error *err) {
    if (node->kind != NI_YAML_SCALAR)
        return fail_type(err, node, "a text");
    size_t length = strlen(node->text);
    if (length >= size)
        return ni_keys_fail(err, node, NULL, "the text is too long: at most %zu bytes", size - 1);
    memset(to, 0, size);
    memcpy(to, node->text, length);
    return NB_OK;
}

static nb_status read_texts(const ni_key *row, void *record, const ni_yaml_node *node, nb_error *err) {
    char *items = (char *)record + row->offset;
    int32_t *count = (int32_t *)((char *)record + row->count_offset);
    size_t most = row->size / row->item_size;
    memset(items, 0, row->size);
    *count = 0;
    if (node->kind != NI_YAML_LIST)
        return fail_type(err, node, "a list, as [a, b]");
    for (const ni_yaml_node *n = node->first; n; n = n->next) {
        if ((size_t)*count == most)
            return ni_keys_fail(err, n, NULL, "the list is too long: at most %zu entries", most);
        NB_TRY(read_text(items + (size_t)*count * row->item_size, row->item_size, n, err));
        ++*count;
    }
    return NB_OK;
}

static nb_status read_table(const ni_keys *table, void *record, const ni_yaml_node *node, const char *prefix,
                            bool absent, nb_error *err);

static nb_status read_row(const ni_key *row, void *record, const ni_yaml_node *node, const char *path, nb_error *err) {
    void *field = (char *)record + row->offset;
    double value;
    switch (row->type) {
    case NI_KEY_BOOL:
        if (node->kind != NI_YAML_SCALAR || node->quoted ||
            (strcmp(node->text, "true") != 0 && strcmp(node->text, "false") != 0))
            return fail_type(err, node, "true or false");
        *(bool *)field = node->text[0] == 't';
        return NB_OK;
    case NI_KEY_INT:
    case NI_KEY_FLOAT:
        return read_number(row, field, node, err);
    case NI_KEY_TEXT:
        return read_text(field, row->size, node, err);
    case NI_KEY_CHOICE:
        if (!find_word(row, node, &value))
            return fail_words(err, node, row, "one of ");
        *(int32_t *)field = (int32_t)value;
        return NB_OK;
    case NI_KEY_TEXTS:
        return read_texts(row, record, node, err);
    case NI_KEY_CUSTOM:
        return row->read(field, node, err);
    case NI_KEY_TABLE:
        if (row->optional)
            *(bool *)((char *)record + row->present_offset) = true;
        return read_table(row->table, field, node, path, false, err);
    }
    return nb_fail(err, NB_INTERNAL, "%s: the table has a row of no type", path);
}

/* ---- unknown keys ---- */

/* The part of `path` below `group` up to the next dot: a name that may stand in this map. */
static bool name_in_group(const char *path, const char *group, char *name, size_t size) {
    size_t skip = strlen(group);
    if (skip) {
        if (strncmp(path, group, skip) != 0 || path[skip] != '.')
            return false;
        path += skip + 1;
    }
    size_t n = strcspn(path, ".");
    if (n >= size)
        n = size - 1;
    memcpy(name, path, n);
    name[n] = 0;
    return true;
}

/* A key of the same name somewhere else in the table: "did you mean optimizer.lr?" */
static bool find_elsewhere(const ni_keys *table, const char *prefix, const char *word, char *out, size_t size) {
    for (size_t i = 0; i < table->count; i++) {
        const ni_key *row = &table->rows[i];
        char full[NI_KEYS_PATH_SIZE];
        ni_keys_join(full, sizeof full, prefix, row->path);
        const char *last = strrchr(row->path, '.');
        if (strcmp(last ? last + 1 : row->path, word) == 0) {
            snprintf(out, size, "%s", full);
            return true;
        }
        if (row->type == NI_KEY_TABLE && find_elsewhere(row->table, full, word, out, size))
            return true;
    }
    return false;
}

static nb_status fail_unknown(const ni_keys *table, const char *group, const ni_yaml_node *node, const char *path,
                              nb_error *err) {
    char known[400] = "", last[NI_KEYS_PATH_SIZE] = "", best[NI_KEYS_PATH_SIZE] = "", name[NI_KEYS_PATH_SIZE];
    size_t used = 0, distance = SIZE_MAX;
    for (size_t i = 0; i < table->count; i++) {
        if (!name_in_group(table->rows[i].path, group, name, sizeof name) || strcmp(name, last) == 0)
            continue;
        memcpy(last, name, sizeof last);
        ni_suggestion s = ni_suggest(node->key);
        ni_suggest_offer(&s, name);
        if (s.best && s.distance < distance) {
            distance = s.distance;
            memcpy(best, name, sizeof best);
        }
        if (used < sizeof known - 1)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", name);
    }
    if (*best) { /* as the key is named, with the maps that it stands in */
        const int above = (int)(strlen(path) - strlen(node->key));
        return ni_yaml_fail(err, node, "unknown key '%.200s'; did you mean '%.*s%.200s'?", path, above, path, best);
    }
    if (find_elsewhere(table, "", node->key, best, sizeof best))
        return ni_yaml_fail(err, node, "unknown key '%.200s'; did you mean '%.200s'?", path, best);
    return ni_yaml_fail(err, node, "unknown key '%.200s'; the %s knows here: %s", path, table->name, known);
}

/* ---- tables ---- */

static const ni_key *find_row(const ni_keys *table, const char *path, bool *group) {
    size_t length = strlen(path);
    *group = false;
    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->rows[i].path, path) == 0)
            return &table->rows[i];
        *group = *group || (strncmp(table->rows[i].path, path, length) == 0 && table->rows[i].path[length] == '.');
    }
    return NULL;
}

/* Reads the entries of a map; `group` is the path of this map inside the table ("" for all of it), `prefix` that of the
 * table inside the file. */
static nb_status read_entries(const ni_keys *table, void *record, const ni_yaml_node *map, const char *group,
                              const char *prefix, nb_error *err) {
    for (const ni_yaml_node *n = map->first; n; n = n->next) {
        char path[NI_KEYS_PATH_SIZE], full[NI_KEYS_PATH_SIZE];
        ni_keys_join(path, sizeof path, group, n->key);
        ni_keys_join(full, sizeof full, prefix, path);
        bool dotted = strchr(n->key, '.') != NULL, is_group = false;
        const ni_key *row = dotted ? NULL : find_row(table, path, &is_group);
        if (!row && !is_group)
            return fail_unknown(table, group, n, full, err);
        if (ni_yaml_is_null(n))
            continue;
        if (row)
            NB_TRY(read_row(row, record, n, full, err));
        else if (n->kind != NI_YAML_MAP)
            return fail_type(err, n, "keys below it");
        else
            NB_TRY(read_entries(table, record, n, path, prefix, err));
    }
    return NB_OK;
}

/* A default is YAML text, read by the same code as what a user writes. */
static nb_status read_default(const ni_key *row, void *record, const char *path, nb_error *err) {
    ni_yaml_node scalar = {.kind = NI_YAML_SCALAR, .text = row->fallback};
    const ni_yaml_node *node = &scalar;
    ni_yaml doc = {0};
    nb_error inner = {0};
    nb_status status = NB_OK;
    if (strchr("[{\"", row->fallback[0]) && row->fallback[0]) {
        status = ni_yaml_parse(row->fallback, strlen(row->fallback), "default", &doc, &inner);
        node = doc.root;
    }
    if (status == NB_OK)
        status = read_row(row, record, node, path, &inner);
    ni_yaml_free(&doc);
    if (status == NB_OK || status == NB_NO_MEMORY)
        return status == NB_OK ? NB_OK : nb_fail(err, status, "%s", inner.message);
    return nb_fail(err, NB_INTERNAL, "the default of %s is not valid: %s", path, inner.message);
}

static bool is_said(const ni_yaml_node *node) {
    return node && !ni_yaml_is_null(node);
}

static nb_status read_defaults(const ni_keys *table, void *record, const ni_yaml_node *map, const char *prefix,
                               bool absent, nb_error *err) {
    for (size_t i = 0; i < table->count; i++) {
        const ni_key *row = &table->rows[i];
        char full[NI_KEYS_PATH_SIZE];
        ni_keys_join(full, sizeof full, prefix, row->path);
        if (row->type == NI_KEY_TABLE && !is_said(ni_yaml_find(map, row->path)))
            NB_TRY(read_table(row->table, (char *)record + row->offset, NULL, full, absent || row->optional, err));
        else if (row->fallback)
            NB_TRY(read_default(row, record, full, err));
    }
    return NB_OK;
}

/* Told after what is there was read: a key that is missing is often one that is misspelt. */
static nb_status check_required(const ni_keys *table, const ni_yaml_node *map, const char *prefix, nb_error *err) {
    for (size_t i = 0; i < table->count; i++) {
        const ni_key *row = &table->rows[i];
        const ni_yaml_node *said = ni_yaml_find(map, row->path);
        char full[NI_KEYS_PATH_SIZE];
        if (row->fallback || row->type == NI_KEY_TABLE || is_said(said))
            continue;
        ni_keys_join(full, sizeof full, prefix, row->path);
        return ni_yaml_fail(err, said ? said : map, "the key '%s' is missing (%s)", full,
                            row->help ? row->help : "required");
    }
    return NB_OK;
}

/* `absent`: an optional section that is not there; it gets its defaults, required keys stay zero. */
static nb_status read_table(const ni_keys *table, void *record, const ni_yaml_node *node, const char *prefix,
                            bool absent, nb_error *err) {
    memset(record, 0, table->size);
    bool is_map = node && node->kind == NI_YAML_MAP;
    if (node && !is_map && !(table->read_short && node->kind == NI_YAML_SCALAR))
        return fail_type(err, node, "keys below it");
    const ni_yaml_node *map = is_map ? node : NULL;
    const bool lax = absent || (node && !is_map);
    NB_TRY(read_defaults(table, record, map, prefix, lax, err));
    if (is_map)
        NB_TRY(read_entries(table, record, node, "", prefix, err));
    else if (node)
        NB_TRY(table->read_short(record, node, err));
    if (!lax)
        NB_TRY(check_required(table, map, prefix, err));
    return table->finish && !absent ? table->finish(record, node, err) : NB_OK;
}

nb_status ni_keys_read(const ni_keys *table, void *record, const ni_yaml_node *node, nb_error *err) {
    return read_table(table, record, node, "", false, err);
}
