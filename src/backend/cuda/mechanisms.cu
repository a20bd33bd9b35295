/* mechanisms.cu: what recipes do beyond quantizing: DGE, clamping with a sparse rest, chosen columns, weights against
 * their codes. Single operations are spelt where their result is kept (src/backend/ref/dge_occ.c, weights.c).
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/narrow.cuh"
#include "backend/ref/delayed.h"
#include "format/bf16.h"
#include "format/hadamard.h"
#include "format/quartet.h"
#include "format/vector_scales.h"

/* ---- DGE ---- */

/* What a launch knows of the estimator. */
typedef struct dge_curve {
    float exponent, over_k, cap; /* 1/k - 1, 1/k */
} dge_curve;

static __device__ float dge_derivative(float x, const dge_curve &curve) {
    /* The cell of E2M1's grid, closed below; NaN lies in the first. What is divided by a width is multiplied: it is a
     * power of two. */
    const bool inner = x >= -2 && x < 2, middle = x >= -4 && x < 4;
    const float twice_over_width = inner ? 4.0f : middle ? 2.0f : 1.0f;
    const float low = inner ? floorf(2 * x) * 0.5f : middle ? floorf(x) : x >= 4 ? 4.0f : -6.0f;
    const float at = fabsf(twice_over_width * (x - low) - 1.0f), t = at > 1 ? 1.0f : at; /* NaN: the cap, as at 0 */
    const float slope = exp2f(curve.exponent * log2f(t)) * curve.over_k;
    return t == 0 && curve.exponent < 0 ? curve.cap : t == 0 ? curve.over_k : fminf(slope, curve.cap);
}

/* w / scale; by a power of two as a product, which is as exact and a few instructions. */
static __device__ float dge_quotient(float w, float scale) {
    const uint32_t bits = __float_as_uint(scale);
    const bool power = (bits & 0x7fffffu) == 0 && bits >= 0x00800000u && bits < 0x7f000000u;
    return power ? ni_f32_mul(w, __uint_as_float(0x7f000000u - bits)) : scale > 0 ? ni_f32_div(w, scale) : 0.0f;
}

static __device__ float dge_factor(float w, float scale, const dge_curve &curve) {
    return dge_derivative(dge_quotient(w, scale), curve);
}

static __global__ void dge(float *dw, const __grid_constant__ ni_scaled w, nb_qtensor codes, dge_curve curve) {
    const bool small = codes.rows * codes.cols <= INT32_MAX;
    const float factor = ni_narrow_factor(w);
    for (NI_EACH(i, codes.rows * codes.cols)) {
        const int64_t r = small ? (uint32_t)i / (uint32_t)codes.cols : i / codes.cols;
        dw[i] *= dge_factor(ni_narrow_value(w, i, factor), ni_scale_of(codes, r, i - r * codes.cols, true), curve);
    }
}

/* One scale a row or a column: four neighbours a thread. A weight's few powers are waited for more than they are work, so
 * threads are many and short. */
template <bool COLUMNS>
static __global__ void __launch_bounds__(NI_THREADS)
    dge_of_vectors(float4 *dw, const __grid_constant__ ni_scaled w, const float *scales, uint32_t across,
                   uint32_t fours, dge_curve curve) {
    const uint32_t at = blockIdx.x * NI_THREADS + threadIdx.x;
    if (at >= fours)
        return;
    const ni_four x = ni_four_of(w, at, ni_narrow_factor(w));
    const uint32_t r = at / across;
    float4 d = dw[at], scale;
    if (COLUMNS) {
        scale = ((const float4 *)scales)[at - r * across];
    } else {
        const float s = scales[r];
        scale = make_float4(s, s, s, s);
    }
    d.x *= dge_factor(x.x[0], scale.x, curve);
    d.y *= dge_factor(x.x[1], scale.y, curve);
    d.z *= dge_factor(x.x[2], scale.z, curve);
    d.w *= dge_factor(x.x[3], scale.w, curve);
    dw[at] = d;
}

int ni_cuda_launch_dge(void *stream, float *dw, const ni_scaled *w, const nb_qtensor *codes, float k, float cap) {
    const nb_quantizer *q = &codes->quantizer;
    const int64_t n = codes->rows * codes->cols;
    const dge_curve curve = {1.0f / k - 1.0f, 1.0f / k, cap};
    const bool columns = ni_has_column_scales(q);
    const unsigned grid = (unsigned)ni_divide_up(n / 4, NI_THREADS);
    cudaStream_t on = (cudaStream_t)stream;
    if (n == 0)
        return cudaSuccess;
    if ((columns || ni_has_row_scales(q)) && codes->cols % 4 == 0 && n <= INT32_MAX && ni_aligned(dw) &&
        ni_has_fours(*w) && ni_aligned(codes->outer_scales))
        (columns ? dge_of_vectors<true> : dge_of_vectors<false>)<<<grid, NI_THREADS, 0, on>>>(
            (float4 *)dw, *w, codes->outer_scales, (uint32_t)(codes->cols / 4), (uint32_t)(n / 4), curve);
    else
        dge<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(dw, *w, *codes, curve);
    return cudaGetLastError();
}

