/* report_run.c: reads a run folder: configuration, metrics, and the texts beside them.
 *
 * Metrics may come from anywhere and may have been cut short by a crash: a torn last line is left out, any other line
 * that is not a JSON object is an error with its number.
 */
#include "config/yaml.h"
#include "files/file.h"
#include "files/json.h"
#include "report/report_build.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_LIMIT (8u << 20)
#define PATH_LIMIT 1024

/* The series of the step lines that the page draws, named as in metrics.jsonl. */
static const char *const series_names[] = {"loss", "norm", "lr", "tok_s"};
#define SERIES_COUNT (sizeof series_names / sizeof series_names[0])

/* Where a run's lines go while they are read. */
typedef struct ni_columns {
    json_t *steps, *series[SERIES_COUNT];
    json_t *eval_steps, *eval_losses;
    json_t *events; /* whole lines: bad numbers and what was done about them */
    bool whole;     /* false once memory ran out for one of them */
} ni_columns;

static nb_status path_in(const char *folder, const char *name, char path[PATH_LIMIT], nb_error *err) {
    int length = snprintf(path, PATH_LIMIT, "%s/%s", folder, name);
    if (length < 0 || length >= PATH_LIMIT)
        return nb_fail(err, NB_BAD_USAGE, "report: the path of a run folder is too long: %.64s...", folder);
    return NB_OK;
}

static nb_status no_memory(const char *path, nb_error *err) {
    return nb_fail(err, NB_NO_MEMORY, "report: no memory for what %s holds", path);
}

/* A run that went on from a checkpoint may have written later steps before: the newest line of a step counts. */
static void cut_from(json_t *steps, json_t *const *columns, size_t count, json_int_t step) {
    size_t keep = json_array_size(steps);
    while (keep > 0 && json_integer_value(json_array_get(steps, keep - 1)) >= step)
        keep--;
    while (json_array_size(steps) > keep) {
        size_t last = json_array_size(steps) - 1;
        json_array_remove(steps, last);
        for (size_t i = 0; i < count; i++)
            json_array_remove(columns[i], last);
    }
}

static bool append_number(json_t *column, const json_t *value) {
    return json_array_append_new(column,
                                 json_is_number(value) ? ni_report_number(json_number_value(value)) : json_null()) == 0;
}

static bool take_line(ni_columns *m, json_t *line) {
    const json_t *step = json_object_get(line, "step"), *val = json_object_get(line, "val_loss");
    if (!json_is_integer(step))
        return false;
    json_int_t at = json_integer_value(step);
    if (val) {
        cut_from(m->eval_steps, &m->eval_losses, 1, at);
        m->whole &= json_array_append_new(m->eval_steps, json_integer(at)) == 0;
        m->whole &= append_number(m->eval_losses, val);
    }
    if (json_object_get(line, "event"))
        m->whole &= json_array_append(m->events, line) == 0;
    if (json_object_get(line, "loss")) {
        cut_from(m->steps, m->series, SERIES_COUNT, at);
        m->whole &= json_array_append_new(m->steps, json_integer(at)) == 0;
        for (size_t i = 0; i < SERIES_COUNT; i++)
            m->whole &= append_number(m->series[i], json_object_get(line, series_names[i]));
    }
    return true;
}

static nb_status take_lines(ni_columns *m, const char *text, size_t size, const char *path, nb_error *err) {
    const char *at = text, *end = text + size;
    for (int64_t number = 1; at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((newline ? newline : end) - at);
        if (length > 0) {
            json_error_t why;
            json_t *line = ni_json_load(at, length, &why);
            bool good = json_is_object(line) && take_line(m, line);
            bool parsed = line != NULL;
            json_decref(line);
            if (!good && (newline || parsed))
                return nb_fail(err, NB_BAD_FILE, "%s:%lld: %s; expected one JSON object with a whole number \"step\"",
                               path, (long long)number, parsed ? "not a line of metrics" : why.text);
        }
        at += length + 1;
    }
    return NB_OK;
}

static nb_status read_metrics(const char *folder, json_t *run, nb_error *err) {
    char path[PATH_LIMIT];
    NB_TRY(path_in(folder, "metrics.jsonl", path, err));
    ni_file_map map;
    NB_TRY(ni_file_map_open(path, &map, err));
    ni_columns m = {json_array(), {0}, json_array(), json_array(), json_array(), true};
    json_t *series = json_object(), *eval = json_object();
    ni_json_put(&series, "step", m.steps);
    for (size_t i = 0; i < SERIES_COUNT; i++) {
        m.series[i] = json_array();
        ni_json_put(&series, series_names[i], m.series[i]);
    }
    ni_json_put(&eval, "step", m.eval_steps);
    ni_json_put(&eval, "loss", m.eval_losses);
    m.whole = json_object_set_new(run, "series", series) == 0 && json_object_set_new(run, "eval", eval) == 0 &&
              json_object_set_new(run, "events", m.events) == 0;
    nb_status status = map.size && m.whole ? take_lines(&m, map.bytes, map.size, path, err) : NB_OK;
    ni_file_map_close(&map);
    return status == NB_OK && !m.whole ? no_memory(path, err) : status;
}

