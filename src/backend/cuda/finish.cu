/* finish.cu: what is left of a product into BF16 that is no plain one: an FP32 sum under scales of rows, where these are
 * not in it yet, plus a sparse matrix times the same weights, rounded once:
 *
 *     out[r, n] = bf16(sum[r, n] (row[r] col[n]) + S[r, 0] w[k0, n] + S[r, 1] w[k1, n] + ...)     entries in order
 *
 * A block keeps a slice of the weights, decoded and turned, in shared memory, and takes many rows through it: a few lanes
 * a row, eight or sixteen columns a lane. The entries of the next row are on their way meanwhile. Instructions bind it: an
 * entry costs a lane one word from a neighbour, 16 bytes of the slice for eight columns, and an unpacking and an addition
 * a column, so sixteen where a slice of 128 columns fits.
 *
 *     product and sum in one instruction     the product of two BF16 numbers has 16 bits, so rounding it changes nothing
 *                                            unless it leaves FP32's range; from 2^-60 to 2^60 (and 0) it cannot
 *     no entry left                          -0 times a row of zeros behind the slice: adds nothing to any number
 */
#include "backend/cuda/finish.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/launch.cuh"
#include "format/ieee.h"

static __device__ float at_or_one(const ni_cuda_outer &o, int64_t i) {
    return o.at ? o.at[i * o.step] : 1.0f;
}

/* Neither 0 nor from 2^-60 to 2^60, by the bits of a BF16 number. */
static __device__ bool is_wild(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffu;
    return magnitude && magnitude - (67u << 7) > (120u << 7);
}

/* How a block lies: columns of its slice, of a lane; lanes and rows of the block at a time. */
template <int COLS_, int LANE_COLS_, int THREADS_> struct shape {
    enum {
        COLS = COLS_,
        LANE_COLS = LANE_COLS_,
        THREADS = THREADS_,
        LANES = COLS / LANE_COLS,
        ROWS = THREADS / LANES,
        WORDS = LANE_COLS / 8,     /* of 16 bytes: eight columns, a slice's LANES words apart */
        STEP = COLS == 128 ? 2 : 4 /* entries that are added before the end of a row is looked for */
    };
};

/* w[k, n - first] of the slice: values [n, k] times their row's scale, rounded to BF16; a row of zeros. Whether one is wild.
 */
template <typename S>
static __device__ bool load_slice(uint16_t *slice, const uint16_t *values, const float *scales, int64_t first,
                                  int64_t depth) {
    const int n = threadIdx.x % S::COLS;
    const uint16_t *from = values + (first + n) * depth;
    const float scale = scales[first + n];
    bool wild = false;
#pragma unroll 4
    for (int64_t k = 8 * (threadIdx.x / S::COLS); k < depth; k += 8 * (S::THREADS / S::COLS)) {
        const ni_eight e = ni_eight_of(__ldg((const uint4 *)(from + k)));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint16_t w = ni_bf16_even(ni_f32_mul(e.x[i], scale));
            wild |= is_wild(w);
            slice[(k + i) * S::COLS + n] = w;
        }
    }
    if (threadIdx.x < S::COLS)
        slice[depth * S::COLS + threadIdx.x] = 0;
    return wild;
}

/* An entry as it came: nothing waits for it before it is used. */
typedef struct ni_entry {
    uint32_t value, column;
} ni_entry;

/* A row on its way: the numbers of its sum, and two entries a lane. */
template <typename S> struct arriving {
    float4 sum[2 * S::WORDS];
    ni_entry entries[2];
};

/* 32 bits count all numbers of a matrix (ni_cuda_can_finish). */
static __device__ int count_at(const ni_cuda_finish &f, int r) {
    return r < (int)f.rows_count ? __ldg(f.sparse.count + r) : 0;
}

static __device__ ni_entry entry_at(const ni_cuda_finish &f, int r, int e, int count) {
    ni_entry entry = {0x8000u, (uint32_t)f.depth};
    if (e < count) {
        const uint32_t at = (uint32_t)(r * (int)f.sparse.room + e);
        entry.value = __ldg(f.sparse.value + at);
        entry.column = (uint32_t)__ldg(f.sparse.column + at);
    }
    return entry;
}

