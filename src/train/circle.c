/* circle.c: pieces are cut by bytes, or in whole tensors. */
#include "circle.h"
#include "backend/backend.h"

#include <stdlib.h>

enum { ALIGNED = NI_PIECE_ALIGNED };

nb_status ni_circle_take_memory(ni_circle *c, nb_error *err) {
    c->begin = calloc((size_t)c->count + 1, sizeof *c->begin);
    c->tensor = calloc((size_t)c->count + 1, sizeof *c->tensor);
    return c->begin && c->tensor ? NB_OK : nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: out of memory");
}

void ni_circle_free(ni_circle *c) {
    free(c->begin);
    free(c->tensor);
}

void ni_circle_cut(const ni_circle *c, size_t begin, size_t end) {
    const size_t units = (end - begin + ALIGNED - 1) / ALIGNED, count = (size_t)c->count;
    for (size_t i = 0; i <= count; i++) {
        const size_t at = begin + units * i / count * ALIGNED;
        c->begin[i] = at < end ? at : end;
    }
}

void ni_circle_cut_for(const ni_circle *c, int32_t member, size_t bytes) {
    for (int32_t i = 0; i <= c->count; i++)
        c->begin[i] = i <= member ? 0 : bytes;
}

static size_t byte_of(const ni_param_array *grads, int32_t tensor) {
    const int64_t element = tensor < grads->count ? grads->at[tensor].offset : grads->elements;
    return (size_t)element * nb_dtype_size(grads->dtype);
}

void ni_circle_cut_tensors(const ni_circle *c, const ni_param_array *grads, int32_t begin, int32_t end) {
    const int64_t from = begin < grads->count ? grads->at[begin].offset : grads->elements;
    const int64_t to = end < grads->count ? grads->at[end].offset : grads->elements;
    int32_t t = begin;
    for (int32_t i = 0; i <= c->count; i++) {
        const int64_t until = from + (to - from) * i / c->count;
        while (t < end && (i == c->count || grads->at[t].offset + grads->at[t].length / 2 < until))
            t++;
        c->tensor[i] = t;
        c->begin[i] = byte_of(grads, t);
    }
}

size_t ni_circle_piece(const ni_circle *c, int32_t member) {
    return c->begin[member + 1] - c->begin[member];
}

size_t ni_circle_place(const ni_circle *c, int32_t member) {
    const size_t bytes = (ni_circle_piece(c, c->self) + ALIGNED - 1) / ALIGNED * ALIGNED;
    return (size_t)(member < c->self ? member : member - 1) * bytes;
}

size_t ni_circle_room(const ni_circle *c) {
    return (size_t)(c->count - 1) * (ni_circle_piece(c, c->self) + 2 * ALIGNED);
}
