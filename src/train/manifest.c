/* manifest.c: writes, reads and verifies nibble.json. */
#include "manifest.h"

#include "base/text.h"
#include "files/checksum.h"
#include "files/file.h"
#include "files/json.h"
#include "files/safetensors.h"
#include "recipe/recipe_yaml.h"
#include "run_keys.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FORMAT "nibble checkpoint 1"
#define MANIFEST_LIMIT ((size_t)256 << 20)
#define ZERO_SUM "00000000000000000000000000000000"
#define SELF_KEY "\"self\": \""
#define MOST_FILES 64
#define FILE_PATH_SIZE (4 * NB_PATH_SIZE)

void ni_manifest_free(ni_manifest *manifest) {
    free(manifest->recipe);
    json_decref(manifest->root);
    ni_products_free(&manifest->products);
    memset(manifest, 0, sizeof *manifest);
}

/* ---- JSON that says when memory ran out ---- */

/* Adds a value, whose reference it takes; once one could not be made or added, *whole is false. */
static void put(json_t *object, const char *key, json_t *value, bool *whole) {
    *whole = value && json_object_set_new(object, key, value) == 0 && *whole;
}

static void put_last(json_t *array, json_t *value, bool *whole) {
    *whole = value && json_array_append_new(array, value) == 0 && *whole;
}

/* ---- checksums of files ---- */

static nb_status tensor_sums(const char *path, json_t *into, nb_error *err) {
    ni_safetensors *file;
    bool whole = into != NULL;
    NB_TRY(ni_safetensors_open(path, &file, err));
    for (int32_t i = 0; i < ni_safetensors_count(file); i++) {
        const ni_file_tensor *tensor = ni_safetensors_at(file, i);
        char sum[NI_CHECKSUM_SIZE];
        ni_checksum(tensor->data, tensor->bytes, sum);
        ni_safetensors_forget(file, tensor);
        put(into, tensor->name, json_string(sum), &whole);
    }
    ni_safetensors_close(file);
    return whole ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: out of memory for its checksums", path);
}

