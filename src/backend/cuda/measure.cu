/* measure.cu: what a tensor looks like, for the lens: one reading of it, and the last block adds up what all found.
 *
 * A warp takes a band of 16 rows and 256 columns, a lane eight of these: what belongs to a column stays with its lane,
 * and a tile of 16x16 is two lanes'. Of BF16 numbers the powers of 16 are added up in FP32, under a power of two that
 * brings the band's first numbers to 1, and whatever is farther from there than its fourth power allows is added up in
 * double as FP32 numbers are. All further sums are in double; their order depends on the shape alone.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/tile.cuh"

enum { TILE = 16, EACH = 8, STRIP = 32 * EACH, AT_ONCE = 4, FULL_GPU = 396 /* blocks */ };

/* ---- eight numbers of a row, 0 where there are none ---- */

template <bool BF16> struct eight { uint32_t words[BF16 ? EACH / 2 : EACH]; };

/* ALIGNED: 16 bytes at a time, and there are eight or none. */
template <bool BF16, bool ALIGNED> static __device__ eight<BF16> load(const char *from, int count) {
    eight<BF16> e = {};
    if constexpr (ALIGNED) {
#pragma unroll
        for (int i = 0; i < (BF16 ? 1 : 2); i++) {
            const uint4 four = count ? ((const uint4 *)from)[i] : make_uint4(0, 0, 0, 0);
            e.words[4 * i] = four.x;
            e.words[4 * i + 1] = four.y;
            e.words[4 * i + 2] = four.z;
            e.words[4 * i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const uint32_t bits = j >= count ? 0u : BF16 ? ((const uint16_t *)from)[j] : ((const uint32_t *)from)[j];
            e.words[BF16 ? j / 2 : j] |= BF16 ? bits << 16 * (j % 2) : bits;
        }
    }
    return e;
}

template <bool BF16> static __device__ float number_of(const eight<BF16> &e, int j) {
    return !BF16 ? __uint_as_float(e.words[j]) : j % 2 ? ni_high_of(e.words[j / 2]) : ni_low_of(e.words[j / 2]);
}

/* Of words: the larger magnitudes, of both halves where they are two numbers. */
template <bool BF16> static __device__ uint32_t larger(uint32_t known, uint32_t word) {
    return BF16 ? ni_larger_pair(known, word) : max(known, word & 0x7fffffffu);
}

/* Largest magnitudes of columns; returns the bits of the largest. */
template <bool BF16> static __device__ uint32_t largest_of(const eight<BF16> *rows, eight<BF16> *columns) {
    constexpr int WORDS = BF16 ? EACH / 2 : EACH;
    uint32_t largest = 0;
    *columns = {};
#pragma unroll
    for (int i = 0; i < AT_ONCE * WORDS; i++)
        columns->words[i % WORDS] = larger<BF16>(columns->words[i % WORDS], rows[i / WORDS].words[i % WORDS]);
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        largest = larger<BF16>(largest, columns->words[i]);
    return BF16 ? ni_larger_half(largest) : largest;
}

/* NaN and Inf become 0; how many there were. */
template <bool BF16> static __device__ int without_nonfinite(eight<BF16> *rows) {
    int found = 0;
#pragma unroll
    for (int i = 0; i < AT_ONCE * EACH; i++) {
        const int row = i / EACH, j = i % EACH;
        if (ni_f32_magnitude(number_of(rows[row], j)) < NI_F32_INF_BITS)
            continue;
        found++;
        rows[row].words[BF16 ? j / 2 : j] &= !BF16 ? 0u : j % 2 ? 0xffffu : 0xffff0000u;
    }
    return found;
}

/* ---- sums of x, x^2, x^3, x^4 ---- */

/* Of two rows whose numbers are not far from 1 behind the factor. */
static __device__ void add_powers(double sums[4], const eight<true> *rows, uint32_t factor) {
    float of[2][4] = {};
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const uint32_t pair = ni_pair_times(rows[r].words[j / 2], factor);
            const float x = j % 2 ? ni_high_of(pair) : ni_low_of(pair), square = ni_f32_mul(x, x);
            of[r][0] = ni_f32_add(of[r][0], x);
            of[r][1] = ni_f32_add(of[r][1], square);
            of[r][2] = __fmaf_rn(square, x, of[r][2]);
            of[r][3] = __fmaf_rn(square, square, of[r][3]);
        }
#pragma unroll
    for (int k = 0; k < 4; k++)
        sums[k] += (double)ni_f32_add(of[0][k], of[1][k]);
}

