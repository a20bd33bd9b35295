/* norm.cu: RMSNorm: a warp takes a row.
 *
 * Where the maximum of turned columns is asked for (nb_mat.turned_amax), a block has 16 neighbouring rows, leaves them in
 * shared memory as well, and reads them there down the columns.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/norm.cuh"
#include "backend/cuda/norm_row.cuh"
#include "backend/cuda/turned.cuh"

/* ---- forward ---- */

static __device__ void add_row(uint16_t *sum, const uint16_t *x, const uint16_t *change, int64_t dim) {
    for (int64_t c = threadIdx.x % 32; c < dim; c += 32)
        sum[c] = ni_bf16_even(ni_bf16_value(x[c]) + ni_bf16_value(change[c]));
    __syncwarp();
}

/* What lies beyond the end of a row is zero. */
template <int CHUNKS>
static __device__ __forceinline__ uint32_t larger_of_row(uint32_t pairs, const uint4 (&row)[CHUNKS]) {
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        pairs = ni_larger_of_four(pairs, row[k]);
    return pairs;
}

template <int CHUNKS> static __global__ void rmsnorm_forward_kept(const __grid_constant__ ni_cuda_norm norm) {
    uint32_t pairs = 0;
    for (NI_ROWS(r, norm.n)) {
        uint4 row[CHUNKS];
        ni_norm_row(row, norm, r, (int)norm.dim);
        pairs = larger_of_row(pairs, row);
    }
    __syncwarp();
    ni_join_amax(norm.amax, ni_larger_half(pairs));
}

/* ---- rows on their way ----
 *
 * What the next row of a warp is made of comes into shared memory while this one is worked on, where there is room for it
 * (`stage` not NULL). Each lane copies what it reads itself, so nobody waits for anybody. */

/* Of 16 bytes, a warp: so many matrices. */
template <int CHUNKS, int MATRICES> static __host__ __device__ constexpr int staged_words(void) {
    return MATRICES * CHUNKS * 32;
}

template <int CHUNKS, int MATRICES> static size_t staged_bytes(void) {
    return NI_WARPS * staged_words<CHUNKS, MATRICES>() * sizeof(uint4);
}

template <int CHUNKS> static __device__ __forceinline__ void stage_part(uint4 *stage, const uint16_t *from, int dim) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        if (8 * lane + 256 * k < dim)
            copy_async16(stage + 32 * k, from + 8 * lane + 256 * k);
}

template <int CHUNKS> static __device__ __forceinline__ void load_staged(uint4 (&row)[CHUNKS], const uint4 *stage) {
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        row[k] = stage[32 * k];
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

template <int CHUNKS>
static __device__ __forceinline__ void leave_row(uint32_t *band, int i, const uint4 (&row)[CHUNKS], int dim) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        if (8 * lane + 256 * k < dim)
            *(uint4 *)(band + i * band_pitch(dim) + 4 * lane + 128 * k) = row[k];
}

/* The larger of `found` and of what this warp's columns hold: sixteen, of which WARPS lie side by side. */
template <int WARPS> static __device__ __noinline__ uint32_t turn_band(uint32_t found, const uint32_t *band, int dim) {
    const int lane = threadIdx.x % 32, sixteens = threadIdx.x / 32 + lane / 8 * WARPS;
    for (int c = 8 * sixteens + lane % 8; c < dim / 2; c += 32 * WARPS) {
        uint32_t pairs[BAND];
#pragma unroll
        for (int i = 0; i < BAND; i++)
            pairs[i] = band[i * band_pitch(dim) + c];
        found = max(found, ni_turned_amax(pairs));
    }
    __syncwarp();
    return ni_warp_max(found);
}

/* Threads come together where no block has found a maximum yet (`unknown`): then only those of its warps turn their columns
 * whose |u| + |v| come near the largest of all, which is left in *most_here, 0 before. */
