/* finish.cu: what is left of a product whose scales are of rows: its bare FP32 sum under them, plus a sparse matrix times
 * the same weights, rounded once to BF16:
 *
 *     out[r, n] = bf16(sum[r, n] (row[r] col[n]) + S[r, 0] w[k0, n] + S[r, 1] w[k1, n] + ...)     entries in order
 *
 * A block keeps a slice of the weights, decoded and turned, in shared memory, and takes many rows through it: 8 lanes a
 * row and four columns a lane, or half of that where the contraction is long.
 */
#include "backend/cuda/finish.h"

#include "backend/cuda/launch.cuh"
#include "format/ieee.h"

enum { FINISH_THREADS = 512, MOST_ENTRIES_DEPTH = 65536 };

static __device__ float at_or_one(const ni_cuda_outer &o, int64_t i) {
    return o.at ? o.at[i * o.step] : 1.0f;
}

/* w[k, n - first] of the slice: values [n, k] times their row's scale, rounded to BF16. */
template <int COLS> static __device__ void load_slice(uint16_t *slice, const uint16_t *values, const float *scales, int64_t first, int64_t depth) {
    const int n = threadIdx.x % COLS;
    const uint16_t *from = values + (first + n) * depth;
    const float scale = scales[first + n];
    for (int64_t k = 8 * (threadIdx.x / COLS); k < depth; k += 8 * (FINISH_THREADS / COLS)) {
        const ni_eight e = ni_load_eight(from + k);
#pragma unroll
        for (int i = 0; i < 8; i++)
            slice[(k + i) * COLS + n] = ni_bf16_even(ni_f32_mul(e.x[i], scale));
    }
}

