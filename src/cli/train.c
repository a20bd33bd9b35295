/* train.c: `nibble train`: one run, from its beginning, from where it stopped, or from another run's checkpoint. */
#include "cli/cli.h"
#include "cli/runs.h"
#include "cli/training.h"
#include "dist/ranks.h"

#include <stdio.h>

typedef struct train_options {
    ni_texts set;
    bool resume, quiet;
    const char *from;
} train_options;

static const ni_option options[] = {
    {"set", 0, NI_OPTION_TEXTS, offsetof(train_options, set), "KEY=VALUE", "change a key of the run file; repeatable"},
    {"resume", 0, NI_OPTION_FLAG, offsetof(train_options, resume), NULL,
     "go on from the newest good checkpoint of the run folder"},
    {"from", 0, NI_OPTION_TEXT, offsetof(train_options, from), "CHECKPOINT",
     "fork: begin with the parameters and moments of a checkpoint, or of a run's newest"},
    {"quiet", 'q', NI_OPTION_FLAG, offsetof(train_options, quiet), NULL, "print warnings and errors alone"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN.yaml [--set KEY=VALUE]... [--resume | --from CHECKPOINT] [--quiet]",
    .about =
        "Trains a model as a run file says ('nibble help --keys run' lists its keys).\n"
        "SIGINT, SIGTERM, SIGHUP and SIGPIPE write a checkpoint and end the run with status 1; --resume goes on to the "
        "same bits.\n"
        "Started by mpirun, srun or torchrun, processes share a step's micro-batches (docs/many-processes.md).\n"
        "  nibble train examples/tiny.yaml --set recipe=nvfp4 --set out=runs/tiny-nvfp4\n"
        "  nibble train examples/tiny.yaml --from runs/a/checkpoints/step-00001000 --set recipe=bf16 --set out=runs/b",
    .options = options,
    .least = 1,
    .most = 1,
};

/* Reads the run file and carries it out, as one of several ranks or alone. */
static nb_status train(const char *path, const train_options *given, nb_ranks *ranks, nb_error *err) {
    nb_run_config config;
    char from[NB_PATH_SIZE];
    NB_TRY(nb_ranks_agree(ranks, nb_run_config_load(path, given->set.items, given->set.count, &config, err), err));
    NB_TRY(nb_ranks_agree(ranks, ni_cli_check_model(config.model, err), err));
    if (given->from)
        NB_TRY(nb_ranks_agree(ranks, ni_cli_checkpoint(given->from, from, err), err));
    ni_training training = {.start = given->from     ? NB_START_FORK
                                     : given->resume ? NB_START_RESUME
                                                     : NB_START_NEW,
                            .from = given->from ? from : NULL,
                            .quiet = given->quiet,
                            .tables = true,
                            .ranks = ranks};
    return ni_cli_run_training(&config, &training, err);
}

/* A mistaken name is not to be waited for in silence. */
static void say_doubt(void) {
    char text[NB_PATH_SIZE];
    if (ni_ranks_doubt(text, sizeof text))
        fprintf(stderr, "nibble: warning: %s\n", text);
}

/* Before the others are told, for that may end this process too. */
static void say_why(const nb_ranks *ranks, const nb_error *err) {
    fflush(stdout);
    if (nb_ranks_speaks(ranks))
        fprintf(stderr, "nibble: rank %d: %s\n", (int)nb_ranks_rank(ranks), err->message);
    fflush(stderr);
}

nb_status ni_cli_train(int argc, char **argv, nb_error *err) {
    train_options given = {0};
    int32_t count;
    nb_ranks *ranks;
    NB_TRY(ni_cli_parse(&line, argc, argv, &given, &count, err));
    if (count < 0)
        return NB_OK;
    if (given.resume && given.from)
        return nb_fail(err, NB_BAD_USAGE,
                       "--resume goes on with the run's own checkpoint and --from takes another; expected one of them");
    say_doubt();
    NB_TRY(nb_ranks_open(&ranks, err));
    nb_status status = train(argv[1], &given, ranks, err);
    if (ranks && status != NB_OK)
        say_why(ranks, err);
    nb_ranks_close(ranks, status == NB_OK ? NULL : err);
    return ranks && status != NB_OK ? nb_fail(err, status, "%s", NI_CLI_SAID) : status;
}
