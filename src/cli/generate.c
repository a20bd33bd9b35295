/* generate.c: `nibble generate`: continues a text with a checkpoint.
 *
 * One token at a time goes through the model, which keeps the keys, values and gates of those before it
 * (nb_model_step). Where the text outgrows the model's window, its last half begins a new one.
 */
#include "cli/cli.h"
#include "cli/runs.h"
#include "cli/screen.h"
#include "data/decode_stream.h"
#include "nibble/text.h"
#include "nibble/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct generate_options {
    const char *backend, *prompt, *tokenizer, *recipe;
    int64_t tokens, top_k, seed, threads;
    double temperature, top_p;
    bool no_cache;
} generate_options;

static const ni_option options[] = {
    {"prompt", 0, NI_OPTION_TEXT, offsetof(generate_options, prompt), "TEXT", "beginning of the text (default: none)"},
    {"tokens", 0, NI_OPTION_INT, offsetof(generate_options, tokens), "N", "how many to add (default 100)"},
    {"temperature", 0, NI_OPTION_FLOAT, offsetof(generate_options, temperature), "T",
     "0: always the most likely token (default 0.8)"},
    {"top-k", 0, NI_OPTION_INT, offsetof(generate_options, top_k), "K",
     "draw among the K most likely tokens; 0: all (default 50)"},
    {"top-p", 0, NI_OPTION_FLOAT, offsetof(generate_options, top_p), "P",
     "draw among the most likely tokens that together have this share; 1: all (default 1)"},
    {"seed", 0, NI_OPTION_INT, offsetof(generate_options, seed), "N", "of the draws (default 1)"},
    {"tokenizer", 0, NI_OPTION_TEXT, offsetof(generate_options, tokenizer), "T",
     "bytes, a SentencePiece model, a tokenizer.json (default: the checkpoint's)"},
    {"recipe", 0, NI_OPTION_TEXT, offsetof(generate_options, recipe), "R",
     "whose forward pass (default: the trained one)"},
    {"no-cache", 0, NI_OPTION_FLAG, offsetof(generate_options, no_cache), NULL,
     "compute keys and values of the whole text anew for every token: the same text, slowly"},
    {"backend", 0, NI_OPTION_TEXT, offsetof(generate_options, backend), "NAME", "cpu (default), cuda or cuda:NUMBER"},
    {"threads", 0, NI_OPTION_INT, offsetof(generate_options, threads), "N", "threads (default: all)"},
    {0},
};

static const ni_command_line line = {
    .usage =
        "CHECKPOINT|RUN [--prompt TEXT] [--tokens N] [--temperature T] [--top-k K] [--top-p P] [--seed N] [--recipe R]",
    .about = "Prints the prompt and its continuation, until the model ends the text or N tokens are added.\n"
             "  nibble generate runs/tiny/checkpoints/step-00001000 --prompt 'A horse is' --temperature 0.7",
    .options = options,
    .least = 1,
    .most = 1,
};

/* What generation needs beside the model. */
typedef struct generator {
    nb_loaded *loaded;
    ni_tokenizer *tokenizer;
    nb_sampling how;
    int64_t window;
    ni_decode_stream stream;
    ni_tokens text;  /* what opens a document first */
    int32_t opening; /* how many tokens that is */
    int64_t begin;   /* of the text in the window */
    int64_t kept;    /* tokens from there on that the model has seen */
    bool no_cache;
    float *logits;  /* [vocab] */
    float *scratch; /* [2, vocab] */
} generator;

static void free_generator(generator *g) {
    ni_decode_stream_free(&g->stream);
    ni_tokenizer_free(g->tokenizer);
    ni_tokens_free(&g->text);
    free(g->logits);
    free(g->scratch);
}

static nb_status prepare(generator *g, const char *folder, const generate_options *given, nb_error *err) {
    int32_t vocab = nb_model_get_config(g->loaded->model)->vocab;
    const char *source = given->tokenizer ? given->tokenizer : folder;
    NB_TRY(ni_tokenizer_load(source, &g->tokenizer, err));
    if (ni_tokenizer_vocab(g->tokenizer) > vocab)
        return nb_fail(err, NB_BAD_FILE, "%s: %d tokens, and the model's vocab is %d", source,
                       ni_tokenizer_vocab(g->tokenizer), vocab);
    NB_TRY(ni_decode_stream_open(g->tokenizer, &g->stream, err));
    g->logits = malloc((size_t)vocab * sizeof *g->logits);
    g->scratch = malloc(2 * (size_t)vocab * sizeof *g->scratch);
    if (!g->logits || !g->scratch)
        return nb_fail(err, NB_NO_MEMORY, "generate: %d logits do not fit in memory", vocab);
    int32_t opening = ni_tokenizer_begin_of_text(g->tokenizer);
    if (opening < 0 && !(given->prompt && given->prompt[0])) /* something has to be continued */
        opening = ni_tokenizer_end_of_text(g->tokenizer);
    g->opening = opening >= 0;
    if (opening >= 0)
        NB_TRY(ni_tokens_add(&g->text, &opening, 1, err));
    if (given->prompt)
        NB_TRY(ni_tokenizer_encode(g->tokenizer, given->prompt, strlen(given->prompt), false, &g->text, NULL, err));
    if (g->text.count == 0)
        return nb_fail(err, NB_BAD_USAGE, "--prompt: is empty, and this tokenizer has no end-of-text to begin with");
    return NB_OK;
}

