/* hf_config.c: config.json of LlamaForCausalLM, Qwen3ForCausalLM, Olmo2ForCausalLM and fla's GLAForCausalLM. */
#include "files/file.h"
#include "files/json.h"
#include "hf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    nb_family family;
    const char *type, *architecture;
} families[] = {{NB_LLAMA, "llama", "LlamaForCausalLM"},
                {NB_QWEN3, "qwen3", "Qwen3ForCausalLM"},
                {NB_OLMO2, "olmo2", "Olmo2ForCausalLM"},
                {NB_GLA, "gla", "GLAForCausalLM"},
                {NB_NGPT, "ngpt-nibble", "NGPTForCausalLM"}}; /* ours alone: transformers refuses the type */
enum { FAMILY_COUNT = sizeof families / sizeof families[0], PATH_ROOM = 4096 };

/* fla fixes the divisor of the gate and knows no key for it. A model with another one gets a type of its own, which fla
 * refuses instead of computing something else. */
static const double fla_gate_normalizer = 16;
static const char other_gla[] = "gla-nibble";

/* ---- reading ---- */

typedef struct reader {
    const json_t *root;
    nb_status status; /* of the first failure; later reads do nothing */
    nb_error *err;
} reader;

static void complain(reader *r, const char *key, const char *what) {
    if (r->status == NB_OK)
        r->status = nb_fail(r->err, NB_BAD_FILE, "'%s': %s", key, what);
}

/* A value that is there and not null. */
static const json_t *get(const reader *r, const char *key) {
    const json_t *value = json_object_get(r->root, key);
    return json_is_null(value) ? NULL : value;
}

enum { REQUIRED = -1 };

static int32_t get_size(reader *r, const char *key, int32_t fallback) {
    const json_t *value = get(r, key);
    if (!value && fallback != REQUIRED)
        return fallback;
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 1 || number > INT32_MAX) {
        complain(r, key, value ? "expected a whole number from 1 to 2147483647" : "is missing");
        return 1;
    }
    return (int32_t)number;
}

static double get_number(reader *r, const char *key, double fallback) {
    const json_t *value = get(r, key);
    if (value && !json_is_number(value))
        complain(r, key, "expected a number");
    return value ? json_number_value(value) : fallback;
}

static bool get_bool(reader *r, const char *key, bool fallback) {
    const json_t *value = get(r, key);
    if (value && !json_is_boolean(value))
        complain(r, key, "expected true or false");
    return value ? json_is_true(value) : fallback;
}

/* Refuses what nibble would compute differently. */
static void must_be(reader *r, const char *key, bool wanted) {
    const json_t *value = get(r, key);
    if (value && json_is_true(value) != wanted)
        complain(r, key,
                 wanted ? "nibble computes this family only with it, expected true"
                        : "nibble does not compute this, expected false");
}

static void must_be_absent(reader *r, const char *key) {
    if (get(r, key))
        complain(r, key, "nibble does not compute this, expected null");
}

static void check_activation(reader *r) {
    const char *name = json_string_value(get(r, "hidden_act"));
    if (name && strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0)
        complain(r, "hidden_act", "nibble computes SwiGLU, expected \"silu\"");
}

/* LLaMA 3's scaling, or none; of a group that may be absent. */
static void read_scaling(reader *r, const char *group, nb_model_config *c) {
    reader inner = {.root = get(r, group), .err = r->err, .status = r->status};
    const json_t *newer = get(&inner, "rope_type"), *older = get(&inner, "type");
    const char *type = json_string_value(newer ? newer : older);
    if (get_number(&inner, "partial_rotary_factor", 1.0) != 1.0)
        complain(&inner, "partial_rotary_factor", "nibble rotates whole heads, expected 1");
    if (type && strcmp(type, "llama3") == 0) {
        c->rope_factor = get_number(&inner, "factor", 0);
        c->rope_low = get_number(&inner, "low_freq_factor", 0);
        c->rope_high = get_number(&inner, "high_freq_factor", 0);
        c->rope_original = get_number(&inner, "original_max_position_embeddings", c->max_seq);
        if (inner.status == NB_OK && c->rope_factor == 0)
            complain(&inner, "factor", "is missing, expected that of rope_type \"llama3\"");
    } else if (inner.root && !(type && strcmp(type, "default") == 0) &&
               !(strcmp(group, "rope_parameters") == 0 && !type))
        complain(&inner, group, "nibble computes RoPE as it is or scaled as \"llama3\", expected one of them or null");
    r->status = inner.status;
}

/* transformers 4 has rope_theta and rope_scaling; transformers 5 puts both into rope_parameters. */
static void read_rope(reader *r, nb_model_config *c) {
    reader inner = {.root = get(r, "rope_parameters"), .err = r->err, .status = r->status};
    if (get_number(r, "partial_rotary_factor", 1.0) != 1.0)
        complain(r, "partial_rotary_factor", "nibble rotates whole heads, expected 1");
    c->rope_theta = get_number(&inner, "rope_theta", get_number(r, "rope_theta", 10000.0));
    if (r->status == NB_OK)
        r->status = inner.status;
    read_scaling(r, "rope_parameters", c);
    if (c->rope_factor == 0)
        read_scaling(r, "rope_scaling", c);
}

