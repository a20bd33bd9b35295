/* ops_rows.c: operations on rows: norms, steps on the sphere, the decay gate, cross entropy.
 *
 * Gradients of vectors that all rows share (dw, dbias) are summed over fixed blocks of rows, in parallel, and then over
 * the blocks in order: FP32 sums whose shape depends on the sizes alone.
 */
#include "backend/cpu/ops_kernels.h"

#include "backend/ref/ref.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { MOST_PARTS = 64, LEAST_ROWS = 16 };

/* Blocks of rows, so many that their sums fit in the memory that is always there. */
static int64_t part_count(int64_t rows, int64_t dim) {
    int64_t parts = (int64_t)(NI_CPU_SHARED_BYTES / sizeof(float)) / (dim > 0 ? dim : 1);
    parts = parts < MOST_PARTS ? parts : MOST_PARTS;
    int64_t worthwhile = (rows + LEAST_ROWS - 1) / LEAST_ROWS;
    parts = parts < worthwhile ? parts : worthwhile;
    return parts > 1 ? parts : 1;
}

/* The sums [parts, dim] of the blocks; a single block sums into `total` itself. */
static float *part_sums(nb_backend *be, float *total, int64_t parts, int64_t dim) {
    if (parts == 1)
        return total;
    float *sums = ni_cpu_shared(be, (size_t)(parts * dim) * sizeof *sums);
    memset(sums, 0, (size_t)(parts * dim) * sizeof *sums);
    return sums;
}

static void add_parts(nb_backend *be, float *total, const float *sums, int64_t parts, int64_t dim) {
    if (sums == total)
        return;
    for (int64_t part = 0; part < parts; part++)
        ni_cpu_kernels_of(be)->axpy(total, 1, sums + part * dim, dim);
}

/* Runs `body` for blocks of rows: `row` is the first, `count` their number, `at` = row * dim, `part` the block. */
#define FOR_PARTS(be, rows, dim, parts, body)                                                                          \
    do {                                                                                                               \
        const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);                                                         \
        const int threads = (rows) * (dim) > NI_SPAN_SERIAL ? ni_cpu_of(be)->threads : 1;                              \
        _Pragma("omp parallel for num_threads(threads) schedule(static)") for (int64_t part = 0; part < (parts);       \
                                                                               part++) {                               \
            const int64_t row = ni_part(rows, parts, part), count = ni_part(rows, parts, part + 1) - row;              \
            const int64_t at = row * (dim);                                                                            \
            kernels->body;                                                                                             \
        }                                                                                                              \
    } while (0)

static bool is_plain(const nb_mat *m) {
    return m->dtype == NB_BF16 || m->dtype == NB_F32;
}

void ni_cpu_scale(nb_backend *be, const nb_mat *out, const nb_mat *in, const float *row_scale, const float *col_scale) {
    if (!is_plain(out) || !is_plain(in)) {
        ni_ref_scale(be, out, in, row_scale, col_scale);
        return;
    }
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    bool out_bf16 = out->dtype == NB_BF16, in_bf16 = in->dtype == NB_BF16;
    int64_t out_pitch = out->stride * (out_bf16 ? 2 : 4), in_pitch = in->stride * (in_bf16 ? 2 : 4);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) if (in->rows * in->cols > NI_SPAN_SERIAL)
    for (int64_t r = 0; r < in->rows; r++)
        kernels->scale((char *)out->data + r * out_pitch, out_bf16, (const char *)in->data + r * in_pitch, in_bf16,
                       row_scale ? row_scale[r] : 1, col_scale, in->cols);
}

/* As FOR_PARTS over blocks that write rows of `y`; its amax is taken block by block, while the cache has them. */
#define FOR_PARTS_OF(be, y, parts, body)                                                                               \
    do {                                                                                                               \
        const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);                                                         \
        const int64_t rows = (y)->rows, dim = (y)->cols;                                                               \
        const int threads = rows * dim > NI_SPAN_SERIAL ? ni_cpu_of(be)->threads : 1;                                  \
        uint32_t amax = 0;                                                                                             \
        _Pragma("omp parallel for num_threads(threads) schedule(static) reduction(max : amax)") for (int64_t part = 0; \
                                                                                                     part < (parts);   \
                                                                                                     part++) {         \
            const int64_t row = ni_part(rows, parts, part), count = ni_part(rows, parts, part + 1) - row;              \
            const int64_t at = row * dim;                                                                              \
            kernels->body;                                                                                             \
            const uint32_t here = (y)->amax ? kernels->amax_bf16((const uint16_t *)(y)->data + at, count * dim) : 0;   \
            amax = here > amax ? here : amax;                                                                          \
        }                                                                                                              \
        if ((y)->amax)                                                                                                 \
            *(y)->amax = amax;                                                                                         \
    } while (0)

