/* ops_elementwise.c: operations on one element at a time, cut into spans; RoPE; AdamW and the sums. */
#include "backend/cpu/ops_kernels.h"
#include "backend/ref/scaled.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static int threads_for(nb_backend *be, int64_t n) {
    return n > NI_SPAN_SERIAL ? ni_cpu_of(be)->threads : 1;
}

/* Runs `body` for every span, with `at` its first element and `count` its length. */
#define FOR_SPANS(be, n, body)                                                                                         \
    do {                                                                                                               \
        const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);                                                         \
        const int threads = threads_for(be, n);                                                                        \
        _Pragma("omp parallel for num_threads(threads) schedule(static)") for (int64_t span = 0;                       \
                                                                               span < ni_span_count(n); span++) {      \
            const int64_t at = span * NI_SPAN, count = ni_span_length(n, span);                                        \
            kernels->body;                                                                                             \
        }                                                                                                              \
    } while (0)

void ni_cpu_cast(nb_backend *be, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n) {
    if (to_type == NB_BF16 && from_type == NB_F32)
        FOR_SPANS(be, n, to_bf16((uint16_t *)to + at, (const float *)from + at, count));
    else if (to_type == NB_F32 && from_type == NB_BF16)
        FOR_SPANS(be, n, to_f32((float *)to + at, (const uint16_t *)from + at, count));
    else
        ni_ref_cast(be, to, to_type, from, from_type, n);
}

void ni_cpu_add(nb_backend *be, void *out, const void *a, const void *b, int64_t n) {
    FOR_SPANS(be, n, add((uint16_t *)out + at, (const uint16_t *)a + at, (const uint16_t *)b + at, count));
}

void ni_cpu_axpy(nb_backend *be, void *y, double alpha, const void *x, int64_t n) {
    FOR_SPANS(be, n, axpy((float *)y + at, (float)alpha, (const float *)x + at, count));
}

/* Spans of what was just written, while the cache has them. */
static uint32_t span_amax(const ni_cpu_kernels *kernels, const nb_mat *m, int64_t at, int64_t count, uint32_t amax) {
    const uint32_t here = m->amax ? kernels->amax_bf16((const uint16_t *)m->data + at, count) : 0;
    return here > amax ? here : amax;
}

static void set_amax(const nb_mat *m, uint32_t amax) {
    if (m->amax)
        *m->amax = amax;
}

void ni_cpu_swiglu_forward(nb_backend *be, const nb_mat *y, const void *gate, const void *up) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const int64_t n = y->rows * y->cols;
    uint32_t amax = 0;
#pragma omp parallel for num_threads(threads_for(be, n)) schedule(static) reduction(max : amax)
    for (int64_t span = 0; span < ni_span_count(n); span++) {
        const int64_t at = span * NI_SPAN, count = ni_span_length(n, span);
        kernels->swiglu_forward((uint16_t *)y->data + at, (const uint16_t *)gate + at, (const uint16_t *)up + at,
                                count);
        amax = span_amax(kernels, y, at, count, amax);
    }
    set_amax(y, amax);
}

void ni_cpu_swiglu_backward(nb_backend *be, const nb_mat *dgate, const nb_mat *dup, const void *dy, const void *gate,
                            const void *up) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const int64_t n = dgate->rows * dgate->cols;
    uint32_t of_gate = 0, of_up = 0;
#pragma omp parallel for num_threads(threads_for(be, n)) schedule(static) reduction(max : of_gate, of_up)
    for (int64_t span = 0; span < ni_span_count(n); span++) {
        const int64_t at = span * NI_SPAN, count = ni_span_length(n, span);
        kernels->swiglu_backward((uint16_t *)dgate->data + at, (uint16_t *)dup->data + at, (const uint16_t *)dy + at,
                                 (const uint16_t *)gate + at, (const uint16_t *)up + at, count);
        of_gate = span_amax(kernels, dgate, at, count, of_gate);
        of_up = span_amax(kernels, dup, at, count, of_up);
    }
    set_amax(dgate, of_gate);
    set_amax(dup, of_up);
}

