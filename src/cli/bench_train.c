/* bench_train.c: `nibble bench train`: the training step of one run file under several recipes, in turns: what a recipe
 * costs. */
#include "backend/table.h"
#include "base/progress.h"
#include "cli/bench.h"
#include "cli/fit.h"
#include "cli/light.h"
#include "cli/training.h"
#include "nibble/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_RECIPES 8

typedef struct train_options {
    ni_texts set;
    const char *recipes, *machine;
    double seconds;
    bool processor_time, profile;
} train_options;

static const ni_option options[] = {
    {"recipes", 0, NI_OPTION_TEXT, offsetof(train_options, recipes), "A,B,...",
     "recipes to measure; the first is what the others are held against"},
    {"set", 0, NI_OPTION_TEXTS, offsetof(train_options, set), "KEY=VALUE", "change a key of the run file; repeatable"},
    {"machine", 0, NI_OPTION_TEXT, offsetof(train_options, machine), "FILE",
     "how near each step is to its least time on paper there; in the place of `machine` of the run file"},
    {"seconds", 0, NI_OPTION_FLOAT, offsetof(train_options, seconds), "S", "for each recipe (default 10)"},
    {"processor-time", 0, NI_OPTION_FLAG, offsetof(train_options, processor_time), NULL,
     "of one thread instead of the clock's: for machines that do other things besides"},
    {"profile", 0, NI_OPTION_FLAG, offsetof(train_options, profile), NULL,
     "one more step each, and where its time goes by operation (backend: cuda)"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN.yaml --recipes A,B,... [--set KEY=VALUE]... [--machine FILE] [--seconds S] "
             "[--processor-time] [--profile]",
    .about =
        "Times whole training steps (data, forward, backward, optimizer) under each recipe, in turns: at least five\n"
        "turns each after one that is not counted, the fastest step of which is told, and the speed as a share of the\n"
        "first's. On a GPU a turn is four steps, of which the last two count: the power that a recipe takes sets its\n"
        "clock. Recipes that memory does not hold at once take turns with the first a few at a time. TFLOP/s are the\n"
        "model's. On a GPU, `issued` is the part of a step in which the host did not wait for it. Rows that\n"
        "FP8 units did not hold (fp8_units: mxfp4, all) are counted. Nothing is written.\n"
        "  nibble bench train examples/tiny.yaml --recipes nvfp4,chon-hcp-only,chon",
    .options = options,
    .least = 1,
    .most = 1,
};

/* A backend's table of operations, in which those that wait say how long. */
typedef struct watch {
    ni_backend_ops ops;
    const ni_backend_ops *own;
    double waited; /* seconds */
} watch;

typedef struct arm {
    char recipe[NB_PATH_SIZE];
    nb_backend *be;
    nb_trainer *trainer;
    int64_t fp32_rows; /* of the last step */
    watch watch;
    double ms, issued_ms; /* of the fastest step that counts */
    int32_t turns;        /* taken */
    bool on_gpu;
} arm;

static watch *watch_of(nb_backend *be) {
    return (watch *)((uintptr_t)be->ops - offsetof(watch, ops));
}

static nb_status watched_synchronize(nb_backend *be, nb_error *err) {
    watch *w = watch_of(be);
    const double before = ni_seconds();
    const nb_status status = w->own->synchronize(be, err);
    w->waited += ni_seconds() - before;
    return status;
}

static void watched_download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    watch *w = watch_of(be);
    const double before = ni_seconds();
    w->own->download(be, to_host, from, bytes);
    w->waited += ni_seconds() - before;
}

static void begin_watching(arm *a) {
    a->watch = (watch){.ops = *a->be->ops, .own = a->be->ops};
    a->watch.ops.synchronize = watched_synchronize;
    a->watch.ops.download = watched_download;
    a->be->ops = &a->watch.ops;
}

/* The fastest step is told; one of a mechanism that acts now and then (a choice of channels) does not show in it. */
static nb_status take_step(arm *a, bool counts, nb_error *err) {
    nb_step_report report;
    a->watch.waited = 0;
    if (nb_trainer_step(a->trainer, &report, err) != NB_OK)
        return nb_fail_within(err, "recipe %s", a->recipe);
    if (!isfinite(report.loss))
        return nb_fail(err, NB_BAD_NUMBER, "recipe %s: loss is %g after %lld steps", a->recipe, report.loss,
                       (long long)report.step);
    a->fp32_rows = report.fp32_rows;
    if (counts && (a->ms == 0 || report.ms < a->ms)) {
        a->ms = report.ms;
        a->issued_ms = report.ms - 1e3 * a->watch.waited;
    }
    return NB_OK;
}

