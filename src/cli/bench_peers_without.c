/* bench_peers_without.c: the peers of `nibble bench gemm` in a build that has none of them (NIBBLE_CARRIED). */
#include "cli/bench_peers.h"

#include <stdlib.h>

struct nb_peers {
    int64_t m, n, k;
};

nb_status nb_peers_create(int64_t m, int64_t n, int64_t k, int32_t threads, nb_peers **out, nb_error *err) {
    (void)threads;
    *out = malloc(sizeof **out);
    if (!*out)
        return nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for the peers");
    **out = (nb_peers){m, n, k};
    return NB_OK;
}

void nb_peers_free(nb_peers *peers) {
    free(peers);
}

void nb_peers_contenders(nb_peers *peers, nb_contender *list) {
    static const char none[] = "this build has neither OpenBLAS nor oneDNN";
    list[NB_PEER_SGEMM] = (nb_contender){"openblas sgemm", NULL, peers, 0, none};
    list[NB_PEER_BF16] = (nb_contender){"onednn bf16", NULL, peers, 0, none};
    list[NB_PEER_INT8] = (nb_contender){"onednn int8 (u8 x s8, s32)", NULL, peers, 0, none};
}

bool nb_roofline_contender(nb_isa isa, int32_t threads, nb_roofline *roofline, nb_contender *out) {
    (void)isa, (void)threads, (void)roofline, (void)out;
    return false;
}
