/* tokenize.c: `nibble tokenize`: texts to token shards; trains a tokenizer on the way if asked. */
#include "base/progress.h"
#include "cli/cli.h"
#include "data/text_file.h"
#include "data/tokenizer_corpus.h"
#include "files/file.h"
#include "files/folder.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct tokenize_options {
    const char *tokenizer, *kind, *out, *split, *separator, *field;
    int64_t train_tokenizer, shard_tokens, peek;
    double val;
    bool force, quiet, as_is;
} tokenize_options;

#define FIELD(name) offsetof(tokenize_options, name)
static const ni_option options_table[] = {
    {"tokenizer", 't', NI_OPTION_TEXT, FIELD(tokenizer), "bytes|MODEL",
     "a SentencePiece model, tokenizer.json, a folder, bytes"},
    {"train-tokenizer", 0, NI_OPTION_INT, FIELD(train_tokenizer), "VOCAB", "train a tokenizer of VOCAB tokens instead"},
    {"kind", 0, NI_OPTION_TEXT, FIELD(kind), "sentencepiece|bpe",
     "which to train; bpe: a tokenizer.json (sentencepiece)"},
    {"out", 'o', NI_OPTION_TEXT, FIELD(out), "DIR", "folder for the shards"},
    {"val", 0, NI_OPTION_FLOAT, FIELD(val), "SHARE", "share of the text set aside for validation (0.01)"},
    {"split", 0, NI_OPTION_TEXT, FIELD(split), "file|blank|line", "what is a document; NUL always ends one (file)"},
    {"separator", 0, NI_OPTION_TEXT, FIELD(separator), "TEXT", "documents are separated by TEXT, which is dropped"},
    {"field", 0, NI_OPTION_TEXT, FIELD(field), "NAME", "of JSON lines, of Parquet: where the text is (text)"},
    {"as-is", 0, NI_OPTION_FLAG, FIELD(as_is), NULL, "take the bytes of any file, text or not"},
    {"peek", 0, NI_OPTION_INT, FIELD(peek), "BYTES", "how much text there is and its first words; write nothing"},
    {"shard-tokens", 0, NI_OPTION_INT, FIELD(shard_tokens), "N", "most tokens of one file (100000000)"},
    {"force", 0, NI_OPTION_FLAG, FIELD(force), NULL, "replace a folder of an earlier tokenize"},
    {"quiet", 'q', NI_OPTION_FLAG, FIELD(quiet), NULL, "print nothing but errors"},
    {0},
};

static const ni_command_line command_line = {
    .usage = "TEXT... --tokenizer bytes|MODEL -o DIR\nTEXT... --train-tokenizer VOCAB [--kind bpe] -o DIR\nTEXT... "
             "--peek BYTES",
    .about = "Turns text files into train_*.bin and val_*.bin with meta.json and the tokenizer's files beside them.\n"
             "Reads UTF-8 text and JSON lines (a document a line), also in gzip or zstd, and Parquet (a document a\n"
             "row) where nibble was built with it; - is standard input.\n"
             "Example: nibble tokenize book.txt --train-tokenizer 4096 --split blank -o data/book",
    .options = options_table,
    .least = 1,
    .most = -1,
};

/* ---- texts ---- */

typedef struct inputs {
    ni_text_file *files;
    ni_text *texts;
    int32_t count;
    int64_t bytes;
} inputs;

static void close_inputs(inputs *in) {
    for (int32_t i = 0; i < in->count; i++)
        ni_text_file_close(&in->files[i]);
    free(in->files);
    free(in->texts);
}

static nb_status open_inputs(char *const *paths, int32_t count, const ni_text_options *options, inputs *in,
                             nb_error *err) {
    *in =
        (inputs){.files = calloc((size_t)count, sizeof *in->files), .texts = calloc((size_t)count, sizeof *in->texts)};
    if (!in->files || !in->texts)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d texts", (int)count);
    for (; in->count < count; in->count++) {
        ni_text_file *file = &in->files[in->count];
        if (strcmp(paths[in->count], "-") == 0)
            NB_TRY(ni_text_file_take("standard input", STDIN_FILENO, options, file, err));
        else
            NB_TRY(ni_text_file_open(paths[in->count], options, file, err));
        in->texts[in->count] = file->text;
        in->bytes += (int64_t)file->text.size;
    }
    if (in->bytes == 0)
        return nb_fail(err, NB_BAD_FILE, "%s%s: the text is empty: there is nothing to tokenize", paths[0],
                       count > 1 ? " and the others" : "");
    return NB_OK;
}

/* ---- output ---- */