static __device__ float ni_residual(const ni_sparse &s, int64_t at) {
    return s.exact ? s.exact[at] : ni_bf16_value(s.value[at]);
}

/* c[r, :] += sum of v b[column, :], entries in order; a block a row and 256 columns of c. */
static __global__ void sparse_product(nb_mat c, ni_sparse s, nb_mat b) {
    const int64_t r = blockIdx.x, n = blockIdx.y * (int64_t)NI_THREADS + threadIdx.x;
    if (n >= c.cols)
        return;
    float *to = (float *)c.data + r * c.stride + n, sum = *to;
    for (int32_t i = 0; i < s.count[r]; i++)
        sum = ni_f32_add(
            sum, ni_f32_mul(ni_residual(s, r * s.room + i),
                            ni_bf16_value(((const uint16_t *)b.data)[s.column[r * s.room + i] * b.stride + n])));
    *to = sum;
}

int ni_cuda_launch_sparse_product(void *stream, const nb_mat *c, const ni_sparse *s, const nb_mat *b) {
    if (c->rows * c->cols > 0)
        sparse_product<<<dim3((unsigned)c->rows, (unsigned)ni_divide_up(c->cols, NI_THREADS)), NI_THREADS, 0,
                         (cudaStream_t)stream>>>(*c, *s, *b);
    return cudaGetLastError();
}

/* A warp a row. */
static __global__ void sparse_add(nb_mat x, ni_sparse s) {
    const int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32;
    for (int32_t i = threadIdx.x % 32; r < x.rows && i < s.count[r]; i += 32) {
        uint16_t *to = (uint16_t *)x.data + r * x.stride + s.column[r * s.room + i];
        *to = ni_bf16_even(ni_f32_add(ni_bf16_value(*to), ni_residual(s, r * s.room + i)));
    }
}

int ni_cuda_launch_sparse_add(void *stream, const nb_mat *x, const ni_sparse *s) {
    if (x->rows > 0)
        sparse_add<<<(unsigned)ni_divide_up(x->rows, NI_WARPS), NI_THREADS, 0, (cudaStream_t)stream>>>(*x, *s);
    return cudaGetLastError();
}

/* ---- delayed scales ---- */

static __global__ void amax_of(uint32_t *amax, nb_mat x) {
    uint32_t largest = 0;
    for (NI_EACH(i, x.rows * x.cols))
        largest = max(largest,
                      ni_f32_magnitude(ni_bf16_value(((const uint16_t *)x.data)[i / x.cols * x.stride + i % x.cols])));
    __syncwarp();
    ni_join_amax(amax, largest);
}

static __global__ void round_under(nb_mat out, nb_mat x, nb_dtype type, const uint32_t *amax, const float *past) {
    const float encode = ni_under_scale(type, ni_limit_of(past, *amax)), decode = ni_vector_decode(encode);
    for (NI_EACH(i, x.rows * x.cols)) {
        const int64_t r = i / x.cols, c = i % x.cols;
        const float v = ni_f32_mul(ni_bf16_value(((const uint16_t *)x.data)[r * x.stride + c]), encode);
        ((uint16_t *)out.data)[r * out.stride + c] = ni_bf16_even(ni_f32_mul(ni_under(v, type), decode));
    }
}

int ni_cuda_launch_round_under(void *stream, const nb_mat *out, const nb_mat *x, nb_dtype type, uint32_t *amax,
                               const float *past) {
    cudaStream_t on = (cudaStream_t)stream;
    const unsigned grid = ni_grid(ni_divide_up(x->rows * x->cols, NI_THREADS));
    const int status = cudaMemsetAsync(amax, 0, sizeof *amax, on);
    if (status != cudaSuccess || x->rows * x->cols == 0)
        return status;
    amax_of<<<grid, NI_THREADS, 0, on>>>(amax, *x);
    round_under<<<grid, NI_THREADS, 0, on>>>(*out, *x, type, amax, past);
    return cudaGetLastError();
}

/* ---- chosen columns ---- */

template <typename T>
static __global__ void gather(T *out, int64_t out_stride, const T *in, int64_t in_stride, const int32_t *columns,
                              int64_t rows, int64_t cols) {
    for (NI_EACH(i, rows * cols))
        out[i / cols * out_stride + i % cols] = in[i / cols * in_stride + columns[i % cols]];
}

