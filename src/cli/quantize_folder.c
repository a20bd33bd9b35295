/* quantize_folder.c: every matrix of a folder of safetensors, file by file. */
#include "cli/quantize_folder.h"
#include "backend/table.h"
#include "data/tokenizer_kept.h"
#include "files/file.h"
#include "files/folder.h"
#include "files/json.h"
#include "model/hf_numbers.h"

#include <fnmatch.h>
#include <glob.h>
#include <stdio.h>

enum { PATH_ROOM = 4096, PARTS = 4, JSON_LIMIT = 64 << 20 };

typedef enum part { PLAIN, CODES, SCALES, OUTER, TENSOR, DECODED } part;

typedef struct entry {
    const ni_file_tensor *from;
    part part;
    char name[512];
} entry;

typedef struct work {
    nb_backend *be;
    const ni_folder_task *task;
    bool decoded; /* the folder of decoded numbers is being written */
    entry *entries;
    ni_file_tensor *tensors;
    int32_t count;
    void *numbers, *codes, *operand; /* of the backend; numbers hold what is decoded too */
    const ni_file_tensor *held;      /* whose codes are there */
    nb_qtensor qtensor;
    int64_t matrices, elements;
    json_t *map; /* tensor -> file; of an index */
} work;

/* ---- which tensors ---- */

static bool is_kept(const char *patterns, const char *name) {
    char pattern[256];
    for (const char *at = patterns; at && *at;) {
        const size_t length = strcspn(at, ",");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, at);
        if (fnmatch(pattern, name, 0) == 0)
            return true;
        at += length + (at[length] == ',');
    }
    return false;
}

static bool is_quantized(const ni_folder_task *task, const ni_file_tensor *t) {
    return t->rank == 2 && t->shape[0] > 0 && ni_hf_is_real(t->dtype) && !is_kept(task->keep, t->name) &&
           nb_quantizer_check_shape(&task->quantizer, t->shape[0], t->shape[1], NULL) == NB_OK;
}

static nb_status add(work *w, const ni_file_tensor *from, part p, const char *ending, ni_tensor_dtype dtype,
                     size_t bytes, nb_error *err) {
    entry *e = &w->entries[w->count];
    *e = (entry){.from = from, .part = p};
    if (snprintf(e->name, sizeof e->name, "%s%s", from->name, ending) >= (int)sizeof e->name)
        return nb_fail(err, NB_BAD_FILE, "tensor '%.64s...': the name is too long", from->name);
    ni_file_tensor *t = &w->tensors[w->count++];
    *t = *from;
    t->name = e->name;
    if (p != PLAIN) {
        const int64_t items = (int64_t)(bytes / ni_tensor_dtype_size(dtype)), rows = from->shape[0];
        const bool matrix = p != TENSOR && items % rows == 0 && items != rows;
        *t = (ni_file_tensor){.name = e->name, .dtype = dtype, .rank = matrix ? 2 : 1, .bytes = bytes};
        t->shape[0] = matrix ? rows : items;
        t->shape[1] = matrix ? items / rows : 0;
    }
    return NB_OK;
}

static nb_status add_matrix(work *w, const ni_file_tensor *t, nb_error *err) {
    const nb_quantizer *q = &w->task->quantizer;
    const nb_qtensor_size n = nb_qtensor_bytes(q, t->shape[0], t->shape[1]);
    if (w->decoded)
        return add(w, t, DECODED, "", NI_ST_F32, (size_t)(t->shape[0] * t->shape[1]) * sizeof(float), err);
    const char *outer = q->scale_type != NB_SCALE_F32 ? ".outer_scales"
                        : q->block_rows == 1          ? ".row_scales"
                                                      : ".column_scales";
    NB_TRY(add(w, t, CODES, ".codes", NI_ST_U8, n.codes, err));
    if (n.scales)
        NB_TRY(add(w, t, SCALES, ".scales", NI_ST_U8, n.scales, err));
    if (n.outer_scales)
        NB_TRY(add(w, t, OUTER, outer, NI_ST_F32, n.outer_scales, err));
    if (n.tensor_scale)
        NB_TRY(add(w, t, TENSOR, ".tensor_scale", NI_ST_F32, n.tensor_scale, err));
    return NB_OK;
}

static void release(work *w) {
    nb_backend_release(w->be, w->numbers);
    nb_backend_release(w->be, w->codes);
    nb_backend_release(w->be, w->operand);
    free(w->entries);
    free(w->tensors);
    w->numbers = w->codes = w->operand = NULL;
    w->entries = NULL;
    w->tensors = NULL;
    w->held = NULL;
    w->count = 0;
}

