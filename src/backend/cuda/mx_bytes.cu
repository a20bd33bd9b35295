/* mx_bytes.cu: see mx_bytes.h. */
#include "backend/cuda/mx_bytes.h"

#include "backend/cuda/sixteen.cuh"
#include "format/e8m0.h"

enum { TOP = 6, SPREAD = 14, BLOCK = 32 };

/* ---- bytes ---- */

/* The bytes of the magnitudes of a block: codes 0..3 and 4..7. */
static __device__ uint2 table_of(float factor) {
    const uint32_t low = ni_e4m3_bytes(0.0f, ni_f32_mul(0.5f, factor)) | ni_e4m3_bytes(factor, ni_f32_mul(1.5f, factor))
                                                                             << 16;
    const uint32_t high = ni_e4m3_bytes(ni_f32_mul(2.0f, factor), ni_f32_mul(3.0f, factor)) |
                          ni_e4m3_bytes(ni_f32_mul(4.0f, factor), ni_f32_mul(6.0f, factor)) << 16;
    return make_uint2(low, high);
}

/* Four codes, in the lower half. */
static __device__ uint32_t bytes_of_four(uint2 table, uint32_t codes) {
    const uint32_t signs =
        (codes & 0x8u) << 4 | (codes & 0x80u) << 8 | (codes & 0x800u) << 12 | (codes & 0x8000u) << 16;
    return __byte_perm(table.x, table.y, codes & 0x7777u) | signs;
}

static __device__ uint2 bytes_of_eight(uint2 table, uint32_t codes) {
    return make_uint2(bytes_of_four(table, codes), bytes_of_four(table, codes >> 16));
}

static __device__ bool is_zero(const uint4 &codes) {
    return ((codes.x | codes.y | codes.z | codes.w) & 0x77777777u) == 0;
}

/* 2^(largest - 6) of an exponent byte, subnormals too; 1 for a row of zeros. */
static __device__ float scale_of(int largest) {
    return largest < 0 ? 1.0f : __uint_as_float(largest > TOP ? (uint32_t)(largest - TOP) << 23 : 1u << (largest + 16));
}

/* A warp a row, a lane a block of 32. A block whose scale is NaN is NaN. */
static __global__ void __launch_bounds__(NI_THREADS) mx_bytes(ni_cuda_mx_rows to, nb_qtensor t) {
    const int lane = threadIdx.x % 32;
    const int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32, blocks = t.cols / BLOCK;
    if (r >= t.rows)
        return;
    const uint4 *const codes = (const uint4 *)(t.codes + r * (t.cols / 2));
    const uint8_t *const exponents = t.scales + r * blocks;
    uint4 *const out = (uint4 *)(to.bytes + r * t.cols);
    uint32_t above = 0, below = 0; /* largest + 1, 255 - smallest: of blocks that hold something */
    for (int64_t b = lane; b < blocks; b += 32) {
        const uint32_t e = exponents[b];
        if (e == NI_E8M0_NAN || is_zero(codes[b]))
            continue;
        above = max(above, e + 1);
        below = max(below, 255 - e);
    }
    const int largest = (int)ni_warp_max(above) - 1, smallest = 255 - (int)ni_warp_max(below);
    const bool exact = largest - smallest <= SPREAD;
    if (lane == 0) {
        to.scales[r] = !exact           ? 0.0f
                       : t.tensor_scale ? ni_f32_mul(scale_of(largest), *t.tensor_scale)
                                        : scale_of(largest);
        if (!exact)
            atomicAdd(to.wide, 1u);
    }
    for (int64_t b = lane; b < blocks; b += 32) {
        const uint32_t e = exponents[b];
        const uint4 from = codes[b];
        const int shift = TOP - (largest - (int)e);
        uint2 table = make_uint2(0, 0);
        if (e == NI_E8M0_NAN)
            table = make_uint2(0x7f7f7f7fu, 0x7f7f7f7fu);
        else if (exact && shift >= TOP - SPREAD)
            table = table_of(__uint_as_float((uint32_t)(127 + shift) << 23));
        const uint2 x = bytes_of_eight(table, from.x), y = bytes_of_eight(table, from.y),
                    z = bytes_of_eight(table, from.z), w = bytes_of_eight(table, from.w);
        out[2 * b] = make_uint4(x.x, x.y, y.x, y.y);
        out[2 * b + 1] = make_uint4(z.x, z.y, w.x, w.y);
    }
}