/* A GPU at its limit of power has the clock that the tens of milliseconds before allow: a step behind another recipe's
 * has that one's. In training a recipe follows itself. */
static nb_status take_turn(void *state, nb_error *err) {
    enum { STEPS = 4, OTHERS = 2 };
    arm *a = state;
    const bool first = a->turns++ == 0;
    if (!a->on_gpu)
        return take_step(a, !first, err);
    for (int32_t i = 0; i < STEPS; i++)
        NB_TRY(take_step(a, !first && i >= OTHERS, err));
    return NB_OK;
}

static nb_status open_arm(arm *a, const nb_run_config *base, nb_error *err) {
    char recipes[NB_PATH_SIZE], models[NB_PATH_SIZE];
    nb_run_config config = *base;
    memcpy(config.recipe, a->recipe, sizeof config.recipe);
    config.data.val[0] = 0;
    NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
    NB_TRY(ni_cli_folder("models", models, sizeof models, err));
    NB_TRY(ni_cli_backend(&config, &a->be, err));
    NB_TRY(ni_cli_check_memory(a->be, &config, NULL, NULL, NULL, NULL, err));
    const nb_trainer_options how = {.recipes_dir = recipes, .models_dir = models};
    a->on_gpu = strncmp(config.backend, "cuda", 4) == 0;
    NB_TRY(nb_trainer_create(a->be, &config, &how, &a->trainer, err));
    begin_watching(a);
    return NB_OK;
}

static nb_status list_arms(const char *recipes, arm *arms, int32_t *count, nb_error *err) {
    *count = 0;
    for (const char *at = recipes; *at;) {
        size_t n = strcspn(at, ",");
        if (n >= NB_PATH_SIZE || (n > 0 && *count == MOST_RECIPES))
            return nb_fail(err, NB_BAD_USAGE, "--recipes: expected at most %d names of at most %d letters",
                           MOST_RECIPES, NB_PATH_SIZE - 1);
        if (n > 0)
            snprintf(arms[(*count)++].recipe, NB_PATH_SIZE, "%.*s", (int)n, at);
        at += n + (at[n] == ',');
    }
    return *count > 0 ? NB_OK : nb_fail(err, NB_BAD_USAGE, "--recipes names none; expected A,B,...");
}

/* The least time of this recipe's step on paper; 0 without a machine. */
static nb_status floor_of(const nb_run_config *base, const arm *a, double *seconds, nb_error *err) {
    nb_run_config config = *base;
    ni_light light;
    memcpy(config.recipe, a->recipe, sizeof config.recipe);
    NB_TRY(ni_cli_light(&config, 1, &light, err));
    *seconds = light.seconds;
    return NB_OK;
}

static nb_status print_arms(const nb_run_config *config, const arm *const *arms, const ni_contender *list,
                            int32_t count, bool gpu, nb_error *err) {
    const double tokens = (double)nb_run_tokens_per_step(config);
    double floors[MOST_RECIPES], most = 0;
    for (int32_t i = 0; i < count; i++) {
        NB_TRY(floor_of(config, arms[i], &floors[i], err));
        most = fmax(most, floors[i]);
    }
    printf("%-28s %10s %11s %9s %9s%s%s\n", "recipe", "ms a step", "tokens/s", "TFLOP/s", "speed",
           gpu ? "  issued ms" : "", most > 0 ? "   floor ms     share" : "");
    for (int32_t i = 0; i < count; i++) {
        const double flops = nb_model_flops_per_token(nb_trainer_model(arms[i]->trainer), config->seq) * tokens;
        printf("%-28s %10.2f %11.0f %9.1f %8.3fx", arms[i]->recipe, list[i].best * 1e3, tokens / list[i].best,
               flops / list[i].best / 1e12, list[0].best / list[i].best);
        if (gpu)
            printf(" %10.2f", arms[i]->issued_ms);
        if (floors[i] > 0)
            printf(" %10.2f %7.1f %%", floors[i] * 1e3, 100 * floors[i] / list[i].best);
        else if (most > 0)
            printf(" %10s %9s", "-", "-");
        if (arms[i]->fp32_rows)
            printf("   %lld rows of operands in FP32", (long long)arms[i]->fp32_rows);
        putchar('\n');
    }
    return NB_OK;
}

