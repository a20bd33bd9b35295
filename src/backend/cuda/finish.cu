/* finish.cu: what is left of a product into BF16 that is no plain one: an FP32 sum under scales of rows, where these are
 * not in it yet, plus a sparse matrix times the same weights, rounded once:
 *
 *     out[r, n] = bf16(sum[r, n] (row[r] col[n]) + S[r, 0] w[k0, n] + S[r, 1] w[k1, n] + ...)     entries in order
 *
 * A block keeps a slice of the weights, decoded and turned, in shared memory, and takes many rows through it: a few lanes
 * a row, eight columns a lane. The entries of the next row are on their way meanwhile. Instructions bind it: an entry
 * costs a lane one word from a neighbour, 16 bytes of the slice, and eight times an unpacking and an addition.
 *
 *     product and sum in one instruction     the product of two BF16 numbers has 16 bits, so rounding it changes nothing
 *                                            unless it leaves FP32's range; from 2^-60 to 2^60 (and 0) it cannot
 *     no entry left                          -0 times a row of zeros behind the slice: adds nothing to any number
 */
#include "backend/cuda/finish.h"

#include "backend/cuda/launch.cuh"
#include "format/ieee.h"

enum { FINISH_THREADS = 1024, MOST_ENTRIES_DEPTH = 65535, LANE_COLS = 8 };

static __device__ float at_or_one(const ni_cuda_outer &o, int64_t i) {
    return o.at ? o.at[i * o.step] : 1.0f;
}

/* Neither 0 nor from 2^-60 to 2^60, by the bits of a BF16 number. */
static __device__ bool is_wild(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffu;
    return magnitude && magnitude - (67u << 7) > (120u << 7);
}

/* w[k, n - first] of the slice: values [n, k] times their row's scale, rounded to BF16; a row of zeros. Whether one is wild.
 */
template <int COLS>
static __device__ bool load_slice(uint16_t *slice, const uint16_t *values, const float *scales, int64_t first,
                                  int64_t depth) {
    const int n = threadIdx.x % COLS;
    const uint16_t *from = values + (first + n) * depth;
    const float scale = scales[first + n];
    bool wild = false;
#pragma unroll 2
    for (int64_t k = 8 * (threadIdx.x / COLS); k < depth; k += 8 * (FINISH_THREADS / COLS)) {
        const ni_eight e = ni_eight_of(__ldg((const uint4 *)(from + k)));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint16_t w = ni_bf16_even(ni_f32_mul(e.x[i], scale));
            wild |= is_wild(w);
            slice[(k + i) * COLS + n] = w;
        }
    }
    if (threadIdx.x < COLS)
        slice[depth * COLS + threadIdx.x] = 0;
    return wild;
}

/* A row on its way: eight numbers of its sum, and two entries a lane: value above, column below. */
typedef struct arriving {
    float4 low, high;
    uint32_t entries[2];
} arriving;

static __device__ int32_t count_at(const ni_cuda_finish &f, int64_t r) {
    return r < f.rows_count ? __ldg(f.sparse.count + r) : 0;
}

static __device__ uint32_t entry_at(const ni_cuda_finish &f, int64_t r, int32_t e, int32_t count) {
    if (e >= count)
        return 0x80000000u | (uint32_t)f.depth;
    const int64_t at = r * f.sparse.room + e;
    return (uint32_t)__ldg(f.sparse.value + at) << 16 | (uint32_t)__ldg(f.sparse.column + at);
}

template <int LANES> static __device__ arriving row_at(const ni_cuda_finish &f, int64_t r, int64_t n, int32_t count) {
    const int lane = threadIdx.x % LANES;
    arriving a = {make_float4(0, 0, 0, 0),
                  make_float4(0, 0, 0, 0),
                  {entry_at(f, r, lane, count), entry_at(f, r, LANES + lane, count)}};
    if (r < f.rows_count) {
        const float4 *from = (const float4 *)(f.sum + r * f.cols + n);
        a.low = __ldg(from);
        a.high = __ldg(from + 1);
    }
    return a;
}