int ni_cuda_launch_mx_bytes(void *stream, const ni_cuda_mx_rows *to, const nb_qtensor *codes) {
    const int code = cudaMemsetAsync(to->wide, 0, sizeof *to->wide, (cudaStream_t)stream);
    if (code == cudaSuccess && codes->rows > 0)
        mx_bytes<<<(unsigned)ni_divide_up(codes->rows, NI_WARPS), NI_THREADS, 0, (cudaStream_t)stream>>>(*to, *codes);
    return code == cudaSuccess ? cudaGetLastError() : code;
}

/* ---- mending ---- */

static __device__ float sum_of_eight(uint32_t a, uint32_t b) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum = __fmaf_rn(ni_e2m1_of(a >> (4 * i) & 15u), ni_e2m1_of(b >> (4 * i) & 15u), sum);
    return sum;
}

/* Sum of one row of A and one of B, over a warp: a block's sum is exact, blocks are added in FP32. */
static __device__ float dot(const nb_qtensor &a, int64_t r, const nb_qtensor &b, int64_t c) {
    const int64_t blocks = a.cols / BLOCK;
    const uint4 *const left = (const uint4 *)(a.codes + r * (a.cols / 2)), *const right =
                                                                               (const uint4 *)(b.codes +
                                                                                               c * (b.cols / 2));
    float sum = 0.0f;
    for (int64_t k = threadIdx.x % 32; k < blocks; k += 32) {
        const uint4 x = left[k], y = right[k];
        const float inner = ni_f32_add(ni_f32_add(sum_of_eight(x.x, y.x), sum_of_eight(x.y, y.y)),
                                       ni_f32_add(sum_of_eight(x.z, y.z), sum_of_eight(x.w, y.w)));
        sum = ni_f32_add(sum, ni_f32_mul(ni_f32_mul(inner, ni_e8m0_value(a.scales[r * blocks + k])),
                                         ni_e8m0_value(b.scales[c * blocks + k])));
    }
    sum = ni_warp_sum(sum);
    if (a.tensor_scale)
        sum = ni_f32_mul(sum, *a.tensor_scale);
    return b.tensor_scale ? ni_f32_mul(sum, *b.tensor_scale) : sum;
}

static __device__ void add_to(const nb_mat &c, int64_t at, float x) {
    if (c.dtype == NB_BF16) {
        uint16_t *const to = (uint16_t *)c.data + at;
        *to = ni_bf16_even(ni_f32_add(ni_bf16_value(*to), x));
    } else {
        float *const to = (float *)c.data + at;
        *to = ni_f32_add(*to, x);
    }
}

/* A warp takes a row of C and 32 of its columns. */
static __global__ void __launch_bounds__(NI_THREADS) mend(const __grid_constant__ ni_cuda_mend m) {
    const uint32_t wide = *m.of_a.wide + *m.of_b.wide;
    const int lane = threadIdx.x % 32;
    const int64_t groups = (m.c.cols + 31) / 32, warps = (int64_t)gridDim.x * NI_WARPS;
    if (wide == 0)
        return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        atomicAdd(m.mended, wide);
    for (int64_t i = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32; i < m.c.rows * groups; i += warps) {
        const int64_t r = i / groups, c0 = i % groups * 32;
        const bool inside = c0 + lane < m.c.cols;
        uint32_t left = __ballot_sync(~0u, inside && (m.of_a.scales[r] == 0.0f || m.of_b.scales[c0 + lane] == 0.0f));
        for (; left; left &= left - 1) {
            const int64_t c = c0 + __ffs((int)left) - 1;
            const float x = dot(m.a, r, m.b, c);
            if (lane == 0)
                add_to(m.c, r * m.c.stride + c, x);
        }
    }
}

int ni_cuda_launch_mend(void *stream, const ni_cuda_mend *m, int multiprocessors) {
    if (m->c.rows > 0 && m->c.cols > 0)
        mend<<<(unsigned)multiprocessors * 2, NI_THREADS, 0, (cudaStream_t)stream>>>(*m);
    return cudaGetLastError();
}
