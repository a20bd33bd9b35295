/* probe.c: `nibble probe`: how much the loss of a checkpoint suffers when one kind of module is quantized at a time,
 * raw and for its share of the parameters (the sensitivity table of arXiv:2602.02047).
 *
 * The recipe's formats are used, its keep list is not: a kind that it protects is measured like the others.
 */
#include "cli/cli.h"
#include "cli/probe_policy.h"
#include "cli/runs.h"
#include "cli/screen.h"
#include "cli/training.h"
#include "files/file.h"
#include "files/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct probe_options {
    const char *backend, *data, *recipe, *out, *policy, *formats;
    int64_t sequences, threads, steps;
    double budget;
} probe_options;

static const ni_option options[] = {
    {"recipe", 0, NI_OPTION_TEXT, offsetof(probe_options, recipe), "R",
     "whose forward formats (default: the trained one)"},
    {"data", 0, NI_OPTION_TEXT, offsetof(probe_options, data), "FILE",
     "token shard, or a pattern of shards (default: data.val of the run)"},
    {"sequences", 0, NI_OPTION_INT, offsetof(probe_options, sequences), "N",
     "how many, spread evenly over the data (default: as the run; 0: all)"},
    {"out", 'o', NI_OPTION_TEXT, offsetof(probe_options, out), "FILE",
     "also writes the table as JSON; nibble report draws probe.json of a run folder"},
    {"policy", 0, NI_OPTION_TEXT, offsetof(probe_options, policy), "FILE",
     "instead: write a recipe that gives every layer the cheapest format within the budget"},
    {"formats", 0, NI_OPTION_TEXT, offsetof(probe_options, formats), "LIST",
     "of --policy, which adds bf16 (mxfp4,nvfp4,mxfp8)"},
    {"budget", 0, NI_OPTION_FLOAT, offsetof(probe_options, budget), "E",
     "of --policy: largest relative error of a layer's products (0.15)"},
    {"steps", 0, NI_OPTION_INT, offsetof(probe_options, steps), "N",
     "of --policy: steps in BF16 from the checkpoint that are watched (2)"},
    {"backend", 0, NI_OPTION_TEXT, offsetof(probe_options, backend), "NAME", "cpu (default), cuda or cuda:NUMBER"},
    {"threads", 0, NI_OPTION_INT, offsetof(probe_options, threads), "N", "threads (default: all)"},
    {0},
};

static const ni_command_line line = {
    .usage = "CHECKPOINT|RUN [--recipe R] [--data FILE] [--sequences N] [-o FILE]\n"
             "CHECKPOINT|RUN --policy FILE [--recipe R] [--formats LIST] [--budget E] [--steps N]",
    .about =
        "Evaluates a checkpoint with one kind of module quantized at a time (all q_proj, then all k_proj, ...) and in\n"
        "BF16. Prints each loss, its gap to BF16 in %, and that gap over the kind's share of the parameters of linear\n"
        "layers. What the recipe keeps in BF16 is measured too; its mechanisms do not run.\n"
        "  nibble probe runs/tiny/checkpoints/step-00001000 --recipe nvfp4 --data data/val.bin\n"
        "With --policy it trains on in BF16 for a few steps instead, of which nothing is kept, measures what X, W and "
        "dY\n"
        "of each layer lose under each format (|x - Q(x)| / |x|; squares added over the operands of a product; the "
        "worst\n"
        "of a layer's three products) and writes a recipe: base R (nvfp4), for each layer the format of fewest bits.",
    .options = options,
    .least = 1,
    .most = 1,
};

/* ---- kinds of modules ---- */

enum { MOST_KINDS = NB_KEEP_MODULES - 2 }; /* the others must fit a keep list, with embedding and head */

typedef struct kind {
    char name[NB_NAME_SIZE]; /* "self_attn.q_proj" */
    int64_t parameters;
} kind;

typedef struct kinds {
    kind items[MOST_KINDS];
    int32_t count;
    int64_t parameters; /* of all */
} kinds;

