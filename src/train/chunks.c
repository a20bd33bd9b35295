/* chunks.c: real gradients in chunks of one length, narrow ones in whole sections; the first section, which a pass
 * leaves last, by itself.
 */
#include "chunks.h"
#include "backend/backend.h"

#include <stdlib.h>

/* Elements of the first section; none where there are no sections, and nothing is summed as a pass leaves it. */
static int64_t last_left(const ni_param_array *grads) {
    return grads->sections > 1 ? grads->at[grads->section[1]].offset : 0;
}

/* It goes in parts as equal as can be; in one where its rows are brought together. */
static int64_t last_parts(const ni_reducer *x, const ni_param_array *grads) {
    return x->rows.touched ? 1 : (last_left(grads) + 2 * x->chunk - 1) / (2 * x->chunk);
}

/* Behind it chunks begin short and double in length up to x->chunk: what a pass leaves last is little, so that little
 * is left to be summed when it has. Where the chunk numbered `index` begins, from there. */
static int64_t behind_at(const ni_reducer *x, const ni_param_array *grads, int64_t index) {
    const int64_t shortest = last_left(grads) > 0 ? x->chunk >> NI_CHUNK_DOUBLED & ~(int64_t)15 : 0;
    if (shortest == 0)
        return index * x->chunk;
    if (index <= NI_CHUNK_DOUBLED)
        return (((int64_t)1 << index) - 1) * shortest;
    return (((int64_t)1 << NI_CHUNK_DOUBLED) - 1) * shortest + (index - NI_CHUNK_DOUBLED) * x->chunk;
}

int64_t ni_reducer_chunks(const ni_reducer *x, const ni_param_array *grads) {
    if (grads->dtype != x->be->real)
        return x->narrow_chunks;
    int64_t behind = 0;
    while (behind_at(x, grads, behind) < grads->elements - last_left(grads))
        behind++;
    return last_parts(x, grads) + behind;
}

int64_t ni_reducer_chunk_at(const ni_reducer *x, const ni_param_array *grads, int64_t index) {
    if (grads->dtype != x->be->real)
        return x->narrow[index] < grads->count ? grads->at[x->narrow[index]].offset : grads->elements;
    const int64_t first = last_left(grads), parts = last_parts(x, grads),
                  unit = NI_PIECE_ALIGNED / (int64_t)sizeof(float);
    if (index < parts)
        return first / unit * index / parts * unit;
    const int64_t at = first + behind_at(x, grads, index - parts);
    return at < grads->elements ? at : grads->elements;
}

nb_status ni_chunk_sections(ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    int32_t count = 0;
    if (grads->dtype == x->be->real || grads->sections < 2)
        return NB_OK;
    x->narrow = calloc((size_t)grads->sections + 1, sizeof *x->narrow);
    if (!x->narrow)
        return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: out of memory");
    for (int32_t s = 0; s < grads->sections; s++) {
        const int64_t at = grads->at[grads->section[s]].offset;
        if (s < 2 || at - grads->at[x->narrow[count - 1]].offset >= grads->elements / NI_CHUNK_PARTS)
            x->narrow[count++] = grads->section[s];
    }
    x->narrow[count] = grads->count;
    x->narrow_chunks = count;
    return NB_OK;
}

int64_t ni_chunk_most(const ni_reducer *x, const ni_param_array *grads) {
    int64_t most = x->chunk;
    for (int64_t i = 0; grads->dtype == x->be->real && !x->rows.touched && i < last_parts(x, grads); i++) {
        const int64_t n = ni_reducer_chunk_at(x, grads, i + 1) - ni_reducer_chunk_at(x, grads, i);
        most = n > most ? n : most;
    }
    return most;
}
