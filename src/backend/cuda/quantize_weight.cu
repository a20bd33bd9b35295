/* quantize_weight.cu: 16x16 tiles of an FP32 master, to nearest: codes, scale bytes, and values that serve both ways. */
#include "backend/cuda/tile.cuh"

/* One row of four neighbours. */
template <bool TAME> static __device__ void encode_four(const ni_cuda_tile_copy &copy, const float4 &x, uint8_t byte, const ni_scale_entry &entry, int64_t r, int64_t c) {
    const float in[4] = {x.x, x.y, x.z, x.w};
    uint32_t q[2], codes[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float low = ni_f32_mul(in[2 * i], entry.encode), high = ni_f32_mul(in[2 * i + 1], entry.encode);
        q[i] = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<TAME>(low), ni_nearest_on_grid<TAME>(high)));
        codes[i] = ni_pair_codes(q[i], ni_exact_pair(low, high));
        q[i] = ni_pair_times(q[i], entry.value);
    }
    *(uint2 *)(copy.values + r * copy.stride + c) = make_uint2(q[0], q[1]);
    const uint32_t word = (codes[0] & 15u) | (codes[0] >> 16) << 4 | (codes[1] & 15u) << 8 | (codes[1] >> 16) << 12;
    *(uint16_t *)(copy.codes + (r * copy.stride + c) / 2) = (uint16_t)(byte ? word : 0);
}

/* Sixteen lanes a tile, four neighbours of every fourth row each. */
static __global__ void __launch_bounds__(NI_TILE_THREADS) quantize_weight(const float *w, int64_t rows, int64_t cols, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ ni_scale_entry table[NI_TILE_BYTES];
    const uint32_t across = (uint32_t)(cols / 16), tiles = across * (uint32_t)(rows / 16), tile = blockIdx.x * (NI_TILE_THREADS / 16) + threadIdx.x / 16;
    const bool live = tile < tiles;
    const int part = threadIdx.x % 16; /* lane part % 4 of a row of the tile, rows part / 4 + 4 i */
    const int64_t r0 = live ? tile / across * 16 + part / 4 : 0, c = live ? tile % across * 16 + part % 4 * 4 : 0;
    float4 x[4];
    uint32_t amax = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        x[i] = *(const float4 *)(w + (r0 + 4 * i) * cols + c);
    const ni_tensor_scale t = ni_tile_scale(copy);
    const bool tame = ni_is_tame(copy);
    ni_fill_table(table, t.sdec, 1.0f, threadIdx.x, NI_TILE_THREADS);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        ni_leave_scale(copy, t);
#pragma unroll
    for (int i = 0; i < 4; i++)
        amax = max(max(max(amax, ni_f32_magnitude(x[i].x)), max(ni_f32_magnitude(x[i].y), ni_f32_magnitude(x[i].z))), ni_f32_magnitude(x[i].w));
#pragma unroll
    for (int lane = 1; lane < 16; lane *= 2)
        amax = max(amax, __shfl_xor_sync(~0u, amax, lane));
    __syncthreads();
    if (!live)
        return;
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(amax), 0.0f, t.s_inner);
    const ni_scale_entry entry = table[byte];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (tame)
            encode_four<true>(copy, x[i], byte, entry, r0 + 4 * i, c);
        else
            encode_four<false>(copy, x[i], byte, entry, r0 + 4 * i, c);
        if (part % 4 == 0)
            copy.scales[(r0 + 4 * i) * (copy.stride / 16) + c / 16] = byte;
    }
}

int ni_cuda_quantize_weight(void *stream, const float *w, int64_t rows, int64_t cols, const ni_cuda_tile_copy *copy) {
    const unsigned grid = (unsigned)ni_divide_up(cols / 16 * (rows / 16), NI_TILE_THREADS / 16);
    quantize_weight<<<grid, NI_TILE_THREADS, 0, (cudaStream_t)stream>>>(w, rows, cols, *copy);
    return cudaGetLastError();
}
