/* rope.cu: RoPE in place, with the largest magnitudes of what is left: plain, and of columns turned by 16
 * (nb_mat.turned_amax): a block takes 16 tokens.
 */
#include "backend/cuda/rope.cuh"
#include "backend/cuda/tile_copy.cuh"
#include "backend/cuda/turned.cuh"

static __global__ void make_turns(ni_turn *table, int64_t positions, int64_t head_dim,
                                  const __grid_constant__ ni_rope how) {
    const int64_t half = head_dim / 2;
    for (NI_EACH(at, positions * half))
        table[at] = ni_turn_by((int32_t)(at / half), at % half, head_dim, how);
}

/* A thread turns one pair of one token's channels in every head. */
static __global__ void rope(uint16_t *x, const int32_t *positions, int64_t n, int64_t heads, int64_t head_dim,
                            int64_t stride, const __grid_constant__ ni_rope how,
                            const __grid_constant__ ni_cuda_turns turns, bool inverse) {
    const int64_t half = head_dim / 2;
    for (NI_EACH(at, n * half)) {
        const int64_t t = at / half, i = at % half;
        const ni_turn by = ni_turn_at(turns, positions[t], i, head_dim, how, inverse);
        for (int64_t h = 0; h < heads; h++) {
            uint16_t *pair = x + t * stride + h * head_dim + i;
            float x1 = ni_bf16_value(pair[0]), x2 = ni_bf16_value(pair[half]);
            ni_turn_two(&x1, &x2, by.c, by.s);
            pair[0] = ni_bf16_even(x1);
            pair[half] = ni_bf16_even(x2);
        }
    }
}

/* Two neighbouring pairs, four heads at a time in flight. */
static __global__ void rope_twos(uint16_t *x, const int32_t *positions, int64_t n, int heads, int head_dim,
                                 int64_t stride, const __grid_constant__ ni_rope how,
                                 const __grid_constant__ ni_cuda_turns turns, bool inverse) {
    const uint32_t half = (uint32_t)head_dim / 2, quarter = half / 2;
    for (NI_EACH(at, n * quarter)) {
        const uint32_t t = (uint32_t)at / quarter, i = ((uint32_t)at - t * quarter) * 2;
        const ni_turn one = ni_turn_at(turns, positions[t], i, head_dim, how, inverse),
                      two = ni_turn_at(turns, positions[t], i + 1, head_dim, how, inverse);
        uint16_t *const first = x + t * stride + i;
#pragma unroll 4
        for (int h = 0; h < heads; h++) {
            uint32_t *const low = (uint32_t *)(first + h * head_dim), *const high =
                                                                          (uint32_t *)(first + h * head_dim + half);
            const uint32_t a = *low, b = *high;
            float x1 = __uint_as_float(a << 16), x2 = __uint_as_float(b << 16), y1 = __uint_as_float(a & 0xffff0000u),
                  y2 = __uint_as_float(b & 0xffff0000u);
            ni_turn_two(&x1, &x2, one.c, one.s);
            ni_turn_two(&y1, &y2, two.c, two.s);
            *low = ni_pack_two(x1, y1);
            *high = ni_pack_two(x2, y2);
        }
    }
}

/* ---- tiles of 16 tokens and 256 channels: eight neighbours of every fourth row a thread ---- */

typedef struct rope_work {
    uint16_t *x;
    uint32_t *amax, *turned_amax;
    const int32_t *positions;
    int64_t rows, cols;
    ni_cuda_angles by;
} rope_work;

/* The largest number of this warp's 64 columns of a tile, turned down the tokens, where it may be larger than is known. */
static __device__ void join_turned(const rope_work &work, const uint32_t *tile, uint32_t known) {
    const ni_turning by = ni_turning_of_rows();
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 32; /* in pairs */
    const bf16 *const row = (const bf16 *)(tile + lane % 16 * NI_TILE_PITCH + first + lane / 16 * 4);
    uint32_t most = 0;
#pragma unroll
    for (int c = 0; c < 64; c += 16)
        most = ni_most_of_sixteen(most, by, row + c);
    if (!ni_may_exceed(most, known))
        return;
    uint32_t pairs[NI_TILE_ROWS];
#pragma unroll
    for (int i = 0; i < NI_TILE_ROWS; i++)
        pairs[i] = tile[i * NI_TILE_PITCH + first + lane];
    ni_join_known(work.turned_amax, ni_turned_amax(pairs), known);
}

