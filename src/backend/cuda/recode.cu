/* recode.cu: see recode.h. The largest magnitude first, then bytes both ways. Bits are those of quantize.cu. */
#include "backend/cuda/recode.h"

#include "backend/cuda/byte_tile.cuh"
#include "backend/cuda/list.cuh"
#include "backend/cuda/vector.cuh"
#include "format/vector_scales.h"

bool ni_cuda_recodes(const nb_quantizer *from, const nb_quantizer *to) {
    return from->element == NB_ELEMENT_E2M1 && (ni_has_row_scales(from) || ni_has_column_scales(from)) &&
           !from->hadamard_size && to->element == NB_ELEMENT_E4M3 && ni_has_tensor_scale(to) &&
           to->round == NB_ROUND_EVEN && !to->hadamard_size;
}

/* What eight codes decode to. */
static __device__ ni_eight decoded_eight(uint32_t codes, const float *scales, int step) {
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) { /* halves are 2^-14 of what they stand for */
        float low, high;
        ni_vector_two_of_halves(halves_of_codes(codes, i), &low, &high);
        e.x[i] = ni_f32_mul(low * 0x1p14f, scales[i * step]);
        e.x[i + 4] = ni_f32_mul(high * 0x1p14f, scales[(i + 4) * step]);
    }
    return e;
}

static __device__ uint2 bytes_of_decoded(uint32_t codes, const float *scales, int step, float multiplier) {
    const ni_eight e = decoded_eight(codes, scales, step);
    uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        pair[i] = ni_vector_bytes_of_two<NB_ELEMENT_E4M3>(ni_f32_mul(e.x[2 * i], multiplier),
                                                          ni_f32_mul(e.x[2 * i + 1], multiplier));
    return make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
}

/* ---- many of them, in tiles ---- */

/* What the kernels read of one. */
typedef struct recoded {
    const uint8_t *codes;
    const float *scales;
    uint8_t *bytes, *turned;
    float *scale;
    int32_t rows, cols;
    uint32_t first_block;
    bool columns; /* scales are of these */
    uint8_t rule;
} recoded;

typedef struct recoded_list {
    recoded at[NI_CUDA_LIST_MOST];
    uint32_t *amaxes; /* [count] */
    int32_t count;
} recoded_list;
static_assert(sizeof(recoded_list) <= 4096, "a kernel's arguments");

enum { CHUNKS_OF_THREAD = TILE / TILE_ROWS_AT_ONCE };

/* A block's tile: sixteen codes of a row each time, and the scales of its rows or columns. */
typedef struct recoded_tile {
    int64_t r0, c;
    int chunk;
    uint2 codes[CHUNKS_OF_THREAD];
} recoded_tile;

static __device__ int row_of(int i) {
    return (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i;
}

static __device__ bool is_inside(const recoded &o, const recoded_tile &t, int i) {
    return t.r0 + row_of(i) < o.rows && t.c < o.cols;
}

static __device__ recoded_tile load_tile(const recoded &o, float *scales) {
    const int across = (o.cols + TILE - 1) / TILE, b = (int)(blockIdx.x - o.first_block), chunk = threadIdx.x % CHUNKS;
    const int64_t c0 = (int64_t)(b % across) * TILE;
    recoded_tile t = {(int64_t)(b / across) * TILE, c0 + 16 * chunk, chunk, {}};
#pragma unroll
    for (int i = 0; i < CHUNKS_OF_THREAD; i++)
        if (is_inside(o, t, i))
            t.codes[i] = *(const uint2 *)(o.codes + ((t.r0 + row_of(i)) * o.cols + t.c) / 2);
    if (threadIdx.x < TILE) {
        const int64_t i = (o.columns ? c0 : t.r0) + threadIdx.x;
        scales[threadIdx.x] = i < (o.columns ? o.cols : o.rows) ? o.scales[i] : 0.0f;
    }
    __syncthreads();
    return t;
}

static __device__ const float *scales_of(const recoded &o, const recoded_tile &t, const float *scales, int i) {
    return o.columns ? scales + 16 * t.chunk : scales + row_of(i);
}

static __device__ uint32_t largest_of_eight(uint32_t codes, const float *scales, int step) {
    const ni_eight e = decoded_eight(codes, scales, step);
    uint32_t largest = 0;
#pragma unroll
    for (int k = 0; k < 8; k++)
        largest = max(largest, ni_f32_magnitude(e.x[k]));
    return largest;
}

static __global__ void __launch_bounds__(NI_THREADS) largest_decoded(const __grid_constant__ recoded_list list) {
    __shared__ float scales[TILE];
    const int which = ni_listed(list, &recoded::first_block);
    const recoded &o = list.at[which];
    const recoded_tile t = load_tile(o, scales);
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < CHUNKS_OF_THREAD; i++) {
        const float *const own = scales_of(o, t, scales, i);
        largest = max(largest, largest_of_eight(t.codes[i].x, own, o.columns));
        largest = max(largest, largest_of_eight(t.codes[i].y, o.columns ? own + 8 : own, o.columns));
    }
    ni_join_amax(list.amaxes + which, largest);
}