static nb_status file_entry(const char *path, json_t *entry, nb_error *err) {
    struct stat info;
    if (stat(path, &info) != 0)
        return ni_fail_errno(err, path, "examine");
    char sum[NI_CHECKSUM_SIZE];
    NB_TRY(ni_checksum_file(path, sum, err));
    bool whole = true, has_tensors = ni_ends_with(path, ".safetensors");
    json_t *tensors = has_tensors ? json_object() : NULL;
    put(entry, "bytes", json_integer(info.st_size), &whole);
    put(entry, "xxh3", json_string(sum), &whole);
    if (has_tensors)
        put(entry, "tensors", tensors, &whole);
    if (!whole)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory for its checksum", path);
    if (!has_tensors)
        return NB_OK;
    return tensor_sums(path, tensors, err);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Adds an entry for every regular file of the folder, in the order of their names. */
static nb_status add_files(const char *folder, json_t *files, nb_error *err) {
    DIR *dir = opendir(folder);
    if (!dir)
        return ni_fail_errno(err, folder, "list the folder");
    char *names[MOST_FILES] = {NULL};
    size_t count = 0;
    nb_status status = NB_OK;
    struct dirent *item = NULL;
    while (status == NB_OK && (errno = 0, item = readdir(dir))) {
        if (item->d_name[0] == '.' || strcmp(item->d_name, NI_MANIFEST_NAME) == 0)
            continue;
        if (count == MOST_FILES)
            status = nb_fail(err, NB_BAD_FILE, "%s: holds more than %d files", folder, MOST_FILES);
        else if (!(names[count++] = strdup(item->d_name)))
            status = nb_fail(err, NB_NO_MEMORY, "%s: out of memory", folder);
    }
    if (status == NB_OK && errno != 0)
        status = ni_fail_errno(err, folder, "list the folder");
    closedir(dir);
    if (status == NB_OK)
        qsort(names, count, sizeof names[0], by_name);
    for (size_t i = 0; status == NB_OK && i < count; i++) {
        char path[FILE_PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        json_t *entry = json_object();
        bool whole = true;
        put(files, names[i], entry, &whole);
        status = whole ? file_entry(path, entry, err) : nb_fail(err, NB_NO_MEMORY, "%s: out of memory", path);
    }
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    return status;
}

/* ---- the checksum of the page itself ---- */

/* Where its digits stand; NULL if nowhere. Inside a text the quotes of the key would be escaped. */
static char *self_digits(char *text, size_t size) {
    char *last = NULL;
    for (char *at = text; (at = strstr(at, SELF_KEY)); at++)
        last = at;
    bool whole = last && (size_t)(last - text) + strlen(SELF_KEY) + NI_CHECKSUM_SIZE - 1 < size;
    return whole ? last + strlen(SELF_KEY) : NULL;
}

bool ni_manifest_seal(char *text, size_t size) {
    char *digits = self_digits(text, size), sum[NI_CHECKSUM_SIZE];
    if (!digits)
        return false;
    memset(digits, '0', NI_CHECKSUM_SIZE - 1);
    ni_checksum(text, size, sum);
    memcpy(digits, sum, NI_CHECKSUM_SIZE - 1);
    return true;
}

static nb_status check_self(const char *path, char *text, size_t size, nb_error *err) {
    char *digits = self_digits(text, size), said[NI_CHECKSUM_SIZE - 1];
    if (digits) {
        memcpy(said, digits, sizeof said);
        ni_manifest_seal(text, size);
        if (memcmp(said, digits, sizeof said) == 0)
            return NB_OK;
    }
    return nb_fail(err, NB_BAD_FILE, "%s: its own checksum does not agree: the file was damaged or edited", path);
}

/* ---- writing ---- */

static json_t *window_to_json(const ni_window *window, bool *whole) {
    json_t *list = json_array();
    int32_t first = window->count < NI_WINDOW_SIZE ? 0 : window->next;
    for (int32_t i = 0; i < window->count; i++)
        put_last(list, json_real(window->values[(first + i) % NI_WINDOW_SIZE]), whole);
    return list;
}

static void put_sum(json_t *object, const char *key, uint64_t sum, bool *whole) {
    char digits[17];
    snprintf(digits, sizeof digits, "%016" PRIx64, sum);
    put(object, key, json_string(digits), whole);
}

static void put_position(json_t *root, const ni_manifest *m, bool *whole) {
    put(root, "format", json_string(FORMAT), whole);
    put(root, "step", json_integer(m->at.step), whole);
    put(root, "updates", json_integer(m->updates), whole);
    put(root, "next_batch", json_integer(m->at.next_batch), whole);
    json_t *passed = json_array();
    for (int32_t i = 0; i < m->at.passed_count; i++)
        put_last(passed, json_integer(m->at.passed[i]), whole);
    put(root, "passed_over", passed, whole);
    put(root, "evaluated", json_integer(m->at.evaluated), whole);
    if (m->at.drowned)
        put(root, "drowned", json_integer(m->at.drowned), whole);
    put(root, "modules_in_bf16", json_boolean(m->at.modules_in_bf16), whole);
    put(root, "loss_window", window_to_json(&m->at.loss_window, whole), whole);
    put(root, "norm_window", window_to_json(&m->at.norm_window, whole), whole);
    put_sum(root, "data_fingerprint", m->data_fingerprint, whole);
    if (m->data_sum)
        put_sum(root, "data_sum", m->data_sum, whole);
    if (m->val_sum)
        put_sum(root, "val_sum", m->val_sum, whole);
}

static json_t *lines_to_json(const char *text, bool *whole) {
    json_t *list = json_array();
    while (*text) {
        const size_t length = strcspn(text, "\n");
        put_last(list, json_stringn(text, length), whole);
        text += length + (text[length] == '\n');
    }
    return list;
}

char *ni_manifest_text(const ni_manifest *m, json_t *files) {
    json_t *root = json_object(), *products = json_object();
    char *config = nb_run_config_text(&m->config);
    bool whole = config != NULL;
    put_position(root, m, &whole);
    put(products, "bf16", json_string(m->products.bf16), &whole);
    put(products, "f32", json_string(m->products.f32), &whole);
    if (m->products.choices && m->products.choices[0])
        put(products, "choices", lines_to_json(m->products.choices, &whole), &whole);
    put(root, "products", products, &whole);
    put(root, "config", json_string(config ? config : ""), &whole);
    put(root, "recipe", m->recipe ? json_string(m->recipe) : NULL, &whole);
    put(root, "files", json_incref(files), &whole);
    put(root, "self", json_string(ZERO_SUM), &whole);
    char *text = whole ? ni_json_text(root, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)) : NULL;
    if (text)
        ni_manifest_seal(text, strlen(text));
    free(config);
    json_decref(root);
    return text;
}

nb_status ni_manifest_write(const char *folder, const ni_manifest *m, nb_error *err) {
    json_t *files = json_object();
    nb_status status = add_files(folder, files, err);
    char *text = status == NB_OK ? ni_manifest_text(m, files) : NULL;
    if (status == NB_OK && !text)
        status = nb_fail(err, NB_NO_MEMORY, "%s: out of memory for %s", folder, NI_MANIFEST_NAME);
    if (status == NB_OK) {
        char path[FILE_PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s", folder, NI_MANIFEST_NAME);
        status = ni_file_write(path, text, strlen(text), err);
    }
    free(text);
    json_decref(files);
    return status;
}

/* ---- reading ---- */

static bool get_integer(const json_t *root, const char *key, int64_t low, int64_t high, int64_t *out) {
    const json_t *value = json_object_get(root, key);
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= low && *out <= high;
}

static bool get_window(const json_t *root, const char *key, ni_window *out) {
    const json_t *list = json_object_get(root, key);
    if (!json_is_array(list) || json_array_size(list) > NI_WINDOW_SIZE)
        return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!json_is_number(json_array_get(list, i)))
            return false;
        ni_window_push(out, json_number_value(json_array_get(list, i)));
    }
    return true;
}

