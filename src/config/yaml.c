/* yaml.c: from libyaml's events to a tree with line marks. */
#include "config/yaml_memory.h"
#include "files/file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

/* Memory of a tree: a list of chunks, freed together. */
typedef struct chunk {
    struct chunk *next;
    size_t used, size;
    max_align_t bytes[];
} chunk;

void *ni_yaml_alloc(ni_yaml *doc, size_t size) {
    const size_t align = sizeof(max_align_t);
    size = (size + align - 1) / align * align;
    chunk *c = doc->memory;
    if (!c || c->size - c->used < size) {
        size_t want = size > 4096 ? size : 4096;
        c = malloc(sizeof *c + want);
        if (!c)
            return NULL;
        *c = (chunk){.next = doc->memory, .size = want};
        doc->memory = c;
    }
    void *at = (char *)c->bytes + c->used;
    c->used += size;
    memset(at, 0, size);
    return at;
}

char *ni_yaml_text(ni_yaml *doc, const char *text, size_t size) {
    char *copy = ni_yaml_alloc(doc, size + 1);
    if (copy && size)
        memcpy(copy, text, size);
    return copy;
}

void ni_yaml_free(ni_yaml *doc) {
    if (!doc)
        return;
    for (chunk *c = doc->memory, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    *doc = (ni_yaml){0};
}

nb_status ni_yaml_fail(nb_error *err, const ni_yaml_node *at, const char *format, ...) {
    char text[900];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!at || !at->file)
        return nb_fail(err, NB_BAD_CONFIG, "%s", text);
    if (at->line == 0)
        return nb_fail(err, NB_BAD_CONFIG, "%s: %s", at->file, text);
    return nb_fail(err, NB_BAD_CONFIG, "%s:%d: %s", at->file, (int)at->line, text);
}

/* ---- building ---- */

typedef struct open_node {
    ni_yaml_node *node, *last;
    const char *key; /* of a map: read, its value not yet */
    int32_t key_line;
} open_node;

typedef struct builder {
    ni_yaml *doc;
    const char *bytes; /* the text, for messages */
    size_t size;
    const char *file;
    bool lines; /* false for text that has none, as --set */
    open_node open[NI_YAML_MAX_DEPTH];
    int depth, nodes, documents;
    ni_yaml_node *root;
    nb_error *err;
} builder;

static nb_status fail_at(builder *b, int32_t line, const char *what) {
    ni_yaml_node at = {.file = b->file, .line = b->lines ? line : 0};
    return ni_yaml_fail(b->err, &at, "%s", what);
}

static int32_t line_of(const yaml_event_t *event) {
    return (int32_t)event->start_mark.line + 1;
}

/* A scalar where a map expects its next key. */
static nb_status take_key(builder *b, open_node *map, const char *text, size_t size, int32_t line) {
    char *key = ni_yaml_text(b->doc, text, size);
    if (!key)
        return nb_fail(b->err, NB_NO_MEMORY, "no memory for %s", b->file);
    for (const ni_yaml_node *n = map->node->first; n; n = n->next)
        if (strcmp(n->key, key) == 0) {
            ni_yaml_node at = {.file = b->file, .line = b->lines ? line : 0};
            return ni_yaml_fail(b->err, &at, "the key '%s' stands here a second time (first in line %d)", key,
                                (int)n->line);
        }
    map->key = key;
    map->key_line = line;
    return NB_OK;
}

/* A new child of the open collection, or the root. NULL if there can be none: *status says why. */
static ni_yaml_node *add_node(builder *b, ni_yaml_kind kind, int32_t line, nb_status *status) {
    open_node *parent = b->depth ? &b->open[b->depth - 1] : NULL;
    bool needs_key = parent && parent->node->kind == NI_YAML_MAP;
    *status = NB_OK;
    if (++b->nodes > NI_YAML_MAX_NODES)
        *status = fail_at(b, line, "too many values for a configuration file");
    else if (needs_key && !parent->key)
        *status = fail_at(b, line, "a key must be a plain word");
    if (*status != NB_OK)
        return NULL;
    ni_yaml_node *n = ni_yaml_alloc(b->doc, sizeof *n);
    if (!n) {
        *status = nb_fail(b->err, NB_NO_MEMORY, "no memory for %s", b->file);
        return NULL;
    }
    n->kind = kind;
    n->file = b->file;
    n->line = b->lines ? line : 0;
    if (!parent) {
        b->root = n;
        return n;
    }
    if (needs_key) {
        n->key = parent->key;
        n->line = b->lines ? parent->key_line : 0;
        parent->key = NULL;
    }
    if (parent->last)
        parent->last->next = n;
    else
        parent->node->first = n;
    parent->last = n;
    n->parent = parent->node;
    return n;
}

