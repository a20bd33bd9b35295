/* elementwise.cu: operations on one element at a time. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/list.cuh"

/* ---- casts and sums ---- */

static __device__ float load(const void *from, nb_dtype type, int64_t i) {
    return type == NB_BF16 ? ni_bf16_value(((const uint16_t *)from)[i]) : ((const float *)from)[i];
}

static __device__ void store(void *to, nb_dtype type, int64_t i, float x) {
    if (type == NB_BF16)
        ((uint16_t *)to)[i] = ni_bf16_even(x);
    else
        ((float *)to)[i] = x;
}

static __global__ void cast(void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n) {
    for (NI_EACH(i, n))
        store(to, to_type, i, load(from, from_type, i));
}

static __global__ void to_bf16(uint16_t *to, const float *from, int64_t eights) {
    for (NI_EACH(i, eights)) {
        float4 a = ((const float4 *)from)[2 * i], b = ((const float4 *)from)[2 * i + 1];
        ni_eight e = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
        ni_store_eight(to + 8 * i, e);
    }
}

static __global__ void from_bf16(float *to, const uint16_t *from, int64_t eights) {
    for (NI_EACH(i, eights)) {
        const ni_eight e = ni_load_eight(from + 8 * i);
        ((float4 *)to)[2 * i] = make_float4(e.x[0], e.x[1], e.x[2], e.x[3]);
        ((float4 *)to)[2 * i + 1] = make_float4(e.x[4], e.x[5], e.x[6], e.x[7]);
    }
}

int ni_cuda_launch_cast(void *stream, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n) {
    cudaStream_t on = (cudaStream_t)stream;
    if (n == 0)
        return cudaSuccess;
    if (to_type == NB_BF16 && from_type == NB_F32 && n % 8 == 0 && ni_aligned(to) && ni_aligned(from))
        to_bf16<<<ni_grid(ni_divide_up(n / 8, NI_THREADS)), NI_THREADS, 0, on>>>((uint16_t *)to, (const float *)from,
                                                                                 n / 8);
    else if (to_type == NB_F32 && from_type == NB_BF16 && n % 8 == 0 && ni_aligned(to) && ni_aligned(from))
        from_bf16<<<ni_grid(ni_divide_up(n / 8, NI_THREADS)), NI_THREADS, 0, on>>>((float *)to, (const uint16_t *)from,
                                                                                   n / 8);
    else
        cast<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(to, to_type, from, from_type, n);
    return cudaGetLastError();
}

enum { MOST_CASTS = 64, CAST_EIGHTS = 4 * NI_THREADS /* of a block */ };

typedef struct listed_cast {
    ni_cuda_casting what;
    uint32_t first_block;
} listed_cast;

typedef struct cast_list {
    listed_cast at[MOST_CASTS];
    int count;
} cast_list;

static __global__ void __launch_bounds__(NI_THREADS) to_bf16_many(const __grid_constant__ cast_list list) {
    const listed_cast &c = list.at[ni_listed(list, &listed_cast::first_block)];
    const int64_t first = (int64_t)(blockIdx.x - c.first_block) * CAST_EIGHTS + threadIdx.x, eights = c.what.n / 8;
#pragma unroll
    for (int64_t i = first; i < first + CAST_EIGHTS; i += NI_THREADS)
        if (i < eights) {
            const float4 *from = (const float4 *)c.what.from + 2 * i;
            const float4 a = from[0], b = from[1];
            const ni_eight e = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
            ni_store_eight(c.what.to + 8 * i, e);
        }
}

int ni_cuda_launch_casts(void *stream, const ni_cuda_casting *casts, int count) {
    for (int begin = 0; begin < count; begin += MOST_CASTS) {
        cast_list list;
        uint32_t blocks = 0;
        list.count = count - begin < MOST_CASTS ? count - begin : MOST_CASTS;
        for (int i = 0; i < list.count; i++) {
            list.at[i] = {casts[begin + i], blocks};
            blocks += (uint32_t)ni_divide_up(casts[begin + i].n, 8 * CAST_EIGHTS);
        }
        if (blocks)
            to_bf16_many<<<blocks, NI_THREADS, 0, (cudaStream_t)stream>>>(list);
    }
    return cudaGetLastError();
}

static __global__ void add(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t n) {
    for (NI_EACH(i, n))
        out[i] = ni_bf16_even(ni_bf16_value(a[i]) + ni_bf16_value(b[i]));
}

static __global__ void add_eights(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t eights) {
    for (NI_EACH(i, eights)) {
        ni_eight x = ni_load_eight(a + 8 * i), y = ni_load_eight(b + 8 * i);
#pragma unroll
        for (int j = 0; j < 8; j++)
            x.x[j] += y.x[j];
        ni_store_eight(out + 8 * i, x);
    }
}

int ni_cuda_launch_add(void *stream, uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t n) {
    cudaStream_t on = (cudaStream_t)stream;
    if (n == 0)
        return cudaSuccess;
    if (n % 8 == 0 && ni_aligned(out) && ni_aligned(a) && ni_aligned(b))
        add_eights<<<ni_grid(ni_divide_up(n / 8, NI_THREADS)), NI_THREADS, 0, on>>>(out, a, b, n / 8);
    else
        add<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(out, a, b, n);
    return cudaGetLastError();
}

static __global__ void axpy(float *y, float alpha, const float *x, int64_t n) {
    for (NI_EACH(i, n))
        y[i] = ni_f32_add(y[i], ni_f32_mul(alpha, x[i]));
}

int ni_cuda_launch_axpy(void *stream, float *y, float alpha, const float *x, int64_t n) {
    if (n > 0)
        axpy<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(y, alpha, x, n);
    return cudaGetLastError();
}