static __global__ void __launch_bounds__(NI_THREADS) recode(const __grid_constant__ recoded_list list) {
    __shared__ byte_tile tile;
    __shared__ float scales[TILE];
    const int which = ni_listed(list, &recoded::first_block);
    const recoded &o = list.at[which];
    const recoded_tile t = load_tile(o, scales);
    const float multiplier =
        ni_vector_encode((nb_scale_rule)o.rule, ni_element_max(NB_ELEMENT_E4M3), ni_f32_from(list.amaxes[which]));
    if (blockIdx.x == o.first_block && threadIdx.x == 0)
        *o.scale = ni_vector_decode(multiplier);
#pragma unroll
    for (int i = 0; i < CHUNKS_OF_THREAD; i++) {
        if (!is_inside(o, t, i))
            continue;
        const float *const own = scales_of(o, t, scales, i);
        const uint2 low = bytes_of_decoded(t.codes[i].x, own, o.columns, multiplier),
                    high = bytes_of_decoded(t.codes[i].y, o.columns ? own + 8 : own, o.columns, multiplier);
        const uint4 bytes = make_uint4(low.x, low.y, high.x, high.y);
        *(uint4 *)(o.bytes + (t.r0 + row_of(i)) * o.cols + t.c) = bytes;
        put_chunk(tile, row_of(i), t.chunk, bytes);
    }
    __syncthreads();
    store_turned(tile, o.turned, o.rows, o.cols, t.r0, t.c - 16 * t.chunk);
}

int ni_cuda_launch_recode(void *stream, const ni_cuda_recoding *wanted, int count, uint32_t *amaxes) {
    cudaStream_t on = (cudaStream_t)stream;
    recoded_list list = {};
    uint32_t blocks = 0;
    list.amaxes = amaxes;
    for (int i = 0; i < count; i++) {
        const ni_cuda_recoding *const w = &wanted[i];
        const nb_qtensor *const t = &w->from;
        const uint32_t tiles = (uint32_t)(ni_divide_up(t->rows, TILE) * ni_divide_up(t->cols, TILE));
        if (!tiles)
            continue;
        list.at[list.count++] = {t->codes,         t->outer_scales, w->bytes,
                                 w->turned,        w->scale,        (int32_t)t->rows,
                                 (int32_t)t->cols, blocks,          t->quantizer.block_rows != 1,
                                 (uint8_t)w->rule};
        blocks += tiles;
    }
    if (!blocks)
        return cudaSuccess;
    const int code = cudaMemsetAsync(amaxes, 0, (size_t)list.count * sizeof *amaxes, on);
    largest_decoded<<<blocks, NI_THREADS, 0, on>>>(list);
    recode<<<blocks, NI_THREADS, 0, on>>>(list);
    return code ? code : cudaGetLastError();
}