int ni_cuda_launch_gather(void *stream, const nb_mat *out, const nb_mat *in, const int32_t *columns) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = out->rows * out->cols;
    const unsigned grid = ni_grid(ni_divide_up(n, NI_THREADS));
    if (n > 0 && in->dtype == NB_BF16)
        gather<<<grid, NI_THREADS, 0, on>>>((uint16_t *)out->data, out->stride, (const uint16_t *)in->data, in->stride,
                                            columns, out->rows, out->cols);
    else if (n > 0)
        gather<<<grid, NI_THREADS, 0, on>>>((float *)out->data, out->stride, (const float *)in->data, in->stride,
                                            columns, out->rows, out->cols);
    return cudaGetLastError();
}

/* A thread a column of a group. */
static __global__ void rotate_rows(nb_mat x, int size, nb_signs kind, nb_noise noise) {
    const ni_noise_key key = ni_noise_at(&noise);
    const ni_sign_mask signs = ni_signs_of(kind, &key);
    for (NI_EACH(i, x.rows / size * x.cols)) {
        float *column = (float *)x.data + i / x.cols * size * x.stride + i % x.cols, group[NI_HADAMARD_MAX];
        for (int r = 0; r < size; r++)
            group[r] = column[r * x.stride];
        ni_hadamard(group, size, signs);
        for (int r = 0; r < size; r++)
            column[r * x.stride] = group[r];
    }
}

int ni_cuda_launch_rotate_rows(void *stream, const nb_mat *x, int32_t size, nb_signs signs, const nb_noise *noise) {
    const int64_t columns = x->rows / size * x->cols;
    if (columns > 0)
        rotate_rows<<<ni_grid(ni_divide_up(columns, 64)), 64, 0, (cudaStream_t)stream>>>(*x, size, signs, *noise);
    return cudaGetLastError();
}

static __device__ float number_at(const nb_mat &m, int64_t at) {
    return m.dtype == NB_BF16 ? ni_bf16_value(((const uint16_t *)m.data)[at]) : ((const float *)m.data)[at];
}

/* A thread a span of a row. */
template <int SPAN> static __global__ void quest_backward(nb_mat g, nb_mat x, int size, nb_signs kind, bool mask) {
    const ni_noise_key none = {};
    const ni_sign_mask signs = ni_signs_of(kind, &none);
    for (NI_EACH(i, g.rows * (g.cols / SPAN))) {
        const int64_t r = i / (g.cols / SPAN), c = i % (g.cols / SPAN) * SPAN;
        float gradients[SPAN], numbers[SPAN];
        for (int k = 0; k < SPAN; k++) {
            gradients[k] = number_at(g, r * g.stride + c + k);
            numbers[k] = mask ? number_at(x, r * x.stride + c + k) : 0.0f;
        }
        ni_quest_back(gradients, numbers, size, signs, mask);
        for (int k = 0; k < SPAN; k++)
            if (g.dtype == NB_BF16)
                ((uint16_t *)g.data)[r * g.stride + c + k] = ni_bf16_even(gradients[k]);
            else
                ((float *)g.data)[r * g.stride + c + k] = gradients[k];
    }
}

int ni_cuda_launch_quest_backward(void *stream, const nb_mat *g, const nb_mat *x, const nb_quantizer *q) {
    const int size = q->hadamard_size, span = ni_quest_span(size);
    const int64_t spans = g->rows * (g->cols / span);
    const unsigned grid = ni_grid(ni_divide_up(spans, 64));
    const nb_mat source = x ? *x : *g;
    cudaStream_t on = (cudaStream_t)stream;
    if (spans > 0 && span == 32)
        quest_backward<32><<<grid, 64, 0, on>>>(*g, source, size, q->hadamard_signs, x != NULL);
    else if (spans > 0 && span == 64)
        quest_backward<64><<<grid, 64, 0, on>>>(*g, source, size, q->hadamard_signs, x != NULL);
    else if (spans > 0)
        quest_backward<128><<<grid, 64, 0, on>>>(*g, source, size, q->hadamard_signs, x != NULL);
    return cudaGetLastError();
}

static __global__ void scatter_bf16(nb_mat out, nb_mat in, const int32_t *columns) {
    for (NI_EACH(i, in.rows * in.cols))
        ((uint16_t *)out.data)[i / in.cols * out.stride + columns[i % in.cols]] =
            ((const uint16_t *)in.data)[i / in.cols * in.stride + i % in.cols];
}

static __global__ void scatter_f32(nb_mat out, nb_mat in, const int32_t *columns, bool accumulate) {
    for (NI_EACH(i, in.rows * in.cols)) {
        float *to = (float *)out.data + i / in.cols * out.stride + columns[i % in.cols];
        float x = ((const float *)in.data)[i / in.cols * in.stride + i % in.cols];
        *to = ni_f32_add(accumulate ? *to : 0.0f, x); /* -0 becomes 0, as everywhere */
    }
}