static __device__ float outer_at(const ni_cuda_outer &o, int64_t i) {
    return o.at ? o.at[i * o.step] : 1.0f;
}

static __global__ void scaled_result(nb_mat out, nb_mat in, ni_cuda_outer rows, ni_cuda_outer cols, bool accumulate) {
    for (NI_EACH(i, out.rows * out.cols)) {
        int64_t r = i / out.cols, c = i % out.cols, at = r * out.stride + c;
        float x =
            ni_f32_mul(load(in.data, in.dtype, r * in.stride + c), ni_f32_mul(outer_at(rows, r), outer_at(cols, c)));
        store(out.data, out.dtype, at, accumulate ? ni_f32_add(load(out.data, out.dtype, at), x) : x);
    }
}

int ni_cuda_launch_scaled_result(void *stream, const nb_mat *out, const nb_mat *in, ni_cuda_outer rows,
                                 ni_cuda_outer cols, bool accumulate) {
    if (out->rows * out->cols > 0)
        scaled_result<<<ni_grid(ni_divide_up(out->rows * out->cols, NI_THREADS)), NI_THREADS, 0,
                        (cudaStream_t)stream>>>(*out, *in, rows, cols, accumulate);
    return cudaGetLastError();
}

static __global__ void scale(nb_mat out, nb_mat in, const float *rows, const float *cols) {
    for (NI_EACH(i, out.rows * out.cols)) {
        int64_t r = i / out.cols, c = i % out.cols;
        float x = ni_f32_mul(load(in.data, in.dtype, r * in.stride + c), rows ? rows[r] : 1.0f);
        store(out.data, out.dtype, r * out.stride + c, ni_f32_mul(x, cols ? cols[c] : 1.0f));
    }
}

int ni_cuda_launch_scale(void *stream, const nb_mat *out, const nb_mat *in, const float *rows, const float *cols) {
    if (out->rows * out->cols > 0)
        scale<<<ni_grid(ni_divide_up(out->rows * out->cols, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            *out, *in, rows, cols);
    return cudaGetLastError();
}

static __global__ void multiply_words(float *out, const float *a, const float *b) {
    *out = ni_f32_mul(a ? *a : 1.0f, b ? *b : 1.0f);
}

int ni_cuda_launch_multiply_words(void *stream, float *out, const float *a, const float *b) {
    multiply_words<<<1, 1, 0, (cudaStream_t)stream>>>(out, a, b);
    return cudaGetLastError();
}

/* ---- the maximum of a matrix that has been written ---- */

static __global__ void amax_of(uint32_t *amax, const uint16_t *x, int64_t rows, int64_t cols, int64_t stride) {
    uint32_t largest = 0;
    for (NI_EACH(i, rows * cols))
        largest = max(largest, ni_f32_magnitude(ni_bf16_value(x[i / cols * stride + i % cols])));
    __syncwarp();
    ni_join_amax(amax, largest);
}

static __global__ void amax_of_eights(uint32_t *amax, const uint16_t *x, int64_t rows, int64_t eights, int64_t stride) {
    uint32_t pairs = 0;
    for (NI_EACH(i, rows * eights)) {
        const uint4 w = *(const uint4 *)(x + i / eights * stride + i % eights * 8);
        pairs = __vmaxu2(__vmaxu2(__vmaxu2(__vmaxu2(pairs, w.x & 0x7fff7fffu), w.y & 0x7fff7fffu), w.z & 0x7fff7fffu),
                         w.w & 0x7fff7fffu);
    }
    __syncwarp();
    ni_join_amax(amax, max(pairs & 0xffffu, pairs >> 16) << 16);
}

int ni_cuda_launch_amax(void *stream, uint32_t *amax, const void *x, int64_t rows, int64_t cols, int64_t stride) {
    cudaStream_t on = (cudaStream_t)stream;
    const bool dense = stride == cols;
    cudaMemsetAsync(amax, 0, sizeof *amax, on);
    if (rows * cols > 0 && cols % 8 == 0 && stride % 8 == 0 && ni_aligned(x))
        amax_of_eights<<<ni_grid(ni_divide_up(rows * cols / 8, 4 * NI_THREADS)), NI_THREADS, 0, on>>>(
            amax, (const uint16_t *)x, dense ? 1 : rows, dense ? rows * cols / 8 : cols / 8, stride);
    else if (rows * cols > 0)
        amax_of<<<ni_grid(ni_divide_up(rows * cols, NI_THREADS)), NI_THREADS, 0, on>>>(amax, (const uint16_t *)x, rows,
                                                                                       cols, stride);
    return cudaGetLastError();
}

/* ---- bounds of documents, where only one of them is given ---- */

static __global__ void document_bounds(int32_t *start, int32_t *end, const int32_t *doc_start, int64_t tokens,
                                       int64_t seq) {
    for (NI_EACH(i, tokens)) {
        const int64_t first = i / seq * seq, at = i % seq;
        int64_t last = at + 1;
        while (last < seq && (!doc_start || doc_start[first + last] <= at))
            last = doc_start ? last + 1 : seq;
        start[i] = doc_start ? doc_start[i] : 0;
        end[i] = (int32_t)last;
    }
}

int ni_cuda_launch_document_bounds(void *stream, int32_t *start, int32_t *end, const int32_t *doc_start, int64_t tokens,
                                   int64_t seq) {
    if (tokens > 0)
        document_bounds<<<ni_grid(ni_divide_up(tokens, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            start, end, doc_start, tokens, seq);
    return cudaGetLastError();
}
