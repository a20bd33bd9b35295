/* config.c: model files: the keys, and what they come to. */
#include "model/config_keys.h"
#include "model/hf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const ni_word families[] = {
    {"llama", NB_LLAMA, "RMSNorm, RoPE, grouped-query attention, SwiGLU"},
    {"qwen3", NB_QWEN3, "the same with RMSNorm on each head of q and k"},
    {"olmo2", NB_OLMO2, "norms after the sublayers, RMSNorm on all of q and k"},
    {"gla", NB_GLA, "gated linear attention instead of softmax (arXiv:2312.06635)"},
    {"ngpt", NB_NGPT,
     "every vector of length 1: weights after each step, the residual stream, heads (arXiv:2410.01131)"},
    {NULL, 0, NULL},
};

const char *nb_family_name(nb_family family) {
    return family >= NB_LLAMA && family <= NB_NGPT ? families[family].name : "unknown family";
}

#define FIELD(member) NI_FIELD(ni_model_file, config.member)
#define INT_KEY(key, member, most) .path = key, .type = NI_KEY_INT, FIELD(member), .low = 1, .high = most
#define FLOAT_KEY(key, member) .path = key, .type = NI_KEY_FLOAT, FIELD(member)

static const ni_word as_heads[] = {{"heads", 0, NULL}, {NULL, 0, NULL}};
static const ni_word by_width[] = {{"hidden/heads", 0, NULL}, {NULL, 0, NULL}};
static const ni_word no_clamp[] = {{"none", -INFINITY, NULL}, {NULL, 0, NULL}};

static const ni_key rows[] = {
    {.path = "name", .type = NI_KEY_TEXT, FIELD(name), .help = "what runs and reports call the model"},
    {.path = "about",
     .type = NI_KEY_TEXT,
     NI_FIELD(ni_model_file, about),
     .fallback = "\"\"",
     .help = "one line about it"},
    {.path = "family", .type = NI_KEY_CHOICE, FIELD(family), .words = families, .help = "the architecture"},
    {INT_KEY("vocab", vocab, NI_MOST_WIDTH), .help = "rows of the embedding; tokens of the data are below it"},
    {INT_KEY("hidden", hidden, NI_MOST_WIDTH), .help = "width of the residual stream"},
    {INT_KEY("layers", layers, NI_MOST_LAYERS), .help = "blocks"},
    {INT_KEY("heads", heads, 65536), .help = "query heads; heads of the linear attention"},
    {INT_KEY("kv_heads", kv_heads, 65536), .fallback = "heads", .words = as_heads,
     .help = "key and value heads, shared by groups of query heads", .source = "no sharing, as LLaMA"},
    {INT_KEY("head_dim", head_dim, 1024), .fallback = "hidden/heads", .words = by_width,
     .help = "width of a head of the softmax families", .source = "LLaMA"},
    {INT_KEY("intermediate", intermediate, NI_MOST_WIDTH), .help = "width inside the SwiGLU MLP"},
    {INT_KEY("max_seq", max_seq, NI_MOST_WIDTH), .fallback = "2048", .help = "longest sequence",
     .source = "arXiv:2501.17116 section 4.1 trains at 2048"},
    {FLOAT_KEY("rope_theta", rope_theta), .fallback = "10000", .positive = true, .help = "base of RoPE's wavelengths",
     .source = "arXiv:2104.09864; LLaMA"},
    {FLOAT_KEY("rope_scaling.factor", rope_factor), .fallback = "0", .low = 0, .high = 1024,
     .help = "LLaMA 3's scaling: slow turns become so many times slower; 0: none",
     .source = "transformers, \"llama3\""},
    {FLOAT_KEY("rope_scaling.low", rope_low), .fallback = "0", .low = 0, .high = 1e6,
     .help = "slow turns: fewer rounds over the original length (LLaMA 3: 1)",
     .source = "transformers, low_freq_factor"},
    {FLOAT_KEY("rope_scaling.high", rope_high), .fallback = "0", .low = 0, .high = 1e6,
     .help = "fast turns stay: more rounds than this (LLaMA 3: 4)", .source = "transformers, high_freq_factor"},
    {FLOAT_KEY("rope_scaling.original", rope_original), .fallback = "0", .low = 0, .high = NI_MOST_WIDTH,
     .help = "the length before scaling (LLaMA 3: 8192)", .source = "transformers, original_max_position_embeddings"},
    {FLOAT_KEY("norm_eps", norm_eps), .fallback = "1e-6", .positive = true, .high = 1,
     .help = "added to the mean square in RMSNorm", .source = "the default of transformers and fla"},
    {FLOAT_KEY("init_std", init_std), .fallback = "0.02", .positive = true, .high = 10,
     .help = "standard deviation of the matrices at first", .source = "GPT-2; the default of transformers and fla"},
    {.path = "tied",
     .type = NI_KEY_BOOL,
     FIELD(tied),
     .fallback = "false",
     .help = "the head is the embedding",
     .source = "LLaMA"},
    {FLOAT_KEY("gla.expand_k", expand_k), .fallback = "0.5", .positive = true, .high = 16,
     .help = "gla: key width of all heads / hidden", .source = "arXiv:2312.06635; fla"},
    {FLOAT_KEY("gla.expand_v", expand_v), .fallback = "1", .positive = true, .high = 16,
     .help = "gla: value width of all heads / hidden", .source = "arXiv:2312.06635; fla"},
    {INT_KEY("gla.gate_low_rank", gate_low_rank, NI_MOST_WIDTH), .fallback = "16",
     .help = "gla: inner width of the gate's projection", .source = "arXiv:2312.06635; fla"},
    {FLOAT_KEY("gla.gate_normalizer", gate_normalizer), .fallback = "16", .positive = true, .high = 1e6,
     .help = "gla: the log decay is divided by it", .source = "arXiv:2312.06635; fla"},
    {FLOAT_KEY("gla.gate_clamp", gate_clamp), .fallback = "none", .low = -1e30, .words = no_clamp,
     .help = "gla: least log decay of a step", .source = "fla"},
    {FLOAT_KEY("ngpt.alpha", alpha), .fallback = "0.05", .positive = true, .high = 1,
     .help = "ngpt: share of the way to its own output that a branch steps at first",
     .source = "arXiv:2410.01131; NVIDIA/ngpt"},
    {.path = "ngpt.fine",
     .type = NI_KEY_BOOL,
     FIELD(fine),
     .fallback = "true",
     .help = "ngpt: the heads' outputs and the inner layer of the MLP have length 1, too",
     .source = "arXiv:2605.06067; false is arXiv:2410.01131"},
};

