/* quantize_weight.cu: 16x16 tiles of FP32 masters, to nearest: codes, scale bytes, and values that serve both ways. A
 * step has dozens of small weights, and a launch takes longer than the reading of one, so a launch takes many:
 *
 *     weight_maxima      the largest magnitude of each part of each weight
 *     quantize_weights   each block makes its weight's scale of them, and encodes sixteen tiles, once for all operands
 *                        that are the same codes
 */
#include "backend/cuda/list.cuh"
#include "backend/cuda/tile.cuh"

enum {
    MOST_WEIGHTS = 24, /* in the arguments of a kernel */
    PART = 16384,      /* numbers whose maximum a block finds */
    TILES_AT_ONCE = NI_TILE_THREADS / 16,
    ROUNDS = 2
};

typedef struct listed_weight {
    ni_cuda_weight is;
    uint32_t first_block, first_part, parts; /* no parts: its maximum is known, or nobody asks */
} listed_weight;

typedef struct weight_list {
    listed_weight at[MOST_WEIGHTS];
    int count;
    uint32_t blocks, parts;
} weight_list;

/* ---- maxima ---- */

static __global__ void __launch_bounds__(NI_THREADS)
    weight_maxima(const __grid_constant__ weight_list list, uint32_t *parts) {
    __shared__ uint32_t room[NI_WARPS];
    const int which = ni_listed(list, &listed_weight::first_part);
    const listed_weight &w = list.at[which];
    const int64_t first = (int64_t)(blockIdx.x - w.first_part) * (PART / 4), all = w.is.rows * w.is.cols / 4;
    const int64_t end = first + PART / 4 < all ? first + PART / 4 : all;
    uint32_t largest = 0;
#pragma unroll 8
    for (int64_t i = first + threadIdx.x; i < end; i += NI_THREADS) {
        const float4 x = ((const float4 *)w.is.w)[i];
        largest = max(max(max(largest, ni_f32_magnitude(x.x)), max(ni_f32_magnitude(x.y), ni_f32_magnitude(x.z))),
                      ni_f32_magnitude(x.w));
    }
    __syncwarp();
    largest = ni_warp_max(largest);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = largest;
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    largest = ni_warp_max(threadIdx.x < NI_WARPS ? room[threadIdx.x] : 0);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = largest;
}

/* For all threads of a block of quantize_weights. */
static __device__ uint32_t amax_of(const listed_weight &w, const uint32_t *parts) {
    __shared__ uint32_t room[NI_TILE_THREADS / 32];
    if (w.is.amax)
        return *w.is.amax;
    uint32_t largest = 0;
    for (uint32_t i = threadIdx.x; i < w.parts; i += NI_TILE_THREADS)
        largest = max(largest, parts[w.first_part + i]);
    __syncwarp();
    largest = ni_warp_max(largest);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = largest;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < NI_TILE_THREADS / 32; i++)
        largest = max(largest, room[i]);
    return largest;
}

/* ---- tiles ---- */

/* Sixteen lanes a tile, four neighbours of every fourth row each; `tile` may lie beyond the last. */
typedef struct weight_part {
    float4 x[4];
    int64_t r, c;
    bool live;
} weight_part;

static __device__ weight_part load_part(const ni_cuda_weight &w, uint32_t tile) {
    const uint32_t across = (uint32_t)(w.cols / 16);
    const int part = threadIdx.x % 16;
    weight_part p;
    p.live = tile < across * (uint32_t)(w.rows / 16);
    p.r = p.live ? tile / across * 16 + part / 4 : 0;
    p.c = p.live ? tile % across * 16 + part % 4 * 4 : 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        p.x[i] = *(const float4 *)(w.w + (p.r + 4 * i) * w.cols + p.c);
    return p;
}

static __device__ uint32_t amax_of_tile(const weight_part &p) {
    uint32_t amax = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        amax =
            max(max(max(amax, ni_f32_magnitude(p.x[i].x)), max(ni_f32_magnitude(p.x[i].y), ni_f32_magnitude(p.x[i].z))),
                ni_f32_magnitude(p.x[i].w));
#pragma unroll
    for (int lane = 1; lane < 16; lane *= 2)
        amax = max(amax, __shfl_xor_sync(~0u, amax, lane));
    return amax;
}

/* Four neighbours: values, and their codes. */
template <bool TAME> static __device__ uint2 encode_four(const float4 &x, const ni_scale_entry &entry, uint32_t *word) {
    const float in[4] = {x.x, x.y, x.z, x.w};
    uint32_t q[2], codes[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float low = ni_f32_mul(in[2 * i], entry.encode), high = ni_f32_mul(in[2 * i + 1], entry.encode);
        q[i] = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<TAME>(low), ni_nearest_on_grid<TAME>(high)));
        codes[i] = ni_pair_codes(q[i], ni_exact_pair(low, high));
        q[i] = ni_pair_times(q[i], entry.value);
    }
    *word = (codes[0] & 15u) | (codes[0] >> 16) << 4 | (codes[1] & 15u) << 8 | (codes[1] >> 16) << 12;
    return make_uint2(q[0], q[1]);
}