/* Of any finite numbers. */
template <bool BF16> static __device__ void add_wide_powers(double sums[4], const eight<BF16> *rows, double factor) {
#pragma unroll
    for (int i = 0; i < AT_ONCE * EACH; i++) {
        const double x = (double)number_of(rows[i / EACH], i % EACH) * factor, square = x * x;
        sums[0] += x;
        sums[1] += square;
        sums[2] += square * x;
        sums[3] += square * square;
    }
}

/* By the exponent that FP32 has of it. */
static __device__ double power_of_two(int exponent) {
    return __hiloint2double((exponent + 1023 - 127) << 20, 0);
}

/* Of the largest number, but that its reciprocal is a normal BF16 number. */
static __device__ int exponent_of(uint32_t largest) {
    return largest == 0 ? 127 : min(max((int)(largest >> 23), 1), 253);
}

/* 2^-48 .. 2^24 of it, or 0. */
static __device__ bool is_near(uint32_t largest, int exponent) {
    const int above = (int)(largest >> 23) - exponent;
    return largest == 0 || (above >= -48 && above <= 24);
}

/* ---- a band ---- */

struct band_sums {
    double sums[4]; /* of x 2^-exponent and its powers */
    int exponent, nonfinite;
    uint32_t largest;
};

/* Of 16 rows at most; `maxima`: of the lane's columns. */
template <bool BF16, bool ALIGNED>
static __device__ band_sums sums_of_band(const char *from, int64_t stride, int rows, int count, uint32_t *maxima) {
    constexpr int WORDS = BF16 ? EACH / 2 : EACH;
    band_sums all = {{0, 0, 0, 0}, 127, 0, 0};
#pragma unroll 1
    for (int r = 0; r < rows; r += AT_ONCE) {
        eight<BF16> e[AT_ONCE], columns;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++, from += stride)
            e[i] = load<BF16, ALIGNED>(from, r + i < rows ? count : 0);
        uint32_t largest = largest_of(e, &columns);
        if (largest >= NI_F32_INF_BITS) {
            all.nonfinite += without_nonfinite(e);
            largest = largest_of(e, &columns);
        }
        if (BF16 && r == 0)
            all.exponent = exponent_of(ni_warp_max(largest));
        all.largest = max(all.largest, largest);
#pragma unroll
        for (int i = 0; i < WORDS; i++)
            maxima[i] = larger<BF16>(maxima[i], columns.words[i]);
        if constexpr (BF16)
            if (is_near(largest, all.exponent)) {
                const uint32_t factor = (uint32_t)(254 - all.exponent) << 7;
#pragma unroll
                for (int i = 0; i < AT_ONCE; i += 2)
                    add_powers(all.sums, &e[i], factor << 16 | factor);
                continue;
            }
        add_wide_powers(all.sums, e, power_of_two(254 - all.exponent));
    }
    return all;
}

/* Of two lanes, which have its halves. */
static __device__ float crest_of(const band_sums &s, int numbers) {
    const double squares = s.sums[1] + __shfl_xor_sync(~0u, s.sums[1], 1);
    const uint32_t largest = max(s.largest, __shfl_xor_sync(~0u, s.largest, 1));
    const int count = numbers - s.nonfinite - __shfl_xor_sync(~0u, s.nonfinite, 1);
    const double root = count == TILE * TILE ? 16.0 : sqrt((double)count);
    const double amax = (double)ni_f32_from(largest) * power_of_two(254 - s.exponent);
    return squares > 0 ? (float)(amax * root * rsqrt(squares)) : 0.0f;
}

