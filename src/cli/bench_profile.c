/* bench_profile.c: where the time of one step goes, by operation. */
#include "backend/table.h"
#include "cli/bench.h"

#include <stdio.h>

nb_status ni_bench_profile(nb_backend *be, const char *what, nb_status (*step)(void *state, nb_error *err), void *state,
                           nb_error *err) {
    enum { ROOM = 512 };
    ni_profile_line lines[ROOM];
    int32_t count = 0;
    double all = 0, rest = 0;
    if (!be->profiler)
        return nb_fail(err, NB_UNSUPPORTED, "--profile: backend %s cannot say; expected backend: cuda", be->name);
    NB_TRY(be->profiler->start(be, err));
    NB_TRY(step(state, err));
    NB_TRY(be->profiler->stop(be, lines, ROOM, &count, err));
    count = count < ROOM ? count : ROOM;
    for (int32_t i = 0; i < count; i++)
        all += lines[i].ms;
    printf("\n%s: %.2f ms\n%-52s %8s %8s %10s\n", what, all, "operation", "ms", "share", "calls");
    for (int32_t i = 0; i < count; i++)
        if (lines[i].ms >= 0.005 * all)
            printf("%-52s %8.3f %7.1f%% %10lld\n", lines[i].what, lines[i].ms, 100 * lines[i].ms / all,
                   (long long)lines[i].calls);
        else
            rest += lines[i].ms;
    printf("%-52s %8.3f %7.1f%%\n", "all others", rest, 100 * rest / all);
    return NB_OK;
}
