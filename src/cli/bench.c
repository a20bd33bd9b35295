/* bench.c: `nibble bench`: runs one benchmark. */
#include "cli/bench.h"

#include <stdio.h>
#include <string.h>

static const ni_command benches[] = {
#define NI_BENCH_ROW(name, help) {#name, help, ni_bench_##name},
    NI_BENCHES(NI_BENCH_ROW)
#undef NI_BENCH_ROW
        {0}};

nb_status ni_cli_bench(int argc, char **argv, nb_error *err) {
    const char *name = argc > 1 ? argv[1] : "--help";
    for (const ni_command *b = benches; b->name; b++)
        if (strcmp(b->name, name) == 0) {
            char command[64]; /* as it is typed: what its help begins with */
            snprintf(command, sizeof command, "bench %s", b->name);
            argv[1] = command;
            nb_status status = b->run(argc - 1, argv + 1, err);
            argv[1] = (char *)name;
            return status;
        }
    if (strcmp(name, "--help") != 0 && strcmp(name, "-h") != 0)
        return nb_fail(err, NB_BAD_USAGE, "bench: there is no benchmark '%.60s'; 'nibble bench' lists them", name);
    puts("Usage: nibble bench NAME [options]\n\nChecks, then measures beside peers in the same run.\n");
    for (const ni_command *b = benches; b->name; b++)
        printf("  %-10s %s\n", b->name, b->help);
    puts("\nnibble bench NAME --help tells its options.");
    return NB_OK;
}
