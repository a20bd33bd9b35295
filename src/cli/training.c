/* training.c: backend, trainer and screen of one run. */
#define _GNU_SOURCE /* CPU_COUNT */
#include "cli/training.h"

#include "backend/load.h"
#include "cli/cli.h"
#include "cli/fit.h"
#include "cli/light.h"
#include "cli/on_paper.h"
#include "cli/screen.h"
#include "train/foreign.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

nb_status ni_cli_backend(const nb_run_config *config, nb_backend **out, nb_error *err) {
    const nb_backend_options options = {.threads = config->threads, .isa = config->isa};
    if (strncmp(config->backend, "paper", 5) == 0)
        return nb_fail(
            err, NB_BAD_CONFIG,
            "backend: paper computes nothing; expected cpu, cuda or cuda:NUMBER; hint: nibble plan RUN.yaml");
    return nb_backend_open(config->backend, &options, out, err);
}

/* Processes of one machine share its processors, unless the launcher gave each its own. */
static int32_t fair_threads(const nb_run_config *config, const nb_ranks *ranks) {
    const int32_t beside = nb_ranks_local_world(ranks);
    const long all = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t mine;
    if (config->threads > 0 || beside <= 1 || sched_getaffinity(0, sizeof mine, &mine) != 0 || CPU_COUNT(&mine) < all)
        return config->threads;
    return all > beside ? (int32_t)(all / beside) : 1;
}

/* The backend of one of several ranks: "cuda" is the GPU of its number, unless the launcher shows it a single one. */
static nb_status open_backend(const nb_run_config *config, const nb_ranks *ranks, nb_backend **out, nb_error *err) {
    nb_run_config mine = *config;
    ni_cuda_facts facts;
    mine.threads = fair_threads(config, ranks);
    if (nb_ranks_world(ranks) > 1 && strcmp(config->backend, "cuda") == 0) {
        NB_TRY(ni_backend_describe_cuda(0, &facts, err));
        if (facts.count > 1)
            snprintf(mine.backend, sizeof mine.backend, "cuda:%d", (int)nb_ranks_local(ranks));
    }
    return ni_cli_backend(&mine, out, err);
}

static void say_what_runs(ni_screen *screen, const nb_run_config *config, nb_trainer *trainer, const nb_ranks *ranks) {
    nb_model *model = nb_trainer_model(trainer);
    char params[32], tokens[32], per_step[32];
    int64_t steps = nb_run_steps(config), step_tokens = nb_run_tokens_per_step(config);
    ni_progress_line(&screen->progress, "model %s: %s, %s parameters; recipe %s", nb_model_get_config(model)->name,
                     nb_family_name(nb_model_get_config(model)->family),
                     ni_short_count_text((double)nb_model_param_elements(model), params, sizeof params),
                     nb_trainer_recipe(trainer)->name);
    if (nb_ranks_world(ranks) > 1)
        ni_progress_line(&screen->progress, "ranks: %d, each with %lld of the %lld micro-batches of a step",
                         (int)nb_ranks_world(ranks), (long long)config->accumulation / nb_ranks_world(ranks),
                         (long long)config->accumulation);
    ni_progress_line(&screen->progress, "run %s: %lld steps of %s tokens, %s tokens in all", config->out,
                     (long long)steps, ni_count_text(step_tokens, per_step, sizeof per_step),
                     ni_short_count_text((double)steps * (double)step_tokens, tokens, sizeof tokens));
}

static void say_peak(ni_screen *screen, const nb_run_config *config, const nb_peak *peak) {
    char nvfp4[32], bf16[32];
    if (config->peak_flops == NB_PEAK_AUTO)
        ni_progress_line(
            &screen->progress, "peak for MFU: the better of nvfp4 %sFLOP/s, bf16 %sFLOP/s, products measured now",
            ni_short_count_text(peak->nvfp4, nvfp4, sizeof nvfp4), ni_short_count_text(peak->bf16, bf16, sizeof bf16));
}

static nb_status find_peak(nb_backend *be, const nb_run_config *config, nb_peak *peak, nb_error *err) {
    if (config->peak_flops == NB_PEAK_AUTO)
        return peak->flops == 0 ? nb_measure_peak(be, peak, err) : NB_OK;
    *peak = (nb_peak){.flops = config->peak_flops == NB_PEAK_NONE ? 0 : config->peak_flops};
    return NB_OK;
}

static void hold_against_machine(nb_trainer *trainer, const ni_light *light, ni_screen *screen) {
    nb_trainer_set_floor(trainer, light->seconds);
    if (light->seconds > 0)
        ni_progress_line(&screen->progress, "speed of light: %.1f ms a step on %s, by plan", 1e3 * light->seconds,
                         light->machine);
}

static void say_how_it_ended(ni_screen *screen, const nb_run_config *config) {
    char took[32], val[48] = "";
    if (isfinite(screen->last_val_loss))
        snprintf(val, sizeof val, ", validation loss %.4f", screen->last_val_loss);
    ni_progress_line(&screen->progress, "done in %s%s; run folder %s",
                     ni_duration_text(ni_seconds() - screen->began, took, sizeof took), val, config->out);
}

/* What is told of a run before memory is taken for it. */
typedef struct beforehand {
    nb_backend *be;
    const nb_run_config *config;
    const ni_training *training;
    ni_screen *screen;
    size_t program_bytes;
    nb_memory_row rows[NI_MEMORY_ROWS]; /* of the memory table */
    int32_t row_count;
    bool planned, refused; /* it was told; there is no room */
    ni_light light;
} beforehand;

