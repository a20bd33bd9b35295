/* hf_index.c: model.safetensors.index.json: which files hold the parameters of a folder. */
#include "files/json.h"
#include "hf.h"

enum { FILES_MAX = 4096 };

static nb_status take_name(const char *parameter, const json_t *value, const char *path, json_t *files, nb_error *err) {
    const char *name = json_string_value(value);
    if (!name || !*name || strchr(name, '/') || name[0] == '.')
        return nb_fail(err, NB_BAD_FILE, "%s: '%.64s' is not said to lie in a file of this folder", path, parameter);
    if (json_object_get(files, name))
        return NB_OK;
    if (json_object_size(files) == FILES_MAX)
        return nb_fail(err, NB_BAD_FILE, "%s: more than %d files", path, (int)FILES_MAX);
    if (json_object_set_new(files, name, json_true()) != 0)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to read it", path);
    return NB_OK;
}

nb_status ni_hf_index_parse(const char *text, size_t size, const char *path, json_t **files, nb_error *err) {
    const char *parameter;
    json_t *value;
    json_error_t where;
    json_t *index = ni_json_load(text, size, &where), *map = json_object_get(index, "weight_map");
    nb_status status = NB_OK;
    *files = json_object();
    if (!index)
        status = nb_fail(err, NB_BAD_FILE, "%s:%d: %s", path, where.line, where.text);
    else if (!*files)
        status = nb_fail(err, NB_NO_MEMORY, "%s: no memory to read it", path);
    else if (!json_is_object(map) || json_object_size(map) == 0)
        status = nb_fail(err, NB_BAD_FILE, "%s: 'weight_map' is missing", path);
    json_object_foreach(map, parameter, value) {
        if (status == NB_OK)
            status = take_name(parameter, value, path, *files, err);
    }
    json_decref(index);
    if (status != NB_OK) {
        json_decref(*files);
        *files = NULL;
    }
    return status;
}