void ni_cpu_rmsnorm_forward(nb_backend *be, const nb_mat *y, void *rstd, const void *x, const void *w, double eps) {
    FOR_PARTS_OF(be, y, MOST_PARTS,
                 rmsnorm_forward((uint16_t *)y->data + at, (float *)rstd + row, (const uint16_t *)x + at, w, count, dim,
                                 (float)eps));
}

void ni_cpu_add_rmsnorm_forward(nb_backend *be, void *out, const nb_mat *y, void *rstd, const void *x,
                                const void *change, const void *w, double eps) {
    FOR_PARTS_OF(be, y, MOST_PARTS,
                 add_rmsnorm_forward((uint16_t *)out + at, (uint16_t *)y->data + at, (float *)rstd + row,
                                     (const uint16_t *)x + at, (const uint16_t *)change + at, w, count, dim,
                                     (float)eps));
}

void ni_cpu_rmsnorm_add_forward(nb_backend *be, void *out, void *rstd, const void *x, const void *change, const void *w,
                                int64_t n, int64_t dim, double eps) {
    FOR_PARTS(be, n, dim, MOST_PARTS,
              rmsnorm_add_forward((uint16_t *)out + at, (float *)rstd + row, (const uint16_t *)x + at,
                                  (const uint16_t *)change + at, w, count, dim, (float)eps));
}

void ni_cpu_rmsnorm_backward(nb_backend *be, const nb_mat *dx, void *dw, const void *dy, const void *x, const void *w,
                             const void *rstd) {
    const int64_t parts = part_count(dx->rows, dx->cols);
    float *sums = part_sums(be, dw, parts, dx->cols);
    FOR_PARTS_OF(be, dx, parts,
                 rmsnorm_backward((uint16_t *)dx->data + at, sums + part * dim, (const uint16_t *)dy + at,
                                  (const uint16_t *)x + at, w, (const float *)rstd + row, count, dim));
    add_parts(be, dw, sums, parts, dx->cols);
}

void ni_cpu_rmsnorm_backward_add(nb_backend *be, const nb_mat *dout, void *dw, const void *dy, const void *x,
                                 const void *w, const void *rstd) {
    const int64_t parts = part_count(dout->rows, dout->cols);
    float *sums = part_sums(be, dw, parts, dout->cols);
    FOR_PARTS_OF(be, dout, parts,
                 rmsnorm_backward_add((uint16_t *)dout->data + at, sums + part * dim, (const uint16_t *)dy + at,
                                      (const uint16_t *)x + at, w, (const float *)rstd + row, count, dim));
    add_parts(be, dw, sums, parts, dout->cols);
}

void ni_cpu_add_rmsnorm_backward(nb_backend *be, void *dout, const nb_mat *dx, void *dw, const void *change,
                                 const void *x, const void *w, const void *rstd) {
    const int64_t parts = part_count(dx->rows, dx->cols);
    float *sums = part_sums(be, dw, parts, dx->cols);
    FOR_PARTS_OF(be, dx, parts,
                 add_rmsnorm_backward((uint16_t *)dout + at, (uint16_t *)dx->data + at, sums + part * dim,
                                      (const uint16_t *)change + at, (const uint16_t *)x + at, w,
                                      (const float *)rstd + row, count, dim));
    add_parts(be, dw, sums, parts, dx->cols);
}

void ni_cpu_gated_norm_forward(nb_backend *be, const nb_mat *y, void *rstd, const void *o, const void *g, const void *w,
                               double eps) {
    FOR_PARTS_OF(be, y, MOST_PARTS,
                 gated_norm_forward((uint16_t *)y->data + at, (float *)rstd + row, (const uint16_t *)o + at,
                                    (const uint16_t *)g + at, w, count, dim, (float)eps));
}

void ni_cpu_gated_norm_backward(nb_backend *be, void *do_, const nb_mat *dg, void *dw, const void *dy, const void *o,
                                const void *g, const void *w, const void *rstd) {
    const int64_t parts = part_count(dg->rows, dg->cols);
    float *sums = part_sums(be, dw, parts, dg->cols);
    FOR_PARTS_OF(be, dg, parts,
                 gated_norm_backward((uint16_t *)do_ + at, (uint16_t *)dg->data + at, sums + part * dim,
                                     (const uint16_t *)dy + at, (const uint16_t *)o + at, (const uint16_t *)g + at, w,
                                     (const float *)rstd + row, count, dim));
    add_parts(be, dw, sums, parts, dg->cols);
}

void ni_cpu_slerp_forward(nb_backend *be, const nb_mat *out, const void *a, const void *b, const void *alpha,
                          double factor, double eps) {
    FOR_PARTS_OF(be, out, MOST_PARTS,
                 slerp_forward((uint16_t *)out->data + at, (const uint16_t *)a + at, (const uint16_t *)b + at, alpha,
                               (float)factor, (float)eps, count, dim));
}

