/* produce_swiglu.cu: SwiGLU and its slopes straight into the operands that are made of them (produce.cuh). Numbers are
 * rounded to BF16 as swiglu.cu writes them, so operands have the bits of those made of its matrices.
 */
#include "backend/cuda/produce.cuh"
#include "backend/cuda/swiglu.cuh"

static __device__ inline void write_own(uint16_t *to, const uint4 &own, const ni_tile_place &at, int i, int64_t cols) {
    if (to && at.live)
        *(uint4 *)(to + (at.row + NI_ROW_STEP * i) * cols + at.col) = own;
}

static __global__ void __launch_bounds__(NI_TILE_THREADS, NI_TILE_BLOCKS)
    produce_swiglu(const __grid_constant__ ni_cuda_swiglu_tiles s, const ni_tile_room *room,
                   const __grid_constant__ ni_cuda_both_copies to) {
    __shared__ __align__(16) uint32_t tile[NI_TILE_ROWS * NI_TILE_PITCH];
    __shared__ ni_both_tables tables;
    const ni_tile_place at = ni_tile_at(blockIdx.x, s.rows, s.cols);
    uint4 gate[NI_OWN_ROWS], up[NI_OWN_ROWS];
    if (at.r0 < 0)
        return;
    ni_load_own(gate, s.gate, at, s.cols);
    ni_load_own(up, s.up, at, s.cols);
    ni_swiglu_of(gate, up);
    ni_wait_for_it();
    ni_load_tables(&tables, room, to);
#pragma unroll
    for (int i = 0; i < NI_OWN_ROWS; i++) {
        *ni_own_of(tile, at, i) = gate[i];
        write_own(s.y, gate[i], at, i, s.cols);
    }
    ni_make_both<0, 0>(to, room, tables, tile, gate, at, s.rows, s.cols);
}

/* Slopes of gate and up, one after the other out of shared memory. */
typedef struct slope_copies {
    ni_cuda_both_copies of[2];
} slope_copies;

/* Eight numbers of each. */
typedef struct slope_words {
    uint4 gate[1], up[1], dy[1];
} slope_words;

static __device__ inline slope_words load_words(const ni_cuda_swiglu_tiles &s, const ni_tile_place &at, int i) {
    const int64_t from = at.live ? (at.row + NI_ROW_STEP * i) * s.cols + at.col : 0;
    return {{*(const uint4 *)(s.gate + from)}, {*(const uint4 *)(s.up + from)}, {*(const uint4 *)(s.dy + from)}};
}

/* Tiles of a block. They are more code than a scheduler's cache holds, and with two its warps fetch the same. */
enum { SLOPE_BANDS = 2 };

/* A row of the thread's four at a time: all at once they are more instructions still. */
static __global__ void __launch_bounds__(NI_TILE_THREADS *SLOPE_BANDS, 3)
    produce_slopes(const __grid_constant__ ni_cuda_swiglu_tiles s, const ni_tile_room *room, const ni_tile_room *of_up,
                   const __grid_constant__ slope_copies to) {
    __shared__ __align__(16) uint32_t all[SLOPE_BANDS][2][NI_TILE_ROWS * NI_TILE_PITCH];
    __shared__ ni_both_tables tables[2];
    static_assert(SLOPE_BANDS == 2, "each band loads the tables of one matrix");
    uint32_t(*const tiles)[NI_TILE_ROWS * NI_TILE_PITCH] = all[threadIdx.y];
    const ni_tile_place at = ni_tile_at<SLOPE_BANDS>(blockIdx.x, s.rows, s.cols);
    slope_words now = load_words(s, at, 0);
#pragma unroll 1
    for (int i = 0; i < NI_OWN_ROWS; i++) {
        slope_words next = load_words(s, at, i + 1 < NI_OWN_ROWS ? i + 1 : i);
        ni_slopes_of(now.gate, now.up, now.dy);
        *ni_own_of(tiles[0], at, i) = now.gate[0];
        *ni_own_of(tiles[1], at, i) = now.up[0];
        write_own(s.dgate, now.gate[0], at, i, s.cols);
        write_own(s.dup, now.up[0], at, i, s.cols);
        now = next;
    }
    ni_wait_for_it();
    if (threadIdx.y == 0)
        ni_load_tables(&tables[0], room, to.of[0]);
    else
        ni_load_tables(&tables[1], of_up, to.of[1]);
#pragma unroll 1
    for (int which = 0; which < 2; which++) {
        uint4 own[NI_OWN_ROWS];
#pragma unroll
        for (int i = 0; i < NI_OWN_ROWS; i++)
            own[i] = *ni_own_of(tiles[which], at, i);
        ni_make_both<8, 8>(to.of[which], which ? of_up : room, tables[which], tiles[which], own, at, s.rows, s.cols);
    }
}

int ni_cuda_produce_swiglu(void *stream, void *room, const ni_cuda_swiglu_tiles *s, const ni_cuda_both_copies *to) {
    const int code = ni_cuda_set_tile_scales(stream, room, to, 1);
    if (code != cudaSuccess)
        return code;
    return ni_launch_following((cudaStream_t)stream, produce_swiglu, ni_tile_grid(s->rows, s->cols), NI_TILE_THREADS, 0,
                               *s, (const ni_tile_room *)room, *to);
}

int ni_cuda_produce_swiglu_slopes(void *stream, void *room, const ni_cuda_swiglu_tiles *s,
                                  const ni_cuda_both_copies to[2]) {
    char *const rooms[2] = {(char *)room, (char *)room + NI_CUDA_TILE_ROOM};
    const slope_copies copies = {{to[0], to[1]}};
    const int code = ni_cuda_set_tile_scales(stream, room, to, 2);
    if (code != cudaSuccess)
        return code;
    return ni_launch_following((cudaStream_t)stream, produce_slopes, ni_tile_grid(s->rows, s->cols, SLOPE_BANDS),
                               dim3(NI_TILE_THREADS, SLOPE_BANDS), 0, *s, (const ni_tile_room *)rooms[0],
                               (const ni_tile_room *)rooms[1], copies);
}