template <typename S> static __device__ arriving<S> row_at(const ni_cuda_finish &f, int r, int n, int count) {
    const int lane = threadIdx.x % S::LANES;
    arriving<S> a = {};
    a.entries[0] = entry_at(f, r, lane, count);
    a.entries[1] = entry_at(f, r, S::LANES + lane, count);
    if (r < (int)f.rows_count)
#pragma unroll
        for (int w = 0; w < S::WORDS; w++) {
            const float4 *from = (const float4 *)(f.sum + (uint32_t)(r * (int)f.cols + n + 8 * S::LANES * w));
            a.sum[2 * w] = __ldg(from);
            a.sum[2 * w + 1] = __ldg(from + 1);
        }
    return a;
}

/* Of a word, in one instruction that the compiler does not take apart. */
static __device__ uint32_t low_half(uint32_t word) {
    uint32_t half;
    asm("prmt.b32 %0, %1, 0, 0x4410;" : "=r"(half) : "r"(word));
    return half;
}

/* The entries that the lanes of a row hold, one each, but for those behind the last. */
template <typename S, bool TAME>
static __device__ void add_entries(float *sum, uint32_t mine, const uint16_t *slice, int left) {
#pragma unroll
    for (int i = 0; i < S::LANES; i++) {
        if (i % S::STEP == 0 && i >= left)
            return;
        const uint32_t entry = __shfl_sync(~0u, mine, i, S::LANES);
        const float v = __uint_as_float(entry & 0xffff0000u);
        const uint4 *const from = (const uint4 *)slice + low_half(entry);
#pragma unroll
        for (int part = 0; part < S::WORDS; part++) {
            const uint4 w = from[S::LANES * part];
            const uint32_t pairs[4] = {w.x, w.y, w.z, w.w};
            float *const to = sum + 8 * part;
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float x = __uint_as_float(k % 2 ? pairs[k / 2] & 0xffff0000u : pairs[k / 2] << 16);
                to[k] = TAME ? __fmaf_rn(v, x, to[k]) : ni_f32_add(to[k], ni_f32_mul(v, x));
            }
        }
    }
}

/* All entries of a row; warps stay together. */
template <typename S>
static __device__ void add_row(const ni_cuda_finish &f, float *sum, const ni_entry *entries, const uint16_t *slice,
                               int r, int count, bool tame) {
    const int most = (int)__reduce_max_sync(~0u, (uint32_t)count), lane = threadIdx.x % S::LANES;
    for (int e = 0; e < most; e += S::LANES) {
        const ni_entry entry = e == 0 ? entries[0] : e == S::LANES ? entries[1] : entry_at(f, r, e + lane, count);
        const uint32_t mine = entry.value << 16 | entry.column * (S::COLS / 8); /* words of 16 bytes of the slice */
        if (__any_sync(~0u, !tame || is_wild(entry.value)))
            add_entries<S, false>(sum, mine, slice, most - e);
        else
            add_entries<S, true>(sum, mine, slice, most - e);
    }
}

/* The scales of the row and the columns, where they are not in the sum. */
template <typename S> static __device__ void put_scales(const ni_cuda_finish &f, float *sum, int r, int n) {
    const float scale = at_or_one(f.rows, r);
#pragma unroll
    for (int i = 0; i < S::LANE_COLS; i++)
        sum[i] = ni_f32_mul(sum[i], ni_f32_mul(scale, at_or_one(f.columns, n + i / 8 * 8 * S::LANES + i % 8)));
}

