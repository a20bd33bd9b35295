/* column_sums.cu: products of chosen columns, side by side in one matrix, into the columns of C: dW under OutControl. A
 * block has some rows of C in shared memory, so that memory is read and written in whole lines, whatever the order of the
 * columns; one launch for a group's layers.
 */
#include "backend/cuda/column_sums.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/launch.cuh"
#include "format/ieee.h"

enum { ROOM = 40 * 1024, MOST_ROOM = 48 * 1024, MOST_ROWS = 4 };

typedef struct column_work {
    ni_cuda_column_sum sums[NI_CUDA_COLUMN_SUMS];
    int32_t first_block[NI_CUDA_COLUMN_SUMS + 1];
    int32_t each[NI_CUDA_COLUMN_SUMS]; /* rows of a block */
} column_work;
static_assert(sizeof(column_work) <= 4096, "a kernel's arguments");

/* Whether parts are all of C, so that nothing else has to be there before. */
static __device__ bool is_whole(const ni_cuda_column_sum &s) {
    int64_t width = 0;
    for (int part = 0; part < s.count; part++)
        width += s.widths[part];
    return !s.add && !s.shared && width == s.out.cols;
}

/* put(row, column, load(row, column)) of a block's rows, four columns at once: a thread has those of all rows, loaded before
 * the first is put anywhere. */
template <typename L, typename P>
static __device__ __forceinline__ void each_four(int rows, int begin, int end, L load, P put) {
    for (int c = begin + 4 * (int)threadIdx.x; c < end; c += 4 * NI_THREADS) {
        float4 x[MOST_ROWS];
#pragma unroll
        for (int r = 0; r < MOST_ROWS; r++)
            if (r < rows)
                x[r] = load(r, c);
#pragma unroll
        for (int r = 0; r < MOST_ROWS; r++)
            if (r < rows)
                put(r, c, x[r]);
    }
}

/* A row's four from a column on, in one access where rows are whole vectors. */
static __device__ __forceinline__ float4 load_four(const float *from, int left, bool vectors) {
    if (vectors)
        return __ldcg((const float4 *)from);
    return make_float4(from[0], left > 1 ? from[1] : 0.0f, left > 2 ? from[2] : 0.0f, left > 3 ? from[3] : 0.0f);
}

static __device__ __forceinline__ void store_four(float *to, const float4 &x, int left, bool vectors) {
    if (vectors) {
        *(float4 *)to = x;
        return;
    }
    const float each[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (k < left)
            to[k] = each[k];
}

/* What lies in `from` at [begin, end), to where its columns are. Behind a part's width memory is there still. */
static __device__ __forceinline__ void spread(float *tile, int pitch, int rows, const ni_cuda_column_sum &s, int64_t r0,
                                              int begin, int end, bool whole) {
    const float *const from = (const float *)s.from.data + r0 * s.from.stride;
    each_four(
        rows, begin, end, [&](int r, int c) { return __ldcg((const float4 *)(from + r * s.from.stride + c)); },
        [&](int r, int c, const float4 &x) {
            int part = 0;
            while (part + 1 < s.count && c >= (int)s.first[part + 1])
                part++;
            const float each[4] = {x.x, x.y, x.z, x.w};
            const int at = c - (int)s.first[part], width = (int)s.widths[part];
            const int32_t *const columns = s.columns[part] + at;
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (at + k < width) {
                    float *const to = &tile[r * pitch + __ldg(columns + k)];
                    *to = ni_f32_add(whole ? 0.0f : *to, each[k]);
                }
        });
}

static __global__ void __launch_bounds__(NI_THREADS) column_sums(const __grid_constant__ column_work w) {
    extern __shared__ float4 room[];
    float *const tile = (float *)room;
    int at = 0;
    while ((int)blockIdx.x >= w.first_block[at + 1])
        at++;
    const ni_cuda_column_sum &s = w.sums[at];
    const int64_t r0 = ((int64_t)blockIdx.x - w.first_block[at]) * w.each[at], stride = s.out.stride;
    const int rows = (int)min((int64_t)w.each[at], s.out.rows - r0), cols = (int)s.out.cols, pitch = (cols + 3) / 4 * 4;
    float *const out = (float *)s.out.data + r0 * stride;
    const bool whole = is_whole(s), vectors = cols % 4 == 0 && stride % 4 == 0 && (uintptr_t)s.out.data % 16 == 0;
    ni_wait_for_it();
    ni_let_follow();
    if (!whole) {
        each_four(
            rows, 0, cols,
            [&](int r, int c) { return s.add ? load_four(out + r * stride + c, cols - c, vectors) : float4(); },
            [&](int r, int c, const float4 &x) { *(float4 *)(tile + r * pitch + c) = x; });
        __syncthreads();
    }
    const int parts = s.shared ? s.count : 1;
    for (int i = 0; i < parts; i++) { /* of all parts at once, or one behind the other */
        spread(tile, pitch, rows, s, r0, s.shared ? (int)s.first[i] : 0,
               i + 1 < parts ? (int)s.first[i + 1] : (int)s.from.cols, whole);
        __syncthreads();
    }
    each_four(
        rows, 0, cols, [&](int r, int c) { return *(const float4 *)(tile + r * pitch + c); },
        [&](int r, int c, const float4 &x) { store_four(out + r * stride + c, x, cols - c, vectors); });
}

bool ni_cuda_columns_fit(const nb_mat *out) {
    return (out->cols + 3) / 4 * 4 * (int64_t)sizeof(float) <= MOST_ROOM;
}

int ni_cuda_launch_column_sums(void *stream, const ni_cuda_column_sum *sums, int32_t count) {
    column_work w = {};
    size_t most = 0;
    int32_t listed = 0;
    for (int32_t i = 0; i < count; i++) {
        const int64_t bytes = (sums[i].out.cols + 3) / 4 * 4 * (int64_t)sizeof(float),
                      fit = bytes < ROOM ? ROOM / bytes : 1, each = fit < MOST_ROWS ? fit : MOST_ROWS;
        if (sums[i].out.rows * bytes == 0)
            continue;
        w.sums[listed] = sums[i];
        w.each[listed] = (int32_t)each;
        w.first_block[listed + 1] = w.first_block[listed] + (int32_t)ni_divide_up(sums[i].out.rows, each);
        most = (size_t)(each * bytes) > most ? (size_t)(each * bytes) : most;
        listed++;
    }
    return listed ? ni_launch_following((cudaStream_t)stream, column_sums, dim3((unsigned)w.first_block[listed]),
                                        dim3(NI_THREADS), most, w)
                  : cudaGetLastError();
}
