/* cli.h: what every command of `nibble` shares.
 *
 * A command is one file src/cli/NAME.c with `ni_cli_NAME`, and one line in NI_COMMANDS below. It describes its options
 * in a table, lets ni_cli_parse fill a struct of its own, and returns a status; main.c prints the error and exits.
 */
#ifndef NI_CLI_CLI_H
#define NI_CLI_CLI_H

#include "nibble/backend.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, one line of help; in the order of `nibble help`. Add a line when src/cli/NAME.c lands. */
#define NI_COMMANDS(X)                                                                                                 \
    X(train, "one run: from its beginning, from where it stopped, or from another's checkpoint")                       \
    X(compare, "twins under several recipes; their loss gaps to BF16")                                                 \
    X(eval, "loss and perplexity of a checkpoint")                                                                     \
    X(probe, "loss with one kind of module quantized at a time")                                                       \
    X(generate, "continue a text")                                                                                     \
    X(tokenize, "turn texts into token shards; train a tokenizer")                                                     \
    X(export, "codes or numbers for transformers, vLLM, TensorRT-LLM, llama.cpp")                                      \
    X(lens, "a table of what was measured while training")                                                             \
    X(report, "one page for one run or many: curves, gaps, tables")                                                    \
    X(verify, "read everything again and compare it with its checksums")                                               \
    X(plan, "memory, bytes, FLOPs and time of a step on paper, before anything runs")                                  \
    X(quantize, "quantize a matrix or a folder: codes, scales, decoded numbers")                                       \
    X(recipe, "list, show and check recipes")                                                                          \
    X(bench, "check, then measure beside peers")                                                                       \
    X(info, "the machine, the libraries, which code will run")                                                         \
    X(help, "help on a command or on the keys of a file")

/* argv[0] is the command's name. */
typedef nb_status ni_command_run(int argc, char **argv, nb_error *err);
#define NI_COMMAND_DECLARE(name, help) ni_command_run ni_cli_##name;
NI_COMMANDS(NI_COMMAND_DECLARE)
#undef NI_COMMAND_DECLARE

/* The message of an error that was printed already, by this rank or by another: main.c says nothing more. */
#define NI_CLI_SAID "said already"

typedef struct ni_command {
    const char *name;
    const char *help;
    ni_command_run *run;
} ni_command;
extern const ni_command ni_commands[]; /* ends with a NULL name */

typedef enum ni_option_type {
    NI_OPTION_FLAG,  /* bool */
    NI_OPTION_TEXT,  /* const char *, points into argv */
    NI_OPTION_INT,   /* int64_t */
    NI_OPTION_FLOAT, /* double */
    NI_OPTION_TEXTS  /* ni_texts: may be given several times */
} ni_option_type;

#define NI_TEXTS_MAX 64
typedef struct ni_texts {
    const char *items[NI_TEXTS_MAX]; /* point into argv */
    int32_t count;
} ni_texts;

typedef struct ni_option {
    const char *name; /* "seed" for --seed */
    char letter;      /* 's' for -s; 0: none */
    ni_option_type type;
    size_t offset;     /* of the field in the command's struct of options */
    const char *value; /* what follows it in the help: "FILE"; NULL for flags */
    const char *help;
} ni_option;

typedef struct ni_command_line {
    const char *usage;        /* "RUN.yaml [--set KEY=VALUE]... [--resume]"; lines split by \n are alternatives */
    const char *about;        /* a few lines: what it does, an example */
    const ni_option *options; /* ends with a NULL name; may be NULL */
    int32_t least, most;      /* arguments that are not options; most -1: any number */
} ni_command_line;

/* Fills `fields` (what an option does not set is left alone, so put defaults first) and moves the arguments that are
 * not options to argv[1 .. *count]. "--" ends the options. --help or -h prints the help of the command to stdout and
 * sets *count to -1: the command returns NB_OK at once. Unknown options fail with the nearest right one. */
nb_status ni_cli_parse(const ni_command_line *line, int argc, char **argv, void *fields, int32_t *count, nb_error *err);

/* Fails unless the number that --OPTION gives lies from `low` to `high` (INFINITY: or more). */
nb_status ni_cli_range(const char *option, double value, double low, double high, nb_error *err);

/* What --threads says; -1, which a backend refuses, for what is no number of threads. */
int32_t ni_cli_threads(int64_t threads);

/* What --backend names (NULL: cpu), with what --threads says: 0 = all the process may use. */
nb_status ni_cli_open(const char *backend, int64_t threads, nb_backend **out, nb_error *err);

bool ni_cli_is_folder(const char *path);

/* The folder that holds `kind` ("recipes", "models"): $NIBBLE_HOME/kind, beside the executable (../kind,
 * ../share/nibble/kind), the source folder of the build. Fails if none exists. */
nb_status ni_cli_folder(const char *kind, char *path, size_t size, nb_error *err);

#endif
