/* keys_print.c: a struct as YAML, and a table as a reference page. */
#include "base/text.h"
#include "config/keys_walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ni_keys_join(char *out, size_t size, const char *prefix, const char *path) {
    snprintf(out, size, "%s%s%s", prefix, *prefix && *path ? "." : "", path);
}

void ni_keys_number(double value, char *out, size_t size) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            break;
    }
    if (fabs(value) < 1e15 && value == floor(value)) /* 100000, not 1e+05 */
        snprintf(out, size, "%.0f", value);
}

void ni_keys_range(const ni_key *row, char *out, size_t size) {
    char low[32], high[32];
    ni_keys_number(row->low, low, sizeof low);
    ni_keys_number(row->high, high, sizeof high);
    bool any = row->low == 0 && row->high == 0;
    if (row->positive && (any || isinf(row->high)))
        snprintf(out, size, "greater than 0");
    else if (row->positive)
        snprintf(out, size, "greater than 0, at most %s", high);
    else if (any)
        snprintf(out, size, "%s", "");
    else if (isinf(row->high))
        snprintf(out, size, "at least %s", low);
    else
        snprintf(out, size, "%s to %s", low, high);
}

double ni_keys_value(const ni_key *row, const void *field) {
    switch (row->type) {
    case NI_KEY_BOOL:
        return *(const bool *)field;
    case NI_KEY_FLOAT:
        return *(const double *)field;
    case NI_KEY_INT:
        return row->size == sizeof(int32_t) ? *(const int32_t *)field : (double)*(const int64_t *)field;
    default:
        return *(const int32_t *)field;
    }
}

const char *ni_keys_word(const ni_key *row, double value) {
    for (const ni_word *w = row->words; w && w->name; w++)
        if (w->value == value)
            return w->name;
    return NULL;
}

/* ---- values ---- */

/* The UTF-8 character at `at`; texts come from ni_yaml, which lets only whole ones pass. Returns its bytes. */
static size_t decode(const unsigned char *at, uint32_t *point) {
    size_t n = at[0] < 0x80 ? 1 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    *point = n == 1 ? at[0] : at[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (!at[i]) { /* cut off by a field's size */
            *point = 0xfffd;
            return i;
        }
        *point = *point << 6 | (at[i] & 0x3fu);
    }
    return n;
}

/* Control characters, YAML 1.1's other line breaks, the byte order mark and what is no character. */
static bool needs_escape(uint32_t point) {
    return point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0x2028 || point == 0x2029 || point == 0xfeff ||
           point == 0xfffe || point == 0xffff;
}

/* Plain where every YAML reader takes it for the same text, else in double quotes. */
static void print_text(const char *text, FILE *to) {
    static const char *const reserved[] = {"true", "false", "null", "yes", "no", "on", "off"};
    bool plain = *text && (strspn(text, "+-.0123456789eE_") != strlen(text)) && text[0] != '-' && text[0] != '.' &&
                 text[0] != ' ' && text[strlen(text) - 1] != ' ';
    for (size_t i = 0; plain && i < NI_COUNT(reserved); i++)
        plain = strcmp(text, reserved[i]) != 0;
    for (const char *c = text; plain && *c; c++)
        plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
                (strchr("_-./+ ()=", *c) && c > text) || (*c == ':' && c[1] && c[1] != ' ' && c > text);
    if (plain) {
        fputs(text, to);
        return;
    }
    fputc('"', to);
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        uint32_t point;
        size_t n = decode(c, &point);
        if (point == '"' || point == '\\')
            fprintf(to, "\\%c", (int)point);
        else if (needs_escape(point))
            fprintf(to, "\\u%04x", (unsigned)point);
        else
            fwrite(c, 1, n, to);
        c += n;
    }
    fputc('"', to);
}

