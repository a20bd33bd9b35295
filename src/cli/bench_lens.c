/* bench_lens.c: `nibble bench lens`: what looking costs. Steps of one run take turns: those of a sample (lens.spread),
 * followed (weights alone, twice, the second writes down what the window saw), plain. The lens's own files are written,
 * as in training. */
#include "base/order.h"
#include "cli/bench.h"
#include "cli/training.h"

#include "files/folder.h"
#include "train/recorder.h"
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct lens_options {
    ni_texts set;
    int64_t rounds;
    bool profile;
} lens_options;

static const ni_option options[] = {
    {"set", 0, NI_OPTION_TEXTS, offsetof(lens_options, set), "KEY=VALUE", "change a key of the run file; repeatable"},
    {"rounds", 0, NI_OPTION_INT, offsetof(lens_options, rounds), "N", "of a sample and three steps each (default 20)"},
    {"profile", 0, NI_OPTION_FLAG, offsetof(lens_options, profile), NULL,
     "one more step of a sample, and where its time goes by operation (backend: cuda)"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN.yaml [--set KEY=VALUE]... [--rounds N] [--profile]",
    .about =
        "The cost of a sampled step over a plain one, and on average at lens.every and lens.window of the run file.\n"
        "Of a sample that is spread over steps (lens.spread) the dearest one.\n"
        "Trains in a temporary folder. Best and median of all rounds; with one thread of a CPU in its processor time,\n"
        "so that a busy machine disturbs little.\n"
        "  nibble bench lens examples/tiny.yaml --set threads=1",
    .options = options,
    .least = 1,
    .most = 1,
};

/* SAMPLED: the dearest step of a sample; WHOLE_SAMPLE: all of its steps together. */
enum { SAMPLED, FOLLOWED, WINDOW_END, PLAIN, ROWS, WHOLE_SAMPLE = ROWS, KINDS, MOST_ROUNDS = 10000 };

typedef struct timing {
    clockid_t clock;
    int64_t spread;         /* steps of a sample */
    double *seconds[KINDS]; /* [rounds] ascending at the end */
    size_t lens_bytes;
} timing;

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static nb_status one_step(nb_trainer *t, ni_recorder *recorder, clockid_t clock, double *seconds, nb_error *err) {
    nb_step_report report;
    double begin = now(clock);
    t->lens = ni_recorder_lens(recorder, t->at.step);
    NB_TRY(nb_trainer_step(t, &report, err));
    ni_recorder_step(recorder, &report, t->at.step * nb_run_tokens_per_step(&t->config), t->model);
    *seconds = now(clock) - begin;
    return NB_OK;
}

/* One more sampled step. */
typedef struct sampled_step {
    nb_trainer *t;
    ni_recorder *recorder;
} sampled_step;

static nb_status take_sampled_step(void *state, nb_error *err) {
    const sampled_step *s = state;
    double seconds;
    return one_step(s->t, s->recorder, CLOCK_MONOTONIC, &seconds, err);
}

static nb_status one_round(nb_trainer *t, ni_recorder *recorder, timing *out, int64_t round, nb_error *err) {
    double dearest = 0, all = 0, seconds;
    for (int64_t i = 0; i < out->spread; i++) {
        NB_TRY(one_step(t, recorder, out->clock, &seconds, err));
        dearest = fmax(dearest, seconds);
        all += seconds;
    }
    for (int kind = FOLLOWED; kind <= PLAIN; kind++)
        NB_TRY(one_step(t, recorder, out->clock, &out->seconds[kind][round], err));
    out->seconds[SAMPLED][round] = dearest;
    out->seconds[WHOLE_SAMPLE][round] = all;
    return NB_OK;
}

static nb_status take_turns(nb_trainer *t, ni_recorder *recorder, int64_t rounds, timing *out, nb_error *err) {
    NB_TRY(one_round(t, recorder, out, 0, err)); /* memory and caches are made here */
    for (int64_t round = 0; round < rounds; round++)
        NB_TRY(one_round(t, recorder, out, round, err));
    for (int kind = 0; kind < KINDS; kind++)
        qsort(out->seconds[kind], (size_t)rounds, sizeof(double), ni_rising);
    out->lens_bytes = ni_recorder_bytes(recorder);
    return NB_OK;
}

static nb_status train(nb_backend *be, const nb_run_config *config, int64_t rounds, bool profile, timing *out,
                       nb_error *err) {
    char recipes[NB_PATH_SIZE], models[NB_PATH_SIZE];
    nb_trainer *t;
    ni_recorder *recorder;
    NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
    NB_TRY(ni_cli_folder("models", models, sizeof models, err));
    nb_trainer_options o = {.recipes_dir = recipes, .models_dir = models};
    NB_TRY(nb_trainer_create(be, config, &o, &t, err));
    nb_status status = ni_recorder_open(config, 0, 0, &recorder, err);
    if (status == NB_OK) {
        sampled_step more = {t, recorder};
        status = take_turns(t, recorder, rounds, out, err);
        if (status == NB_OK && profile)
            status = ni_bench_profile(be, "a sampled step", take_sampled_step, &more, err);
        ni_recorder_close(recorder);
    }
    t->lens = NULL;
    nb_trainer_free(t);
    return status;
}

/* ---- the table ---- */

static void print_rows(const timing *t, int64_t rounds) {
    static const char *const names[ROWS] = {"sampled", "followed", "window's end", "plain"};
    printf("%-14s %10s %8s %10s %8s\n", "step", "best ms", "over", "median ms", "over");
    for (int kind = 0; kind < ROWS; kind++) {
        double best = t->seconds[kind][0], middle = t->seconds[kind][rounds / 2];
        printf("%-14s %10.2f %+7.1f%% %10.2f %+7.1f%%\n", names[kind], 1e3 * best,
               100 * (best / t->seconds[PLAIN][0] - 1), 1e3 * middle,
               100 * (middle / t->seconds[PLAIN][rounds / 2] - 1));
    }
}

/* What one sample and its window cost, in plain steps. The window begins behind the sample's first step. */
static double price(const timing *t, int64_t at, int64_t window) {
    const double plain = t->seconds[PLAIN][at];
    double extra = t->seconds[WHOLE_SAMPLE][at] - (double)t->spread * plain;
    if (window >= t->spread)
        extra += (double)(window - t->spread) * (t->seconds[FOLLOWED][at] - plain) + t->seconds[WINDOW_END][at] - plain;
    return extra / plain;
}

static void print_average(const timing *t, int64_t rounds, int64_t every, int64_t window) {
    double best = price(t, 0, window), middle = price(t, rounds / 2, window);
    printf("a sample and its window of %lld steps cost %.2f plain steps (median %.2f)\n", (long long)window, best,
           middle);
    printf("on average at lens.every %lld: %+.2f%% (median %+.2f%%); 2%% from lens.every %.0f on (median %.0f)\n",
           (long long)every, 100 * best / (double)every, 100 * middle / (double)every, fmax(1, ceil(50 * best)),
           fmax(1, ceil(50 * middle)));
}

static nb_status bench(const nb_run_config *asked, int64_t rounds, bool profile, const char *folder, nb_error *err) {
    nb_run_config config = *asked;
    char processor[128];
    const bool processor_time = config.threads == 1 && strncmp(config.backend, "cuda", 4) != 0;
    timing t = {.clock = processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, .spread = asked->lens.spread};
    double *memory = malloc((size_t)(KINDS * rounds) * sizeof *memory);
    nb_backend *be;
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "bench lens: out of memory");
    for (int kind = 0; kind < KINDS; kind++)
        t.seconds[kind] = memory + kind * rounds;
    snprintf(config.out, sizeof config.out, "%s", folder);
    config.lens.every = t.spread + 3;
    config.lens.window = t.spread + 1;
    config.steps = config.lens.every * (rounds + 1) + profile;
    config.eval.every = 0;
    nb_status status = ni_cli_backend(&config, &be, err);
    if (status == NB_OK) {
        status = train(be, &config, rounds, profile, &t, err);
        nb_backend_free(be);
    }
    if (status == NB_OK) {
        printf("%s, %s; %s, recipe %s, micro-batch %lld x %lld, accumulation %lld, %s\n", config.backend,
               ni_bench_processor(processor, sizeof processor), config.model, config.recipe,
               (long long)config.micro_batch, (long long)config.seq, (long long)config.accumulation,
               processor_time ? "1 thread, processor time" : "wall time");
        if (t.spread > 1)
            printf("a sample is spread over %lld steps: sampled is the dearest of them\n", (long long)t.spread);
        print_rows(&t, rounds);
        print_average(&t, rounds, asked->lens.every ? asked->lens.every : 200, asked->lens.window);
        printf("memory of the lens: %.1f MiB\n", (double)t.lens_bytes / 1048576);
    }
    free(memory);
    return status;
}

nb_status ni_bench_lens(int argc, char **argv, nb_error *err) {
    lens_options given = {.rounds = 20};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &given, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(ni_cli_range("rounds", (double)given.rounds, 1, MOST_ROUNDS, err));
    nb_run_config config;
    NB_TRY(nb_run_config_load(argv[1], given.set.items, given.set.count, &config, err));
    const char *base = getenv("TMPDIR");
    char folder[512];
    snprintf(folder, sizeof folder, "%s/nibble-bench-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder))
        return nb_fail(err, NB_IO_ERROR, "%s: cannot make a temporary folder", folder);
    nb_status status = bench(&config, given.rounds, given.profile, folder, err);
    ni_folder_remove(folder, NULL);
    return status;
}
