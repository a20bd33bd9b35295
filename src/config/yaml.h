/* yaml.h: a YAML file as a small tree that remembers where each node was written.
 *
 * libyaml scans; this tree keeps only what configuration needs: scalars, lists, maps. Anchors, aliases, tags,
 * duplicate keys, several documents, deep nesting and big files are refused with file and line, so that no file can
 * make the program slow. A tree owns its nodes; merging copies nothing.
 */
#ifndef NI_CONFIG_YAML_H
#define NI_CONFIG_YAML_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NI_YAML_MAX_BYTES (256 * 1024) /* of one file */
#define NI_YAML_MAX_DEPTH 16
#define NI_YAML_MAX_NODES 5000
#define NI_YAML_MAX_BASES 8 /* files in one chain of `base:` */

typedef enum ni_yaml_kind { NI_YAML_SCALAR, NI_YAML_LIST, NI_YAML_MAP } ni_yaml_kind;

typedef struct ni_yaml_node {
    ni_yaml_kind kind;
    bool quoted;                /* SCALAR: written in quotes, so "null" is a word */
    const char *text;           /* SCALAR: its text, ends with 0 and holds none */
    const char *key;            /* inside a map: its key; else NULL */
    const char *file;           /* where it was written: "recipes/nvfp4.yaml", "--set lr=1" */
    int32_t line;               /* from 1; 0 where there are no lines (--set) */
    struct ni_yaml_node *first; /* LIST, MAP: children in order */
    struct ni_yaml_node *next;
    const struct ni_yaml_node *parent; /* the map or list that it was written in; NULL for a root */
} ni_yaml_node;

typedef struct ni_yaml {
    ni_yaml_node *root; /* always a map after ni_yaml_load */
    void *memory;       /* of all nodes and texts */
} ni_yaml;

/* Parses `size` bytes; `name` stands in messages for the file. The root may be of any kind. */
nb_status ni_yaml_parse(const char *bytes, size_t size, const char *name, ni_yaml *out, nb_error *err);

/* Reads a file whose root is a map. One that is not there is NB_BAD_CONFIG. */
nb_status ni_yaml_load(const char *path, ni_yaml *out, nb_error *err);

/* Frees everything and zeroes the struct. A zeroed struct is allowed. */
void ni_yaml_free(ni_yaml *doc);

/* Null as YAML writes it: an empty value, ~ or null without quotes. In a map it means "as if the key were not there".
 */
bool ni_yaml_is_null(const ni_yaml_node *node);

/* The child of a map with this key; NULL if there is none. */
ni_yaml_node *ni_yaml_child(const ni_yaml_node *map, const char *key);

/* The node at a dotted path ("optimizer.lr") below a map; NULL if there is none. */
ni_yaml_node *ni_yaml_find(const ni_yaml_node *map, const char *path);

/* The dotted path of a node from its root ("optimizer.lr"; "" for the root), cut to `size`; returns `path`. */
char *ni_yaml_path(const ni_yaml_node *node, char *path, size_t size);

/* Says whether a map written over another replaces it (true) or is merged into it key by key. */
typedef bool ni_yaml_replaces(const ni_yaml_node *over);

/* Lays the map `over` upon the map `under` of the same owner or one that lives as long: maps merge, everything else is
 * replaced, null removes. `replaces` may be NULL. */
void ni_yaml_merge(ni_yaml_node *under, ni_yaml_node *over, ni_yaml_replaces *replaces);

/* Applies "a.b=value"; the value is YAML ("3", "[a, b]", "{format: bf16}"). `before` is what stood in front of it on
 * the command line ("" or "model."), for messages. */
nb_status ni_yaml_set(ni_yaml *doc, const char *before, const char *assignment, ni_yaml_replaces *replaces,
                      nb_error *err);

/* Records a failure at a node: "FILE:LINE: ...". */
nb_status ni_yaml_fail(nb_error *err, const ni_yaml_node *at, const char *format, ...) NB_PRINTF(3, 4);

/* Finds the file that a name means: a path (it holds '/' or ends in ".yaml") is itself, a name is FOLDER/NAME.yaml.
 * An unknown name fails with the nearest one that exists. `kind` is for the message: "recipe", "model". */
nb_status ni_yaml_locate(const char *name_or_path, const char *folder, const char *kind, char *path, size_t size,
                         nb_error *err);

/* Reads a file and what it names as `base:` (a name in `folder`, or a path beside the file), each laid upon its base.
 * Cycles and long chains are refused. The key `base` itself is gone from the result; `name` is not taken from a base:
 * where the file says none, it is the file's own, without folder and ".yaml". */
nb_status ni_yaml_load_based(const char *name_or_path, const char *folder, const char *kind, ni_yaml_replaces *replaces,
                             ni_yaml *out, nb_error *err);

#endif
