/* norm.cu: RMSNorm, plain and gated, and the decay gate of GLA: a warp takes a row.
 *
 * Sums over rows (dw, dbias) are made in two steps: each warp adds up its rows in order in shared memory, each block the
 * sums of its warps, and a last kernel those of the blocks. Which rows are whose depends on the number of rows alone.
 *
 * Where the maximum of turned columns is asked for (nb_mat.turned_amax), a block has 16 neighbouring rows, leaves them in
 * shared memory as well, and reads them there down the columns.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/tile.cuh"

enum { MOST_BLOCKS = 264 };

static __device__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

static int64_t blocks_for(int64_t n) {
    int64_t blocks = ni_divide_up(n, NI_WARPS);
    return blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS;
}

size_t ni_cuda_partial_bytes(int64_t n, int64_t dim) {
    return (size_t)(blocks_for(n) * dim) * sizeof(float);
}

/* for (NI_ROWS(r, n)): the rows of this warp. */
#define NI_ROWS(r, n)                                                                                                  \
    int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32;                                                     \
    r < (n);                                                                                                           \
    r += (int64_t)gridDim.x * NI_WARPS

/* ---- forward ---- */

static __device__ float row_rstd(const uint16_t *x, int64_t dim, float eps, bool eights) {
    const int lane = threadIdx.x % 32;
    float squares = 0;
    if (eights)
        for (int64_t c = 8 * lane; c < dim; c += 256) {
            ni_eight e = ni_load_eight(x + c);
#pragma unroll
            for (int j = 0; j < 8; j++)
                squares += e.x[j] * e.x[j];
        }
    else
        for (int64_t c = lane; c < dim; c += 32)
            squares += ni_bf16_value(x[c]) * ni_bf16_value(x[c]);
    return 1.0f / sqrtf(ni_warp_sum(squares) / (float)dim + eps);
}

static __device__ void add_row(uint16_t *sum, const uint16_t *x, const uint16_t *change, int64_t dim) {
    for (int64_t c = threadIdx.x % 32; c < dim; c += 32)
        sum[c] = ni_bf16_even(ni_bf16_value(x[c]) + ni_bf16_value(change[c]));
    __syncwarp();
}

static __device__ float finished(const ni_cuda_norm &norm, int64_t at, float normed) {
    normed = ni_bf16_round(normed);
    return norm.add ? ni_bf16_round(ni_bf16_value(norm.add[at]) + normed) : normed;
}

/* ---- rows that fit registers: eight neighbours a lane, chunk after chunk of 256 ---- */

enum { MOST_CHUNKS = 8 };

static __device__ __forceinline__ ni_eight unpacked(uint4 word) {
    const uint32_t w[4] = {word.x, word.y, word.z, word.w};
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        e.x[2 * i] = __uint_as_float(w[i] << 16);
        e.x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
    return e;
}

/* How many chunks a row has; 0: it is too long to be kept. */
static int chunks_of(int64_t dim) {
    const int64_t chunks = ni_divide_up(dim, 256);
    return dim % 8 == 0 && chunks <= MOST_CHUNKS ? (int)chunks : 0;
}

#define FOR_CHUNKS(chunks, LAUNCH)                                                                                     \
    switch (chunks) {                                                                                                  \
    case 1: LAUNCH(1); break;                                                                                          \
    case 2: LAUNCH(2); break;                                                                                          \
    case 3: LAUNCH(3); break;                                                                                          \
    case 4: LAUNCH(4); break;                                                                                          \
    case 5: LAUNCH(5); break;                                                                                          \
    case 6: LAUNCH(6); break;                                                                                          \
    case 7: LAUNCH(7); break;                                                                                          \
    default: LAUNCH(8);                                                                                                \
    }

/* Chunks of a row as they lie; zeros beyond its end. */
template <int CHUNKS> static __device__ __forceinline__ void load_row(uint4 (&row)[CHUNKS], const uint16_t *from, int dim) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * lane + 256 * k;
        row[k] = c < dim ? *(const uint4 *)(from + c) : make_uint4(0, 0, 0, 0);
    }
}

