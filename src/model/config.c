/* config.c: model files: the keys, and what sizes must fit together. */
#include "model/config_keys.h"
#include "model/hf.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#define MOST_WIDTH (1 << 24) /* products of two widths and a layer count stay far below 2^63 */
#define MOST_LAYERS 4096
#define MOST_PARAMETERS 1e13

static const nb_word families[] = {
    {"llama", NB_LLAMA, "RMSNorm, RoPE, grouped-query attention, SwiGLU"},
    {"qwen3", NB_QWEN3, "the same with RMSNorm on each head of q and k"},
    {"olmo2", NB_OLMO2, "norms after the sublayers, RMSNorm on all of q and k"},
    {"gla", NB_GLA, "gated linear attention instead of softmax (arXiv:2312.06635)"},
    {NULL, 0, NULL},
};

const char *nb_family_name(nb_family family) {
    return family >= NB_LLAMA && family <= NB_GLA ? families[family].name : "unknown family";
}

/* ---- what must fit together ---- */

/* The first key that is wrong, and why; NULL if all is well. */
typedef struct fault {
    const char *key;
    char why[200];
} fault;

static void NB_PRINTF(3, 4) complain(fault *f, const char *key, const char *format, ...) {
    if (f->key)
        return;
    f->key = key;
    va_list args;
    va_start(args, format);
    vsnprintf(f->why, sizeof f->why, format, args);
    va_end(args);
}

static void check_size(fault *f, const char *key, int64_t value, int64_t most) {
    if (value < 1 || value > most)
        complain(f, key, "%lld is out of range: expected 1 to %lld", (long long)value, (long long)most);
}

static void check_softmax(fault *f, const nb_model_config *c) {
    check_size(f, "head_dim", c->head_dim, 1024);
    if (c->head_dim % 2)
        complain(f, "head_dim", "%d is odd: RoPE turns pairs", (int)c->head_dim);
    check_size(f, "heads", (int64_t)c->heads * c->head_dim, MOST_WIDTH);
    if (!(c->rope_theta > 0) || !isfinite(c->rope_theta))
        complain(f, "rope_theta", "expected a number greater than 0");
}

/* Key and value widths of all heads: hidden * expand, a whole number for each head. */
static void check_expand(fault *f, const char *key, const nb_model_config *c, double expand) {
    double width = c->hidden * expand;
    if (!(width >= 1) || width > MOST_WIDTH || width != floor(width))
        complain(f, key, "hidden %d times %g is no width", (int)c->hidden, expand);
    else if ((int64_t)width % c->heads)
        complain(f, key, "hidden %d times %g does not divide by %d heads", (int)c->hidden, expand, (int)c->heads);
}

static void check_gla(fault *f, const nb_model_config *c) {
    check_expand(f, "gla.expand_k", c, c->expand_k);
    check_expand(f, "gla.expand_v", c, c->expand_v);
    check_size(f, "gla.gate_low_rank", c->gate_low_rank, MOST_WIDTH);
    if (!(c->gate_normalizer > 0) || !isfinite(c->gate_normalizer))
        complain(f, "gla.gate_normalizer", "expected a number greater than 0");
    if (!(c->gate_clamp <= 0))
        complain(f, "gla.gate_clamp", "%g is out of range: a log decay is at most 0", c->gate_clamp);
}

static double parameters(const nb_model_config *c) {
    double hidden = c->hidden, mixer;
    if (c->family == NB_GLA)
        mixer = hidden * (2 * hidden * c->expand_k + 3 * hidden * c->expand_v);
    else
        mixer = hidden * c->head_dim * (2.0 * c->heads + 2.0 * c->kv_heads);
    return c->layers * (mixer + 3 * hidden * c->intermediate) + (c->tied ? 1 : 2) * hidden * c->vocab;
}