/* "model.layers.3.mlp.up_proj.weight" -> "mlp.up_proj"; false for what is no linear layer of a block. */
static bool kind_of(const nb_param *param, char *name) {
    static const char prefix[] = "model.layers.", suffix[] = ".weight";
    if (param->rank != 2 || strncmp(param->name, prefix, sizeof prefix - 1) != 0)
        return false;
    const char *begin = strchr(param->name + sizeof prefix - 1, '.');
    size_t length = begin ? strlen(++begin) : 0;
    if (length < sizeof suffix || strcmp(begin + length - (sizeof suffix - 1), suffix) != 0)
        return false;
    memcpy(name, begin, length - (sizeof suffix - 1));
    name[length - (sizeof suffix - 1)] = 0;
    return true;
}

static nb_status find_kinds(const nb_model *model, kinds *out, nb_error *err) {
    *out = (kinds){0};
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *param = nb_model_param(model, i);
        char name[NB_NAME_SIZE];
        int32_t k = 0;
        if (!kind_of(param, name))
            continue;
        while (k < out->count && strcmp(out->items[k].name, name) != 0)
            k++;
        if (k == MOST_KINDS)
            return nb_fail(err, NB_UNSUPPORTED, "the model has more than %d kinds of linear layers", MOST_KINDS);
        if (k == out->count)
            memcpy(out->items[out->count++].name, name, sizeof name);
        out->items[k].parameters += param->rows * param->cols;
        out->parameters += param->rows * param->cols;
    }
    return NB_OK;
}

/* The recipe with nothing in BF16 but embedding, head and the kinds other than `which` (-1: nothing
 * is quantized; count: everything is). */
static nb_recipe quantizing(const nb_recipe *recipe, const kinds *all, int32_t which) {
    nb_recipe only = *recipe;
    only.mechanisms = (nb_mechanism_set){0};
    only.late_switch.at = 1;
    only.keep = (nb_keep){.modules = {"embedding", "lm_head"}, .module_count = 2};
    for (int32_t k = 0; k < all->count && which < all->count; k++)
        if (k != which)
            snprintf(only.keep.modules[only.keep.module_count++], NB_NAME_SIZE, "layers.*.%.100s", all->items[k].name);
    return only;
}

/* ---- evaluating ---- */

typedef struct probe {
    nb_backend *be;
    const char *folder;
    const probe_options *given;
    char data[NB_PATH_SIZE];
    nb_recipe recipe;
    kinds kinds;
    json_t *rows; /* of --out */
} probe;

/* Recipe, data and kinds, from the checkpoint where they are not given. */
static nb_status open_probe(probe *p, nb_error *err) {
    char recipes[NB_PATH_SIZE];
    nb_loaded loaded;
    if (p->given->recipe) {
        NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
        NB_TRY(nb_recipe_load(p->given->recipe, recipes, &p->recipe, err));
    }
    NB_TRY(nb_load_checkpoint(p->be, p->folder, p->given->recipe ? &p->recipe : NULL, 0, 0, &loaded, err));
    p->recipe = loaded.recipe;
    snprintf(p->data, sizeof p->data, "%s", p->given->data ? p->given->data : loaded.info.config.data.val);
    nb_status status = find_kinds(loaded.model, &p->kinds, err);
    nb_loaded_free(&loaded);
    NB_TRY(status);
    if (!p->data[0])
        return nb_fail(err, NB_BAD_USAGE, "--data is missing, and the run has no data.val");
    if (nb_quantizer_is_bf16(&p->recipe.roles[NB_FPROP_X].quantizer) &&
        nb_quantizer_is_bf16(&p->recipe.roles[NB_FPROP_W].quantizer))
        return nb_fail(err, NB_BAD_USAGE, "recipe %s quantizes nothing in the forward pass; give another with --recipe",
                       p->recipe.name);
    return NB_OK;
}