static __device__ __forceinline__ void load_factors(float (&w)[8], const float *from) {
    const float4 low = *(const float4 *)from, high = *(const float4 *)(from + 4);
    w[0] = low.x, w[1] = low.y, w[2] = low.z, w[3] = low.w;
    w[4] = high.x, w[5] = high.y, w[6] = high.z, w[7] = high.w;
}

static __device__ __forceinline__ uint4 packed(const ni_eight &e) {
    return make_uint4(ni_pack_two(e.x[0], e.x[1]), ni_pack_two(e.x[2], e.x[3]), ni_pack_two(e.x[4], e.x[5]),
                      ni_pack_two(e.x[6], e.x[7]));
}

/* x + change, where there is one, rounded and left in `sum`. */
template <int CHUNKS>
static __device__ __forceinline__ void load_sum(uint4 (&row)[CHUNKS], const ni_cuda_norm &norm, int64_t at, int dim) {
    const int lane = threadIdx.x % 32;
    load_row(row, norm.x + at, dim);
    if (!norm.change)
        return;
    uint4 change[CHUNKS];
    load_row(change, norm.change + at, dim);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        ni_eight a = unpacked(row[k]), b = unpacked(change[k]);
#pragma unroll
        for (int j = 0; j < 8; j++)
            a.x[j] += b.x[j];
        row[k] = packed(a);
        if (8 * lane + 256 * k < dim)
            *(uint4 *)(norm.sum + at + 8 * lane + 256 * k) = row[k];
    }
}

/* One row: its sum, if it is one, its rstd and y, which stays in `row`. */
template <int CHUNKS>
static __device__ __forceinline__ void norm_row(uint4 (&row)[CHUNKS], const ni_cuda_norm &norm, int64_t r, int dim) {
    const int lane = threadIdx.x % 32;
    load_sum(row, norm, r * dim, dim);
    float squares = 0;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const ni_eight e = unpacked(row[k]);
#pragma unroll
        for (int j = 0; j < 8; j++)
            squares += e.x[j] * e.x[j];
    }
    const float rs = 1.0f / sqrtf(ni_warp_sum(squares) / (float)dim + norm.eps);
    if (lane == 0)
        norm.rstd[r] = rs;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * lane + 256 * k;
        if (c >= dim)
            break;
        ni_eight e = unpacked(row[k]);
        float w[8];
        load_factors(w, norm.w + c);
#pragma unroll
        for (int j = 0; j < 8; j++)
            e.x[j] = finished(norm, r * dim + c + j, e.x[j] * rs * w[j]);
        row[k] = packed(e);
        *(uint4 *)(norm.y + r * dim + c) = row[k];
    }
}

static __device__ __forceinline__ uint32_t larger_of_four(uint32_t pairs, const uint4 &four) {
    return ni_larger_pair(ni_larger_pair(ni_larger_pair(ni_larger_pair(pairs, four.x), four.y), four.z), four.w);
}

/* What lies beyond the end of a row is zero. */
template <int CHUNKS> static __device__ __forceinline__ uint32_t larger_of_row(uint32_t pairs, const uint4 (&row)[CHUNKS]) {
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        pairs = larger_of_four(pairs, row[k]);
    return pairs;
}

template <int CHUNKS> static __global__ void rmsnorm_forward_kept(const __grid_constant__ ni_cuda_norm norm) {
    uint32_t pairs = 0;
    for (NI_ROWS(r, norm.n)) {
        uint4 row[CHUNKS];
        norm_row(row, norm, r, (int)norm.dim);
        pairs = larger_of_row(pairs, row);
    }
    __syncwarp();
    ni_join_amax(norm.amax, ni_larger_half(pairs));
}

/* ---- sixteen rows, and down their columns ---- */

enum { BAND = 16 };

/* Words of a row in shared memory; four more keep its neighbours' banks apart where rows are written. */
static __host__ __device__ inline int band_pitch(int64_t dim) {
    return (int)dim / 2 + 4;
}

static size_t band_bytes(int64_t dim) {
    return BAND * (size_t)band_pitch(dim) * sizeof(uint32_t);
}

template <int CHUNKS> static __device__ __forceinline__ void leave_row(uint32_t *band, int i, const uint4 (&row)[CHUNKS], int dim) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        if (8 * lane + 256 * k < dim)
            *(uint4 *)(band + i * band_pitch(dim) + 4 * lane + 128 * k) = row[k];
}

