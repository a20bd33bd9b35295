/* quantize_double.cu: the double block (E4M3 scales of 16 under an FP32 scale of 128), from one reading of its source
 * straight into what a product reads:
 *
 *     rows         a thread takes the 16 neighbours of a block, eight lanes an outer block; FP32 or BF16 numbers
 *     columns      a thread takes 16 rows of two columns, eight warps an outer block of 128 rows; numbers, or what the
 *                  codes of another double block decode to. Values lie as the source lies, so nothing is transposed
 *
 * Either may be rotated by 16. Values are code x inner scale x outer scale, rounded once to BF16. Bits are those of
 * quantize.cu.
 */
#include "backend/cuda/sixteen.cuh"

enum { ROW_THREADS = 128, COLUMN_WARPS = 8, COLUMN_PAIRS = 32 };

/* ---- scales ---- */

/* What one block of 16 is encoded and decoded with. */
typedef struct double_scale {
    float encode, decode;
    uint8_t byte;
} double_scale;

static __device__ double_scale double_scale_of(const ni_e4m3_target &target, float outer, uint32_t amax) {
    const float s = ni_f32_div(ni_f32_div(ni_f32_from(amax), outer), target.max);
    double_scale scale;
    scale.byte = (uint8_t)ni_e4m3_bytes(s == 0.0f ? 0x1p-9f : s, 0.0f);
    scale.decode = ni_f32_mul(outer, ni_byte_value(scale.byte));
    scale.encode = scale.decode == 0.0f ? 0.0f : ni_f32_finite(__frcp_rn(scale.decode));
    return scale;
}

static __device__ uint32_t signs_of(const ni_cuda_tile_copy &copy, const ni_noise_key &key) {
    return ni_signs_of(copy.quantizer.hadamard_signs, &key).w[0];
}

/* ---- rows ---- */

template <typename T, int ROUND, bool TURN>
static __global__ void __launch_bounds__(ROW_THREADS)
    double_rows(const T *from, int64_t stride, int64_t rows, int64_t cols,
                const __grid_constant__ ni_cuda_tile_copy copy) {
    const uint32_t blocks = (uint32_t)(cols / 16);
    const int64_t unit = blockIdx.x * (int64_t)ROW_THREADS + threadIdx.x;
    if (unit >= rows * blocks) /* eight lanes go together */
        return;
    const uint32_t r = (uint32_t)unit / blocks, block = (uint32_t)unit - r * blocks;
    const ni_noise_key key = ni_tile_noise(copy.noise);
    const ni_e4m3_target target = ni_e4m3_target_of(copy.quantizer.rule);
    float x[16];
    ni_load_sixteen(x, from + r * stride + 16 * block);
    if (TURN)
        ni_turn_sixteen(x, signs_of(copy, key), copy.quantizer.hadamard_round_bf16);
    const uint32_t amax = ni_amax_of_sixteen(x), eight = 0xffu << (threadIdx.x & 24);
    uint32_t all = amax;
#pragma unroll
    for (int lane = 1; lane < 8; lane *= 2)
        all = max(all, __shfl_xor_sync(eight, all, lane));
    const float outer = ni_outer128_scale(target, copy.quantizer.outer, ni_f32_from(all));
    const double_scale scale = double_scale_of(target, outer, amax);
    uint32_t words[8], q[8], signs[8], out[8];
    ni_draw_sixteen<ROUND>(key, (uint32_t)unit, words);
    ni_grid_sixteen<ROUND>(x, scale.encode, words, q, signs);
#pragma unroll
    for (int i = 0; i < 8; i++)
        out[i] = ni_pack_two(ni_f32_mul(ni_low_of(q[i]), scale.decode), ni_f32_mul(ni_high_of(q[i]), scale.decode));
    uint4 *to = (uint4 *)(copy.values + r * copy.stride + copy.at + 16 * block);
    to[0] = make_uint4(out[0], out[1], out[2], out[3]);
    to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    if (!copy.codes)
        return;
    const int64_t at = r * copy.stride + copy.at + 16 * block;
    *(uint2 *)(copy.codes + at / 2) = scale.byte ? ni_codes_of_neighbours(q, signs) : make_uint2(0, 0);
    copy.scales[at / 16] = scale.byte;
    if (block % 8 == 0)
        copy.outer_scales[at / 128] = outer;
}

/* ---- columns ---- */

/* Codes of 128 rows and 64 columns, and what 16 of them in a row are multiplied by. */
typedef struct coded_tile {
    uint8_t codes[128][COLUMN_PAIRS];
    float scale[128][4];
} coded_tile;

