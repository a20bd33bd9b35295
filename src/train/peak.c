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

/* C = A B^T of `side` squared, in BF16 or in NVFP4. */
typedef struct square {
    nb_backend *be;
    int64_t side;
    bool quantized;
    void *a, *b, *c;
} square;

static nb_quantizer quantizer_of(int32_t block_rows) {
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.block_rows = block_rows;
    return q;
}

static nb_status multiply(const square *s, nb_error *err) {
    nb_mat c = nb_mat_of(s->c, s->be->act, s->side, s->side);
    nb_status status;
    if (s->quantized) { /* the blocks of recipes/nvfp4.yaml */
        nb_quantizer x = quantizer_of(1), w = quantizer_of(16);
        nb_qtensor a = nb_qtensor_place(&x, s->side, s->side, s->a), b = nb_qtensor_place(&w, s->side, s->side, s->b);
        status = s->be->ops->gemm_q(s->be, &c, &a, &b, false, err);
    } else {
        nb_mat a = nb_mat_of(s->a, s->be->act, s->side, s->side), b = nb_mat_of(s->b, s->be->act, s->side, s->side);
        status = s->be->ops->gemm(s->be, &c, &a, false, &b, true, false, err);
    }
    return status == NB_OK ? s->be->ops->synchronize(s->be, err) : status;
}

/* Random numbers: on zeros a GPU draws less power and holds a clock that no training sees. */
static nb_status fill(const square *s, nb_error *err) {
    enum { PIECE = 1 << 16 };
    const int64_t elements = s->side * s->side, piece = elements < PIECE ? elements : PIECE;
    const size_t size = nb_dtype_size(s->be->act);
    const ni_backend_ops *ops = s->be->ops;
    void *numbers = malloc((size_t)piece * size);
    if (!numbers)
        return nb_fail(err, NB_NO_MEMORY, "peak: out of memory");
    for (int64_t i = 0; i < piece; i++) {
        ni_philox_words bits = ni_philox(1, 0, (uint32_t)i, 0, 0, 0);
        const float x = (float)(int32_t)bits.w[0] * 0x1p-31f;
        if (s->be->act == NB_BF16)
            ((uint16_t *)numbers)[i] = ni_bf16_even(x);
        else
            ((double *)numbers)[i] = (double)x;
    }
    for (int64_t at = 0; at < elements; at += piece) /* both are powers of two */
        for (int which = 0; which < 2; which++)
            ops->upload(s->be, (char *)(which ? s->c : s->a) + (size_t)at * size, numbers, (size_t)piece * size);
    free(numbers);
    if (!s->quantized) {
        ops->copy(s->be, s->b, s->a, (size_t)elements * size);
        return NB_OK;
    }
    nb_quantizer x = quantizer_of(1), w = quantizer_of(16);
    nb_qtensor a = nb_qtensor_place(&x, s->side, s->side, s->a), b = nb_qtensor_place(&w, s->side, s->side, s->b);
    nb_mat source = nb_mat_of(s->c, s->be->act, s->side, s->side);
    NB_TRY(ops->quantize(s->be, &a, &source, false, NULL, NULL, err));
    return ops->quantize(s->be, &b, &source, false, NULL, NULL, err);
}

/* The shortest of many; the first call warms up libraries and caches and is not counted. */
static nb_status shortest(const square *s, double *seconds, nb_error *err) {
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

static nb_status time_square(nb_backend *be, int64_t side, bool quantized, double *seconds, nb_error *err) {
    size_t plain = (size_t)(side * side) * nb_dtype_size(be->act); /* more than the codes and scales need */
    square s = {be, side, quantized, NULL, NULL, NULL};
    void **const matrices[] = {&s.a, &s.b, &s.c};
    for (int i = 0; i < 3; i++)
        *matrices[i] = be->ops->alloc(be, plain, "a matrix to measure the peak");
    nb_status status = s.a && s.b && s.c
                           ? shortest(&s, seconds, err)
                           : nb_fail(err, NB_NO_MEMORY, "peak: three matrices of %lld x %lld do not fit in memory",
                                     (long long)side, (long long)side);
    be->ops->release(be, s.a);
    be->ops->release(be, s.b);
    be->ops->release(be, s.c);
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
    if (be->ops->gemm_q && be->ops->gemm_q_kernel(be, &x, &w))
        NB_TRY(fastest(be, true, &peak->nvfp4, err));
    peak->flops = peak->nvfp4 > peak->bf16 ? peak->nvfp4 : peak->bf16;
    return NB_OK;
}