static nb_status one_step(void *state, nb_error *err) {
    return take_step(state, false, err);
}

static nb_status print_profile(arm *a, nb_error *err) {
    return ni_bench_profile(a->be, a->recipe, one_step, a, err);
}

static void close_arm(arm *a) {
    nb_trainer_free(a->trainer);
    nb_backend_free(a->be);
    a->trainer = NULL;
    a->be = NULL;
}

/* Makes a recipe's trainer and takes the step that is not counted, beside those that are there already. *fits: whether
 * there was memory for it; where it is `needed`, too little is an error. */
static nb_status add_arm(arm *a, const nb_run_config *config, bool needed, bool *fits, nb_error *err) {
    nb_status status = open_arm(a, config, err);
    if (status == NB_OK)
        status = take_step(a, false, err);
    *fits = status == NB_OK;
    if (status != NB_NO_MEMORY || needed)
        return status;
    close_arm(a);
    return NB_OK;
}

/* The first recipe and as many of the `count` behind it as memory holds at once, in turns. */
static nb_status measure_together(const train_options *o, const nb_run_config *config, arm *first, arm *rest,
                                  int32_t count, int32_t *taken, nb_error *err) {
    ni_contender list[MOST_RECIPES] = {{first->recipe, take_turn, first, 0, NULL}};
    const arm *arms[MOST_RECIPES] = {first};
    int32_t n = 0;
    first->ms = 0;
    first->turns = 0;
    for (bool fits = true; n < count; n++) {
        NB_TRY(add_arm(&rest[n], config, n == 0, &fits, err));
        if (!fits)
            break;
        arms[n + 1] = &rest[n];
        list[n + 1] = (ni_contender){rest[n].recipe, take_turn, &rest[n], 0, NULL};
    }
    *taken = n;
    NB_TRY((o->processor_time ? ni_bench_rounds_alone : ni_bench_rounds)(list, n + 1, o->seconds, err));
    for (int32_t i = 0; i <= n && first->on_gpu && !o->processor_time; i++)
        list[i].best = arms[i]->ms * 1e-3;
    NB_TRY(print_arms(config, arms, list, n + 1, first->on_gpu, err));
    return NB_OK;
}

static nb_status measure(const train_options *o, const nb_run_config *config, arm *arms, int32_t count, nb_error *err) {
    char processor[128];
    bool fits;
    NB_TRY(add_arm(&arms[0], config, true, &fits, err));
    printf("%s; %s, %lld tokens a step, %s\n\n",
           arms[0].on_gpu ? config->backend : ni_bench_processor(processor, sizeof processor), config->model,
           (long long)nb_run_tokens_per_step(config),
           o->processor_time ? "processor time of one thread" : "time on the clock");
    for (int32_t at = 1, taken; at == 1 || at < count; at += taken) {
        if (at > 1)
            printf("\nno memory for more recipes at once; %s once more beside the next:\n\n", arms[0].recipe);
        NB_TRY(measure_together(o, config, &arms[0], arms + at, count - at, &taken, err));
        if (o->profile && at == 1)
            NB_TRY(print_profile(&arms[0], err));
        for (int32_t i = at; i < at + taken; i++) {
            if (o->profile)
                NB_TRY(print_profile(&arms[i], err));
            close_arm(&arms[i]);
        }
        if (taken == 0)
            break;
    }
    return NB_OK;
}

nb_status ni_bench_train(int argc, char **argv, nb_error *err) {
    train_options o = {.seconds = 10};
    arm arms[MOST_RECIPES] = {{.be = NULL}};
    nb_run_config config;
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    if (!o.recipes)
        return nb_fail(err, NB_BAD_USAGE, "--recipes is missing; expected names, as --recipes nvfp4,chon");
    NB_TRY(list_arms(o.recipes, arms, &count, err));
    NB_TRY(nb_run_config_load(argv[1], o.set.items, o.set.count, &config, err));
    if (o.processor_time)
        config.threads = 1;
    if (o.machine && snprintf(config.machine, sizeof config.machine, "%s", o.machine) >= (int)sizeof config.machine)
        return nb_fail(err, NB_BAD_USAGE, "--machine: expected a path of at most %d letters", NB_PATH_SIZE - 1);
    nb_status status = measure(&o, &config, arms, count, err);
    for (int32_t i = 0; i < count; i++)
        close_arm(&arms[i]);
    return status;
}
