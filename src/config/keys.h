/* keys.h: one table of keys drives everything about a configuration file.
 *
 * A table describes a plain C struct: for each key its type, place, default, range, help and where the default comes
 * from. Reading (with file:line and the nearest right key in the message), --set, printing the effective configuration,
 * --help text and the reference page all come from it. Tables nest: a row of type NB_KEY_TABLE mounts another table
 * under its path.
 *
 *     typedef struct nb_toy { int32_t steps; double lr; bool clip; } nb_toy;
 *     static const nb_key rows[] = {
 *         {.path = "steps", .type = NB_KEY_INT, NB_FIELD(nb_toy, steps), .low = 1, .high = 1e9,
 *          .help = "optimizer steps"},                                                       // no default: required
 *         {.path = "optimizer.lr", .type = NB_KEY_FLOAT, NB_FIELD(nb_toy, lr), .fallback = "3e-4", .positive = true,
 *          .help = "peak learning rate", .source = "arXiv:2501.17116 section 4.1"},
 *     };
 *     const nb_keys nb_toy_keys = {.name = "toy file", .rows = rows, .count = NB_COUNT(rows), .size = sizeof(nb_toy)};
 */
#ifndef NB_CONFIG_KEYS_H
#define NB_CONFIG_KEYS_H

#include "config/yaml.h"
#include <stdio.h>

typedef enum nb_key_type {
    NB_KEY_BOOL,   /* bool */
    NB_KEY_INT,    /* int32_t or int64_t, by size */
    NB_KEY_FLOAT,  /* double; finite */
    NB_KEY_TEXT,   /* char[size] */
    NB_KEY_CHOICE, /* an enum of 4 bytes, one of `words` */
    NB_KEY_TEXTS,  /* char[n][item_size] and an int32_t count */
    NB_KEY_CUSTOM, /* `read` and `print` know */
    NB_KEY_TABLE   /* a struct with its own table */
} nb_key_type;

/* A word that stands for a number: the choices of an enum, or names for special values ("auto" = 0, "none" = -inf).
 * Lists end with a word whose name is NULL. */
typedef struct nb_word {
    const char *name;
    double value;
    const char *help;
} nb_word;

typedef struct nb_keys nb_keys;

/* Custom rows. `field` points at the row's field. `print` writes YAML of one line without the key, as "[a, b]". */
typedef nb_status nb_key_read(void *field, const nb_yaml_node *node, nb_error *err);
typedef void nb_key_print(const void *field, FILE *to);

typedef struct nb_key {
    const char *path; /* "optimizer.lr" inside this table */
    nb_key_type type;
    size_t offset, size;      /* of the field: NB_FIELD */
    const char *fallback;     /* the default as YAML text; NULL: the key is required */
    double low, high;         /* INT, FLOAT: inclusive range; both 0: any */
    bool positive;            /* INT, FLOAT: greater than 0 (an open lower end) */
    const nb_word *words;     /* CHOICE: the choices; INT and FLOAT: words allowed besides numbers */
    size_t item_size;         /* TEXTS */
    size_t count_offset;      /* TEXTS: of the int32_t count */
    const nb_keys *table;     /* TABLE */
    bool optional;            /* TABLE: may be absent; the bool at present_offset says whether it was there */
    size_t present_offset;    /* TABLE and optional */
    nb_key_read *read;        /* CUSTOM */
    nb_key_print *print;      /* CUSTOM */
    const char *range_text;   /* CUSTOM: for the reference page, "1x16, 16x16, ..." */
    const char *default_text; /* replaces the default on the reference page, as "by format" */
    const char *help;         /* one line, no full stop */
    const char *source;       /* where the default comes from: "arXiv:2509.25149 A", "our choice"; may be NULL */
} nb_key;

#define NB_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NB_FIELD(type, field) .offset = offsetof(type, field), .size = sizeof(((type *)0)->field)
/* TEXTS: `field` is char[n][m], `count` the int32_t beside it. */
#define NB_FIELD_TEXTS(type, field, count)                                                                             \
    NB_FIELD(type, field), .item_size = sizeof(((type *)0)->field[0]), .count_offset = offsetof(type, count)
/* TABLE that may be absent: `flag` is the bool that says whether it was there. */
#define NB_OPTIONAL(type, flag) .optional = true, .present_offset = offsetof(type, flag)

struct nb_keys {
    const char *name;  /* "run file" */
    const char *intro; /* Markdown above the reference page; may be NULL */
    const nb_key *rows;
    size_t count;
    size_t size; /* of the struct */
    /* A scalar where the map is expected ("x: nvfp4"); NULL: not allowed. Defaults are in `record` already. */
    nb_status (*read_short)(void *record, const nb_yaml_node *node, nb_error *err);
    /* Checks keys against each other and resolves what depends on others, after reading; may be NULL. `node` is what
     * was read, NULL where all is default. */
    nb_status (*finish)(void *record, const nb_yaml_node *node, nb_error *err);
};

/* Fills `record` (table->size bytes) from a map: zeroes, defaults, what the map says, then `finish`. `node` may be NULL
 * (all defaults). */
nb_status nb_keys_read(const nb_keys *table, void *record, const nb_yaml_node *node, nb_error *err);

/* Fails with "FILE:LINE: PATH: ..." at the key `path` below `node` (at the node itself where that is absent or `path`
 * is NULL); PATH is counted from the root of the file. */
nb_status nb_keys_fail(nb_error *err, const nb_yaml_node *node, const char *path, const char *format, ...)
    NB_PRINTF(4, 5);

/* How nb_keys_print comments each line. */
typedef enum nb_keys_comments {
    NB_COMMENTS_NONE,   /* YAML alone: reading it back gives the same struct */
    NB_COMMENTS_ORIGIN, /* "# recipes/a.yaml:7" or "# default: arXiv:..." */
    NB_COMMENTS_HELP    /* "# help" above each key */
} nb_keys_comments;

/* Writes the struct as YAML, every key present that is not null. `node` is what it was read from (for ORIGIN; may be
 * NULL). */
void nb_keys_print(const nb_keys *table, const void *record, const nb_yaml_node *node, nb_keys_comments comments,
                   FILE *to);

/* The reference page (Markdown) and the text of `nibble help TOPIC`. */
void nb_keys_print_markdown(const nb_keys *table, FILE *to);
void nb_keys_print_help(const nb_keys *table, FILE *to);

#endif
