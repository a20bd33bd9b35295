/* serve_hf.c: folders of compressed-tensors and of ModelOpt.
 *
 * Facts: github.com/vllm-project/compressed-tensors (compressors/nvfp4, compressors/mxfp4,
 * quantization/quant_scheme.py) and github.com/NVIDIA/TensorRT-Model-Optimizer (torch/export/unified_export_hf.py,
 * convert_hf_config.py).
 */
#include "backend/table.h"
#include "files/file.h"
#include "files/json.h"
#include "model/hf_numbers.h"
#include "model/param_array.h"
#include "model/serve.h"

#include <stdio.h>

enum { PATH_ROOM = 4096, NAME_ROOM = NB_NAME_SIZE + 24, PARTS = 4 };

/* E4M3's largest times E2M1's: what amax becomes under the FP32 scale (docs/formats.md). */
static const float nvfp4_largest = 448 * 6;

typedef enum part { NUMBERS, CODES, SCALES, ABOVE, INPUT } part;

typedef struct entry {
    int32_t param;
    const ni_coded_layer *layer; /* NULL: numbers */
    part part;
    char name[NAME_ROOM];
} entry;

typedef struct list {
    ni_coded_model *coded;
    bool divides; /* compressed-tensors: scales above are divisors, [1]; else factors, [] */
    ni_tensor_dtype dtype;
    entry *entries;
    ni_file_tensor *tensors;
    int32_t count;
    void *real, *packed; /* room for the longest parameter */
    float scalar;
} list;

/* ---- which tensors ---- */

static const char *name_of(const list *l, part p) {
    static const char *const theirs[2][5] = {
        {"weight", "weight", "weight_scale", "weight_scale_2", "input_scale"},
        {"weight", "weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"}};
    return theirs[l->divides][p];
}

static void add(list *l, int32_t param, const ni_coded_layer *layer, part p, ni_tensor_dtype dtype, int32_t rank,
                int64_t rows, int64_t cols) {
    const char *name = nb_model_param(l->coded->model, param)->name;
    entry *e = &l->entries[l->count];
    *e = (entry){.param = param, .layer = layer, .part = p};
    if (layer)
        snprintf(e->name, sizeof e->name, "%.*s%s", (int)(strlen(name) - (sizeof "weight" - 1)), name, name_of(l, p));
    else
        snprintf(e->name, sizeof e->name, "%s", name);
    ni_file_tensor *t = &l->tensors[l->count++];
    *t = (ni_file_tensor){.name = e->name, .dtype = dtype, .rank = rank, .shape = {rows, cols}};
    t->bytes = ni_tensor_dtype_size(dtype);
    for (int32_t i = 0; i < rank; i++)
        t->bytes *= (size_t)t->shape[i];
}

static void add_layer(list *l, int32_t param, const ni_coded_layer *layer) {
    const bool nvfp4 = layer->coding == NI_CODING_NVFP4;
    const int64_t across = layer->cols / layer->quantizer.block_cols;
    const int32_t rank = l->divides ? 1 : 0;
    add(l, param, layer, CODES, NI_ST_U8, 2, layer->rows, layer->cols / 2);
    add(l, param, layer, SCALES, nvfp4 ? NI_ST_F8_E4M3 : NI_ST_U8, 2, layer->rows, across);
    if (nvfp4)
        add(l, param, layer, ABOVE, NI_ST_F32, rank, 1, 0);
    if (nvfp4 && layer->input_amax > 0)
        add(l, param, layer, INPUT, NI_ST_F32, rank, 1, 0);
}

static nb_status open_list(ni_coded_model *coded, bool divides, ni_tensor_dtype dtype, list *l, nb_error *err) {
    const int32_t params = nb_model_param_count(coded->model);
    size_t most = 1;
    *l = (list){.coded = coded, .divides = divides, .dtype = dtype};
    l->entries = calloc((size_t)params * PARTS + 1, sizeof *l->entries);
    l->tensors = calloc((size_t)params * PARTS + 1, sizeof *l->tensors);
    if (!l->entries || !l->tensors)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", (int)params);
    for (int32_t i = 0; i < params; i++) {
        const nb_param *p = nb_model_param(coded->model, i);
        const ni_coded_layer *layer = ni_coded_find(coded, i);
        const size_t n = (size_t)(p->rows * p->cols);
        if (layer) {
            add_layer(l, i, layer);
            continue;
        }
        add(l, i, NULL, NUMBERS, dtype, p->rank, p->rows, p->cols);
        most = n > most ? n : most;
    }
    l->real = malloc(most * nb_dtype_size(coded->be->real));
    l->packed = malloc(most * ni_tensor_dtype_size(dtype));
    return l->real && l->packed ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory to pass parameters to a file");
}

