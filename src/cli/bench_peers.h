/* bench_peers.h: what products are compared with: OpenBLAS, oneDNN, and the processor itself. */
#ifndef NI_CLI_BENCH_PEERS_H
#define NI_CLI_BENCH_PEERS_H

#include "cli/bench.h"

/* C[M,N] = A[M,K] B[N,K]^T by each library, with its own threads and plain row-major operands (weights that change at
 * each step are not packed ahead). */
typedef struct ni_peers ni_peers;

nb_status ni_peers_create(int64_t m, int64_t n, int64_t k, int32_t threads, ni_peers **out, nb_error *err);
void ni_peers_free(ni_peers *peers);

enum { NI_PEER_SGEMM, NI_PEER_BF16, NI_PEER_INT8, NI_PEER_COUNT };

/* Fills NI_PEER_COUNT contenders, with `missing` set where oneDNN has no product for this machine (BF16 without
 * AVX-512, say); they stay valid until ni_peers_free. */
void ni_peers_contenders(ni_peers *peers, ni_contender *list);

/* A roofline: a loop over registers of the instruction that products rest on, on `threads` threads, to be timed like
 * the rest. NI_ROOF_CODES: vpdpbusd for avx512, vpmaddubsw with vpaddw for avx2. NI_ROOF_NUMBERS: fused multiply-add of
 * F32, which units for matrices (AMX) go beyond. */
typedef enum ni_roof { NI_ROOF_CODES, NI_ROOF_NUMBERS, NI_ROOFS } ni_roof;

typedef struct ni_roofline {
    nb_isa isa;
    int32_t threads;
    double operations; /* of one run */
    ni_roof roof;
    int32_t kept; /* a result, so that no compiler drops the loop */
} ni_roofline;

/* False for instruction sets that have none. `roofline` must stay valid with the contender. */
bool ni_roofline_contender(ni_roof roof, nb_isa isa, int32_t threads, ni_roofline *roofline, ni_contender *out);

#endif
