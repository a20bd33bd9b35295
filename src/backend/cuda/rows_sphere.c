/* rows_sphere.c: vectors of length 1, steps between them and factors of columns, handed to their kernels. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/rows.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

void ni_cuda_unit_vectors(nb_backend *be, void *w, int64_t rows, int64_t cols, bool columns) {
    ni_cuda_good(be, ni_cuda_launch_unit_vectors(stream_of(be), w, rows, cols, columns), "unit_vectors");
}

static ni_cuda_slerp step_of(const nb_mat *m, const void *a, const void *b, const void *alpha, double factor,
                             double eps) {
    return (ni_cuda_slerp){
        .a = a, .b = b, .alpha = alpha, .factor = (float)factor, .eps = (float)eps, .n = m->rows, .dim = m->cols};
}

void ni_cuda_slerp_forward(nb_backend *be, const nb_mat *out, const void *a, const void *b, const void *alpha,
                           double factor, double eps) {
    const ni_cuda_slerp p = step_of(out, a, b, alpha, factor, eps);
    ni_cuda_good(be, ni_cuda_launch_slerp_forward(stream_of(be), &p, out->data, out->amax), "slerp_forward");
}

void ni_cuda_slerp_backward(nb_backend *be, void *da, const nb_mat *db, void *dalpha, const void *dout, const void *a,
                            const void *b, const void *alpha, double factor, double eps) {
    const ni_cuda_slerp p = step_of(db, a, b, alpha, factor, eps);
    void *scratch = ni_cuda_scratch(be, ni_cuda_slerp_bytes(p.n, p.dim), "slerp_backward");
    if (scratch)
        ni_cuda_good(be,
                     ni_cuda_launch_slerp_backward(stream_of(be), &p, da, db->data, db->amax, dalpha, dout, scratch),
                     "slerp_backward");
}

void ni_cuda_gain_forward(nb_backend *be, const nb_mat *y, const void *x, const void *s, double factor, int32_t power) {
    ni_cuda_good(be, ni_cuda_launch_gain_forward(stream_of(be), y, x, s, (float)factor, power), "gain_forward");
}

void ni_cuda_gain_backward(nb_backend *be, const nb_mat *dx, void *ds, const void *dy, const void *x, const void *s,
                           double factor, int32_t power) {
    float *partial = ni_cuda_scratch(be, ni_cuda_column_sum_bytes(dx->rows, dx->cols), "gain_backward");
    if (partial)
        ni_cuda_good(be, ni_cuda_launch_gain_backward(stream_of(be), dx, ds, dy, x, s, (float)factor, power, partial),
                     "gain_backward");
}
