/* yaml_base.c: one tree laid upon another: `base:` and --set. */
#include "base/text.h"
#include "config/suggest.h"
#include "config/yaml_memory.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void unlink_child(ni_yaml_node *map, const char *key) {
    for (ni_yaml_node **at = &map->first; *at; at = &(*at)->next)
        if (strcmp((*at)->key, key) == 0) {
            *at = (*at)->next;
            return;
        }
}

static void append_child(ni_yaml_node *map, ni_yaml_node *child) {
    ni_yaml_node **at = &map->first;
    while (*at)
        at = &(*at)->next;
    child->next = NULL;
    *at = child;
}

/* A value written over another takes its place; null takes it away (and stays, so that a message can name its line).
 * What is wrong with keys that were laid together is as a rule the work of who came last. */
void ni_yaml_merge(ni_yaml_node *under, ni_yaml_node *over, ni_yaml_replaces *replaces) {
    for (ni_yaml_node *n = over->first, *next; n; n = next) {
        next = n->next;
        ni_yaml_node *old = ni_yaml_child(under, n->key);
        if (!old) {
            append_child(under, n);
        } else if (old->kind == NI_YAML_MAP && n->kind == NI_YAML_MAP && !(replaces && replaces(n))) {
            ni_yaml_merge(old, n, replaces);
            old->file = n->file;
            old->line = n->line;
        } else {
            ni_yaml_node *after = old->next;
            const char *key = old->key;
            *old = *n;
            old->next = after;
            old->key = key;
        }
    }
}

/* ---- --set ---- */

/* A map with the single key `key`. */
static ni_yaml_node *wrap(ni_yaml *doc, ni_yaml_node *value, const char *key, size_t key_size) {
    ni_yaml_node *map = ni_yaml_alloc(doc, sizeof *map);
    char *name = ni_yaml_text(doc, key, key_size);
    if (!map || !name)
        return NULL;
    value->key = name;
    *map = (ni_yaml_node){.kind = NI_YAML_MAP, .file = value->file, .line = value->line, .first = value};
    value->parent = map;
    return map;
}

nb_status ni_yaml_set(ni_yaml *doc, const char *before, const char *assignment, ni_yaml_replaces *replaces,
                      nb_error *err) {
    const char *equals = strchr(assignment, '=');
    size_t path_size = equals ? (size_t)(equals - assignment) : 0;
    bool dots_well =
        path_size && assignment[0] != '.' && assignment[path_size - 1] != '.' && strlen(assignment) < NI_YAML_MAX_BYTES;
    int depth = 1;
    for (size_t i = 0; i + 1 < path_size; i++) {
        depth += assignment[i] == '.';
        dots_well = dots_well && !(assignment[i] == '.' && assignment[i + 1] == '.');
    }
    if (!dots_well || depth > NI_YAML_MAX_DEPTH)
        return nb_fail(err, NB_BAD_CONFIG, "--set %s%.80s: expected key=value, as in optimizer.lr=1e-3", before,
                       assignment);

    char name[128];
    snprintf(name, sizeof name, "--set %.20s%.100s", before, assignment);
    const char *value = equals + 1;
    ni_yaml_node *node;
    NB_TRY(ni_yaml_parse_into(doc, *value ? value : "null", strlen(*value ? value : "null"), name, false, &node, err));
    for (size_t end = path_size; end > 0;) {
        size_t start = end;
        while (start > 0 && assignment[start - 1] != '.')
            start--;
        node = wrap(doc, node, assignment + start, end - start);
        if (!node)
            return nb_fail(err, NB_NO_MEMORY, "no memory for %s", name);
        end = start ? start - 1 : 0;
    }
    ni_yaml_merge(doc->root, node, replaces);
    return NB_OK;
}

/* ---- files by name ---- */

static bool is_path(const char *name) {
    size_t n = strlen(name);
    return strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".yaml") == 0);
}

static void offer_files(const char *folder, ni_suggestion *s, char *best, size_t size) {
    DIR *dir = opendir(folder);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char name[256];
        size_t n = strlen(entry->d_name);
        if (n <= 5 || n - 5 >= sizeof name || strcmp(entry->d_name + n - 5, ".yaml") != 0)
            continue;
        memcpy(name, entry->d_name, n - 5);
        name[n - 5] = 0;
        size_t was = s->best ? s->distance : (size_t)-1;
        ni_suggest_offer(s, name);
        if (s->best && s->distance < was)
            snprintf(best, size, "%s", name);
        if (s->best)
            s->best = best; /* the entry's name does not outlive the loop */
    }
    closedir(dir);
}

nb_status ni_yaml_locate(const char *name_or_path, const char *folder, const char *kind, char *path, size_t size,
                         nb_error *err) {
    bool as_path = is_path(name_or_path);
    if (!*name_or_path)
        return nb_fail(err, NB_BAD_CONFIG, "the name of a %s is empty", kind);
    int n = as_path ? snprintf(path, size, "%s", name_or_path)
                    : snprintf(path, size, "%s/%s.yaml", folder ? folder : ".", name_or_path);
    if (n < 0 || (size_t)n >= size)
        return nb_fail(err, NB_BAD_CONFIG, "the name of a %s is too long", kind);
    struct stat st;
    if (stat(path, &st) == 0)
        return NB_OK;
    if (as_path)
        return ni_yaml_fail_open(path, err);
    char best[256] = "";
    ni_suggestion s = ni_suggest(name_or_path);
    offer_files(folder ? folder : ".", &s, best, sizeof best);
    if (s.best)
        return nb_fail(err, NB_BAD_CONFIG, "no %s is called '%.100s' in %s; did you mean '%s'?", kind, name_or_path,
                       folder ? folder : ".", best);
    return nb_fail(err, NB_BAD_CONFIG, "no %s is called '%.100s' in %s (a path ends in .yaml)", kind, name_or_path,
                   folder ? folder : ".");
}

