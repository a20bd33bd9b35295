/* quantize_stats.cu: what a quantization did: counts are exact, sums are in double and over an order that the shape alone
 * decides. Threads' sums are added in a tree over their index, and so are blocks' by one block more: what the host
 * fetches is one nb_quantize_stats.
 *
 *     any codes     against what was quantized, in FP32: a block a band of 16 rows
 *     tiles         codes that quantize_tile.cu made, against its BF16 source: a thread a scale block, which turns its
 *                   numbers once more where they were turned
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/tile.cuh"

enum { THREADS = 256, CHUNK_ROWS = 16, MOST_BLOCKS = NI_CUDA_STATS_PARTS };

/* ---- one number ---- */

static __device__ float saturation_limit(float largest, float scale) {
    scale = ni_f32_abs(scale);
    return scale > 0.0f ? ni_f32_mul(ni_f32_mul(largest, scale), 1.0f + 0x1p-20f) : ni_f32_from(NI_F32_INF_BITS);
}

/* Of a thread; 32 bits hold its share. */
typedef struct counted {
    uint32_t amax, nonzero, flushed, saturated, zero_scales;
    double sum_sq, sum_sq_error, sum_product;
} counted;

static __device__ void count(counted *s, float x, float back, float limit) {
    const uint32_t magnitude = ni_f32_magnitude(x);
    const double wide = x, decoded = back, error = wide - decoded;
    s->amax = max(s->amax, magnitude);
    s->nonzero += magnitude != 0;
    s->flushed += magnitude != 0 && ni_f32_magnitude(back) == 0;
    s->saturated += ni_f32_abs(x) > limit;
    s->sum_sq += wide * wide;
    s->sum_sq_error += error * error;
    s->sum_product += wide * decoded;
}

/* ---- sums of threads, and of blocks ---- */

static __device__ void join(nb_quantize_stats *a, const nb_quantize_stats &b) {
    a->nonzero += b.nonzero;
    a->flushed += b.flushed;
    a->saturated += b.saturated;
    a->zero_scales += b.zero_scales;
    a->sum_sq += b.sum_sq;
    a->sum_sq_error += b.sum_sq_error;
    a->sum_product += b.sum_product;
}

/* Of all threads, to *out. */
static __device__ void leave_total(nb_quantize_stats *out, const nb_quantize_stats &mine, uint32_t amax) {
    __shared__ nb_quantize_stats part[THREADS];
    __shared__ uint32_t largest[THREADS];
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
        *out = part[0];
    }
}

static __device__ void leave_total(nb_quantize_stats *out, const counted &c) {
    nb_quantize_stats mine = {};
    mine.nonzero = c.nonzero;
    mine.flushed = c.flushed;
    mine.saturated = c.saturated;
    mine.zero_scales = c.zero_scales;
    mine.sum_sq = c.sum_sq;
    mine.sum_sq_error = c.sum_sq_error;
    mine.sum_product = c.sum_product;
    leave_total(out, mine, c.amax);
}

static __global__ void total_of_parts(nb_quantize_stats *total, const nb_quantize_stats *parts, int64_t count) {
    nb_quantize_stats mine = {};
    uint32_t amax = 0;
    for (int64_t i = threadIdx.x; i < count; i += THREADS) {
        join(&mine, parts[i]);
        amax = max(amax, ni_f32_magnitude((float)parts[i].amax)); /* a NaN is the largest */
    }
    leave_total(total, mine, amax);
}

/* ---- any codes ---- */

/* Blocks with something in them whose scale byte is 0; a tile of 16x16 counts once. */
static __device__ uint32_t zero_scales(const nb_qtensor &t, const float *x, int64_t r0, int64_t rows) {
    uint32_t found = 0;
    const int64_t tile = t.quantizer.block_rows;
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
        found += any != 0;
    }
    return found;
}

static __global__ void stats_of_chunk(nb_quantize_stats *chunks, nb_qtensor t, const float *x) {
    const int64_t r0 = (int64_t)blockIdx.x * CHUNK_ROWS, rows = t.rows - r0 < CHUNK_ROWS ? t.rows - r0 : CHUNK_ROWS;
    const float largest = ni_element_max(t.quantizer.element);
    counted mine = {};
    for (int64_t i = threadIdx.x; i < rows * t.cols; i += blockDim.x) {
        const int64_t r = r0 + i / t.cols, c = i % t.cols;
        count(&mine, x[r0 * t.cols + i], ni_decoded(t, r, c, true),
              saturation_limit(largest, ni_scale_of(t, r, c, true)));
    }
    mine.zero_scales = zero_scales(t, x, r0, rows);
    leave_total(&chunks[blockIdx.x], mine);
}

int ni_cuda_quantize_stats(void *stream, nb_quantize_stats *total, nb_quantize_stats *chunks, const nb_qtensor *t,
                           const float *x) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t bands = (t->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (bands > 0)
        stats_of_chunk<<<(unsigned)bands, THREADS, 0, on>>>(chunks, *t, x);
    total_of_parts<<<1, THREADS, 0, on>>>(total, chunks, bands);
    return cudaGetLastError();
}

