/* maxima.c: words that hold a matrix' maxima (nb_mat.amax): their producers want them cleared. A launch for each of them
 * takes as long as a few percent of the producer, so a model has all of a micro-batch's cleared at once; here it is known
 * which of those are untouched still.
 */
#include "backend/cuda/maxima.h"
#include "backend/cuda/quantize.h"

#include <stdlib.h>
#include <string.h>

typedef struct ni_cuda_maxima {
    uintptr_t first; /* address of the words that were cleared together last */
    size_t count;
    size_t room;
    bool *filled; /* [room] */
} ni_cuda_maxima;

void ni_cuda_maxima_free(ni_cuda_maxima *maxima) {
    if (!maxima)
        return;
    free(maxima->filled);
    free(maxima);
}

void ni_cuda_maxima_forget(nb_backend *be) {
    ni_cuda_maxima *m = ni_cuda_of(be)->maxima;
    if (m)
        m->count = 0;
}

static bool has_room(ni_cuda_maxima *m, size_t count) {
    if (m->room >= count)
        return true;
    bool *filled = realloc(m->filled, count * sizeof *filled);
    if (!filled)
        return false;
    m->filled = filled;
    m->room = count;
    return true;
}

/* Without memory for the list they are cleared one by one. */
void ni_cuda_clear_maxima(nb_backend *be, void *words, size_t bytes) {
    ni_cuda *cuda = ni_cuda_of(be);
    const size_t count = bytes / sizeof(uint32_t);
    if (!cuda->maxima)
        cuda->maxima = calloc(1, sizeof *cuda->maxima);
    ni_cuda_maxima *m = cuda->maxima;
    if (!m || !ni_cuda_good(be, cudaMemsetAsync(words, 0, bytes, cuda->stream), "clear_maxima"))
        return;
    m->count = 0;
    if (!count || !has_room(m, count))
        return;
    memset(m->filled, 0, count * sizeof *m->filled);
    m->first = (uintptr_t)words;
    m->count = count;
}

/* Whether the word is 0 still; from here on it is not. */
static bool take(ni_cuda_maxima *m, const uint32_t *word) {
    const size_t at = ((uintptr_t)word - m->first) / sizeof *word;
    if ((uintptr_t)word < m->first || at >= m->count || m->filled[at])
        return false;
    m->filled[at] = true;
    return true;
}

int ni_cuda_begin_maxima(nb_backend *be, uint32_t *amax, uint32_t *turned) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (cuda->maxima) {
        amax = amax && take(cuda->maxima, amax) ? NULL : amax;
        turned = turned && take(cuda->maxima, turned) ? NULL : turned;
    }
    return ni_cuda_clear_amaxes(cuda->stream, amax, turned);
}