template <bool MAXIMA>
static __global__ void __launch_bounds__(NI_TILE_THREADS) rope_tiles(const __grid_constant__ rope_work work) {
    __shared__ __align__(16) uint32_t tile[NI_TILE_ROWS * NI_TILE_PITCH];
    __shared__ ni_known_amaxes known;
    const int lane = threadIdx.x % 32;
    const int64_t first = ni_band() * NI_TILE_ROWS + threadIdx.x / 32,
                  c = (int64_t)blockIdx.x * NI_TILE_COLS + 8 * lane;
    const uint32_t word = MAXIMA ? ni_ask_amaxes<0>(work.amax, work.turned_amax) : 0;
    uint4 own[4];
    uint32_t pairs = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const bool live = c < work.cols && first + 4 * i < work.rows;
        own[i] = live ? *(const uint4 *)(work.x + (first + 4 * i) * work.cols + c) : make_uint4(0, 0, 0, 0);
    }
    ni_turn_rows<4, 4, 4 * NI_TILE_PITCH>(work.by, own, tile + threadIdx.x / 32 * NI_TILE_PITCH + 4 * lane,
                                          work.positions, first, work.rows);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (first + 4 * i < work.rows && c < work.cols)
            *(uint4 *)(work.x + (first + 4 * i) * work.cols + c) = own[i];
        if (MAXIMA) {
            pairs = ni_larger_of_four(pairs, own[i]);
            *(uint4 *)&tile[(threadIdx.x / 32 + 4 * i) * NI_TILE_PITCH + 4 * lane] = own[i];
        }
    }
    if (!MAXIMA)
        return;
    ni_tell_amaxes<0>(&known, word);
    __syncthreads();
    ni_join_known(work.amax, ni_larger_half(pairs), known.plain);
    join_turned(work, tile, known.turned);
}

static int launch_tiles(cudaStream_t on, const rope_work &work) {
    const dim3 grid = ni_band_grid(ni_divide_up(work.cols, NI_TILE_COLS), ni_divide_up(work.rows, NI_TILE_ROWS));
    if (work.turned_amax)
        rope_tiles<true><<<grid, NI_TILE_THREADS, 0, on>>>(work);
    else
        rope_tiles<false><<<grid, NI_TILE_THREADS, 0, on>>>(work);
    return cudaGetLastError();
}

/* ---- which kernel ---- */

enum { MOST_HEAD = 1024 };

int ni_cuda_launch_turns(void *stream, float *table, int64_t positions, int64_t head_dim, const ni_rope *how) {
    make_turns<<<ni_grid(ni_divide_up(positions * (head_dim / 2), NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
        (ni_turn *)table, positions, head_dim, *how);
    return cudaGetLastError();
}

int ni_cuda_launch_rope(void *stream, const nb_mat *x, const int32_t *positions, int64_t heads, const ni_rope *how,
                        const ni_cuda_turns *turns, bool inverse) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = x->rows, stride = x->cols, head_dim = stride / heads;
    uint16_t *const data = (uint16_t *)x->data;
    const bool twos =
        head_dim % 4 == 0 && head_dim <= MOST_HEAD && ((uintptr_t)data & 3) == 0 && n * head_dim <= INT32_MAX;
    int code = cudaSuccess;
    if (n > 0 && ni_turns_eights(head_dim) && ni_aligned(data) && (!x->turned_amax || n % NI_TILE_ROWS == 0)) {
        const rope_work work = {
            data, x->amax, x->turned_amax, positions, n, stride, {*how, *turns, (int32_t)head_dim, inverse}};
        code = launch_tiles(on, work);
        return x->turned_amax || !x->amax || code != cudaSuccess
                   ? code
                   : ni_cuda_launch_amax(stream, x->amax, data, n, stride, stride);
    }
    if (n * head_dim > 1 && twos)
        rope_twos<<<ni_grid(ni_divide_up(n * head_dim / 4, NI_THREADS)), NI_THREADS, 0, on>>>(
            data, positions, n, (int)heads, (int)head_dim, stride, *how, *turns, inverse);
    else if (n * head_dim > 1)
        rope<<<ni_grid(ni_divide_up(n * head_dim / 2, NI_THREADS)), NI_THREADS, 0, on>>>(
            data, positions, n, heads, head_dim, stride, *how, *turns, inverse);
    code = cudaGetLastError();
    if (x->amax && code == cudaSuccess)
        code = ni_cuda_launch_amax(stream, x->amax, data, n, stride, stride);
    return code != cudaSuccess ? code : ni_cuda_find_turned(stream, data, n, stride, stride, x->turned_amax);
}