static void read_softmax(reader *r, nb_model_config *c) {
    c->heads = get_size(r, "num_attention_heads", REQUIRED);
    c->kv_heads = get_size(r, "num_key_value_heads", c->heads);
    c->head_dim = get_size(r, "head_dim", c->family == NB_QWEN3 ? 128 : c->hidden / c->heads);
    c->intermediate = get_size(r, "intermediate_size", REQUIRED);
    c->max_seq = get_size(r, "max_position_embeddings", 2048);
    c->norm_eps = get_number(r, "rms_norm_eps", c->family == NB_OLMO2 ? 1e-5 : 1e-6);
    read_rope(r, c);
    must_be(r, "attention_bias", false);
    must_be(r, "mlp_bias", false);
    must_be(r, "use_sliding_window", false);
}

static void read_gla(reader *r, nb_model_config *c) {
    c->heads = get_size(r, "num_heads", 4);
    c->kv_heads = get_size(r, "num_kv_heads", c->heads);
    c->expand_k = get_number(r, "expand_k", 0.5);
    c->expand_v = get_number(r, "expand_v", 1.0);
    /* fla's default: 2/3 of hidden_ratio * hidden, up to a multiple of 256 */
    int64_t ratio = get_size(r, "hidden_ratio", 4), width = (int64_t)((double)c->hidden * (double)ratio * 2 / 3);
    int64_t rounded = (width + 255) / 256 * 256;
    c->intermediate = get_size(r, "intermediate_size", rounded < INT32_MAX ? (int32_t)rounded : INT32_MAX);
    c->max_seq = get_size(r, "max_position_embeddings", 2048);
    c->norm_eps = get_number(r, "norm_eps", 1e-6);
    c->gate_low_rank = get_size(r, "gate_low_rank_dim", 16);
    c->gate_normalizer = get_number(r, "gate_logit_normalizer", fla_gate_normalizer);
    c->gate_clamp = get_number(r, "clamp_min", -INFINITY);
    must_be(r, "use_short_conv", false);
    must_be(r, "use_output_gate", true);
    must_be(r, "elementwise_affine", true);
    must_be(r, "use_gk", true);
    must_be(r, "use_gv", false);
    must_be_absent(r, "feature_map");
    must_be_absent(r, "attn");
}

static void read_config(reader *r, nb_model_config *c) {
    const char *type = json_string_value(get(r, "model_type"));
    int found = -1;
    for (int i = 0; type && i < FAMILY_COUNT; i++)
        if (strcmp(type, families[i].type) == 0 || (families[i].family == NB_GLA && strcmp(type, other_gla) == 0))
            found = i;
    if (found < 0) {
        r->status = nb_fail(
            r->err, NB_BAD_FILE,
            "'model_type' is '%.64s', expected one that nibble computes: llama, qwen3, olmo2, gla or ngpt-nibble",
            type ? type : "");
        return;
    }
    c->family = families[found].family;
    c->vocab = get_size(r, "vocab_size", REQUIRED);
    c->hidden = get_size(r, "hidden_size", REQUIRED);
    c->layers = get_size(r, "num_hidden_layers", REQUIRED);
    c->init_std = get_number(r, "initializer_range", 0.02);
    c->tied = get_bool(r, "tie_word_embeddings", false);
    check_activation(r);
    must_be_absent(r, "quantization_config");
    if (c->family == NB_GLA)
        read_gla(r, c);
    else
        read_softmax(r, c);
    if (c->family == NB_NGPT) {
        c->alpha = get_number(r, "alpha", 0.05);
        c->fine = get_bool(r, "fine", true);
    }
}

/* The last part of a path: "runs/a/config.json" is named after its folder, "a". */
static void name_after(const char *path, char *name, size_t room) {
    const char *end = strrchr(path, '/');
    if (!end)
        end = path + strlen(path);
    const char *begin = end;
    while (begin > path && begin[-1] != '/')
        begin--;
    snprintf(name, room, "%.*s", (int)(end - begin < 1000 ? end - begin : 1000), begin);
}

nb_status ni_hf_config_parse(const char *text, size_t size, const char *name, nb_model_config *out, nb_error *err) {
    json_error_t where;
    *out = (nb_model_config){0};
    json_t *root = ni_json_load(text, size, &where);
    if (!root && ni_json_lacked_memory(&where))
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to read it", name);
    if (!json_is_object(root)) {
        json_decref(root);
        return nb_fail(err, NB_BAD_FILE, "%s:%d: expected a JSON object: %s", name, where.line,
                       root ? "it is another value" : where.text);
    }
    reader r = {.root = root, .err = err};
    name_after(name, out->name, sizeof out->name);
    read_config(&r, out);
    json_decref(root);
    if (r.status == NB_OK)
        r.status = nb_model_config_check(out, err);
    if (r.status != NB_OK)
        nb_fail_within(err, "%s", name);
    return r.status;
}