static void print_value(const ni_key *row, const void *record, FILE *to) {
    const char *field = (const char *)record + row->offset;
    switch (row->type) {
    case NI_KEY_BOOL:
        fputs(*(const bool *)field ? "true" : "false", to);
        return;
    case NI_KEY_INT:
    case NI_KEY_FLOAT:
    case NI_KEY_CHOICE: {
        double value = ni_keys_value(row, field);
        const char *word = ni_keys_word(row, value);
        char number[40];
        ni_keys_number(value, number, sizeof number);
        fputs(word ? word : number, to);
        return;
    }
    case NI_KEY_TEXT:
        print_text(field, to);
        return;
    case NI_KEY_TEXTS: {
        int32_t count = *(const int32_t *)((const char *)record + row->count_offset);
        fputc('[', to);
        for (int32_t i = 0; i < count; i++) {
            fputs(i ? ", " : "", to);
            print_text(field + (size_t)i * row->item_size, to);
        }
        fputc(']', to);
        return;
    }
    case NI_KEY_CUSTOM:
        row->print(field, to);
        return;
    case NI_KEY_TABLE:
        return;
    }
}

/* ---- YAML ---- */

enum { COMMENT_COLUMN = 44 };

typedef struct printer {
    FILE *to;
    ni_keys_comments comments;
    char open[NI_KEYS_PATH_SIZE]; /* path of the map that the last line belongs to */
    bool no_memory;               /* a row is missing */
} printer;

static int depth_of(const char *path) {
    int depth = *path ? 1 : 0;
    for (; *path; path++)
        depth += *path == '.';
    return depth;
}

/* Prints the lines "a:" and "  b:" of the maps around `path` that are not open yet. */
static void open_maps(printer *p, const char *path) {
    char map[NI_KEYS_PATH_SIZE];
    for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
        size_t n = (size_t)(dot - path);
        if (strncmp(p->open, path, n) == 0 && (p->open[n] == 0 || p->open[n] == '.'))
            continue;
        memcpy(map, path, n);
        map[n] = 0;
        const char *last = strrchr(map, '.');
        fprintf(p->to, "%*s%s:\n", 2 * (depth_of(map) - 1), "", last ? last + 1 : map);
    }
    const char *dot = strrchr(path, '.');
    snprintf(p->open, sizeof p->open, "%.*s", dot ? (int)(dot - path) : 0, path);
}

static void print_origin(const ni_key *row, const ni_yaml_node *said, int width, FILE *to) {
    fprintf(to, "%*s", width < COMMENT_COLUMN ? COMMENT_COLUMN - width : 1, "");
    const char *slash = said && said->line ? strrchr(said->file, '/') : NULL;
    if (said && said->line)
        fprintf(to, "# %s:%d", slash ? slash + 1 : said->file, (int)said->line);
    else if (said)
        fprintf(to, "# %s", said->file);
    else
        fprintf(to, "# default%s%s", row->source ? ": " : "", row->source ? row->source : "");
}

static void print_row(printer *p, const ni_key *row, const void *record, const ni_yaml_node *said, const char *path) {
    char *value = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&value, &size);
    if (memory) {
        print_value(row, record, memory);
        value = ni_memory_text(memory, &value, true);
    }
    if (!value) {
        p->no_memory = true;
        return;
    }
    if (!*value || strcmp(value, "null") == 0) { /* a key that is as if it were not there */
        free(value);
        return;
    }
    open_maps(p, path);
    const char *dot = strrchr(path, '.');
    int indent = 2 * (depth_of(path) - 1);
    int width = fprintf(p->to, "%*s%s: %s", indent, "", dot ? dot + 1 : path, value);
    free(value);
    if (p->comments == NI_COMMENTS_ORIGIN)
        print_origin(row, said, width, p->to);
    fputc('\n', p->to);
}

static void print_table(printer *p, const ni_keys *table, const void *record, const ni_yaml_node *node,
                        const char *prefix) {
    for (size_t i = 0; i < table->count; i++) {
        const ni_key *row = &table->rows[i];
        const ni_yaml_node *said = ni_yaml_find(node, row->path);
        char path[NI_KEYS_PATH_SIZE];
        ni_keys_join(path, sizeof path, prefix, row->path);
        if (said && ni_yaml_is_null(said))
            said = NULL;
        if (row->type != NI_KEY_TABLE)
            print_row(p, row, record, said, path);
        else if (!row->optional || *(const bool *)((const char *)record + row->present_offset))
            print_table(p, row->table, (const char *)record + row->offset, said, path);
    }
}

bool ni_keys_print(const ni_keys *table, const void *record, const ni_yaml_node *node, ni_keys_comments comments,
                   FILE *to) {
    printer p = {.to = to, .comments = comments};
    print_table(&p, table, record, node, "");
    return !p.no_memory;
}
