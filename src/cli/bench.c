/* bench.c: `nibble bench`: runs one benchmark. */
#include "cli/bench.h"

#include <stdio.h>
#include <string.h>

static const ni_command benches[] = {
#define NI_BENCH_ROW(name, help) {#name, help, ni_bench_##name},
    NI_BENCHES(NI_BENCH_ROW)
#undef NI_BENCH_ROW
        {0}};

/* Help and messages call it by both of its words. */
static nb_status run(const ni_command *bench, int argc, char **argv, nb_error *err) {
    char name[32];
    snprintf(name, sizeof name, "bench %s", bench->name);
    argv[0] = name;
    return bench->run(argc, argv, err);
}

nb_status ni_cli_bench(int argc, char **argv, nb_error *err) {
    const char *name = argc > 1 ? argv[1] : "--help";
    for (const ni_command *b = benches; b->name; b++)
        if (strcmp(b->name, name) == 0)
            return run(b, argc - 1, argv + 1, err);
    if (strcmp(name, "--help") != 0 && strcmp(name, "-h") != 0)
        return nb_fail(err, NB_BAD_USAGE, "bench: there is no benchmark '%.60s'; 'nibble bench' lists them", name);
    puts("Usage: nibble bench NAME [options]\n\nChecks, then measures beside peers in the same run.\n");
    for (const ni_command *b = benches; b->name; b++)
        printf("  %-10s %s\n", b->name, b->help);
    puts("\nnibble bench NAME --help tells its options.");
    return NB_OK;
}