/* The folder must be new or empty, or with --force one that tokenize wrote: nothing else is ever replaced. */
static nb_status check_output(const tokenize_options *o, nb_error *err) {
    char meta[4096];
    DIR *folder = opendir(o->out);
    int32_t entries = 0;
    if (!folder && errno == ENOTDIR)
        return nb_fail(err, NB_BAD_USAGE, "%s: exists already and is no folder; give another name", o->out);
    for (struct dirent *entry = NULL; folder && (entry = readdir(folder)) != NULL;)
        entries += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (folder)
        closedir(folder);
    if (entries == 0)
        return NB_OK;
    snprintf(meta, sizeof meta, "%s/meta.json", o->out);
    bool ours = access(meta, F_OK) == 0;
    if (ours && o->force)
        return NB_OK;
    return nb_fail(err, NB_BAD_USAGE, "%s: exists and is not empty; give another name%s", o->out,
                   ours ? " or --force" : "");
}

static volatile sig_atomic_t stopped; /* by SIGINT or SIGTERM */

static void on_signal(int number) {
    (void)number;
    stopped = 1;
}

typedef struct display {
    ni_progress progress;
    double began;
} display;

static bool show(void *context, int64_t done, int64_t total) {
    display *d = context;
    char text[64], left[32];
    double seconds = ni_seconds() - d->began, share = total ? (double)done / (double)total : 1;
    snprintf(text, sizeof text, "tokenizing  %.1f MB/s  %s left", (double)done / 1e6 / (seconds + 1e-9),
             ni_duration_text(share > 0 ? seconds * (1 - share) / share : 0, left, sizeof left));
    ni_progress_bar(&d->progress, done, total, text);
    return !stopped;
}

static void print_side(const char *name, const ni_corpus_side *s) {
    if (s->tokens > 0)
        printf("  %-6s %12" PRId64 " tokens  %9" PRId64 " %-9s  %5.2f bytes/token  %" PRId64 " shard%s\n", name,
               s->tokens, s->documents, s->documents == 1 ? "document" : "documents",
               (double)s->bytes / (double)s->tokens, s->shards, s->shards == 1 ? "" : "s");
}

static void print_summary(const tokenize_options *o, const ni_tokenizer *t, const ni_corpus_counts *counts,
                          double seconds) {
    char text[32];
    printf("%s: %s tokenizer, vocabulary %d, end of text %d; %s\n", o->out, ni_tokenizer_kind(t),
           (int)ni_tokenizer_vocab(t), (int)ni_tokenizer_end_of_text(t), ni_duration_text(seconds, text, sizeof text));
    print_side("train", &counts->train);
    print_side("val", &counts->val);
    if (counts->invalid)
        printf("  %" PRId64 " bytes were not UTF-8 and became U+FFFD\n", counts->invalid);
}

/* ---- the work ---- */

static nb_status choose_split(const tokenize_options *o, ni_corpus_options *corpus, nb_error *err) {
    if (o->separator) {
        if (!*o->separator || o->split)
            return nb_fail(err, NB_BAD_USAGE, "--separator takes a text that is not empty and excludes --split");
        corpus->split = NI_SPLIT_TEXT;
        corpus->separator = o->separator;
        return NB_OK;
    }
    for (int split = NI_SPLIT_FILE; split <= NI_SPLIT_LINE; split++)
        if (!o->split || strcmp(o->split, ni_split_name((ni_split)split)) == 0) {
            corpus->split = (ni_split)split;
            return NB_OK;
        }
    return nb_fail(err, NB_BAD_USAGE, "--split %.40s: expected file, blank or line; or give --separator TEXT",
                   o->split);
}

static bool is_bpe(const tokenize_options *o) {
    return o->kind && strcmp(o->kind, "bpe") == 0;
}

static nb_status get_tokenizer(const tokenize_options *o, const inputs *in, display *d, ni_tokenizer **out,
                               nb_error *err) {
    enum { TAKES_A_WHILE = 1 << 18 }; /* bytes */
    if (!o->train_tokenizer)
        return ni_tokenizer_load(o->tokenizer, out, err);
    int32_t vocab = o->train_tokenizer > INT32_MAX ? INT32_MAX : (int32_t)o->train_tokenizer;
    NB_TRY(ni_tokenizer_check_training(in->texts, in->count, vocab, err));
    if (in->bytes >= TAKES_A_WHILE)
        ni_progress_line(&d->progress, "training a tokenizer of %" PRId64 " tokens ...", o->train_tokenizer);
    return is_bpe(o) ? ni_tokenizer_train_bpe(in->texts, in->count, vocab, out, err)
                     : ni_tokenizer_train(in->texts, in->count, vocab, out, err);
}

static nb_status write_folder(const tokenize_options *o, const inputs *in, const ni_tokenizer *tokenizer,
                              const ni_corpus_options *corpus, ni_corpus_counts *counts, nb_error *err) {
    ni_folder *folder;
    NB_TRY(ni_folder_begin(o->out, o->force, &folder, err));
    nb_status status = ni_corpus_write(tokenizer, in->texts, in->count, ni_folder_path(folder), corpus, counts, err);
    if (status != NB_OK) {
        ni_folder_abandon(folder);
        return status;
    }
    return ni_folder_commit(folder, err);
}

