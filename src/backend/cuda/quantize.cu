/* quantize.cu: the quantizers for every format, rounding, rotation and block: bits equal to src/backend/ref/quantize.c.
 *
 * A source becomes FP32 in the operand's orientation once, which costs 8 bytes an element: this is the path that is
 * right for everything. A thread encodes 16 neighbours on the contraction.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantize.h"

#include "backend/cuda/element.cuh"
#include "backend/cuda/grid.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/tile_error.cuh"
#include "format/hadamard.h"
#include "format/noise.h"
#include "format/quartet.h"
#include "format/scale.h"

#include <cuda_runtime.h>

enum { THREADS = 256, SPAN = 16 };

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* ---- load ---- */

static __device__ float source_at(const ni_cuda_source &s, int64_t r, int64_t c) {
    if (c >= s.cols - s.zeros)
        return 0.0f;
    int64_t from = s.columns ? s.columns[c] : c;
    float x;
    if (!s.numbers.data)
        x = ni_decoded(s.codes, r, from, true);
    else {
        int64_t at = s.across ? from * s.numbers.stride + r : r * s.numbers.stride + from;
        x = s.numbers.dtype == NB_BF16 ? ni_bf16_value(((const uint16_t *)s.numbers.data)[at])
                                       : ((const float *)s.numbers.data)[at];
    }
    if (s.minus.codes)
        x = ni_f32_sub(x, ni_decoded(s.minus, r, from, true));
    if (s.row_scales)
        x = ni_f32_mul(x, s.row_scales[r]);
    if (s.column_scales)
        x = ni_f32_mul(x, s.column_scales[c]);
    return x;
}

static __global__ void load_rows(float *x, ni_cuda_source s) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < s.rows * s.cols;
         i += (int64_t)gridDim.x * blockDim.x)
        x[i] = source_at(s, i / s.cols, i % s.cols);
}

/* Tiles of 32x32 through shared memory, so that reads and writes both run along rows. */
static __global__ void load_columns(float *x, ni_cuda_source s) {
    __shared__ float tile[32][33];
    const int64_t across = (s.cols + 31) / 32, tiles = across * ((s.rows + 31) / 32);
    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
        int64_t r0 = t / across * 32, c0 = t % across * 32;
        for (int i = threadIdx.y; i < 32; i += 8)
            if (r0 + i < s.rows && c0 + threadIdx.x < s.cols)
                tile[i][threadIdx.x] = source_at(s, r0 + i, c0 + threadIdx.x);
        __syncthreads();
        for (int i = threadIdx.y; i < 32; i += 8)
            if (c0 + i < s.cols && r0 + threadIdx.x < s.rows)
                x[(c0 + i) * s.rows + r0 + threadIdx.x] = tile[threadIdx.x][i];
        __syncthreads();
    }
}

static unsigned grid_of(int64_t pieces) {
    const int64_t most = 132 * 64;
    return (unsigned)(pieces < 1 ? 1 : pieces < most ? pieces : most);
}

/* Numbers as they lie. */
static bool is_dense(const ni_cuda_source *s) {
    return s->numbers.data && s->numbers.dtype == NB_BF16 && s->numbers.stride == s->cols &&
           s->numbers.cols == s->cols && !s->across && !s->minus.codes && !s->columns && !s->row_scales &&
           !s->column_scales;
}

int ni_cuda_load_source(void *stream, float *x, const ni_cuda_source *s, bool transpose) {
    cudaStream_t on = (cudaStream_t)stream;
    if (s->rows * s->cols == 0)
        return cudaSuccess;
    if (!transpose && is_dense(s))
        return ni_cuda_launch_cast(stream, x, NB_F32, s->numbers.data, s->numbers.dtype, s->rows * s->cols);
    if (transpose)
        load_columns<<<grid_of(divide_up(s->rows, 32) * divide_up(s->cols, 32)), dim3(32, 8), 0, on>>>(x, *s);
    else
        load_rows<<<grid_of(divide_up(s->rows * s->cols, THREADS)), THREADS, 0, on>>>(x, *s);
    return cudaGetLastError();
}

/* ---- rotate ---- */

