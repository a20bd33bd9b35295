/* main.c: finds the command, runs it, turns its status into an exit status and its error into one line. */
#include "cli/cli.h"
#include "config/suggest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const ni_command ni_commands[] = {
#define NI_COMMAND_ROW(name, help) {#name, help, ni_cli_##name},
    NI_COMMANDS(NI_COMMAND_ROW)
#undef NI_COMMAND_ROW
        {0}};

static const ni_command *find_command(const char *name) {
    for (const ni_command *c = ni_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static nb_status fail_unknown(const char *name, nb_error *err) {
    ni_suggestion s = ni_suggest(name);
    for (const ni_command *c = ni_commands; c->name; c++)
        ni_suggest_offer(&s, c->name);
    if (s.best)
        return nb_fail(err, NB_BAD_USAGE, "unknown command '%.60s'; did you mean '%s'?", name, s.best);
    return nb_fail(err, NB_BAD_USAGE, "unknown command '%.60s'; 'nibble help' lists them", name);
}

static nb_status dispatch(int argc, char **argv, nb_error *err) {
    char *help_alone[] = {(char *)"help", NULL};
    if (argc < 2)
        return ni_cli_help(1, help_alone, err);
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        printf("nibble %s\n", NIBBLE_VERSION);
        return NB_OK;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return ni_cli_help(1, help_alone, err);
    const ni_command *command = find_command(name);
    return command ? command->run(argc - 1, argv + 1, err) : fail_unknown(name, err);
}

/* A file that is opened must not get the number of a standard stream that the caller closed: what is printed would land
 * in it. */
static bool hold_standard_streams(void) {
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
    return fd >= 0;
}

/* Libraries read these before main, so what is missing is set and the program starts once more; what the user says
 * stays. Threads of a team wait for each other after every operation. The OpenMP runtime has them spin for
 * milliseconds, which is good alone and ruinous beside other programs; sleeping at once costs a quiet machine. A short
 * spin is near the better of both on either (docs/ledger.md). OpenBLAS is called for one tile at a time; threads of its
 * own would take address space, and where there is little of it they hang the program when it ends. */
static void choose_threads(char **argv) {
    bool changed = false;
    if (!getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT"))
        changed = setenv("GOMP_SPINCOUNT", "200", 0) == 0;
    if (!getenv("OPENBLAS_NUM_THREADS"))
        changed = setenv("OPENBLAS_NUM_THREADS", "1", 0) == 0 || changed;
    if (changed)
        execv("/proc/self/exe", argv); /* where that is not to be had, it runs as it is */
}

int main(int argc, char **argv) {
    choose_threads(argv);
    nb_error err = {0};
    if (!hold_standard_streams())
        return 1;
    nb_status status = dispatch(argc, argv, &err);
    if (status == NB_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = nb_fail(&err, NB_IO_ERROR, "cannot write to standard output: %s", strerror(errno));
    if (status != NB_OK && strcmp(err.message, NI_CLI_SAID) != 0)
        fprintf(stderr, "nibble: %s\n", *err.message ? err.message : nb_status_name(status));
    return nb_status_exit(status);
}
