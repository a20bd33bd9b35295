/* ops_attention.c: softmax attention: one task a head going forward, one a key head coming back, so that no two tasks
 * write the same gradient. */
#include "backend/cpu/ops_kernels.h"

#include <omp.h>

/* Floats that the kernels of ops_attention.inc work in: planes of the whole sequence, rows and squares of a tile. */
static size_t scratch_bytes(const nb_attention *a, int64_t planes, int64_t tiles, int64_t squares) {
    int64_t width = nb_attention_width(a->head_dim), positions = nb_attention_positions(a->seq);
    int64_t floats = planes * positions * width + tiles * NB_TILE * width + squares * NB_TILE * NB_TILE;
    return (size_t)floats * sizeof(float);
}

/* Every thread's scratch, before any of them starts: within a parallel region nothing can fail. */
static nb_status reserve(nb_backend *be, size_t bytes, nb_error *err) {
    for (int32_t thread = 0; thread < nb_cpu_of(be)->threads; thread++)
        if (!nb_cpu_scratch(be, thread, bytes))
            return nb_fail(err, NB_NO_MEMORY,
                           "attention: no memory for %zu bytes of tiles a thread; a shorter sequence "
                           "or fewer threads need less",
                           bytes);
    return NB_OK;
}

nb_status nb_cpu_attention_forward(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,
                                   const void *k, const void *v, nb_error *err) {
    NB_TRY(nb_attention_check(a, err));
    const size_t bytes = scratch_bytes(a, 2, 2, 1);
    NB_TRY(reserve(be, bytes, err));
    const nb_cpu_kernels *kernels = nb_cpu_kernels_of(be);
#pragma omp parallel for num_threads(nb_cpu_of(be)->threads) schedule(dynamic)
    for (int64_t task = 0; task < a->batch * a->heads; task++)
        kernels->attention_forward(a, task / a->heads, task % a->heads, o, lse, q, k, v,
                                   nb_cpu_scratch(be, omp_get_thread_num(), bytes));
    return NB_OK;
}

nb_status nb_cpu_attention_backward(nb_backend *be, const nb_attention *a, void *dq, void *dk, void *dv,
                                    const void *do_, const void *o, const void *lse, const void *q, const void *k,
                                    const void *v, nb_error *err) {
    NB_TRY(nb_attention_check(a, err));
    const size_t bytes = scratch_bytes(a, 5, 5, 2);
    NB_TRY(reserve(be, bytes, err));
    const nb_cpu_kernels *kernels = nb_cpu_kernels_of(be);
#pragma omp parallel for num_threads(nb_cpu_of(be)->threads) schedule(dynamic)
    for (int64_t task = 0; task < a->batch * a->kv_heads; task++)
        kernels->attention_backward(a, task / a->kv_heads, task % a->kv_heads, dq, dk, dv, do_, o, lse, q, k, v,
                                    nb_cpu_scratch(be, omp_get_thread_num(), bytes));
    return NB_OK;
}
