/* embedding.cu: rows of a table, and their gradients summed in the order of the tokens.
 *
 * Backward sorts the positions by their token (a stable radix sort), so that each row of the table is one run, summed
 * from the first position to the last by one warp for each 32 channels.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

#include <cub/device/device_radix_sort.cuh>

static __global__ void embed_forward(uint16_t *out, const float *table, const int32_t *tokens, int64_t n, int64_t dim) {
    for (NI_EACH(i, n * dim))
        out[i] = ni_bf16_even(table[tokens[i / dim] * dim + i % dim]);
}

int ni_cuda_launch_embed_forward(void *stream, uint16_t *out, const float *table, const int32_t *tokens, int64_t n,
                                 int64_t dim) {
    if (n * dim > 0)
        embed_forward<<<ni_grid(ni_divide_up(n * dim, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            out, table, tokens, n, dim);
    return cudaGetLastError();
}

/* ---- backward ---- */

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static size_t list_bytes(int64_t n) {
    return rounded((size_t)n * sizeof(int32_t));
}

static size_t sort_bytes(int64_t n) {
    size_t bytes = 0;
    cub::DeviceRadixSort::SortPairs(NULL, bytes, (const int32_t *)NULL, (int32_t *)NULL, (const int32_t *)NULL,
                                    (int32_t *)NULL, (int)n);
    return rounded(bytes);
}

size_t ni_cuda_embed_bytes(int64_t n) {
    return 3 * list_bytes(n) + sort_bytes(n);
}

static __global__ void count_up(int32_t *list, int64_t n) {
    for (NI_EACH(i, n))
        list[i] = (int32_t)i;
}

/* A warp looks at one place of the sorted list; where a run begins there, it adds up the run for 32 channels: one
 * number after the other, of which some are read ahead, for what is common in a text makes long runs. */
enum { READ_AHEAD = 16 };

static __global__ void add_runs(float *dtable, const uint16_t *dout, const int32_t *tokens, const int32_t *order,
                                int64_t n, int64_t dim) {
    const int64_t groups = (dim + 31) / 32, warp = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    const int64_t first = warp / groups, c = warp % groups * 32 + threadIdx.x % 32;
    if (first >= n || (first > 0 && tokens[first - 1] == tokens[first]))
        return;
    const int32_t token = tokens[first];
    float *to = dtable + token * dim + c, sum = c < dim ? *to : 0;
    int found = 32;
    for (int64_t i = first; found == 32; i += 32) {
        const int64_t at = i + threadIdx.x % 32;
        const bool same = at < n && tokens[at] == token;
        const int32_t place = same ? order[at] : 0;
        found = __popc(__ballot_sync(~0u, same));
        for (int u = 0; u < found; u += READ_AHEAD) {
            uint16_t read[READ_AHEAD];
#pragma unroll
            for (int k = 0; k < READ_AHEAD; k++) {
                const int64_t row = __shfl_sync(~0u, place, (u + k) % 32);
                read[k] = u + k < found && c < dim ? dout[row * dim + c] : 0;
            }
#pragma unroll
            for (int k = 0; k < READ_AHEAD; k++)
                sum = u + k < found ? sum + ni_bf16_value(read[k]) : sum;
        }
    }
    if (c < dim)
        *to = sum;
}

int ni_cuda_launch_embed_backward(void *stream, float *dtable, const uint16_t *dout, const int32_t *tokens, int64_t n,
                                  int64_t dim, int64_t vocab, void *scratch, size_t bytes) {
    cudaStream_t on = (cudaStream_t)stream;
    char *at = (char *)scratch;
    int32_t *sorted = (int32_t *)at, *order = (int32_t *)(at + list_bytes(n)),
            *counted = (int32_t *)(at + 2 * list_bytes(n));
    size_t room = bytes - 3 * list_bytes(n);
    int bits = 1;
    while (bits < 31 && (int64_t)1 << bits < vocab)
        bits++;
    if (n * dim == 0)
        return cudaSuccess;
    count_up<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(counted, n);
    cudaError_t code = cub::DeviceRadixSort::SortPairs(at + 3 * list_bytes(n), room, tokens, sorted, counted, order,
                                                       (int)n, 0, bits, on);
    if (code != cudaSuccess)
        return code;
    const int64_t warps = n * ni_divide_up(dim, 32);
    add_runs<<<(unsigned)ni_divide_up(warps, NI_WARPS), NI_THREADS, 0, on>>>(dtable, dout, sorted, order, n, dim);
    return cudaGetLastError();
}

/* ---- rows that lie apart ---- */

/* A block a row: of 128 threads, each 16 bytes at a time where rows are made of such. */
enum { ROW_THREADS = 128 };

template <typename T, bool TAKE>
static __global__ void move_rows(T *packed, T *table, const int32_t *rows, int64_t dim) {
    T *row = table + rows[blockIdx.x] * dim, *place = packed + blockIdx.x * dim;
    for (int64_t c = threadIdx.x; c < dim; c += ROW_THREADS)
        if (TAKE)
            place[c] = row[c];
        else
            row[c] = place[c];
}

template <bool TAKE>
static int launch_move(void *stream, float *packed, float *table, const int32_t *rows, int64_t n, int64_t dim) {
    const cudaStream_t on = (cudaStream_t)stream;
    if (n * dim == 0)
        return cudaSuccess;
    if (dim % 4 == 0)
        move_rows<float4, TAKE><<<(unsigned)n, ROW_THREADS, 0, on>>>((float4 *)packed, (float4 *)table, rows, dim / 4);
    else
        move_rows<float, TAKE><<<(unsigned)n, ROW_THREADS, 0, on>>>(packed, table, rows, dim);
    return cudaGetLastError();
}

int ni_cuda_launch_take_rows(void *stream, float *out, const float *table, const int32_t *rows, int64_t n,
                             int64_t dim) {
    return launch_move<true>(stream, out, (float *)table, rows, n, dim);
}

int ni_cuda_launch_put_rows(void *stream, float *table, const float *in, const int32_t *rows, int64_t n, int64_t dim) {
    return launch_move<false>(stream, (float *)in, table, rows, n, dim);
}
