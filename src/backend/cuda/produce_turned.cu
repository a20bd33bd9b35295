/* produce_turned.cu: slopes of q, k and v into the operands that are made of them, by one launch for all three (produce.cuh);
 * under scales of the step before those of q and k are turned back by RoPE on the way. Numbers are rounded to BF16 as rope.cu leaves them, so operands have
 * the bits of those made of its matrices.
 *
 * Heads lie whole in a warp's row of a tile, so the other half of a pair of channels is in the registers of a lane half a
 * head away.
 */
#include "backend/cuda/produce.cuh"
#include "backend/cuda/rope.cuh"

/* Everything of one launch; which matrix a block works on is in its first index. */
typedef struct turned_work {
    ni_cuda_turned_tiles s;
    ni_cuda_both_copies to[3];
    unsigned first[3]; /* tile across of each matrix */
} turned_work;

/* TURNS: q and k are turned first. */
template <bool TURNS>
static __global__ void __launch_bounds__(NI_TILE_THREADS, NI_TILE_BLOCKS)
    produce_turned(const __grid_constant__ turned_work work, const ni_tile_room *rooms) {
    __shared__ __align__(16) uint32_t tile[NI_TILE_ROWS * NI_TILE_PITCH];
    __shared__ ni_both_tables tables;
    const int which = blockIdx.x < work.first[1] ? 0 : blockIdx.x < work.first[2] ? 1 : 2;
    const ni_tile_room *const room = (const ni_tile_room *)((const char *)rooms + which * NI_CUDA_TILE_ROOM);
    const int64_t cols = work.s.cols[which];
    const ni_tile_place at = ni_tile_at(blockIdx.x - work.first[which], work.s.rows, cols);
    uint4 own[NI_OWN_ROWS];
    if (at.r0 < 0)
        return;
    ni_load_own(own, work.s.x[which], at, cols);
    if (TURNS && which < 2)
        ni_turn_rows<NI_OWN_ROWS, NI_ROW_STEP, NI_ROW_STEP * NI_TILE_PITCH>(
            work.s.by, own, (uint32_t *)ni_own_of(tile, at, 0), work.s.positions, at.row, work.s.rows);
    ni_wait_for_it();
    ni_load_tables(&tables, room, work.to[which]);
#pragma unroll
    for (int i = 0; i < NI_OWN_ROWS; i++) {
        *ni_own_of(tile, at, i) = own[i];
        if (TURNS && work.s.kept[which] && at.live)
            *(uint4 *)(work.s.x[which] + (at.row + NI_ROW_STEP * i) * cols + at.col) = own[i];
    }
    ni_make_both<8, 8>(work.to[which], room, tables, tile, own, at, work.s.rows, cols);
}

bool ni_cuda_produces_turned(int64_t head_dim) {
    return ni_turns_eights(head_dim);
}

int ni_cuda_produce_turned(void *stream, void *rooms, const ni_cuda_turned_tiles *s, const ni_cuda_both_copies to[3]) {
    turned_work work = {};
    unsigned across = 0;
    work.s = *s;
    for (int i = 0; i < 3; i++) {
        work.to[i] = to[i];
        work.first[i] = across;
        across += (unsigned)ni_divide_up(s->cols[i], NI_TILE_COLS);
    }
    const int code = ni_cuda_set_tile_scales(stream, rooms, to, 3);
    if (code != cudaSuccess)
        return code;
    return ni_launch_following((cudaStream_t)stream, s->turns ? produce_turned<true> : produce_turned<false>,
                               ni_tile_grid(s->rows, (int64_t)across * NI_TILE_COLS), NI_TILE_THREADS, 0, work,
                               (const ni_tile_room *)rooms);
}