static nb_status next_token(generator *g, int32_t *token, nb_error *err) {
    nb_pass pass = {.step = (uint32_t)g->loaded->info.step,
                    .steps = (uint32_t)nb_run_steps(&g->loaded->info.config),
                    .rounding_seed = (uint32_t)g->loaded->info.config.seeds.rounding};
    if (g->text.count - g->begin > g->window) {
        g->begin = g->text.count - (g->window + 1) / 2;
        g->kept = 0;
    }
    if (g->no_cache)
        g->kept = 0;
    for (; g->begin + g->kept < g->text.count; g->kept++)
        NB_TRY(nb_model_step(g->loaded->model, g->text.ids[g->begin + g->kept], g->kept, &pass, g->logits, err));
    int32_t vocab = ni_tokenizer_vocab(g->tokenizer); /* rows of the embedding beyond it are padding */
    *token = nb_sample(g->logits, vocab, &g->how, g->text.count, g->scratch);
    return NB_OK;
}

/* Prints what newest tokens add to the text. */
static nb_status print_more(ni_decode_stream *stream, const int32_t *ids, int64_t count, nb_error *err) {
    char *text;
    size_t size;
    NB_TRY(ni_decode_stream_add(stream, ids, count, &text, &size, err));
    if (size) {
        fwrite(text, 1, size, stdout);
        fflush(stdout);
    }
    free(text);
    return NB_OK;
}

static nb_status generate(generator *g, int64_t tokens, nb_error *err) {
    NB_TRY(print_more(&g->stream, g->text.ids + g->opening, g->text.count - g->opening, err));
    for (int64_t i = 0; i < tokens && !ni_stop_requested(); i++) {
        int32_t token;
        NB_TRY(next_token(g, &token, err));
        if (token == ni_tokenizer_end_of_text(g->tokenizer))
            break;
        NB_TRY(ni_tokens_add(&g->text, &token, 1, err));
        NB_TRY(print_more(&g->stream, &token, 1, err));
    }
    putchar('\n');
    return NB_OK;
}

static nb_status run(nb_backend *be, const char *folder, const generate_options *given, nb_error *err) {
    nb_checkpoint_info info;
    nb_loaded loaded;
    NB_TRY(nb_checkpoint_info_read(folder, &info, err));
    nb_recipe recipe;
    if (given->recipe) {
        char recipes[NB_PATH_SIZE];
        NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
        NB_TRY(nb_recipe_load(given->recipe, recipes, &recipe, err));
    }
    NB_TRY(nb_load_checkpoint(be, folder, given->recipe ? &recipe : NULL, 1, info.config.seq, &loaded, err));
    generator g = {.loaded = &loaded,
                   .how = {given->temperature, (int32_t)given->top_k, given->top_p, (uint32_t)given->seed},
                   .no_cache = given->no_cache,
                   .window = info.config.seq};
    nb_status status = prepare(&g, folder, given, err);
    if (status == NB_OK)
        status = generate(&g, given->tokens, err);
    free_generator(&g);
    nb_loaded_free(&loaded);
    return status;
}

nb_status ni_cli_generate(int argc, char **argv, nb_error *err) {
    generate_options given = {.tokens = 100, .top_k = 50, .seed = 1, .temperature = 0.8, .top_p = 1};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &given, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(ni_cli_range("tokens", (double)given.tokens, 0, INT32_MAX, err));
    NB_TRY(ni_cli_range("top-k", (double)given.top_k, 0, INT32_MAX, err));
    NB_TRY(ni_cli_range("seed", (double)given.seed, 0, UINT32_MAX, err));
    NB_TRY(ni_cli_range("temperature", given.temperature, 0, 100, err));
    if (!(given.top_p > 0 && given.top_p <= 1))
        return nb_fail(err, NB_BAD_USAGE, "--top-p: %g; expected above 0, at most 1", given.top_p);
    char folder[NB_PATH_SIZE];
    NB_TRY(ni_cli_checkpoint(argv[1], folder, err));
    nb_backend *be;
    NB_TRY(ni_cli_open(given.backend, given.threads, &be, err));
    ni_stop_on_signals();
    nb_status status = run(be, folder, &given, err);
    nb_backend_free(be);
    return status;
}