static nb_status make_parent(const char *path, nb_error *err) {
    char parent[4096];
    snprintf(parent, sizeof parent, "%s", path);
    size_t length = strlen(parent);
    while (length > 1 && parent[length - 1] == '/')
        parent[--length] = 0;
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent)
        return NB_OK;
    *slash = 0;
    return ni_make_folders(parent, err);
}

/* Few bytes that are not UTF-8 are taken, but not in silence. */
static void say_doubts(const inputs *in, char *const *paths, const ni_tokenizer *tokenizer, ni_progress *progress) {
    const bool kept = strcmp(ni_tokenizer_kind(tokenizer), "bytes") == 0;
    for (int32_t i = 0; i < in->count; i++)
        if (in->files[i].doubts.invalid)
            ni_progress_line(progress,
                             "note: %s: %" PRId64 " bytes are not UTF-8, the first at %" PRId64 "; they %s; hint: "
                             "iconv, if the text was meant otherwise",
                             paths[i], in->files[i].doubts.invalid, in->files[i].doubts.first,
                             kept ? "stay as they are" : "become U+FFFD");
}

static nb_status tokenize(const tokenize_options *o, const inputs *in, char *const *paths, nb_error *err) {
    display d = {ni_progress_open(o->quiet ? NULL : stderr), ni_seconds()};
    double began = d.began;
    ni_tokenizer *tokenizer = NULL;
    ni_corpus_counts counts = {0};
    ni_corpus_options corpus = {
        .val_share = o->val, .shard_tokens = o->shard_tokens, .progress = show, .progress_context = &d};
    nb_status status = choose_split(o, &corpus, err);
    if (status == NB_OK && o->val < 1)
        status = ni_corpus_check(in->texts, in->count, &corpus, err);
    if (status == NB_OK)
        status = get_tokenizer(o, in, &d, &tokenizer, err);
    if (status == NB_OK)
        status = make_parent(o->out, err);
    if (status == NB_OK) {
        say_doubts(in, paths, tokenizer, &d.progress);
        struct sigaction action = {.sa_handler = on_signal}, was_int, was_term;
        sigaction(SIGINT, &action, &was_int);
        sigaction(SIGTERM, &action, &was_term);
        d.began = ni_seconds();
        status = write_folder(o, in, tokenizer, &corpus, &counts, err);
        sigaction(SIGINT, &was_int, NULL);
        sigaction(SIGTERM, &was_term, NULL);
    }
    ni_progress_close(&d.progress);
    if (status == NB_OK && !o->quiet)
        print_summary(o, tokenizer, &counts, ni_seconds() - began);
    ni_tokenizer_free(tokenizer);
    return status;
}

static nb_status peek(const inputs *in, int64_t most, nb_error *err) {
    char *words = malloc((size_t)most + 1);
    if (!words)
        return nb_fail(err, NB_NO_MEMORY, "--peek: no memory for %" PRId64 " bytes", most);
    ni_text_first_words(&in->texts[0], (size_t)most, words);
    printf("%" PRId64 " bytes of text\n%s\n", in->bytes, words);
    free(words);
    return NB_OK;
}

static nb_status check_options(const tokenize_options *o, nb_error *err) {
    enum { MOST_PEEK = 1 << 20 };
    NB_TRY(ni_cli_range("peek", (double)o->peek, 0, MOST_PEEK, err));
    if (o->peek)
        return NB_OK;
    if (!o->out)
        return nb_fail(err, NB_BAD_USAGE, "tokenize: -o DIR is missing: where the shards go");
    if (!o->tokenizer == !o->train_tokenizer)
        return nb_fail(err, NB_BAD_USAGE,
                       "tokenize: expected one of --tokenizer bytes|MODEL and --train-tokenizer VOCAB");
    if (o->kind && (!o->train_tokenizer || (!is_bpe(o) && strcmp(o->kind, "sentencepiece") != 0)))
        return nb_fail(err, NB_BAD_USAGE, "--kind %.40s: expected sentencepiece or bpe, with --train-tokenizer",
                       o->kind);
    return check_output(o, err);
}

nb_status ni_cli_tokenize(int argc, char **argv, nb_error *err) {
    tokenize_options o = {.val = 0.01, .shard_tokens = 100000000};
    int32_t count;
    NB_TRY(ni_cli_parse(&command_line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(check_options(&o, err));
    inputs in;
    nb_status status = open_inputs(argv + 1, count, &(ni_text_options){o.field, o.as_is}, &in, err);
    if (status == NB_OK)
        status = o.peek ? peek(&in, o.peek, err) : tokenize(&o, &in, argv + 1, err);
    close_inputs(&in);
    return status;
}
