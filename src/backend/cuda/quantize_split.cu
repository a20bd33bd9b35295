/* quantize_split.cu: two operands of chosen columns of one matrix, from one reading: the columns of one list in MXFP8,
 * those of another in double blocks (double.cuh), both to nearest with codes and values. Bits are those of quantize.cu.
 *
 *     a block      some rows in shared memory as they lie, so that columns of any order cost no reading of memory
 *     a thread     16 columns of a list: two lanes a block of MXFP8, eight an outer block of the others; zeros where the
 *                  list has ended within a block
 *
 * Without a list it is MXFP8 of a matrix as it lies. Weights come by dozens, of which many go in one launch.
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/double.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/list.cuh"
#include "backend/cuda/quantize_split.h"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    MOST_ROWS = 16,
    ROOM = 40 * 1024,      /* of a block, or one row */
    MOST_ROOM = 47 * 1024, /* of a row */
    BLOCKS_EACH = 4
};

/* ---- sixteen columns of a row in shared memory ---- */

static __device__ void list_columns(int *columns, const int32_t *list, int first) {
    if (!list) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            columns[i] = first + i;
        return;
    }
#pragma unroll
    for (int i = 0; i < 16; i += 4)
        ni_list_four(columns + i, list + first + i);
}

/* A column below 0 is one of zeros. */
template <bool SOME> static __device__ uint32_t bits_at(const uint16_t *row, int column) {
    return SOME && column < 0 ? 0u : row[column];
}

template <bool SOME> static __device__ uint32_t bits_at(const float *row, int column) {
    return SOME && column < 0 ? 0u : __float_as_uint(row[column]);
}