template <typename S>
static __global__ void __launch_bounds__(S::THREADS, 1) finish_sparse(const __grid_constant__ ni_cuda_finish f) {
    extern __shared__ __align__(16) uint16_t slice[];
    const int rows = (int)f.rows_count, stride = (int)gridDim.y * S::ROWS, lane = threadIdx.x % S::LANES,
              first = (int)blockIdx.x * S::COLS, n = first + 8 * lane;
    const bool scaled = f.rows.at || f.columns.at,
               tame = !__syncthreads_or(load_slice<S>(slice, f.weights, f.weight_scales, first, f.depth));
    ni_wait_for_it(); /* the weights were there before the sum was begun */
    int r = (int)blockIdx.y * S::ROWS + (int)threadIdx.x / S::LANES;
    int count = count_at(f, r), next_count = count_at(f, r + stride);
    arriving<S> row = row_at<S>(f, r, n, count);
    for (int of_warp = r - (int)threadIdx.x % 32 / S::LANES; of_warp < rows; of_warp += stride, r += stride) {
        const arriving<S> next = row_at<S>(f, r + stride, n, next_count);
        const int after = count_at(f, r + 2 * stride);
        float sum[S::LANE_COLS];
#pragma unroll
        for (int i = 0; i < S::LANE_COLS / 4; i++) {
            sum[4 * i] = row.sum[i].x;
            sum[4 * i + 1] = row.sum[i].y;
            sum[4 * i + 2] = row.sum[i].z;
            sum[4 * i + 3] = row.sum[i].w;
        }
        if (scaled && r < rows)
            put_scales<S>(f, sum, r, n);
        add_row<S>(f, sum, row.entries, slice + 8 * lane, r, count, tame);
        if (r < rows)
#pragma unroll
            for (int w = 0; w < S::WORDS; w++) {
                const float *x = sum + 8 * w;
                const ni_eight e = {{x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]}};
                __stcg((uint4 *)(f.out + r * f.out_stride + n + 8 * S::LANES * w), ni_word_of(e)); /* else in four */
            }
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

static int64_t slice_bytes(const ni_cuda_finish *f, int cols) {
    return (f->depth + 1) * cols * (int64_t)sizeof(uint16_t);
}

/* Columns of a slice; 0: none fits. */
static int slice_of(const ni_cuda_finish *f) {
    const int64_t most = ni_shared_bytes();
    for (int cols = 128; cols >= 16; cols /= 2)
        if (f->cols % cols == 0 && slice_bytes(f, cols) <= most)
            return cols;
    return 0;
}

bool ni_cuda_can_finish(const ni_cuda_finish *f) {
    const bool aligned =
        ni_aligned(f->sum) && ni_aligned(f->out) && f->out_stride % 8 == 0 && f->cols % 8 == 0 && f->rows_count > 0;
    if (!f->sparse.count)
        return aligned;
    const int64_t longest = f->cols > f->sparse.room ? f->cols : f->sparse.room;
    return aligned && f->rows_count * longest <= INT32_MAX && f->depth % 8 == 0 && ni_aligned(f->weights) &&
           slice_of(f) > 0;
}

/* A block a multiprocessor, each with its slice and its band of rows. */
template <typename S> static int launch_sparse(cudaStream_t on, const ni_cuda_finish *f, int multiprocessors) {
    const size_t bytes = (size_t)slice_bytes(f, S::COLS);
    const int64_t slices = f->cols / S::COLS, bands = multiprocessors / slices;
    const int64_t most = ni_divide_up(f->rows_count, S::ROWS);
    const cudaError_t code =
        cudaFuncSetAttribute(finish_sparse<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess)
        return code;
    const unsigned across = (unsigned)(bands < 1 ? 1 : bands < most ? bands : most);
    return ni_launch_following(on, finish_sparse<S>, dim3((unsigned)slices, across), S::THREADS, bytes, *f);
}

static int launch_sparse_by(cudaStream_t on, const ni_cuda_finish *f, int multiprocessors) {
    switch (slice_of(f)) {
    case 128:
        return launch_sparse<shape<128, 16, 1024>>(on, f, multiprocessors);
    case 64:
        return launch_sparse<shape<64, 8, 1024>>(on, f, multiprocessors);
    case 32:
        return launch_sparse<shape<32, 8, 1024>>(on, f, multiprocessors);
    default:
        return launch_sparse<shape<16, 8, 1024>>(on, f, multiprocessors);
    }
}

int ni_cuda_launch_finish(void *stream, const ni_cuda_finish *f, int multiprocessors) {
    cudaStream_t on = (cudaStream_t)stream;
    if (f->sparse.count)
        return launch_sparse_by(on, f, multiprocessors);
    finish_scaled<<<ni_grid(ni_divide_up(f->rows_count * (f->cols / 8), NI_THREADS)), NI_THREADS, 0, on>>>(*f);
    return cudaGetLastError();
}
