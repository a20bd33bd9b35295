/* clamp_counted.cu: rows of BF16 in the registers of warps, clamped without a list of what is cut off (clamp.cu): into
 * codes of E2M1, where the rest is lost, or rounded to INT4 and back with the rest added, where nothing but that sum is
 * read. Bounds are found by counting (clamp_count.cuh); rows where that does not go are clamped bit by bit.
 *
 *     C = min(max(X, lo), hi)      V = BF16(INT4(C m) d)      out = BF16(V + BF16(X - C))
 *
 * A BF16 sum of two BF16 numbers is rounded once here and twice where it is made in FP32; both are the same, for the
 * smaller is worth nothing where FP32 does not hold the sum.
 */
#include "backend/cuda/clamp_bits.cuh"
#include "backend/cuda/clamp_count.cuh"
#include "backend/units.h"

#include <math.h>

/* ---- into INT4 and back ---- */

static __device__ uint32_t add_pairs(uint32_t a, uint32_t b, uint32_t factor_of_a) {
    uint32_t sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(factor_of_a), "r"(b));
    return sum;
}

/* Whole numbers are the only ones beside 1.5 x 2^23. */
static __device__ float decoded_int4(float x, const ni_scaling &s) {
    return ni_f32_mul(ni_f32_sub(ni_f32_add(ni_f32_mul(x, s.multiplier), 12582912.0f), 12582912.0f), s.decode);
}

typedef struct compensated_numbers {
    const ni_cuda_compensated &to;
    ni_scaling scaling;
    uint16_t *row;
    uint32_t largest; /* magnitudes of two halves */

    __device__ bool begin(int64_t r, uint32_t amax) {
        const float multiplier = ni_vector_encode(to.rule, ni_element_max(NB_ELEMENT_INT4), ni_f32_from(amax << 16));
        scaling = {multiplier, ni_vector_decode(multiplier)};
        row = to.out + r * to.stride;
        return ni_is_tame_row(amax << 16);
    }

    __device__ void begin_wild(int64_t r, const uint16_t *from, int count, float lo, float hi) {
        begin(r, clamped_amax(from, count, lo, hi));
    }

    __device__ bool is_alone() const {
        return true;
    }

    /* No number beyond 7 is left, and none is NaN. */
    template <bool> __device__ void put(int i, const uint4 &clamped, const uint4 &x) {
        const uint32_t c[4] = {clamped.x, clamped.y, clamped.z, clamped.w}, all[4] = {x.x, x.y, x.z, x.w};
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint32_t decoded =
                ni_pack_two(decoded_int4(ni_low_of(c[k]), scaling), decoded_int4(ni_high_of(c[k]), scaling));
            w[k] = add_pairs(add_pairs(c[k], all[k], 0xbf80bf80u), decoded, 0x3f803f80u);
            largest = ni_larger_rounded(largest, w[k]);
        }
        ni_store_words(ni_global(row + 256 * i + 8 * (threadIdx.x % 32)), make_uint4(w[0], w[1], w[2], w[3]));
    }

    __device__ void put_wild(int64_t, int c, const uint4 &clamped, const clamp_cuts &cuts) {
        uint32_t code[8];
        ni_eight value;
        ni_vector_encode_eight<NB_ELEMENT_INT4, NB_ROUND_EVEN>(ni_eight_of(clamped), scaling.multiplier, code, &value);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const float decoded = ni_bf16_round(ni_f32_mul(value.x[k], scaling.decode));
            const uint16_t half =
                ni_bf16_even(cuts.bits >> k & 1u ? ni_f32_add(decoded, ni_bf16_value(cuts.rest[k])) : decoded);
            row[c + k] = half;
            largest = max(largest & 0xffffu, half & 0x7fffu);
        }
    }

    __device__ void finish() const {
        ni_join_amax(to.amax, ni_larger_half(largest));
    }
} compensated_numbers;

static __device__ compensated_numbers clamped_into(const ni_cuda_compensated &to, int64_t) {
    return {to, {1.0f, 1.0f}, NULL, 0};
}

/* ---- rows ---- */

template <int VECTORS, bool ALONE, typename T>
static __device__ void put_clamped(T &out, const uint32_t *words, uint32_t lows, uint32_t highs) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            w[k] = smaller_pair(larger_pair(words[4 * i + k], lows), highs);
        out.template put<ALONE>(i, make_uint4(w[0], w[1], w[2], w[3]), eight_at(words, i));
    }
}

