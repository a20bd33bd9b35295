/* weights.c: columns; rows and pieces of the references over the threads; nothing is summed across them but counts. */
#include "backend/cpu/operand.h"
#include "backend/cpu/ops_kernels.h"
#include "backend/ref/delayed.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/numbers.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/ref.h"
#include "format/hadamard.h"

enum { PIECE = 4096 };

#define THREADS num_threads(ni_cpu_of(be)->threads) schedule(static)

/* ---- columns ---- */

void ni_gather_row(void *to, const void *from, nb_dtype type, const int32_t *columns, int64_t n) {
    if (type == NB_BF16)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)to)[i] = ((const uint16_t *)from)[columns[i]];
    else
        for (int64_t i = 0; i < n; i++)
            ((float *)to)[i] = ((const float *)from)[columns[i]];
}

static void scatter_row(void *to, const void *from, nb_dtype type, const int32_t *columns, int64_t n, bool add) {
    if (type == NB_BF16)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)to)[columns[i]] = ((const uint16_t *)from)[i];
    else if (add)
        for (int64_t i = 0; i < n; i++)
            ((float *)to)[columns[i]] += ((const float *)from)[i];
    else
        for (int64_t i = 0; i < n; i++)
            ((float *)to)[columns[i]] = 0 + ((const float *)from)[i]; /* a sum of one: -0 becomes 0 */
}

static void *row_of(const nb_mat *m, int64_t r) {
    return (char *)m->data + (size_t)(r * m->stride) * nb_dtype_size(m->dtype);
}

void ni_cpu_gather_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns) {
#pragma omp parallel for THREADS
    for (int64_t r = 0; r < out->rows; r++)
        ni_gather_row(row_of(out, r), row_of(in, r), in->dtype, columns, out->cols);
}

void ni_cpu_scatter_columns(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                            bool accumulate) {
#pragma omp parallel for THREADS
    for (int64_t r = 0; r < in->rows; r++)
        scatter_row(row_of(out, r), row_of(in, r), in->dtype, columns, in->cols, accumulate);
}

/* Sixteen columns at a time: a cache line of BF16 is read whole. */
void ni_cpu_column_norms(nb_backend *be, float *norms, const nb_mat *x) {
#pragma omp parallel for THREADS
    for (int64_t c = 0; c < x->cols; c += 16) {
        nb_mat strip = *x;
        strip.data = (char *)x->data + (size_t)c * nb_dtype_size(x->dtype);
        strip.cols = x->cols - c < 16 ? x->cols - c : 16;
        ni_ref_column_norms(be, norms + c, &strip);
    }
}

/* ni_hadamard on whole rows, [size, cols]. */
static void rotate_group(float *x, int64_t stride, int64_t cols, int32_t size, ni_sign_mask signs) {
    for (int32_t i = 0; i < size; i++)
        for (int64_t c = 0; c < cols && signs.w[i / 32] >> (i % 32) & 1U; c++)
            x[i * stride + c] = -x[i * stride + c];
    for (int32_t half = 1; half < size; half *= 2)
        for (int32_t i = 0; i < size; i++)
            for (int64_t c = 0; c < cols && !(i & half); c++) {
                float *low = x + i * stride + c, *high = low + half * stride, a = *low, b = *high;
                *low = a + b;
                *high = a - b;
            }
    for (int32_t i = 0; i < size; i++)
        for (int64_t c = 0; c < cols; c++)
            x[i * stride + c] *= ni_hadamard_factor(size);
}

/* Sixteen columns of a chunk of rows. */
static void add_chunk(double sums[16], const nb_mat *x, int64_t first, int64_t rows) {
    double chunk[16] = {0};
    for (int64_t r = first; r < first + rows; r++)
        for (int64_t c = 0; c < x->cols; c++)
            chunk[c] += ni_mat_number(x, r, c);
    for (int64_t c = 0; c < x->cols; c++)
        sums[c] += chunk[c];
}

/* As column_norms: a cache line is read whole. */
void ni_cpu_column_means(nb_backend *be, const nb_mat *means, const nb_mat *x) {
#pragma omp parallel for THREADS
    for (int64_t c = 0; c < x->cols; c += 16) {
        double sums[16] = {0};
        nb_mat strip = *x;
        strip.data = (char *)x->data + (size_t)c * nb_dtype_size(x->dtype);
        strip.cols = x->cols - c < 16 ? x->cols - c : 16;
        for (int64_t first = 0; first < x->rows; first += NI_SUM_CHUNK)
            add_chunk(sums, &strip, first, x->rows - first < NI_SUM_CHUNK ? x->rows - first : NI_SUM_CHUNK);
        for (int64_t i = 0; i < strip.cols; i++) {
            const float mean = (float)(sums[i] / (double)x->rows);
            if (means->dtype == NB_BF16)
                ((uint16_t *)means->data)[c + i] = ni_bf16_even(mean);
            else
                ((float *)means->data)[c + i] = mean;
        }
    }
}

static void subtract(void *to, const void *from, const void *row, nb_dtype type, int64_t n) {
    if (type == NB_BF16)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)to)[i] =
                ni_bf16_even(ni_bf16_value(((const uint16_t *)from)[i]) - ni_bf16_value(((const uint16_t *)row)[i]));
    else
        for (int64_t i = 0; i < n; i++)
            ((float *)to)[i] = ((const float *)from)[i] - ((const float *)row)[i];
}

void ni_cpu_subtract_row(nb_backend *be, const nb_mat *out, const nb_mat *x, const nb_mat *row) {
#pragma omp parallel for THREADS
    for (int64_t r = 0; r < x->rows; r++)
        subtract(row_of(out, r), row_of(x, r), row->data, x->dtype, x->cols);
}

