/* generate.c: `nibble generate`: continues a text with a checkpoint.
 *
 * Each token is drawn after a whole forward pass over the text so far, cut to the model's window: simple, and the same
 * arithmetic as training. There is no key-value cache.
 */
#include "cli/cli.h"
#include "cli/runs.h"
#include "cli/screen.h"
#include "data/tokenizer.h"
#include "nibble/train.h"
#include "train/sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct generate_options {
    const char *backend, *prompt, *tokenizer;
    int64_t tokens, top_k, seed, threads;
    double temperature;
} generate_options;

static const ni_option options[] = {
    {"prompt", 0, NI_OPTION_TEXT, offsetof(generate_options, prompt), "TEXT", "beginning of the text (default: none)"},
    {"tokens", 0, NI_OPTION_INT, offsetof(generate_options, tokens), "N", "how many to add (default 100)"},
    {"temperature", 0, NI_OPTION_FLOAT, offsetof(generate_options, temperature), "T",
     "0: always the most likely token (default 0.8)"},
    {"top-k", 0, NI_OPTION_INT, offsetof(generate_options, top_k), "K",
     "draw among the K most likely tokens; 0: all (default 50)"},
    {"seed", 0, NI_OPTION_INT, offsetof(generate_options, seed), "N", "of the draws (default 1)"},
    {"tokenizer", 0, NI_OPTION_TEXT, offsetof(generate_options, tokenizer), "T",
     "bytes, or a SentencePiece model (default: the checkpoint's)"},
    {"backend", 0, NI_OPTION_TEXT, offsetof(generate_options, backend), "NAME", "cpu (default), cuda or cuda:NUMBER"},
    {"threads", 0, NI_OPTION_INT, offsetof(generate_options, threads), "N", "threads (default: all)"},
    {0},
};

static const ni_command_line line = {
    .usage = "CHECKPOINT|RUN [--prompt TEXT] [--tokens N] [--temperature T] [--top-k K] [--seed N]",
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
    ni_sampling how;
    int64_t window;
    ni_tokens text;  /* what opens a document first */
    int32_t opening; /* how many tokens that is */
    int32_t *arrays; /* [4, window] */
    float *logits;   /* [window, vocab] */
    float *scratch;  /* [vocab] */
} generator;

static void free_generator(generator *g) {
    ni_tokenizer_free(g->tokenizer);
    ni_tokens_free(&g->text);
    free(g->arrays);
    free(g->logits);
    free(g->scratch);
}

static nb_status prepare(generator *g, const char *folder, const generate_options *given, nb_error *err) {
    int32_t vocab = nb_model_get_config(g->loaded->model)->vocab;
    NB_TRY(ni_tokenizer_load(given->tokenizer ? given->tokenizer : folder, &g->tokenizer, err));
    if (ni_tokenizer_vocab(g->tokenizer) > vocab)
        return nb_fail(err, NB_BAD_FILE, "%s: %d tokens, and the model's vocab is %d", folder,
                       ni_tokenizer_vocab(g->tokenizer), vocab);
    g->arrays = calloc((size_t)(4 * g->window), sizeof *g->arrays);
    g->logits = malloc((size_t)(g->window * vocab) * sizeof *g->logits);
    g->scratch = malloc((size_t)vocab * sizeof *g->scratch);
    if (!g->arrays || !g->logits || !g->scratch)
        return nb_fail(err, NB_NO_MEMORY, "generate: logits of %lld x %d do not fit in memory", (long long)g->window,
                       vocab);
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
    const nb_model_config *config = nb_model_get_config(g->loaded->model);
    int64_t n = g->text.count < g->window ? g->text.count : g->window;
    int32_t *tokens = g->arrays, *targets = tokens + n, *positions = targets + n, *doc_start = positions + n;
    memcpy(tokens, g->text.ids + g->text.count - n, (size_t)n * sizeof *tokens);
    for (int64_t i = 0; i < n; i++) {
        targets[i] = -1;
        positions[i] = (int32_t)i;
        doc_start[i] = 0;
    }
    nb_batch batch = {1, n, tokens, targets, positions, doc_start};
    nb_pass pass = {.step = (uint32_t)g->loaded->info.step,
                    .steps = (uint32_t)nb_run_steps(&g->loaded->info.config),
                    .rounding_seed = (uint32_t)g->loaded->info.config.seeds.rounding};
    NB_TRY(nb_model_logits(g->loaded->model, &batch, &pass, g->logits, err));
    int32_t vocab = ni_tokenizer_vocab(g->tokenizer); /* rows of the embedding beyond it are padding */
    *token = ni_sample(g->logits + (n - 1) * config->vocab, vocab, &g->how, g->text.count, g->scratch);
    return NB_OK;
}

