/* recipe_yaml.c: the keys of a recipe file; loads and prints it. */
#include "recipe/recipe_yaml.h"
#include "base/text.h"
#include "recipe/mechanism.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECIPE(field) NI_FIELD(ni_recipe_file, recipe.field)
#define MECHANISM(name, about)                                                                                         \
    {.path = #name,                                                                                                    \
     .type = NI_KEY_TABLE,                                                                                             \
     RECIPE(mechanisms.name),                                                                                          \
     .table = &ni_##name##_section.keys,                                                                               \
     NI_OPTIONAL(ni_recipe_file, recipe.mechanisms.has_##name),                                                        \
     .help = about},
#define ROLE(role) NI_FIELD(ni_recipe_file, roles[role]), .table = &ni_operand_keys

#define HALF_AND_MORE                                                                                                  \
    {"fp32", NB_F32, "not narrowed"}, {"bf16", NB_BF16, "8 bits of precision, the range of FP32"}, {                   \
        "fp16", NB_F16, "11 bits of precision under a scale a tensor"                                                  \
    }
static const ni_word wide_types[] = {HALF_AND_MORE, {0}};
static const ni_word narrow_types[] = {HALF_AND_MORE,
                                       {"e4m3", NB_E4M3, "FP8 with 4 bits of precision under a scale a tensor"},
                                       {"e5m2", NB_E5M2, "FP8 with 3 bits of precision under a scale a tensor"},
                                       {0}};
static const ni_word weight_sources[] = {
    {"fp32", NB_F32, "the masters"}, {"bf16", NB_BF16, "their BF16 copy, as a layer in BF16 multiplies it"}, {0}};
static const ni_word state_scales[] = {
    {"pow2", NB_RULE_POW2, "2^floor(log2(max/amax))"}, {"absmax", NB_RULE_ABSMAX, "max/amax"}, {0}};

static const ni_word exchange_rules[] = {
    {"own", NB_EXCHANGE_OWN,
     "in fp32, each sum rounded once under a scale made from it; any number of ranks, one result"},
    {"fp8-lm", NB_EXCHANGE_FP8_LM,
     "in FP8 under the smallest of the ranks' scales times mu; each number of ranks has bits of its own"},
    {0}};
static const ni_word first_mus[] = {{"root", 0, "1/sqrt(ranks)"}, {0}};

static const ni_word attention_sums[] = {
    {"fp32", NB_ATTENTION_F32, "P, O and all sums; O is rounded once"},
    {"bf16", NB_ATTENTION_BF16,
     "P, the product of a tile and the sum so far: biased where a row has its maximum twice"},
    {"bf16-shifted", NB_ATTENTION_BF16_SHIFTED, "the same, with such a row's maximum shifted so that no P is 1"},
    {0}};

static const ni_word attention_formats[] = {
    {"bf16", NB_ATTENTION_BF16_OPERANDS, "as they are"},
    {"nvfp4", NB_ATTENTION_NVFP4, "E2M1 in blocks of 16 under E4M3, no scale of the tensor"},
    {"mxfp4", NB_ATTENTION_MXFP4, "E2M1 in blocks of 32 under a power of two, rounded down"},
    {0}};
static const ni_word attention_backwards[] = {
    {"same", NB_ATTENTION_SAME, "S and P of the operands that forward multiplied, dV of the rounded P"},
    {"bf16", NB_ATTENTION_AS_IN_BF16,
     "S and P of what was not rounded, under the lse and the O of what was: the mismatch that arXiv:2603.00040 warns "
     "of"},
    {0}};
static const ni_word attention_deltas[] = {
    {"exact", NB_ATTENTION_EXACT, "the row's sum of P dP: dO times the O of a P that is not rounded"},
    {"output", NB_ATTENTION_OF_OUTPUT, "dO times the O that forward gave, as flash attention has it"},
    {0}};
static const ni_word attention_levels[] = {
    {"one", NB_ATTENTION_ONE_LEVEL, "exp(S - maximum) goes to its blocks' scales as it is"},
    {"two", NB_ATTENTION_TWO_LEVELS, "it is stretched to 448 * 6 first, so that their scales have all of E4M3"},
    {0}};
static const ni_word attention_blocks[] = {
    {"keys", NB_ATTENTION_ALONG_KEYS,
     "along the contraction of P V; a scale looks at up to 15 (31) keys that its query does not see"},
    {"head", NB_ATTENTION_ALONG_HEAD, "a key by itself; no unit multiplies such blocks"},
    {0}};

static const ni_key rows[] = {
    {.path = "name", .type = NI_KEY_TEXT, RECIPE(name), .help = "what runs and reports call the recipe"},
    {.path = "family",
     .type = NI_KEY_TEXT,
     RECIPE(family),
     .fallback = "\"\"",
     .help = "the work that it belongs to; `nibble recipe list` groups by it"},
    {.path = "about", .type = NI_KEY_TEXT, RECIPE(about), .fallback = "\"\"", .help = "one line about it"},
    {.path = "paper", .type = NI_KEY_TEXT, RECIPE(paper), .fallback = "\"\"", .help = "where it was published"},
    {.path = "keep.modules",
     .type = NI_KEY_TEXTS,
     NI_FIELD_TEXTS(ni_recipe_file, recipe.keep.modules, recipe.keep.module_count),
     .fallback = "[embedding, lm_head]",
     .help = "patterns over module names that stay in BF16; * stands for anything: \"*.o_proj\", \"layers.0.*\"",
     .source = "every recipe here keeps them (arXiv:2509.25149 section 4.1)"},
    {.path = "keep.first_blocks",
     .type = NI_KEY_FLOAT,
     RECIPE(keep.first_blocks),
     .fallback = "0",
     .high = 10000,
     .help = "blocks at the input that stay in BF16; below 1 a share of the depth, rounded up",
     .source = "none unless the recipe says so"},
    {.path = "keep.last_blocks",
     .type = NI_KEY_FLOAT,
     RECIPE(keep.last_blocks),
     .fallback = "0",
     .high = 10000,
     .help = "blocks at the output that stay in BF16; below 1 a share of the depth, rounded up",
     .source = "none unless the recipe says so"},
    {.path = "policy.formats",
     .type = NI_KEY_TEXTS,
     NI_FIELD_TEXTS(ni_recipe_file, recipe.policy.formats, recipe.policy.format_count),
     .fallback = "[]",
     .help =
         "formats that layers may have in the place of the recipe's own, as mxfp4 or \"{format: nvfp4}\"; at most 10",
     .source = "none unless the recipe says so"},
    {.path = "policy.layers",
     .type = NI_KEY_TEXTS,
     NI_FIELD_TEXTS(ni_recipe_file, recipe.policy.layers, recipe.policy.layer_count),
     .fallback = "[]",
     .help = "a linear layer and a digit a block, an index of policy.formats: \"mlp.up_proj 0012\"; '.' leaves the "
             "recipe's own. `nibble probe --policy` writes it",
     .source = "none unless the recipe says so"},
    {.path = "late_switch.at",
     .type = NI_KEY_FLOAT,
     RECIPE(late_switch.at),
     .fallback = "1",
     .high = 1,
     .help = "share of the run after which GEMMs run in BF16; 1: never",
     .source = "the main experiments of every recipe here"},
    {.path = "late_switch.forward",
     .type = NI_KEY_BOOL,
     RECIPE(late_switch.forward),
     .fallback = "true",
     .help = "the switch concerns fprop",
     .source = "both directions close the gap (arXiv:2509.25149 section 5)"},
    {.path = "late_switch.backward",
     .type = NI_KEY_BOOL,
     RECIPE(late_switch.backward),
     .fallback = "true",
     .help = "the switch concerns dgrad and wgrad",
     .source = "both directions close the gap (arXiv:2509.25149 section 5)"},
    {.path = "late_switch.rho",
     .type = NI_KEY_FLOAT,
     RECIPE(late_switch.rho),
     .fallback = "0",
     .high = 1e9,
     .help =
         "dgrad and wgrad go to BF16 for good once rms(dY) is below so many times the rms of its rounding error, as "
         "1.732; 0: never",
     .source = "none unless the recipe says so; arXiv:2505.19115 states sqrt(3)"},
    {.path = "late_switch.layers",
     .type = NI_KEY_FLOAT,
     RECIPE(late_switch.layers),
     .fallback = "0.5",
     .high = 1,
     .help = "... for more than this share of the dY operands",
     .source = "our choice: the paper speaks of the gradient as a whole"},
    {.path = "late_switch.every",
     .type = NI_KEY_INT,
     RECIPE(late_switch.every),
     .fallback = "100",
     .low = 1,
     .high = 1000000000,
     .help = "steps from look to look, each at the first micro-batch",
     .source = "our choice: as the lens"},
    {.path = "fprop.x", .type = NI_KEY_TABLE, ROLE(NB_FPROP_X), .help = "X [M, K] of Y = X W^T"},
    {.path = "fprop.w", .type = NI_KEY_TABLE, ROLE(NB_FPROP_W), .help = "W [N, K] of Y = X W^T"},
    {.path = "dgrad.dy", .type = NI_KEY_TABLE, ROLE(NB_DGRAD_DY), .help = "dY [M, N] of dX = dY W"},
    {.path = "dgrad.w", .type = NI_KEY_TABLE, ROLE(NB_DGRAD_W), .help = "W^T [K, N] of dX = dY W"},
    {.path = "wgrad.dy", .type = NI_KEY_TABLE, ROLE(NB_WGRAD_DY), .help = "dY^T [N, M] of dW = dY^T X"},
    {.path = "wgrad.x", .type = NI_KEY_TABLE, ROLE(NB_WGRAD_X), .help = "X^T [K, M] of dW = dY^T X"},
    {.path = "quantize_from",
     .type = NI_KEY_CHOICE,
     RECIPE(quantize_from),
     .fallback = "fp32",
     .words = weight_sources,
     .help = "the numbers of W that are quantized. OsciReset, the moving average of Q-EMA and the optimizer see the "
             "masters",
     .source = "every recipe here; the released runs of arXiv:2510.27527 shard a BF16 copy (FSDP)"},
    {.path = "attention.sums",
     .type = NI_KEY_CHOICE,
     RECIPE(attention.sums),
     .fallback = "fp32",
     .words = attention_sums,
     .help = "in what numbers softmax attention multiplies P by V, forward; on the CPU",
     .source = "FP32 in every recipe here; the others are what arXiv:2510.04212 looks at"},
    {.path = "attention.tile",
     .type = NI_KEY_INT,
     RECIPE(attention.tile),
     .fallback = "512",
     .low = 1,
     .high = 1e6,
     .help = "keys after which sums in BF16 are rounded",
     .source = "the code of arXiv:2510.04212"},
    {.path = "attention.beta",
     .type = NI_KEY_FLOAT,
     RECIPE(attention.beta),
     .fallback = "2",
     .low = 1,
     .high = 64,
     .help = "bf16-shifted: how many times a repeated positive maximum is subtracted",
     .source = "the code of arXiv:2510.04212; its paper has 7 of 2 to 8"},
    {.path = "attention.forward",
     .type = NI_KEY_CHOICE,
     RECIPE(attention.forward),
     .fallback = "bf16",
     .words = attention_formats,
     .help = "what Q, K, P and V of softmax attention become before they are multiplied",
     .source = "BF16 in every recipe here; four bits are arXiv:2603.00040's"},
    {.path = "attention.backward",
     .type = NI_KEY_CHOICE,
     RECIPE(attention.backward),
     .fallback = "same",
     .words = attention_backwards,
     .help = "forward in four bits: what the backward pass makes again",
     .source = "arXiv:2603.00040"},
    {.path = "attention.delta",
     .type = NI_KEY_CHOICE,
     RECIPE(attention.delta),
     .fallback = "exact",
     .words = attention_deltas,
     .help = "backward same: what a row of dP is taken below of",
     .source = "arXiv:2603.00040, which keeps that O for it"},
    {.path = "attention.p_levels",
     .type = NI_KEY_CHOICE,
     RECIPE(attention.p_levels),
     .fallback = "one",
     .words = attention_levels,
     .help = "forward nvfp4: how P comes to its blocks' scales",
     .source = "the code of arXiv:2603.00040; two is arXiv:2505.11594's"},
    {.path = "attention.v_blocks",
     .type = NI_KEY_CHOICE,
     RECIPE(attention.v_blocks),
     .fallback = "keys",
     .words = attention_blocks,
     .help = "forward in four bits: along what V has its blocks",
     .source = "arXiv:2505.11594, and what block-scaled units multiply; arXiv:2603.00040's training code has head"},
    {.path = "attention.smooth_k",
     .type = NI_KEY_BOOL,
     RECIPE(attention.smooth_k),
     .fallback = "false",
     .help = "forward in four bits: K less its mean over the sequence, a head at a time",
     .source = "arXiv:2603.00040, which does without; true is arXiv:2505.11594's"},
    {.path = "optimizer_state.m",
     .type = NI_KEY_CHOICE,
     RECIPE(optimizer_state.m),
     .fallback = "fp32",
     .words = narrow_types,
     .help = "AdamW's first moment between steps",
     .source = "what every recipe here assumes but arXiv:2501.17116 and arXiv:2310.18313"},
    {.path = "optimizer_state.v",
     .type = NI_KEY_CHOICE,
     RECIPE(optimizer_state.v),
     .fallback = "fp32",
     .words = wide_types,
     .help = "its second moment; no 8-bit type holds what 1 - beta2 changes in a step",
     .source = "as for m"},
    {.path = "optimizer_state.master",
     .type = NI_KEY_CHOICE,
     RECIPE(optimizer_state.master),
     .fallback = "fp32",
     .words = wide_types,
     .help = "weights of linear layers between steps; norms, biases and embeddings stay in fp32",
     .source = "every recipe here; arXiv:2501.17116 does not say, the code of arXiv:2310.18313 keeps fp16"},
    {.path = "optimizer_state.scale",
     .type = NI_KEY_CHOICE,
     RECIPE(optimizer_state.scale),
     .fallback = "pow2",
     .words = state_scales,
     .help = "how a tensor's largest magnitude becomes its scale (fp16 and 8 bits)",
     .source = "the code of arXiv:2310.18313 (MS-AMP)"},
    {.path = "gradients.format",
     .type = NI_KEY_CHOICE,
     RECIPE(gradients.format),
     .fallback = "fp32",
     .words = narrow_types,
     .help = "weight gradients of a micro-batch and their sums over micro-batches",
     .source = "what every recipe here assumes but arXiv:2501.17116 and arXiv:2310.18313"},
    {.path = "gradients.scale",
     .type = NI_KEY_CHOICE,
     RECIPE(gradients.scale),
     .fallback = "pow2",
     .words = state_scales,
     .help = "how a tensor's largest magnitude becomes its scale (fp16 and 8 bits)",
     .source = "the code of arXiv:2310.18313 (MS-AMP)"},
    {.path = "gradients.exchange.rule",
     .type = NI_KEY_CHOICE,
     RECIPE(gradients.exchange.rule),
     .fallback = "own",
     .words = exchange_rules,
     .help = "how ranks add up gradients of 8 bits",
     .source = "our choice: no sum saturates, and the number of ranks changes no bit"},
    {.path = "gradients.exchange.mu",
     .type = NI_KEY_FLOAT,
     RECIPE(gradients.exchange.mu),
     .fallback = "root",
     .words = first_mus,
     .positive = true,
     .help = "fp8-lm: the factor on every tensor's scale at the first step",
     .source = "the code of arXiv:2310.18313 (MS-AMP); the paper gives none"},
    {.path = "gradients.exchange.saturated",
     .type = NI_KEY_FLOAT,
     RECIPE(gradients.exchange.saturated),
     .fallback = "1e-5",
     .high = 1,
     .help = "fp8-lm: share of a sum's numbers that are the type's largest, above which a tensor's mu is halved",
     .source = "arXiv:2310.18313 section 2.1 (0.001 %)"},
    {.path = "gradients.exchange.steps",
     .type = NI_KEY_INT,
     RECIPE(gradients.exchange.steps),
     .fallback = "1000",
     .low = 1,
     .high = 1e9,
     .help = "fp8-lm: steps in which mu doubles where it is not halved",
     .source = "arXiv:2310.18313 section 2.1"},
    /* A section that is absent leaves the mechanism off. Their keys stand in src/linear/NAME.c. */
    NB_MECHANISMS(MECHANISM)};

static nb_status read_role(const ni_operand_fields *fields, const ni_yaml_node *root, nb_role role,
                           nb_operand_rule *out, nb_error *err) {
    const ni_yaml_node *node = ni_yaml_find(root, nb_role_name(role));
    bool from = fields->from >= 0;
    if (!from && fields->via < 0 && ni_operand_says_no_quantizer(fields))
        return ni_keys_fail(err, root, nb_role_name(role), "is missing; expected an operand, as {format: bf16}");
    *out = (nb_operand_rule){.from = from,
                             .source = from ? (nb_role)fields->from : NB_FPROP_X,
                             .requantize = from && !ni_operand_says_no_quantizer(fields),
                             .via = fields->via >= 0 ? (nb_via)fields->via : NB_VIA_NONE,
                             .shared_noise = fields->noise == 1,
                             .quantizer = nb_quantizer_bf16()};
    const bool delayed = fields->outer == NI_OUTER_DELAYED;
    if (fields->headroom >= 0 && !delayed)
        return ni_keys_fail(err, root, nb_role_name(role), "`headroom` is for `outer: delayed`");
    out->headroom = !delayed ? 0 : fields->headroom >= 0 ? fields->headroom : NI_HEADROOM;
    return from && !out->requantize ? NB_OK : ni_quantizer_resolve(fields, node, &out->quantizer, err);
}

static nb_status check_blocks(const ni_yaml_node *root, const char *path, double blocks, nb_error *err) {
    if (blocks >= 1 && blocks != floor(blocks))
        return ni_keys_fail(err, root, path, "expected a share below 1 or a whole number of blocks");
    return NB_OK;
}

static nb_status finish(void *record, const ni_yaml_node *node, nb_error *err) {
    ni_recipe_file *file = record;
    nb_recipe *recipe = &file->recipe;
    if (!*recipe->name)
        return ni_keys_fail(err, node, "name", "is empty");
    NB_TRY(check_blocks(node, "keep.first_blocks", recipe->keep.first_blocks, err));
    NB_TRY(check_blocks(node, "keep.last_blocks", recipe->keep.last_blocks, err));
    for (int role = 0; role < NB_ROLE_COUNT; role++)
        NB_TRY(read_role(&file->roles[role], node, (nb_role)role, &recipe->roles[role], err));
    /* `from` alone carries its source's quantizer. A source that is itself `from` is refused below. */
    for (int role = 0; role < NB_ROLE_COUNT; role++) {
        nb_operand_rule *rule = &recipe->roles[role];
        if (rule->from && !rule->requantize)
            rule->quantizer = recipe->roles[rule->source].quantizer;
    }
    return ni_recipe_check(recipe, node, err);
}

static const char intro[] =
    "A recipe says for each of the six operands of a linear layer how it is quantized, which layers stay in BF16, and\n"
    "from when. `nibble recipe show NAME` prints one with every default filled in.\n\n"
    "The three GEMMs of a layer with input X [M, K], weight W [N, K] and output gradient dY [M, N], and their "
    "operands\n"
    "(each with the contraction last):\n\n"
    "| GEMM | product | operands |\n|---|---|---|\n"
    "| fprop | Y = X W^T | `fprop.x` [M, K], `fprop.w` [N, K] |\n"
    "| dgrad | dX = dY W | `dgrad.dy` [M, N], `dgrad.w` [K, N] |\n"
    "| wgrad | dW = dY^T X | `wgrad.dy` [N, M], `wgrad.x` [K, M] |\n\n"
    "An operand is a map of the keys below, or an alias: `bf16`, `nvfp4`, `nvfp4-2d` (16x16 blocks), `nvfp4-outer128`\n"
    "(a scale above each 1x128), `mxfp4`, `mxfp8`, `fp4-row`, `fp4-tensor`. All six must be said, in the file or in "
    "its\n"
    "base.\n\n"
    "`base: NAME` starts from another recipe (or, as `base: ./file.yaml`, from a file beside this one): keys merge, "
    "lists\n"
    "are replaced, `key: null` goes back to the default. An operand that names `format` or `from` replaces the base's\n"
    "operand whole; one that does not changes single keys of it. `name` is never the base's: a file that says none "
    "is\n"
    "called as it is called itself, without `.yaml`.\n\n"
    "Refused, with file and line: unknown keys; two operands of one GEMM that are rotated differently or whose blocks\n"
    "differ along the contraction; a forward operand taken from a backward one; codes taken from another role whose\n"
    "scales then lie on the contraction, unless `via` says what happens to them.\n";

const ni_keys ni_recipe_keys = {.name = "recipe file",
                                .intro = intro,
                                .rows = rows,
                                .count = NI_COUNT(rows),
                                .size = sizeof(ni_recipe_file),
                                .finish = finish};

bool ni_recipe_replaces(const ni_yaml_node *over) {
    return ni_yaml_child(over, "format") || ni_yaml_child(over, "from");
}

nb_status ni_recipe_read(const ni_yaml_node *root, nb_recipe *out, nb_error *err) {
    ni_recipe_file file;
    NB_TRY(ni_keys_read(&ni_recipe_keys, &file, root, err));
    *out = file.recipe;
    return NB_OK;
}

nb_status ni_recipe_load_tree(const char *name_or_path, const char *recipes_dir, nb_recipe *out, ni_yaml *tree,
                              nb_error *err) {
    NB_TRY(ni_yaml_load_based(name_or_path, recipes_dir, "recipe", ni_recipe_replaces, tree, err));
    nb_status status = ni_recipe_read(tree->root, out, err);
    if (status != NB_OK)
        ni_yaml_free(tree);
    return status;
}

nb_status nb_recipe_load(const char *name_or_path, const char *recipes_dir, nb_recipe *out, nb_error *err) {
    ni_yaml tree;
    NB_TRY(ni_recipe_load_tree(name_or_path, recipes_dir, out, &tree, err));
    ni_yaml_free(&tree);
    return NB_OK;
}

nb_status nb_recipe_open(const char *name_or_path, const char *recipes_dir, nb_recipe **out, nb_error *err) {
    *out = malloc(sizeof **out);
    if (!*out)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a recipe");
    nb_status status = nb_recipe_load(name_or_path, recipes_dir, *out, err);
    if (status == NB_OK)
        return NB_OK;
    free(*out);
    *out = NULL;
    return status;
}

void nb_recipe_close(nb_recipe *recipe) {
    free(recipe);
}

size_t nb_recipe_text(const nb_recipe *recipe, char *text, size_t size) {
    char *whole = NULL;
    size_t length = 0;
    FILE *to = open_memstream(&whole, &length);
    if (!to)
        return 0;
    bool printed = ni_recipe_print(recipe, NULL, NI_COMMENTS_NONE, to);
    whole = ni_memory_text(to, &whole, printed);
    if (!whole)
        return 0;
    if (size)
        snprintf(text, size, "%s", whole);
    length = strlen(whole);
    free(whole);
    return length;
}

bool ni_recipe_print(const nb_recipe *recipe, const ni_yaml_node *root, ni_keys_comments comments, FILE *to) {
    ni_recipe_file file = {.recipe = *recipe};
    for (int i = 0; i < NB_ROLE_COUNT; i++) {
        const nb_operand_rule *rule = &recipe->roles[i];
        bool alone = rule->from && !rule->requantize;
        file.roles[i] = alone ? ni_operand_no_fields() : ni_quantizer_to_fields(&rule->quantizer);
        if (rule->from)
            file.roles[i].from = (int32_t)rule->source;
        if (rule->via != NB_VIA_NONE)
            file.roles[i].via = (int32_t)rule->via;
        if (rule->shared_noise)
            file.roles[i].noise = 1;
        if (rule->headroom) {
            file.roles[i].outer = NI_OUTER_DELAYED;
            file.roles[i].headroom = rule->headroom;
        }
    }
    return ni_keys_print(&ni_recipe_keys, &file, root, comments, to);
}
