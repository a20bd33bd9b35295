/* produce_turned.cu: slopes of q, k and v straight into the operands that are made of them (produce.cuh), those of q and k
 * turned back by RoPE first: one launch for all three. Numbers are rounded to BF16 as rope.cu leaves them, so operands have
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

/* Angles beyond the table: nobody comes here in training. */
static __device__ __noinline__ ni_turn far_turn(const turned_work &work, int32_t position, int i) {
    return ni_turn_by(position, i, work.s.head_dim, work.s.how);
}

/* Two pairs of channels of which `own` are this lane's and `other` their partners': a lane that has the lower halves takes
 * x c - y s, the other one x c + y s, and the sign of s is the lane's. */
static __device__ inline uint32_t turned_pair(uint32_t own, uint32_t other, const float4 &by, uint32_t sign) {
    const float s1 = __uint_as_float(__float_as_uint(by.y) ^ sign), s2 = __uint_as_float(__float_as_uint(by.w) ^ sign);
    return ni_pack_two(ni_f32_add(ni_f32_mul(ni_low_of(own), by.x), ni_f32_mul(ni_low_of(other), s1)),
                       ni_f32_add(ni_f32_mul(ni_high_of(own), by.z), ni_f32_mul(ni_high_of(other), s2)));
}

/* Cosines and sines of channels i and i + 1. */
static __device__ inline float4 two_turns(const turned_work &work, int32_t position, int i) {
    if (ni_is_in_table(work.s.turns, position))
        return *(const float4 *)(work.s.turns.table + ((int64_t)position * (work.s.head_dim / 2) + i) * 2);
    const ni_turn a = far_turn(work, position, i), b = far_turn(work, position, i + 1);
    return make_float4(a.c, a.s, b.c, b.s);
}

/* Back by the angles of this row's position. */
static __device__ inline uint4 turned_back(const turned_work &work, const uint4 &own, int32_t position, int vector) {
    const int across = work.s.head_dim / 16, i = vector % across * 8; /* lanes of half a head; the first channel */
    const uint32_t sign = vector & across ? 0x80000000u : 0;          /* - - is +, and the higher half's turns with s */
    const uint4 other = make_uint4(__shfl_xor_sync(~0u, own.x, across), __shfl_xor_sync(~0u, own.y, across),
                                   __shfl_xor_sync(~0u, own.z, across), __shfl_xor_sync(~0u, own.w, across));
    return make_uint4(turned_pair(own.x, other.x, two_turns(work, position, i), sign),
                      turned_pair(own.y, other.y, two_turns(work, position, i + 2), sign),
                      turned_pair(own.z, other.z, two_turns(work, position, i + 4), sign),
                      turned_pair(own.w, other.w, two_turns(work, position, i + 6), sign));
}

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
    if (which < 2)
#pragma unroll
        for (int i = 0; i < NI_OWN_ROWS; i++)
            own[i] = turned_back(work, own[i], work.s.positions[at.row + NI_ROW_STEP * i], at.vector);
    ni_wait_for_it();
    ni_load_tables(&tables, room, work.to[which]);
#pragma unroll
    for (int i = 0; i < NI_OWN_ROWS; i++) {
        *ni_own_of(tile, at, i) = own[i];
        if (which < 2 && work.s.kept[which] && at.live)
            *(uint4 *)(work.s.x[which] + (at.row + NI_ROW_STEP * i) * cols + at.col) = own[i];
    }
    ni_make_both<8, 8>(work.to[which], room, tables, tile, own, at, work.s.rows, cols);
}

/* Half a head is a lane at least, and heads end where tiles do. */
bool ni_cuda_produces_turned(int64_t head_dim) {
    return head_dim >= 16 && head_dim <= NI_TILE_COLS && NI_TILE_COLS % head_dim == 0;
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
    return ni_launch_following((cudaStream_t)stream, produce_turned,
                               ni_tile_grid(s->rows, (int64_t)across * NI_TILE_COLS), NI_TILE_THREADS, 0, work,
                               (const ni_tile_room *)rooms);
}
