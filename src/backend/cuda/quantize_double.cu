/* quantize_double.cu: the double block (double.cuh), from one reading of its source straight into what a product reads:
 *
 *     rows         a thread takes the 16 neighbours of a block, eight lanes an outer block; FP32 or BF16 numbers
 *     columns      a thread takes 16 rows of two columns, eight warps an outer block of 128 rows; numbers, or what the
 *                  codes of another double block decode to. Values lie as the source lies, so nothing is transposed
 *
 * Either may be rotated by 16.
 */
#include "backend/cuda/double_columns.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/list.cuh"

enum { ROW_THREADS = 128 };

/* ---- rows ---- */

typedef struct row_source {
    int64_t stride;
    uint32_t units, across; /* blocks in all, and in a row; 0: rows lie one behind the other, here and in the copy */
} row_source;

template <typename T, int ROUND, bool TURN>
static __device__ __noinline__ void wild_row(const T *from, const ni_cuda_tile_copy &copy, const shared_words &shared,
                                             uint32_t unit, int64_t at, bool live) {
    double_row<T, ROUND, TURN, false>(load_words(from), copy, shared, unit, at, live);
}

template <typename T, int ROUND, bool TURN>
static __global__ void __launch_bounds__(ROW_THREADS)
    double_rows(const T *from, row_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ shared_words shared;
    const uint32_t unit = blockIdx.x * ROW_THREADS + threadIdx.x, here = unit < s.units ? unit : s.units - 1;
    int64_t in = 16 * (int64_t)here, at = in;
    if (s.across) {
        const uint32_t r = here / s.across, block = here - r * s.across;
        in = r * s.stride + 16 * block;
        at = r * copy.stride + copy.at + 16 * block;
    }
    ni_wait_for_it();
    ni_let_follow();
    const sixteen_words<T> words = load_words(from + in);
    if (ROUND || TURN) {
        share_words<TURN>(&shared, copy, ni_tile_noise(copy.noise));
        __syncthreads();
    }
    if (!double_row<T, ROUND, TURN, true>(words, copy, shared, here, at, unit < s.units))
        wild_row<T, ROUND, TURN>(from + in, copy, shared, here, at, unit < s.units);
}

/* Rows to nearest, not rotated, of many matrices that lie one behind the other, here and in their copies. */
typedef struct listed_rows {
    const float *from;
    uint16_t *values;
    uint8_t *codes, *scales;
    float *outer_scales;
    uint32_t units, first_block;
} listed_rows;

typedef struct rows_list {
    listed_rows at[NI_CUDA_LIST_MOST];
    nb_scale_rule rule;
    nb_outer_scale outer;
    int count;
} rows_list;
static_assert(sizeof(rows_list) <= 4096, "a kernel's arguments");

static __device__ __forceinline__ ni_cuda_tile_copy copy_of(const rows_list &list, const listed_rows &l) {
    ni_cuda_tile_copy copy = {};
    copy.quantizer.rule = list.rule;
    copy.quantizer.outer = list.outer;
    copy.values = l.values;
    copy.codes = l.codes;
    copy.scales = l.scales;
    copy.outer_scales = l.outer_scales;
    return copy;
}

static __device__ __noinline__ void wild_row_of(const rows_list &list, const listed_rows &l, const shared_words &none,
                                                uint32_t unit, bool live) {
    const int64_t at = 16 * (int64_t)unit;
    double_row<float, 0, false, false>(load_words(l.from + at), copy_of(list, l), none, unit, at, live);
}

static __global__ void __launch_bounds__(ROW_THREADS) rows_of_many(const __grid_constant__ rows_list list) {
    __shared__ shared_words none;
    const listed_rows &all = list.at[ni_listed(list, &listed_rows::first_block)];
    const listed_rows l = all;
    const uint32_t unit = (blockIdx.x - l.first_block) * ROW_THREADS + threadIdx.x,
                   here = unit < l.units ? unit : l.units - 1;
    const int64_t at = 16 * (int64_t)here;
    ni_wait_for_it();
    ni_let_follow();
    if (!double_row<float, 0, false, true>(load_words(l.from + at), copy_of(list, l), none, here, at, unit < l.units))
        wild_row_of(list, all, none, here, unit < l.units);
}

/* ---- columns ---- */

