/* help.c: `nibble help`: the commands, one command, or the keys of a configuration file. */
#include "cli/cli.h"
#include "config/keys.h"
#include "config/suggest.h"
#include "train/run_keys.h"

#include <stdio.h>
#include <string.h>

/* The files whose keys a table describes. One line a file. */
typedef struct topic {
    const char *name;
    const char *help;
    const nb_keys *table;
} topic;

static const topic topics[] = {
    {"run-file", "lists the keys of a run file", &nb_run_keys},
    {0},
};

typedef struct help_options {
    bool markdown;
} help_options;

static const nb_option options[] = {
    {"markdown", 0, NB_OPTION_FLAG, offsetof(help_options, markdown), NULL,
     "the keys of a file as a Markdown page (docs/*-file.md)"},
    {0},
};

static const nb_command_line line = {
    .usage = "\nCOMMAND\n[--markdown] FILE-KIND",
    .about = "Lists the commands, explains one, or lists the keys of a configuration file with their defaults.",
    .options = options,
    .most = 1,
};

static void print_commands(void) {
    puts("nibble pretrains language models in 4-bit floating point.\n\nCommands:");
    for (const nb_command *c = nb_commands; c->name; c++)
        printf("  %-12s %s\n", c->name, c->help);
    puts("\n'nibble help COMMAND' explains one.");
    for (const topic *t = topics; t->name; t++)
        printf("'nibble help %s' %s.\n", t->name, t->help);
}

static nb_status help_on(const char *name, bool markdown, nb_error *err) {
    nb_suggestion s = nb_suggest(name);
    for (const topic *t = topics; t->name; t++) {
        nb_suggest_offer(&s, t->name);
        bool names_file = strcmp(name, t->name) == 0;
        if (names_file && markdown)
            nb_keys_print_markdown(t->table, stdout);
        else if (names_file)
            nb_keys_print_help(t->table, stdout);
        if (names_file)
            return NB_OK;
    }
    for (const nb_command *c = nb_commands; c->name; c++) {
        nb_suggest_offer(&s, c->name);
        char *argv[] = {(char *)c->name, (char *)"--help", NULL};
        if (strcmp(c->name, name) == 0)
            return c->run(2, argv, err);
    }
    return nb_fail(err, NB_BAD_USAGE, "help: nothing is called '%.60s'%s%s%s", name, s.best ? "; did you mean '" : "",
                   s.best ? s.best : "", s.best ? "'?" : "");
}

nb_status nb_cli_help(int argc, char **argv, nb_error *err) {
    help_options o = {0};
    int32_t count;
    NB_TRY(nb_cli_parse(&line, argc, argv, &o, &count, err));
    if (count == 0)
        print_commands();
    return count > 0 ? help_on(argv[1], o.markdown, err) : NB_OK;
}
