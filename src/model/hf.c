/* hf.c: parameters to and from model.safetensors. */
#include "hf.h"
#include "backend/table.h"
#include "files/file.h"
#include "hf_numbers.h"
#include "param_array.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_ROOM = 4096 };

static int64_t elements_of(const nb_param *p) {
    return p->rows * p->cols;
}

/* The longest parameter, which decides how much memory passes between file and backend. */
static int64_t longest(const nb_model *model) {
    int64_t most = 0;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        int64_t n = elements_of(nb_model_param(model, i));
        most = n > most ? n : most;
    }
    return most;
}

/* One parameter at a time between the backend and a file. */
typedef struct transfer {
    nb_backend *be;
    nb_model *model;
    ni_tensor_dtype dtype; /* of the file, when writing */
    ni_hf_fetch *fetch;    /* when writing */
    void *self;
    void *real, *packed; /* room for the longest parameter: as the backend, as the file has it; one where both agree */
} transfer;

static void transfer_close(transfer *t) {
    if (t->packed != t->real)
        free(t->packed);
    free(t->real);
}

static nb_status transfer_open(nb_backend *be, nb_model *model, ni_tensor_dtype dtype, transfer *t, nb_error *err) {
    const size_t n = (size_t)longest(model) + 1;
    *t = (transfer){.be = be, .model = model, .dtype = dtype, .real = malloc(n * nb_dtype_size(be->real))};
    t->packed = dtype == NI_ST_F32 && be->real == NB_F32 ? t->real : malloc(n * ni_tensor_dtype_size(dtype));
    if (t->real && t->packed)
        return NB_OK;
    transfer_close(t);
    return nb_fail(err, NB_NO_MEMORY, "no memory to pass parameters to or from a file");
}

/* ---- writing ---- */

static nb_status parameter_for_file(void *context, int32_t index, const void **data, nb_error *err) {
    transfer *t = context;
    const nb_param *p = nb_model_param(t->model, index);
    size_t n = (size_t)elements_of(p);
    NB_TRY(t->fetch(t->self, index, t->real, err));
    if (t->packed != t->real)
        ni_hf_numbers_write(t->dtype, t->be->real, t->real, n, t->packed);
    *data = t->packed;
    return NB_OK;
}

static nb_status write_parameters(nb_backend *be, nb_model *model, ni_hf_fetch *fetch, void *self, const char *path,
                                  ni_tensor_dtype dtype, nb_error *err) {
    const ni_metadata metadata[] = {{"format", "pt"}}; /* transformers asks for it */
    int32_t count = nb_model_param_count(model);
    ni_file_tensor *tensors = calloc((size_t)count + 1, sizeof *tensors);
    if (!tensors)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for a list of %d parameters", path, (int)count);
    for (int32_t i = 0; i < count; i++) {
        const nb_param *p = nb_model_param(model, i);
        tensors[i] = (ni_file_tensor){.name = p->name,
                                      .dtype = dtype,
                                      .rank = p->rank,
                                      .shape = {p->rows, p->cols},
                                      .bytes = (size_t)elements_of(p) * ni_tensor_dtype_size(dtype)};
    }
    transfer t;
    nb_status status = transfer_open(be, model, dtype, &t, err);
    if (status == NB_OK) {
        t.fetch = fetch;
        t.self = self;
        status = ni_safetensors_write_from(path, tensors, count, metadata, 1, parameter_for_file, &t, err);
        transfer_close(&t);
    }
    free(tensors);
    return status;
}

static nb_status own_parameter(void *self, int32_t index, void *host, nb_error *err) {
    (void)err;
    ni_model_param_read(self, index, host);
    return NB_OK;
}

nb_status ni_hf_save(nb_backend *be, nb_model *model, const char *folder, ni_tensor_dtype dtype, ni_hf_marks marks,
                     nb_error *err) {
    return ni_hf_save_from(be, model, own_parameter, model, folder, dtype, marks, err);
}

nb_status ni_hf_save_from(nb_backend *be, nb_model *model, ni_hf_fetch *fetch, void *self, const char *folder,
                          ni_tensor_dtype dtype, ni_hf_marks marks, nb_error *err) {
    char path[PATH_ROOM];
    if (!ni_hf_is_real(dtype) || dtype == NI_ST_F64)
        return nb_fail(err, NB_BAD_USAGE, "%s: parameters cannot be written as %s, expected F32, BF16 or F16", folder,
                       ni_tensor_dtype_name(dtype));
    snprintf(path, sizeof path, "%s/config.json", folder);
    char *text = ni_hf_config_text(nb_model_get_config(model), dtype, marks);
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to write it", path);
    nb_status status = ni_file_write(path, text, strlen(text), err);
    free(text);
    if (status != NB_OK)
        return status;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return write_parameters(be, model, fetch, self, path, dtype, err);
}

/* ---- reading ---- */

/* The files of a folder that hold parameters: one, or those that an index names. */
typedef struct weights {
    ni_safetensors **files;
    int32_t count;
} weights;

static void weights_close(weights *w) {
    for (int32_t i = 0; i < w->count; i++)
        ni_safetensors_close(w->files[i]);
    free(w->files);
    *w = (weights){0};
}

static nb_status weights_add(weights *w, const char *path, nb_error *err) {
    ni_safetensors **files = realloc(w->files, ((size_t)w->count + 1) * sizeof(ni_safetensors *));
    if (!files)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to open it", path);
    w->files = files;
    NB_TRY(ni_safetensors_open(path, &w->files[w->count], err));
    w->count++;
    return NB_OK;
}

