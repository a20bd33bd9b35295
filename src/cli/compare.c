/* compare.c: `nibble compare`: twins. The same model, data and seeds under each recipe, and how far each recipe's
 * validation loss, taken with its own forward pass, is from that of BF16. */
#include "cli/cli.h"
#include "cli/compare_table.h"
#include "cli/on_paper.h"
#include "cli/runs.h"
#include "cli/training.h"

#include "files/file.h"
#include "files/json.h"
#include "train/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_RECIPES 32
#define MOST_SEEDS 64
#define BASELINE "bf16"

typedef struct compare_options {
    ni_texts set;
    const char *recipes, *from;
    int64_t seeds;
    bool straight, quiet;
} compare_options;

static const ni_option options[] = {
    {"recipes", 0, NI_OPTION_TEXT, offsetof(compare_options, recipes), "A,B,...",
     "recipes to compare; bf16 is the twin and always runs"},
    {"seeds", 0, NI_OPTION_INT, offsetof(compare_options, seeds), "N",
     "repeat with N triples of seeds, counted up from those of the run file (default 1)"},
    {"set", 0, NI_OPTION_TEXTS, offsetof(compare_options, set), "KEY=VALUE",
     "change a key of the run file; repeatable"},
    {"from", 0, NI_OPTION_TEXT, offsetof(compare_options, from), "CHECKPOINT",
     "fork: begin every run with the parameters, moments and data position of a checkpoint or of a run"},
    {"straight", 0, NI_OPTION_FLAG, offsetof(compare_options, straight), NULL,
     "train every recipe from step 0, also where its first steps are those of another"},
    {"quiet", 'q', NI_OPTION_FLAG, offsetof(compare_options, quiet), NULL, "print the table alone"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN.yaml --recipes A,B,... [--seeds N] [--from CHECKPOINT] [--set KEY=VALUE]... [--straight] [--quiet]",
    .about =
        "Trains twins under each recipe in OUT/RECIPE-seedN and prints the gaps of their validation losses to BF16.\n"
        "Runs that are finished are not repeated and runs that were stopped go on, so the command can be given "
        "again.\n"
        "Recipes that differ only in what starts later (late switch, OutControl, OsciReset) train their common steps "
        "once: the\n"
        "second branches from a checkpoint of the first, to the same bits.\n"
        "With --from all begin as one trained model: their gaps scatter far less than those of runs from step 0, and "
        "say what\n"
        "four bits cost from there on.\n"
        "The table also goes to OUT/compare.json.\n"
        "  nibble compare examples/tiny.yaml --recipes nvfp4,fp4-direct --seeds 3",
    .options = options,
    .least = 1,
    .most = 1,
};

/* One recipe and what its runs gave. */
typedef struct entrant {
    char recipe[NB_PATH_SIZE];
    char name[NB_NAME_SIZE]; /* without folder and ".yaml" */
    nb_recipe read;
    int32_t trunk;                  /* the entrant before it whose first steps it shares; -1: none */
    int64_t shared;                 /* how many */
    int64_t branches[MOST_RECIPES]; /* steps at which others leave it */
    int32_t branch_count;
    double loss[MOST_SEEDS];
} entrant;

typedef struct comparison {
    nb_run_config base;
    entrant entrants[MOST_RECIPES + 1]; /* the twin first */
    int32_t count, seeds;
    const char *from; /* every run forks from it; NULL: they begin at step 0 */
    char newest[NB_PATH_SIZE];
    bool quiet;
    nb_peak peak;
} comparison;

/* ---- which runs ---- */

/* Each run has the recipe of its entrant. That of the run file is passed over: the file also serves `nibble train`. */
static nb_status check_set(const ni_texts *set, nb_error *err) {
    static const char recipe[] = "recipe=";
    for (int32_t i = 0; i < set->count; i++)
        if (strncmp(set->items[i], recipe, strlen(recipe)) == 0)
            return nb_fail(err, NB_BAD_USAGE, "--set %s: every run has its own recipe here; hint: --recipes %s",
                           set->items[i], set->items[i] + strlen(recipe));
    return NB_OK;
}

static nb_status add_entrant(comparison *c, const char *recipe, size_t length, nb_error *err) {
    if (length == 0)
        return NB_OK;
    if (length >= NB_PATH_SIZE)
        return nb_fail(err, NB_BAD_USAGE, "--recipes: a name of %zu letters; expected at most %d", length,
                       NB_PATH_SIZE);
    if (c->count > MOST_RECIPES)
        return nb_fail(err, NB_BAD_USAGE, "--recipes: more than %d recipes", MOST_RECIPES);
    entrant *e = &c->entrants[c->count];
    snprintf(e->recipe, sizeof e->recipe, "%.*s", (int)length, recipe);
    const char *slash = strrchr(e->recipe, '/');
    snprintf(e->name, sizeof e->name, "%s", slash ? slash + 1 : e->recipe);
    size_t n = strlen(e->name);
    if (n > 5 && strcmp(e->name + n - 5, ".yaml") == 0)
        e->name[n - 5] = 0;
    for (int32_t i = 0; i < c->count; i++) {
        if (strcmp(c->entrants[i].recipe, e->recipe) == 0)
            return NB_OK;
        if (strcmp(c->entrants[i].name, e->name) == 0)
            return nb_fail(err, NB_BAD_USAGE, "--recipes: %s and %s would share a run folder; expected different names",
                           c->entrants[i].recipe, e->recipe);
    }
    c->count++;
    return NB_OK;
}

static nb_status list_entrants(comparison *c, const char *recipes, nb_error *err) {
    NB_TRY(add_entrant(c, BASELINE, strlen(BASELINE), err));
    for (const char *at = recipes; *at;) {
        size_t n = strcspn(at, ",");
        NB_TRY(add_entrant(c, at, n, err));
        at += n + (at[n] == ',');
    }
    return NB_OK;
}

/* Each entrant branches from the one before it with which it shares the most steps. */
static nb_status find_trunk(comparison *c, int32_t index, nb_error *err) {
    entrant *e = &c->entrants[index];
    int64_t steps = nb_run_steps(&c->base);
    for (int32_t i = 0; i < index; i++) {
        int64_t shared = nb_recipe_alike_steps(&c->entrants[i].read, &e->read, steps);
        if (shared == steps)
            return nb_fail(err, NB_BAD_USAGE,
                           "--recipes: %s and %s are one run: they differ in nothing that acts within %lld steps; "
                           "hint: an earlier start in the recipe, or --straight to train both",
                           c->entrants[i].name, e->name, (long long)steps);
        if (shared > e->shared) {
            e->shared = shared;
            e->trunk = i;
        }
    }
    if (e->trunk >= 0) {
        entrant *trunk = &c->entrants[e->trunk];
        trunk->branches[trunk->branch_count++] = e->shared;
    }
    return NB_OK;
}

static nb_status read_recipes(comparison *c, nb_error *err) {
    char recipes[NB_PATH_SIZE];
    NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
    for (int32_t i = 0; i < c->count; i++) {
        entrant *e = &c->entrants[i];
        e->trunk = -1;
        NB_TRY(nb_recipe_load(e->recipe, recipes, &e->read, err));
        NB_TRY(nb_recipe_check_steps(&e->read, nb_run_steps(&c->base), err));
    }
    return NB_OK;
}

static nb_status plan_branches(comparison *c, bool straight, nb_error *err) {
    for (int32_t i = 0; i < c->count; i++) {
        entrant *e = &c->entrants[i];
        if (!straight)
            NB_TRY(find_trunk(c, i, err));
        if (e->trunk >= 0 && !c->quiet)
            printf("%s trains as %s for %lld of %lld steps and branches from it there\n", e->name,
                   c->entrants[e->trunk].name, (long long)e->shared, (long long)nb_run_steps(&c->base));
    }
    return NB_OK;
}

static nb_status run_of(const comparison *c, int32_t entrant_index, int32_t seed, nb_run_config *out, nb_error *err) {
    const entrant *e = &c->entrants[entrant_index];
    *out = c->base;
    out->seeds.init += seed;
    out->seeds.data += seed;
    out->seeds.rounding += seed;
    memset(out->recipe, 0, sizeof out->recipe);
    memset(out->out, 0, sizeof out->out);
    memcpy(out->recipe, e->recipe, strlen(e->recipe));
    int n = snprintf(out->out, sizeof out->out, "%s/%s-seed%d", c->base.out, e->name, seed + 1);
    if (n < 0 || (size_t)n >= sizeof out->out)
        return nb_fail(err, NB_BAD_CONFIG, "out: %s is too long for the folders below it", c->base.out);
    return NB_OK;
}

/* Each run before the first begins: nobody trains three twins to hear that the fourth cannot be. */
static nb_status check_runs(const comparison *c, nb_error *err) {
    char folder[NB_PATH_SIZE + 16];
    nb_run_config run;
    for (int32_t i = 0; i < c->count; i++) {
        NB_TRY(run_of(c, i, 0, &run, err));
        if (ni_cli_check_on_paper(&run, err) != NB_OK)
            return nb_fail_within(err, "%s", c->entrants[i].name);
        snprintf(folder, sizeof folder, "%s/checkpoints", run.out);
        NB_TRY(ni_try_folders(folder, err));
    }
    return NB_OK;
}

/* ---- what a finished run says ---- */

/* Validation loss at the last step, from metrics.jsonl; NaN if the run did not come that far. */
static double final_loss(const nb_run_config *run) {
    char path[NB_PATH_SIZE + 32], *text;
    size_t size;
    nb_error none;
    double loss = NAN;
    int64_t last;
    int32_t found;
    if (ni_checkpoint_list(run->out, &last, 1, &found, &none) != NB_OK || found == 0 || last != nb_run_steps(run))
        return NAN;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run->out);
    if (ni_file_read(path, (size_t)1 << 31, &text, &size, &none) != NB_OK)
        return NAN;
    for (char *save, *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        if (!strstr(l, "\"val_loss\""))
            continue;
        json_t *object = ni_json_load(l, strlen(l), NULL);
        if (json_integer_value(json_object_get(object, "step")) == last)
            loss = json_is_number(json_object_get(object, "val_loss"))
                       ? json_number_value(json_object_get(object, "val_loss"))
                       : NAN;
        json_decref(object);
    }
    free(text);
    return loss;
}