static __device__ __forceinline__ uint32_t larger_of_band(uint32_t largest, const uint32_t *band, int dim) {
    for (int c = threadIdx.x; c < dim / 2; c += NI_THREADS) {
        uint32_t pairs[BAND];
#pragma unroll
        for (int i = 0; i < BAND; i++)
            pairs[i] = band[i * band_pitch(dim) + c];
        largest = max(largest, ni_turned_amax(pairs));
    }
    return largest;
}

template <int CHUNKS> static __global__ void __launch_bounds__(NI_THREADS) rmsnorm_forward_bands(const __grid_constant__ ni_cuda_norm norm) {
    extern __shared__ __align__(16) uint32_t band[];
    const int dim = (int)norm.dim;
    uint32_t pairs = 0;
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < BAND; i += NI_WARPS) {
        uint4 row[CHUNKS];
        norm_row(row, norm, blockIdx.x * (int64_t)BAND + i, dim);
        leave_row(band, i, row, dim);
        pairs = larger_of_row(pairs, row);
    }
    __syncthreads();
    const uint32_t turned = larger_of_band(0, band, dim);
    __syncwarp();
    ni_join_amax(norm.amax, ni_larger_half(pairs));
    ni_join_amax(norm.turned_amax, turned);
}

static __global__ void rmsnorm_forward(ni_cuda_norm norm, bool eights) {
    const int lane = threadIdx.x % 32;
    const int64_t dim = norm.dim;
    uint32_t largest = 0;
    for (NI_ROWS(r, norm.n)) {
        const uint16_t *in = norm.x + r * dim;
        if (norm.change) {
            add_row(norm.sum + r * dim, in, norm.change + r * dim, dim);
            in = norm.sum + r * dim;
        }
        float rs = row_rstd(in, dim, norm.eps, eights);
        if (lane == 0)
            norm.rstd[r] = rs;
        if (eights)
            for (int64_t c = 8 * lane; c < dim; c += 256) {
                ni_eight e = ni_load_eight(in + c);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    e.x[j] = finished(norm, r * dim + c + j, e.x[j] * rs * norm.w[c + j]);
                    largest = max(largest, ni_f32_magnitude(e.x[j]));
                }
                ni_store_eight(norm.y + r * dim + c, e);
            }
        else
            for (int64_t c = lane; c < dim; c += 32) {
                float out = finished(norm, r * dim + c, ni_bf16_value(in[c]) * rs * norm.w[c]);
                largest = max(largest, ni_f32_magnitude(out));
                norm.y[r * dim + c] = ni_bf16_even(out);
            }
    }
    __syncwarp();
    ni_join_amax(norm.amax, largest);
}

template <int CHUNKS> static int launch_forward_bands(cudaStream_t on, const ni_cuda_norm *norm) {
    const size_t bytes = band_bytes(norm->dim);
    const int code = cudaFuncSetAttribute(rmsnorm_forward_bands<CHUNKS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code == cudaSuccess)
        rmsnorm_forward_bands<CHUNKS><<<(unsigned)(norm->n / BAND), NI_THREADS, bytes, on>>>(*norm);
    return code;
}

int ni_cuda_launch_rmsnorm_forward(void *stream, const ni_cuda_norm *norm) {
    cudaStream_t on = (cudaStream_t)stream;
    bool eights = norm->dim % 8 == 0 && ni_aligned(norm->y) && ni_aligned(norm->x) && (!norm->change || (ni_aligned(norm->sum) && ni_aligned(norm->change)));
    int code = ni_cuda_clear_amaxes(stream, norm->amax, norm->turned_amax);
    if (norm->n == 0 || code != cudaSuccess)
        return code;
    const unsigned blocks = ni_grid(ni_divide_up(norm->n, NI_WARPS));
    const int chunks = eights && ni_aligned(norm->w) ? chunks_of(norm->dim) : 0;
    const bool bands = chunks && norm->turned_amax && norm->n % BAND == 0;
#define FORWARD(CHUNKS) rmsnorm_forward_kept<CHUNKS><<<blocks, NI_THREADS, 0, on>>>(*norm)
#define FORWARD_BANDS(CHUNKS) code = launch_forward_bands<CHUNKS>(on, norm)
    if (bands)
        FOR_CHUNKS(chunks, FORWARD_BANDS)
    else if (chunks)
        FOR_CHUNKS(chunks, FORWARD)
    else
        rmsnorm_forward<<<blocks, NI_THREADS, 0, on>>>(*norm, eights);
    if (code == cudaSuccess)
        code = cudaGetLastError();
    return bands || code != cudaSuccess ? code : ni_cuda_find_turned(stream, norm->y, norm->n, norm->dim, norm->dim, norm->turned_amax);
}