static fault find_fault(const nb_model_config *c) {
    fault f = {0};
    if (c->family < NB_LLAMA || c->family > NB_GLA)
        complain(&f, "family", "is unknown");
    check_size(&f, "vocab", c->vocab, MOST_WIDTH);
    check_size(&f, "hidden", c->hidden, MOST_WIDTH);
    check_size(&f, "layers", c->layers, MOST_LAYERS);
    check_size(&f, "heads", c->heads, 65536);
    check_size(&f, "kv_heads", c->kv_heads, c->heads > 1 ? c->heads : 1);
    check_size(&f, "intermediate", c->intermediate, MOST_WIDTH);
    check_size(&f, "max_seq", c->max_seq, MOST_WIDTH);
    if (!f.key && c->heads % c->kv_heads)
        complain(&f, "kv_heads", "%d does not divide the %d heads", (int)c->kv_heads, (int)c->heads);
    if (!(c->norm_eps > 0) || !(c->norm_eps < 1))
        complain(&f, "norm_eps", "expected a number between 0 and 1");
    if (!(c->init_std > 0) || !(c->init_std < 100))
        complain(&f, "init_std", "expected a number greater than 0");
    if (!f.key && c->family == NB_GLA)
        check_gla(&f, c);
    else if (!f.key)
        check_softmax(&f, c);
    if (!f.key && parameters(c) > MOST_PARAMETERS)
        complain(&f, "hidden", "a model of %g parameters is too large", parameters(c));
    return f;
}

nb_status nb_model_config_check(const nb_model_config *config, nb_error *err) {
    fault f = find_fault(config);
    if (!f.key)
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG, "model %.60s: %s: %s", config->name, f.key, f.why);
}

/* ---- the file ---- */

#define FIELD(member) NB_FIELD(nb_model_file, config.member)
#define INT_KEY(key, member, most) .path = key, .type = NB_KEY_INT, FIELD(member), .low = 1, .high = most
#define FLOAT_KEY(key, member) .path = key, .type = NB_KEY_FLOAT, FIELD(member)

static const nb_word as_heads[] = {{"heads", 0, NULL}, {NULL, 0, NULL}};
static const nb_word by_width[] = {{"hidden/heads", 0, NULL}, {NULL, 0, NULL}};
static const nb_word no_clamp[] = {{"none", -INFINITY, NULL}, {NULL, 0, NULL}};

static const nb_key rows[] = {
    {.path = "name", .type = NB_KEY_TEXT, FIELD(name), .help = "what runs and reports call the model"},
    {.path = "about",
     .type = NB_KEY_TEXT,
     NB_FIELD(nb_model_file, about),
     .fallback = "\"\"",
     .help = "one line about it"},
    {.path = "family", .type = NB_KEY_CHOICE, FIELD(family), .words = families, .help = "the architecture"},
    {INT_KEY("vocab", vocab, MOST_WIDTH), .help = "rows of the embedding; tokens of the data are below it"},
    {INT_KEY("hidden", hidden, MOST_WIDTH), .help = "width of the residual stream"},
    {INT_KEY("layers", layers, MOST_LAYERS), .help = "blocks"},
    {INT_KEY("heads", heads, 65536), .help = "query heads; heads of the linear attention"},
    {INT_KEY("kv_heads", kv_heads, 65536), .fallback = "heads", .words = as_heads,
     .help = "key and value heads, shared by groups of query heads", .source = "no sharing, as LLaMA"},
    {INT_KEY("head_dim", head_dim, 1024), .fallback = "hidden/heads", .words = by_width,
     .help = "width of a head of the softmax families", .source = "LLaMA"},
    {INT_KEY("intermediate", intermediate, MOST_WIDTH), .help = "width inside the SwiGLU MLP"},
    {INT_KEY("max_seq", max_seq, MOST_WIDTH), .fallback = "2048", .help = "longest sequence",
     .source = "arXiv:2501.17116 section 4.1 trains at 2048"},
    {FLOAT_KEY("rope_theta", rope_theta), .fallback = "10000", .positive = true, .help = "base of RoPE's wavelengths",
     .source = "arXiv:2104.09864; LLaMA"},
    {FLOAT_KEY("norm_eps", norm_eps), .fallback = "1e-6", .positive = true, .high = 1,
     .help = "added to the mean square in RMSNorm", .source = "the default of transformers and fla"},
    {FLOAT_KEY("init_std", init_std), .fallback = "0.02", .positive = true, .high = 10,
     .help = "standard deviation of the matrices at first", .source = "GPT-2; the default of transformers and fla"},
    {.path = "tied",
     .type = NB_KEY_BOOL,
     FIELD(tied),
     .fallback = "false",
     .help = "the head is the embedding",
     .source = "LLaMA"},
    {FLOAT_KEY("gla.expand_k", expand_k), .fallback = "0.5", .positive = true, .high = 16,
     .help = "gla: key width of all heads / hidden", .source = "arXiv:2312.06635; fla"},
    {FLOAT_KEY("gla.expand_v", expand_v), .fallback = "1", .positive = true, .high = 16,
     .help = "gla: value width of all heads / hidden", .source = "arXiv:2312.06635; fla"},
    {INT_KEY("gla.gate_low_rank", gate_low_rank, MOST_WIDTH), .fallback = "16",
     .help = "gla: inner width of the gate's projection", .source = "arXiv:2312.06635; fla"},
    {FLOAT_KEY("gla.gate_normalizer", gate_normalizer), .fallback = "16", .positive = true, .high = 1e6,
     .help = "gla: the log decay is divided by it", .source = "arXiv:2312.06635; fla"},
    {FLOAT_KEY("gla.gate_clamp", gate_clamp), .fallback = "none", .low = -1e30, .words = no_clamp,
     .help = "gla: least log decay of a step", .source = "fla"},
};