static __device__ void load_coded(coded_tile *tile, const nb_qtensor &t, int64_t r0, int64_t c0) {
    const int row = threadIdx.x / 2, half = threadIdx.x % 2;
    const int64_t r = r0 + row, c = c0 + 32 * half;
    if (c < t.cols) {
        *(uint4 *)&tile->codes[row][16 * half] = *(const uint4 *)(t.codes + (r * t.cols + c) / 2);
        const float outer = t.outer_scales[(r * t.cols + c) / 128];
        const uint16_t bytes = *(const uint16_t *)(t.scales + (r * t.cols + c) / 16);
        tile->scale[row][2 * half] = ni_f32_mul(ni_byte_value(bytes & 0xffu), outer);
        tile->scale[row][2 * half + 1] = ni_f32_mul(ni_byte_value(bytes >> 8), outer);
    }
    __syncthreads();
}

/* 16 rows of columns c and c + 1. */
static __device__ void load_pairs(float *a, float *b, const uint16_t *from, int64_t stride) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t pair = *(const uint32_t *)(from + i * stride);
        a[i] = ni_low_of(pair);
        b[i] = ni_high_of(pair);
    }
}

static __device__ void load_pairs(float *a, float *b, const float *from, int64_t stride) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float2 pair = *(const float2 *)(from + i * stride);
        a[i] = pair.x;
        b[i] = pair.y;
    }
}

static __device__ void load_pairs(float *a, float *b, const coded_tile &tile) {
    const int row = threadIdx.x / 32 * 16, pair = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t codes = tile.codes[row + i][pair];
        const float scale = tile.scale[row + i][pair / 8];
        a[i] = ni_f32_mul(ni_e2m1_of(codes), scale);
        b[i] = ni_f32_mul(ni_e2m1_of(codes >> 4), scale);
    }
}

/* Codes of sixteen rows of one of two columns. */
static __device__ void store_column(const ni_cuda_tile_copy &copy, const uint32_t *pairs, int shift,
                                    const double_scale &scale, float outer, int64_t column, int64_t r) {
    uint2 codes = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        codes.x |= (pairs[i] >> shift & 15u) << (4 * i);
        codes.y |= (pairs[i + 8] >> shift & 15u) << (4 * i);
    }
    const int64_t at = column * copy.contraction + r;
    *(uint2 *)(copy.codes + at / 2) = scale.byte ? codes : make_uint2(0, 0);
    copy.scales[at / 16] = scale.byte;
    if (r % 128 == 0)
        copy.outer_scales[at / 128] = outer;
}

/* KIND: 0 BF16, 1 FP32, 2 codes. */
template <int KIND, int ROUND, bool TURN>
static __global__ void __launch_bounds__(32 * COLUMN_WARPS, 4)
    double_columns(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ uint32_t maxima[2][COLUMN_WARPS][COLUMN_PAIRS];
    __shared__ __align__(16) uint8_t room[KIND == 2 ? sizeof(coded_tile) : 16];
    coded_tile *const tile = (coded_tile *)room;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t r0 = ((int64_t)blockIdx.y + (int64_t)blockIdx.z * gridDim.y) * 128,
                  c0 = (int64_t)blockIdx.x * 2 * COLUMN_PAIRS;
    const int64_t r = r0 + 16 * warp, c = c0 + 2 * lane;
    const bool live = c < s.cols;
    const ni_noise_key key = ni_tile_noise(copy.noise);
    const ni_e4m3_target target = ni_e4m3_target_of(copy.quantizer.rule);
    float a[16], b[16];
    if (r0 >= s.rows)
        return;
    if (KIND == 2)
        load_coded(tile, s.codes, r0, c0);
    if (KIND == 2)
        load_pairs(a, b, *tile);
    else if (KIND == 1)
        load_pairs(a, b, (const float *)s.numbers + r * s.stride + (live ? c : 0), s.stride);
    else
        load_pairs(a, b, (const uint16_t *)s.numbers + r * s.stride + (live ? c : 0), s.stride);
    if (TURN) {
        const uint32_t signs = signs_of(copy, key);
        ni_turn_sixteen(a, signs, copy.quantizer.hadamard_round_bf16);
        ni_turn_sixteen(b, signs, copy.quantizer.hadamard_round_bf16);
    }
    const uint32_t amax_a = ni_amax_of_sixteen(a), amax_b = ni_amax_of_sixteen(b);
    maxima[0][warp][lane] = amax_a;
    maxima[1][warp][lane] = amax_b;
    __syncthreads();
    uint32_t all_a = 0, all_b = 0;
#pragma unroll
    for (int i = 0; i < COLUMN_WARPS; i++) {
        all_a = max(all_a, maxima[0][i][lane]);
        all_b = max(all_b, maxima[1][i][lane]);
    }
    if (!live)
        return;
    const float outer_a = ni_outer128_scale(target, copy.quantizer.outer, ni_f32_from(all_a)),
                outer_b = ni_outer128_scale(target, copy.quantizer.outer, ni_f32_from(all_b));
    const double_scale scale_a = double_scale_of(target, outer_a, amax_a),
                       scale_b = double_scale_of(target, outer_b, amax_b);
    const uint32_t group = (uint32_t)c * (uint32_t)(s.rows / 16) + (uint32_t)(r / 16);
    uint32_t for_a[8], for_b[8], q[16], signs[16];
    ni_draw_sixteen<ROUND>(key, group, for_a);
    ni_draw_sixteen<ROUND>(key, group + (uint32_t)(s.rows / 16), for_b);
    uint16_t *const values = copy.values + r * copy.stride + c;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float y = ni_f32_mul(a[i], scale_a.encode), z = ni_f32_mul(b[i], scale_b.encode);
        signs[i] = ni_exact_pair(y, z);
        q[i] = ni_pair_up_to_six(
            ni_exact_pair(ni_sixteenth_on_grid<ROUND>(y, for_a, i), ni_sixteenth_on_grid<ROUND>(z, for_b, i)));
        *(uint32_t *)(values + i * copy.stride) =
            ni_pack_two(ni_f32_mul(ni_low_of(q[i]), scale_a.decode), ni_f32_mul(ni_high_of(q[i]), scale_b.decode));
    }
    if (!copy.codes)
        return;
