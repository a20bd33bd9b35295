/* gla_backward.cu: gated linear attention backward, in chunks (symbols as in gla_forward.cu).
 *
 * With D = dL/dS after a chunk, D' before it, and dP_ts = scale do_t.v_s for s <= t of one document:
 *     D' = diag(exp(b_end)) D + sum_t (scale q_t exp(b_t)) do_t^T,
 *     dq_t = scale exp(b_t) (S do_t) + sum_{s <= t} dP_ts k_s exp(b_t - b_s),
 *     dk_s = exp(b_end - b_s) (D v_s) + sum_{t >= s} dP_ts q_t exp(b_t - b_s),
 *     dv_s = D^T (k_s exp(b_end - b_s)) + sum_{t >= s} P_ts do_t,
 *     dgate_t = rowsum(S' * D) + sum_{u >= t} (q_u dq_u - k_u dk_u) over the rest of the chunk.
 * The last sum stops at the end of t's document, and dgate is 0 where a document begins. A sum over the whole document
 * would do without S' * D, but errors of BF16 operands would pile up along it; so each chunk starts from its own.
 * 1. `pairs` of gla_forward.cu: decayed queries and keys, P.
 * 2. `scans`: what goes from chunk to chunk, all of it at once, because each block alone waits most of its time: tiles
 *    of S forward and of D in reverse, of which every chunk's are stored, and the reversed scan by value columns: dv.
 * 3. `finish` (gla_finish.cu), a block for each chunk: S do_t, D v_t, rowsum(S' * D) and dP, and what dP adds; dq, dk,
 *    dgate.
 *
 * Rounded to BF16: what the forward rounds, D where it is multiplied, S' and D in rowsum(S' * D), and between
 * sub-blocks dP and the decayed operands. In a sub-block of 16 all is FP32.
 *
 * Floor at batch 16, seq 2048, heads 4, key 128, value 256: 470 MB, 0.16 ms at 2.9 TB/s; 70 GFLOP, 0.11 ms on tensor
 * cores. With its scratch the plan moves 1.5 GB, 0.5 ms: 218 in `pairs`, 486 in `scans`, 790 in `finish`.
 */
#include "gla_states.cuh"
#include "gla_values.cuh"

/* Blocks of a head: tiles of S, then of D, then of dv. */
template <int key, int width>
static __global__ void __launch_bounds__(SCAN_THREADS, key <= 128 ? 3 : 2) scans(const gla_args a, int states) {
    const int index = blockIdx.x;
    if (index < states)
        scan_states<width, false>(a, index);
    else if (index < 2 * states)
        scan_states<width, true>(a, index - states);
    else
        scan_values<key, true>(a, index - 2 * states);
}

template <int key, int width>
static cudaError_t launch_scans_of(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    const int states = key / STATE_KEYS * (a.value_pad / width);
    const dim3 grid((unsigned)(2 * states + gla_value_tiles(a)), (unsigned)(g->batch * g->heads));
    const size_t of_states = 2 * sizeof(state_tile<width>), of_values = sizeof(value_tile<key>);
    return launch(scans<key, width>, grid, SCAN_THREADS, of_states > of_values ? of_states : of_values, stream, a,
                  states);
}

template <int key> static cudaError_t launch_scans_by_keys(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    return a.value_pad == 64 ? launch_scans_of<key, 64>(g, a, stream) : launch_scans_of<key, 128>(g, a, stream);
}

static cudaError_t launch_scans(const ni_cuda_gla *g, const gla_args &a, void *stream) {
    switch (a.key_pad) {
    case 64:
        return launch_scans_by_keys<64>(g, a, stream);
    case 128:
        return launch_scans_by_keys<128>(g, a, stream);
    default:
        return launch_scans_by_keys<256>(g, a, stream);
    }
}

int ni_cuda_launch_gla_backward(const ni_cuda_gla *g, void *dq, void *dk, void *dv, void *dgate, const void *d_o,
                                const void *q, const void *k, const void *v, const void *gate, void *workspace,
                                void *stream) {
    gla_args a;
    size_t bytes;
    if (!gla_arguments(g, &a, workspace, true, &bytes))
        return cudaErrorInvalidValue;
    if (!g->batch || !g->seq)
        return cudaSuccess;
    a.q = (const bf16 *)q;
    a.k = (const bf16 *)k;
    a.v = (const bf16 *)v;
    a.d_o = (const bf16 *)d_o;
    a.gate = (const float *)gate;
    a.dq = (bf16 *)dq;
    a.dk = (bf16 *)dk;
    a.dv = (bf16 *)dv;
    a.dgate = (float *)dgate;
    for (int i = 0; i < 3; i++) {
        a.amax[i] = g->amax[i];
        a.turned[i] = g->seq % 16 == 0 ? g->turned_amax[i] : NULL;
    }
    cudaError_t error = gla_launch_pairs(g, a, stream);
    if (!error)
        error = launch_scans(g, a, stream);
    return error ? error : gla_launch_finish(g, a, stream);
}