static nb_status take_scalar(builder *b, const yaml_event_t *event) {
    int32_t line = line_of(event);
    const char *text = (const char *)event->data.scalar.value;
    size_t size = event->data.scalar.length;
    if (event->data.scalar.tag || event->data.scalar.anchor)
        return fail_at(b, line, "tags (!) and anchors (&) are not used in configuration files");
    if (memchr(text, 0, size))
        return fail_at(b, line, "a text must not hold a NUL character");
    open_node *parent = b->depth ? &b->open[b->depth - 1] : NULL;
    if (parent && parent->node->kind == NI_YAML_MAP && !parent->key)
        return take_key(b, parent, text, size, line);
    nb_status status;
    ni_yaml_node *n = add_node(b, NI_YAML_SCALAR, line, &status);
    if (!n)
        return status;
    n->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    n->text = ni_yaml_text(b->doc, text, size);
    return n->text ? NB_OK : nb_fail(b->err, NB_NO_MEMORY, "no memory for %s", b->file);
}

static nb_status open_collection(builder *b, const yaml_event_t *event, ni_yaml_kind kind) {
    int32_t line = line_of(event);
    bool marked = kind == NI_YAML_MAP ? event->data.mapping_start.tag || event->data.mapping_start.anchor
                                      : event->data.sequence_start.tag || event->data.sequence_start.anchor;
    if (marked)
        return fail_at(b, line, "tags (!) and anchors (&) are not used in configuration files");
    if (b->depth == NI_YAML_MAX_DEPTH)
        return fail_at(b, line, "nested more than 16 levels deep; configuration files are flat");
    nb_status status;
    ni_yaml_node *n = add_node(b, kind, line, &status);
    if (!n)
        return status;
    b->open[b->depth++] = (open_node){.node = n};
    return NB_OK;
}

static nb_status take_event(builder *b, const yaml_event_t *event) {
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return take_scalar(b, event);
    case YAML_MAPPING_START_EVENT:
        return open_collection(b, event, NI_YAML_MAP);
    case YAML_SEQUENCE_START_EVENT:
        return open_collection(b, event, NI_YAML_LIST);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        if (b->depth > 0)
            b->depth--;
        return NB_OK;
    case YAML_ALIAS_EVENT:
        return fail_at(b, line_of(event),
                       "aliases (*) are not used in configuration files; a recipe can start from another with base:");
    case YAML_DOCUMENT_START_EVENT:
        if (b->documents++)
            return fail_at(b, line_of(event), "a second document (---) begins here; one file holds one");
        return NB_OK;
    default:
        return NB_OK;
    }
}

/* True if a tab is among the blanks that line `line` (from 0) begins with. */
static bool tab_indents(const builder *b, size_t line) {
    const char *at = b->bytes, *end = b->bytes + b->size;
    for (; line && at < end; at++)
        line -= *at == '\n';
    while (at < end && *at == ' ')
        at++;
    return at < end && *at == '\t';
}

static nb_status syntax_error(builder *b, const yaml_parser_t *parser) {
    if (parser->error == YAML_MEMORY_ERROR)
        return nb_fail(b->err, NB_NO_MEMORY, "no memory for the parser of %s", b->file);
    size_t line = parser->problem_mark.line, begun = parser->context_mark.line;
    ni_yaml_node at = {.file = b->file, .line = b->lines ? (int32_t)line + 1 : 0};
    if (tab_indents(b, line))
        return ni_yaml_fail(b->err, &at, "a tab indents this line; YAML wants spaces");
    char since[64] = "";
    if (parser->context && begun < line)
        snprintf(since, sizeof since, " that begins in line %zu", begun + 1);
    return ni_yaml_fail(b->err, &at, "not valid YAML: %s%s%s%s", parser->problem ? parser->problem : "unknown problem",
                        parser->context ? ", " : "", parser->context ? parser->context : "", since);
}

static nb_status read_events(builder *b, yaml_parser_t *parser) {
    for (bool ended = false; !ended;) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event))
            return syntax_error(b, parser);
        nb_status status = take_event(b, &event);
        ended = event.type == YAML_STREAM_END_EVENT || event.type == YAML_NO_EVENT;
        yaml_event_delete(&event);
        if (status != NB_OK)
            return status;
    }
    return NB_OK;
}

/* Bytes of the UTF-8 character at `at`; 0 if there is none (RFC 3629: no overlong forms, no surrogates). */
static size_t utf8_length(const unsigned char *at, size_t left) {
    if (at[0] < 0x80)
        return 1;
    size_t n = at[0] >= 0xc2 && at[0] < 0xe0 ? 2 : (at[0] & 0xf0) == 0xe0 ? 3 : at[0] >= 0xf0 && at[0] < 0xf5 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xf0 && at[1] < 0x90);
    bool beyond = (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf4 && at[1] > 0x8f);
    return overlong || beyond ? 0 : n;
}