/* Ascending, as ni_trainer_pass_over keeps them. */
static bool get_passed(const json_t *root, ni_position *at) {
    const json_t *list = json_object_get(root, "passed_over");
    if (!json_is_array(list) || json_array_size(list) > NI_PASSED_MAX)
        return false;
    at->passed_count = (int32_t)json_array_size(list);
    for (int32_t i = 0; i < at->passed_count; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        at->passed[i] = json_integer_value(item);
        if (!json_is_integer(item) || at->passed[i] <= (i ? at->passed[i - 1] : -1))
            return false;
    }
    return true;
}

static bool get_sums(const json_t *products, const char *key, char sums[NI_SUMS_SIZE]) {
    const char *text = json_string_value(json_object_get(products, key));
    if (!text || strlen(text) >= NI_SUMS_SIZE)
        return false;
    strcpy(sums, text);
    return true;
}

/* Lines of printable text; absent: none. */
static bool get_choices(const json_t *products, ni_products *out) {
    const json_t *list = json_object_get(products, "choices");
    const json_t *item;
    size_t i, size = 1, used = 0;
    if (!list)
        return true;
    json_array_foreach(list, i, item) size += json_string_length(item) + 1;
    out->choices = json_is_array(list) ? calloc(size, 1) : NULL;
    json_array_foreach(list, i, item) {
        const char *line = json_string_value(item);
        if (!out->choices || !line || strlen(line) != json_string_length(item) || strchr(line, '\n'))
            return false;
        used += (size_t)snprintf(out->choices + used, size - used, "%s\n", line);
    }
    return out->choices != NULL;
}

static bool get_products(const json_t *root, ni_products *out) {
    const json_t *products = json_object_get(root, "products");
    return !products ||
           (get_sums(products, "bf16", out->bf16) && get_sums(products, "f32", out->f32) && get_choices(products, out));
}

/* 0 where the key is absent. */
static bool get_sum(const json_t *root, const char *key, uint64_t *out) {
    const json_t *value = json_object_get(root, key);
    const char *digits = json_string_value(value);
    *out = 0;
    return !value || (digits && sscanf(digits, "%" SCNx64, out) == 1);
}

/* Steps that are skipped update nothing; each batch that is passed over puts the data one ahead of the steps. */
static const char *read_position(const json_t *root, ni_manifest *out) {
    if (!get_integer(root, "step", 0, NI_MOST_STEPS, &out->at.step))
        return "step";
    if (!get_integer(root, "updates", 0, out->at.step, &out->updates))
        return "updates";
    if (!get_integer(root, "next_batch", out->at.step, out->at.step + NI_PASSED_MAX, &out->at.next_batch))
        return "next_batch";
    if (!get_passed(root, &out->at))
        return "passed_over";
    out->at.evaluated = out->at.step; /* so it was before it was kept */
    if (json_object_get(root, "evaluated") && !get_integer(root, "evaluated", 0, out->at.step, &out->at.evaluated))
        return "evaluated";
    if (json_object_get(root, "drowned") && !get_integer(root, "drowned", 1, out->at.step, &out->at.drowned))
        return "drowned";
    out->at.modules_in_bf16 = json_is_true(json_object_get(root, "modules_in_bf16"));
    if (!get_window(root, "loss_window", &out->at.loss_window))
        return "loss_window";
    if (!get_window(root, "norm_window", &out->at.norm_window))
        return "norm_window";
    if (!json_object_get(root, "data_fingerprint") || !get_sum(root, "data_fingerprint", &out->data_fingerprint))
        return "data_fingerprint";
    if (!get_sum(root, "data_sum", &out->data_sum))
        return "data_sum";
    if (!get_sum(root, "val_sum", &out->val_sum))
        return "val_sum";
    if (!get_products(root, &out->products))
        return "products";
    if (!json_is_object(json_object_get(root, "files")))
        return "files";
    return NULL;
}

