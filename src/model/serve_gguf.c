/* serve_gguf.c: one GGUF file for llama.cpp: its names, its keys, and the order in which it rotates LLaMA's heads.
 *
 * Facts: github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py (names), conversion/llama.py (permutation),
 * conversion/base.py (NVFP4 and its `.scale`), src/models (what a model must have).
 */
#include "backend/rope.h"
#include "backend/table.h"
#include "format/ggml.h"
#include "model/hf_numbers.h"
#include "model/param_array.h"
#include "model/serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum piece {
    PIECE_WEIGHT, /* a parameter: the codes of `layer`, or numbers */
    PIECE_SCALE,  /* the factor of `layer` */
    PIECE_TURNS   /* how many times slower RoPE turns each pair */
} piece;

typedef struct entry {
    piece piece;
    int32_t param;
    const ni_coded_layer *layer; /* NULL: numbers */
} entry;

typedef struct list {
    ni_coded_model *coded;
    ni_tensor_dtype dtype;
    entry *entries;
    ni_gguf_tensor *tensors;
    int32_t count;
    void *real, *packed;
    float scalar;
} list;

/* ---- names ---- */

static const struct {
    const char *ours, *theirs;
} block_names[] =
    {
        {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
        {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
        {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},       {"post_feedforward_layernorm", "post_ffw_norm"},
},
  other_names[] = {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};

static bool is_named(const char *name, const char *base) {
    const size_t length = strlen(base);
    return strncmp(name, base, length) == 0 && strcmp(name + length, ".weight") == 0;
}

static nb_status name_for(nb_family family, const char *ours, char name[64], nb_error *err) {
    int block, used = 0;
    if (sscanf(ours, "model.layers.%d.%n", &block, &used) == 1 && used) {
        for (size_t i = 0; i < sizeof block_names / sizeof block_names[0]; i++)
            if (is_named(ours + used, block_names[i].ours)) {
                const bool after = family == NB_OLMO2 && strcmp(block_names[i].theirs, "ffn_norm") == 0;
                snprintf(name, 64, "blk.%d.%s.weight", block, after ? "post_attention_norm" : block_names[i].theirs);
                return NB_OK;
            }
    } else {
        for (size_t i = 0; i < sizeof other_names / sizeof other_names[0]; i++)
            if (is_named(ours, other_names[i].ours)) {
                snprintf(name, 64, "%s.weight", other_names[i].theirs);
                return NB_OK;
            }
    }
    return nb_fail(err, NB_INTERNAL, "parameter '%s' has no name in GGUF", ours);
}

/* Heads whose rows are interleaved: transformers rotates element i of a head with element i + d/2, llama.cpp's LLaMA
 * with its neighbour; other families it rotates as transformers does. 0: rows stay. */
static int64_t heads_to_interleave(const nb_model_config *c, const char *name) {
    const bool q = strstr(name, ".self_attn.q_proj.") != NULL, k = strstr(name, ".self_attn.k_proj.") != NULL;
    return c->family != NB_LLAMA ? 0 : q ? c->heads : k ? c->kv_heads : 0;
}

/* The row of ours that their row `row` is. */
static int64_t row_of(int64_t row, int64_t heads, int64_t rows) {
    if (heads == 0)
        return row;
    const int64_t dim = rows / heads, head = row / dim, i = row % dim;
    return head * dim + i % 2 * (dim / 2) + i / 2;
}

/* ---- which tensors ---- */

static ni_gguf_type type_of(ni_tensor_dtype dtype) {
    return dtype == NI_ST_F32 ? NI_GGUF_F32 : dtype == NI_ST_F16 ? NI_GGUF_F16 : NI_GGUF_BF16;
}

static nb_status add(list *l, int32_t param, const char *name, nb_error *err) {
    const nb_param *p = nb_model_param(l->coded->model, param);
    const ni_coded_layer *layer = ni_coded_find(l->coded, param);
    ni_gguf_tensor *t = &l->tensors[l->count];
    *t =
        (ni_gguf_tensor){.rank = p->rank, .rows = p->rank == 2 ? p->rows : 1, .cols = p->rank == 2 ? p->cols : p->rows};
    t->type = p->rank == 1 ? NI_GGUF_F32 : type_of(l->dtype);
    if (layer)
        t->type = layer->coding == NI_CODING_NVFP4 ? NI_GGUF_NVFP4 : NI_GGUF_MXFP4;
    if (name)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        NB_TRY(name_for(nb_model_get_config(l->coded->model)->family, p->name, t->name, err));
    l->entries[l->count++] = (entry){PIECE_WEIGHT, param, layer};
    if (!layer || layer->coding != NI_CODING_NVFP4)
        return NB_OK;
    l->tensors[l->count] = (ni_gguf_tensor){.type = NI_GGUF_F32, .rank = 1, .rows = 1, .cols = 1};
    snprintf(l->tensors[l->count].name, sizeof t->name, "%.*s.scale", (int)(strlen(t->name) - (sizeof ".weight" - 1)),
             t->name);
    l->entries[l->count++] = (entry){PIECE_SCALE, param, layer};
    return NB_OK;
}

/* One for all blocks; llama.cpp divides a pair's turn by it. */
static void add_turns(list *l, const nb_model_config *c) {
    l->tensors[l->count] = (ni_gguf_tensor){.type = NI_GGUF_F32, .rank = 1, .rows = 1, .cols = c->head_dim / 2};
    snprintf(l->tensors[l->count].name, sizeof l->tensors->name, "rope_freqs.weight");
    l->entries[l->count++] = (entry){PIECE_TURNS, 0, NULL};
}

static nb_status add_all(list *l, nb_error *err) {
    const nb_model_config *c = nb_model_get_config(l->coded->model);
    for (int32_t i = 0; i < nb_model_param_count(l->coded->model); i++) {
        NB_TRY(add(l, i, NULL, err));
        /* llama.cpp's OLMo 2 has no shared embedding: it is written twice. */
        if (c->tied && c->family == NB_OLMO2 && nb_model_param(l->coded->model, i)->embedding)
            NB_TRY(add(l, i, "output.weight", err));
    }
    if (c->rope_factor != 0)
        add_turns(l, c);
    return NB_OK;
}

static nb_status open_list(ni_coded_model *coded, ni_tensor_dtype dtype, list *l, nb_error *err) {
    const int32_t params = nb_model_param_count(coded->model);
    size_t most = 1;
    *l = (list){.coded = coded, .dtype = dtype};
    for (int32_t i = 0; i < params; i++) {
        const nb_param *p = nb_model_param(coded->model, i);
        const size_t n = (size_t)(p->rows * p->cols);
        most = n > most ? n : most;
    }
    l->entries = calloc((size_t)params * 2 + 3, sizeof *l->entries);
    l->tensors = calloc((size_t)params * 2 + 3, sizeof *l->tensors);
    l->real = malloc(most * nb_dtype_size(coded->be->real));
    l->packed = malloc(most * sizeof(float));
    if (!l->entries || !l->tensors || !l->real || !l->packed)
        return nb_fail(err, NB_NO_MEMORY, "no memory to pass %d parameters to a file", (int)params);
    return add_all(l, err);
}

static void close_list(list *l) {
    free(l->entries);
    free(l->tensors);
    free(l->real);
    free(l->packed);
}

/* ---- their data ---- */

static nb_status pack_codes(list *l, const ni_coded_layer *layer, int64_t heads, nb_error *err) {
    const uint8_t *codes, *scales;
    const bool nvfp4 = layer->coding == NI_CODING_NVFP4;
    const size_t row_bytes = ni_gguf_row_bytes(nvfp4 ? NI_GGUF_NVFP4 : NI_GGUF_MXFP4, layer->cols);
    NB_TRY(ni_coded_take(l->coded, layer, &codes, &scales, err));
    for (int64_t r = 0; r < layer->rows; r++) {
        const int64_t from = row_of(r, heads, layer->rows);
        const uint8_t *row_codes = codes + from * layer->cols / 2,
                      *row_scales = scales + from * (layer->cols / layer->quantizer.block_cols);
        (nvfp4 ? ni_ggml_nvfp4_row : ni_ggml_mxfp4_row)(row_codes, row_scales, layer->cols,
                                                        (uint8_t *)l->packed + (size_t)r * row_bytes);
    }
    return NB_OK;
}

static void pack_numbers(list *l, const nb_param *p, int32_t param, int64_t heads) {
    const ni_tensor_dtype dtype = p->rank == 1 ? NI_ST_F32 : l->dtype;
    const size_t real = nb_dtype_size(l->coded->be->real), wide = ni_tensor_dtype_size(dtype), cols = (size_t)p->cols;
    ni_model_param_read(l->coded->model, param, l->real);
    for (int64_t r = 0; r < p->rows; r++)
        ni_hf_numbers_write(dtype, l->coded->be->real,
                            (uint8_t *)l->real + (size_t)row_of(r, heads, p->rows) * cols * real, cols,
                            (uint8_t *)l->packed + (size_t)r * cols * wide);
}

static void pack_turns(list *l, const nb_model_config *c) {
    const ni_rope plain = {.theta = c->rope_theta},
                  scaled = {c->rope_theta, c->rope_factor, c->rope_low, c->rope_high, c->rope_original};
    for (int64_t i = 0; i < c->head_dim / 2; i++)
        ((float *)l->packed)[i] =
            (float)(ni_rope_frequency(&plain, i, c->head_dim) / ni_rope_frequency(&scaled, i, c->head_dim));
}

static nb_status data_of(void *context, int32_t index, const void **data, nb_error *err) {
    list *l = context;
    const entry *e = &l->entries[index];
    const nb_model_config *c = nb_model_get_config(l->coded->model);
    const nb_param *p = nb_model_param(l->coded->model, e->param);
    const int64_t heads = heads_to_interleave(c, p->name);
    *data = l->packed;
    if (e->piece == PIECE_SCALE) {
        l->scalar = e->layer->scale;
        *data = &l->scalar;
        return NB_OK;
    }
    if (e->piece == PIECE_TURNS) {
        pack_turns(l, c);
        return NB_OK;
    }
    if (e->layer)
        return pack_codes(l, e->layer, heads, err);
    pack_numbers(l, p, e->param, heads);
    return NB_OK;
}

/* ---- keys ---- */

static void put_size(ni_gguf *file, const char *arch, const char *key, int32_t value) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    ni_gguf_put_u32(file, name, (uint32_t)value);
}

static void put_number(ni_gguf *file, const char *arch, const char *key, double value) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    ni_gguf_put_f32(file, name, (float)value);
}

