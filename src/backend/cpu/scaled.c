/* scaled.c: tensors under one scale, tile by tile. Spans do not depend on the number of threads, and an amax is an
 * integer maximum, so neither do the results. */
#include "backend/ref/scaled.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/ops_kernels.h"

#include <omp.h>

enum { TILE = 1024 }; /* numbers decoded at a time: four tiles lie in the first cache */

static int threads_for(nb_backend *be, int64_t n) {
    return n > NI_SPAN_SERIAL ? ni_cpu_of(be)->threads : 1;
}

static int64_t tile_length(int64_t end, int64_t at) {
    return end - at < TILE ? end - at : TILE;
}

static int64_t span_end(int64_t n, int64_t span) {
    return span * NI_SPAN + ni_span_length(n, span);
}

void ni_cpu_scaled_encode(nb_backend *be, const ni_scaled *to, const float *from, int64_t n) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const int threads = threads_for(be, n);
    uint32_t amax = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : amax)
    for (int64_t span = 0; span < ni_span_count(n); span++) {
        const uint32_t here = kernels->amax(from + span * NI_SPAN, ni_span_length(n, span));
        amax = here > amax ? here : amax;
    }
    const float encode = ni_scaled_set(to, amax);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t span = 0; span < ni_span_count(n); span++)
        kernels->encode(to->data, to->dtype, span * NI_SPAN, from + span * NI_SPAN, encode, ni_span_length(n, span));
}

void ni_cpu_scaled_decode(nb_backend *be, float *to, const ni_scaled *from, int64_t n) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const float factor = ni_scaled_factor(from);
#pragma omp parallel for num_threads(threads_for(be, n)) schedule(static)
    for (int64_t span = 0; span < ni_span_count(n); span++)
        kernels->decode(to + span * NI_SPAN, from->data, from->dtype, span * NI_SPAN, factor, ni_span_length(n, span));
}

/* ---- two passes over tiles: the amaxes first, then the numbers ---- */

enum { TENSORS = 4 };

/* What is computed tile by tile: `compute` works on x[0 .. inputs), of which the first `outputs` are its results. */
typedef struct tile_work {
    const ni_cpu_kernels *kernels;
    void (*compute)(const struct tile_work *work, float x[][TILE], int64_t n);
    const ni_adamw_scalars *adamw;
    int inputs, outputs;
    const ni_scaled *from[TENSORS], *to[TENSORS];
    float factor[TENSORS], encode[TENSORS]; /* read and written with */
} tile_work;

static void span_amax(const tile_work *w, int64_t at, int64_t end, uint32_t amax[TENSORS]) {
    float x[TENSORS][TILE];
    for (; at < end; at += TILE) {
        const int64_t n = tile_length(end, at);
        for (int i = 0; i < w->inputs; i++)
            w->kernels->decode(x[i], w->from[i]->data, w->from[i]->dtype, at, w->factor[i], n);
        w->compute(w, x, n);
        for (int i = 0; i < w->outputs; i++) {
            const uint32_t here = w->to[i]->scale ? w->kernels->amax(x[i], n) : 0;
            amax[i] = here > amax[i] ? here : amax[i];
        }
    }
}

static void span_store(const tile_work *w, int64_t at, int64_t end) {
    float x[TENSORS][TILE];
    for (; at < end; at += TILE) {
        const int64_t n = tile_length(end, at);
        for (int i = 0; i < w->inputs; i++)
            w->kernels->decode(x[i], w->from[i]->data, w->from[i]->dtype, at, w->factor[i], n);
        w->compute(w, x, n);
        for (int i = 0; i < w->outputs; i++)
            w->kernels->encode(w->to[i]->data, w->to[i]->dtype, at, x[i], w->encode[i], n);
    }
}

static void run(nb_backend *be, tile_work *w, int64_t n) {
    const int threads = threads_for(be, n);
    uint32_t amax[TENSORS] = {0};
    bool scaled = false;
    w->kernels = ni_cpu_kernels_of(be);
    for (int i = 0; i < w->inputs; i++)
        w->factor[i] = ni_scaled_factor(w->from[i]);
    for (int i = 0; i < w->outputs; i++)
        scaled |= w->to[i]->scale != NULL;
    if (scaled) {
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : amax)
        for (int64_t span = 0; span < ni_span_count(n); span++)
            span_amax(w, span * NI_SPAN, span_end(n, span), amax);
    }
    for (int i = 0; i < w->outputs; i++)
        w->encode[i] = ni_scaled_set(w->to[i], amax[i]);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t span = 0; span < ni_span_count(n); span++)
        span_store(w, span * NI_SPAN, span_end(n, span));
}