template <int VECTORS, typename T>
static __device__ bool clamp_by_counting(T out, const uint32_t *words, int64_t r, const clamp_end &low,
                                         const clamp_end &high) {
    uint32_t lo, hi;
    if (!bounds_by_counting<4 * VECTORS>(words, low, high, &lo, &hi))
        return false;
    const uint32_t least = lo & 0x7fffu, most = hi & 0x7fffu;
    if (least == 0 || most == 0 || !out.begin(r, max(least, most)))
        return false;
    if (out.is_alone())
        put_clamped<VECTORS, true>(out, words, twice(lo), twice(hi));
    else
        put_clamped<VECTORS, false>(out, words, twice(lo), twice(hi));
    __syncwarp();
    out.finish();
    return true;
}

template <int VECTORS, typename T>
static __global__ void __launch_bounds__(32 * CLAMP_ROWS, VECTORS > 12  ? 4
                                                          : VECTORS > 8 ? 6
                                                                        : 8)
    clamp_counted(const __grid_constant__ T to, const __grid_constant__ nb_mat x, const __grid_constant__ clamp_end low,
                  const __grid_constant__ clamp_end high) {
    /* the last rows first: they were written last, and lie in the cache still */
    const int64_t r = (gridDim.x - 1 - blockIdx.x) * (int64_t)CLAMP_ROWS + threadIdx.x / 32;
    if (r >= x.rows)
        return;
    const uint16_t *const from = (const uint16_t *)x.data + r * x.stride, *const mine = from + 8 * (threadIdx.x % 32);
    uint32_t words[4 * VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const uint4 v = *(const uint4 *)(mine + 256 * i);
        words[4 * i] = v.x;
        words[4 * i + 1] = v.y;
        words[4 * i + 2] = v.z;
        words[4 * i + 3] = v.w;
    }
    if (!clamp_by_counting<VECTORS>(clamped_into(to, x.cols), words, r, low, high))
        clamp_by_bits(to, ni_sparse{}, from, r, (int)x.cols, low.rank, (uint32_t)x.cols - 1 - high.rank);
}

/* ---- launches ---- */

/* The quantile of normal numbers beyond which a share p of them lies (Abramowitz and Stegun 26.2.23). */
static double normal_quantile(double p) {
    const double t = sqrt(-2 * log(p)), z = t - (2.515517 + 0.802853 * t + 0.010328 * t * t) /
                                                    (1 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t);
    return z > 0.05 ? z : 0.05;
}

/* Beyond z their share falls by z^2 + 0.7 octaves an octave, about, and an octave has 128 keys. */
static clamp_end end_of(int64_t rank, int64_t cols) {
    const double count = (double)rank + 0.5, z = normal_quantile(count / (double)cols),
                 sigma = 1.2533; /* in mean magnitudes */
    return {(uint32_t)rank, (float)log2(count), (float)(z * sigma), (float)(128 / (z * z + 0.7))};
}

template <typename T>
static int clamp_rows_counted(cudaStream_t on, const T &to, const nb_mat *x, int64_t low, int64_t high) {
    const unsigned blocks = (unsigned)ni_divide_up(x->rows, CLAMP_ROWS);
    const int threads = 32 * CLAMP_ROWS;
    const clamp_end below = end_of(low, x->cols), above = end_of(x->cols - 1 - high, x->cols);
    switch (x->cols) {
#define CASE(width)                                                                                                    \
    case width:                                                                                                        \
        clamp_counted<width / 256><<<blocks, threads, 0, on>>>(to, *x, below, above);                                  \
        break;
        NI_COUNTED_WIDTHS(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
    return cudaGetLastError();
}

bool ni_cuda_clamps_by_counting(const nb_mat *x) {
    return ni_is_counted_width(x->cols) && x->rows > 0 && x->stride % 8 == 0 && ni_aligned(x->data);
}

int ni_cuda_clamp_by_counting(cudaStream_t on, const ni_cuda_vector *v, const nb_mat *x, int64_t low, int64_t high) {
    return clamp_rows_counted(on, *v, x, low, high);
}

bool ni_cuda_compensates(const nb_quantizer *q, const nb_mat *out, const nb_mat *x) {
    return q->element == NB_ELEMENT_INT4 && q->round == NB_ROUND_EVEN && q->scale_type == NB_SCALE_F32 &&
           q->block_rows == 1 && ni_cuda_clamps_by_counting(x) && out->stride % 8 == 0 && ni_aligned(out->data);
}

int ni_cuda_launch_compensated(void *stream, const ni_cuda_compensated *to, const nb_mat *x, int64_t low,
                               int64_t high) {
    return clamp_rows_counted((cudaStream_t)stream, *to, x, low, high);
}