/* ---- configuration ---- */

/* Scalars and lists of scalars under dotted names, in order: {"optimizer.lr": "0.0003", ...}. */
static void flatten(const ni_yaml_node *node, const char *prefix, json_t **into) {
    for (const ni_yaml_node *child = node->first; child; child = child->next) {
        char name[256];
        snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", child->key ? child->key : "");
        if (child->kind == NI_YAML_MAP) {
            flatten(child, name, into);
        } else if (child->kind == NI_YAML_SCALAR) {
            ni_json_put(into, name, json_string(child->text));
        } else {
            char list[1024] = "";
            for (const ni_yaml_node *item = child->first; item; item = item->next) {
                size_t used = strlen(list);
                snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", item->text ? item->text : "...");
            }
            ni_json_put(into, name, json_string(list));
        }
    }
}

/* "recipes/nvfp4.yaml" -> "nvfp4" */
static void stem(const char *path, char *out, size_t size) {
    const char *slash = strrchr(path, '/');
    snprintf(out, size, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(out, '.');
    if (dot && strcmp(dot, ".yaml") == 0)
        *dot = 0;
}

static nb_status read_config(const char *folder, json_t *run, nb_error *err) {
    char path[PATH_LIMIT], name[256];
    NB_TRY(path_in(folder, "run.yaml", path, err));
    ni_yaml doc;
    NB_TRY(ni_yaml_load(path, &doc, err));
    json_t *config = json_object();
    flatten(doc.root, "", &config);
    ni_yaml_free(&doc);
    if (json_object_set_new(run, "config", config) != 0)
        return no_memory(path, err);
    const char *const named[] = {"recipe", "model"};
    for (int i = 0; i < 2; i++) {
        const char *value = json_string_value(json_object_get(config, named[i]));
        if (!value)
            return nb_fail(err, NB_BAD_FILE, "%s: no key \"%s\"; expected the run.yaml that nibble train writes", path,
                           named[i]);
        stem(value, name, sizeof name);
        if (json_object_set_new(run, named[i], json_string(name)) != 0)
            return no_memory(path, err);
    }
    return NB_OK;
}

/* Texts that a run folder may have; a missing one is left out. */
static nb_status read_texts(const char *folder, json_t *run, nb_error *err) {
    static const struct {
        const char *file, *key;
    } texts[] = {{"recipe.yaml", "recipeText"}, {"census.txt", "census"}, {"lens/skipped.txt", "skipped"}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char path[PATH_LIMIT];
        NB_TRY(path_in(folder, texts[i].file, path, err));
        if (access(path, F_OK) != 0)
            continue;
        char *bytes;
        size_t size;
        NB_TRY(ni_file_read(path, TEXT_LIMIT, &bytes, &size, err));
        json_t *text = json_stringn(bytes, size);
        free(bytes);
        if (!text)
            return nb_fail(err, NB_BAD_FILE, "%s: not UTF-8 text", path);
        if (json_object_set_new(run, texts[i].key, text) != 0)
            return no_memory(path, err);
    }
    return NB_OK;
}

/* The recipe that the run used, every default filled in. */
static nb_status read_recipe(const char *folder, json_t *run, nb_error *err) {
    char path[PATH_LIMIT];
    NB_TRY(path_in(folder, "recipe.yaml", path, err));
    if (access(path, F_OK) != 0)
        return NB_OK;
    ni_yaml doc;
    NB_TRY(ni_yaml_load(path, &doc, err));
    json_t *keys = json_object();
    flatten(doc.root, "", &keys);
    ni_yaml_free(&doc);
    return json_object_set_new(run, "recipeKeys", keys) == 0 ? NB_OK : no_memory(path, err);
}

static nb_status read_parts(const char *folder, json_t *run, nb_error *err) {
    NB_TRY(read_config(folder, run, err));
    NB_TRY(read_recipe(folder, run, err));
    NB_TRY(read_metrics(folder, run, err));
    NB_TRY(read_texts(folder, run, err));
    NB_TRY(ni_report_add_lens(run, folder, err));
    return ni_report_add_probe(run, folder, err);
}

nb_status ni_report_read_run(const char *folder, json_t **out, nb_error *err) {
    *out = NULL;
    char real[PATH_LIMIT], name[256];
    NB_TRY(path_in(folder, "", real, err));
    for (size_t length = strlen(real); length > 1 && real[length - 1] == '/'; length--)
        real[length - 1] = 0;
    stem(real, name, sizeof name);
    json_t *run = json_pack("{s:s, s:s, s:[]}", "name", name, "folder", real, "panels");
    if (!run)
        return nb_fail(err, NB_BAD_USAGE, "report: the name of run folder %s is not UTF-8", folder);
    nb_status status = read_parts(real, run, err);
    if (status) {
        json_decref(run);
        return status;
    }
    *out = run;
    return NB_OK;
}