/* The entries that the lanes of a row hold, one each. */
template <int LANES, bool TAME> static __device__ void add_entries(float *sum, uint32_t mine, const uint16_t *slice) {
    constexpr int COLS = LANES * LANE_COLS;
#pragma unroll
    for (int i = 0; i < LANES; i++) {
        const uint32_t entry = __shfl_sync(~0u, mine, i, LANES);
        const float v = __uint_as_float(entry & 0xffff0000u);
        const uint4 w = *(const uint4 *)(slice + (entry & 0xffffu) * COLS);
        const uint32_t pairs[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int k = 0; k < LANE_COLS; k++) {
            const float x = __uint_as_float(k % 2 ? pairs[k / 2] & 0xffff0000u : pairs[k / 2] << 16);
            sum[k] = TAME ? __fmaf_rn(v, x, sum[k]) : ni_f32_add(sum[k], ni_f32_mul(v, x));
        }
    }
}

/* All entries of a row; warps stay together. */
template <int LANES>
static __device__ void add_row(const ni_cuda_finish &f, float *sum, const uint32_t *entries, const uint16_t *slice,
                               int64_t r, int32_t count, bool tame) {
    const int32_t most = (int32_t)__reduce_max_sync(~0u, (uint32_t)count);
    const int lane = threadIdx.x % LANES;
    for (int32_t e = 0; e < most; e += LANES) {
        const uint32_t mine = e == 0 ? entries[0] : e == LANES ? entries[1] : entry_at(f, r, e + lane, count);
        if (__any_sync(~0u, !tame || is_wild(mine >> 16)))
            add_entries<LANES, false>(sum, mine, slice);
        else
            add_entries<LANES, true>(sum, mine, slice);
    }
}

template <int COLS>
static __global__ void __launch_bounds__(FINISH_THREADS, 1) finish_sparse(const __grid_constant__ ni_cuda_finish f) {
    constexpr int LANES = COLS / LANE_COLS, ROWS = FINISH_THREADS / LANES;
    extern __shared__ __align__(16) uint16_t slice[];
    const int64_t first = (int64_t)blockIdx.x * COLS, n = first + LANE_COLS * (threadIdx.x % LANES),
                  stride = (int64_t)gridDim.y * ROWS;
    const bool scaled = f.rows.at || f.columns.at,
               tame = !__syncthreads_or(load_slice<COLS>(slice, f.weights, f.weight_scales, first, f.depth));
    int64_t r = (int64_t)blockIdx.y * ROWS + threadIdx.x / LANES;
    int32_t count = count_at(f, r), next_count = count_at(f, r + stride);
    arriving row = row_at<LANES>(f, r, n, count);
    for (int64_t of_warp = r - threadIdx.x % 32 / LANES; of_warp < f.rows_count; of_warp += stride, r += stride) {
        const arriving next = row_at<LANES>(f, r + stride, n, next_count);
        const int32_t after = count_at(f, r + 2 * stride);
        ni_eight sum = {{row.low.x, row.low.y, row.low.z, row.low.w, row.high.x, row.high.y, row.high.z, row.high.w}};
        if (scaled && r < f.rows_count) {
            const float scale = at_or_one(f.rows, r);
#pragma unroll
            for (int i = 0; i < LANE_COLS; i++)
                sum.x[i] = ni_f32_mul(sum.x[i], ni_f32_mul(scale, at_or_one(f.columns, n + i)));
        }
        add_row<LANES>(f, sum.x, row.entries, slice + LANE_COLS * (threadIdx.x % LANES), r, count, tame);
        if (r < f.rows_count)
            __stcg((uint4 *)(f.out + r * f.out_stride + n), ni_word_of(sum)); /* else it is cut in four */
        row = next;
        count = next_count;
        next_count = after;
    }
}

