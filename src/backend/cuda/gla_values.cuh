/* gla_values.cuh: the scan over chunks by value columns (gla_forward.cu), of which o comes forward and dv in reverse. */
#ifndef NI_CUDA_GLA_VALUES_CUH
#define NI_CUDA_GLA_VALUES_CUH

#include "gla_chunk.cuh"
#include "turned.cuh"

template <int key> struct value_tile {
    enum {
        values = 16 * SCAN_WARPS,
        key_pitch = key + 8,
        value_pitch = values + 8,
        pair_pitch = CHUNK + 8,
        out_pitch = 24
    };
    bf16 read[CHUNK * key_pitch];  /* what reads the state: queries, or reversed keys */
    bf16 write[CHUNK * key_pitch]; /* what changes it, with `values` */
    bf16 pairs[CHUNK * pair_pitch];
    bf16 value[CHUNK * value_pitch];
    bf16 out[SCAN_WARPS][CHUNK * out_pitch];
    float decay[key];
};

/* S^T of a warp: columns 16 warp + g, + 8; keys 8 n + pair, + 1 of lane 4 g + pair / 2. */
template <int key> struct value_state { float s[key / 8][4]; };

/* o^T of a warp, as its S^T: positions in the place of keys. */
typedef struct value_sums {
    float o[CHUNK / 8][4];
} value_sums;

/* o^T += S^T read^T */
template <int key>
static __device__ __forceinline__ void read_state(value_sums &sum, const value_state<key> &state,
                                                  const value_tile<key> *c) {
#pragma unroll
    for (int k = 0; k < key / 16; k++) {
        const float(&low)[4] = state.s[2 * k], (&high)[4] = state.s[2 * k + 1];
        const uint32_t s[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                               pack_bf16(high[2], high[3])};
#pragma unroll
        for (int n = 0; n < CHUNK / 16; n++) {
            uint32_t b[4];
            load_b_columns(b, c->read, value_tile<key>::key_pitch, 16 * k, 16 * n);
            mma(sum.o[2 * n], s, b[0], b[1]);
            mma(sum.o[2 * n + 1], s, b[2], b[3]);
        }
    }
}

/* o^T += value^T P^T, or reversed value^T P; keeps the fragments of value^T. */
template <int key, bool reverse>
static __device__ __forceinline__ void read_pairs(value_sums &sum, uint32_t (&v)[CHUNK / 16][4],
                                                  const value_tile<key> *c) {
    typedef value_tile<key> tile;
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++) {
        load_a_columns(v[k], c->value, tile::value_pitch, threadIdx.x / 32 * 16, 16 * k);
#pragma unroll
        for (int n = 0; n < CHUNK / 16; n++) {
            if (reverse ? k < n : k > n)
                continue; /* P is zero there */
            uint32_t b[4];
            if (reverse)
                load_b(b, c->pairs, tile::pair_pitch, 16 * k, 16 * n);
            else
                load_b_columns(b, c->pairs, tile::pair_pitch, 16 * k, 16 * n);
            mma(sum.o[2 * n], v[k], b[0], b[1]);
            mma(sum.o[2 * n + 1], v[k], b[2], b[3]);
        }
    }
}

/* S^T = S^T diag(decay) + value^T write */
template <int key>
static __device__ __forceinline__ void write_state(value_state<key> &state, const uint32_t (&v)[CHUNK / 16][4],
                                                   const value_tile<key> *c) {
#pragma unroll
    for (int n = 0; n < key / 8; n++) {
        const float2 decay = *(const float2 *)(c->decay + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++)
            state.s[n][i] *= i % 2 ? decay.y : decay.x;
    }
#pragma unroll
    for (int k = 0; k < CHUNK / 16; k++)
#pragma unroll
        for (int n = 0; n < key / 16; n++) {
            uint32_t b[4];
            load_b(b, c->write, value_tile<key>::key_pitch, 16 * k, 16 * n);
            mma(state.s[2 * n], v[k], b[0], b[1]);
            mma(state.s[2 * n + 1], v[k], b[2], b[3]);
        }
}

/* Turns a warp's o^T over in `turned` and stores it: `rows` positions, `width` columns, at most 16. Returns the larger
 * magnitudes of what this lane stored, in pairs. */
static __device__ __forceinline__ uint32_t store_turned(bf16 *out, int64_t pitch, const value_sums &sum, bf16 *turned,
                                                        int turned_pitch, int rows, int width) {
    const int lane = threadIdx.x % 32, g = lane / 4, pair = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < CHUNK / 8; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t two = pack_bf16(sum.o[n][2 * half], sum.o[n][2 * half + 1]);
            turned[(8 * n + pair) * turned_pitch + g + 8 * half] = (bf16)two;
            turned[(8 * n + pair + 1) * turned_pitch + g + 8 * half] = (bf16)(two >> 16);
        }
    __syncwarp();
    uint32_t pairs = 0;
