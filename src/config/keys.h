/* keys.h: one table of keys drives everything about a configuration file.
 *
 * A table describes a plain C struct: for each key its type, place, default, range, help and where the default comes
 * from. Reading (with file:line and the nearest right key in the message), --set, printing the effective configuration,
 * --help text and the reference page all come from it. Tables nest: a row of type NI_KEY_TABLE mounts another table
 * under its path.
 *
 *     typedef struct ni_toy { int32_t steps; double lr; bool clip; } ni_toy;
 *     static const ni_key rows[] = {
 *         {.path = "steps", .type = NI_KEY_INT, NI_FIELD(ni_toy, steps), .low = 1, .high = 1e9,
 *          .help = "optimizer steps"},                                                       // no default: required
 *         {.path = "optimizer.lr", .type = NI_KEY_FLOAT, NI_FIELD(ni_toy, lr), .fallback = "3e-4", .positive = true,
 *          .help = "peak learning rate", .source = "arXiv:2501.17116 section 4.1"},
 *     };
 *     const ni_keys ni_toy_keys = {.name = "toy file", .rows = rows, .count = NI_COUNT(rows), .size = sizeof(ni_toy)};
 */
#ifndef NI_CONFIG_KEYS_H
#define NI_CONFIG_KEYS_H

#include "config/yaml.h"
#include <stdio.h>

typedef enum ni_key_type {
    NI_KEY_BOOL,   /* bool */
    NI_KEY_INT,    /* int32_t or int64_t, by size */
    NI_KEY_FLOAT,  /* double; finite */
    NI_KEY_TEXT,   /* char[size] */
    NI_KEY_CHOICE, /* an enum of 4 bytes, one of `words` */
    NI_KEY_TEXTS,  /* char[n][item_size] and an int32_t count */
    NI_KEY_CUSTOM, /* `read` and `print` know */
    NI_KEY_TABLE   /* a struct with its own table */
} ni_key_type;

/* A word that stands for a number: the choices of an enum, or names for special values ("auto" = 0, "none" = -inf).
 * Lists end with a word whose name is NULL. */
typedef struct ni_word {
    const char *name;
    double value;
    const char *help;
} ni_word;

typedef struct ni_keys ni_keys;

/* Custom rows. `field` points at the row's field. `print` writes YAML of one line without the key, as "[a, b]". */
typedef nb_status ni_key_read(void *field, const ni_yaml_node *node, nb_error *err);
typedef void ni_key_print(const void *field, FILE *to);

typedef struct ni_key {
    const char *path; /* "optimizer.lr" inside this table */
    ni_key_type type;
    size_t offset, size;      /* of the field: NI_FIELD */
    const char *fallback;     /* the default as YAML text; NULL: the key is required */
    double low, high;         /* INT, FLOAT: inclusive range; both 0: any */
    bool positive;            /* INT, FLOAT: greater than 0 (an open lower end) */
    const ni_word *words;     /* CHOICE: the choices; INT and FLOAT: words allowed besides numbers */
    size_t item_size;         /* TEXTS */
    size_t count_offset;      /* TEXTS: of the int32_t count */
    const ni_keys *table;     /* TABLE */
    bool optional;            /* TABLE: may be absent; the bool at present_offset says whether it was there */
    size_t present_offset;    /* TABLE and optional */
    ni_key_read *read;        /* CUSTOM */
    ni_key_print *print;      /* CUSTOM */
    const char *range_text;   /* CUSTOM: for the reference page, "1x16, 16x16, ..." */
    const char *default_text; /* replaces the default on the reference page, as "by format" */
    const char *help;         /* one line, no full stop */
    const char *source;       /* where the default comes from: "arXiv:2509.25149 A", "our choice"; may be NULL */
} ni_key;

#define NI_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NI_FIELD(type, field) .offset = offsetof(type, field), .size = sizeof(((type *)0)->field)
/* TEXTS: `field` is char[n][m], `count` the int32_t beside it. */
#define NI_FIELD_TEXTS(type, field, count)                                                                             \
    NI_FIELD(type, field), .item_size = sizeof(((type *)0)->field[0]), .count_offset = offsetof(type, count)
/* TABLE that may be absent: `flag` is the bool that says whether it was there. */
#define NI_OPTIONAL(type, flag) .optional = true, .present_offset = offsetof(type, flag)

struct ni_keys {
    const char *name;  /* "run file" */
    const char *intro; /* Markdown above the reference page; may be NULL */
    const ni_key *rows;
    size_t count;
    size_t size; /* of the struct */
    /* A scalar where the map is expected ("x: nvfp4"); NULL: not allowed. Defaults are in `record` already. */
    nb_status (*read_short)(void *record, const ni_yaml_node *node, nb_error *err);
    /* Checks keys against each other and resolves what depends on others, after reading; may be NULL. `node` is what
     * was read, NULL where all is default. */
    nb_status (*finish)(void *record, const ni_yaml_node *node, nb_error *err);
};

/* Fills `record` (table->size bytes) from a map: zeroes, defaults, what the map says, then `finish`. `node` may be NULL
 * (all defaults). */
nb_status ni_keys_read(const ni_keys *table, void *record, const ni_yaml_node *node, nb_error *err);

/* Fails with "FILE:LINE: PATH: ..." at the key `path` below `node` (at the node itself where that is absent or `path`
 * is NULL); PATH is counted from the root of the file. */
nb_status ni_keys_fail(nb_error *err, const ni_yaml_node *node, const char *path, const char *format, ...)
    NB_PRINTF(4, 5);

/* How ni_keys_print comments each line. */
typedef enum ni_keys_comments {
    NI_COMMENTS_NONE,  /* YAML alone: reading it back gives the same struct */
    NI_COMMENTS_ORIGIN /* "# recipes/a.yaml:7" or "# default: arXiv:..." */
} ni_keys_comments;

/* Writes the struct as YAML, every key present that is not null. `node` is what it was read from (for ORIGIN; may be
 * NULL). False if memory ran out: then rows are missing. */
bool ni_keys_print(const ni_keys *table, const void *record, const ni_yaml_node *node, ni_keys_comments comments,
                   FILE *to);

/* The reference page (Markdown) and the text of `nibble help TOPIC`. */
void ni_keys_print_markdown(const ni_keys *table, FILE *to);
void ni_keys_print_help(const ni_keys *table, FILE *to);

#endif