int ni_cuda_launch_scatter(void *stream, const nb_mat *out, const nb_mat *in, const int32_t *columns, bool accumulate) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = in->rows * in->cols;
    const unsigned grid = ni_grid(ni_divide_up(n, NI_THREADS));
    if (n > 0 && in->dtype == NB_BF16)
        scatter_bf16<<<grid, NI_THREADS, 0, on>>>(*out, *in, columns);
    else if (n > 0)
        scatter_f32<<<grid, NI_THREADS, 0, on>>>(*out, *in, columns, accumulate);
    return cudaGetLastError();
}

/* ---- weights against their codes ---- */

static __global__ void add_distance(float *distance, const float *a, const float *b, int64_t n) {
    for (NI_EACH(i, n))
        distance[i] = ni_f32_add(distance[i], fabsf(ni_f32_sub(a[i], b[i])));
}

int ni_cuda_launch_add_distance(void *stream, float *distance, const float *a, const float *b, int64_t n) {
    if (n > 0)
        add_distance<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(distance, a, b, n);
    return cudaGetLastError();
}

static __global__ void reset_where(unsigned long long *count, float *w, const float *q, const float *moved_w,
                                   const float *moved_q, const uint8_t *flips, int32_t least_flips, int64_t n,
                                   double threshold) {
    unsigned resets = 0;
    for (NI_EACH(i, n))
        if (moved_w[i] > 0 && (double)moved_q[i] >= threshold * (double)moved_w[i] &&
            (!flips || flips[i] >= least_flips)) {
            w[i] = q[i];
            resets++;
        }
    __syncwarp();
    resets = __reduce_add_sync(~0u, resets);
    if (threadIdx.x % 32 == 0 && resets)
        atomicAdd(count, (unsigned long long)resets);
}

int ni_cuda_launch_reset_where(void *stream, int64_t *resets, float *w, const float *q, const float *moved_w,
                               const float *moved_q, const uint8_t *flips, int32_t least_flips, int64_t n,
                               double threshold) {
    if (n > 0)
        reset_where<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            (unsigned long long *)resets, w, q, moved_w, moved_q, flips, least_flips, n, threshold);
    return cudaGetLastError();
}

static __global__ void bin_widths(float *out, nb_qtensor codes) {
    const float width[8] = {0.5f,  0.5f, 0.5f, 0.5f,
                            0.75f, 1,    1.5f, 2}; /* the authors' table: 6 counts its lower gap twice */
    for (NI_EACH(i, codes.rows * codes.cols)) {
        int64_t r = i / codes.cols, c = i % codes.cols;
        out[i] = ni_f32_mul(width[ni_code_of(codes, r, c) & 7], ni_scale_of(codes, r, c, true));
    }
}

int ni_cuda_launch_bin_widths(void *stream, float *out, const nb_qtensor *codes) {
    if (codes->rows * codes->cols > 0)
        bin_widths<<<ni_grid(ni_divide_up(codes->rows * codes->cols, NI_THREADS)), NI_THREADS, 0,
                     (cudaStream_t)stream>>>(out, *codes);
    return cudaGetLastError();
}

static __device__ int guided(float x, float guide) {
    float a = fabsf(x), along = x < 0 ? -guide : guide;
    int below = 0;
    while (below < 7 && a >= ni_e2m1_value((uint8_t)(below + 1)))
        below++;
    if (below < 7 &&
        along >= ni_f32_mul(0.5f, ni_f32_add(ni_e2m1_value((uint8_t)below), ni_e2m1_value((uint8_t)(below + 1)))))
        below++;
    return x < 0 ? 8 | below : below;
}

/* A thread takes the two elements of a byte. */
static __global__ void round_by(nb_qtensor codes, const float *w, const float *guide) {
    const int64_t half = (codes.cols + 1) / 2;
    for (NI_EACH(i, codes.rows * half)) {
        uint8_t byte = codes.codes[i];
        for (int64_t c = i % half * 2; c < codes.cols && c < i % half * 2 + 2; c++) {
            int64_t e = i / half * codes.cols + c;
            float scale = ni_scale_of(codes, i / half, c, true);
            if (!(scale > 0))
                continue; /* a block of zeros */
            int code = guided(ni_f32_div(w[e], scale), ni_f32_div(guide[e], scale));
            byte = (uint8_t)(c % 2 ? (byte & 15) | code << 4 : (byte & 240) | code);
        }
        codes.codes[i] = byte;
    }
}

int ni_cuda_launch_round_by(void *stream, const nb_qtensor *codes, const float *w, const float *guide) {
    if (codes->rows * codes->cols > 0)
        round_by<<<ni_grid(ni_divide_up(codes->rows * ((codes->cols + 1) / 2), NI_THREADS)), NI_THREADS, 0,
                   (cudaStream_t)stream>>>(*codes, w, guide);
    return cudaGetLastError();
}