/* For thread 0. */
static __device__ double block_largest(double x, double *room) {
    for (int s = 16; s; s /= 2)
        x = fmax(x, __shfl_xor_sync(~0u, x, s));
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < NI_WARPS; i++)
        x = fmax(x, room[i]);
    return x;
}

/* ---- all blocks ---- */

/* Whether all other blocks have come here and what they wrote is seen; `arrived` is 0 before the kernel. */
static __device__ bool is_last(int64_t *arrived) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd((unsigned long long *)arrived, 1ull) + 1 == (unsigned long long)gridDim.x * gridDim.y;
    __syncthreads();
    __threadfence();
    return last;
}

/* From the number of elements and the raw sums of x, x^2, x^3, x^4: as ni_moments_of_sums. */
static __device__ ni_moments moments_of(int64_t count, int64_t nonfinite, double amax, const double sums[4]) {
    ni_moments m = {count, nonfinite, amax, 0, 0, 0};
    if (count == 0)
        return m;
    const double n = (double)count, mean = sums[0] / n, second = sums[1] / n, third = sums[2] / n, fourth = sums[3] / n;
    const double variance = second - mean * mean;
    const double centred = fourth - 4 * mean * third + 6 * mean * mean * second - 3 * mean * mean * mean * mean;
    m.mean = mean;
    m.rms = sqrt(second);
    if (variance > 1e-12 * second)
        m.excess_kurtosis = centred / (variance * variance) - 3;
    return m;
}

static __device__ void total_of_moments(ni_moments *out, const ni_cuda_moment_sums *partial, int blocks,
                                        int64_t elements, double *room) {
    ni_cuda_moment_sums all = {};
    for (int i = threadIdx.x; i < blocks; i += NI_THREADS) {
        for (int k = 0; k < 4; k++)
            all.sums[k] += __ldcg(&partial[i].sums[k]);
        all.nonfinite += __ldcg(&partial[i].nonfinite);
        all.amax = fmax(all.amax, __ldcg(&partial[i].amax));
    }
    for (int k = 0; k < 4; k++)
        all.sums[k] = ni_block_sum(all.sums[k], room);
    const int64_t nonfinite = (int64_t)ni_block_sum(all.nonfinite, room);
    all.amax = block_largest(all.amax, room);
    if (threadIdx.x == 0)
        *out = moments_of(elements - nonfinite, nonfinite, all.amax, all.sums);
}

/* ---- a matrix: a block `bands` bands of one strip of columns ---- */