/* The list of what a file becomes, and room for its largest matrix. */
static nb_status plan_file(work *w, const ni_safetensors *file, nb_error *err) {
    const nb_quantizer *q = &w->task->quantizer;
    const int32_t count = ni_safetensors_count(file);
    size_t numbers = 0, codes = 0, operand = 0;
    w->entries = calloc((size_t)count * PARTS + 1, sizeof *w->entries);
    w->tensors = calloc((size_t)count * PARTS + 1, sizeof *w->tensors);
    if (!w->entries || !w->tensors)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d tensors", (int)count);
    for (int32_t i = 0; i < count; i++) {
        const ni_file_tensor *t = ni_safetensors_at(file, i);
        if (!is_quantized(w->task, t)) {
            NB_TRY(add(w, t, PLAIN, "", t->dtype, t->bytes, err));
            continue;
        }
        NB_TRY(add_matrix(w, t, err));
        const nb_operand o = {.quantizer = *q, .other = *q, .rows = t->shape[0], .cols = t->shape[1], .reread = true};
        const size_t n = (size_t)(o.rows * o.cols) * sizeof(float), c = nb_qtensor_bytes(q, o.rows, o.cols).total,
                     b = w->be->ops->operand_bytes(w->be, &o);
        numbers = n > numbers ? n : numbers;
        codes = c > codes ? c : codes;
        operand = b > operand ? b : operand;
    }
    if (numbers == 0)
        return NB_OK;
    NB_TRY(ni_backend_take(w->be, numbers, "the numbers", &w->numbers, err));
    NB_TRY(ni_backend_take(w->be, codes, "codes", &w->codes, err));
    return ni_backend_take(w->be, operand, "an operand", &w->operand, err);
}

/* ---- their data; the backend's memory is the host's ---- */

static nb_status quantize(work *w, const ni_file_tensor *t, nb_error *err) {
    const nb_quantizer *q = &w->task->quantizer;
    const int64_t rows = t->shape[0], cols = t->shape[1];
    nb_operand operand = {
        .quantizer = *q, .other = *q, .rows = rows, .cols = cols, .reread = true, .memory = w->operand};
    const nb_mat numbers = nb_mat_of(w->numbers, NB_F32, rows, cols);
    nb_noise noise = w->task->noise;
    noise.tensor = nb_name_hash(t->name, NULL);
    w->held = NULL;
    w->qtensor = nb_qtensor_place(q, rows, cols, w->codes);
    ni_hf_numbers_read(t->dtype, t->data, (size_t)(rows * cols), NB_F32, w->numbers);
    const ni_making making = {.out = &operand, .shown = true, .noise = &noise};
    NB_TRY(w->be->ops->make_operands(w->be, &(ni_source){.numbers = &numbers}, &making, 1, err));
    NB_TRY(w->be->ops->canonical(w->be, &w->qtensor, &operand, err));
    if (w->decoded)
        NB_TRY(w->be->ops->decode(w->be, &numbers, &operand, false, NULL, true, err));
    w->held = t;
    return NB_OK;
}

/* Every matrix is counted once, by the part that is asked for once. */
static void count(work *w, const entry *e) {
    if (e->part != CODES && e->part != DECODED)
        return;
    w->matrices++;
    w->elements += e->from->shape[0] * e->from->shape[1];
}

static nb_status data_of(void *context, int32_t index, const void **data, nb_error *err) {
    work *w = context;
    const entry *e = &w->entries[index];
    if (e->part != PLAIN && w->held != e->from && quantize(w, e->from, err) != NB_OK)
        return nb_fail_within(err, "%s", e->from->name);
    count(w, e);
    *data = e->part == PLAIN    ? e->from->data
            : e->part == CODES  ? (const void *)w->qtensor.codes
            : e->part == SCALES ? (const void *)w->qtensor.scales
            : e->part == OUTER  ? (const void *)w->qtensor.outer_scales
            : e->part == TENSOR ? (const void *)w->qtensor.tensor_scale
                                : w->numbers;
    return NB_OK;
}

/* ---- files ---- */

static nb_status write_file(work *w, const char *from, const char *to, const char *name, nb_error *err) {
    char path[PATH_ROOM], text[256], seed[32];
    ni_safetensors *file;
    snprintf(seed, sizeof seed, "%lu", (unsigned long)w->task->noise.seed);
    const ni_metadata metadata[] = {
        {"format", "pt"}, {"quantizer", nb_quantizer_text(&w->task->quantizer, text, sizeof text)}, {"seed", seed}};
    if (snprintf(path, sizeof path, "%s/%s", to, name) >= (int)sizeof path)
        return nb_fail(err, NB_BAD_USAGE, "%.64s...: the name is too long", to);
    NB_TRY(ni_safetensors_open(from, &file, err));
    nb_status status = plan_file(w, file, err);
    if (status == NB_OK)
        status = ni_safetensors_write_from(path, w->tensors, w->count, metadata, 3, data_of, w, err);
    for (int32_t i = 0; status == NB_OK && i < w->count; i++)
        ni_json_put(&w->map, w->entries[i].name, json_string(name));
    release(w);
    ni_safetensors_close(file);
    return status;
}

static nb_status write_index(work *w, const char *to, nb_error *err) {
    char path[PATH_ROOM];
    json_t *index = json_pack("{s:{}, s:O}", "metadata", "weight_map", w->map);
    char *text = ni_json_text(index, JSON_INDENT(2));
    json_decref(index);
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for an index", to);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", to);
    nb_status status = ni_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

