/* produce_norm.cu: RMSNorm straight into the operands that are made of it (produce.cuh). A block has 16 neighbouring rows,
 * a warp a row after another (norm_row.cuh); they lie in shared memory as tiles side by side, which then go into both
 * copies: all at once, up to four of them, each by 128 threads of its own. A block that makes one after the other takes so
 * long that the GPU runs empty behind the last ones.
 */
#include "backend/cuda/norm_row.cuh"
#include "backend/cuda/produce.cuh"

enum { TILE_WORDS = NI_TILE_ROWS * NI_TILE_PITCH };

static size_t tile_bytes(int chunks) {
    return (size_t)chunks * TILE_WORDS * sizeof(uint32_t);
}

/* Row r comes nearer while those before it are normed: 64 numbers a lane. */
static __device__ __forceinline__ void expect_row(const ni_cuda_norm &norm, int64_t r, int dim) {
    const int c = 64 * (threadIdx.x % 32);
    if (c >= dim)
        return;
    ni_expect_line(norm.x + r * dim + c);
    if (norm.change)
        ni_expect_line(norm.change + r * dim + c);
}

/* Tiles of a block that are made at once: a part of them all, for threads come together in each. */
static __host__ __device__ constexpr int tiles_at_once(int chunks) {
    return chunks <= 4 ? chunks : chunks % 2 == 0 ? 2 : 1;
}

static __host__ __device__ constexpr int threads_of(int chunks) {
    return NI_TILE_THREADS * tiles_at_once(chunks);
}

/* Blocks of a multiprocessor: 1152 threads of 56 registers or fewer of more; wide rows take 128, and shared memory. */
static __host__ __device__ constexpr int blocks_of(int chunks) {
    return chunks == 1 ? 7 : chunks == 2 ? 4 : chunks == 3 ? 3 : chunks % 2 == 0 ? 2 : chunks == 5 ? 4 : 3;
}

/* Scales are asked for last: what makes them may run as long. */
template <int CHUNKS>
static __global__ void __launch_bounds__(threads_of(CHUNKS), blocks_of(CHUNKS))
    produce_norm(const __grid_constant__ ni_cuda_norm norm, const ni_tile_room *room,
                 const __grid_constant__ ni_cuda_both_copies to) {
    extern __shared__ __align__(16) uint32_t tiles[];
    __shared__ ni_both_tables tables;
    constexpr int WARPS = threads_of(CHUNKS) / 32;
    const int dim = (int)norm.dim, thread = threadIdx.x % NI_TILE_THREADS;
    ni_tile_place at;
    at.r0 = (gridDim.x - 1 - blockIdx.x) * (int64_t)NI_TILE_ROWS; /* as ni_tile_row */
    at.row = at.r0 + thread / NI_TILE_VECTORS;
    at.vector = thread % NI_TILE_VECTORS;
#pragma unroll
    for (int i = WARPS; i < NI_TILE_ROWS; i += WARPS)
        if (threadIdx.x / 32 + i < NI_TILE_ROWS)
            expect_row(norm, at.r0 + threadIdx.x / 32 + i, dim);
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < NI_TILE_ROWS; i += WARPS) {
        uint4 row[CHUNKS];
        ni_norm_row<CHUNKS, false>(row, norm, at.r0 + i, dim);
#pragma unroll
        for (int k = 0; k < CHUNKS; k++)
            *(uint4 *)&tiles[k * TILE_WORDS + i * NI_TILE_PITCH + 4 * at.vector] = row[k];
    }
    ni_wait_for_it();
    ni_load_tables(&tables, room, to);
    __syncthreads();
#pragma unroll 1
    for (int k = threadIdx.x / NI_TILE_THREADS; k < CHUNKS; k += tiles_at_once(CHUNKS)) {
        uint4 own[NI_OWN_ROWS];
        at.c0 = NI_TILE_COLS * k;
        at.col = at.c0 + 8 * at.vector;
        at.live = at.col < dim;
#pragma unroll
        for (int i = 0; i < NI_OWN_ROWS; i++)
            own[i] = *ni_own_of(tiles + k * TILE_WORDS, at, i);
        ni_make_both<0, 0>(to, room, tables, tiles + k * TILE_WORDS, own, at, norm.n, dim, thread);
    }
}

template <int CHUNKS>
static int launch(cudaStream_t on, const ni_tile_room *room, const ni_cuda_norm *norm, const ni_cuda_both_copies *to) {
    const int code = cudaFuncSetAttribute(produce_norm<CHUNKS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          (int)tile_bytes(CHUNKS));
    return code != cudaSuccess ? code
                               : ni_launch_following(on, produce_norm<CHUNKS>, dim3((unsigned)(norm->n / NI_TILE_ROWS)),
                                                     threads_of(CHUNKS), tile_bytes(CHUNKS), *norm, room, *to);
}

bool ni_cuda_produces_norm(int64_t rows, int64_t dim) {
    return rows / NI_TILE_ROWS <= INT32_MAX && ni_chunks_of(dim) > 0;
}

int ni_cuda_produce_norm(void *stream, void *room, const ni_cuda_norm *norm, const ni_cuda_both_copies *to) {
    cudaStream_t on = (cudaStream_t)stream;
    const ni_tile_room *const scales = (const ni_tile_room *)room;
    int code = ni_cuda_set_tile_scales(stream, room, to, 1);
    if (code != cudaSuccess)
        return code;
#define PRODUCE(CHUNKS) code = launch<CHUNKS>(on, scales, norm, to)
    NI_FOR_CHUNKS(ni_chunks_of(norm->dim), PRODUCE)
    return code == cudaSuccess ? cudaGetLastError() : code;
}