static __global__ void gated_norm_forward(uint16_t *y, uint32_t *amax, float *rstd, const uint16_t *o, const uint16_t *g,
                                          const float *w, int64_t n, int64_t dim, float eps) {
    const int lane = threadIdx.x % 32;
    uint32_t largest = 0;
    for (NI_ROWS(r, n)) {
        float rs = row_rstd(o + r * dim, dim, eps, false);
        if (lane == 0)
            rstd[r] = rs;
        for (int64_t c = lane; c < dim; c += 32) {
            float gate = ni_bf16_value(g[r * dim + c]);
            float out = ni_bf16_round(ni_bf16_value(o[r * dim + c]) * rs * w[c] * gate * sigmoid(gate));
            largest = max(largest, ni_f32_magnitude(out));
            y[r * dim + c] = ni_bf16_even(out);
        }
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

int ni_cuda_launch_gated_norm_forward(void *stream, uint16_t *y, uint32_t *amax, float *rstd, const uint16_t *o,
                                      const uint16_t *g, const float *w, int64_t n, int64_t dim, float eps) {
    cudaStream_t on = (cudaStream_t)stream;
    if (amax)
        cudaMemsetAsync(amax, 0, sizeof *amax, on);
    if (n > 0)
        gated_norm_forward<<<ni_grid(ni_divide_up(n, NI_WARPS)), NI_THREADS, 0, on>>>(y, amax, rstd, o, g, w, n, dim, eps);
    return cudaGetLastError();
}

/* ---- sums over rows ---- */

/* sums [NI_WARPS, dim] of shared memory -> this block's row of partial. */
static __device__ void leave_partial(float *partial, const float *sums, int64_t dim) {
    __syncthreads();
    for (int64_t c = threadIdx.x; c < dim; c += blockDim.x) {
        float sum = 0;
        for (int i = 0; i < NI_WARPS; i++)
            sum += sums[i * dim + c];
        partial[blockIdx.x * dim + c] = sum;
    }
}

static __device__ float *clear_sums(float *sums, int64_t dim) {
    for (int64_t c = threadIdx.x; c < NI_WARPS * dim; c += blockDim.x)
        sums[c] = 0;
    __syncthreads();
    return sums + threadIdx.x / 32 * dim;
}

enum { SUM_COLUMNS = 32, SUM_PARTS = NI_THREADS / SUM_COLUMNS };

/* A block adds up 32 columns: each of its parts every eighth row, then the parts in order. */
static __global__ void add_partials(float *out, const float *partial, int blocks, int64_t dim) {
    __shared__ float parts[SUM_PARTS][SUM_COLUMNS];
    const int column = threadIdx.x % SUM_COLUMNS, part = threadIdx.x / SUM_COLUMNS;
    const int64_t c = blockIdx.x * (int64_t)SUM_COLUMNS + column;
    float sum = 0;
    if (c < dim)
#pragma unroll 8
        for (int b = part; b < blocks; b += SUM_PARTS)
            sum += partial[b * dim + c];
    parts[part][column] = sum;
    __syncthreads();
    if (part != 0 || c >= dim)
        return;
    sum = 0;
    for (int i = 0; i < SUM_PARTS; i++)
        sum += parts[i][column];
    out[c] += sum;
}

static int finish_sums(cudaStream_t on, float *out, const float *partial, int64_t blocks, int64_t dim) {
    add_partials<<<(unsigned)ni_divide_up(dim, SUM_COLUMNS), NI_THREADS, 0, on>>>(out, partial, (int)blocks, dim);
    return cudaGetLastError();
}

static size_t shared_bytes(int64_t dim) {
    return NI_WARPS * (size_t)dim * sizeof(float);
}

/* More than 48 KB of shared memory must be asked for. */
template <typename Kernel> static int room_for(Kernel kernel, int64_t dim) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes(dim));
}

