/* bench_peers_without.c: the peers of `nibble bench gemm` in a build that has none of them (NIBBLE_CARRIED). */
#include "cli/bench_peers.h"

#include <stdlib.h>

struct ni_peers {
    int64_t m, n, k;
};

nb_status ni_peers_create(int64_t m, int64_t n, int64_t k, int32_t threads, ni_peers **out, nb_error *err) {
    (void)threads;
    *out = malloc(sizeof **out);
    if (!*out)
        return nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for the peers");
    **out = (ni_peers){m, n, k};
    return NB_OK;
}

void ni_peers_free(ni_peers *peers) {
    free(peers);
}

void ni_peers_contenders(ni_peers *peers, ni_contender *list) {
    static const char none[] = "this build has neither OpenBLAS nor oneDNN";
    list[NI_PEER_SGEMM] = (ni_contender){"openblas sgemm", NULL, peers, 0, none};
    list[NI_PEER_BF16] = (ni_contender){"onednn bf16", NULL, peers, 0, none};
    list[NI_PEER_INT8] = (ni_contender){"onednn int8 (u8 x s8, s32)", NULL, peers, 0, none};
}

bool ni_roofline_contender(ni_roof roof, nb_isa isa, int32_t threads, ni_roofline *roofline, ni_contender *out) {
    (void)roof, (void)isa, (void)threads, (void)roofline, (void)out;
    return false;
}
