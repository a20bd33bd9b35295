/* recipe.c: `nibble recipe`: list, show and check recipes. */
#include "cli/cli.h"
#include "format/element.h"
#include "recipe/recipe_yaml.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct recipe_options {
    bool yaml;
} recipe_options;

static const ni_option options[] = {
    {"yaml", 0, NI_OPTION_FLAG, offsetof(recipe_options, yaml), NULL,
     "show: only the effective recipe, as a file that can be used again"},
    {0},
};

static const ni_command_line line = {
    .usage = "list\nshow NAME|FILE [--yaml]\ncheck FILE...",
    .about = "list    the recipes that come with nibble, by the work that they belong to\n"
             "show    the six operands and every key with its default filled in and where it comes from\n"
             "check   reads recipe files and says what is wrong with the first bad one\n\n"
             "The grammar: nibble help --keys recipe",
    .options = options,
    .least = 1,
    .most = -1,
};

/* ---- list ---- */

static int is_recipe(const struct dirent *entry) {
    size_t n = strlen(entry->d_name);
    return n > 5 && strcmp(entry->d_name + n - 5, ".yaml") == 0;
}

static nb_status load_from(const char *folder, const char *file, nb_recipe *out, nb_error *err) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", folder, file);
    if (n < 0 || (size_t)n >= sizeof path)
        return nb_fail(err, NB_BAD_USAGE, "the path of %s is too long", file);
    return nb_recipe_load(path, folder, out, err);
}

static int by_family(const void *a, const void *b) {
    const nb_recipe *x = a, *y = b;
    int first = (strcmp(y->family, "Baselines") == 0) - (strcmp(x->family, "Baselines") == 0);
    int family = first ? first : strcmp(x->family, y->family);
    return family ? family : strcmp(x->name, y->name);
}

/* A heading a family. */
static void print_list(const nb_recipe *recipes, int count) {
    int width = 0;
    for (int i = 0; i < count; i++)
        width = (int)strlen(recipes[i].name) > width ? (int)strlen(recipes[i].name) : width;
    for (int i = 0; i < count; i++) {
        const nb_recipe *r = &recipes[i];
        if (i == 0 || strcmp(r->family, recipes[i - 1].family) != 0)
            printf("%s%s\n", i ? "\n" : "", *r->family ? r->family : "Of no family");
        printf("  %-*s  %-16s  %s\n", width, r->name, r->paper, r->about);
    }
}

static nb_status list(nb_error *err) {
    char folder[4096];
    struct dirent **entries;
    NB_TRY(ni_cli_folder("recipes", folder, sizeof folder, err));
    int count = scandir(folder, &entries, is_recipe, alphasort);
    if (count < 0)
        return nb_fail(err, NB_IO_ERROR, "%s: %s", folder, strerror(errno));
    nb_recipe *recipes = malloc((size_t)(count ? count : 1) * sizeof *recipes);
    nb_status status = recipes ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory for %d recipes", count);
    for (int i = 0; i < count; i++) {
        if (status == NB_OK)
            status = load_from(folder, entries[i]->d_name, &recipes[i], err);
        free(entries[i]);
    }
    free(entries);
    if (status == NB_OK) {
        qsort(recipes, (size_t)count, sizeof *recipes, by_family);
        print_list(recipes, count);
    }
    free(recipes);
    return status;
}

/* ---- show ---- */

/* The cells of one operand's row. */
typedef struct cells {
    char text[7][64];
} cells;

static const char *block_text(const nb_quantizer *q, char *text, size_t size) {
    if (q->block_rows != NB_BLOCK_ALL && q->block_cols != NB_BLOCK_ALL)
        snprintf(text, size, "%dx%d", (int)q->block_rows, (int)q->block_cols);
    else
        snprintf(text, size, "%s", q->block_rows ? "row" : q->block_cols ? "column" : "tensor");
    return text;
}

