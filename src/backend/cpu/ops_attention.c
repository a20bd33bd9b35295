/* ops_attention.c: softmax and gated linear attention: one task a head; coming back through softmax one a key head, so
 * that no two tasks write the same gradient. */
#include "backend/cpu/ops_kernels.h"
#include "backend/ref/ref.h"

#include <omp.h>

/* Floats that the kernels of ops_attention.inc work in: planes of the whole sequence, rows and squares of a tile. */
static size_t tile_bytes(const nb_attention *a, int64_t planes, int64_t tiles, int64_t squares) {
    int64_t width = ni_tile_width(a->head_dim), positions = ni_tile_positions(a->seq);
    int64_t floats = planes * positions * width + tiles * NI_TILE * width + squares * NI_TILE * NI_TILE;
    return (size_t)floats * sizeof(float);
}

/* Every thread's scratch, before any of them starts: within a parallel region nothing can fail. */
static nb_status reserve(nb_backend *be, const char *op, size_t bytes, nb_error *err) {
    for (int32_t thread = 0; thread < ni_cpu_of(be)->threads; thread++)
        if (!ni_cpu_scratch(be, thread, bytes))
            return nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of tiles a thread; fewer threads need less",
                           op, bytes);
    return NB_OK;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

/* Of one head's rows, while the cache has them, if `amax` asks for it. */
static uint32_t head_amax(const ni_cpu_kernels *kernels, const uint32_t *amax, const uint16_t *x, int64_t rows,
                          int64_t pitch, int64_t width) {
    uint32_t largest = 0;
    for (int64_t r = 0; amax && r < rows; r++)
        largest = larger(largest, kernels->amax_bf16(x + r * pitch, width));
    return largest;
}

/* ---- what runs ---- */

static const char *named(nb_backend *be) {
    static const char *const names[] = {[NB_ISA_AUTO] = "tiles",
                                        [NB_ISA_SCALAR] = "scalar",
                                        [NB_ISA_PORTABLE] = "tiles, portable",
                                        [NB_ISA_AVX2] = "tiles, avx2",
                                        [NB_ISA_AVX512] = "tiles, avx512"};
    return names[ni_cpu_of(be)->isa];
}

const char *ni_cpu_attention_kernel(nb_backend *be, const nb_attention *a, const char **why) {
    if (a->rule.sums != NB_ATTENTION_F32)
        return ni_ref_attention_kernel(be, a, why);
    *why = a->rule.forward == NB_ATTENTION_BF16_OPERANDS
               ? "a task a head, coming back one a key head: one order of sums"
               : "the same tiles, operands in four bits";
    return ni_attention_check(a, NULL) == NB_OK ? named(be) : NULL;
}

const char *ni_cpu_gla_kernel(nb_backend *be, const ni_gla *g, const char **why) {
    *why = "chunks of 32 positions, a task a head: one order of sums";
    return ni_gla_check(g, NULL) == NB_OK ? named(be) : NULL;
}

/* ---- softmax attention ---- */

nb_status ni_cpu_attention_forward(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,
                                   const void *k, const void *v, nb_error *err) {
    NB_TRY(ni_attention_check(a, err));
    if (a->rule.sums != NB_ATTENTION_F32) /* a study's: the reference alone */
        return ni_ref_f32_attention_forward(be, a, o, lse, q, k, v, err);
    const bool four = a->rule.forward != NB_ATTENTION_BF16_OPERANDS;
    const size_t bytes = tile_bytes(a, 2, 2, four ? ni_tile_positions(a->seq) / NI_TILE : 1);
    NB_TRY(reserve(be, "attention", bytes, err));
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const int64_t pitch = ni_attention_pitch(a, a->o_stride, a->heads);
    uint32_t largest = 0;
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(dynamic) reduction(max : largest)
    for (int64_t task = 0; task < a->batch * a->heads; task++) {
        (four ? kernels->attention4_forward : kernels->attention_forward)(
            a, task / a->heads, task % a->heads, o, lse, q, k, v, ni_cpu_scratch(be, omp_get_thread_num(), bytes));
        const int64_t first = task / a->heads * a->seq * pitch + task % a->heads * a->head_dim;
        largest =
            larger(largest, head_amax(kernels, a->o_amax, (const uint16_t *)o + first, a->seq, pitch, a->head_dim));
    }
    if (a->o_amax)
        *a->o_amax = largest;
    return NB_OK;
}