static __device__ ni_noise_key noise_of(const ni_cuda_noise &n) {
    ni_noise_key noise = {};
    noise.seed = n.seed;
    noise.tensor = n.tensor;
    noise.signs = n.signs;
    if (n.clock) {
        noise.step = n.clock[0];
        noise.micro_batch = n.clock[1];
    }
    return noise;
}

/* A block takes 128 neighbours, one a thread; the stages are those of format/hadamard.h in the same order. */
static __global__ void rotate(float *x, int64_t groups, int n, nb_signs kind, bool round, ni_cuda_noise key) {
    __shared__ float y[NI_HADAMARD_MAX];
    ni_noise_key noise = noise_of(key);
    const ni_sign_mask signs = ni_signs_of(kind, &noise);
    const int i = (int)threadIdx.x, at = i % n;
    for (int64_t g = blockIdx.x; g * NI_HADAMARD_MAX < groups * n; g += gridDim.x) {
        int64_t e = g * NI_HADAMARD_MAX + i;
        bool live = e < groups * n;
        float v = live ? x[e] : 0.0f;
        if (signs.w[at / 32] >> (at % 32) & 1u)
            v = -v;
        for (int half = 1; half < n; half *= 2) {
            y[i] = v;
            __syncthreads();
            float other = y[i ^ half];
            v = at & half ? ni_f32_sub(other, v) : ni_f32_add(v, other);
            __syncthreads();
        }
        v = ni_f32_mul(v, ni_hadamard_factor(n));
        if (live)
            x[e] = round ? ni_bf16_round(v) : v;
    }
}

int ni_cuda_rotate(void *stream, float *x, int64_t rows, int64_t cols, const nb_quantizer *q,
                   const ni_cuda_noise *noise) {
    int n = q->hadamard_size;
    if (n == 0 || rows * cols == 0)
        return cudaSuccess;
    rotate<<<grid_of(divide_up(rows * cols, NI_HADAMARD_MAX)), NI_HADAMARD_MAX, 0, (cudaStream_t)stream>>>(
        x, rows * cols / n, n, q->hadamard_signs, q->hadamard_round_bf16, *noise);
    return cudaGetLastError();
}

/* ---- maxima: integers, so the order does not matter ---- */

static __global__ void tensor_amax(uint32_t *amax, const float *x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        largest = max(largest, ni_f32_magnitude(x[i]));
    for (int lane = 16; lane; lane /= 2)
        largest = max(largest, __shfl_xor_sync(~0u, largest, lane));
    if (threadIdx.x % 32 == 0)
        atomicMax(amax, largest);
}

int ni_cuda_amax(void *stream, uint32_t *amax, const float *x, int64_t n) {
    if (n > 0)
        tensor_amax<<<grid_of(divide_up(n, THREADS * 4)), THREADS, 0, (cudaStream_t)stream>>>(amax, x, n);
    return cudaGetLastError();
}

/* A warp a row. */
static __global__ void row_amax(uint32_t *amax, const float *x, int64_t rows, int64_t cols) {
    int64_t r = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    uint32_t largest = 0;
    if (r >= rows)
        return;
    for (int64_t c = threadIdx.x % 32; c < cols; c += 32)
        largest = max(largest, ni_f32_magnitude(x[r * cols + c]));
    for (int lane = 16; lane; lane /= 2)
        largest = max(largest, __shfl_xor_sync(~0u, largest, lane));
    if (threadIdx.x % 32 == 0)
        amax[r] = largest;
}

/* A thread a column of 256 rows. */
static __global__ void column_amax(uint32_t *amax, const float *x, int64_t rows, int64_t cols) {
    int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, r0 = (int64_t)blockIdx.y * 256;
    uint32_t largest = 0;
    if (c >= cols)
        return;
    for (int64_t r = r0; r < rows && r < r0 + 256; r++)
        largest = max(largest, ni_f32_magnitude(x[r * cols + c]));
    atomicMax(&amax[c], largest);
}

/* ---- encode ---- */