template <int WARPS>
static __device__ __forceinline__ uint32_t larger_of_band(uint32_t found, bool unknown, uint32_t *most_here,
                                                          const uint32_t *band, int dim) {
    const ni_turning by = ni_turning_of_rows();
    const int lane = threadIdx.x % 32, right = lane / 16 * 8;
    const bf16 *const row = (const bf16 *)(band + lane % 16 * band_pitch(dim));
    uint32_t most = 0, limit = ni_turned_limit(found);
#pragma unroll 2
    for (int c = 16 * (threadIdx.x / 32); c < dim; c += 16 * WARPS)
        most = ni_most_of_sixteen(most, by, row + c + (c + right < dim ? right : 0));
    if (unknown) {
        const uint32_t of_warp = __reduce_max_sync(~0u, most);
        if (lane == 0)
            atomicMax(most_here, of_warp);
        __syncthreads();
        limit = max(limit, ni_turned_limit_beside(*most_here));
    }
    return __any_sync(~0u, most >= limit) ? turn_band<WARPS>(found, band, dim) : found;
}

/* Row r, if there is one. */
template <int CHUNKS>
static __device__ __forceinline__ void stage_terms(uint4 *stage, const ni_cuda_norm &norm, int64_t r, int dim) {
    if (!stage || r >= norm.n)
        return;
    stage_part<CHUNKS>(stage, norm.x + r * dim, dim);
    if (norm.change)
        stage_part<CHUNKS>(stage + 32 * CHUNKS, norm.change + r * dim, dim);
    copy_commit();
}

/* Row r; what lies beyond its end is zero. */
template <int CHUNKS>
static __device__ __forceinline__ void load_terms(uint4 (&row)[CHUNKS], uint4 (&change)[CHUNKS], const uint4 *stage,
                                                  const ni_cuda_norm &norm, int64_t r, int dim) {
    const int lane = threadIdx.x % 32;
    if (!stage) {
        ni_load_row(row, norm.x + r * dim, dim);
        if (norm.change)
            ni_load_row(change, norm.change + r * dim, dim);
        return;
    }
    copy_wait<0>();
    load_staged(row, stage);
    if (norm.change)
        load_staged(change, stage + 32 * CHUNKS);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        if (8 * lane + 256 * k >= dim)
            row[k] = change[k] = make_uint4(0, 0, 0, 0);
}

/* Blocks of a multiprocessor. */
static __host__ __device__ constexpr int forward_blocks(int chunks) {
    return chunks <= 3 ? 4 : chunks <= 5 ? 3 : 2;
}

/* A block takes a band after another. */
template <int CHUNKS>
static __global__ void __launch_bounds__(NI_THREADS, forward_blocks(CHUNKS))
    rmsnorm_forward_bands(const __grid_constant__ ni_cuda_norm norm, bool staged) {
    extern __shared__ __align__(16) uint32_t band[]; /* and staged rows */
    __shared__ ni_known_amaxes known;
    __shared__ uint32_t most_here;
    const int warp = threadIdx.x / 32, dim = (int)norm.dim;
    const int64_t step = gridDim.x * (int64_t)BAND;
    uint4 *const behind = (uint4 *)band + BAND * band_pitch(dim) / 4, *const stage =
                                                                          staged
                                                                              ? behind +
                                                                                    warp * staged_words<CHUNKS, 2>() +
                                                                                    threadIdx.x % 32
                                                                              : NULL;
    uint32_t pairs = 0, turned = 0, word = ni_ask_amaxes<0>(NULL, norm.turned_amax);
    if (threadIdx.x == 0)
        most_here = 0;
    stage_terms<CHUNKS>(stage, norm, blockIdx.x * (int64_t)BAND + warp, dim);
    for (int64_t first = blockIdx.x * (int64_t)BAND; first < norm.n; first += step) {
#pragma unroll 1
        for (int i = warp; i < BAND; i += NI_WARPS) {
            uint4 row[CHUNKS], change[CHUNKS];
            load_terms(row, change, stage, norm, first + i, dim);
            stage_terms<CHUNKS>(stage, norm, i + NI_WARPS < BAND ? first + i + NI_WARPS : first + step + warp, dim);
            ni_norm_terms<CHUNKS, true>(row, change, norm, first + i, dim);
            pairs = larger_of_row(pairs, row);
            leave_row(band, i, row, dim);
        }
        ni_tell_amaxes<0>(&known, word);
        __syncthreads();
        const uint32_t found = known.turned, before = max(turned, found);
        turned = larger_of_band<NI_WARPS>(before, !found, &most_here, band, dim);
        ni_join_known(norm.turned_amax, turned, before); /* for others' next bands */
        word = ni_ask_amaxes<0>(NULL, norm.turned_amax);
        __syncthreads();
    }
    ni_join_amax(norm.amax, ni_larger_half(pairs));
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
        float rs = ni_row_rstd(in, dim, norm.eps, eights);
        if (lane == 0)
            norm.rstd[r] = rs;
        if (eights)
            for (int64_t c = 8 * lane; c < dim; c += 256) {
                ni_eight e = ni_load_eight(in + c);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    e.x[j] = ni_norm_finished(norm, r * dim + c + j, e.x[j] * rs * norm.w[c + j]);
                    largest = max(largest, ni_f32_magnitude(e.x[j]));
                }
                ni_store_eight(norm.y + r * dim + c, e);
            }
        else
            for (int64_t c = lane; c < dim; c += 32) {
                float out = ni_norm_finished(norm, r * dim + c, ni_bf16_value(in[c]) * rs * norm.w[c]);
                largest = max(largest, ni_f32_magnitude(out));
                norm.y[r * dim + c] = ni_bf16_even(out);
            }
    }
    __syncwarp();
    ni_join_amax(norm.amax, largest);
}

