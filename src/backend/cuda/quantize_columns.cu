/* quantize_columns.cu: weights as E2M1 under an FP32 scale a column, many a launch, from FP32 or from what masters are kept
 * in: maxima of columns first, then codes and values. Bits are those of quantize.cu.
 */
#include "backend/cuda/list.cuh"
#include "backend/cuda/narrow.cuh"
#include "backend/cuda/vector.cuh"

enum { BAND = 256, ROWS = 128 }; /* a block's columns and rows */

typedef struct listed_columns {
    ni_scaled from;
    uint32_t *amaxes; /* [cols] */
    uint8_t *codes;
    float *scales;
    uint16_t *values;
    int32_t rows, cols;
    uint32_t first_block;
    nb_scale_rule rule;
} listed_columns;

typedef struct column_list {
    listed_columns at[NI_CUDA_LIST_MOST];
    int count;
    uint32_t blocks;
} column_list;

static __device__ void open_band(const listed_columns &l, int *r0, int *c0) {
    const int across = (l.cols + BAND - 1) / BAND, b = (int)(blockIdx.x - l.first_block);
    *r0 = b / across * ROWS;
    *c0 = b % across * BAND;
}

/* A thread four columns of every fourth row. */
static __global__ void __launch_bounds__(NI_THREADS) column_maxima(const __grid_constant__ column_list list) {
    __shared__ uint32_t found[3][BAND];
    const listed_columns &l = list.at[ni_listed(list, &listed_columns::first_block)];
    int r0, c0;
    open_band(l, &r0, &c0);
    const int four = threadIdx.x % (BAND / 4), part = threadIdx.x / (BAND / 4), c = c0 + 4 * four,
              end = min(r0 + ROWS, l.rows);
    const float factor = ni_narrow_factor(l.from);
    uint32_t largest[4] = {0, 0, 0, 0};
    if (c < l.cols)
#pragma unroll 8
        for (int r = r0 + part; r < end; r += 4) {
            const ni_four x = ni_four_of(l.from, ((int64_t)r * l.cols + c) / 4, factor);
#pragma unroll
            for (int k = 0; k < 4; k++)
                largest[k] = max(largest[k], ni_f32_magnitude(x.x[k]));
        }
    if (part)
#pragma unroll
        for (int k = 0; k < 4; k++)
            found[part - 1][4 * four + k] = largest[k];
    __syncthreads();
    if (part || c >= l.cols)
        return;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < 3; i++)
            largest[k] = max(largest[k], found[i][4 * four + k]);
        atomicMax(&l.amaxes[c + k], largest[k]);
    }
}

/* A thread eight columns of every eighth row. */
template <nb_rounding ROUND>
static __global__ void __launch_bounds__(NI_THREADS) encode_columns(const __grid_constant__ column_list list) {
    const listed_columns &l = list.at[ni_listed(list, &listed_columns::first_block)];
    int r0, c0;
    open_band(l, &r0, &c0);
    const int c = c0 + 8 * (threadIdx.x % 32), part = threadIdx.x / 32, end = min(r0 + ROWS, l.rows);
    const float factor = ni_narrow_factor(l.from);
    float multiplier[8], decode[8];
    if (c >= l.cols)
        return;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        multiplier[k] = ni_vector_encode(l.rule, 6.0f, ni_f32_from(l.amaxes[c + k]));
        decode[k] = ni_vector_decode(multiplier[k]);
        if (r0 == 0 && part == 0)
            l.scales[c + k] = decode[k];
    }
#pragma unroll 4
    for (int r = r0 + part; r < end; r += 8) {
        const int64_t at = (int64_t)r * l.cols + c;
        const ni_four x[2] = {ni_four_of(l.from, at / 4, factor), ni_four_of(l.from, at / 4 + 1, factor)};
        uint32_t word = 0;
        ni_eight value;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const float y = ni_f32_mul(x[k / 4].x[k % 4], multiplier[k]),
                        q = ROUND == NB_ROUND_UP ? ni_vector_e2m1_up(y) : ni_vector_e2m1_even(y);
            word |= ni_grid_code(q) << (4 * k);
            value.x[k] = ni_f32_mul(q, decode[k]);
        }
        *(uint32_t *)(l.codes + at / 2) = word;
        if (l.values)
            ni_store_eight(l.values + at, value);
    }
}

static int launch_list(cudaStream_t on, column_list *list, nb_rounding round) {
    if (list->blocks) {
        column_maxima<<<list->blocks, NI_THREADS, 0, on>>>(*list);
        if (round == NB_ROUND_UP)
            encode_columns<NB_ROUND_UP><<<list->blocks, NI_THREADS, 0, on>>>(*list);
        else
            encode_columns<NB_ROUND_EVEN><<<list->blocks, NI_THREADS, 0, on>>>(*list);
    }
    list->count = 0;
    list->blocks = 0;
    return cudaGetLastError();
}

int64_t ni_cuda_column_words(const ni_cuda_columns *weights, int count) {
    int64_t words = 0;
    for (int i = 0; i < count; i++)
        words += weights[i].cols;
    return words;
}

int ni_cuda_quantize_columns(void *stream, const ni_cuda_columns *weights, int count, uint32_t *amaxes) {
    cudaStream_t on = (cudaStream_t)stream;
    column_list list = {};
    int code = cudaMemsetAsync(amaxes, 0, (size_t)ni_cuda_column_words(weights, count) * sizeof *amaxes, on);
    for (int i = 0; i < count && !code; i++) {
        const ni_cuda_columns *const w = &weights[i];
        if (list.count == NI_CUDA_LIST_MOST || (i && w->round != w[-1].round))
            code = launch_list(on, &list, w[-1].round);
        listed_columns l = {};
        l.from = w->from;
        l.amaxes = amaxes;
        l.codes = w->codes;
        l.scales = w->scales;
        l.values = w->values;
        l.rows = (int32_t)w->rows;
        l.cols = (int32_t)w->cols;
        l.first_block = list.blocks;
        l.rule = w->rule;
        list.at[list.count++] = l;
        list.blocks += (uint32_t)(ni_divide_up(w->rows, ROWS) * ni_divide_up(w->cols, BAND));
        amaxes += w->cols;
    }
    return code || !count ? code : launch_list(on, &list, weights[count - 1].round);
}