/* Keys of the other kind of attention say that the file means something else than it gets. */
static nb_status check_kind(const nb_model_config *c, const nb_yaml_node *node, nb_error *err) {
    static const char *const softmax_only[] = {"head_dim", "rope_theta"};
    const char *family = nb_family_name(c->family);
    if (c->family != NB_GLA && nb_yaml_find(node, "gla"))
        return nb_keys_fail(err, node, "gla", "is for family gla, and this is %s", family);
    for (size_t i = 0; c->family == NB_GLA && i < NB_COUNT(softmax_only); i++)
        if (nb_yaml_find(node, softmax_only[i]))
            return nb_keys_fail(err, node, softmax_only[i],
                                "family gla has none; its heads are hidden * expand / heads");
    return NB_OK;
}

static nb_status finish(void *record, const nb_yaml_node *node, nb_error *err) {
    nb_model_config *c = &((nb_model_file *)record)->config;
    if (!*c->name)
        return nb_keys_fail(err, node, "name", "is empty");
    NB_TRY(check_kind(c, node, err));
    if (c->kv_heads == 0)
        c->kv_heads = c->heads;
    if (c->family == NB_GLA) {
        c->head_dim = 0;
        c->rope_theta = 0;
    } else {
        if (c->head_dim == 0 && c->hidden % c->heads)
            return nb_keys_fail(err, node, "heads", "%d does not divide hidden %d; say head_dim to make them differ",
                                (int)c->heads, (int)c->hidden);
        if (c->head_dim == 0)
            c->head_dim = c->hidden / c->heads;
        c->expand_k = c->expand_v = c->gate_normalizer = c->gate_clamp = 0;
        c->gate_low_rank = 0;
    }
    fault f = find_fault(c);
    return f.key ? nb_keys_fail(err, node, f.key, "%s", f.why) : NB_OK;
}

static const char intro[] = "A model file gives the sizes of a decoder. Those in `models/` say where their numbers "
                            "come from. `base: NAME` starts\n"
                            "from another model file.\n";

const nb_keys nb_model_keys = {.name = "model file",
                               .intro = intro,
                               .rows = rows,
                               .count = NB_COUNT(rows),
                               .size = sizeof(nb_model_file),
                               .finish = finish};

bool nb_model_is_folder(const char *name_or_path) {
    struct stat st;
    return strchr(name_or_path, '/') && stat(name_or_path, &st) == 0 && S_ISDIR(st.st_mode);
}

nb_status nb_model_config_load(const char *name_or_path, const char *models_dir, nb_model_config *out, nb_error *err) {
    nb_yaml tree;
    nb_model_file file;
    if (nb_model_is_folder(name_or_path))
        return nb_hf_config_read(name_or_path, out, err);
    NB_TRY(nb_yaml_load_based(name_or_path, models_dir, "model", NULL, &tree, err));
    nb_status status = nb_keys_read(&nb_model_keys, &file, tree.root, err);
    nb_yaml_free(&tree);
    if (status == NB_OK)
        *out = file.config;
    return status;
}