static nb_status copy_small_files(const char *from, const char *to, nb_error *err) {
    static const char *const names[] = {"config.json", "generation_config.json"};
    ni_tokenizer_kept kept = {0};
    NB_TRY(ni_kept_read(from, &kept, err));
    nb_status status = ni_kept_write(&kept, to, err);
    ni_kept_free(&kept);
    for (size_t i = 0; status == NB_OK && i < sizeof names / sizeof names[0]; i++) {
        char source[PATH_ROOM], target[PATH_ROOM], *bytes;
        size_t size;
        bool exists;
        snprintf(source, sizeof source, "%s/%s", from, names[i]);
        snprintf(target, sizeof target, "%s/%s", to, names[i]);
        NB_TRY(ni_file_exists(source, &exists, err));
        if (!exists)
            continue;
        NB_TRY(ni_file_read(source, JSON_LIMIT, &bytes, &size, err));
        status = ni_file_write(target, bytes, size, err);
        free(bytes);
    }
    return status;
}

/* The files that hold parameters where an index names them; NULL: all. */
static nb_status read_index(const char *folder, json_t **files, nb_error *err) {
    char path[PATH_ROOM], *text;
    size_t size;
    bool exists;
    json_error_t where;
    const char *tensor;
    json_t *file;
    *files = NULL;
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    NB_TRY(ni_file_exists(path, &exists, err));
    if (!exists)
        return NB_OK;
    NB_TRY(ni_file_read(path, JSON_LIMIT, &text, &size, err));
    json_t *index = ni_json_load(text, size, &where);
    free(text);
    if (!index)
        return nb_fail(err, NB_BAD_FILE, "%s:%d: %s", path, where.line, where.text);
    *files = json_object();
    json_object_foreach(json_object_get(index, "weight_map"), tensor, file) {
        if (json_is_string(file))
            ni_json_put(files, json_string_value(file), json_true());
    }
    json_decref(index);
    return *files ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory to read it", path);
}

static nb_status write_files(work *w, const char *to, nb_error *err) {
    char pattern[PATH_ROOM];
    glob_t found;
    json_t *named;
    if (strpbrk(w->task->from, "*?[\\") ||
        snprintf(pattern, sizeof pattern, "%s/*.safetensors", w->task->from) >= (int)sizeof pattern)
        return nb_fail(err, NB_BAD_USAGE, "%.64s: expected the name of a folder without * ? [ and \\", w->task->from);
    const int result = glob(pattern, 0, NULL, &found);
    if (result == GLOB_NOSPACE)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to list it", w->task->from);
    if (result != 0)
        return nb_fail(err, NB_BAD_FILE, "%s: no .safetensors in it", w->task->from);
    nb_status status = read_index(w->task->from, &named, err);
    for (size_t i = 0; status == NB_OK && i < found.gl_pathc; i++) {
        const char *name = strrchr(found.gl_pathv[i], '/') + 1;
        if (!named || json_object_get(named, name))
            status = write_file(w, found.gl_pathv[i], to, name, err);
    }
    json_decref(named);
    if (status == NB_OK && found.gl_pathc > 1)
        status = write_index(w, to, err);
    globfree(&found);
    if (status == NB_OK && w->matrices == 0)
        status = nb_fail(err, NB_BAD_FILE, "%s: no matrix whose columns make whole blocks, and that is not kept",
                         w->task->from);
    return status == NB_OK ? copy_small_files(w->task->from, to, err) : status;
}

static nb_status make_folder(nb_backend *be, const ni_folder_task *task, const char *path, bool decoded,
                             nb_error *err) {
    work w = {.be = be, .task = task, .decoded = decoded, .map = json_object()};
    ni_folder *folder;
    nb_status status = ni_folder_begin(path, false, &folder, err);
    if (status != NB_OK) {
        json_decref(w.map);
        return status;
    }
    status = write_files(&w, ni_folder_path(folder), err);
    json_decref(w.map);
    if (status != NB_OK) {
        ni_folder_abandon(folder);
        return status;
    }
    NB_TRY(ni_folder_commit(folder, err));
    char text[256];
    printf("%s: %lld matrices, %lld numbers %s %s\n", path, (long long)w.matrices, (long long)w.elements,
           decoded ? "decoded from" : "as", nb_quantizer_text(&task->quantizer, text, sizeof text));
    return NB_OK;
}

nb_status ni_cli_quantize_folder(nb_backend *be, const ni_folder_task *task, nb_error *err) {
    if (task->codes && task->dequantized) /* before the first is written */
        NB_TRY(ni_folder_check(task->dequantized, false, err));
    if (task->codes)
        NB_TRY(make_folder(be, task, task->codes, false, err));
    if (task->dequantized)
        NB_TRY(make_folder(be, task, task->dequantized, true, err));
    return NB_OK;
}
