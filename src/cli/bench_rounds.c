/* bench_rounds.c: what benchmarks share: timing by turns, options, the name of the processor. */
#include "cli/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- timing ---- */

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static nb_status run_rounds(ni_contender *list, int32_t count, double seconds, clockid_t clock, nb_error *err) {
    enum { LEAST_ROUNDS = 5 };
    int32_t running = 0;
    for (int32_t i = 0; i < count; i++) {
        list[i].best = 1e30;
        if (list[i].missing)
            continue;
        NB_TRY(list[i].run(list[i].state, err)); /* memory, primitives and caches are made here */
        running++;
    }
    double start = now(clock);
    for (int32_t round = 0; round < LEAST_ROUNDS || now(clock) - start < seconds * running; round++) {
        for (int32_t i = 0; i < count; i++) {
            if (list[i].missing)
                continue;
            double before = now(clock);
            NB_TRY(list[i].run(list[i].state, err));
            double taken = now(clock) - before;
            list[i].best = taken < list[i].best ? taken : list[i].best;
        }
    }
    return NB_OK;
}

nb_status ni_bench_rounds(ni_contender *list, int32_t count, double seconds, nb_error *err) {
    return run_rounds(list, count, seconds, CLOCK_MONOTONIC, err);
}

nb_status ni_bench_rounds_alone(ni_contender *list, int32_t count, double seconds, nb_error *err) {
    return run_rounds(list, count, seconds, CLOCK_THREAD_CPUTIME_ID, err);
}

/* ---- options ---- */

nb_status ni_bench_isa(const char *text, nb_isa *isa, nb_error *err) {
    for (int i = NB_ISA_AUTO; i <= NB_ISA_AVX512; i++) {
        *isa = (nb_isa)i;
        if (strcmp(text, nb_isa_name(*isa)) == 0)
            return NB_OK;
    }
    return nb_fail(err, NB_BAD_USAGE, "--isa %.40s: expected auto, scalar, portable, avx2 or avx512", text);
}

nb_status ni_bench_shape(const char *text, int64_t shape[3], nb_error *err) {
    const int64_t most = 1 << 20;
    const char *at = text;
    for (int i = 0; i < 3; i++) {
        char *end;
        shape[i] = *at >= '0' && *at <= '9' ? strtoll(at, &end, 10) : 0;
        if (shape[i] < 1 || shape[i] > most || *end != (i < 2 ? 'x' : 0))
            return nb_fail(err, NB_BAD_USAGE, "--shape %.60s: expected MxNxK, each 1 to %lld, as 2048x768x1024", text,
                           (long long)most);
        at = end + 1;
    }
    return NB_OK;
}

const char *ni_bench_processor(char *text, size_t size) {
    snprintf(text, size, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(text, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file)
        fclose(file);
    return text;
}