static void close_list(list *l) {
    free(l->entries);
    free(l->tensors);
    free(l->real);
    free(l->packed);
}

/* ---- their data ---- */

static nb_status data_of(void *context, int32_t index, const void **data, nb_error *err) {
    list *l = context;
    const entry *e = &l->entries[index];
    const uint8_t *codes = NULL, *scales = NULL;
    if (e->part == NUMBERS) {
        const nb_param *p = nb_model_param(l->coded->model, e->param);
        ni_model_param_read(l->coded->model, e->param, l->real);
        ni_hf_numbers_write(l->dtype, l->coded->be->real, l->real, (size_t)(p->rows * p->cols), l->packed);
        *data = l->packed;
    } else if (e->part == ABOVE || e->part == INPUT) {
        const float amax = e->layer->input_amax;
        if (e->part == ABOVE)
            l->scalar = l->divides ? e->layer->divisor : e->layer->scale;
        else
            l->scalar = l->divides ? nvfp4_largest / amax : amax / nvfp4_largest;
        *data = &l->scalar;
    } else {
        NB_TRY(ni_coded_take(l->coded, e->layer, &codes, &scales, err));
        *data = e->part == CODES ? codes : scales;
    }
    return NB_OK;
}

static nb_status write_tensors(ni_coded_model *coded, bool divides, const char *folder, ni_tensor_dtype dtype,
                               nb_error *err) {
    const ni_metadata metadata[] = {{"format", "pt"}};
    char path[PATH_ROOM];
    list l;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    nb_status status = open_list(coded, divides, dtype, &l, err);
    if (status == NB_OK)
        status = ni_safetensors_write_from(path, l.tensors, l.count, metadata, 1, data_of, &l, err);
    close_list(&l);
    return status;
}

/* ---- what the readers are told ---- */

static bool quantizes_inputs(const ni_coded_model *coded) {
    for (int32_t i = 0; i < coded->count; i++)
        if (coded->layers[i].coding != NI_CODING_NONE && coded->layers[i].input_amax > 0)
            return true;
    return false;
}

/* Modules that stay numbers, by transformers' names. */
static json_t *uncoded_modules(const ni_coded_model *coded) {
    json_t *modules = json_array();
    bool has_head = false;
    for (int32_t i = 0; i < coded->count; i++) {
        const char *module = coded->layers[i].module;
        char name[NAME_ROOM];
        has_head |= strcmp(module, "lm_head") == 0;
        snprintf(name, sizeof name, "%s%s", strncmp(module, "layers.", 7) == 0 ? "model." : "", module);
        if (coded->layers[i].coding == NI_CODING_NONE)
            ni_json_push(&modules, json_string(name));
    }
    if (!has_head)
        ni_json_push(&modules, json_string("lm_head")); /* tied to the embedding */
    return modules;
}

