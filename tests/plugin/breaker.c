/* breaker.c: a libnibble-cuda.so around another one, NIBBLE_REAL in the environment, that spoils what it does:
 *     NIBBLE_BREAK=N              before the N-th download a kernel is given an address that is not there: a real GPU's
 *                                 context breaks (scripts/gpu-faults)
 *     NIBBLE_POISON=forward       the second of every three results of SwiGLU holds a NaN, so that in a model of three
 *     NIBBLE_POISON=backward      blocks its layer 1 is to blame; backward: the gradient of its gate
 *     NIBBLE_POISON=nudge         every third result of attention, forward, moves by one unit of BF16, up or down:
 * about what probabilities that were rounded to BF16 do to it (scripts/gpu-equivalence)
 */
#include "backend/backend.h"
#include "backend/cuda/library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define DOOR __attribute__((visibility("default")))

typedef struct breaker {
    ni_backend_ops real;
    long breaks_at, downloads;
    bool forward, backward; /* which direction is poisoned */
    bool nudge;
    long forwards, backwards;
} breaker;

/* One at a time, as in the stub. */
static breaker the_breaker;

/* A function of the real library; a program that has none must not go on. */
static void *real(const char *name, void *to, size_t size) {
    const char *path = getenv("NIBBLE_REAL");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    void *found = library ? dlsym(library, name) : NULL;
    if (!found)
        abort();
    memcpy(to, &found, size); /* ISO C has no cast from an object's address to a function's */
    return to;
}

static void download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    void *const nowhere = (void *)(uintptr_t)4096;
    if (++the_breaker.downloads == the_breaker.breaks_at)
        the_breaker.real.axpy(be, nowhere, 1.0, nowhere, 64);
    the_breaker.real.download(be, to_host, from, bytes);
}

/* Where the call is the second of three: a NaN in the sixth element, and in the amax that travels with the matrix. */
static void poison(nb_backend *be, const nb_mat *m, long call) {
    const uint16_t nan = 0x7fc0;
    const uint32_t bits = 0x7fc00000;
    if (call % 3 != 1)
        return;
    the_breaker.real.upload(be, (uint16_t *)m->data + 5, &nan, sizeof nan);
    if (m->amax)
        the_breaker.real.upload(be, m->amax, &bits, sizeof bits);
}

static void swiglu_forward(nb_backend *be, const nb_mat *y, const void *gate, const void *up) {
    the_breaker.real.swiglu_forward(be, y, gate, up);
    if (the_breaker.forward)
        poison(be, y, the_breaker.forwards++);
}

static void swiglu_backward(nb_backend *be, const nb_mat *dgate, const nb_mat *dup, const void *dy, const void *gate,
                            const void *up) {
    the_breaker.real.swiglu_backward(be, dgate, dup, dy, gate, up);
    if (the_breaker.backward)
        poison(be, dgate, the_breaker.backwards++);
}

/* Rows of `width` numbers in BF16, `stride` apart: one unit more or less where a hash of the place says so. */
static void nudge(nb_backend *be, void *x, int64_t rows, int64_t width, int64_t stride) {
    uint16_t *row = malloc((size_t)width * sizeof *row);
    if (!row)
        abort();
    for (int64_t r = 0; r < rows; r++) {
        uint16_t *at = (uint16_t *)x + r * stride;
        the_breaker.real.download(be, row, at, (size_t)width * sizeof *row);
        for (int64_t i = 0; i < width; i++) {
            const uint32_t hash = (uint32_t)(r * width + i) * 2654435761U >> 8;
            const uint16_t magnitude = row[i] & 0x7fff;
            if (hash % 3 == 0 && magnitude > 0x80 && magnitude < 0x7f7f) /* neither zero nor next to infinity */
                row[i] = (uint16_t)(hash / 3 % 2 ? row[i] + 1 : row[i] - 1);
        }
        the_breaker.real.upload(be, at, row, (size_t)width * sizeof *row);
    }
    free(row);
}

static nb_status attention_forward(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,
                                   const void *k, const void *v, nb_error *err) {
    const int64_t width = a->heads * a->head_dim;
    const nb_status status = the_breaker.real.attention_forward(be, a, o, lse, q, k, v, err);
    if (status == NB_OK && the_breaker.nudge)
        nudge(be, o, a->batch * a->seq, width, a->o_stride ? a->o_stride : width);
    return status;
}

static nb_status gla_forward(nb_backend *be, const ni_gla *g, void *o, const void *q, const void *k, const void *v,
                             const void *gate, nb_error *err) {
    const nb_status status = the_breaker.real.gla_forward(be, g, o, q, k, v, gate, err);
    if (status == NB_OK && the_breaker.nudge)
        nudge(be, o, g->batch * g->seq, g->heads * g->value_dim, g->heads * g->value_dim);
    return status;
}

DOOR nb_status ni_cuda_library_describe(int device, ni_cuda_facts *facts, nb_error *err) {
    ni_cuda_library_describe_function *describe;
    real("ni_cuda_library_describe", (void *)&describe, sizeof describe);
    return describe(device, facts, err);
}

DOOR nb_status ni_cuda_library_open(int device, nb_backend **out, nb_error *err) {
    ni_cuda_library_open_function *open;
    const char *text = getenv("NIBBLE_BREAK"), *way = getenv("NIBBLE_POISON");
    real("ni_cuda_library_open", (void *)&open, sizeof open);
    const nb_status status = open(device, out, err);
    if (status != NB_OK)
        return status;
    ni_backend_object *object = (ni_backend_object *)(void *)*out;
    the_breaker = (breaker){.real = object->ops,
                            .breaks_at = text ? strtol(text, NULL, 10) : 0,
                            .forward = way && strcmp(way, "forward") == 0,
                            .backward = way && strcmp(way, "backward") == 0,
                            .nudge = way && strcmp(way, "nudge") == 0};
    object->ops.download = download;
    object->ops.attention_forward = attention_forward;
    object->ops.gla_forward = gla_forward;
    object->ops.swiglu_forward = swiglu_forward;
    object->ops.swiglu_backward = swiglu_backward;
    return NB_OK;
}

DOOR ni_cuda_library_fit ni_cuda_library_fits(void) {
    const ni_cuda_library_fit ours = NI_CUDA_LIBRARY_FIT;
    return ours;
}