/* ---- backward ---- */

static __global__ void rmsnorm_backward(ni_cuda_norm_slopes d) {
    extern __shared__ float sums[];
    const int lane = threadIdx.x % 32;
    const int64_t dim = d.dim;
    float *dw = clear_sums(sums, dim);
    uint32_t largest = 0;
    for (NI_ROWS(r, d.n)) {
        float rs = d.rstd[r], mean = 0;
        for (int64_t c = lane; c < dim; c += 32)
            mean += ni_bf16_value(d.x[r * dim + c]) * rs * d.w[c] * ni_bf16_value(d.dy[r * dim + c]);
        mean = ni_warp_sum(mean) / (float)dim;
        for (int64_t c = lane; c < dim; c += 32) {
            float dout = ni_bf16_value(d.dy[r * dim + c]), normed = ni_bf16_value(d.x[r * dim + c]) * rs;
            dw[c] += dout * normed;
            float dx = ni_bf16_round(rs * (d.w[c] * dout - normed * mean));
            if (d.into)
                dx = ni_bf16_round(ni_bf16_value(d.dx[r * dim + c]) + dx);
            largest = max(largest, ni_f32_magnitude(dx));
            d.dx[r * dim + c] = ni_bf16_even(dx);
        }
    }
    __syncwarp();
    ni_join_amax(d.amax, largest);
    leave_partial(d.partial, sums, dim);
}

/* Row r of the same, with its columns' sums in registers: x and dy are read once. The slopes stay in `row`. */
template <int CHUNKS>
static __device__ __forceinline__ void slope_row(uint4 (&row)[CHUNKS], float (&dw)[CHUNKS][8], const ni_cuda_norm_slopes &d, int64_t r, int dim) {
    const int lane = threadIdx.x % 32;
    uint4 x[CHUNKS], dy[CHUNKS];
    load_row(x, d.x + r * dim, dim);
    load_row(dy, d.dy + r * dim, dim);
    if (d.into)
        load_row(row, d.dx + r * dim, dim);
    const float rs = d.rstd[r];
    float mean = 0;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * lane + 256 * k;
        if (c >= dim)
            break;
        const ni_eight in = unpacked(x[k]), out = unpacked(dy[k]);
        float w[8];
        load_factors(w, d.w + c);
#pragma unroll
        for (int j = 0; j < 8; j++)
            mean += in.x[j] * rs * w[j] * out.x[j];
    }
    mean = ni_warp_sum(mean) / (float)dim;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * lane + 256 * k;
        if (c >= dim) {
            row[k] = make_uint4(0, 0, 0, 0);
            continue;
        }
        const ni_eight in = unpacked(x[k]), out = unpacked(dy[k]);
        ni_eight slope, old = {};
        if (d.into)
            old = unpacked(row[k]);
        float w[8];
        load_factors(w, d.w + c);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float normed = in.x[j] * rs;
            dw[k][j] += out.x[j] * normed;
            slope.x[j] = ni_bf16_round(rs * (w[j] * out.x[j] - normed * mean));
            if (d.into)
                slope.x[j] = ni_bf16_round(old.x[j] + slope.x[j]);
        }
        row[k] = packed(slope);
        *(uint4 *)(d.dx + r * dim + c) = row[k];
    }
}