static bool holds_something(const nb_run_config *run) {
    char path[NB_PATH_SIZE + 32];
    int64_t step;
    int32_t found;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run->out);
    return access(path, F_OK) == 0 || ni_checkpoint_list(run->out, &step, 1, &found, NULL) != NB_OK || found > 0;
}

/* ---- running ---- */

/* The checkpoint that a run branches from; false if there is none, as where its trunk was trained before this run was
 * asked for: then it starts at step 0, to the same bits. */
static bool find_branch(const comparison *c, const entrant *e, int32_t seed, char *path, size_t size) {
    nb_run_config trunk;
    nb_error none;
    if (e->trunk < 0 || run_of(c, e->trunk, seed, &trunk, &none) != NB_OK)
        return false;
    ni_checkpoint_path(trunk.out, e->shared, path, size);
    return access(path, F_OK) == 0;
}

static nb_status run_one(comparison *c, int32_t index, int32_t seed, nb_error *err) {
    entrant *e = &c->entrants[index];
    nb_run_config run;
    NB_TRY(run_of(c, index, seed, &run, err));
    char label[2 * NB_NAME_SIZE], from[NB_PATH_SIZE + 64];
    snprintf(label, sizeof label, "[%d/%d] %s seed %d", seed * c->count + index + 1, c->seeds * c->count, e->name,
             seed + 1);
    bool begun = holds_something(&run), finished = begun && isfinite(final_loss(&run));
    bool branches = find_branch(c, e, seed, from, sizeof from);
    if (!c->quiet) {
        printf("%s%s\n", label, finished ? ": is finished" : "");
        if (e->trunk >= 0 && !branches && !finished)
            printf("%s kept no checkpoint at step %lld: this run begins at step 0\n", c->entrants[e->trunk].name,
                   (long long)e->shared);
        fflush(stdout);
    }
    /* A finished run is loaded too: a run of other settings under the same name must not pass for it. */
    ni_training training = {.start = branches  ? NB_START_BRANCH
                                     : begun   ? NB_START_RESUME
                                     : c->from ? NB_START_FORK
                                               : NB_START_NEW,
                            .from = branches ? from : c->from,
                            .branches = e->branches,
                            .branch_count = e->branch_count,
                            .quiet = c->quiet || finished,
                            .label = label,
                            .peak = c->peak};
    nb_status status = ni_cli_run_training(&run, &training, err);
    c->peak = training.peak;
    if (status != NB_OK)
        return status == NB_INTERRUPTED
                   ? nb_fail(err, status, "%s: stopped; give the same command again to go on", label)
                   : nb_fail_within(err, "%s", label);
    e->loss[seed] = final_loss(&run);
    if (!isfinite(e->loss[seed]))
        return nb_fail(err, NB_BAD_NUMBER, "%s: has no finite validation loss at its last step", label);
    return NB_OK;
}