static nb_status read_text(const char *folder, char path[PATH_ROOM], char **text, size_t *size, nb_error *err) {
    enum { LIMIT = 16 << 20 };
    snprintf(path, PATH_ROOM, "%s/config.json", folder);
    return ni_file_read(path, LIMIT, text, size, err);
}

nb_status ni_hf_config_read(const char *folder, nb_model_config *out, nb_error *err) {
    char path[PATH_ROOM], *text;
    size_t size;
    NB_TRY(read_text(folder, path, &text, &size, err));
    nb_status status = ni_hf_config_parse(text, size, path, out, err);
    free(text);
    return status;
}

/* The token under `key`, the first of a list; -1 if there is none. */
static int32_t token_of(const json_t *root, const char *key) {
    const json_t *value = json_object_get(root, key);
    if (json_is_array(value))
        value = json_array_get(value, 0);
    json_int_t number = json_integer_value(value);
    return json_is_integer(value) && number >= 0 && number <= INT32_MAX ? (int32_t)number : -1;
}

nb_status ni_hf_marks_read(const char *folder, ni_hf_marks *marks, nb_error *err) {
    char path[PATH_ROOM], *text;
    size_t size;
    *marks = (ni_hf_marks){-1, -1};
    NB_TRY(read_text(folder, path, &text, &size, err));
    json_error_t where;
    json_t *root = ni_json_load(text, size, &where);
    if (!root && ni_json_lacked_memory(&where)) {
        free(text);
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to read it", path);
    }
    *marks = (ni_hf_marks){token_of(root, "bos_token_id"), token_of(root, "eos_token_id")};
    json_decref(root);
    free(text);
    return NB_OK;
}

/* ---- writing ---- */

static const char *torch_name(ni_tensor_dtype dtype) {
    return dtype == NI_ST_BF16 ? "bfloat16" : dtype == NI_ST_F16 ? "float16" : "float32";
}

static json_t *token(int32_t id) {
    return id >= 0 ? json_integer(id) : json_null();
}

static json_t *scaling_of(const nb_model_config *c) {
    if (c->rope_factor == 0)
        return json_null();
    return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", c->rope_factor, "low_freq_factor",
                     c->rope_low, "high_freq_factor", c->rope_high, "original_max_position_embeddings",
                     (json_int_t)c->rope_original);
}

static json_t *softmax_keys(const nb_model_config *c) {
    return json_pack("{s:i, s:i, s:i, s:f, s:f, s:o, s:b, s:f, s:b}", "num_attention_heads", (int)c->heads,
                     "num_key_value_heads", (int)c->kv_heads, "head_dim", (int)c->head_dim, "rms_norm_eps", c->norm_eps,
                     "rope_theta", c->rope_theta, "rope_scaling", scaling_of(c), "attention_bias", 0,
                     "attention_dropout", 0.0, "mlp_bias", 0);
}

static json_t *gla_keys(const nb_model_config *c) {
    json_t *clamp = isfinite(c->gate_clamp) ? json_real(c->gate_clamp) : json_null();
    json_t *kv_heads = c->kv_heads == c->heads ? json_null() : json_integer(c->kv_heads);
    return json_pack("{s:i, s:o, s:f, s:f, s:f, s:o, s:i, s:f, s:s, s:n, s:b, s:b, s:b, s:b, s:b, s:b}", "num_heads",
                     (int)c->heads, "num_kv_heads", kv_heads, "expand_k", c->expand_k, "expand_v", c->expand_v,
                     "norm_eps", c->norm_eps, "clamp_min", clamp, "gate_low_rank_dim", (int)c->gate_low_rank,
                     "gate_logit_normalizer", c->gate_normalizer, "attn_mode", "chunk", "feature_map", "use_short_conv",
                     0, "use_output_gate", 1, "use_gk", 1, "use_gv", 0, "elementwise_affine", 1, "fuse_norm", 1);
}

char *ni_hf_config_text(const nb_model_config *c, ni_tensor_dtype dtype, ni_hf_marks marks) {
    const char *type = families[c->family].type;
    if (c->family == NB_GLA && c->gate_normalizer != fla_gate_normalizer)
        type = other_gla;
    json_t *root = json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:b, s:o, s:o, s:s, s:b}",
                             "architectures", families[c->family].architecture, "model_type", type, "vocab_size",
                             (int)c->vocab, "hidden_size", (int)c->hidden, "intermediate_size", (int)c->intermediate,
                             "num_hidden_layers", (int)c->layers, "max_position_embeddings", (int)c->max_seq,
                             "hidden_act", c->family == NB_GLA ? "swish" : "silu", "initializer_range", c->init_std,
                             "tie_word_embeddings", (int)c->tied, "bos_token_id", token(marks.begin), "eos_token_id",
                             token(marks.end), "torch_dtype", torch_name(dtype), "use_cache", 1);
    json_t *more = c->family == NB_GLA ? gla_keys(c) : softmax_keys(c);
    if (more && c->family == NB_NGPT) {
        json_object_set_new(more, "alpha", json_real(c->alpha));
        json_object_set_new(more, "fine", json_boolean(c->fine));
    }
    char *text = NULL;
    if (root && more && json_object_update(root, more) == 0)
        text = ni_json_text(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(root);
    json_decref(more);
    return text;
}