/* ---- tiles ---- */

/* Value * 2^-126 has the code in its top bits. */
static __device__ float value_of(uint32_t code) {
    return ni_f32_mul(__uint_as_float((code & 7u) << 22 | (code & 8u) << 28), 0x1p126f);
}

static __device__ void count_block(counted *s, const float x[16], uint2 codes, uint8_t byte, float of_tensor) {
    const float scale = ni_f32_mul(ni_e4m3_value(byte), of_tensor), limit = saturation_limit(6.0f, scale);
    uint32_t any = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t code = (i < 8 ? codes.x : codes.y) >> 4 * (i % 8) & 15u;
        any |= ni_f32_magnitude(x[i]);
        count(s, x[i], ni_f32_mul(value_of(code), scale), limit);
    }
    s->zero_scales += byte == 0 && any != 0;
}

static __device__ float scale_of_tensor(const nb_qtensor &t) {
    return t.tensor_scale ? *t.tensor_scale : 1.0f;
}

/* Blocks along the rows of the source: 16 neighbours a thread. */
static __global__ void __launch_bounds__(THREADS)
    count_rows(nb_quantize_stats *parts, ni_cuda_tile_source s, nb_qtensor t) {
    const int64_t across = s.cols / 16, step = (int64_t)gridDim.x * THREADS;
    const float of_tensor = scale_of_tensor(t);
    counted mine = {};
    for (int64_t block = blockIdx.x * (int64_t)THREADS + threadIdx.x; block < s.rows * across; block += step) {
        const uint4 *from = (const uint4 *)(s.numbers + block / across * s.stride + block % across * 16);
        const uint4 in[2] = {from[0], from[1]};
        const uint32_t pairs[8] = {in[0].x, in[0].y, in[0].z, in[0].w, in[1].x, in[1].y, in[1].z, in[1].w};
        float x[16];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[2 * i] = ni_low_of(pairs[i]);
            x[2 * i + 1] = ni_high_of(pairs[i]);
        }
        count_block(&mine, x, ((const uint2 *)t.codes)[block], t.scales[block], of_tensor);
    }
    leave_total(&parts[blockIdx.x], mine);
}

/* As rotate of quantize.cu: signs, stages, factor, rounding. */
static __device__ void turn(float x[16], const nb_quantizer &q, uint32_t signs) {
    if (q.hadamard_size == 0)
        return;
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = signs >> i & 1u ? -x[i] : x[i];
    ni_rotate_sixteen(x);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        x[i] = ni_f32_mul(x[i], 0.25f);
        x[i] = q.hadamard_round_bf16 ? ni_bf16_round(x[i]) : x[i];
    }
}

/* Blocks down its columns: 16 numbers of two columns a thread. */
static __global__ void __launch_bounds__(THREADS)
    count_columns(nb_quantize_stats *parts, ni_cuda_tile_source s, nb_qtensor t, ni_cuda_noise noise) {
    const int64_t across = s.cols / 2, down = s.rows / 16, step = (int64_t)gridDim.x * THREADS;
    const float of_tensor = scale_of_tensor(t);
    const ni_noise_key key = ni_tile_noise(noise);
    const uint32_t signs = t.quantizer.hadamard_size ? ni_signs_of(t.quantizer.hadamard_signs, &key).w[0] : 0;
    counted mine = {};
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < down * across; i += step) {
        const int64_t band = i / across, c = i % across * 2;
        uint32_t pairs[16];
        float x[16];
#pragma unroll
        for (int r = 0; r < 16; r++)
            pairs[r] = *(const uint32_t *)(s.numbers + (16 * band + r) * s.stride + c);
#pragma unroll
        for (int second = 0; second < 2; second++) {
            const int64_t block = (c + second) * down + band;
#pragma unroll
            for (int r = 0; r < 16; r++)
                x[r] = second ? ni_high_of(pairs[r]) : ni_low_of(pairs[r]);
            turn(x, t.quantizer, signs);
            count_block(&mine, x, ((const uint2 *)t.codes)[block], t.scales[block], of_tensor);
        }
    }
    leave_total(&parts[blockIdx.x], mine);
}

int ni_cuda_tile_stats(void *stream, nb_quantize_stats *total, nb_quantize_stats *parts, const ni_cuda_tile_source *s,
                       const nb_qtensor *t, bool down, const ni_cuda_noise *noise) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t work = s->rows * s->cols / (down ? 32 : 16), wanted = (work + THREADS - 1) / THREADS;
    const unsigned blocks = (unsigned)(wanted < MOST_BLOCKS ? wanted : MOST_BLOCKS);
    if (down)
        count_columns<<<blocks, THREADS, 0, on>>>(parts, *s, *t, *noise);
    else
        count_rows<<<blocks, THREADS, 0, on>>>(parts, *s, *t);
    total_of_parts<<<1, THREADS, 0, on>>>(total, parts, blocks);
    return cudaGetLastError();
}