/* QuantizationArgs of compressed-tensors. */
static json_t *arguments(ni_coding coding, bool weights) {
    const bool nvfp4 = coding == NI_CODING_NVFP4;
    return json_pack("{s:i, s:s, s:s, s:i, s:b, s:o, s:s}", "num_bits", 4, "type", "float", "strategy",
                     nvfp4 ? "tensor_group" : "group", "group_size", nvfp4 ? 16 : 32, "symmetric", 1, "dynamic",
                     weights ? json_false() : json_string("local"), "scale_dtype",
                     nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8");
}

static json_t *compressed_tensors_config(const ni_coded_model *coded) {
    const char *format = coded->coding == NI_CODING_NVFP4 ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized";
    json_t *inputs = quantizes_inputs(coded) ? arguments(coded->coding, false) : json_null();
    json_t *group = json_pack("{s:[s], s:s, s:o, s:o, s:n}", "targets", "Linear", "format", format, "weights",
                              arguments(coded->coding, true), "input_activations", inputs, "output_activations");
    return json_pack("{s:s, s:s, s:s, s:{s:o}, s:o, s:n}", "quant_method", "compressed-tensors", "format", format,
                     "quantization_status", "compressed", "config_groups", "group_0", group, "ignore",
                     uncoded_modules(coded), "kv_cache_scheme");
}

static const char *algorithm(const ni_coded_model *coded) {
    return quantizes_inputs(coded) ? "NVFP4" : "W4A16_NVFP4";
}

/* Readers take the folder for ModelOpt's by the producer's name. */
static json_t *modelopt_producer(void) {
    return json_pack("{s:s, s:s}", "name", "modelopt", "version", "nibble");
}

static json_t *modelopt_config(const ni_coded_model *coded) {
    const char *numbers = "{s:i, s:s, s:i, s:b}";
    json_t *weights = json_pack(numbers, "num_bits", 4, "type", "float", "group_size", 16, "dynamic", 0);
    json_t *inputs = quantizes_inputs(coded)
                         ? json_pack(numbers, "num_bits", 4, "type", "float", "group_size", 16, "dynamic", 0)
                         : json_null();
    return json_pack("{s:s, s:s, s:{s:{s:o, s:o, s:[s]}}, s:o, s:o}", "quant_method", "modelopt", "quant_algo",
                     algorithm(coded), "config_groups", "group_0", "weights", weights, "input_activations", inputs,
                     "targets", "Linear", "ignore", uncoded_modules(coded), "producer", modelopt_producer());
}

static json_t *modelopt_file(const ni_coded_model *coded) {
    return json_pack("{s:o, s:{s:s, s:n, s:i, s:o}}", "producer", modelopt_producer(), "quantization", "quant_algo",
                     algorithm(coded), "kv_cache_quant_algo", "group_size", 16, "exclude_modules",
                     uncoded_modules(coded));
}

static nb_status write_json(const char *folder, const char *name, json_t *json, nb_error *err) {
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *text = ni_json_text(json, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(json);
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to write it", path);
    nb_status status = ni_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

static nb_status write_config(const ni_coded_model *coded, const char *folder, ni_tensor_dtype dtype, ni_hf_marks marks,
                              json_t *quantization, nb_error *err) {
    char *text = ni_hf_config_text(nb_model_get_config(coded->model), dtype, marks);
    json_t *config = text ? ni_json_load(text, strlen(text), NULL) : NULL;
    free(text);
    ni_json_put(&config, "quantization_config", quantization);
    return write_json(folder, "config.json", config, err);
}

static nb_status check(const ni_coded_model *coded, const char *reader, nb_error *err) {
    const nb_family family = nb_model_get_config(coded->model)->family;
    if (family == NB_GLA)
        return nb_fail(err, NB_UNSUPPORTED, "no reader of %s computes gla; expected llama, qwen3 or olmo2", reader);
    if (coded->coded == 0)
        return nb_fail(err, NB_BAD_USAGE,
                       "no layer's weights are plain NVFP4 or MXFP4 (%s: %s), so there are no codes "
                       "to export; --to hf writes the numbers",
                       coded->count ? coded->layers[0].module : "none", coded->count ? coded->layers[0].why : "none");
    return NB_OK;
}

nb_status ni_serve_compressed_tensors(ni_coded_model *coded, const char *folder, ni_tensor_dtype dtype,
                                      ni_hf_marks marks, nb_error *err) {
    NB_TRY(check(coded, "compressed-tensors", err));
    NB_TRY(write_config(coded, folder, dtype, marks, compressed_tensors_config(coded), err));
    return write_tensors(coded, true, folder, dtype, err);
}

nb_status ni_serve_modelopt(ni_coded_model *coded, const char *folder, ni_tensor_dtype dtype, ni_hf_marks marks,
                            nb_error *err) {
    NB_TRY(check(coded, "ModelOpt", err));
    if (coded->coding != NI_CODING_NVFP4)
        return nb_fail(err, NB_UNSUPPORTED,
                       "ModelOpt's folders hold NVFP4, and this recipe's weights are in MXFP4; "
                       "expected --to compressed-tensors or --to gguf");
    NB_TRY(write_config(coded, folder, dtype, marks, modelopt_config(coded), err));
    NB_TRY(write_json(folder, "hf_quant_config.json", modelopt_file(coded), err));
    return write_tensors(coded, false, folder, dtype, err);
}
