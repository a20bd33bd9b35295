/* decode.cu: from codes back to numbers; codes turned; what a quantization did. */
#include "backend/cuda/quantize.h"

#include "backend/cuda/element.cuh"

#include <cuda_runtime.h>

enum { THREADS = 256, CHUNK_ROWS = 16 };

static unsigned grid_of(int64_t pieces) {
    const int64_t most = 132 * 64;
    return (unsigned)(pieces < 1 ? 1 : pieces < most ? pieces : most);
}

/* ---- numbers ---- */

static __global__ void decode(nb_mat out, nb_qtensor t, bool transpose, const int32_t *columns, bool outer) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < t.rows * t.cols;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t r = transpose ? i % t.rows : i / t.cols, c = transpose ? i / t.rows : i % t.cols;
        int64_t to_r = transpose ? c : r, to_c = transpose ? r : columns ? columns[c] : c;
        float x = ni_decoded(t, r, c, outer);
        if (out.dtype == NB_BF16)
            ((uint16_t *)out.data)[to_r * out.stride + to_c] = ni_bf16_even(x);
        else
            ((float *)out.data)[to_r * out.stride + to_c] = columns ? ni_f32_add(0.0f, x) : x; /* as scatter_columns */
    }
}

int ni_cuda_launch_decode(void *stream, const nb_mat *out, const nb_qtensor *from, bool transpose,
                          const int32_t *columns, bool outer) {
    if (from->rows * from->cols > 0)
        decode<<<grid_of((from->rows * from->cols + THREADS - 1) / THREADS), THREADS, 0, (cudaStream_t)stream>>>(
            *out, *from, transpose, columns, outer);
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

/* ---- statistics: a block a chunk of 16 rows; sums of threads are added in a tree over their index ---- */

static __device__ float saturation_limit(float largest, float scale) {
    scale = ni_f32_abs(scale);
    return scale > 0.0f ? ni_f32_mul(ni_f32_mul(largest, scale), 1.0f + 0x1p-20f) : ni_f32_from(NI_F32_INF_BITS);
}

static __device__ void add_element(nb_quantize_stats *s, uint32_t *amax, const nb_qtensor &t, float x, int64_t r,
                                   int64_t c) {
    float back = ni_decoded(t, r, c, true);
    double error = (double)x - (double)back;
    uint32_t magnitude = ni_f32_magnitude(x);
    *amax = max(*amax, magnitude);
    s->nonzero += magnitude != 0;
    s->flushed += magnitude != 0 && ni_f32_magnitude(back) == 0;
    s->saturated += ni_f32_abs(x) > saturation_limit(ni_element_max(t.quantizer.element), ni_scale_of(t, r, c, true));
    s->sum_sq += (double)x * (double)x;
    s->sum_sq_error += error * error;
    s->sum_product += (double)x * (double)back;
}

/* Blocks with something in them whose scale byte is 0; a tile of 16x16 counts once. */
static __device__ int64_t zero_scales(const nb_qtensor &t, const float *x, int64_t r0, int64_t rows) {
    int64_t count = 0, tile = t.quantizer.block_rows;
    if (t.quantizer.scale_type != NB_SCALE_E4M3)
        return 0;
    for (int64_t b = threadIdx.x; b < (rows + tile - 1) / tile * (t.cols / 16); b += blockDim.x) {
        int64_t r = r0 + b / (t.cols / 16) * tile, c = b % (t.cols / 16) * 16;
        uint32_t any = 0;
        if (t.scales[r * (t.cols / 16) + c / 16])
            continue;
        for (int64_t i = r; i < r + tile && i < r0 + rows; i++)
            for (int64_t k = c; k < c + 16; k++)
                any |= ni_f32_magnitude(x[i * t.cols + k]);
        count += any != 0;
    }
    return count;
}

static __device__ void join(nb_quantize_stats *a, const nb_quantize_stats &b) {
    a->nonzero += b.nonzero;
    a->flushed += b.flushed;
    a->saturated += b.saturated;
    a->zero_scales += b.zero_scales;
    a->sum_sq += b.sum_sq;
    a->sum_sq_error += b.sum_sq_error;
    a->sum_product += b.sum_product;
}

static __global__ void stats_of_chunk(nb_quantize_stats *chunks, nb_qtensor t, const float *x) {
    __shared__ nb_quantize_stats part[THREADS];
    __shared__ uint32_t largest[THREADS];
    const int64_t r0 = (int64_t)blockIdx.x * CHUNK_ROWS, rows = t.rows - r0 < CHUNK_ROWS ? t.rows - r0 : CHUNK_ROWS;
    nb_quantize_stats mine = {};
    uint32_t amax = 0;
    for (int64_t i = threadIdx.x; i < rows * t.cols; i += blockDim.x)
        add_element(&mine, &amax, t, x[r0 * t.cols + i], r0 + i / t.cols, i % t.cols);
    mine.zero_scales = zero_scales(t, x, r0, rows);
    part[threadIdx.x] = mine;
    largest[threadIdx.x] = amax;
    for (unsigned stride = THREADS / 2; stride; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride) {
            join(&part[threadIdx.x], part[threadIdx.x + stride]);
            largest[threadIdx.x] = max(largest[threadIdx.x], largest[threadIdx.x + stride]);
        }
    }
    if (threadIdx.x == 0) {
        part[0].amax = (double)ni_f32_from(largest[0]);
        chunks[blockIdx.x] = part[0];
    }
}

int ni_cuda_quantize_stats(void *stream, nb_quantize_stats *chunks, const nb_qtensor *t, const float *x) {
    if (t->rows > 0)
        stats_of_chunk<<<(unsigned)((t->rows + CHUNK_ROWS - 1) / CHUNK_ROWS), THREADS, 0, (cudaStream_t)stream>>>(
            chunks, *t, x);
    return cudaGetLastError();
}