/* As many blocks as the GPU holds at once, if shared memory has room for them. */
template <int CHUNKS> static int launch_forward_bands(cudaStream_t on, const ni_cuda_norm *norm) {
    const int64_t band = (int64_t)band_bytes(norm->dim), all = band + (int64_t)staged_bytes<CHUNKS, 2>(),
                  room = ni_shared_bytes(), own = 1024; /* a block's beside what it asks for */
    const bool staged = all + own <= room;
    const int64_t bytes = staged ? all : band, fit = room / (bytes + own), most = forward_blocks(CHUNKS);
    int device = 0, multiprocessors = 0;
    int code =
        cudaFuncSetAttribute(rmsnorm_forward_bands<CHUNKS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code == cudaSuccess)
        code = cudaGetDevice(&device);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (code != cudaSuccess)
        return code;
    const int64_t bands = norm->n / BAND, held = multiprocessors * (fit < 1 ? 1 : fit < most ? fit : most);
    rmsnorm_forward_bands<CHUNKS>
        <<<(unsigned)(bands < held ? bands : held), NI_THREADS, (size_t)bytes, on>>>(*norm, staged);
    return code;
}

int ni_cuda_launch_rmsnorm_forward(void *stream, const ni_cuda_norm *norm) {
    cudaStream_t on = (cudaStream_t)stream;
    bool eights = norm->dim % 8 == 0 && ni_aligned(norm->y) && ni_aligned(norm->x) &&
                  (!norm->change || (ni_aligned(norm->sum) && ni_aligned(norm->change)));
    int code = cudaSuccess;
    if (norm->n == 0)
        return code;
    const unsigned blocks = ni_grid(ni_divide_up(norm->n, NI_WARPS));
    const int chunks = eights && ni_aligned(norm->w) ? ni_chunks_of(norm->dim) : 0;
    const bool bands = chunks && norm->turned_amax && norm->n % BAND == 0;
#define FORWARD(CHUNKS) rmsnorm_forward_kept<CHUNKS><<<blocks, NI_THREADS, 0, on>>>(*norm)
#define FORWARD_BANDS(CHUNKS) code = launch_forward_bands<CHUNKS>(on, norm)
    if (bands)
        NI_FOR_CHUNKS(chunks, FORWARD_BANDS)
    else if (chunks)
        NI_FOR_CHUNKS(chunks, FORWARD)
    else
        rmsnorm_forward<<<blocks, NI_THREADS, 0, on>>>(*norm, eights);
    if (code == cudaSuccess)
        code = cudaGetLastError();
    return bands || code != cudaSuccess
               ? code
               : ni_cuda_find_turned(stream, norm->y, norm->n, norm->dim, norm->dim, norm->turned_amax);
}

/* ---- backward ---- */

static __global__ void rmsnorm_backward(ni_cuda_norm_slopes d) {
    extern __shared__ float sums[];
    const int lane = threadIdx.x % 32;
    const int64_t dim = d.dim;
    float *dw = ni_clear_sums(sums, dim);
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
    ni_leave_partial(d.partial, sums, dim);
}

