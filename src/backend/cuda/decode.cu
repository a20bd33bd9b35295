/* decode.cu: from codes back to numbers; codes turned. */
#include "backend/cuda/quantize.h"

#include "backend/cuda/eights.cuh"
#include "backend/cuda/follow.cuh"

#include <cuda_runtime.h>

enum { THREADS = 256 };

static unsigned grid_of(int64_t pieces) {
    const int64_t most = 132 * 64;
    return (unsigned)(pieces < 1 ? 1 : pieces < most ? pieces : most);
}

/* ---- numbers ---- */

/* The first `cols` columns. */
static __global__ void decode(nb_mat out, nb_qtensor t, int64_t cols, bool transpose, const int32_t *columns,
                              bool outer) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < t.rows * cols;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t r = transpose ? i % t.rows : i / cols, c = transpose ? i / t.rows : i % cols;
        int64_t to_r = transpose ? c : r, to_c = transpose ? r : columns ? columns[c] : c;
        float x = ni_decoded(t, r, c, outer);
        if (out.dtype == NB_BF16)
            ((uint16_t *)out.data)[to_r * out.stride + to_c] = ni_bf16_even(x);
        else
            ((float *)out.data)[to_r * out.stride + to_c] = columns ? ni_f32_add(0.0f, x) : x; /* as scatter_columns */
    }
}

static __device__ uint32_t rounded_pair(float low, float high) {
    return ni_bf16_even(low) | (uint32_t)ni_bf16_even(high) << 16;
}

/* E2M1 under E4M3 bytes as it lies: 16 bytes of numbers a thread. */
template <bool BF16> static __global__ void decode_blocks(nb_mat out, nb_qtensor t, bool outer) {
    enum { EACH = BF16 ? 8 : 4 };
    const float of_tensor = outer && t.tensor_scale ? *t.tensor_scale : 1.0f;
    const uint32_t across = (uint32_t)t.cols / EACH, count = (uint32_t)t.rows * across;
    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        const float scale = ni_f32_mul(ni_e4m3_value(t.scales[i / (16 / EACH)]), of_tensor);
        const uint32_t codes = BF16 ? ((const uint32_t *)t.codes)[i] : ((const uint16_t *)t.codes)[i];
        const int64_t at = (int64_t)(i / across) * out.stride + i % across * EACH;
        float x[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++)
            x[k] = ni_f32_mul(ni_e2m1_of(codes >> 4 * k), scale);
        if constexpr (BF16)
            *(uint4 *)((uint16_t *)out.data + at) = make_uint4(rounded_pair(x[0], x[1]), rounded_pair(x[2], x[3]),
                                                               rounded_pair(x[4], x[5]), rounded_pair(x[6], x[7]));
        else
            *(float4 *)((float *)out.data + at) = make_float4(x[0], x[1], x[2], x[3]);
    }
}

/* ---- columns of FP32 numbers ---- */

/* Where eight neighbours go; below 0: nowhere, the list has ended. */
static __device__ void list_eight(int *to, const ni_columns &columns, int64_t c) {
    if (c + 8 <= columns.count) {
        ni_list_four(to, columns.at + c);
        ni_list_four(to + 4, columns.at + c + 4);
        return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        to[k] = c + k < columns.count ? __ldg(columns.at + c + k) : -1;
}

/* Rows of a part, eight codes a thread, to where its columns are in rows of the whole. */
static __device__ void spread(float *tile, int cols, const nb_qtensor &t, const ni_columns &columns, int64_t r0,
                              int rows) {
    const bool bytes = t.quantizer.element == NB_ELEMENT_E4M3;
    const uint32_t across = (uint32_t)(columns.count + 7) / 8, units = (uint32_t)rows * across;
    for (uint32_t i = threadIdx.x; i < units; i += THREADS) {
        const uint32_t r = i / across;
        const int64_t c = (i - r * across) * 8;
        const ni_eight x = bytes ? ni_decode_bytes(t, r0 + r, c) : ni_decode_eight(t, r0 + r, c);
        int to[8];
        list_eight(to, columns, c);
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (to[k] >= 0)
                tile[r * cols + to[k]] = ni_f32_add(0.0f, x.x[k]); /* as scatter_columns */
    }
}

/* Some rows in shared memory, which are written as they lie; `others`: columns that no part has stay. */
static __global__ void __launch_bounds__(THREADS)
    decode_columns(const __grid_constant__ ni_cuda_column_codes d, int each, bool others) {
    extern __shared__ float4 tile[];
    const int64_t r0 = blockIdx.x * (int64_t)each, stride = d.out.stride / 4;
    const int cols = (int)d.out.cols, rows = (int)min((int64_t)each, d.out.rows - r0);
    const uint32_t across = (uint32_t)cols / 4, units = (uint32_t)rows * across;
    float4 *const out = (float4 *)d.out.data + r0 * stride;
    ni_wait_for_it();
    ni_let_follow();
    for (uint32_t i = threadIdx.x; others && i < units; i += THREADS)
        tile[i] = out[i / across * stride + i % across];
    __syncthreads();
    for (int part = 0; part < d.count; part++)
        spread((float *)tile, cols, d.parts[part], d.columns[part], r0, rows);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < units; i += THREADS)
        out[i / across * stride + i % across] = tile[i];
}