/* At most 16 neighbours of row r from column c on (of x), under one multiplier. */
static __device__ void encode_span(const ni_cuda_encoding &e, int64_t r, int64_t c, int count, float multiplier,
                                   uint8_t codes[SPAN]) {
    const nb_quantizer &q = e.quantizer;
    const bool random = q.round == NB_ROUND_STOCHASTIC;
    float u[NI_NOISE_GROUP];
    ni_noise_key noise = noise_of(e.noise);
    for (int i = 0; i < count; i++) {
        int64_t n = r * e.cols + c + i;
        if (random && (i == 0 || n % NI_NOISE_GROUP == 0))
            ni_noise_group(&noise, (uint32_t)(n / NI_NOISE_GROUP), q.sr_bits, u);
        codes[i] = ni_element_encode(q.element, q.round, ni_f32_mul(e.x[n], multiplier),
                                     random ? u[n % NI_NOISE_GROUP] : 0.0f);
    }
}

static __device__ void store_span(const ni_cuda_encoding &e, int64_t r, int64_t c, int count, const uint8_t codes[SPAN],
                                  float inner) {
    const nb_qtensor &out = e.out;
    const int64_t at = e.at + c;
    const bool small = ni_element_is_4bit(e.quantizer.element);
    for (int i = 0; i < count && out.codes; i++)
        if (!small)
            out.codes[r * out.cols + at + i] = codes[i];
        else if (i % 2 == 0)
            out.codes[r * ((out.cols + 1) / 2) + (at + i) / 2] =
                (uint8_t)(codes[i] | (i + 1 < count ? codes[i + 1] << 4 : 0));
    for (int i = 0; i < count && e.values; i++)
        e.values[r * e.value_stride + at + i] =
            ni_bf16_even(ni_f32_mul(ni_element_value(e.quantizer.element, codes[i]), inner));
}

/* A whole block of 16 E2M1 codes at once, where all of it is finite and lies aligned; false: nothing is done. */
template <int ROUND>
static __device__ bool encode_sixteen(const ni_cuda_encoding &e, int64_t r, int64_t c, uint32_t amax, float multiplier,
                                      float inner, bool zeros) {
    const ni_noise_key noise = noise_of(e.noise);
    const int64_t n = r * e.cols + c, at = e.at + c;
    const float4 *from = (const float4 *)(e.x + n);
    ni_philox_words bits[2] = {};
    float x[16], q[16];
    if (amax >= NI_F32_INF_BITS || !(inner <= 3.0e38f))
        return false;
    if (ROUND)
        bits[0] =
            ni_philox(noise.seed, noise.tensor, (uint32_t)(n / 16), noise.step, noise.micro_batch, NI_PURPOSE_ROUNDING);
    if (ROUND == 16)
        bits[1] = ni_philox(noise.seed, noise.tensor, (uint32_t)(n / 16), noise.step, noise.micro_batch,
                            NI_PURPOSE_ROUNDING_HI);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 v = from[i];
        x[4 * i] = v.x;
        x[4 * i + 1] = v.y;
        x[4 * i + 2] = v.z;
        x[4 * i + 3] = v.w;
    }
    const float factor = zeros ? 0.0f : multiplier;
    const uint32_t keep = zeros ? 0 : 0x80000000u;
    ni_encode_eight<ROUND>(x, factor, keep, bits[0].w, q);
    ni_encode_eight<ROUND>(x + 8, factor, keep, ROUND == 16 ? bits[1].w : bits[0].w + 2, q + 8);
    if (e.out.codes) {
        uint2 codes = make_uint2(0, 0);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            codes.x |= ni_grid_code(q[i]) << (4 * i);
            codes.y |= ni_grid_code(q[i + 8]) << (4 * i);
        }
        *(uint2 *)(e.out.codes + r * (e.out.cols / 2) + at / 2) = codes;
    }
    if (e.values)
#pragma unroll
        for (int half = 0; half < 16; half += 8) {
            ni_eight out;
#pragma unroll
            for (int i = 0; i < 8; i++)
                out.x[i] = ni_f32_mul(q[half + i], inner);
            ni_store_eight(e.values + r * e.value_stride + at + half, out);
        }
    return true;
}

static __device__ bool try_sixteen(const ni_cuda_encoding &e, int64_t r, int64_t c, uint32_t amax, float multiplier,
                                   float inner, bool zeros) {
    const nb_quantizer &q = e.quantizer;
    if (q.element != NB_ELEMENT_E2M1 || q.round == NB_ROUND_UP || (e.out.cols | e.cols | e.at | e.value_stride) % 16)
        return false;
    if (q.round == NB_ROUND_EVEN)
        return encode_sixteen<0>(e, r, c, amax, multiplier, inner, zeros);
    return q.sr_bits == 8 ? encode_sixteen<8>(e, r, c, amax, multiplier, inner, zeros)
                          : encode_sixteen<16>(e, r, c, amax, multiplier, inner, zeros);
}