void ni_cpu_rotate_rows(nb_backend *be, const nb_mat *x, int32_t size, nb_signs signs, const nb_noise *noise) {
    const ni_noise_key key = ni_noise_at(noise);
    const ni_sign_mask mask = ni_signs_of(signs, &key);
#pragma omp parallel for THREADS
    for (int64_t first = 0; first < x->rows; first += size)
        rotate_group((float *)x->data + first * x->stride, x->stride, x->cols, size, mask);
}

void ni_cpu_quest_backward(nb_backend *be, const nb_mat *g, const nb_mat *x, const nb_quantizer *q) {
#pragma omp parallel for THREADS
    for (int64_t r = 0; r < g->rows; r++) {
        nb_mat row = *g, numbers = x ? *x : *g;
        row.rows = numbers.rows = 1;
        row.data = (char *)row.data + nb_dtype_size(row.dtype) * (size_t)(r * row.stride);
        numbers.data = (char *)numbers.data + nb_dtype_size(numbers.dtype) * (size_t)(r * numbers.stride);
        ni_ref_quest_backward(be, &row, x ? &numbers : NULL, q);
    }
}

/* ---- weights ---- */

void ni_cpu_add_distance(nb_backend *be, float *distance, const float *a, const float *b, int64_t n) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
#pragma omp parallel for THREADS
    for (int64_t i = 0; i < n; i += PIECE)
        kernels->add_distance(distance + i, a + i, b + i, n - i < PIECE ? n - i : PIECE);
}

void ni_cpu_bin_distances(nb_backend *be, float *out, const float *w, const float *q, const float *widths, int64_t n) {
#pragma omp parallel for THREADS
    for (int64_t i = 0; i < n; i += PIECE)
        ni_ref_bin_distances(be, out + i, w + i, q + i, widths + i, n - i < PIECE ? n - i : PIECE);
}

void ni_cpu_add_flips(nb_backend *be, uint8_t *flips, const float *q, const float *q_before, const float *widths,
                      int64_t n) {
#pragma omp parallel for THREADS
    for (int64_t i = 0; i < n; i += PIECE)
        ni_ref_add_flips(be, flips + i, q + i, q_before + i, widths + i, n - i < PIECE ? n - i : PIECE);
}

void ni_cpu_reset_where(nb_backend *be, int64_t *resets, float *w, const float *q, const float *moved_w,
                        const float *moved_q, const uint8_t *flips, int32_t least_flips, int64_t n, double threshold) {
    int64_t sum = 0;
#pragma omp parallel for THREADS reduction(+ : sum)
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t here = 0;
        ni_ref_reset_where(be, &here, w + i, q + i, moved_w + i, moved_q + i, flips ? flips + i : NULL, least_flips,
                           n - i < PIECE ? n - i : PIECE, threshold);
        sum += here;
    }
    *resets += sum;
}

/* ---- Q-Ramping ---- */

void ni_cpu_adamw_ramped(nb_backend *be, const ni_ramped *t, const ni_adamw *step) {
#pragma omp parallel for THREADS
    for (int64_t i = 0; i < t->n; i += PIECE) {
        const ni_ramped piece = {.param = t->param + i,
                                 .m = t->m + i,
                                 .v = t->v + i,
                                 .grad = t->grad + i,
                                 .sum = t->sum + i,
                                 .steps = t->steps + i,
                                 .period = t->period + i,
                                 .n = t->n - i < PIECE ? t->n - i : PIECE,
                                 .weight_decay = t->weight_decay};
        ni_ref_adamw_ramped(be, &piece, step);
    }
}

void ni_cpu_ramp_periods(nb_backend *be, int32_t *period, const float *moved_q, const float *moved_w, int64_t n,
                         double k1, double k2, int32_t most) {
#pragma omp parallel for THREADS
    for (int64_t i = 0; i < n; i += PIECE)
        ni_ref_ramp_periods(be, period + i, moved_q + i, moved_w + i, n - i < PIECE ? n - i : PIECE, k1, k2, most);
}

/* ---- delayed scales ---- */

void ni_cpu_round_under(nb_backend *be, const nb_mat *out, const nb_mat *x, nb_dtype type, float *now,
                        const float *past) {
    const float amax = ni_cpu_amax(be, x), limit = ni_limit_of(past, ni_f32_magnitude(amax));
    if (now)
        *now = amax;
#pragma omp parallel for THREADS
    for (int64_t r = 0; r < x->rows; r++)
        ni_round_row_under(row_of(out, r), row_of(x, r), x->cols, type, limit);
}

/* ---- bins ---- */

void ni_cpu_bin_widths(nb_backend *be, float *out, const nb_operand *codes) {
    nb_qtensor t = ni_codes_of(codes);
#pragma omp parallel for THREADS
    for (int64_t r = 0; r < codes->rows; r++) {
        nb_qtensor one = ni_qtensor_row(&t, r);
        ni_bin_widths_of(out + r * codes->cols, &one);
    }
}

void ni_cpu_round_by(nb_backend *be, nb_operand *codes, const float *w, const float *guide) {
    nb_qtensor t = ni_codes_of(codes);
    ni_head_of(codes)->form = 0; /* what stands behind the codes is old */
#pragma omp parallel for THREADS
    for (int64_t r = 0; r < codes->rows; r++) {
        nb_qtensor one = ni_qtensor_row(&t, r);
        ni_round_codes_by(&one, w + r * codes->cols, guide + r * codes->cols);
    }
}