static __global__ void __launch_bounds__(NI_THREADS) finish_scaled(const __grid_constant__ ni_cuda_finish f) {
    const uint32_t eights = (uint32_t)(f.cols / 8);
    for (NI_EACH(i, f.rows_count * eights)) {
        const uint32_t r = (uint32_t)(i / eights), n = (uint32_t)(i - (int64_t)r * eights) * 8;
        const float4 *from = (const float4 *)(f.sum + (int64_t)r * f.cols + n);
        const float4 a = from[0], b = from[1];
        const float row = at_or_one(f.rows, r);
        ni_eight e = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
#pragma unroll
        for (int k = 0; k < 8; k++)
            e.x[k] = ni_f32_mul(e.x[k], ni_f32_mul(row, at_or_one(f.columns, n + k)));
        ni_store_eight(f.out + r * f.out_stride + n, e);
    }
}

/* What a block of this GPU may have of shared memory. */
static int64_t shared_bytes(void) {
    int device = 0, bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
        return 0;
    return bytes;
}

static int64_t slice_bytes(const ni_cuda_finish *f, int cols) {
    return (f->depth + 1) * cols * (int64_t)sizeof(uint16_t);
}

/* Columns of a slice; 0: none fits. */
static int slice_of(const ni_cuda_finish *f) {
    const int64_t most = shared_bytes();
    for (int cols = 64; cols >= 16; cols /= 2)
        if (f->cols % cols == 0 && slice_bytes(f, cols) <= most)
            return cols;
    return 0;
}

bool ni_cuda_can_finish(const ni_cuda_finish *f) {
    const bool aligned =
        ni_aligned(f->sum) && ni_aligned(f->out) && f->out_stride % 8 == 0 && f->cols % 8 == 0 && f->rows_count > 0;
    if (!f->sparse.count)
        return aligned;
    return aligned && f->depth % 8 == 0 && f->depth < MOST_ENTRIES_DEPTH && ni_aligned(f->weights) && slice_of(f) > 0;
}

/* A block a multiprocessor, each with its slice and its band of rows. */
template <int COLS> static int launch_sparse(cudaStream_t on, const ni_cuda_finish *f, int multiprocessors) {
    const size_t bytes = (size_t)slice_bytes(f, COLS);
    const int64_t slices = f->cols / COLS, bands = multiprocessors / slices;
    const int64_t most = ni_divide_up(f->rows_count, FINISH_THREADS / (COLS / LANE_COLS));
    const cudaError_t code =
        cudaFuncSetAttribute(finish_sparse<COLS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess)
        return code;
    finish_sparse<COLS><<<dim3((unsigned)slices, (unsigned)(bands < 1      ? 1
                                                            : bands < most ? bands
                                                                           : most)),
                          FINISH_THREADS, bytes, on>>>(*f);
    return cudaGetLastError();
}

static int launch_sparse_by(cudaStream_t on, const ni_cuda_finish *f, int multiprocessors) {
    switch (slice_of(f)) {
    case 64:
        return launch_sparse<64>(on, f, multiprocessors);
    case 32:
        return launch_sparse<32>(on, f, multiprocessors);
    default:
        return launch_sparse<16>(on, f, multiprocessors);
    }
}

int ni_cuda_launch_finish(void *stream, const ni_cuda_finish *f, int multiprocessors) {
    cudaStream_t on = (cudaStream_t)stream;
    if (f->sparse.count)
        return launch_sparse_by(on, f, multiprocessors);
    finish_scaled<<<ni_grid(ni_divide_up(f->rows_count * (f->cols / 8), NI_THREADS)), NI_THREADS, 0, on>>>(*f);
    return cudaGetLastError();
}

/* ---- values without their scale, times it ---- */

static __global__ void __launch_bounds__(NI_THREADS)
    scale_values(uint16_t *out, const uint16_t *values, const float *scale, int64_t eights) {
    for (NI_EACH(i, eights)) {
        ni_eight e = ni_load_eight(values + 8 * i);
#pragma unroll
        for (int k = 0; k < 8; k++)
            e.x[k] = ni_f32_mul(e.x[k], *scale);
        ni_store_eight(out + 8 * i, e);
    }
}

int ni_cuda_launch_scale_values(void *stream, uint16_t *out, const uint16_t *values, const float *scale, int64_t n) {
    scale_values<<<ni_grid(ni_divide_up(n / 8, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(out, values, scale,
                                                                                                    n / 8);
    return cudaGetLastError();
}