/* Keys of the other kind of attention say that the file means something else than it gets. */
static nb_status check_kind(const nb_model_config *c, const ni_yaml_node *node, nb_error *err) {
    static const char *const softmax_only[] = {"head_dim", "rope_theta", "rope_scaling"};
    const char *family = nb_family_name(c->family);
    if (c->family != NB_GLA && ni_yaml_find(node, "gla"))
        return ni_keys_fail(err, node, "gla", "is for family gla, and this is %s", family);
    if (c->family != NB_NGPT && ni_yaml_find(node, "ngpt"))
        return ni_keys_fail(err, node, "ngpt", "is for family ngpt, and this is %s", family);
    for (size_t i = 0; c->family == NB_GLA && i < NI_COUNT(softmax_only); i++)
        if (ni_yaml_find(node, softmax_only[i]))
            return ni_keys_fail(err, node, softmax_only[i],
                                "family gla has none; its heads are hidden * expand / heads");
    return NB_OK;
}

static nb_status finish(void *record, const ni_yaml_node *node, nb_error *err) {
    nb_model_config *c = &((ni_model_file *)record)->config;
    if (!*c->name)
        return ni_keys_fail(err, node, "name", "is empty");
    NB_TRY(check_kind(c, node, err));
    if (c->kv_heads == 0)
        c->kv_heads = c->heads;
    if (c->family == NB_GLA) {
        c->head_dim = 0;
        c->rope_theta = 0;
    } else {
        if (c->head_dim == 0 && c->hidden % c->heads)
            return ni_keys_fail(err, node, "heads", "%d does not divide hidden %d; say head_dim to make them differ",
                                (int)c->heads, (int)c->hidden);
        if (c->head_dim == 0)
            c->head_dim = c->hidden / c->heads;
        c->expand_k = c->expand_v = c->gate_normalizer = c->gate_clamp = 0;
        c->gate_low_rank = 0;
    }
    if (c->family != NB_NGPT) {
        c->alpha = 0;
        c->fine = false;
    }
    ni_model_fault f = ni_model_find_fault(c);
    return f.key ? ni_keys_fail(err, node, f.key, "%s", f.why) : NB_OK;
}

static const char intro[] = "A model file gives the sizes of a decoder. Those in `models/` say where their numbers "
                            "come from. `base: NAME` starts\n"
                            "from another model file; a file that then says no `name` is called as it is called "
                            "itself, without `.yaml`.\n";

const ni_keys ni_model_keys = {.name = "model file",
                               .intro = intro,
                               .rows = rows,
                               .count = NI_COUNT(rows),
                               .size = sizeof(ni_model_file),
                               .finish = finish};

bool ni_model_is_folder(const char *name_or_path) {
    struct stat st;
    return strchr(name_or_path, '/') && stat(name_or_path, &st) == 0 && S_ISDIR(st.st_mode);
}

nb_status nb_model_config_load(const char *name_or_path, const char *models_dir, nb_model_config *out, nb_error *err) {
    return ni_model_config_load(name_or_path, models_dir, NULL, 0, out, err);
}

/* A name without a slash is looked up among the models; who has a folder of that name here may mean it. */
static nb_status hint_at_folder(const char *name, nb_status status, nb_error *err) {
    char why[sizeof err->message];
    struct stat st;
    if (!err || strchr(name, '/') || stat(name, &st) != 0 || !S_ISDIR(st.st_mode))
        return status;
    snprintf(why, sizeof why, "%s", err->message);
    return nb_fail(err, status, "%s; hint: ./%.100s is the folder of that name here", why, name);
}

nb_status ni_model_config_load(const char *name_or_path, const char *models_dir, const char (*changes)[NB_NAME_SIZE],
                               int32_t count, nb_model_config *out, nb_error *err) {
    ni_yaml tree;
    ni_model_file file;
    if (ni_model_is_folder(name_or_path)) {
        if (count)
            return nb_fail(err, NB_BAD_CONFIG,
                           "model.%s: %s is a folder of parameters, whose sizes are what they are; hint: a model file",
                           changes[0], name_or_path);
        return ni_hf_config_read(name_or_path, out, err);
    }
    nb_status status = ni_yaml_load_based(name_or_path, models_dir, "model", NULL, &tree, err);
    if (status != NB_OK)
        return hint_at_folder(name_or_path, status, err);
    for (int32_t i = 0; status == NB_OK && i < count; i++)
        status = ni_yaml_set(&tree, "model.", changes[i], NULL, err);
    if (status == NB_OK)
        status = ni_keys_read(&ni_model_keys, &file, tree.root, err);
    ni_yaml_free(&tree);
    if (status == NB_OK)
        *out = file.config;
    return status;
}
