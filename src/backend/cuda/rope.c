/* rope.c: the table of RoPE's angles on a GPU: sines in double take longer than all the rest, and every layer of every
 * step turns by the same. It is made once for the longest pass so far; a pass is at least as long as its positions go.
 */
#include "backend/cuda/cuda.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/maxima.h"
#include "backend/cuda/rows.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 17 };

typedef struct ni_cuda_turn_table {
    ni_cuda_turns turns;
    int64_t room; /* floats */
    int64_t head_dim;
    ni_rope how;
} ni_cuda_turn_table;

void ni_cuda_turns_free(ni_cuda_turn_table *table) {
    if (!table)
        return;
    cudaFree(table->turns.table);
    free(table);
}

/* Memory for so many floats; without it angles are made as they are asked for. */
static bool has_room(nb_backend *be, ni_cuda_turn_table *table, int64_t floats) {
    if (table->room >= floats)
        return true;
    cudaFree(table->turns.table);
    table->turns = (ni_cuda_turns){NULL, 0};
    table->room = 0;
    if (cudaMalloc((void **)&table->turns.table, (size_t)floats * sizeof(float)) != cudaSuccess) {
        cudaGetLastError();
        table->turns.table = NULL;
        return false;
    }
    table->room = floats;
    return ni_cuda_good(be, cudaSuccess, "rope");
}

ni_cuda_turns ni_cuda_turns_of(nb_backend *be, const ni_rope *how, int64_t head_dim, int64_t n) {
    ni_cuda *cuda = ni_cuda_of(be);
    const int64_t positions = n < MOST ? n : MOST;
    if (!cuda->turns)
        cuda->turns = calloc(1, sizeof *cuda->turns);
    ni_cuda_turn_table *t = cuda->turns;
    if (!t)
        return (ni_cuda_turns){NULL, 0};
    if (t->turns.positions >= positions && t->head_dim == head_dim && ni_rope_is_same(&t->how, how))
        return t->turns;
    t->turns.positions = 0;
    if (!has_room(be, t, positions * (head_dim / 2) * 2))
        return (ni_cuda_turns){NULL, 0};
    t->head_dim = head_dim;
    t->how = *how;
    if (ni_cuda_good(be, ni_cuda_launch_turns(cuda->stream, t->turns.table, positions, head_dim, how), "rope"))
        t->turns.positions = (int32_t)positions;
    return t->turns;
}

void ni_cuda_rope(nb_backend *be, const nb_mat *x, const int32_t *positions, int64_t heads, const ni_rope *how,
                  bool inverse) {
    const int64_t head_dim = heads ? x->cols / heads : 0;
    const ni_cuda_turns turns =
        x->rows > 1 && head_dim > 1 ? ni_cuda_turns_of(be, how, head_dim, x->rows) : (ni_cuda_turns){NULL, 0};
    int code = ni_cuda_begin_maxima(be, x->amax, x->turned_amax);
    if (code == cudaSuccess)
        code = ni_cuda_launch_rope(ni_cuda_of(be)->stream, x, positions, heads, how, &turns, inverse);
    ni_cuda_good(be, code, "rope");
}
