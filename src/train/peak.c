/* peak.c: how fast this machine multiplies, measured, so that MFU is a share of something real. */
#include "nibble/train.h"

#include "base/progress.h"

#define PEAK_SIDE 1024
#define PEAK_SECONDS 0.25
#define PEAK_LEAST 3

nb_status nb_measure_peak_flops(nb_backend *be, double *flops, nb_error *err) {
    const int64_t n = PEAK_SIDE;
    const size_t bytes = (size_t)(n * n) * nb_dtype_size(be->act);
    void *a = be->ops->alloc(be, bytes), *b = be->ops->alloc(be, bytes), *c = be->ops->alloc(be, bytes);
    nb_status status = NB_OK;
    if (!a || !b || !c)
        status = nb_fail(err, NB_NO_MEMORY, "peak: three matrices of %lld x %lld do not fit in memory", (long long)n,
                         (long long)n);
    nb_mat ma = nb_mat_of(a, be->act, n, n), mb = nb_mat_of(b, be->act, n, n), mc = nb_mat_of(c, be->act, n, n);
    double begin = nb_seconds(), best = 1e30;
    /* The first call warms up libraries and caches and is not counted. */
    for (int i = 0; status == NB_OK && (i <= PEAK_LEAST || nb_seconds() - begin < PEAK_SECONDS); i++) {
        double start = nb_seconds();
        status = be->ops->gemm(be, &mc, &ma, false, &mb, true, false, err);
        be->ops->synchronize(be);
        double took = nb_seconds() - start;
        if (i > 0 && took < best)
            best = took;
    }
    be->ops->release(be, a);
    be->ops->release(be, b);
    be->ops->release(be, c);
    if (status == NB_OK)
        *flops = 2.0 * (double)n * (double)n * (double)n / best;
    return status;
}