static __device__ uint32_t span_amax(const ni_cuda_encoding &e, int64_t r, int64_t c, int count) {
    uint32_t largest = 0;
    for (int i = 0; i < count; i++)
        largest = max(largest, ni_f32_magnitude(e.x[r * e.cols + c + i]));
    return largest;
}

static __device__ void zero_codes(uint8_t codes[SPAN]) {
    for (int i = 0; i < SPAN; i++)
        codes[i] = 0;
}

/* What a block errs under one of its two scales (format/four_six.h); a row that is not there errs nothing. */
static __device__ float block_error(const ni_cuda_encoding &e, int64_t r, int64_t c, uint8_t byte, float sdec,
                                    float amax, float max_of_both) {
    const nb_quantizer &q = e.quantizer;
    const float encode = ni_block_encode(byte, sdec);
    float terms[16];
    for (int i = 0; i < 16; i++)
        terms[i] = r < e.rows ? ni_four_six_term(&q, e.x[r * e.cols + c + i], byte, encode, amax, max_of_both) : 0.0f;
    return q.block_rows == 16 ? ni_tile_error(q, terms, (int)threadIdx.x % 32 / 16 * 16) : ni_four_six_row(&q, terms);
}

static __device__ uint8_t four_or_six(const ni_cuda_encoding &e, int64_t r, int64_t c, const ni_tensor_scale &t,
                                      float amax_block, float amax) {
    const ni_e4m3_target target = ni_e4m3_target_for(&e.quantizer);
    const ni_two_scales s = ni_four_six_bytes(target, t, amax_block);
    const float six = block_error(e, r, c, s.six, t.sdec, amax, target.max_of_both);
    const float four = block_error(e, r, c, s.four, t.sdec, amax, target.max_of_both);
    return four < six ? s.four : s.six;
}

/* NVFP4 under a tensor scale or none. 16 threads take 16 rows of one block column: a 16x16 tile's maximum is theirs. */
static __global__ void encode_nvfp4(ni_cuda_encoding e) {
    const nb_quantizer &q = e.quantizer;
    const int64_t blocks = e.cols / 16, tiles = (e.rows + 15) / 16 * blocks;
    const float of_tensor = e.amax ? ni_f32_from(*e.amax) : 0.0f;
    const ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_for(&q), q.outer, of_tensor);
    const int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, tile = thread / 16;
    const bool inside = tile < tiles;
    const int64_t r = inside ? tile / blocks * 16 + thread % 16 : e.rows, c = inside ? tile % blocks * 16 : 0;
    uint8_t codes[SPAN];
    if (thread == 0 && e.out.tensor_scale)
        *e.out.tensor_scale = t.sdec;
    uint32_t amax = r < e.rows ? span_amax(e, r, c, 16) : 0;
    if (q.block_rows == 16)
        for (int lane = 8; lane; lane /= 2)
            amax = max(amax, __shfl_xor_sync(~0u, amax, lane));
    uint8_t byte = ni_block_scale_byte(t, ni_f32_from(amax));
    if (q.four_six) /* before any thread leaves: tiles are summed together */
        byte = four_or_six(e, r, c, t, ni_f32_from(amax), of_tensor);
    if (r >= e.rows)
        return;
    if (e.out.scales)
        e.out.scales[r * (e.out.cols / 16) + (e.at + c) / 16] = byte;
    if (try_sixteen(e, r, c, byte < NI_E4M3_NAN ? amax : NI_F32_INF_BITS, ni_block_encode(byte, t.sdec),
                    ni_e4m3_value(byte), byte == 0))
        return;
    zero_codes(codes);
    if (byte)
        encode_span(e, r, c, 16, ni_block_encode(byte, t.sdec), codes);
    store_span(e, r, c, 16, codes, ni_e4m3_value(byte));
}