/* ---- AdamW ---- */

ni_adamw_scalars ni_adamw_scalars_of(const ni_adamw *step, double weight_decay) {
    const ni_adamw_scalars s = {
        .beta1 = (float)step->beta1,
        .rest1 = (float)(1 - step->beta1),
        .beta2 = (float)step->beta2,
        .rest2 = (float)(1 - step->beta2),
        .rate = (float)(step->lr / (1 - pow(step->beta1, (double)step->step))),
        .correction = (float)(1 / (1 - pow(step->beta2, (double)step->step))),
        .keep = (float)(1 - step->lr * weight_decay),
        .scale = (float)step->grad_scale,
        .eps = (float)step->eps,
    };
    return s;
}

static void update_plain(nb_backend *be, const ni_adamw_tensor *t, const ni_adamw_scalars *s) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    float *param = t->param.data, *m = t->m.data, *v = t->v.data, *grad = t->grad.data;
    uint32_t amax = 0;
#pragma omp parallel for num_threads(threads_for(be, t->n)) schedule(static) reduction(max : amax)
    for (int64_t span = 0; span < ni_span_count(t->n); span++) {
        const int64_t at = span * NI_SPAN, count = ni_span_length(t->n, span);
        kernels->adamw(param + at, m + at, v + at, grad + at, count, s);
        if (t->copy)
            kernels->to_bf16((uint16_t *)t->copy + at, param + at, count);
        const uint32_t here = t->amax ? kernels->amax(param + at, count) : 0;
        amax = here > amax ? here : amax;
    }
    if (t->amax)
        *t->amax = amax;
}

void ni_cpu_adamw(nb_backend *be, const ni_adamw_tensor *tensors, int32_t count, const ni_adamw *step) {
    for (const ni_adamw_tensor *t = tensors; t < tensors + count; t++) {
        const ni_adamw_scalars scalars = ni_adamw_scalars_of(step, t->weight_decay);
        if (ni_adamw_is_plain(t, NB_F32))
            update_plain(be, t, &scalars);
        else
            ni_cpu_adamw_narrow(be, t, &scalars);
    }
}

/* ---- sums: a fixed number of pieces, then their tree ---- */

enum { SUM_PIECES = 256 };

static double sum_pieces(nb_backend *be, double (*piece)(const float *x, int64_t n), const float *x, int64_t n) {
    double part[SUM_PIECES];
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) if (n > NI_SPAN_SERIAL)
    for (int64_t i = 0; i < SUM_PIECES; i++) {
        int64_t begin = ni_part(n, SUM_PIECES, i);
        part[i] = piece(x + begin, ni_part(n, SUM_PIECES, i + 1) - begin);
    }
    for (int width = SUM_PIECES / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            part[i] += part[i + width];
    return part[0];
}

void ni_cpu_sum(nb_backend *be, double *out, const void *x, int64_t n) {
    *out = sum_pieces(be, ni_cpu_kernels_of(be)->sum, x, n);
}

void ni_cpu_sum_squares(nb_backend *be, double *out, const void *x, int64_t n) {
    *out = sum_pieces(be, ni_cpu_kernels_of(be)->sum_squares, x, n);
}

/* ---- embedding ---- */

void ni_cpu_embed_forward(nb_backend *be, void *out, const void *table, const int32_t *tokens, int64_t n, int64_t dim) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) if (n * dim > NI_SPAN_SERIAL)
    for (int64_t t = 0; t < n; t++)
        kernels->to_bf16((uint16_t *)out + t * dim, (const float *)table + tokens[t] * dim, dim);
}