/* Row r, if there is one; returns its rstd. */
template <int CHUNKS>
static __device__ __forceinline__ float stage_row(uint4 *stage, const ni_cuda_norm_slopes &d, int64_t r, int dim) {
    if (!stage || r >= d.n)
        return 0.0f;
    stage_part<CHUNKS>(stage, d.x + r * dim, dim);
    stage_part<CHUNKS>(stage + 32 * CHUNKS, d.dy + r * dim, dim);
    if (d.into)
        stage_part<CHUNKS>(stage + 64 * CHUNKS, d.dx + r * dim, dim);
    copy_commit();
    return d.rstd[r];
}

/* Row r of the same, with its columns' sums in registers; row `next` is staged in its place. The slopes stay in `row`, and
 * *rstd becomes the next row's. */
template <int CHUNKS>
static __device__ __forceinline__ void slope_row(uint4 (&row)[CHUNKS], float (&dw)[CHUNKS][8], float *rstd,
                                                 uint4 *stage, const ni_cuda_norm_slopes &d, int64_t r, int64_t next,
                                                 int dim) {
    const int lane = threadIdx.x % 32;
    uint4 x[CHUNKS], dy[CHUNKS];
    if (stage) {
        copy_wait<0>();
        load_staged(x, stage);
        load_staged(dy, stage + 32 * CHUNKS);
        if (d.into)
            load_staged(row, stage + 64 * CHUNKS);
    } else {
        ni_load_row(x, d.x + r * dim, dim);
        ni_load_row(dy, d.dy + r * dim, dim);
        if (d.into)
            ni_load_row(row, d.dx + r * dim, dim);
    }
    const float rs = stage ? *rstd : d.rstd[r];
    *rstd = stage_row<CHUNKS>(stage, d, next, dim);
    float mean = 0;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * lane + 256 * k;
        if (c >= dim)
            break;
        const ni_eight in = ni_eight_of(x[k]), out = ni_eight_of(dy[k]);
        float w[8];
        ni_load_factors(w, d.w + c);
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
        const ni_eight in = ni_eight_of(x[k]), out = ni_eight_of(dy[k]);
        ni_eight slope, old = {};
        if (d.into)
            old = ni_eight_of(row[k]);
        float w[8];
        ni_load_factors(w, d.w + c);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float normed = in.x[j] * rs;
            dw[k][j] += out.x[j] * normed;
            slope.x[j] = rs * (w[j] * out.x[j] - normed * mean);
        }
        if (d.into) {
            slope = ni_eight_of(ni_packed(slope)); /* rounded, as it would be written */
#pragma unroll
            for (int j = 0; j < 8; j++)
                slope.x[j] = old.x[j] + slope.x[j];
        }
        row[k] = ni_packed(slope);
        *(uint4 *)(d.dx + r * dim + c) = row[k];
    }
}

/* A block takes 16 neighbouring rows at a time. Where columns are turned there may be room for `two` bands, so that warps
 * that have looked at one go on to the next while others look still. */
template <int CHUNKS, bool TURNED>
static __global__ void __launch_bounds__(NI_THREADS)
    rmsnorm_backward_kept(const __grid_constant__ ni_cuda_norm_slopes d, bool two, bool staged) {
    extern __shared__ __align__(16) float sums[]; /* bands and staged rows, until the sums are left there */
    __shared__ ni_known_amaxes known[2];
    __shared__ uint32_t most_here;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = (int)d.dim;
    uint4 *const behind = (uint4 *)sums + (TURNED ? (1 + two) * BAND * band_pitch(dim) / 4 : 0),
                 *const stage = staged ? behind + warp * staged_words<CHUNKS, 3>() + lane : NULL;
    float dw[CHUNKS][8] = {}, rstd = stage_row<CHUNKS>(stage, d, blockIdx.x * (int64_t)BAND + warp, dim);
    uint32_t pairs = 0, turned = 0, word = TURNED ? ni_ask_amaxes<0>(NULL, d.turned_amax) : 0;
    int which = 0;
    if (threadIdx.x == 0)
        most_here = 0;
    for (int64_t first = blockIdx.x * (int64_t)BAND; first < d.n; first += gridDim.x * (int64_t)BAND, which ^= two) {
        uint32_t *const band = (uint32_t *)sums + which * BAND * band_pitch(dim);
#pragma unroll 1
        for (int i = warp; i < BAND && first + i < d.n; i += NI_WARPS) {
            uint4 row[CHUNKS];
            const int64_t next = i + NI_WARPS < BAND ? first + i + NI_WARPS : first + gridDim.x * (int64_t)BAND + warp;
            slope_row(row, dw, &rstd, stage, d, first + i, next, dim);
            pairs = larger_of_row(pairs, row);
            if (TURNED)
                leave_row(band, i, row, dim);
        }
        if (TURNED) {
            ni_tell_amaxes<0>(&known[which], word);
            __syncthreads();
            const uint32_t found = known[which].turned, before = max(turned, found);
            turned = larger_of_band<NI_WARPS>(before, !found, &most_here, band, dim);
            ni_join_known(d.turned_amax, turned, before); /* for others' next bands */
            word = ni_ask_amaxes<0>(NULL, d.turned_amax);
            if (!two)
                __syncthreads();
        }
    }
    __syncthreads();
    ni_join_amax(d.amax, ni_larger_half(pairs));
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (8 * lane + 256 * k < dim)
                sums[threadIdx.x / 32 * dim + 8 * lane + 256 * k + j] = dw[k][j];
    ni_leave_partial(d.partial, sums, dim);
}