enum { TILE_ROOM = 16 * 1024, MOST_TILE_ROOM = 48 * 1024, BLOCKS_EACH = 4 };

static bool are_eights(const nb_qtensor *from, const int32_t *columns) {
    const nb_quantizer *q = &from->quantizer;
    return from->cols % 8 == 0 && ni_aligned(from->codes) && ni_aligned(columns) &&
           (q->element == NB_ELEMENT_E2M1 || q->element == NB_ELEMENT_E4M3) &&
           (q->scale_type == NB_SCALE_E4M3 || q->scale_type == NB_SCALE_E8M0);
}

bool ni_cuda_can_decode_columns(const ni_cuda_column_codes *d) {
    const nb_mat *const out = &d->out;
    bool can = out->dtype == NB_F32 && out->cols % 4 == 0 && out->stride % 4 == 0 && ni_aligned(out->data) &&
               out->cols * (int64_t)sizeof(float) <= MOST_TILE_ROOM;
    for (int i = 0; i < d->count; i++)
        can = can && are_eights(&d->parts[i], d->columns[i].at);
    return can;
}

int ni_cuda_launch_decode_columns(void *stream, const ni_cuda_column_codes *d, int multiprocessors) {
    const int64_t bytes = d->out.cols * (int64_t)sizeof(float),
                  busy = ni_divide_up(d->out.rows, (int64_t)multiprocessors * BLOCKS_EACH);
    int64_t each = bytes < TILE_ROOM ? TILE_ROOM / bytes : 1, width = 0;
    each = each < busy ? each : busy;
    for (int i = 0; i < d->count; i++)
        width += d->columns[i].count;
    return d->out.rows * bytes > 0
               ? ni_launch_following((cudaStream_t)stream, decode_columns, (unsigned)ni_divide_up(d->out.rows, each),
                                     THREADS, (size_t)(each * bytes), *d, (int)each, width < d->out.cols)
               : cudaGetLastError();
}

/* ---- launches ---- */

static bool are_blocks(const nb_mat *out, const nb_qtensor *from) {
    const nb_quantizer *q = &from->quantizer;
    return q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3 && !from->outer_scales &&
           from->cols % 16 == 0 && from->rows * (from->cols / 4) <= INT32_MAX && ni_aligned(out->data) &&
           ni_aligned(from->codes) && out->stride % (out->dtype == NB_BF16 ? 8 : 4) == 0;
}

int ni_cuda_launch_decode(void *stream, const nb_mat *out, const nb_qtensor *from, bool transpose,
                          const ni_columns *columns, bool outer) {
    const int64_t cols = columns ? columns->count : from->cols;
    if (!transpose && !columns && are_blocks(out, from)) {
        const int64_t each = out->dtype == NB_BF16 ? 8 : 4,
                      pieces = ni_divide_up(from->rows * from->cols / each, THREADS);
        if (out->dtype == NB_BF16)
            decode_blocks<true><<<grid_of(pieces), THREADS, 0, (cudaStream_t)stream>>>(*out, *from, outer);
        else
            decode_blocks<false><<<grid_of(pieces), THREADS, 0, (cudaStream_t)stream>>>(*out, *from, outer);
        return cudaGetLastError();
    }
    if (from->rows * cols > 0)
        decode<<<grid_of((from->rows * cols + THREADS - 1) / THREADS), THREADS, 0, (cudaStream_t)stream>>>(
            *out, *from, cols, transpose, columns ? columns->at : NULL, outer);
    return cudaGetLastError();
}

/* ---- turned codes ---- */

static __global__ void turn(nb_qtensor out, nb_qtensor t) {
    const bool small = ni_element_is_4bit(t.quantizer.element);
    const int64_t step = small ? 2 : 1, across = (out.cols + step - 1) / step,
                  first = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    for (int64_t i = first; i < out.rows * across; i += (int64_t)gridDim.x * blockDim.x) {
        int64_t r = i / across, c = i % across * step;
        uint8_t code = ni_code_of(t, c, r);
        if (small && c + 1 < out.cols)
            code |= (uint8_t)(ni_code_of(t, c + 1, r) << 4);
        out.codes[r * across + i % across] = code;
    }
    for (int64_t i = first; t.scales && i < out.rows * (out.cols / 16); i += (int64_t)gridDim.x * blockDim.x) {
        int64_t r = i / (out.cols / 16), c = i % (out.cols / 16);
        out.scales[i] = t.scales[16 * c * (t.cols / 16) + r / 16];
    }
    const int64_t scales = t.quantizer.block_rows == 1 ? t.rows : t.cols;
    for (int64_t i = first; t.outer_scales && out.outer_scales && i < scales; i += (int64_t)gridDim.x * blockDim.x)
        out.outer_scales[i] = t.outer_scales[i];
    if (first == 0 && t.tensor_scale && out.tensor_scale)
        *out.tensor_scale = *t.tensor_scale;
}

int ni_cuda_launch_turn(void *stream, const nb_qtensor *out, const nb_qtensor *from) {
    turn<<<grid_of((out->rows * out->cols / 2 + THREADS - 1) / THREADS), THREADS, 0, (cudaStream_t)stream>>>(*out,
                                                                                                             *from);
    return cudaGetLastError();
}
