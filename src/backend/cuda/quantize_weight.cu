/* quantize_weight.cu: 16x16 tiles of an FP32 master, to nearest: codes, scale bytes, and values that serve both ways. */
#include "backend/cuda/alphas.cuh"
#include "backend/cuda/tile.cuh"

/* One row of four neighbours. */
template <bool TAME>
static __device__ void encode_four(const ni_cuda_tile_copy &copy, const float4 &x, uint8_t byte,
                                   const ni_scale_entry &entry, int64_t r, int64_t c) {
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

/* Sixteen lanes a tile, four neighbours of every fourth row each; `tile` may lie beyond the last. */
typedef struct weight_part {
    float4 x[4];
    uint32_t amax; /* of the tile */
    int64_t r, c;
    bool live;
} weight_part;

static __device__ weight_part load_part(const float *w, int64_t rows, int64_t cols, uint32_t tile) {
    const uint32_t across = (uint32_t)(cols / 16);
    const int part = threadIdx.x % 16;
    weight_part p;
    p.live = tile < across * (uint32_t)(rows / 16);
    p.r = p.live ? tile / across * 16 + part / 4 : 0;
    p.c = p.live ? tile % across * 16 + part % 4 * 4 : 0;
    p.amax = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        p.x[i] = *(const float4 *)(w + (p.r + 4 * i) * cols + p.c);
#pragma unroll
    for (int i = 0; i < 4; i++)
        p.amax = max(
            max(max(p.amax, ni_f32_magnitude(p.x[i].x)), max(ni_f32_magnitude(p.x[i].y), ni_f32_magnitude(p.x[i].z))),
            ni_f32_magnitude(p.x[i].w));
#pragma unroll
    for (int lane = 1; lane < 16; lane *= 2)
        p.amax = max(p.amax, __shfl_xor_sync(~0u, p.amax, lane));
    return p;
}

static __device__ void encode_part(const ni_cuda_tile_copy &copy, const weight_part &p, const ni_scale_entry *table,
                                   float s_inner, bool tame) {
    if (!p.live)
        return;
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(p.amax), 0.0f, s_inner);
    const ni_scale_entry entry = table[byte];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (tame)
            encode_four<true>(copy, p.x[i], byte, entry, p.r + 4 * i, p.c);
        else
            encode_four<false>(copy, p.x[i], byte, entry, p.r + 4 * i, p.c);
        if (threadIdx.x % 4 == 0)
            copy.scales[(p.r + 4 * i) * (copy.stride / 16) + p.c / 16] = byte;
    }
}

static __device__ void begin_weight(const ni_cuda_tile_copy &copy, ni_scale_entry *table, float *s_inner, bool *tame) {
    const ni_tensor_scale t = ni_tile_scale(copy);
    *tame = ni_is_tame(copy);
    *s_inner = t.s_inner;
    ni_fill_table(table, t.sdec, 1.0f, threadIdx.x, NI_TILE_THREADS);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        ni_leave_scale(copy, t);
    __syncthreads();
    if (blockIdx.x == 0)
        ni_multiply_alphas(copy.alphas);
}

enum { TILES_A_BLOCK = NI_TILE_THREADS / 16, RESIDENT = 8, ROUNDS = 2 };

/* Under a maximum that is known. */
static __global__ void __launch_bounds__(NI_TILE_THREADS)
    quantize_weight(const float *w, int64_t rows, int64_t cols, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ ni_scale_entry table[NI_TILE_BYTES];
    float s_inner;
    bool tame;
    const weight_part p = load_part(w, rows, cols, blockIdx.x * TILES_A_BLOCK + threadIdx.x / 16);
    begin_weight(copy, table, &s_inner, &tame);
    encode_part(copy, p, table, s_inner, tame);
}

/* The same where the whole grid is on the GPU at once: the maximum is found first, and nothing is read twice. */
static __global__ void __launch_bounds__(NI_TILE_THREADS, RESIDENT)
    measure_and_quantize_weight(const float *w, int64_t rows, int64_t cols,
                                const __grid_constant__ ni_cuda_tile_copy known, ni_tile_room *room) {
    __shared__ ni_scale_entry table[NI_TILE_BYTES];
    weight_part p[ROUNDS];
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        p[i] = load_part(w, rows, cols, (blockIdx.x + i * gridDim.x) * TILES_A_BLOCK + threadIdx.x / 16);
        largest = max(largest, p[i].amax);
    }
    ni_join_amax(&room->weight, largest);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(&room->here, 1u);
        while (*(volatile uint32_t *)&room->here < gridDim.x)
            ;
        __threadfence();
    }
    __syncthreads();
    __shared__ uint32_t amax;
    if (threadIdx.x == 0)
        amax = *(volatile uint32_t *)&room->weight;
    __syncthreads();
    ni_cuda_tile_copy copy = known;
    copy.amax = &amax;
    float s_inner;
    bool tame;
    begin_weight(copy, table, &s_inner, &tame);
    if (threadIdx.x == 0 && atomicAdd(&room->gone, 1u) == gridDim.x - 1) { /* room for the next */
        room->weight = 0;
        room->here = 0;
        room->gone = 0;
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
        encode_part(copy, p[i], table, s_inner, tame);
}

bool ni_cuda_weight_fits(int64_t rows, int64_t cols, int multiprocessors) {
    return cols / 16 * (rows / 16) <= (int64_t)TILES_A_BLOCK * ROUNDS * RESIDENT * multiprocessors;
}

int ni_cuda_quantize_weight(void *stream, void *room, const float *w, int64_t rows, int64_t cols,
                            const ni_cuda_tile_copy *copy) {
    const int64_t blocks = ni_divide_up(cols / 16 * (rows / 16), TILES_A_BLOCK);
    if (copy->amax || copy->quantizer.outer != NB_OUTER_TENSOR) {
        quantize_weight<<<(unsigned)blocks, NI_TILE_THREADS, 0, (cudaStream_t)stream>>>(w, rows, cols, *copy);
        return cudaGetLastError();
    }
    ni_tile_room *at = (ni_tile_room *)room;
    void *arguments[] = {&w, &rows, &cols, (void *)copy, &at};
    const unsigned grid = (unsigned)ni_divide_up(blocks, ROUNDS);
    return cudaLaunchCooperativeKernel((const void *)measure_and_quantize_weight, dim3(grid), dim3(NI_TILE_THREADS),
                                       arguments, 0, (cudaStream_t)stream);
}