int ni_cuda_launch_add_partials(void *stream, float *out, const float *partial, int64_t blocks, int64_t dim) {
    return ni_finish_sums((cudaStream_t)stream, out, partial, blocks, dim);
}

static int64_t band_blocks(int64_t n) {
    const int64_t bands = ni_divide_up(n, BAND);
    return bands < NI_NORM_BLOCKS ? bands : NI_NORM_BLOCKS;
}

template <int CHUNKS, bool TURNED> static int launch_backward_kept(cudaStream_t on, const ni_cuda_norm_slopes *d) {
    const int64_t most = ni_shared_bytes() - 2 * (int64_t)sizeof(ni_known_amaxes) - 16;
    const int64_t sums = (int64_t)ni_sums_bytes(d->dim), band = TURNED ? (int64_t)band_bytes(d->dim) : 0,
                  rows = (int64_t)staged_bytes<CHUNKS, 3>();
    const bool staged = band + rows <= most, two = TURNED && 2 * band + staged * rows <= most;
    const int64_t room = (1 + two) * band + staged * rows, bytes = sums > room ? sums : room;
    const int code = cudaFuncSetAttribute(rmsnorm_backward_kept<CHUNKS, TURNED>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code == cudaSuccess)
        rmsnorm_backward_kept<CHUNKS, TURNED>
            <<<(unsigned)band_blocks(d->n), NI_THREADS, (size_t)bytes, on>>>(*d, two, staged);
    return code;
}

int ni_cuda_launch_rmsnorm_backward(void *stream, const ni_cuda_norm_slopes *d) {
    cudaStream_t on = (cudaStream_t)stream;
    const bool together = ni_aligned(d->dx) && ni_aligned(d->dy) && ni_aligned(d->x) && ni_aligned(d->w);
    const int chunks = together ? ni_chunks_of(d->dim) : 0;
    const bool turned = chunks && d->turned_amax && d->n % BAND == 0;
    int code = chunks ? cudaSuccess : ni_room_for_sums(rmsnorm_backward, d->dim);
    if (d->n == 0 || code != cudaSuccess)
        return code;
#define BACKWARD(CHUNKS) code = launch_backward_kept<CHUNKS, false>(on, d)
#define BACKWARD_TURNED(CHUNKS) code = launch_backward_kept<CHUNKS, true>(on, d)
    if (turned)
        NI_FOR_CHUNKS(chunks, BACKWARD_TURNED)
    else if (chunks)
        NI_FOR_CHUNKS(chunks, BACKWARD)
    else
        rmsnorm_backward<<<(unsigned)ni_norm_blocks(d->n), NI_THREADS, ni_sums_bytes(d->dim), on>>>(*d);
    if (code == cudaSuccess)
        code = cudaGetLastError();
    if (code == cudaSuccess)
        code = ni_finish_sums(on, d->dw, d->partial, chunks ? band_blocks(d->n) : ni_norm_blocks(d->n), d->dim);
    return turned || code != cudaSuccess ? code
                                         : ni_cuda_find_turned(stream, d->dx, d->n, d->dim, d->dim, d->turned_amax);
}
