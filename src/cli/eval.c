/* eval.c: `nibble eval`: the loss of a checkpoint on a token shard, with the trained recipe's forward or another's. */
#include "cli/cli.h"
#include "cli/runs.h"
#include "cli/screen.h"
#include "cli/training.h"

#include "files/json.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct eval_options {
    const char *backend, *data, *recipe;
    int64_t sequences, threads;
    bool json;
} eval_options;

static const ni_option options[] = {
    {"data", 0, NI_OPTION_TEXT, offsetof(eval_options, data), "FILE",
     "token shard, or a pattern of shards (default: data.val of the run)"},
    {"recipe", 0, NI_OPTION_TEXT, offsetof(eval_options, recipe), "R", "whose forward pass (default: the trained one)"},
    {"sequences", 0, NI_OPTION_INT, offsetof(eval_options, sequences), "N",
     "how many, spread evenly over the data (default: as the run; 0: all)"},
    {"json", 0, NI_OPTION_FLAG, offsetof(eval_options, json), NULL, "one line of JSON in place of the sentence"},
    {"backend", 0, NI_OPTION_TEXT, offsetof(eval_options, backend), "NAME", "cpu (default), cuda or cuda:NUMBER"},
    {"threads", 0, NI_OPTION_INT, offsetof(eval_options, threads), "N", "threads (default: all)"},
    {0},
};

static const ni_command_line line = {
    .usage = "CHECKPOINT|RUN [--data FILE] [--recipe R] [--sequences N] [--json]",
    .about =
        "Prints mean loss and perplexity. With the run's own data and recipe it is the loss that training reported.\n"
        "  nibble eval runs/tiny/checkpoints/step-00001000 --data data/val.bin --recipe bf16",
    .options = options,
    .least = 1,
    .most = 1,
};

static nb_status print_sentence(const nb_loaded *loaded, const nb_eval_report *report, const char *data,
                                nb_error *err) {
    char tokens[32];
    printf("loss %.6f  perplexity %.3f  (%s tokens of %s, step %lld, forward of %s, %.1fs)\n", report->loss,
           exp(report->loss), ni_count_text(report->tokens, tokens, sizeof tokens), data, (long long)report->step,
           loaded->recipe.name, report->seconds);
    (void)err;
    return NB_OK;
}

static nb_status print_json(const nb_loaded *loaded, const nb_eval_report *report, const char *data, nb_error *err) {
    json_t *object = json_pack("{s:f, s:f, s:I, s:s, s:I, s:s, s:f}", "loss", report->loss, "perplexity",
                               exp(report->loss), "tokens", (json_int_t)report->tokens, "data", data, "step",
                               (json_int_t)report->step, "recipe", loaded->recipe.name, "seconds", report->seconds);
    if (loaded->missing[0])
        ni_json_put(&object, "missing_state", json_string(loaded->missing));
    char *text = ni_json_text(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(12));
    json_decref(object);
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "eval: out of memory");
    puts(text);
    free(text);
    return NB_OK;
}

static nb_status evaluate(nb_backend *be, const char *folder, const eval_options *given, nb_error *err) {
    nb_recipe recipe;
    if (given->recipe) {
        char recipes[NB_PATH_SIZE];
        NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
        NB_TRY(nb_recipe_load(given->recipe, recipes, &recipe, err));
    }
    nb_loaded loaded;
    NB_TRY(nb_load_checkpoint(be, folder, given->recipe ? &recipe : NULL, 0, 0, &loaded, err));
    const nb_run_config *run = &loaded.info.config;
    const char *data = given->data ? given->data : run->data.val;
    int64_t sequences;
    nb_eval_report report;
    nb_status status = ni_cli_sequences(given->sequences, run, &sequences, err);
    if (status == NB_OK)
        status = data[0] ? nb_loaded_evaluate(&loaded, data, sequences, &report, err)
                         : nb_fail(err, NB_BAD_USAGE, "--data is missing, and the run has no data.val");
    char doubt[256];
    if (status == NB_OK && nb_model_doubts(loaded.model, doubt, sizeof doubt))
        fprintf(stderr, "nibble: warning: recipe %s: %s\n", loaded.recipe.name, doubt);
    if (status == NB_OK && loaded.missing[0])
        fprintf(given->json ? stderr : stdout, "%s %s: the checkpoint does not hold %s\n", loaded.recipe.name,
                loaded.first_batch ? "chose its channels from the first batch" : "begins without its state",
                loaded.missing);
    if (status == NB_OK)
        status = (given->json ? print_json : print_sentence)(&loaded, &report, data, err);
    nb_loaded_free(&loaded);
    return status;
}

nb_status ni_cli_eval(int argc, char **argv, nb_error *err) {
    eval_options given = {.sequences = NI_OF_RUN};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &given, &count, err));
    if (count < 0)
        return NB_OK;
    char folder[NB_PATH_SIZE];
    NB_TRY(ni_cli_checkpoint(argv[1], folder, err));
    nb_backend *be;
    NB_TRY(ni_cli_open(given.backend, given.threads, &be, err));
    nb_status status = evaluate(be, folder, &given, err);
    nb_backend_free(be);
    return status;
}