static nb_status loss_of(const probe *p, int32_t which, nb_eval_report *report, nb_error *err) {
    nb_recipe recipe = quantizing(&p->recipe, &p->kinds, which);
    nb_loaded loaded;
    NB_TRY(nb_load_checkpoint(p->be, p->folder, &recipe, 0, 0, &loaded, err));
    int64_t sequences;
    nb_status status = ni_cli_sequences(p->given->sequences, &loaded.info.config, &sequences, err);
    if (status == NB_OK)
        status = nb_loaded_evaluate(&loaded, p->data, sequences, report, err);
    nb_loaded_free(&loaded);
    return status;
}

static nb_status write_table(const probe *p, const nb_eval_report *bf16, nb_error *err) {
    json_t *table = json_pack("{s:i, s:s, s:s, s:I, s:I, s:f, s:O}", "version", 1, "recipe", p->recipe.name, "data",
                              p->data, "step", (json_int_t)bf16->step, "tokens", (json_int_t)bf16->tokens, "bf16",
                              bf16->loss, "rows", p->rows);
    char *text = ni_json_text(table, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    nb_status status = text ? ni_file_write(p->given->out, text, strlen(text), err)
                            : nb_fail(err, NB_NO_MEMORY, "%s: out of memory", p->given->out);
    free(text);
    json_decref(table);
    return status;
}

static nb_status run(probe *p, nb_error *err) {
    nb_eval_report report;
    char tokens[32];
    NB_TRY(open_probe(p, err));
    NB_TRY(loss_of(p, -1, &report, err));
    const nb_eval_report plain = report;
    const double bf16 = report.loss;
    printf("loss with one kind of module quantized by %s; %s tokens of %s, step %lld\n\n", p->recipe.name,
           ni_count_text(report.tokens, tokens, sizeof tokens), p->data, (long long)report.step);
    printf("%-22s %13s %7s %10s %9s %13s\n", "quantized", "parameters", "share", "loss", "gap %", "gap % / share");
    printf("%-22s %13s %7s %10.6f\n", "none (bf16)", "", "", bf16);
    for (int32_t k = 0; k <= p->kinds.count; k++) {
        bool all = k == p->kinds.count;
        int64_t parameters = all ? p->kinds.parameters : p->kinds.items[k].parameters;
        double share = (double)parameters / (double)p->kinds.parameters;
        NB_TRY(loss_of(p, k, &report, err));
        double gap = 100 * (report.loss - bf16) / bf16;
        printf("%-22s %13s %7.4f %10.6f %+9.4f %+13.4f\n", all ? "all" : p->kinds.items[k].name,
               ni_count_text(parameters, tokens, sizeof tokens), share, report.loss, gap, gap / share);
        ni_json_push(&p->rows, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f}", "name", all ? "all" : p->kinds.items[k].name,
                                         "parameters", (json_int_t)parameters, "share", share, "loss", report.loss,
                                         "gap", gap, "gapPerShare", gap / share));
    }
    return p->given->out ? write_table(p, &plain, err) : NB_OK;
}

nb_status ni_cli_probe(int argc, char **argv, nb_error *err) {
    probe_options given = {.sequences = NI_OF_RUN, .steps = 2, .budget = 0.15};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &given, &count, err));
    if (count < 0)
        return NB_OK;
    char folder[NB_PATH_SIZE];
    NB_TRY(ni_cli_checkpoint(argv[1], folder, err));
    probe *p = calloc(1, sizeof *p);
    if (!p)
        return nb_fail(err, NB_NO_MEMORY, "probe: out of memory");
    *p = (probe){.folder = folder, .given = &given, .rows = json_array()};
    nb_status status = ni_cli_open(given.backend, given.threads, &p->be, err);
    if (status == NB_OK) {
        const ni_policy_probe how = {folder, given.recipe, given.formats, given.policy, given.budget, given.steps};
        status = given.policy ? ni_cli_probe_policy(p->be, &how, err) : run(p, err);
        nb_backend_free(p->be);
    }
    json_decref(p->rows);
    free(p);
    return status;
}