template <int COLS> static __global__ void __launch_bounds__(FINISH_THREADS) finish_sparse(const __grid_constant__ ni_cuda_finish f) {
    constexpr int LANES = COLS / 4, ROWS = FINISH_THREADS / LANES;
    extern __shared__ __align__(16) uint16_t slice[];
    const int64_t first = (int64_t)blockIdx.x * COLS;
    const int lane = threadIdx.x % LANES;
    const int64_t n = first + 4 * lane;
    const uint32_t mates = (LANES == 8 ? 0xffu : 0xfu) << (threadIdx.x % 32 / LANES * LANES);
    load_slice<COLS>(slice, f.weights, f.weight_scales, first, f.depth);
    float columns[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        columns[i] = at_or_one(f.columns, n + i);
    __syncthreads();
    for (int64_t r = (int64_t)blockIdx.y * ROWS + threadIdx.x / LANES; r < f.rows_count; r += (int64_t)gridDim.y * ROWS) {
        const float4 in = *(const float4 *)(f.sum + r * f.cols + n);
        const float row = at_or_one(f.rows, r), bare[4] = {in.x, in.y, in.z, in.w};
        float sum[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[i] = ni_f32_mul(bare[i], ni_f32_mul(row, columns[i]));
        const int32_t count = f.sparse.count[r];
        const int64_t entries = r * f.sparse.room;
        for (int32_t e = 0; e < count; e += LANES) {
            uint32_t mine = 0; /* value above, column below */
            if (e + lane < count)
                mine = (uint32_t)f.sparse.value[entries + e + lane] << 16 | (uint32_t)f.sparse.column[entries + e + lane];
#pragma unroll
            for (int i = 0; i < LANES; i++) {
                if (e + i >= count)
                    break;
                const uint32_t entry = __shfl_sync(mates, mine, i, LANES);
                const float v = __uint_as_float(entry & 0xffff0000u);
                const uint2 w = *(const uint2 *)(slice + (entry & 0xffffu) * COLS + 4 * lane);
                sum[0] = ni_f32_add(sum[0], ni_f32_mul(v, __uint_as_float(w.x << 16)));
                sum[1] = ni_f32_add(sum[1], ni_f32_mul(v, __uint_as_float(w.x & 0xffff0000u)));
                sum[2] = ni_f32_add(sum[2], ni_f32_mul(v, __uint_as_float(w.y << 16)));
                sum[3] = ni_f32_add(sum[3], ni_f32_mul(v, __uint_as_float(w.y & 0xffff0000u)));
            }
        }
        *(uint2 *)(f.out + r * f.out_stride + n) = make_uint2(ni_pack_two(sum[0], sum[1]), ni_pack_two(sum[2], sum[3]));
    }
}

static __global__ void __launch_bounds__(NI_THREADS) finish_scaled(const __grid_constant__ ni_cuda_finish f) {
    const uint32_t eights = (uint32_t)(f.cols / 8);
    for (NI_EACH(i, f.rows_count *eights)) {
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

/* Columns of a slice; 0: none fits. */
static int slice_of(const ni_cuda_finish *f) {
    const int64_t most = 224 << 10;
    if (f->cols % 32 == 0 && f->depth * 32 * (int64_t)sizeof(uint16_t) <= most)
        return 32;
    return f->cols % 16 == 0 && f->depth * 16 * (int64_t)sizeof(uint16_t) <= most ? 16 : 0;
}

bool ni_cuda_can_finish(const ni_cuda_finish *f) {
    const bool aligned = ni_aligned(f->sum) && ni_aligned(f->out) && f->out_stride % 8 == 0 && f->cols % 8 == 0 && f->rows_count > 0;
    if (!f->sparse.count)
        return aligned;
    return aligned && f->depth % 8 == 0 && f->depth < MOST_ENTRIES_DEPTH && ni_aligned(f->weights) && slice_of(f) > 0;
}

template <int COLS> static int launch_sparse(cudaStream_t on, const ni_cuda_finish *f, int multiprocessors) {
    const size_t bytes = (size_t)f->depth * COLS * sizeof(uint16_t);
    const int64_t fit = (int64_t)((227 << 10) / (bytes + 1024)), together = fit < 1 ? 1 : fit < 4 ? fit : 4; /* blocks of a multiprocessor */
    const int64_t slices = f->cols / COLS, bands = multiprocessors * together / slices;
    const int64_t most = ni_divide_up(f->rows_count, FINISH_THREADS / (COLS / 4));
    const cudaError_t code = cudaFuncSetAttribute(finish_sparse<COLS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess)
        return code;
    finish_sparse<COLS><<<dim3((unsigned)slices, (unsigned)(bands < 1 ? 1 : bands < most ? bands : most)), FINISH_THREADS, bytes, on>>>(*f);
    return cudaGetLastError();
}

int ni_cuda_launch_finish(void *stream, const ni_cuda_finish *f, int multiprocessors) {
    cudaStream_t on = (cudaStream_t)stream;
    if (f->sparse.count)
        return slice_of(f) == 32 ? launch_sparse<32>(on, f, multiprocessors) : launch_sparse<16>(on, f, multiprocessors);
    finish_scaled<<<ni_grid(ni_divide_up(f->rows_count * (f->cols / 8), NI_THREADS)), NI_THREADS, 0, on>>>(*f);
    return cudaGetLastError();
}

/* ---- values without their scale, times it ---- */

static __global__ void __launch_bounds__(NI_THREADS) scale_values(uint16_t *out, const uint16_t *values, const float *scale, int64_t eights) {
    for (NI_EACH(i, eights)) {
        ni_eight e = ni_load_eight(values + 8 * i);
#pragma unroll
        for (int k = 0; k < 8; k++)
            e.x[k] = ni_f32_mul(e.x[k], *scale);
        ni_store_eight(out + 8 * i, e);
    }
}

int ni_cuda_launch_scale_values(void *stream, uint16_t *out, const uint16_t *values, const float *scale, int64_t n) {
    scale_values<<<ni_grid(ni_divide_up(n / 8, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(out, values, scale, n / 8);
    return cudaGetLastError();
}
