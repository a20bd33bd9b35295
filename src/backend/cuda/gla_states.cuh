/* gla_states.cuh: the scans over chunks by key rows (gla_backward.cu), which leave the states S and D of every chunk.
 *
 * A warp holds 16 rows of `width` columns. Where a state is stored, 16 keys by 16 values are 32 uint4, one of each lane:
 * rows g, g + 8, g, g + 8 of lane 4 g + pair / 2, columns pair, + 1 and, in the last two words, eight further. So a lane
 * loads the second operand of a product with it in one piece.
 */
#ifndef NI_CUDA_GLA_STATES_CUH
#define NI_CUDA_GLA_STATES_CUH

#include "gla_chunk.cuh"

enum { STATE_KEYS = 16 * SCAN_WARPS };

/* Where this lane's piece of 16 keys (group) and 16 values (step) is in the states. */
static __device__ __forceinline__ int64_t state_at(const gla_args &a, int64_t record, int group, int step) {
    return ((record * (a.key_pad / 16) + group) * (a.value_pad / 16) + step) * 32 + threadIdx.x % 32;
}

template <int width> struct state_tile {
    enum { key_pitch = STATE_KEYS + 8, value_pitch = width + 8 };
    bf16 write[CHUNK * value_pitch]; /* what changes the state, with `key`: v, or reversed do */
    bf16 key[CHUNK * key_pitch];     /* decayed keys, or reversed queries */
    float decay[STATE_KEYS];
};

/* S or D of a warp: rows 16 warp + g, + 8; columns 8 n + pair, + 1 of lane 4 g + pair / 2. */
template <int width> struct key_state { float s[width / 8][4]; };

template <int width> static __device__ __forceinline__ void store_state(uint4 *to, const key_state<width> &state) {
#pragma unroll
    for (int k = 0; k < width / 16; k++) {
        const float(&low)[4] = state.s[2 * k], (&high)[4] = state.s[2 * k + 1];
        to[32 * k] = make_uint4(pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                                pack_bf16(high[2], high[3]));
    }
}

/* S = diag(decay) S + key^T write, of this warp's rows */
template <int width>
static __device__ __forceinline__ void write_rows(key_state<width> &state, const state_tile<width> *c) {
    typedef state_tile<width> tile;
    const int row = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4;
    const float decay[2] = {c->decay[row + g], c->decay[row + g + 8]};
#pragma unroll
    for (int n = 0; n < width / 8; n++)
#pragma unroll
        for (int part = 0; part < 4; part++)
            state.s[n][part] *= decay[part / 2];
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++) {
        uint32_t x[4];
        load_a_columns(x, c->key, tile::key_pitch, row, 16 * k);
#pragma unroll
        for (int n = 0; n < width / 16; n++) {
            uint32_t b[4];
            load_b(b, c->write, tile::value_pitch, 16 * k, 16 * n);
            mma(state.s[2 * n], x, b[0], b[1]);
            mma(state.s[2 * n + 1], x, b[2], b[3]);
        }
    }
}

/* STATE_KEYS rows and `width` columns of a head: S forward, D in reverse. The next chunk is loaded while one is added. */
template <int width, bool reverse> static __device__ __forceinline__ void scan_states(const gla_args &a, int index) {
    typedef state_tile<width> tile;
    tile *tiles = (tile *)shared_memory();
    const int across = a.value_pad / width, key = index / across * STATE_KEYS, value = index % across * width;
    const int batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t pitch = (int64_t)a.heads * a.value_dim;
    const int64_t head_row = (int64_t)batch * a.seq * pitch + (int64_t)head * a.value_dim + value;
    const bf16 *from = (reverse ? a.d_o : a.v) + head_row, *keys = (reverse ? a.queries : a.keys) + key;
    uint4 *to = reverse ? a.slopes : a.states;

    auto record = [&](int chunk) { return (int64_t)blockIdx.y * a.chunks + chunk; };
    auto load = [&](tile *c, int chunk) {
        copy_tile<width, SCAN_THREADS>(c->write, tile::value_pitch, from + chunk * CHUNK * pitch, pitch,
                                       a.seq - chunk * CHUNK, a.value_dim - value);
        copy_tile<STATE_KEYS, SCAN_THREADS>(c->key, tile::key_pitch, keys + record(chunk) * CHUNK * a.key_pad,
                                            a.key_pad, CHUNK, STATE_KEYS);
        if (threadIdx.x < STATE_KEYS / 4)
            copy_async16(c->decay + 4 * threadIdx.x, a.decay + record(chunk) * a.key_pad + key + 4 * threadIdx.x, true);
        copy_commit();
    };

    key_state<width> state = {};
    load(&tiles[0], reverse ? a.chunks - 1 : 0);
    for (int i = 0; i + 1 < a.chunks; i++) {
        const int chunk = reverse ? a.chunks - 1 - i : i, next = reverse ? chunk - 1 : chunk + 1;
        copy_wait<0>();
        __syncthreads();
        if (i + 2 < a.chunks)
            load(&tiles[(i + 1) % 2], next);
        write_rows(state, &tiles[i % 2]);
        store_state<width>(to + state_at(a, record(next), key / 16 + threadIdx.x / 32, value / 16), state);
    }
}

#endif