template <bool TAME>
static __device__ void encode_part(const ni_cuda_weight &w, const weight_part &p, const ni_scale_entry *table,
                                   float s_inner) {
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(amax_of_tile(p)), 0.0f, s_inner);
    const ni_scale_entry entry = table[byte];
    if (!p.live)
        return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t word;
        const uint2 values = encode_four<TAME>(p.x[i], entry, &word);
        const int64_t r = p.r + 4 * i;
        for (int k = 0; k < w.copies; k++) {
            const ni_cuda_weight_copy &to = w.to[k];
            *(uint2 *)(to.values + r * to.stride + p.c) = values;
            *(uint16_t *)(to.codes + (r * to.stride + p.c) / 2) = (uint16_t)(byte ? word : 0);
            if (threadIdx.x % 4 == 0)
                to.scales[r * (to.stride / 16) + p.c / 16] = byte;
        }
    }
}

static __global__ void __launch_bounds__(NI_TILE_THREADS)
    quantize_weights(const __grid_constant__ weight_list list, const uint32_t *parts) {
    __shared__ ni_scale_entry table[NI_TILE_BYTES];
    const int which = ni_listed(list, &listed_weight::first_block);
    const listed_weight &w = list.at[which];
    const uint32_t block = blockIdx.x - w.first_block;
    weight_part p[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
        p[i] = load_part(w.is, (block * ROUNDS + i) * TILES_AT_ONCE + threadIdx.x / 16);
    const uint32_t amax = amax_of(w, parts);
    const ni_tensor_scale t = ni_tensor_scale_of(ni_e4m3_target_of(w.is.rule), w.is.outer, ni_f32_from(amax));
    ni_fill_table(table, t.sdec, 1.0f, threadIdx.x, NI_TILE_THREADS);
    if (block == 0 && threadIdx.x < (unsigned)w.is.copies) {
        const ni_cuda_weight_copy &to = w.is.to[threadIdx.x];
        if (to.tensor_scale)
            *to.tensor_scale = t.sdec;
        if (to.head)
            *to.head = amax;
    }
    __syncthreads();
    if (w.is.outer == NB_OUTER_TENSOR && ni_f32_from(amax) >= 0x1p-60f && ni_f32_from(amax) <= 0x1p100f)
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
            encode_part<true>(w.is, p[i], table, t.s_inner);
    else
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
            encode_part<false>(w.is, p[i], table, t.s_inner);
}

/* ---- the lists ---- */

static bool is_measured(const ni_cuda_weight *w) {
    return w->outer == NB_OUTER_TENSOR && !w->amax;
}

int64_t ni_cuda_weight_parts(const ni_cuda_weight *weights, int count) {
    int64_t parts = 0;
    for (int i = 0; i < count; i++)
        parts += is_measured(&weights[i]) ? ni_divide_up(weights[i].rows * weights[i].cols, PART) : 0;
    return parts;
}

static int launch_list(cudaStream_t on, weight_list *list, uint32_t *parts) {
    if (list->parts)
        weight_maxima<<<list->parts, NI_THREADS, 0, on>>>(*list, parts);
    if (list->count)
        quantize_weights<<<list->blocks, NI_TILE_THREADS, 0, on>>>(*list, parts);
    list->count = 0;
    list->blocks = list->parts = 0;
    return cudaGetLastError();
}

int ni_cuda_quantize_weights(void *stream, const ni_cuda_weight *weights, int count, uint32_t *parts) {
    weight_list list = {};
    int code = cudaSuccess;
    for (int i = 0; i < count && !code; i++) {
        const ni_cuda_weight *w = &weights[i];
        const int64_t blocks = ni_divide_up(w->rows / 16 * (w->cols / 16), TILES_AT_ONCE * ROUNDS);
        if (list.blocks + blocks > INT32_MAX || w->rows / 16 * (w->cols / 16) > INT32_MAX)
            return cudaErrorInvalidValue;
        const uint32_t measured = is_measured(w) ? (uint32_t)ni_divide_up(w->rows * w->cols, PART) : 0;
        list.at[list.count++] = (listed_weight){*w, list.blocks, list.parts, measured};
        list.blocks += (uint32_t)blocks;
        list.parts += measured;
        if (list.count == MOST_WEIGHTS)
            code = launch_list((cudaStream_t)stream, &list, parts);
    }
    return code ? code : launch_list((cudaStream_t)stream, &list, parts);
}