static nb_status read_fields(const char *path, ni_manifest *out, nb_error *err) {
    const char *format = json_string_value(json_object_get(out->root, "format"));
    if (!format || strcmp(format, FORMAT) != 0)
        return nb_fail(err, NB_BAD_FILE, "%s: format is \"%.40s\"; expected \"%s\"", path, format ? format : "none",
                       FORMAT);
    const char *wrong = read_position(out->root, out);
    if (wrong)
        return nb_fail(err, NB_BAD_FILE, "%s: \"%s\" is missing or not what it must be", path, wrong);
    const char *config = json_string_value(json_object_get(out->root, "config"));
    const char *recipe = json_string_value(json_object_get(out->root, "recipe"));
    if (!config || !recipe)
        return nb_fail(err, NB_BAD_FILE, "%s: \"config\" or \"recipe\" is missing", path);
    out->recipe = strdup(recipe);
    if (!out->recipe)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", path);
    return nb_run_config_parse(config, strlen(config), path, NULL, 0, &out->config, err);
}

nb_status ni_manifest_parse(char *text, size_t size, const char *path, ni_manifest *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    NB_TRY(check_self(path, text, size, err));
    json_error_t where;
    out->root = ni_json_load(text, size, &where);
    nb_status status = NB_OK;
    if (json_is_object(out->root))
        status = read_fields(path, out, err);
    else if (!out->root && ni_json_lacked_memory(&where))
        status = nb_fail(err, NB_NO_MEMORY, "%s: no memory to read it", path);
    else
        status = nb_fail(err, NB_BAD_FILE, "%s:%d: not JSON: %s", path, where.line, where.text);
    if (status != NB_OK)
        ni_manifest_free(out);
    return status;
}

static nb_status fail_without_page(const char *folder, nb_error *err) {
    char path[FILE_PATH_SIZE];
    bool moments;
    snprintf(path, sizeof path, "%s/%s", folder, NI_OPTIMIZER_NAME);
    NB_TRY(ni_file_exists(path, &moments, err));
    if (moments)
        return nb_fail(err, NB_BAD_FILE,
                       "%s: its %s is lost, and nothing vouches for its files; hint: without %s it is a Hugging Face "
                       "folder like any other",
                       folder, NI_MANIFEST_NAME, NI_OPTIMIZER_NAME);
    return nb_fail(err, NB_BAD_FILE,
                   "%s: has no %s, so it is not a checkpoint of nibble; expected one, as RUN/checkpoints/step-00001000",
                   folder, NI_MANIFEST_NAME);
}

nb_status ni_manifest_read(const char *folder, ni_manifest *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    char path[FILE_PATH_SIZE];
    struct stat info;
    bool exists;
    NB_TRY(ni_file_exists(folder, &exists, err));
    if (exists && stat(folder, &info) != 0)
        return ni_fail_errno(err, folder, "examine");
    if (!exists || !S_ISDIR(info.st_mode))
        return nb_fail(err, NB_BAD_FILE, "%s: no such folder; expected a checkpoint, as RUN/checkpoints/step-00001000",
                       folder);
    snprintf(path, sizeof path, "%s/%s", folder, NI_MANIFEST_NAME);
    NB_TRY(ni_file_exists(path, &exists, err));
    if (!exists)
        return fail_without_page(folder, err);
    char *text;
    size_t size;
    NB_TRY(ni_file_read(path, MANIFEST_LIMIT, &text, &size, err));
    nb_status status = ni_manifest_parse(text, size, path, out, err);
    free(text);
    return status;
}

/* ---- verifying ---- */

