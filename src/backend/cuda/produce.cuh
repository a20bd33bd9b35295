/* produce.cuh: what kernels share that make both operands of numbers which they compute: the scales are those of the step
 * before and stand in the room of tiles, so a tile goes from registers and shared memory straight into both copies.
 *
 * A block of 128 threads has a tile of 16 x 256, as in quantize_tile.cu: thread t holds eight neighbours of rows t / 32,
 * t / 32 + 4, ... .
 */
#ifndef NI_BACKEND_CUDA_PRODUCE_CUH
#define NI_BACKEND_CUDA_PRODUCE_CUH

#include "backend/cuda/follow.cuh"
#include "backend/cuda/produce.h"
#include "backend/cuda/tile_copy.cuh"

enum { NI_OWN_ROWS = NI_TILE_ROWS * NI_TILE_VECTORS / NI_TILE_THREADS, NI_ROW_STEP = NI_TILE_ROWS / NI_OWN_ROWS };

/* Where a block's tile is, and this thread in it. */
typedef struct ni_tile_place {
    int64_t r0, c0;   /* first row and column of the tile */
    int64_t row, col; /* of this thread's numbers */
    int vector;       /* its eight of a row */
    bool live;        /* not beyond the last column */
} ni_tile_place;

/* Of BANDS in a block. Where there is none, it is beyond the last column: its threads come together with the others. */
template <int BANDS = 1>
static __device__ inline ni_tile_place ni_tile_at(unsigned across, int64_t rows, int64_t cols) {
    const int64_t r0 = ni_tile_row<BANDS>(rows), first = threadIdx.x / NI_TILE_VECTORS;
    const int vector = threadIdx.x % NI_TILE_VECTORS;
    const int64_t c0 = (int64_t)across * NI_TILE_COLS, col = c0 + 8 * vector;
    if (BANDS > 1 && r0 < 0)
        return {0, cols, first, cols, vector, false};
    return {r0, c0, r0 + first, col, vector, col < cols};
}

static inline dim3 ni_tile_grid(int64_t rows, int64_t cols, int bands_of_block = 1) {
    return ni_band_grid(ni_divide_up(cols, NI_TILE_COLS), ni_divide_up(rows / NI_TILE_ROWS, bands_of_block));
}

/* This thread's numbers at `from` [rows, cols]; zeros beyond the last column. */
static __device__ inline void ni_load_own(uint4 *own, const uint16_t *from, const ni_tile_place &at, int64_t cols) {
#pragma unroll
    for (int i = 0; i < NI_OWN_ROWS; i++)
        own[i] = at.live ? *(const uint4 *)(from + (at.row + NI_ROW_STEP * i) * cols + at.col) : make_uint4(0, 0, 0, 0);
}

/* This thread's numbers of a tile in shared memory. */
static __device__ inline uint4 *ni_own_of(uint32_t *tile, const ni_tile_place &at, int i) {
    return (uint4 *)&tile[(at.row - at.r0 + NI_ROW_STEP * i) * NI_TILE_PITCH + 4 * at.vector];
}

/* Factors of both copies, and what is known of their maxima, in shared memory. */
typedef struct ni_both_tables {
    ni_scale_entry row[NI_TILE_BYTES], column[NI_TILE_BYTES];
    ni_known_amaxes known;
} ni_both_tables;

static __device__ inline void ni_load_tables(ni_both_tables *tables, const ni_tile_room *room,
                                             const ni_cuda_both_copies &to) {
    if (threadIdx.x < NI_TILE_BYTES) {
        tables->row[threadIdx.x] = room->copies[0].table[threadIdx.x];
        tables->column[threadIdx.x] = room->copies[1].table[threadIdx.x];
    }
    ni_tell_amaxes<0>(&tables->known, ni_ask_amaxes<0>(to.row.now, to.column.now));
}

/* Both copies of a tile that lies in shared memory; `own` is the part of this thread, which is the `thread`th of those that
 * have the tile. All threads of the block come together here, behind whatever they wrote there. */
template <int ROWS, int COLUMNS>
static __device__ __forceinline__ void ni_make_both(const ni_cuda_both_copies &to, const ni_tile_room *room,
                                                    const ni_both_tables &tables, const uint32_t *tile,
                                                    const uint4 *own, const ni_tile_place &at, int64_t rows,
                                                    int64_t cols, int thread = threadIdx.x) {
    uint32_t pairs = 0;
#pragma unroll
    for (int i = 0; i < NI_OWN_ROWS; i++)
        pairs = ni_larger_pair(ni_larger_pair(ni_larger_pair(ni_larger_pair(pairs, own[i].x), own[i].y), own[i].z),
                               own[i].w);
    const uint32_t largest = ni_larger_half(pairs);
    const bool wild = ni_is_any_wild(largest, min(room->copies[0].most_tame, room->copies[1].most_tame));
    if (to.row.now)
        ni_join_known(to.row.now, largest, tables.known.plain);
    const ni_copying across = {to.row, tables.row, room->copies[0].s_inner, room->copies[0].drawn,
                               room->copies[0].tame};
    if (across.tame && !wild)
        ni_encode_rows<ROWS, true>(across, own, at.row, at.col, cols, at.live);
    else
        ni_encode_rows<ROWS, false>(across, own, at.row, at.col, cols, at.live);
    const ni_copying down = {to.column, tables.column, room->copies[1].s_inner, room->copies[1].drawn,
                             room->copies[1].tame};
    const int64_t c = at.c0 + 2 * thread;
    uint32_t turned = 0;
    if (c < cols)
        turned = down.tame && !wild
                     ? ni_encode_columns<COLUMNS, NI_FIXED_AND_ROUNDED, true>(down, tile + thread, rows, at.r0, c, 0)
                     : ni_encode_columns<COLUMNS, NI_FIXED_AND_ROUNDED, false>(down, tile + thread, rows, at.r0, c, 0);
    __syncwarp();
    if (to.column.now)
        ni_join_known(to.column.now, turned, tables.known.turned);
}

#endif