/* Opens each file that the index names. */
static nb_status open_indexed(weights *w, const char *folder, const json_t *files, nb_error *err) {
    const char *name;
    json_t *seen;
    json_object_foreach((json_t *)files, name, seen) {
        char path[PATH_ROOM];
        snprintf(path, sizeof path, "%s/%s", folder, name);
        NB_TRY(weights_add(w, path, err));
    }
    return NB_OK;
}

static nb_status weights_open(weights *w, const char *folder, nb_error *err) {
    enum { LIMIT = 64 << 20 };
    char path[PATH_ROOM], *text;
    size_t size;
    *w = (weights){0};
    bool ours, indexed;
    snprintf(path, sizeof path, "%s/nibble.json", folder);
    NB_TRY(ni_file_exists(path, &ours, err));
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    NB_TRY(ni_file_exists(path, &indexed, err));
    /* One file is the usual case, and that of all our checkpoints: an index that is added to one has no checksum. */
    if (ours || !indexed) {
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        nb_status alone = weights_add(w, path, err);
        if (alone != NB_OK)
            weights_close(w);
        return alone;
    }
    NB_TRY(ni_file_read(path, LIMIT, &text, &size, err));
    json_t *files;
    nb_status status = ni_hf_index_parse(text, size, path, &files, err);
    free(text);
    if (status != NB_OK)
        return status;
    status = open_indexed(w, folder, files, err);
    json_decref(files);
    if (status != NB_OK)
        weights_close(w);
    return status;
}

static nb_status find_one(const weights *w, const nb_param *p, const ni_file_tensor **found, nb_error *err) {
    *found = NULL;
    for (int32_t i = 0; i < w->count; i++) {
        const ni_file_tensor *tensor = ni_safetensors_find(w->files[i], p->name);
        if (tensor && *found)
            return nb_fail(err, NB_BAD_FILE, "parameter '%s' lies in two files", p->name);
        *found = tensor ? tensor : *found;
    }
    const ni_file_tensor *t = *found;
    if (!t)
        return nb_fail(err, NB_BAD_FILE, "parameter '%s' is missing", p->name);
    if (t->rank != p->rank || t->shape[0] != p->rows || (p->rank == 2 && t->shape[1] != p->cols))
        return nb_fail(err, NB_BAD_FILE,
                       "parameter '%s' has shape [%" PRId64 ", %" PRId64 "] of rank %d, expected [%" PRId64 ", %" PRId64
                       "] of rank %d",
                       p->name, t->shape[0], t->rank > 1 ? t->shape[1] : 1, (int)t->rank, p->rows, p->cols,
                       (int)p->rank);
    if (!ni_hf_is_real(t->dtype))
        return nb_fail(err, NB_BAD_FILE, "parameter '%s' has type %s, expected F32, BF16, F16 or F64", p->name,
                       ni_tensor_dtype_name(t->dtype));
    return NB_OK;
}

static bool is_parameter(const nb_model *model, const char *name) {
    for (int32_t i = 0; i < nb_model_param_count(model); i++)
        if (strcmp(nb_model_param(model, i)->name, name) == 0)
            return true;
    return false;
}

/* A tensor that nibble has no use for means another architecture, but for these two. */
static bool may_be_ignored(const nb_model *model, const char *name) {
    const char buffer[] = ".rotary_emb.inv_freq"; /* written by old transformers; computed, not learned */
    size_t length = strlen(name);
    if (length >= sizeof buffer && strcmp(name + length - (sizeof buffer - 1), buffer) == 0)
        return true;
    return nb_model_get_config(model)->tied && strcmp(name, "lm_head.weight") == 0;
}

static nb_status check_nothing_else(const weights *w, const nb_model *model, nb_error *err) {
    for (int32_t f = 0; f < w->count; f++)
        for (int32_t i = 0; i < ni_safetensors_count(w->files[f]); i++) {
            const char *name = ni_safetensors_at(w->files[f], i)->name;
            if (!is_parameter(model, name) && !may_be_ignored(model, name))
                return nb_fail(err, NB_BAD_FILE,
                               "tensor '%.128s' is no parameter of a %s model; is the architecture another?", name,
                               nb_family_name(nb_model_get_config(model)->family));
        }
    return NB_OK;
}

static nb_status read_parameters(const weights *w, nb_backend *be, nb_model *model, nb_error *err) {
    NB_TRY(check_nothing_else(w, model, err));
    const ni_file_tensor *found;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) /* all checked before any is changed */
        NB_TRY(find_one(w, nb_model_param(model, i), &found, err));
    transfer t;
    NB_TRY(transfer_open(be, model, NI_ST_F32, &t, err));
    nb_status status = NB_OK;
    for (int32_t i = 0; status == NB_OK && i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        size_t n = (size_t)elements_of(p);
        status = find_one(w, p, &found, err);
        if (status != NB_OK)
            break;
        void *master = ni_model_param_open(model, i);
        if (!master)
            continue;
        ni_hf_numbers_read(found->dtype, found->data, n, be->real, t.real);
        be->ops->upload(be, master, t.real, n * nb_dtype_size(be->real));
        ni_model_param_close(model, i);
    }
    transfer_close(&t);
    return status;
}

nb_status ni_hf_load(nb_backend *be, nb_model *model, const char *folder, nb_error *err) {
    weights w;
    NB_TRY(weights_open(&w, folder, err));
    nb_status status = read_parameters(&w, be, model, err);
    weights_close(&w);
    if (status == NB_OK)
        nb_model_params_changed(model);
    else
        nb_fail_within(err, "%s", folder);
    return status;
}