/* The file's sum is wrong: say which tensor it is in. */
static nb_status name_damage(const char *path, const json_t *tensors, nb_error *err) {
    ni_safetensors *file;
    nb_status status = ni_safetensors_open(path, &file, err);
    if (status == NB_BAD_FILE)
        nb_fail_within(err, "checksum does not agree");
    if (status != NB_OK)
        return status;
    for (int32_t i = 0; status == NB_OK && i < ni_safetensors_count(file); i++) {
        const ni_file_tensor *tensor = ni_safetensors_at(file, i);
        const char *said = json_string_value(json_object_get(tensors, tensor->name));
        char sum[NI_CHECKSUM_SIZE];
        ni_checksum(tensor->data, tensor->bytes, sum);
        ni_safetensors_forget(file, tensor);
        if (!said)
            status = nb_fail(err, NB_BAD_FILE, "%s: tensor %s is not in %s", path, tensor->name, NI_MANIFEST_NAME);
        else if (strcmp(said, sum) != 0)
            status = nb_fail(err, NB_BAD_FILE, "%s: checksum of tensor %s does not agree: it was damaged or edited",
                             path, tensor->name);
    }
    ni_safetensors_close(file);
    return status != NB_OK
               ? status
               : nb_fail(err, NB_BAD_FILE, "%s: checksum of its header does not agree: damaged or edited", path);
}

static nb_status verify_file(const char *path, const json_t *entry, nb_error *err) {
    struct stat info;
    int64_t bytes = 0;
    const char *said = json_string_value(json_object_get(entry, "xxh3"));
    if (!said || !get_integer(entry, "bytes", 0, INT64_MAX, &bytes))
        return nb_fail(err, NB_BAD_FILE, "%s: its entry in %s is not whole", path, NI_MANIFEST_NAME);
    bool exists;
    NB_TRY(ni_file_exists(path, &exists, err));
    if (!exists)
        return nb_fail(err, NB_BAD_FILE, "%s: is missing", path);
    if (stat(path, &info) != 0)
        return ni_fail_errno(err, path, "examine");
    if (info.st_size != bytes)
        return nb_fail(err, NB_BAD_FILE, "%s: has %lld bytes; expected %lld: it was cut or changed", path,
                       (long long)info.st_size, (long long)bytes);
    char sum[NI_CHECKSUM_SIZE];
    NB_TRY(ni_checksum_file(path, sum, err));
    if (strcmp(sum, said) == 0)
        return NB_OK;
    const json_t *tensors = json_object_get(entry, "tensors");
    if (tensors)
        return name_damage(path, tensors, err);
    return nb_fail(err, NB_BAD_FILE, "%s: checksum does not agree: it was damaged or edited", path);
}

bool ni_manifest_lists(const ni_manifest *m, const char *name) {
    return json_object_get(json_object_get(m->root, "files"), name) != NULL;
}

nb_status ni_manifest_recipe(const ni_manifest *m, const char *folder, nb_recipe *out, nb_error *err) {
    ni_yaml doc = {0};
    char name[FILE_PATH_SIZE];
    snprintf(name, sizeof name, "%s/%s: recipe", folder, NI_MANIFEST_NAME);
    nb_status status = ni_yaml_parse(m->recipe, strlen(m->recipe), name, &doc, err);
    if (status == NB_OK)
        status = ni_recipe_read(doc.root, out, err);
    ni_yaml_free(&doc);
    return status;
}

nb_status ni_manifest_verify_file(const char *folder, const ni_manifest *m, const char *name, nb_error *err) {
    char path[FILE_PATH_SIZE];
    if (strchr(name, '/'))
        return nb_fail(err, NB_BAD_FILE, "%s/%s: names a file outside the folder: %s", folder, NI_MANIFEST_NAME, name);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return verify_file(path, json_object_get(json_object_get(m->root, "files"), name), err);
}

nb_status ni_manifest_verify(const char *folder, const ni_manifest *m, nb_error *err) {
    const char *name;
    json_t *entry;
    json_object_foreach(json_object_get(m->root, "files"), name, entry) {
        NB_TRY(ni_manifest_verify_file(folder, m, name, err));
    }
    static const char *const needed[] = {NI_MODEL_NAME, NI_OPTIMIZER_NAME, "config.json"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!ni_manifest_lists(m, needed[i]))
            return nb_fail(err, NB_BAD_FILE, "%s/%s: lists no %s", folder, NI_MANIFEST_NAME, needed[i]);
    return NB_OK;
}