/* Threads share the columns, so that each sum runs over the tokens in order. */
void ni_cpu_embed_backward(nb_backend *be, void *dtable, const void *dout, const int32_t *tokens, int64_t n,
                           int64_t dim, int64_t vocab) {
    (void)vocab;
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    int32_t threads = ni_cpu_of(be)->threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (n * dim > NI_SPAN_SERIAL)
    for (int32_t part = 0; part < threads; part++) {
        int64_t begin = ni_part(dim, threads, part), width = ni_part(dim, threads, part + 1) - begin;
        for (int64_t t = 0; t < n; t++)
            kernels->add_bf16((float *)dtable + tokens[t] * dim + begin, (const uint16_t *)dout + t * dim + begin,
                              width);
    }
}

void ni_cpu_take_rows(nb_backend *be, void *out, const void *table, const int32_t *rows, int64_t n, int64_t dim) {
    ni_ref_f32_take_rows(be, out, table, rows, n, dim);
}

void ni_cpu_put_rows(nb_backend *be, void *table, const void *in, const int32_t *rows, int64_t n, int64_t dim) {
    ni_ref_f32_put_rows(be, table, in, rows, n, dim);
}

/* ---- RoPE ---- */

static void angles_of(const ni_rope *how, int64_t half, int64_t position, float *cosine, float *sine) {
    for (int64_t i = 0; i < half; i++) {
        double angle = (double)position * ni_rope_frequency(how, i, 2 * half);
        cosine[i] = (float)cos(angle);
        sine[i] = (float)sin(angle);
    }
}

/* Makes the tables reach `last`; on a change of angles or width, anew. False if there is no memory for them. */
static bool extend_tables(ni_cpu *cpu, const ni_rope *how, int64_t half, int64_t last) {
    if (cpu->rope.cosine && ni_rope_is_same(&cpu->rope.how, how) && cpu->rope.half == half &&
        cpu->rope.positions > last)
        return true;
    int64_t positions = 256;
    while (positions <= last)
        positions *= 2;
    free(cpu->rope.cosine);
    free(cpu->rope.sine);
    cpu->rope.cosine = malloc((size_t)(positions * half) * sizeof(float));
    cpu->rope.sine = malloc((size_t)(positions * half) * sizeof(float));
    if (!cpu->rope.cosine || !cpu->rope.sine) {
        free(cpu->rope.cosine);
        free(cpu->rope.sine);
        cpu->rope.cosine = cpu->rope.sine = NULL;
        return false;
    }
    cpu->rope.how = *how;
    cpu->rope.half = half;
    cpu->rope.positions = positions;
#pragma omp parallel for num_threads(cpu->threads) schedule(static)
    for (int64_t p = 0; p < positions; p++)
        angles_of(how, half, p, cpu->rope.cosine + p * half, cpu->rope.sine + p * half);
    return true;
}

void ni_cpu_rope(nb_backend *be, const nb_mat *x, const int32_t *positions, int64_t heads, const ni_rope *how,
                 bool inverse) {
    ni_cpu *cpu = ni_cpu_of(be);
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const int64_t n = x->rows;
    int32_t last = 0;
    uint32_t amax = 0;
    for (int64_t t = 0; t < n; t++)
        last = positions[t] > last ? positions[t] : last;
    if (!extend_tables(cpu, how, x->cols / heads / 2, last)) { /* the same angles, a row at a time */
        ni_ref_f32_rope(be, x, positions, heads, how, inverse);
        return;
    }
#pragma omp parallel for num_threads(cpu->threads) schedule(static) if (n * x->cols > NI_SPAN_SERIAL)                  \
    reduction(max                                                                                                      \
              : amax)
    for (int64_t t = 0; t < n; t++) {
        int64_t row = positions[t] * cpu->rope.half;
        uint16_t *const token = (uint16_t *)x->data + t * x->cols;
        kernels->rope(token, cpu->rope.cosine + row, cpu->rope.sine + row, heads, cpu->rope.half, inverse);
        const uint32_t here = x->amax ? kernels->amax_bf16(token, x->cols) : 0;
        amax = here > amax ? here : amax;
    }
    if (x->amax)
        *x->amax = amax;
}