/* Sums over the neighbouring threads whose blocks make a rotated group, in the order of ni_tree_sum. */
static __device__ ni_eden_sums sums_of_group(ni_eden_sums s, int threads) {
    for (int lane = threads / 2; lane; lane /= 2) {
        s.squares = ni_f32_add(s.squares, __shfl_xor_sync(~0u, s.squares, lane));
        s.products = ni_f32_add(s.products, __shfl_xor_sync(~0u, s.products, lane));
    }
    return s;
}

static __device__ ni_eden_sums sums_of_block(const ni_cuda_encoding &e, int64_t r, int64_t c, float encode) {
    float squares[16], products[16];
    for (int i = 0; i < 16; i++) {
        const float y = ni_f32_mul(e.x[r * e.cols + c + i], encode);
        squares[i] = ni_f32_mul(y, y);
        products[i] = ni_f32_mul(y, ni_e2m1_value(ni_e2m1_even(y)));
    }
    ni_eden_sums s = {ni_tree_sum(squares, 16), ni_tree_sum(products, 16)};
    return s;
}

/* MS-EDEN: a thread a block. */
static __global__ void encode_eden(ni_cuda_encoding e) {
    const nb_quantizer &q = e.quantizer;
    const int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, blocks = e.cols / 16;
    const bool inside = thread < e.rows * blocks;
    const int64_t r = inside ? thread / blocks : 0, c = inside ? thread % blocks * 16 : 0, block = r * blocks + c / 16;
    const ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_of(q.rule), q.outer, ni_f32_from(*e.amax));
    const ni_noise_key noise = noise_of(e.noise);
    uint8_t codes[SPAN];
    float u[NI_NOISE_GROUP];
    if (thread == 0)
        *e.out.tensor_scale = t.sdec;
    const uint8_t first = ni_eden_first_byte(ni_block_scale_byte(t, ni_f32_from(span_amax(e, r, c, 16))));
    const float encode = ni_block_encode(first, t.sdec);
    const float factor = ni_eden_factor(sums_of_group(sums_of_block(e, r, c, encode), q.hadamard_size / 16));
    if (!inside)
        return;
    ni_noise_group(&noise, (uint32_t)(block / NI_NOISE_GROUP), q.sr_bits, u);
    const uint8_t byte = ni_eden_byte(first, factor, u[block % NI_NOISE_GROUP]);
    if (e.out.scales)
        e.out.scales[block] = byte;
    zero_codes(codes);
    if (byte)
        encode_span(e, r, c, 16, encode, codes);
    store_span(e, r, c, 16, codes, ni_e4m3_value(byte));
}

/* The double block: 8 threads take the 8 blocks of one 1x128. */
static __global__ void encode_outer128(ni_cuda_encoding e) {
    const nb_quantizer &q = e.quantizer;
    const int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, blocks = e.cols / 16;
    const bool inside = thread < e.rows * blocks;
    const int64_t r = inside ? thread / blocks : 0, c = inside ? thread % blocks * 16 : 0;
    const ni_e4m3_target target = ni_e4m3_target_of(q.rule);
    uint8_t codes[SPAN];
    uint32_t amax = inside ? span_amax(e, r, c, 16) : 0, all = amax;
    for (int lane = 4; lane; lane /= 2)
        all = max(all, __shfl_xor_sync(~0u, all, lane));
    if (!inside)
        return;
    float outer = ni_outer128_scale(target, q.outer, ni_f32_from(all));
    if (c % 128 == 0)
        e.out.outer_scales[r * (e.out.cols / 128) + (e.at + c) / 128] = outer;
    uint8_t byte = ni_outer128_scale_byte(target, outer, ni_f32_from(amax));
    if (e.out.scales)
        e.out.scales[r * (e.out.cols / 16) + (e.at + c) / 16] = byte;
    if (try_sixteen(e, r, c, byte < NI_E4M3_NAN ? all : NI_F32_INF_BITS, ni_outer128_encode(byte, outer),
                    ni_f32_mul(ni_e4m3_value(byte), outer), byte == 0))
        return;
    zero_codes(codes);
    if (byte)
        encode_span(e, r, c, 16, ni_outer128_encode(byte, outer), codes);
    store_span(e, r, c, 16, codes, ni_f32_mul(ni_e4m3_value(byte), outer));
}