/* libyaml's words for these would be harder to read, and a NUL would end its own. */
static nb_status check_bytes(builder *b, const char *bytes, size_t size) {
    if (size > NI_YAML_MAX_BYTES)
        return fail_at(b, 0, "too big for a configuration file (limit 256 KiB)");
    const unsigned char *at = (const unsigned char *)bytes;
    int32_t line = 1;
    for (size_t i = 0, n; i < size; i += n) {
        unsigned char c = at[i];
        line += c == '\n';
        if (c == 0)
            return fail_at(b, line, "holds a NUL character; is it a text file?");
        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f)
            return fail_at(b, line, "holds a control character; is it a text file?");
        n = utf8_length(at + i, size - i);
        if (n == 0)
            return fail_at(b, line, "is not UTF-8 text");
    }
    return NB_OK;
}

nb_status ni_yaml_parse_into(ni_yaml *doc, const char *bytes, size_t size, const char *name, bool lines,
                             ni_yaml_node **root, nb_error *err) {
    builder b = {.doc = doc, .bytes = bytes, .size = size, .lines = lines, .err = err};
    b.file = ni_yaml_text(doc, name, strlen(name));
    if (!b.file)
        return nb_fail(err, NB_NO_MEMORY, "no memory for %s", name);
    NB_TRY(check_bytes(&b, bytes, size));
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return nb_fail(err, NB_NO_MEMORY, "no memory for the parser of %s", name);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)bytes, size);
    nb_status status = read_events(&b, &parser);
    yaml_parser_delete(&parser);
    if (status == NB_OK && !b.root) {
        ni_yaml_node at = {.file = b.file};
        status = ni_yaml_fail(err, &at, "is empty");
    }
    *root = status == NB_OK ? b.root : NULL;
    return status;
}

nb_status ni_yaml_parse(const char *bytes, size_t size, const char *name, ni_yaml *out, nb_error *err) {
    *out = (ni_yaml){0};
    nb_status status = ni_yaml_parse_into(out, bytes, size, name, true, &out->root, err);
    if (status != NB_OK)
        ni_yaml_free(out);
    return status;
}

nb_status ni_yaml_load_into(ni_yaml *doc, const char *path, ni_yaml_node **root, nb_error *err) {
    char *bytes;
    size_t size;
    NB_TRY(ni_file_read(path, NI_YAML_MAX_BYTES, &bytes, &size, err));
    nb_status status = ni_yaml_parse_into(doc, bytes, size, path, true, root, err);
    free(bytes);
    if (status == NB_OK && *root && (*root)->kind != NI_YAML_MAP)
        status = ni_yaml_fail(err, *root, "expected keys with values, as in 'name: my-recipe'");
    return status;
}

nb_status ni_yaml_fail_open(const char *path, nb_error *err) {
    return nb_fail(err, errno == ENOENT ? NB_BAD_CONFIG : NB_IO_ERROR, "%s: cannot open: %s", path, strerror(errno));
}

nb_status ni_yaml_load(const char *path, ni_yaml *out, nb_error *err) {
    struct stat st;
    *out = (ni_yaml){0};
    if (stat(path, &st) != 0)
        return ni_yaml_fail_open(path, err);
    nb_status status = ni_yaml_load_into(out, path, &out->root, err);
    if (status != NB_OK)
        ni_yaml_free(out);
    return status;
}

/* ---- looking ---- */

bool ni_yaml_is_null(const ni_yaml_node *node) {
    return node->kind == NI_YAML_SCALAR && !node->quoted &&
           (node->text[0] == 0 || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

ni_yaml_node *ni_yaml_child(const ni_yaml_node *map, const char *key) {
    if (!map || map->kind != NI_YAML_MAP)
        return NULL;
    for (ni_yaml_node *n = map->first; n; n = n->next)
        if (strcmp(n->key, key) == 0)
            return n;
    return NULL;
}

ni_yaml_node *ni_yaml_find(const ni_yaml_node *map, const char *path) {
    ni_yaml_node *n = (ni_yaml_node *)map;
    while (n && path) {
        const char *dot = strchr(path, '.');
        char key[NI_YAML_KEY_SIZE];
        size_t size = dot ? (size_t)(dot - path) : strlen(path);
        if (size >= sizeof key)
            return NULL;
        memcpy(key, path, size);
        key[size] = 0;
        n = ni_yaml_child(n, key);
        path = dot ? dot + 1 : NULL;
    }
    return n;
}

char *ni_yaml_path(const ni_yaml_node *node, char *path, size_t size) {
    char *at = path + size - 1;
    *at = 0;
    for (; node; node = node->parent) {
        size_t length = node->key ? strlen(node->key) : 0, dot = *at ? 1 : 0;
        if (!length || length + dot > (size_t)(at - path))
            continue;
        if (dot)
            *--at = '.';
        at -= length;
        memcpy(at, node->key, length);
    }
    return memmove(path, at, strlen(at) + 1);
}