/* ---- base: ---- */

/* Files of one chain, the last file first. */
typedef struct chain {
    struct stat files[NI_YAML_MAX_BASES];
    ni_yaml_node *roots[NI_YAML_MAX_BASES];
    int count;
} chain;

/* A `base:` that is a path is meant from the folder of the file that says so. */
static nb_status locate_base(const ni_yaml_node *base, const char *from, const char *folder, const char *kind,
                             char *path, size_t size, nb_error *err) {
    if (base->kind != NI_YAML_SCALAR || ni_yaml_is_null(base))
        return ni_yaml_fail(err, base, "base: expected the name of a %s", kind);
    char beside[4096];
    const char *name = base->text, *slash = strrchr(from, '/');
    if (is_path(name) && name[0] != '/' && slash) {
        int n = snprintf(beside, sizeof beside, "%.*s/%s", (int)(slash - from), from, name);
        if (n < 0 || (size_t)n >= sizeof beside)
            return ni_yaml_fail(err, base, "base: the path is too long");
        name = beside;
    }
    nb_error inner = {0};
    if (ni_yaml_locate(name, folder, kind, path, size, &inner) != NB_OK)
        return ni_yaml_fail(err, base, "base: %s", inner.message);
    return NB_OK;
}

static nb_status add_to_chain(chain *c, ni_yaml *doc, const char *path, const ni_yaml_node *said_by, nb_error *err) {
    struct stat st;
    if (stat(path, &st) != 0)
        return nb_fail(err, NB_IO_ERROR, "%s: %s", path, strerror(errno));
    for (int i = 0; i < c->count; i++)
        if (c->files[i].st_dev == st.st_dev && c->files[i].st_ino == st.st_ino)
            return ni_yaml_fail(err, said_by, "base: %s comes back to itself", path);
    if (c->count == NI_YAML_MAX_BASES)
        return ni_yaml_fail(err, said_by, "base: a chain of more than %d files", NI_YAML_MAX_BASES);
    c->files[c->count] = st;
    NB_TRY(ni_yaml_load_into(doc, path, &c->roots[c->count], err));
    c->count++;
    return NB_OK;
}

static nb_status load_chain(chain *c, ni_yaml *doc, const char *name_or_path, const char *folder, const char *kind,
                            nb_error *err) {
    char path[4096], next[4096];
    NB_TRY(ni_yaml_locate(name_or_path, folder, kind, path, sizeof path, err));
    for (const ni_yaml_node *base = NULL;;) {
        NB_TRY(add_to_chain(c, doc, path, base, err));
        base = ni_yaml_child(c->roots[c->count - 1], "base");
        if (!base)
            return NB_OK;
        NB_TRY(locate_base(base, path, folder, kind, next, sizeof next, err));
        memcpy(path, next, sizeof path);
    }
}

/* A file of another content than its base is called by its own name, "x" of "folder/x.yaml", where it says none. */
static nb_status name_by_file(ni_yaml *doc, ni_yaml_node *root, nb_error *err) {
    if (ni_yaml_child(root, "name"))
        return NB_OK;
    const char *slash = strrchr(root->file, '/'), *file = slash ? slash + 1 : root->file;
    const size_t length = strlen(file) - (ni_ends_with(file, ".yaml") ? strlen(".yaml") : 0);
    ni_yaml_node *name = ni_yaml_alloc(doc, sizeof *name);
    if (name)
        *name = (ni_yaml_node){.key = "name", .file = root->file, .line = root->line, .parent = root};
    if (!name || !(name->text = ni_yaml_text(doc, file, length)))
        return nb_fail(err, NB_NO_MEMORY, "no memory for %s", root->file);
    append_child(root, name);
    return NB_OK;
}

nb_status ni_yaml_load_based(const char *name_or_path, const char *folder, const char *kind, ni_yaml_replaces *replaces,
                             ni_yaml *out, nb_error *err) {
    *out = (ni_yaml){0};
    chain c = {.count = 0};
    nb_status status = load_chain(&c, out, name_or_path, folder, kind, err);
    if (status == NB_OK && c.count > 1)
        status = name_by_file(out, c.roots[0], err);
    if (status != NB_OK) {
        ni_yaml_free(out);
        return status;
    }
    ni_yaml_node *root = c.roots[c.count - 1];
    for (int i = c.count - 2; i >= 0; i--) {
        unlink_child(c.roots[i], "base");
        ni_yaml_merge(root, c.roots[i], replaces);
        root->file = c.roots[i]->file; /* messages about what is nowhere name the file that was asked for */
        root->line = c.roots[i]->line;
    }
    out->root = root;
    return NB_OK;
}