void ni_cpu_slerp_backward(nb_backend *be, void *da, const nb_mat *db, void *dalpha, const void *dout, const void *a,
                           const void *b, const void *alpha, double factor, double eps) {
    const int64_t parts = part_count(db->rows, db->cols);
    float *sums = part_sums(be, dalpha, parts, db->cols);
    FOR_PARTS_OF(be, db, parts,
                 slerp_backward((uint16_t *)da + at, (uint16_t *)db->data + at, sums + part * dim,
                                (const uint16_t *)dout + at, (const uint16_t *)a + at, (const uint16_t *)b + at, alpha,
                                (float)factor, (float)eps, count, dim));
    add_parts(be, dalpha, sums, parts, db->cols);
}

void ni_cpu_gain_forward(nb_backend *be, const nb_mat *y, const void *x, const void *s, double factor, int32_t power) {
    FOR_PARTS_OF(be, y, MOST_PARTS,
                 gain_forward((uint16_t *)y->data + at, (const uint16_t *)x + at, s, (float)factor, power, count, dim));
}

void ni_cpu_gain_backward(nb_backend *be, const nb_mat *dx, void *ds, const void *dy, const void *x, const void *s,
                          double factor, int32_t power) {
    const int64_t parts = part_count(dx->rows, dx->cols);
    float *sums = part_sums(be, ds, parts, dx->cols);
    FOR_PARTS_OF(be, dx, parts,
                 gain_backward((uint16_t *)dx->data + at, sums + part * dim, (const uint16_t *)dy + at,
                               (const uint16_t *)x + at, s, (float)factor, power, count, dim));
    add_parts(be, ds, sums, parts, dx->cols);
}

enum { COLUMN_STRIP = 16 };

/* Columns first .. first + count over their lengths, summed as the reference does: in double, rows in order. */
static void unit_columns(float *w, int64_t rows, int64_t cols, int64_t first, int64_t count) {
    double scale[COLUMN_STRIP] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < count; c++)
            scale[c] += (double)w[r * cols + first + c] * (double)w[r * cols + first + c];
    for (int64_t c = 0; c < count; c++)
        scale[c] = scale[c] > 0 ? 1 / sqrt(scale[c]) : 1;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < count; c++)
            w[r * cols + first + c] = (float)((double)w[r * cols + first + c] * scale[c]);
}

void ni_cpu_unit_vectors(nb_backend *be, void *w, int64_t rows, int64_t cols, bool columns) {
    const int64_t strips = columns ? (cols + COLUMN_STRIP - 1) / COLUMN_STRIP : rows;
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) if (rows * cols > NI_SPAN_SERIAL)
    for (int64_t i = 0; i < strips; i++) {
        const int64_t first = i * COLUMN_STRIP, left = cols - first;
        if (columns)
            unit_columns(w, rows, cols, first, left < COLUMN_STRIP ? left : COLUMN_STRIP);
        else
            ni_ref_f32_unit_vectors(be, (float *)w + i * cols, 1, cols, false);
    }
}

void ni_cpu_gla_gate_forward(nb_backend *be, void *gate, const void *a, const void *bias, int64_t n, int64_t dim,
                             double normalizer, double clamp) {
    FOR_PARTS(
        be, n, dim, MOST_PARTS,
        gate_forward((float *)gate + at, (const uint16_t *)a + at, bias, count, dim, (float)normalizer, (float)clamp));
}

void ni_cpu_gla_gate_backward(nb_backend *be, void *da, void *dbias, const void *dgate, const void *a, const void *bias,
                              int64_t n, int64_t dim, double normalizer, double clamp) {
    int64_t parts = part_count(n, dim);
    float *sums = part_sums(be, dbias, parts, dim);
    FOR_PARTS(be, n, dim, parts,
              gate_backward((uint16_t *)da + at, sums + part * dim, (const float *)dgate + at, (const uint16_t *)a + at,
                            bias, count, dim, (float)normalizer, (float)clamp));
    add_parts(be, dbias, sums, parts, dim);
}

void ni_cpu_cross_entropy(nb_backend *be, void *loss, void *z, void *dlogits, const void *logits,
                          const int32_t *targets, int64_t n, int64_t vocab, double grad_scale, double z_loss) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
#pragma omp parallel for num_threads(ni_cpu_of(be)->threads) schedule(static) if (n * vocab > NI_SPAN_SERIAL)
    for (int64_t r = 0; r < n; r++) {
        uint16_t *gradient = dlogits ? (uint16_t *)dlogits + r * vocab : NULL;
        float lse = kernels->cross_entropy((float *)loss + r, gradient, (const uint16_t *)logits + r * vocab,
                                           targets[r], vocab, (float)grad_scale, (float)z_loss);
        if (z)
            ((float *)z)[r] = lse;
    }
}