static cells quantizer_cells(const nb_quantizer *q) {
    cells c = {0};
    static const char *const outer[] = {"-", "tensor", "unit", "1x128 fp32", "1x128 pow2"};
    ni_operand_fields fields = ni_quantizer_to_fields(q);
    snprintf(c.text[1], sizeof c.text[1], "%s", ni_format_family_at(fields.format)->name);
    if (nb_quantizer_is_bf16(q))
        return c;
    block_text(q, c.text[2], sizeof c.text[2]);
    snprintf(c.text[3], sizeof c.text[3], "%s%s%s", ni_scale_rule_name(q->rule), q->four_six ? ", 4 or 6 by " : "",
             q->four_six ? ni_four_six_name(q->four_six) : "");
    snprintf(c.text[4], sizeof c.text[4], "%s", outer[q->outer]);
    if (q->round == NB_ROUND_STOCHASTIC)
        snprintf(c.text[5], sizeof c.text[5], "stochastic, %d bits", (int)q->sr_bits);
    else if (nb_quantizer_draws_bits(q))
        snprintf(c.text[5], sizeof c.text[5], "%s; scales stochastic, %d bits", ni_rounding_name(q->round),
                 (int)q->sr_bits);
    else
        snprintf(c.text[5], sizeof c.text[5], "%s", ni_rounding_name(q->round));
    if (q->hadamard_size)
        snprintf(c.text[6], sizeof c.text[6], "%d, signs %s%s", (int)q->hadamard_size, ni_signs_name(q->hadamard_signs),
                 q->hadamard_round_bf16 ? ", to bf16" : "");
    else
        snprintf(c.text[6], sizeof c.text[6], "-");
    return c;
}

static cells rule_cells(const nb_recipe *recipe, nb_role role) {
    const nb_operand_rule *rule = &recipe->roles[role];
    cells c = {0};
    if (!rule->from || rule->requantize)
        c = quantizer_cells(&rule->quantizer);
    else
        snprintf(c.text[1], sizeof c.text[1], "%s",
                 rule->via == NB_VIA_BF16   ? "decoded to bf16"
                 : rule->via == NB_VIA_FOLD ? "same codes, scales folded into the other"
                                            : "same codes");
    if (rule->from)
        snprintf(c.text[0], sizeof c.text[0], "%s", nb_role_name(rule->source));
    else
        snprintf(c.text[0], sizeof c.text[0], "%s", strchr(nb_role_name(role), '.') + 1);
    if (rule->headroom)
        snprintf(c.text[4], sizeof c.text[4], "tensor, delayed, x%d", (int)rule->headroom);
    if (rule->shared_noise)
        strncat(c.text[5], ", shared", sizeof c.text[5] - strlen(c.text[5]) - 1);
    return c;
}

static void print_roles(const nb_recipe *recipe) {
    static const char *const heads[7] = {"from", "format", "block", "scale", "outer", "rounding", "rotation"};
    cells rows[NB_ROLE_COUNT];
    int width[7];
    for (int i = 0; i < 7; i++)
        width[i] = (int)strlen(heads[i]);
    for (int role = 0; role < NB_ROLE_COUNT; role++) {
        rows[role] = rule_cells(recipe, (nb_role)role);
        bool whole = rows[role].text[2][0]; /* "same codes" runs over the columns that it leaves empty */
        for (int i = 0; i < (whole ? 7 : 1); i++)
            if ((int)strlen(rows[role].text[i]) > width[i])
                width[i] = (int)strlen(rows[role].text[i]);
    }
    printf("  %-8s", "");
    for (int i = 0; i < 7; i++)
        printf("  %-*s", i < 6 ? width[i] : 0, heads[i]);
    for (int role = 0; role < NB_ROLE_COUNT; role++) {
        printf("\n  %-8s", nb_role_name((nb_role)role));
        int last = 6;
        while (last > 0 && !rows[role].text[last][0])
            last--;
        for (int i = 0; i <= last; i++)
            printf("  %-*s", i < last ? width[i] : 0, rows[role].text[i]);
    }
    printf("\n");
}