static void tell_beforehand(void *user, nb_trainer *paper) {
    beforehand *b = user;
    say_what_runs(b->screen, b->config, paper, b->training->ranks);
    if (b->training->tables)
        ni_screen_memory(b->screen, paper, b->program_bytes);
    b->row_count = ni_memory_rows(paper, b->rows);
}

static size_t bytes_of(const nb_memory_row *rows, int32_t count, const char *what) {
    for (int32_t i = 0; i < count; i++)
        if (strcmp(rows[i].what, what) == 0)
            return rows[i].bytes;
    return 0;
}

/* Says it where the two differ by more than a hundredth of all. */
static void say_other_bytes(ni_screen *screen, const char *what, size_t is, size_t said, double all) {
    char text[2][32];
    if (fabs((double)is - (double)said) > 0.01 * all)
        ni_progress_line(&screen->progress, "memory: %s take %s in the place of the %s of the table above", what,
                         ni_bytes_text((double)is, text[0], sizeof text[0]),
                         ni_bytes_text((double)said, text[1], sizeof text[1]));
}

/* The table was told on paper: what a trainer holds otherwise is said, so that nobody trusts a plan that is wrong. */
static void compare_with_paper(const beforehand *b, const nb_trainer *trainer) {
    nb_memory_row rows[NI_MEMORY_ROWS];
    const int32_t count = ni_memory_rows(trainer, rows);
    const double all = ni_memory_total(trainer);
    if (!b->training->tables)
        return;
    for (int32_t i = 0; i < count; i++)
        say_other_bytes(b->screen, rows[i].what, rows[i].bytes, bytes_of(b->rows, b->row_count, rows[i].what), all);
    for (int32_t i = 0; i < b->row_count; i++)
        if (!bytes_of(rows, count, b->rows[i].what))
            say_other_bytes(b->screen, b->rows[i].what, 0, b->rows[i].bytes, all);
}

/* Damage is found before anything is told or measured. */
static nb_status verify_origin(const ni_training *training, nb_error *err) {
    if (nb_ranks_rank(training->ranks) > 0 || ni_is_foreign(training->from))
        return NB_OK;
    return nb_checkpoint_verify(training->from, err);
}

/* A run that is refused is refused before anything is told. */
static nb_status before_memory(void *user, nb_trainer *trainer, nb_error *err) {
    beforehand *b = user;
    const ni_training *training = b->training;
    NB_TRY(nb_trainer_check(trainer, training->start, training->from, err));
    if (training->start == NB_START_FORK)
        NB_TRY(verify_origin(training, err));
    NB_TRY(ni_cli_light(b->config, nb_ranks_world(training->ranks), &b->light, err));
    const nb_status status =
        ni_cli_check_memory(b->be, b->config, training->ranks, tell_beforehand, b, &b->planned, err);
    b->refused = status != NB_OK;
    return status;
}

static nb_status train(nb_trainer *trainer, const nb_run_config *config, const ni_training *training,
                       const ni_light *light, ni_screen *screen, nb_error *err) {
    char census[NB_PATH_SIZE + 16];
    nb_trainer_set_peak(trainer, training->peak.flops);
    say_peak(screen, config, &training->peak);
    hold_against_machine(trainer, light, screen);
    snprintf(census, sizeof census, "%s/census.txt", config->out);
    if (training->tables)
        ni_screen_census(screen, trainer, census);
    nb_status status = nb_trainer_run(trainer, training->start, training->from, err);
    if (status == NB_OK)
        say_how_it_ended(screen, config);
    return status;
}

static nb_status run_with(nb_backend *be, const nb_run_config *config, ni_training *training, ni_screen *screen,
                          nb_error *err) {
    char recipes[NB_PATH_SIZE], models[NB_PATH_SIZE];
    NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
    NB_TRY(ni_cli_folder("models", models, sizeof models, err));
    beforehand told = {
        .be = be, .config = config, .training = training, .screen = screen, .program_bytes = ni_resident_bytes()};
    nb_trainer_options options = {.recipes_dir = recipes,
                                  .models_dir = models,
                                  .branches = training->branches,
                                  .branch_count = training->branch_count,
                                  .ranks = training->ranks,
                                  .before_memory = before_memory,
                                  .before_user = &told,
                                  .callbacks = ni_screen_callbacks(screen)};
    nb_trainer *trainer = NULL;
    nb_status status = nb_ranks_agree(training->ranks, nb_trainer_create(be, config, &options, &trainer, err), err);
    if (status == NB_OK && !told.planned) /* on paper there was no room for addresses */
        tell_beforehand(&told, trainer);
    if (status == NB_OK)
        compare_with_paper(&told, trainer);
    if (status == NB_OK && nb_ranks_rank(training->ranks) == 0) /* who reports */
        status = find_peak(be, config, &training->peak, err);
    if (status == NB_OK)
        status = train(trainer, config, training, &told.light, screen, err);
    nb_trainer_free(trainer);
    if (nb_ranks_world(training->ranks) == 1 && !told.refused) /* the plan is of one process */
        ni_cli_say_what_fits(be, config, err);
    return status;
}

nb_status ni_cli_run_training(const nb_run_config *config, ni_training *training, nb_error *err) {
    nb_backend *be = NULL;
    nb_status status = nb_ranks_agree(training->ranks, open_backend(config, training->ranks, &be, err), err);
    if (status != NB_OK) {
        nb_backend_free(be);
        return status;
    }
    ni_stop_on_signals();
    const bool quiet = training->quiet || nb_ranks_rank(training->ranks) > 0;
    ni_screen screen = ni_screen_open(quiet, training->label ? training->label : "", config->print_every);
    status = run_with(be, config, training, &screen, err);
    training->last_val_loss = screen.last_val_loss;
    ni_screen_close(&screen);
    nb_backend_free(be);
    return status;
}