static void compute_sum(const tile_work *w, float x[][TILE], int64_t n) {
    w->kernels->axpy(x[0], 1.0f, x[1], n);
}

void ni_cpu_scaled_add(nb_backend *be, const ni_scaled *to, const ni_scaled *a, const ni_scaled *b, int64_t n) {
    tile_work w = {.compute = compute_sum, .inputs = 2, .outputs = 1, .from = {a, b}, .to = {to}};
    run(be, &w, n);
}

static void compute_adamw(const tile_work *w, float x[][TILE], int64_t n) {
    w->kernels->adamw(x[0], x[1], x[2], x[3], n, w->adamw);
}

/* What the next forward pass reads: the parameters as they are after they were rounded. */
static void leave_behind(nb_backend *be, const ni_adamw_tensor *t) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const float factor = ni_scaled_factor(&t->param);
    uint32_t amax = 0;
#pragma omp parallel for num_threads(threads_for(be, t->n)) schedule(static) reduction(max : amax)
    for (int64_t span = 0; span < ni_span_count(t->n); span++)
        for (int64_t at = span * NI_SPAN; at < span_end(t->n, span); at += TILE) {
            float x[TILE];
            const int64_t length = tile_length(span_end(t->n, span), at);
            kernels->decode(x, t->param.data, t->param.dtype, at, factor, length);
            if (t->copy)
                kernels->to_bf16((uint16_t *)t->copy + at, x, length);
            const uint32_t here = kernels->amax(x, length);
            amax = here > amax ? here : amax;
        }
    if (t->amax)
        *t->amax = amax;
}

void ni_cpu_adamw_narrow(nb_backend *be, const ni_adamw_tensor *t, const ni_adamw_scalars *scalars) {
    tile_work w = {.compute = compute_adamw,
                   .adamw = scalars,
                   .inputs = 4,
                   .outputs = 3,
                   .from = {&t->param, &t->m, &t->v, &t->grad},
                   .to = {&t->param, &t->m, &t->v}};
    run(be, &w, t->n);
    if (t->copy || t->amax)
        leave_behind(be, t);
}

/* ---- one pass ---- */

void ni_cpu_scaled_rescale(nb_backend *be, const ni_scaled *t, float scale, int64_t n) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const ni_scaled given = {.data = t->data, .dtype = t->dtype};
    const float factor = ni_scaled_factor(t), encode = ni_scaled_encode_of(scale);
#pragma omp parallel for num_threads(threads_for(be, n)) schedule(static)
    for (int64_t span = 0; span < ni_span_count(n); span++)
        for (int64_t at = span * NI_SPAN; at < span_end(n, span); at += TILE) {
            float x[TILE];
            const int64_t length = tile_length(span_end(n, span), at);
            kernels->decode(x, given.data, given.dtype, at, factor, length);
            kernels->encode(given.data, given.dtype, at, x, encode, length);
        }
    *t->scale = scale;
}

void ni_cpu_scaled_join(nb_backend *be, const ni_scaled *to, const ni_scaled *from, int64_t n) {
    const ni_scaled numbers[] = {{.data = to->data, .dtype = to->dtype}, {.data = from->data, .dtype = from->dtype}};
    tile_work w = {
        .compute = compute_sum, .inputs = 2, .outputs = 1, .from = {&numbers[0], &numbers[1]}, .to = {&numbers[0]}};
    run(be, &w, n);
}

void ni_cpu_scaled_sum_squares(nb_backend *be, double *out, const ni_scaled *t, int64_t n) {
    enum { PIECES = 256 };
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const float factor = ni_scaled_factor(t);
    double part[PIECES] = {0};
#pragma omp parallel for num_threads(threads_for(be, n)) schedule(static)
    for (int64_t i = 0; i < PIECES; i++) {
        const int64_t end = ni_part(n, PIECES, i + 1);
        for (int64_t at = ni_part(n, PIECES, i); at < end; at += TILE) {
            float x[TILE];
            const int64_t length = tile_length(end, at);
            kernels->decode(x, t->data, t->dtype, at, factor, length);
            part[i] += kernels->sum_squares(x, length);
        }
    }
    for (int width = PIECES / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            part[i] += part[i + width];
    *out = part[0];
}

void ni_cpu_scaled_encode_many(nb_backend *be, const ni_scaled *to, const float *const *from, const int64_t *n,
                               int32_t count) {
    ni_compose_encode(be, to, from, n, count);
}

void ni_cpu_scaled_squares_many(nb_backend *be, double *out, const ni_scaled *x, const int64_t *n, int32_t count) {
    ni_compose_squares(be, out, x, n, count);
}