static __device__ uint8_t mx_byte(const ni_cuda_encoding &e, int64_t r, int64_t c, float amax) {
    const float max = ni_element_max(e.quantizer.element);
    float values[32], squares[32];
    if (e.quantizer.rule != NB_RULE_QUEST)
        return ni_e8m0_of(e.quantizer.rule, amax, max);
    for (int i = 0; i < 32; i++) {
        values[i] = e.x[r * e.cols + c + i];
        squares[i] = ni_f32_mul(values[i], values[i]);
    }
    const float sum = ni_tree_sum(values, 32);
    return ni_e8m0_quest(sum, ni_tree_sum(squares, 32));
}

static __global__ void encode_mx(ni_cuda_encoding e) {
    const int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, blocks = e.cols / 32;
    if (thread >= e.rows * blocks)
        return;
    const int64_t r = thread / blocks, c = thread % blocks * 32;
    const float amax = ni_f32_from(span_amax(e, r, c, 32));
    uint8_t byte = mx_byte(e, r, c, amax), codes[SPAN];
    const float multiplier = ni_e8m0_encode(e.quantizer.rule, byte);
    if (thread == 0 && e.out.tensor_scale)
        *e.out.tensor_scale = NI_FOUR_THIRDS;
    if (e.out.scales)
        e.out.scales[r * (e.out.cols / 32) + (e.at + c) / 32] = byte;
    const uint32_t magnitude = byte < NI_E8M0_NAN ? ni_f32_magnitude(amax) : NI_F32_INF_BITS;
    if (try_sixteen(e, r, c, magnitude, multiplier, ni_e8m0_value(byte), false) &&
        try_sixteen(e, r, c + SPAN, magnitude, multiplier, ni_e8m0_value(byte), false))
        return;
    for (int half = 0; half < 32; half += SPAN) {
        encode_span(e, r, c + half, SPAN, multiplier, codes);
        store_span(e, r, c + half, SPAN, codes, ni_e8m0_value(byte));
    }
}

/* HiFloat4: 16 threads take the 16 fours of a group, and all of them find its scales. */
static __global__ void encode_hif4(ni_cuda_encoding e) {
    const int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, fours = e.cols / NI_HIF4_FINE;
    const bool inside = thread < e.rows * fours;
    const int64_t r = inside ? thread / fours : 0, c = inside ? thread % fours * NI_HIF4_FINE : 0;
    const uint32_t mine = span_amax(e, r, c, NI_HIF4_FINE);
    const int first = (int)threadIdx.x % 32 / 16 * 16, i = (int)(c % NI_HIF4_GROUP);
    uint32_t amax[16];
    uint8_t scales[NI_HIF4_BYTES], codes[SPAN];
    for (int j = 0; j < 16; j++)
        amax[j] = __shfl_sync(~0u, mine, first + j);
    ni_hif4_scales(amax, scales);
    if (!inside)
        return;
    for (int b = 0; b < NI_HIF4_BYTES && i == 0 && e.out.scales; b++)
        e.out.scales[(r * e.out.cols + e.at + c) / NI_HIF4_GROUP * NI_HIF4_BYTES + b] = scales[b];
    encode_span(e, r, c, NI_HIF4_FINE, ni_hif4_encode(scales, i), codes);
    store_span(e, r, c, NI_HIF4_FINE, codes, ni_hif4_decode(scales, i));
}

/* One FP32 scale a row, a tensor, or none: 16 neighbours a thread. */
static __global__ void encode_rows(ni_cuda_encoding e) {
    const nb_quantizer &q = e.quantizer;
    const int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, spans = (e.cols + SPAN - 1) / SPAN;
    if (thread >= e.rows * spans)
        return;
    const int64_t r = thread / spans, c = thread % spans * SPAN;
    const int count = (int)(e.cols - c < SPAN ? e.cols - c : SPAN);
    uint8_t codes[SPAN];
    float multiplier = 1.0f;
    if (q.scale_type == NB_SCALE_F32) {
        bool row = q.block_rows == 1;
        multiplier = ni_vector_encode(q.rule, ni_element_max(q.element), ni_f32_from(e.amax[row ? r : 0]));
        if (c == 0 && row)
            e.out.outer_scales[r] = ni_vector_decode(multiplier);
        else if (thread == 0)
            *e.out.tensor_scale = ni_vector_decode(multiplier);
    }
    encode_span(e, r, c, count, multiplier, codes);
    store_span(e, r, c, count, codes, 1.0f);
}