static void print_blocks(const char *which, double blocks) {
    if (blocks > 0 && blocks < 1)
        printf("; the %s %g %% of the blocks, rounded up", which, 100 * blocks);
    else if (blocks > 0)
        printf("; the %s %g block%s", which, blocks, blocks == 1 ? "" : "s");
}

/* The sections that a recipe may leave out: its mechanisms. */
static void print_mechanisms(const nb_recipe *r) {
    ni_recipe_file file = {.recipe = *r};
    const char *lead = "\n  besides   ";
    for (size_t i = 0; i < ni_recipe_keys.count; i++) {
        const ni_key *row = &ni_recipe_keys.rows[i];
        if (!row->optional || !*(const bool *)((const char *)&file + row->present_offset))
            continue;
        printf("%s%s: %s", lead, row->path, row->help);
        lead = "\n            ";
    }
}

static void print_summary(const nb_recipe *r) {
    printf("%s%s%s%s%s%s\n\n", r->name, *r->about ? ": " : "", r->about, *r->paper ? " (" : "", r->paper,
           *r->paper ? ")" : "");
    print_roles(r);
    printf("\n  in BF16   ");
    for (int32_t i = 0; i < r->keep.module_count; i++)
        printf("%s%s", i ? ", " : "", r->keep.modules[i]);
    print_blocks("first", r->keep.first_blocks);
    print_blocks("last", r->keep.last_blocks);
    if (r->late_switch.at < 1 && (r->late_switch.forward || r->late_switch.backward))
        printf("\n            everything %s from %g %% of the run on",
               !r->late_switch.backward  ? "in fprop"
               : !r->late_switch.forward ? "in dgrad and wgrad"
                                         : "",
               100 * r->late_switch.at);
    if (r->late_switch.rho > 0)
        printf("\n            dgrad and wgrad once more than %g %% of the gradients have a rho below %g",
               100 * r->late_switch.layers, r->late_switch.rho);
    if (r->policy.layer_count)
        printf("\n  policy    of each layer one of %d formats", (int)r->policy.format_count);
    print_mechanisms(r);
    printf("\n\nEvery key, and where it comes from:\n\n");
}

static nb_status show(const char *name, bool yaml, nb_error *err) {
    char folder[4096];
    nb_recipe recipe;
    ni_yaml tree;
    NB_TRY(ni_cli_folder("recipes", folder, sizeof folder, err));
    NB_TRY(ni_recipe_load_tree(name, folder, &recipe, &tree, err));
    if (!yaml)
        print_summary(&recipe);
    ni_recipe_print(&recipe, tree.root, yaml ? NI_COMMENTS_NONE : NI_COMMENTS_ORIGIN, stdout);
    ni_yaml_free(&tree);
    return NB_OK;
}

/* ---- check ---- */

static nb_status check(int32_t count, char **names, nb_error *err) {
    char folder[4096];
    NB_TRY(ni_cli_folder("recipes", folder, sizeof folder, err));
    for (int32_t i = 0; i < count; i++) {
        nb_recipe recipe;
        NB_TRY(nb_recipe_load(names[i], folder, &recipe, err));
        printf("%s: good\n", names[i]);
    }
    return NB_OK;
}

nb_status ni_cli_recipe(int argc, char **argv, nb_error *err) {
    recipe_options o = {0};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    const char *verb = argv[1];
    if (strcmp(verb, "list") == 0 && count == 1)
        return list(err);
    if (strcmp(verb, "show") == 0 && count == 2)
        return show(argv[2], o.yaml, err);
    if (strcmp(verb, "check") == 0 && count >= 2)
        return check(count - 1, argv + 2, err);
    return nb_fail(err, NB_BAD_USAGE, "recipe: expected 'list', 'show NAME' or 'check FILE' (see: nibble help recipe)");
}
