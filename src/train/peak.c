/* peak.c: how fast this machine multiplies, measured, so that MFU is a share of something real.
 *
 * Model FLOPs are counted alike under every recipe (docs/training.md), so the peak is the fastest product that any
 * recipe may use: the better of BF16 operands and of packed NVFP4 operands. Squares of several sizes are tried: large
 * ones amortize what a call costs, and a busy machine seldom leaves more than a few milliseconds undisturbed.
 */
#include "backend/table.h"
#include "nibble/train.h"

#include "base/philox.h"
#include "base/progress.h"
#include "format/bf16.h"
#include "format/element.h"

#include <stdlib.h>

enum { LEAST_SIDE = 256, SURE_SIDE = 512, MOST_SIDE = 8192, LEAST_RUNS = 4 };
#define SECONDS_EACH 0.06
#define LONG_ENOUGH 0.005 /* a product that takes this long hides what a call costs */

/* C = A B^T of `side` squared: plain numbers in act, or NVFP4 as a layer keeps it, what the product reads of the
 * weight made by the first one. */
typedef struct square {
    nb_backend *be;
    int64_t side;
    nb_operand a, b;
    nb_mat c;
} square;

static nb_quantizer quantizer_of(int32_t block_rows) {
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.block_rows = block_rows;
    return q;
}

static nb_status multiply(const square *s, nb_error *err) {
    const ni_term term = {.a = &s->a, .b = &s->b};
    NB_TRY(s->be->ops->multiply(s->be, &s->c, &term, 1, false, err));
    return s->be->ops->synchronize(s->be, err);
}

/* Random numbers into a matrix: on zeros a GPU draws less power and holds a clock that no training sees. */
static nb_status fill_matrix(nb_backend *be, const nb_mat *m, nb_error *err) {
    enum { PIECE = 1 << 16 };
    const int64_t elements = m->rows * m->cols, piece = elements < PIECE ? elements : PIECE;
    const size_t size = nb_dtype_size(m->dtype);
    void *numbers = malloc((size_t)piece * size);
    if (!numbers)
        return nb_fail(err, NB_NO_MEMORY, "peak: out of memory");
    for (int64_t i = 0; i < piece; i++) {
        ni_philox_words bits = ni_philox(1, 0, (uint32_t)i, 0, 0, 0);
        const float x = (float)(int32_t)bits.w[0] * 0x1p-31f;
        if (m->dtype == NB_BF16)
            ((uint16_t *)numbers)[i] = ni_bf16_even(x);
        else
            ((double *)numbers)[i] = (double)x;
    }
    for (int64_t at = 0; at < elements; at += piece) /* both are powers of two */
        be->ops->upload(be, (char *)m->data + (size_t)at * size, numbers, (size_t)piece * size);
    free(numbers);
    return NB_OK;
}

static nb_status fill(square *s, nb_error *err) {
    if (!s->a.memory) {
        NB_TRY(fill_matrix(s->be, &s->a.numbers, err));
        return fill_matrix(s->be, &s->b.numbers, err);
    }
    NB_TRY(fill_matrix(s->be, &s->c, err)); /* the source, until the first product */
    const ni_source source = {.numbers = &s->c};
    const ni_making makings[2] = {{.out = &s->a}, {.out = &s->b}};
    return s->be->ops->make_operands(s->be, &source, makings, 2, err);
}

/* The shortest of many; the first call warms up libraries and caches and is not counted. */
static nb_status shortest(square *s, double *seconds, nb_error *err) {
    NB_TRY(fill(s, err));
    NB_TRY(multiply(s, err));
    double begin = ni_seconds();
    *seconds = 1e30;
    for (int i = 0; i < LEAST_RUNS || ni_seconds() - begin < SECONDS_EACH; i++) {
        double start = ni_seconds();
        NB_TRY(multiply(s, err));
        double took = ni_seconds() - start;
        *seconds = took < *seconds ? took : *seconds;
    }
    return NB_OK;
}

/* The blocks of recipes/nvfp4.yaml, or plain numbers. */
static nb_operand operand_of(nb_backend *be, int64_t side, bool quantized, ni_side which) {
    nb_operand o = {.quantizer = nb_quantizer_bf16(), .rows = side, .cols = side, .side = which};
    o.numbers = nb_mat_of(NULL, be->act, side, side);
    o.other = o.quantizer;
    if (quantized) {
        o.quantizer = quantizer_of(which == NI_LEFT ? 1 : 16);
        o.other = quantizer_of(which == NI_LEFT ? 16 : 1);
    }
    return o;
}

static nb_status place(square *s, bool quantized, nb_error *err) {
    const ni_backend_ops *ops = s->be->ops;
    const size_t plain = (size_t)(s->side * s->side) * nb_dtype_size(s->be->act);
    nb_operand *const operands[] = {&s->a, &s->b};
    for (int i = 0; i < 2; i++) {
        *operands[i] = operand_of(s->be, s->side, quantized, i ? NI_RIGHT : NI_LEFT);
        const size_t bytes = quantized ? ops->operand_bytes(s->be, operands[i]) : plain;
        void **memory = quantized ? &operands[i]->memory : &operands[i]->numbers.data;
        NB_TRY(ni_backend_take(s->be, bytes, "a matrix to measure the peak", memory, err));
    }
    s->c = nb_mat_of(NULL, s->be->act, s->side, s->side);
    return ni_backend_take(s->be, plain, "a matrix to measure the peak", &s->c.data, err);
}

static nb_status time_square(nb_backend *be, int64_t side, bool quantized, double *seconds, nb_error *err) {
    square s = {.be = be, .side = side};
    nb_status status = place(&s, quantized, err);
    if (status == NB_OK)
        status = shortest(&s, seconds, err);
    void *const memory[] = {s.a.memory, s.b.memory, s.a.numbers.data, s.b.numbers.data, s.c.data};
    for (int i = 0; i < 5; i++)
        nb_backend_release(be, memory[i]);
    return status;
}

static nb_status fastest(nb_backend *be, bool quantized, double *flops, nb_error *err) {
    *flops = 0;
    double seconds = 0;
    for (int64_t side = LEAST_SIDE; side <= SURE_SIDE || (side <= MOST_SIDE && seconds < LONG_ENOUGH); side *= 2) {
        NB_TRY(time_square(be, side, quantized, &seconds, err));
        double rate = 2.0 * (double)side * (double)side * (double)side / seconds;
        *flops = rate > *flops ? rate : *flops;
    }
    return NB_OK;
}

nb_status nb_measure_peak(nb_backend *be, nb_peak *peak, nb_error *err) {
    nb_quantizer x = quantizer_of(1), w = quantizer_of(16);
    *peak = (nb_peak){0};
    NB_TRY(fastest(be, false, &peak->bf16, err));
    if (be->ops->product_kernel(be, &x, &w))
        NB_TRY(fastest(be, true, &peak->nvfp4, err));
    peak->flops = peak->nvfp4 > peak->bf16 ? peak->nvfp4 : peak->bf16;
    return NB_OK;
}
