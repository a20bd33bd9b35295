/* rows_optimizer.c: optimizer, reductions and tensors under one scale, handed to their kernels. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/many.h"
#include "backend/cuda/rows.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

static double *partial_sums(nb_backend *be, const char *what) {
    return ni_cuda_scratch(be, NI_CUDA_SUM_BLOCKS * sizeof(double), what);
}

static uint32_t *amaxes(nb_backend *be, const char *what) {
    return ni_cuda_scratch(be, NI_CUDA_ADAMW_AMAXES * sizeof(uint32_t), what);
}

void ni_cuda_adamw(nb_backend *be, const ni_adamw_tensor *tensors, int32_t count, const ni_adamw *step) {
    uint32_t *scratch = amaxes(be, "adamw");
    if (scratch)
        ni_cuda_good(be, ni_cuda_launch_adamw(stream_of(be), tensors, count, step, scratch), "adamw");
}

void ni_cuda_adamw_ramped(nb_backend *be, const ni_ramped *t, const ni_adamw *step) {
    ni_cuda_good(be, ni_cuda_launch_adamw_ramped(stream_of(be), t, step), "adamw_ramped");
}

void ni_cuda_ramp_periods(nb_backend *be, int32_t *period, const float *moved_q, const float *moved_w, int64_t n,
                          double k1, double k2, int32_t most) {
    ni_cuda_good(be, ni_cuda_launch_ramp_periods(stream_of(be), period, moved_q, moved_w, n, k1, k2, most),
                 "ramp_periods");
}

void ni_cuda_sum(nb_backend *be, double *out, const void *x, int64_t n) {
    double *partial = partial_sums(be, "sum");
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_sum(stream_of(be), out, x, n, false, partial), "sum");
}

void ni_cuda_sum_squares(nb_backend *be, double *out, const void *x, int64_t n) {
    double *partial = partial_sums(be, "sum_squares");
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_sum(stream_of(be), out, x, n, true, partial), "sum_squares");
}

static int32_t at_once(int32_t count) {
    return count < NI_CUDA_LIST_MOST ? count : NI_CUDA_LIST_MOST;
}

void ni_cuda_square_many(nb_backend *be, double *out, const void *const *x, const int64_t *n, int32_t count) {
    const size_t parts = (size_t)at_once(count) * NI_CUDA_SUM_BLOCKS;
    double *partial = ni_cuda_scratch(be, parts * sizeof *partial, "sum_squares");
    int code = cudaSuccess;
    for (int32_t i = 0; partial && i < count && code == cudaSuccess; i += NI_CUDA_LIST_MOST)
        code = ni_cuda_launch_squares(stream_of(be), out + i, x + i, n + i, at_once(count - i), partial);
    ni_cuda_good(be, code, "sum_squares");
}

/* What a block alone would take long for is cleared by itself. */
void ni_cuda_clear_many(nb_backend *be, void *const *at, const size_t *bytes, int32_t count) {
    enum { MOST_BYTES = 1 << 16 };
    void *small[NI_CUDA_LIST_MOST];
    size_t its[NI_CUDA_LIST_MOST];
    int32_t listed = 0;
    int code = cudaSuccess;
    for (int32_t i = 0; i < count; i++) {
        if (bytes[i] > MOST_BYTES || bytes[i] % sizeof(uint32_t)) {
            ni_cuda_fill_zero(be, at[i], bytes[i]);
        } else {
            small[listed] = at[i];
            its[listed++] = bytes[i];
        }
        if (listed < NI_CUDA_LIST_MOST && i + 1 < count)
            continue;
        code = code == cudaSuccess ? ni_cuda_launch_clear(stream_of(be), small, its, listed) : code;
        listed = 0;
    }
    ni_cuda_good(be, code, "clear_many");
}

void ni_cuda_scaled_squares_many(nb_backend *be, double *out, const ni_scaled *x, const int64_t *n, int32_t count) {
    const size_t parts = (size_t)ni_cuda_square_parts(n, count);
    double *partial = ni_cuda_scratch(be, parts * sizeof *partial, "scaled_sum_squares");
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_scaled_squares(stream_of(be), out, x, n, count, partial), "scaled_sum_squares");
}

void ni_cuda_scaled_sum_squares(nb_backend *be, double *out, const ni_scaled *x, int64_t n) {
    ni_cuda_scaled_squares_many(be, out, x, &n, 1);
}

void ni_cuda_scaled_encode_many(nb_backend *be, const ni_scaled *to, const float *const *from, const int64_t *n,
                                int32_t count) {
    uint32_t *amax = amaxes(be, "scaled_encode");
    if (amax)
        ni_cuda_good(be, ni_cuda_launch_scaled_encode(stream_of(be), to, from, n, count, amax), "scaled_encode");
}

void ni_cuda_scaled_encode(nb_backend *be, const ni_scaled *to, const float *from, int64_t n) {
    ni_cuda_scaled_encode_many(be, to, &from, &n, 1);
}

void ni_cuda_scaled_decode(nb_backend *be, float *to, const ni_scaled *from, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_scaled_decode(stream_of(be), to, from, n), "scaled_decode");
}

void ni_cuda_scaled_add(nb_backend *be, const ni_scaled *to, const ni_scaled *a, const ni_scaled *b, int64_t n) {
    uint32_t *amax = amaxes(be, "scaled_add");
    if (amax)
        ni_cuda_good(be, ni_cuda_launch_scaled_add(stream_of(be), to, a, b, n, amax), "scaled_add");
}

void ni_cuda_scaled_rescale(nb_backend *be, const ni_scaled *t, float scale, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_scaled_rescale(stream_of(be), t, scale, n), "scaled_rescale");
}

void ni_cuda_scaled_join(nb_backend *be, const ni_scaled *to, const ni_scaled *from, int64_t n) {
    ni_cuda_good(be, ni_cuda_launch_scaled_join(stream_of(be), to, from, n), "scaled_join");
}