template <bool SOME> static __device__ sixteen_words<uint16_t> gather(const uint16_t *row, const int *columns) {
    sixteen_words<uint16_t> in;
    uint32_t pairs[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        pairs[i] = bits_at<SOME>(row, columns[2 * i]) | bits_at<SOME>(row, columns[2 * i + 1]) << 16;
    in.w[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    in.w[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    return in;
}

template <bool SOME> static __device__ sixteen_words<float> gather(const float *row, const int *columns) {
    sixteen_words<float> in;
#pragma unroll
    for (int i = 0; i < 4; i++)
        in.w[i] = make_uint4(bits_at<SOME>(row, columns[4 * i]), bits_at<SOME>(row, columns[4 * i + 1]),
                             bits_at<SOME>(row, columns[4 * i + 2]), bits_at<SOME>(row, columns[4 * i + 3]));
    return in;
}

/* Columns `first` and on of a list, or as they lie. */
template <typename T> static __device__ sixteen_words<T> chosen(const T *row, const ni_columns &list, int first) {
    int columns[16];
    if (!list.at || first + 16 <= list.count) {
        list_columns(columns, list.at, first);
        return gather<false>(row, columns);
    }
#pragma unroll
    for (int i = 0; i < 16; i++)
        columns[i] = first + i < list.count ? __ldg(list.at + first + i) : -1;
    return gather<true>(row, columns);
}

/* ---- the two formats ---- */

/* What is left of a copy: neither rotated nor random. */
typedef struct split_copy {
    uint16_t *values;
    uint8_t *codes, *scales;
    float *outer_scales;
    int64_t stride;
    nb_scale_rule rule;
    nb_outer_scale outer;
} split_copy;

static __device__ __forceinline__ ni_cuda_tile_copy copy_of(const split_copy &c) {
    ni_cuda_tile_copy copy = {};
    copy.quantizer.rule = c.rule;
    copy.quantizer.outer = c.outer;
    copy.values = c.values;
    copy.codes = c.codes;
    copy.scales = c.scales;
    copy.outer_scales = c.outer_scales;
    return copy;
}

/* All lanes come. */
template <typename T>
static __device__ void eight_row(const sixteen_words<T> &in, const split_copy &copy, int64_t at, bool live) {
    const uint32_t no_signs[8] = {};
    float x[16];
    uint32_t codes[4], values[8];
    unpack<false>(x, in, no_signs);
    const uint8_t byte = ni_eight_scale(copy.rule, x);
    ni_encode_eights(copy.rule, byte, x, values, codes);
    if (!live)
        return;
    const uint64_t to = ni_global(copy.values + at);
    ni_store_words(to, make_uint4(values[0], values[1], values[2], values[3]));
    ni_store_words(to + 16, make_uint4(values[4], values[5], values[6], values[7]));
    ni_store_words(ni_global(copy.codes + at), make_uint4(codes[0], codes[1], codes[2], codes[3]));
    if (threadIdx.x % 2 == 0)
        copy.scales[at / 32] = byte;
}

/* ---- the kernel ---- */

/* Warps that take sixteens of some rows, which come whole. */
static __host__ __device__ __forceinline__ int warps_of(int rows, int cols) {
    return (rows * (cols / 16) + 31) / 32;
}

/* f(row of the block, first column of a part's sixteen, whether it is there); `before`: so many warps' worth was dealt out
 * already, and those whose turn it is come first. */
template <typename F>
static __device__ __forceinline__ void each_sixteen(int rows, int64_t left, int cols, int before, F f) {
    const int across = cols / 16, units = rows * across,
              warp = ((int)threadIdx.x / 32 + WARPS - before % WARPS) % WARPS;
    for (int first = 32 * warp; first < units; first += THREADS) {
        const int unit = first + (int)threadIdx.x % 32, here = min(unit, units - 1), r = here / across;
        f(r, 16 * (here - r * across), unit < units && r < left);
    }
}

/* A matrix and its copies. */
typedef struct split_work {
    const void *numbers;
    int64_t rows, stride;
    ni_columns of_eight, of_four;
    split_copy eight, four;
    int cols, eights, doubles; /* columns of the matrix, and of each copy, which are at least those of its list */
    int each;                  /* rows of a block */
    uint32_t first_block;
} split_work;

typedef struct split_works {
    split_work at[NI_CUDA_SPLITS];
    int count;
} split_works;
static_assert(sizeof(split_works) <= 4096, "a kernel's arguments");

template <typename T>
static __device__ __noinline__ void wild_row(const T *row, const split_work &w, int first, const shared_words &none,
                                             int64_t at, bool live) {
    double_row<T, 0, false, false>(chosen(row, w.of_four, first), copy_of(w.four), none, 0, at, live);
}

/* What a thread reads of its work again and again it has by itself: arguments at a place that is found here are slow. */
template <typename T>
static __global__ void __launch_bounds__(THREADS, 3) split_rows(const __grid_constant__ split_works works) {
    extern __shared__ uint4 room[];
    __shared__ shared_words none;
    const split_work &all = works.at[ni_listed(works, &split_work::first_block)];
    const split_work w = all;
    const T *const tile = (const T *)room;
    const int64_t r0 = (blockIdx.x - w.first_block) * (int64_t)w.each, left = w.rows - r0;
    const int across = w.cols * (int)sizeof(T) / 16;
    ni_wait_for_it();
    ni_let_follow();
    for (int i = (int)threadIdx.x; i < w.each * across; i += THREADS) {
        const int r = i / across;
        if (r < left)
            room[i] = __ldg((const uint4 *)((const T *)w.numbers + (r0 + r) * w.stride) + (i - r * across));
    }
    __syncthreads();
    const ni_cuda_tile_copy four = copy_of(w.four);
    each_sixteen(w.each, left, w.doubles, 0, [&](int r, int first, bool live) {
        const T *const row = tile + r * w.cols;
        const int64_t at = (r0 + r) * w.four.stride + first;
        if (!double_row<T, 0, false, true>(chosen(row, w.of_four, first), four, none, 0, at, live))
            wild_row(row, all, first, none, at, live);
    });
    each_sixteen(w.each, left, w.eights, warps_of(w.each, w.doubles), [&](int r, int first, bool live) {
        eight_row(chosen(tile + r * w.cols, w.of_eight, first), w.eight, (r0 + r) * w.eight.stride + first, live);
    });
}

/* ---- the host's side ---- */

bool ni_cuda_split_fits(const nb_mat *x) {
    return x->cols * (int64_t)nb_dtype_size(x->dtype) <= MOST_ROOM;
}

static split_copy left_of(const ni_cuda_tile_copy *c) {
    return {c->values, c->codes, c->scales, c->outer_scales, c->stride, c->quantizer.rule, c->quantizer.outer};
}

/* Few rows a block where that keeps all multiprocessors at work; `rows`: of the whole launch. Else so many that all of its
 * warps have work in each turn, or nearly. */
static int rows_of_block(const ni_cuda_split *s, int64_t bytes, int64_t rows, int multiprocessors) {
    const int64_t busy = ni_divide_up(rows, (int64_t)multiprocessors * BLOCKS_EACH), room = ROOM / bytes;
    int64_t most = room < MOST_ROWS ? room : MOST_ROWS, best = 1, turns_of_best = INT64_MAX / MOST_ROWS;
    most = most < busy ? most : busy;
    for (int64_t each = 1; each <= most; each++) {
        const int warps = warps_of((int)each, (int)s->doubles) + warps_of((int)each, (int)s->eights);
        const int64_t turns = ni_divide_up(warps, WARPS);
        if (turns * best <= turns_of_best * each) {
            best = each;
            turns_of_best = turns;
        }
    }
    return (int)best;
}

int ni_cuda_quantize_splits(void *stream, const ni_cuda_split *splits, int count, int multiprocessors) {
    split_works works = {};
    int64_t rows = 0, most = 0;
    uint32_t blocks = 0;
    for (int i = 0; i < count; i++)
        rows += splits[i].numbers.rows;
    for (int i = 0; i < count; i++) {
        const ni_cuda_split *const s = &splits[i];
        const nb_mat *const x = &s->numbers;
        const int64_t bytes = x->cols * (int64_t)nb_dtype_size(x->dtype);
        if (x->rows * bytes == 0)
            continue;
        const int each = rows_of_block(s, bytes, rows, multiprocessors);
        split_work &w = works.at[works.count++];
        w = {x->data, x->rows, x->stride, s->of_eight, s->of_four, left_of(&s->eight), left_of(&s->four)};
        w.cols = (int)x->cols;
        w.eights = (int)s->eights;
        w.doubles = (int)s->doubles;
        w.each = each;
        w.first_block = blocks;
        blocks += (uint32_t)ni_divide_up(x->rows, each);
        most = each * bytes > most ? each * bytes : most;
    }
    if (!works.count)
        return cudaSuccess;
    return ni_launch_following((cudaStream_t)stream,
                               splits->numbers.dtype == NB_F32 ? split_rows<float> : split_rows<uint16_t>, blocks,
                               THREADS, (size_t)most, works);
}
