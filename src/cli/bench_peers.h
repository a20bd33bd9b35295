/* bench_peers.h: what products are compared with: OpenBLAS, oneDNN, and the processor itself. */
#ifndef NB_CLI_BENCH_PEERS_H
#define NB_CLI_BENCH_PEERS_H

#include "cli/bench.h"

/* C[M,N] = A[M,K] B[N,K]^T by each library, with its own threads and plain row-major operands (weights that change at
 * each step are not packed ahead). */
typedef struct nb_peers nb_peers;

nb_status nb_peers_create(int64_t m, int64_t n, int64_t k, int32_t threads, nb_peers **out, nb_error *err);
void nb_peers_free(nb_peers *peers);

enum { NB_PEER_SGEMM, NB_PEER_BF16, NB_PEER_INT8, NB_PEER_COUNT };

/* Fills NB_PEER_COUNT contenders, with `missing` set where oneDNN has no product for this machine (BF16 without
 * AVX-512, say); they stay valid until nb_peers_free. */
void nb_peers_contenders(nb_peers *peers, nb_contender *list);

/* The integer roofline: a loop over registers of the instruction that packed products rest on (vpdpbusd for avx512,
 * vpmaddubsw with vpaddw for avx2) on `threads` threads, to be timed like the rest. */
typedef struct nb_roofline {
    nb_isa isa;
    int32_t threads;
    double operations; /* of one run */
    int32_t kept;      /* a result, so that no compiler drops the loop */
} nb_roofline;

/* False for instruction sets that have none. `roofline` must stay valid with the contender. */
bool nb_roofline_contender(nb_isa isa, int32_t threads, nb_roofline *roofline, nb_contender *out);

#endif