#pragma unroll
    for (int u = lane; u < CHUNK * 2; u += 32) {
        const int t = u / 2, column = u % 2 * 8;
        if (t < rows && column < width) {
            const uint4 eight = *(const uint4 *)(turned + t * turned_pitch + column);
            *(uint4 *)(out + t * pitch + column) = eight;
            pairs = ni_larger_of_four(pairs, eight);
        }
    }
    return pairs;
}

/* The largest number of turned columns that store_turned has left, all positions a multiple of 16 of 16 columns. */
static __device__ __noinline__ uint32_t turn_columns(const bf16 *turned, int turned_pitch) {
    const int first = threadIdx.x % 32 / 8 * 16, column = threadIdx.x % 8 * 2;
    uint32_t words[16];
#pragma unroll
    for (int i = 0; i < 16; i++)
        words[i] = *(const uint32_t *)(turned + (first + i) * turned_pitch + column);
    return ni_warp_max(ni_turned_amax(words));
}

/* The larger of `largest` and of that number. */
static __device__ __forceinline__ uint32_t larger_turned(uint32_t largest, const bf16 *turned, int turned_pitch) {
    const ni_turning by = ni_turning_of_rows();
    const int lane = threadIdx.x % 32;
    uint32_t most = 0;
#pragma unroll
    for (int m = 0; m < CHUNK; m += 16)
        most = ni_most_of_sixteen(most, by, turned + (m + lane % 16) * turned_pitch + lane / 16 * 8);
    return ni_may_exceed(most, largest) ? max(largest, turn_columns(turned, turned_pitch)) : largest;
}

/* A tile of values of a head. What the state is read with is loaded while it is written, and the other way round. */
template <int key, bool reverse> static __device__ __forceinline__ void scan_values(const gla_args &a, int index) {
    typedef value_tile<key> tile;
    enum { threads = SCAN_THREADS, values = tile::values };
    tile *c = (tile *)shared_memory();
    const int column = threadIdx.x / 32 * 16, first = index * values;
    const int batch = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const int64_t pitch = (int64_t)a.heads * a.value_dim;
    const int64_t head_row = (int64_t)batch * a.seq * pitch + (int64_t)head * a.value_dim + first;
    const bf16 *value = (reverse ? a.d_o : a.v) + head_row, *read = reverse ? a.keys : a.queries;
    const bf16 *write = reverse ? a.queries : a.keys;
    bf16 *out = (reverse ? a.dv : a.o) + head_row + column;

    auto record = [&](int chunk) { return (int64_t)blockIdx.y * a.chunks + chunk; };
    auto load_reads = [&](int chunk) {
        copy_tile<key, threads>(c->read, tile::key_pitch, read + record(chunk) * CHUNK * key, key, CHUNK, key);
        copy_tile<CHUNK, threads>(c->pairs, tile::pair_pitch, a.pairs + record(chunk) * CHUNK * CHUNK, CHUNK, CHUNK,
                                  CHUNK);
        copy_tile<values, threads>(c->value, tile::value_pitch, value + chunk * CHUNK * pitch, pitch,
                                   a.seq - chunk * CHUNK, a.value_dim - first);
    };
    auto load_writes = [&](int chunk) {
        copy_tile<key, threads>(c->write, tile::key_pitch, write + record(chunk) * CHUNK * key, key, CHUNK, key);
        for (int u = threadIdx.x; u < key / 4; u += threads)
            copy_async16(c->decay + 4 * u, a.decay + record(chunk) * key + 4 * u, true);
    };

    value_state<key> state = {};
    bf16 *own = c->out[threadIdx.x / 32];
    uint32_t pairs = 0, largest_turned = 0;
    load_reads(reverse ? a.chunks - 1 : 0);
    copy_commit();
    load_writes(reverse ? a.chunks - 1 : 0);
    copy_commit();
    for (int i = 0; i < a.chunks; i++) {
        const int chunk = reverse ? a.chunks - 1 - i : i, next = reverse ? chunk - 1 : chunk + 1;
        value_sums sum = {};
        uint32_t v[CHUNK / 16][4];
        copy_wait<1>();
        __syncthreads();
        read_state(sum, state, c);
        read_pairs<key, reverse>(sum, v, c);
        __syncthreads();
        if (i + 1 < a.chunks)
            load_reads(next);
        copy_commit();
        const uint32_t stored = store_turned(out + chunk * CHUNK * pitch, pitch, sum, own, tile::out_pitch,
                                             a.seq - chunk * CHUNK, a.value_dim - first - column);
        if (reverse) {
            pairs = ni_larger_pair(pairs, stored);
            if (a.turned[2])
                largest_turned = larger_turned(largest_turned, own, tile::out_pitch);
        }
        copy_wait<1>();
        __syncthreads();
        write_state(state, v, c);
        __syncthreads();
        if (i + 1 < a.chunks)
            load_writes(next);
        copy_commit();
    }
    if (reverse && a.amax[2])
        ni_join_amax(a.amax[2], ni_larger_half(pairs));
    if (reverse && a.turned[2])
        ni_join_amax(a.turned[2], largest_turned);
}

#endif