nb_status ni_cpu_attention_backward(nb_backend *be, const nb_attention *a, void *dq, void *dk, void *dv,
                                    const void *do_, const void *o, const void *lse, const void *q, const void *k,
                                    const void *v, nb_error *err) {
    NB_TRY(ni_attention_check(a, err));
    const bool four = ni_attention_goes_back_in_four_bits(a);
    const size_t bytes = tile_bytes(a, 5, 5, four ? 2 * ni_tile_positions(a->seq) / NI_TILE : 2);
    NB_TRY(reserve(be, "attention", bytes, err));
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const int64_t pitch = ni_attention_pitch(a, a->v_stride, a->kv_heads);
    uint32_t largest = 0;
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(dynamic) reduction(max : largest)
    for (int64_t task = 0; task < a->batch * a->kv_heads; task++) {
        const int64_t b = task / a->kv_heads, head = task % a->kv_heads;
        (four ? kernels->attention4_backward : kernels->attention_backward)(
            a, b, head, dq, dk, dv, do_, o, lse, q, k, v, ni_cpu_scratch(be, omp_get_thread_num(), bytes));
        const int64_t first = b * a->seq * pitch + head * a->head_dim;
        largest =
            larger(largest, head_amax(kernels, a->dv_amax, (const uint16_t *)dv + first, a->seq, pitch, a->head_dim));
    }
    if (a->dv_amax)
        *a->dv_amax = largest;
    return NB_OK;
}

size_t ni_cpu_gla_left_bytes(nb_backend *be, const ni_gla *g) {
    (void)be, (void)g;
    return 0;
}

/* A state, a chunk as laid out in ops_gla.inc, and sums of the gates in double. */
static size_t chunk_bytes(const ni_gla *g) {
    int64_t kw = ni_tile_width(g->key_dim), vw = ni_tile_width(g->value_dim);
    int64_t floats = kw * vw + 9 * NI_GLA_CHUNK * kw + 4 * NI_GLA_CHUNK * vw + NI_GLA_CHUNK * NI_GLA_CHUNK + 3 * kw;
    return (size_t)floats * sizeof(float);
}

nb_status ni_cpu_gla_forward(nb_backend *be, const ni_gla *g, void *o, const void *q, const void *k, const void *v,
                             const void *gate, nb_error *err) {
    NB_TRY(ni_gla_check(g, err));
    const size_t bytes = chunk_bytes(g);
    NB_TRY(reserve(be, "gla", bytes, err));
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(dynamic)
    for (int64_t task = 0; task < g->batch * g->heads; task++)
        kernels->gla_forward(g, task / g->heads, task % g->heads, o, q, k, v, gate,
                             ni_cpu_scratch(be, omp_get_thread_num(), bytes));
    return NB_OK;
}

nb_status ni_cpu_gla_backward(nb_backend *be, const ni_gla *g, void *dq, void *dk, void *dv, void *dgate,
                              const void *do_, const void *q, const void *k, const void *v, const void *gate,
                              nb_error *err) {
    NB_TRY(ni_gla_check(g, err));
    const size_t bytes = chunk_bytes(g);
    NB_TRY(reserve(be, "gla", bytes, err));
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const int64_t keys = g->heads * g->key_dim, values = g->heads * g->value_dim;
    uint32_t of_q = 0, of_k = 0, of_v = 0;
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(dynamic) reduction(max : of_q, of_k, of_v)
    for (int64_t task = 0; task < g->batch * g->heads; task++) {
        const int64_t b = task / g->heads, h = task % g->heads;
        const int64_t key = b * g->seq * keys + h * g->key_dim, value = b * g->seq * values + h * g->value_dim;
        float *scratch = ni_cpu_scratch(be, omp_get_thread_num(), bytes);
        kernels->gla_backward_queries(g, b, h, dq, dgate, do_, q, k, v, gate, scratch);
        kernels->gla_backward_keys(g, b, h, dk, dv, dgate, do_, q, k, v, gate, scratch);
        of_q = larger(of_q, head_amax(kernels, g->amax[0], (uint16_t *)dq + key, g->seq, keys, g->key_dim));
        of_k = larger(of_k, head_amax(kernels, g->amax[1], (uint16_t *)dk + key, g->seq, keys, g->key_dim));
        of_v = larger(of_v, head_amax(kernels, g->amax[2], (uint16_t *)dv + value, g->seq, values, g->value_dim));
    }
    const uint32_t found[] = {of_q, of_k, of_v};
    for (int i = 0; i < 3; i++)
        if (g->amax[i])
            *g->amax[i] = found[i];
    return NB_OK;
}