/* ---- all of it ---- */

/* `rows` has room for every entrant. */
static ni_compared_all rows_of(const comparison *c, ni_compared *rows) {
    for (int32_t i = 0; i < c->count; i++) {
        const entrant *e = &c->entrants[i];
        rows[i] = (ni_compared){.name = e->name,
                                .losses = e->loss,
                                .branched_from = e->trunk >= 0 ? c->entrants[e->trunk].name : NULL,
                                .branched_at = e->shared};
    }
    return (ni_compared_all){
        .rows = rows, .count = c->count, .seeds = c->seeds, .steps = nb_run_steps(&c->base), .from = c->from};
}

static nb_status compare(comparison *c, nb_error *err) {
    ni_compared rows[MOST_RECIPES + 1];
    const ni_compared_all all = rows_of(c, rows);
    for (int32_t seed = 0; seed < c->seeds; seed++)
        for (int32_t e = 0; e < c->count; e++) {
            NB_TRY(run_one(c, e, seed, err));
            if (seed == 0 && e == 0) /* before there is a second run whose place it says */
                NB_TRY(ni_compare_write_order(&all, c->base.out, err));
        }
    ni_compare_print(&all);
    return ni_compare_write(&all, c->base.out, err);
}

nb_status ni_cli_compare(int argc, char **argv, nb_error *err) {
    compare_options given = {.seeds = 1};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &given, &count, err));
    if (count < 0)
        return NB_OK;
    if (!given.recipes || given.recipes[strspn(given.recipes, ",")] == 0)
        return nb_fail(err, NB_BAD_USAGE, "--recipes is missing; expected names, as --recipes nvfp4,fp4-direct");
    NB_TRY(ni_cli_range("seeds", (double)given.seeds, 1, MOST_SEEDS, err));
    NB_TRY(check_set(&given.set, err));
    comparison *c = calloc(1, sizeof *c);
    if (!c)
        return nb_fail(err, NB_NO_MEMORY, "compare: out of memory");
    c->seeds = (int32_t)given.seeds;
    c->from = given.from ? c->newest : NULL;
    c->quiet = given.quiet;
    nb_status status = nb_run_config_load(argv[1], given.set.items, given.set.count, &c->base, err);
    if (status == NB_OK && !c->base.data.val[0])
        status =
            nb_fail(err, NB_BAD_CONFIG, "%s: data.val is missing; a loss gap is measured on validation data", argv[1]);
    if (status == NB_OK)
        status = ni_cli_check_model(c->base.model, err);
    if (status == NB_OK && given.from)
        status = ni_cli_checkpoint(given.from, c->newest, err);
    if (status == NB_OK)
        status = list_entrants(c, given.recipes, err);
    if (status == NB_OK)
        status = read_recipes(c, err);
    if (status == NB_OK)
        status = check_runs(c, err);
    if (status == NB_OK)
        status = plan_branches(c, given.straight || given.from, err); /* the fork is what they share */
    if (status == NB_OK)
        status = compare(c, err);
    free(c);
    return status;
}