/* llama.cpp's numbers for what most of the weights are. */
static uint32_t file_type(const ni_coded_model *coded, ni_tensor_dtype dtype) {
    enum { ALL_F32 = 0, MOSTLY_F16 = 1, MOSTLY_BF16 = 32, MOSTLY_MXFP4 = 38, MOSTLY_NVFP4 = 39 };
    if (coded->coded)
        return coded->coding == NI_CODING_NVFP4 ? MOSTLY_NVFP4 : MOSTLY_MXFP4;
    return dtype == NI_ST_F32 ? ALL_F32 : dtype == NI_ST_F16 ? MOSTLY_F16 : MOSTLY_BF16;
}

static void put_keys(ni_gguf *file, const ni_coded_model *coded, ni_tensor_dtype dtype) {
    const nb_model_config *c = nb_model_get_config(coded->model);
    const char *arch = nb_family_name(c->family);
    ni_gguf_put_text(file, "general.architecture", arch);
    ni_gguf_put_text(file, "general.name", c->name);
    ni_gguf_put_u32(file, "general.file_type", file_type(coded, dtype));
    ni_gguf_put_u32(file, "general.quantization_version", 2);
    put_size(file, arch, "block_count", c->layers);
    put_size(file, arch, "context_length", c->max_seq);
    put_size(file, arch, "embedding_length", c->hidden);
    put_size(file, arch, "feed_forward_length", c->intermediate);
    put_size(file, arch, "attention.head_count", c->heads);
    put_size(file, arch, "attention.head_count_kv", c->kv_heads);
    put_size(file, arch, "attention.key_length", c->head_dim);
    put_size(file, arch, "attention.value_length", c->head_dim);
    put_number(file, arch, "attention.layer_norm_rms_epsilon", c->norm_eps);
    put_size(file, arch, "rope.dimension_count", c->head_dim);
    put_number(file, arch, "rope.freq_base", c->rope_theta);
    put_size(file, arch, "vocab_size", c->vocab);
}

nb_status ni_serve_gguf(ni_coded_model *coded, ni_gguf *file, const char *path, ni_tensor_dtype dtype, nb_error *err) {
    const nb_model_config *c = nb_model_get_config(coded->model);
    if (c->family == NB_GLA)
        return nb_fail(err, NB_UNSUPPORTED, "llama.cpp does not compute gla; expected llama, qwen3 or olmo2");
    if (c->rope_factor != 0 && c->family != NB_LLAMA)
        return nb_fail(err, NB_UNSUPPORTED, "llama.cpp scales RoPE as LLaMA 3.1 does for llama alone, and this is %s",
                       nb_family_name(c->family));
    if (c->family == NB_OLMO2 && c->head_dim * c->heads != c->hidden)
        return nb_fail(err, NB_UNSUPPORTED, "llama.cpp's OLMo 2 has heads of hidden / heads = %d, this model's are %d",
                       (int)(c->hidden / c->heads), (int)c->head_dim);
    put_keys(file, coded, dtype);
    list l;
    nb_status status = open_list(coded, dtype, &l, err);
    if (status == NB_OK)
        status = ni_gguf_write(file, path, l.tensors, l.count, data_of, &l, err);
    close_list(&l);
    return status;
}