#pragma unroll
    for (int i = 0; i < 16; i++)
        q[i] = ni_pair_codes(q[i], signs[i]);
    store_column(copy, q, 0, scale_a, outer_a, c, r);
    store_column(copy, q, 16, scale_b, outer_b, c + 1, r);
}

/* ---- which kernel ---- */

template <typename T, int ROUND>
static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    const unsigned grid = (unsigned)ni_divide_up(s->rows * (s->cols / 16), ROW_THREADS);
    if (copy->quantizer.hadamard_size)
        double_rows<T, ROUND, true>
            <<<grid, ROW_THREADS, 0, on>>>((const T *)s->numbers, s->stride, s->rows, s->cols, *copy);
    else
        double_rows<T, ROUND, false>
            <<<grid, ROW_THREADS, 0, on>>>((const T *)s->numbers, s->stride, s->rows, s->cols, *copy);
}

template <typename T>
static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, int round) {
    round == 0   ? launch_rows<T, 0>(on, s, copy)
    : round == 8 ? launch_rows<T, 8>(on, s, copy)
                 : launch_rows<T, 16>(on, s, copy);
}

template <int KIND, int ROUND>
static void launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    enum { MOST = 65535 };
    const int64_t bands = s->rows / 128, deep = ni_divide_up(bands, MOST);
    const dim3 grid((unsigned)ni_divide_up(s->cols, 2 * COLUMN_PAIRS), (unsigned)ni_divide_up(bands, deep),
                    (unsigned)deep);
    if (copy->quantizer.hadamard_size)
        double_columns<KIND, ROUND, true><<<grid, 32 * COLUMN_WARPS, 0, on>>>(*s, *copy);
    else
        double_columns<KIND, ROUND, false><<<grid, 32 * COLUMN_WARPS, 0, on>>>(*s, *copy);
}

template <int KIND>
static void launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, int round) {
    round == 0   ? launch_columns<KIND, 0>(on, s, copy)
    : round == 8 ? launch_columns<KIND, 8>(on, s, copy)
                 : launch_columns<KIND, 16>(on, s, copy);
}

int ni_cuda_quantize_double(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    cudaStream_t on = (cudaStream_t)stream;
    const int round = copy->quantizer.round == NB_ROUND_STOCHASTIC ? copy->quantizer.sr_bits : 0;
    if (s->rows * (s->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    if (!columns)
        s->wide ? launch_rows<float>(on, s, copy, round) : launch_rows<uint16_t>(on, s, copy, round);
    else if (!s->numbers)
        launch_columns<2>(on, s, copy, round);
    else
        s->wide ? launch_columns<1>(on, s, copy, round) : launch_columns<0>(on, s, copy, round);
    return cudaGetLastError();
}