/* Prints what the newest token added to the decoded text. A text that ends in U+FFFD waits: more bytes of its last
 * character may come. */
static nb_status print_progress(const generator *g, size_t *printed, nb_error *err) {
    char *text;
    size_t size;
    NB_TRY(ni_tokenizer_decode(g->tokenizer, g->text.ids + g->opening, g->text.count - g->opening, &text, &size, err));
    bool unfinished = size >= 3 && memcmp(text + size - 3, "\xEF\xBF\xBD", 3) == 0;
    if (size > *printed && !unfinished) {
        fwrite(text + *printed, 1, size - *printed, stdout);
        fflush(stdout);
        *printed = size;
    }
    free(text);
    return NB_OK;
}

static nb_status generate(generator *g, int64_t tokens, nb_error *err) {
    size_t printed = 0;
    NB_TRY(print_progress(g, &printed, err));
    for (int64_t i = 0; i < tokens && !ni_stop_requested(); i++) {
        int32_t token;
        NB_TRY(next_token(g, &token, err));
        if (token == ni_tokenizer_end_of_text(g->tokenizer))
            break;
        NB_TRY(ni_tokens_add(&g->text, &token, 1, err));
        NB_TRY(print_progress(g, &printed, err));
    }
    putchar('\n');
    return NB_OK;
}

static nb_status run(nb_backend *be, const char *folder, const generate_options *given, nb_error *err) {
    nb_checkpoint_info info;
    nb_loaded loaded;
    NB_TRY(nb_checkpoint_info_read(folder, &info, err));
    NB_TRY(nb_load_checkpoint(be, folder, NULL, 1, info.config.seq, &loaded, err));
    generator g = {.loaded = &loaded,
                   .how = {given->temperature, (int32_t)given->top_k, (uint32_t)given->seed},
                   .window = info.config.seq};
    nb_status status = prepare(&g, folder, given, err);
    if (status == NB_OK)
        status = generate(&g, given->tokens, err);
    free_generator(&g);
    nb_loaded_free(&loaded);
    return status;
}

static nb_status check_range(const char *name, int64_t value, int64_t low, int64_t high, nb_error *err) {
    if (value < low || value > high)
        return nb_fail(err, NB_BAD_USAGE, "--%s: %lld; expected %lld to %lld", name, (long long)value, (long long)low,
                       (long long)high);
    return NB_OK;
}

nb_status ni_cli_generate(int argc, char **argv, nb_error *err) {
    generate_options given = {.tokens = 100, .top_k = 50, .seed = 1, .temperature = 0.8};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &given, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(check_range("tokens", given.tokens, 0, INT32_MAX, err));
    NB_TRY(check_range("top-k", given.top_k, 0, INT32_MAX, err));
    NB_TRY(check_range("seed", given.seed, 0, UINT32_MAX, err));
    if (!(given.temperature >= 0 && given.temperature <= 100))
        return nb_fail(err, NB_BAD_USAGE, "--temperature: %g; expected 0 to 100", given.temperature);
    char folder[NB_PATH_SIZE];
    NB_TRY(ni_cli_checkpoint(argv[1], folder, err));
    nb_backend *be;
    NB_TRY(ni_cli_open(given.backend, given.threads, &be, err));
    ni_stop_on_signals();
    nb_status status = run(be, folder, &given, err);
    nb_backend_free(be);
    return status;
}