/* One FP32 scale a column. A pair of columns shares a byte, so a thread takes 16 of them one by one. */
static __global__ void encode_columns(ni_cuda_encoding e) {
    const nb_quantizer &q = e.quantizer;
    const int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, spans = (e.cols + SPAN - 1) / SPAN;
    if (thread >= e.rows * spans)
        return;
    const int64_t r = thread / spans, c = thread % spans * SPAN;
    const int count = (int)(e.cols - c < SPAN ? e.cols - c : SPAN);
    for (int i = 0; i < count; i += 2) {
        uint8_t codes[SPAN];
        float decode[2] = {};
        int pair = count - i < 2 ? count - i : 2;
        for (int j = 0; j < pair; j++) {
            float multiplier = ni_vector_encode(q.rule, ni_element_max(q.element), ni_f32_from(e.amax[c + i + j]));
            decode[j] = ni_vector_decode(multiplier);
            encode_span(e, r, c + i + j, 1, multiplier, &codes[j]);
            if (r == 0)
                e.out.outer_scales[c + i + j] = decode[j];
            if (e.values)
                e.values[r * e.value_stride + c + i + j] =
                    ni_bf16_even(ni_f32_mul(ni_element_value(q.element, codes[j]), decode[j]));
        }
        ni_cuda_encoding only_codes = e;
        only_codes.values = NULL;
        store_span(only_codes, r, c + i, pair, codes, 1.0f);
    }
}

static int launch_vectors(cudaStream_t on, const ni_cuda_encoding *e) {
    const nb_quantizer *q = &e->quantizer;
    const unsigned grid = (unsigned)divide_up(e->rows * divide_up(e->cols, SPAN), THREADS);
    if (q->scale_type == NB_SCALE_F32 && q->block_rows == 1)
        row_amax<<<(unsigned)divide_up(e->rows, THREADS / 32), THREADS, 0, on>>>(e->amax, e->x, e->rows, e->cols);
    if (q->scale_type == NB_SCALE_F32 && q->block_rows != 1 && q->block_cols == 1) {
        column_amax<<<dim3((unsigned)divide_up(e->cols, THREADS), (unsigned)divide_up(e->rows, 256)), THREADS, 0, on>>>(
            e->amax, e->x, e->rows, e->cols);
        encode_columns<<<grid, THREADS, 0, on>>>(*e);
    } else {
        encode_rows<<<grid, THREADS, 0, on>>>(*e);
    }
    return cudaGetLastError();
}

int ni_cuda_encode(void *stream, const ni_cuda_encoding *e) {
    cudaStream_t on = (cudaStream_t)stream;
    if (e->rows * e->cols == 0)
        return cudaSuccess;
    switch (e->quantizer.scale_type) {
    case NB_SCALE_E4M3:
        if (e->quantizer.rule == NB_RULE_EDEN)
            encode_eden<<<(unsigned)divide_up(e->rows * (e->cols / 16), THREADS), THREADS, 0, on>>>(*e);
        else if (e->quantizer.outer == NB_OUTER_ROW128 || e->quantizer.outer == NB_OUTER_ROW128_POW2)
            encode_outer128<<<(unsigned)divide_up(e->rows * (e->cols / 16), THREADS), THREADS, 0, on>>>(*e);
        else
            encode_nvfp4<<<(unsigned)divide_up(divide_up(e->rows, 16) * (e->cols / 16) * 16, THREADS), THREADS, 0,
                           on>>>(*e);
        return cudaGetLastError();
    case NB_SCALE_E8M0:
        encode_mx<<<(unsigned)divide_up(e->rows * (e->cols / 32), THREADS), THREADS, 0, on>>>(*e);
        return cudaGetLastError();
    case NB_SCALE_HIF4:
        encode_hif4<<<(unsigned)divide_up(e->rows * (e->cols / NI_HIF4_FINE), THREADS), THREADS, 0, on>>>(*e);
        return cudaGetLastError();
    case NB_SCALE_F32:
    case NB_SCALE_NONE:
        break;
    }
    return launch_vectors(on, e);
}