template <int KIND, int ROUND, bool TURN, bool CODED>
static __global__ void __launch_bounds__(32 * COLUMN_WARPS, 4)
    double_columns(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ column_room room;
    __shared__ __align__(16) uint8_t coded[KIND == 2 ? sizeof(coded_tile) : 16];
    coded_tile *const tile = (coded_tile *)coded;
    const int64_t r0 = ni_band() * 128, c0 = (int64_t)blockIdx.x * 2 * COLUMN_PAIRS;
    if (r0 >= s.rows)
        return;
    ni_wait_for_it();
    ni_let_follow();
    const column_words<KIND> in = words_of_columns<KIND>(s, r0, c0);
    if (KIND == 2)
        load_coded(tile, s.codes, r0, c0);
    if (ROUND || TURN)
        share_words<TURN>(&room.words, copy, ni_tile_noise(copy.noise));
    if (ROUND || TURN || KIND == 2)
        __syncthreads();
    if (!double_column<KIND, ROUND, TURN, CODED, true>(in, s, copy, room, tile, r0, c0))
        wild_column<KIND, ROUND, TURN, CODED>(s, copy, room, tile, r0, c0);
}

/* ---- which kernel ---- */

template <typename T, int ROUND>
static int launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    const bool flat = s->stride == s->cols && copy->stride == s->cols && copy->at == 0;
    const row_source rows = {s->stride, (uint32_t)(s->rows * (s->cols / 16)), flat ? 0 : (uint32_t)(s->cols / 16)};
    const unsigned grid = (unsigned)ni_divide_up(rows.units, ROW_THREADS);
    return ni_launch_following(
        on, copy->quantizer.hadamard_size ? double_rows<T, ROUND, true> : double_rows<T, ROUND, false>, grid,
        ROW_THREADS, 0, (const T *)s->numbers, rows, *copy);
}

template <typename T>
static int launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, int round) {
    return round == 0   ? launch_rows<T, 0>(on, s, copy)
           : round == 8 ? launch_rows<T, 8>(on, s, copy)
                        : launch_rows<T, 16>(on, s, copy);
}

template <int KIND, int ROUND, bool CODED>
static int launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    return ni_launch_following(on,
                               copy->quantizer.hadamard_size ? double_columns<KIND, ROUND, true, CODED>
                                                             : double_columns<KIND, ROUND, false, CODED>,
                               column_grid(s), 32 * COLUMN_WARPS, 0, *s, *copy);
}

template <int KIND, int ROUND>
static int launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    return copy->codes ? launch_columns<KIND, ROUND, true>(on, s, copy)
                       : launch_columns<KIND, ROUND, false>(on, s, copy);
}

template <int KIND>
static int launch_columns(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, int round) {
    return round == 0   ? launch_columns<KIND, 0>(on, s, copy)
           : round == 8 ? launch_columns<KIND, 8>(on, s, copy)
                        : launch_columns<KIND, 16>(on, s, copy);
}

bool ni_cuda_double_rows_alike(const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy,
                               const ni_cuda_tile_copy *first) {
    const nb_quantizer *q = &copy->quantizer;
    return s->wide && s->stride == s->cols && copy->stride == s->cols && copy->at == 0 && copy->codes &&
           q->round == NB_ROUND_EVEN && q->hadamard_size == 0 && s->rows * (s->cols / 16) <= INT32_MAX &&
           q->rule == first->quantizer.rule && q->outer == first->quantizer.outer;
}

int ni_cuda_quantize_double_rows(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copies,
                                 int count) {
    rows_list list = {};
    uint32_t blocks = 0;
    list.rule = copies->quantizer.rule;
    list.outer = copies->quantizer.outer;
    for (int i = 0; i < count; i++) {
        const uint32_t units = (uint32_t)(s[i].rows * (s[i].cols / 16));
        if (!units)
            continue;
        list.at[list.count++] = {(const float *)s[i].numbers,
                                 copies[i].values,
                                 copies[i].codes,
                                 copies[i].scales,
                                 copies[i].outer_scales,
                                 units,
                                 blocks};
        blocks += (uint32_t)ni_divide_up(units, ROW_THREADS);
    }
    return blocks ? ni_launch_following((cudaStream_t)stream, rows_of_many, blocks, ROW_THREADS, 0, list) : 0;
}

int ni_cuda_quantize_double(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy, bool columns) {
    cudaStream_t on = (cudaStream_t)stream;
    const int round = copy->quantizer.round == NB_ROUND_STOCHASTIC ? copy->quantizer.sr_bits : 0;
    if (s->rows * (s->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    if (!columns)
        return s->wide ? launch_rows<float>(on, s, copy, round) : launch_rows<uint16_t>(on, s, copy, round);
    return !s->numbers ? launch_columns<2>(on, s, copy, round)
           : s->wide   ? launch_columns<1>(on, s, copy, round)
                       : launch_columns<0>(on, s, copy, round);
}
