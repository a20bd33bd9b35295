/* main.c: finds the command, runs it, turns its status into an exit status and its error into one line. */
#include "cli/cli.h"
#include "config/suggest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
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

extern char **environ;

/* Whether envp says so much: NAME=... */
static bool says(char **envp, const char *name) {
    const size_t size = strlen(name);
    for (; *envp; envp++)
        if (strncmp(*envp, name, size) == 0 && (*envp)[size] == '=')
            return true;
    return false;
}

/* Libraries read these when they are loaded, so what is missing is added and the program starts once more; what the
 * user says stays. Threads of a team wait for each other after every operation. The OpenMP runtime has them spin for
 * milliseconds, which is good alone and ruinous beside other programs; sleeping at once costs a quiet machine. A short
 * spin is near the better of both on either (docs/ledger.md). OpenBLAS is called for one tile at a time; threads of its
 * own would take address space, and where there is little of it they hang the program when it ends. */
static void choose_threads(int argc, char **argv, char **envp) {
    (void)argc;
    size_t count = 0;
    while (envp[count])
        count++;
    char *more[count + 3];
    memcpy(more, envp, count * sizeof *more);
    const size_t before = count;
    if (!says(envp, "OMP_WAIT_POLICY") && !says(envp, "GOMP_SPINCOUNT"))
        more[count++] = (char *)"GOMP_SPINCOUNT=200";
    if (!says(envp, "OPENBLAS_NUM_THREADS"))
        more[count++] = (char *)"OPENBLAS_NUM_THREADS=1";
    more[count] = NULL;
    if (count > before)
        execve("/proc/self/exe", argv, more); /* where that is not to be had, it runs as it is */
}

/* The loader calls this before it calls any library: OpenBLAS makes its threads at once, and ends the program where it
 * cannot. A sanitizer is not ready so early; main does it there. */
#if defined __GLIBC__ && !defined NI_SANITIZED
__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(int, char **,
                                                                                       char **) = choose_threads;
#endif

enum { STACK = 2 << 20 };

/* A frame of its own, or it would lie above what comes. Only the page that is written to becomes memory. */
__attribute__((noinline)) static void touch_stack(void) {
    volatile char all[STACK], *deepest = all;
    *deepest = 0;
}

/* The stack's addresses are taken one page after another as it is used, and where a limit on them (ulimit -v) is
 * reached the program is killed without a word. What any command needs (0.8 MiB were measured) is taken here, or said
 * not to be had. */
static nb_status take_stack(nb_error *err) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur < (rlim_t)4 * STACK)
        return NB_OK; /* a small one is the user's to choose */
    void *room = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a stack of %d MiB; hint: a larger limit (ulimit -v)",
                       STACK >> 20);
    munmap(room, STACK);
    touch_stack();
    return NB_OK;
}

int main(int argc, char **argv) {
    choose_threads(argc, argv, environ);
    nb_error err = {0};
    if (!hold_standard_streams())
        return 1;
    nb_status status = take_stack(&err);
    if (status == NB_OK)
        status = dispatch(argc, argv, &err);
    if (status == NB_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = nb_fail(&err, NB_IO_ERROR, "cannot write to standard output: %s", strerror(errno));
    if (status != NB_OK && strcmp(err.message, NI_CLI_SAID) != 0)
        fprintf(stderr, "nibble: %s\n", *err.message ? err.message : nb_status_name(status));
    return nb_status_exit(status);
}