template <bool BF16, bool ALIGNED>
static __global__ __launch_bounds__(NI_THREADS, 3) void measure_bands(ni_moments *out, ni_cuda_moment_sums *partial,
                                                                      nb_mat x, uint32_t *column_amax,
                                                                      float *tile_crest, int64_t bands) {
    constexpr int WORDS = BF16 ? EACH / 2 : EACH, SIZE = BF16 ? 2 : 4;
    __shared__ uint32_t columns[NI_WARPS][EACH][32];
    __shared__ double room[NI_WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t column = blockIdx.x * (int64_t)STRIP + lane * EACH, left = x.cols - column,
                  end = min((x.rows + TILE - 1) / TILE, (blockIdx.y + 1) * bands), across = (x.cols + TILE - 1) / TILE;
    const int count = left > EACH ? EACH
                      : left > 0  ? (int)left
                                  : 0,
              width = (int)min((int64_t)TILE, x.cols - column / TILE * TILE); /* of the lane's tile */
    double sums[4] = {0, 0, 0, 0};
    uint32_t maxima[WORDS] = {};
    int nonfinite = 0;
    for (int64_t band = blockIdx.y * bands + warp; band < end; band += NI_WARPS) {
        const int rows = (int)min((int64_t)TILE, x.rows - band * TILE);
        const band_sums s = sums_of_band<BF16, ALIGNED>((const char *)x.data + (band * TILE * x.stride + column) * SIZE,
                                                        x.stride * SIZE, rows, count, maxima);
        const double unit = power_of_two(s.exponent), square = unit * unit;
        sums[0] += s.sums[0] * unit;
        sums[1] += s.sums[1] * square;
        sums[2] += s.sums[2] * (square * unit);
        sums[3] += s.sums[3] * (square * square);
        nonfinite += s.nonfinite;
        if (!tile_crest)
            continue;
        const float crest = crest_of(s, rows * width);
        if (lane % 2 == 0 && count > 0)
            tile_crest[band * across + column / TILE] = crest;
    }
#pragma unroll
    for (int j = 0; j < EACH; j++)
        columns[warp][j][lane] = !BF16 ? maxima[j % WORDS] : j % 2 ? maxima[j / 2] & 0xffff0000u : maxima[j / 2] << 16;
    ni_cuda_moment_sums all = {};
    for (int k = 0; k < 4; k++)
        all.sums[k] = ni_block_sum(sums[k], room); /* which waits for all columns, too */
    all.nonfinite = ni_block_sum((double)nonfinite, room);
    uint32_t largest = 0; /* of column threadIdx.x of the strip */
    for (int w = 0; w < NI_WARPS; w++)
        largest = max(largest, columns[w][threadIdx.x % EACH][threadIdx.x / EACH]);
    const int64_t at = blockIdx.x * (int64_t)STRIP + threadIdx.x;
    if (column_amax && at < x.cols && largest > *(volatile uint32_t *)&column_amax[at])
        atomicMax(&column_amax[at], largest);
    all.amax = block_largest(ni_f32_from(largest), room);
    if (threadIdx.x == 0)
        partial[blockIdx.y * gridDim.x + blockIdx.x] = all;
    if (is_last(&out->count))
        total_of_moments(out, partial, (int)(gridDim.x * gridDim.y), x.rows * x.cols, room);
}

/* ---- how it is cut ---- */

typedef struct cut {
    int64_t bands, strips, high; /* bands of a block; blocks across, and downwards */
} cut;

static cut cut_of(const nb_mat *x) {
    const int64_t strips = ni_divide_up(x->cols, STRIP), bands = ni_divide_up(x->rows, TILE);
    if (strips == 0 || bands == 0)
        return (cut){1, 0, 0};
    const int64_t most = FULL_GPU / strips, asked = ni_divide_up(bands, NI_WARPS), high = asked < most ? asked : most;
    const int64_t each = ni_divide_up(bands, high < 1 ? 1 : high);
    return (cut){each, strips, ni_divide_up(bands, each)};
}

size_t ni_cuda_measure_bytes(const nb_mat *x) {
    const cut c = cut_of(x);
    return (size_t)(c.strips * c.high) * sizeof(ni_cuda_moment_sums);
}

template <bool BF16>
static void launch_bands(cudaStream_t on, const cut &c, const nb_mat *x, ni_cuda_moment_sums *partial,
                         ni_moments *moments, float *column_amax, float *tile_crest) {
    const bool aligned = ni_aligned(x->data) && x->stride % (BF16 ? 8 : 4) == 0 && x->cols % EACH == 0;
    const dim3 grid((unsigned)c.strips, (unsigned)c.high);
    uint32_t *const maxima = (uint32_t *)(void *)column_amax;
    if (aligned)
        measure_bands<BF16, true><<<grid, NI_THREADS, 0, on>>>(moments, partial, *x, maxima, tile_crest, c.bands);
    else
        measure_bands<BF16, false><<<grid, NI_THREADS, 0, on>>>(moments, partial, *x, maxima, tile_crest, c.bands);
}

int ni_cuda_launch_measure(void *stream, const nb_mat *x, ni_cuda_moment_sums *partial, ni_moments *moments,
                           float *column_amax, float *tile_crest) {
    cudaStream_t on = (cudaStream_t)stream;
    const cut c = cut_of(x);
    if (c.high && x->dtype == NB_BF16)
        launch_bands<true>(on, c, x, partial, moments, column_amax, tile_crest);
    else if (c.high)
        launch_bands<false>(on, c, x, partial, moments, column_amax, tile_crest);
    return cudaGetLastError();
}
