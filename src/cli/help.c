/* help.c: `nibble help`: the commands, one command, or the keys of a configuration file. */
#include "cli/cli.h"
#include "cli/plan_machine.h"
#include "config/keys.h"
#include "config/suggest.h"
#include "model/config_keys.h"
#include "recipe/recipe_yaml.h"
#include "train/run_keys.h"

#include <stdio.h>
#include <string.h>

/* The files whose keys a table describes. One line a file. */
typedef struct topic {
    const char *name;
    const ni_keys *table;
} topic;

static const topic topics[] = {
    {"run", &ni_run_keys}, {"recipe", &ni_recipe_keys}, {"model", &ni_model_keys}, {"machine", &ni_machine_keys}, {0},
};

typedef struct help_options {
    const char *keys, *markdown;
} help_options;

static const ni_option options[] = {
    {"keys", 0, NI_OPTION_TEXT, offsetof(help_options, keys), "KIND",
     "the keys of a run, recipe, model or machine file"},
    {"markdown", 0, NI_OPTION_TEXT, offsetof(help_options, markdown), "KIND", "the same as a page of docs/"},
    {0},
};

static const ni_command_line line = {
    .usage = "[COMMAND | bench NAME]\n--keys run|recipe|model|machine\n--markdown run|recipe|model|machine",
    .about = "Lists the commands, explains one, or lists the keys of a configuration file with their defaults.",
    .options = options,
    .most = 2,
};

static void print_commands(void) {
    puts("nibble pretrains language models in 4-bit floating point.\n\nCommands:");
    for (const ni_command *c = ni_commands; c->name; c++)
        printf("  %-12s %s\n", c->name, c->help);
    puts("\n'nibble help COMMAND' explains one; 'nibble help --keys run' (or recipe, model, machine) lists the keys of "
         "a file.");
}

static nb_status help_on_keys(const char *name, bool markdown, nb_error *err) {
    ni_suggestion s = ni_suggest(name);
    for (const topic *t = topics; t->name; t++) {
        ni_suggest_offer(&s, t->name);
        if (strcmp(name, t->name) != 0)
            continue;
        if (markdown)
            ni_keys_print_markdown(t->table, stdout);
        else
            ni_keys_print_help(t->table, stdout);
        return NB_OK;
    }
    return nb_fail(err, NB_BAD_USAGE, "help: expected run, recipe, model or machine, found '%.60s'%s%s%s", name,
                   s.best ? "; did you mean '" : "", s.best ? s.best : "", s.best ? "'?" : "");
}

/* `second`: of a command of two words, "bench gemm"; NULL: none. */
static nb_status help_on_command(const char *name, const char *second, nb_error *err) {
    ni_suggestion s = ni_suggest(name);
    if (second && strcmp(name, "bench") != 0)
        return nb_fail(err, NB_BAD_USAGE,
                       "help: '%.60s' is one argument too many; usage: nibble help [COMMAND | bench NAME]", second);
    for (const ni_command *c = ni_commands; c->name; c++) {
        ni_suggest_offer(&s, c->name);
        char help[] = "--help";
        char *argv[] = {(char *)c->name, second ? (char *)second : help, second ? help : NULL, NULL};
        if (strcmp(c->name, name) == 0)
            return c->run(second ? 3 : 2, argv, err);
    }
    return nb_fail(err, NB_BAD_USAGE, "help: no command is called '%.60s'; %s%s%s", name,
                   s.best ? "did you mean '" : "hint: nibble help lists them", s.best ? s.best : "",
                   s.best ? "'?" : "");
}

nb_status ni_cli_help(int argc, char **argv, nb_error *err) {
    help_options o = {0};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    if (o.keys || o.markdown)
        return help_on_keys(o.markdown ? o.markdown : o.keys, o.markdown != NULL, err);
    if (count > 0)
        return help_on_command(argv[1], count > 1 ? argv[2] : NULL, err);
    print_commands();
    return NB_OK;
}