static __device__ __forceinline__ void expect_line(const uint16_t *at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

/* Row r comes nearer while the block looks at its columns: 64 numbers a lane. */
static __device__ __forceinline__ void expect_row(const ni_cuda_norm_slopes &d, int64_t r, int dim) {
    const int c = 64 * (threadIdx.x % 32);
    if (r >= d.n || c >= dim)
        return;
    expect_line(d.x + r * dim + c);
    expect_line(d.dy + r * dim + c);
    if (d.into)
        expect_line(d.dx + r * dim + c);
}

/* A block takes 16 neighbouring rows at a time. */
template <int CHUNKS, bool TURNED>
static __global__ void __launch_bounds__(NI_THREADS) rmsnorm_backward_kept(const __grid_constant__ ni_cuda_norm_slopes d) {
    extern __shared__ __align__(16) float sums[];
    uint32_t *const band = (uint32_t *)sums; /* until the sums are left there */
    const int lane = threadIdx.x % 32, dim = (int)d.dim;
    float dw[CHUNKS][8] = {};
    uint32_t pairs = 0, turned = 0;
    for (int64_t first = blockIdx.x * (int64_t)BAND; first < d.n; first += gridDim.x * (int64_t)BAND) {
#pragma unroll 1
        for (int i = threadIdx.x / 32; i < BAND && first + i < d.n; i += NI_WARPS) {
            uint4 row[CHUNKS];
            slope_row(row, dw, d, first + i, dim);
            pairs = larger_of_row(pairs, row);
            if (TURNED)
                leave_row(band, i, row, dim);
        }
        if (TURNED) {
            for (int i = threadIdx.x / 32; i < BAND; i += NI_WARPS)
                expect_row(d, first + gridDim.x * (int64_t)BAND + i, dim);
            __syncthreads();
            turned = larger_of_band(turned, band, dim);
            __syncthreads();
        }
    }
    __syncwarp();
    ni_join_amax(d.amax, ni_larger_half(pairs));
    if (TURNED)
        ni_join_amax(d.turned_amax, turned);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (8 * lane + 256 * k < dim)
                sums[threadIdx.x / 32 * dim + 8 * lane + 256 * k + j] = dw[k][j];
    leave_partial(d.partial, sums, dim);
}

static int64_t band_blocks(int64_t n) {
    const int64_t bands = ni_divide_up(n, BAND);
    return bands < MOST_BLOCKS ? bands : MOST_BLOCKS;
}

template <int CHUNKS, bool TURNED> static int launch_backward_kept(cudaStream_t on, const ni_cuda_norm_slopes *d) {
    const size_t sums = shared_bytes(d->dim), band = TURNED ? band_bytes(d->dim) : 0, bytes = sums > band ? sums : band;
    const int code = cudaFuncSetAttribute(rmsnorm_backward_kept<CHUNKS, TURNED>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code == cudaSuccess)
        rmsnorm_backward_kept<CHUNKS, TURNED><<<(unsigned)band_blocks(d->n), NI_THREADS, bytes, on>>>(*d);
    return code;
}

int ni_cuda_launch_rmsnorm_backward(void *stream, const ni_cuda_norm_slopes *d) {
    cudaStream_t on = (cudaStream_t)stream;
    const bool together = ni_aligned(d->dx) && ni_aligned(d->dy) && ni_aligned(d->x) && ni_aligned(d->w);
    const int chunks = together ? chunks_of(d->dim) : 0;
    const bool turned = chunks && d->turned_amax && d->n % BAND == 0;
    int code = chunks ? cudaSuccess : room_for(rmsnorm_backward, d->dim);
    if (code == cudaSuccess)
        code = ni_cuda_clear_amaxes(stream, d->amax, d->turned_amax);
    if (d->n == 0 || code != cudaSuccess)
        return code;
#define BACKWARD(CHUNKS) code = launch_backward_kept<CHUNKS, false>(on, d)
#define BACKWARD_TURNED(CHUNKS) code = launch_backward_kept<CHUNKS, true>(on, d)
    if (turned)
        FOR_CHUNKS(chunks, BACKWARD_TURNED)
    else if (chunks)
        FOR_CHUNKS(chunks, BACKWARD)
    else
        rmsnorm_backward<<<(unsigned)blocks_for(d->n), NI_THREADS, shared_bytes(d->dim), on>>>(*d);
    if (code == cudaSuccess)
        code = finish_sums(on, d->dw, d->partial, chunks ? band_blocks(d->n) : blocks_for(d->n), d->dim);
    return turned || code != cudaSuccess ? code : ni_cuda_find_turned(stream, d->dx, d->n, d->dim, d->dim, d->turned_amax);
}

static __global__ void gated_norm_backward(uint16_t *do_, uint16_t *dg, uint32_t *dg_amax, float *partial, const uint16_t *dy, const uint16_t *o,
                                           const uint16_t *g, const float *w, const float *rstd, int64_t n, int64_t dim) {
    extern __shared__ float sums[];
    const int lane = threadIdx.x % 32;
    float *dw = clear_sums(sums, dim);
    uint32_t largest = 0;
    for (NI_ROWS(r, n)) {
        float rs = rstd[r], mean = 0;
        for (int64_t c = lane; c < dim; c += 32) {
            float gate = ni_bf16_value(g[r * dim + c]);
            mean += ni_bf16_value(o[r * dim + c]) * rs * w[c] * ni_bf16_value(dy[r * dim + c]) * gate * sigmoid(gate);
        }
        mean = ni_warp_sum(mean) / (float)dim;
        for (int64_t c = lane; c < dim; c += 32) {
            float gate = ni_bf16_value(g[r * dim + c]), s = sigmoid(gate), d = ni_bf16_value(dy[r * dim + c]);
            float normed = ni_bf16_value(o[r * dim + c]) * rs;
            dw[c] += d * normed * gate * s;
            float slope = ni_bf16_round(d * w[c] * normed * s * (1.0f + gate * (1.0f - s)));
            largest = max(largest, ni_f32_magnitude(slope));
            dg[r * dim + c] = ni_bf16_even(slope);
            do_[r * dim + c] = ni_bf16_even(rs * (w[c] * d * gate * s - normed * mean));
        }
    }
    __syncwarp();
    ni_join_amax(dg_amax, largest);
    leave_partial(partial, sums, dim);
}

int ni_cuda_launch_gated_norm_backward(void *stream, uint16_t *do_, uint16_t *dg, uint32_t *dg_amax, float *dw, const uint16_t *dy, const uint16_t *o,
                                       const uint16_t *g, const float *w, const float *rstd, int64_t n, int64_t dim, float *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    int code = room_for(gated_norm_backward, dim);
    if (dg_amax)
        cudaMemsetAsync(dg_amax, 0, sizeof *dg_amax, on);
    if (n == 0 || code != cudaSuccess)
        return code;
    gated_norm_backward<<<(unsigned)blocks_for(n), NI_THREADS, shared_bytes(dim), on>>>(do_, dg, dg_amax, partial, dy, o, g, w, rstd, n, dim);
    return finish_sums(on, dw, partial, blocks_for(n), dim);
}

/* ---- the decay gate of GLA ---- */

static __device__ float logsigmoid(float x) {
    return (x < 0.0f ? x : 0.0f) - log1pf(expf(-fabsf(x)));
}

static __global__ void gate_forward(float *gate, const uint16_t *a, const float *bias, int64_t n, int64_t dim, float normalizer, float clamp) {
    for (NI_EACH(i, n *dim)) {
        float decay = logsigmoid(ni_bf16_value(a[i]) + bias[i % dim]) / normalizer;
        gate[i] = decay < clamp ? clamp : decay;
    }
}

int ni_cuda_launch_gate_forward(void *stream, float *gate, const uint16_t *a, const float *bias, int64_t n, int64_t dim, float normalizer, float clamp) {
    if (n * dim > 0)
        gate_forward<<<ni_grid(ni_divide_up(n * dim, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(gate, a, bias, n, dim, normalizer, clamp);
    return cudaGetLastError();
}

static __global__ void gate_backward(uint16_t *da, float *partial, const float *dgate, const uint16_t *a, const float *bias, int64_t n, int64_t dim, float normalizer, float clamp) {
    extern __shared__ float sums[];
    float *dbias = clear_sums(sums, dim);
    for (NI_ROWS(r, n))
        for (int64_t c = threadIdx.x % 32; c < dim; c += 32) {
            float x = ni_bf16_value(a[r * dim + c]) + bias[c];
            bool clamped = logsigmoid(x) / normalizer < clamp;
            float dx = clamped ? 0.0f : dgate[r * dim + c] * sigmoid(-x) / normalizer;
            da[r * dim + c] = ni_bf16_even(dx);
            dbias[c] += dx;
        }
    leave_partial(partial, sums, dim);
}

int ni_cuda_launch_gate_backward(void *stream, uint16_t *da, float *dbias, const float *dgate, const uint16_t *a, const float *bias, int64_t n, int64_t dim, float normalizer, float clamp, float *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    int code = room_for(gate_backward, dim);
    if (n == 0 || code != cudaSuccess)
        return code;
    gate_backward<<<(unsigned)blocks_for(n), NI_THREADS, shared_bytes(dim), on>>>(da, partial, dgate, a, bias, n, dim, normalizer, clamp);
    return finish_sums(on, dbias, partial, blocks_for(n), dim);
}
