/* quantize_split.cu: two operands of chosen columns of one matrix, from one reading: the columns of one list in MXFP8,
 * those of another in double blocks (double.cuh), both to nearest with codes and values. Bits are those of quantize.cu.
 *
 *     a block      some rows in shared memory as they lie, so that columns of any order cost no reading of memory
 *     a thread     one of these rows, 16 columns of a list after another: two lanes a block of MXFP8, eight an outer block
 *                  of the others; zeros where the list has ended within a block
 *
 * Lanes that take neighbouring sixteens of a BF16 row are some 8 words apart, so that they ask for four banks alone. So a
 * warp has four rows or more, where a block has, and each begins two banks further than the one before.
 *
 * Without a list it is MXFP8 of a matrix as it lies. Weights come by dozens, of which many go in one launch.
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/double.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/list.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/quantize_split.h"

enum {
    THREADS = 128,
    WARPS = THREADS / 32,
    MOST_ROWS = 8,
    ROOM = 46 * 1024,      /* of a block, or one row */
    MOST_ROOM = 47 * 1024, /* of a row's numbers: with what stands behind them less than 48 KB, which need no asking */
    BLOCKS_EACH = 6
};
static_assert((WARPS & (WARPS - 1)) == 0, "turns of warps are counted modulo a power of two");

/* ---- sixteen columns of a row in shared memory ---- */

static __device__ float number_of(uint16_t bits) {
    return ni_bf16_value(bits);
}

static __device__ float number_of(float x) {
    return x;
}

/* Columns `first` and on of a list, or as they lie. */
template <bool LISTED, typename T>
static __device__ void chosen(float *x, const T *row, const ni_columns &list, int first) {
    const int left = (int)list.count - first;
    int columns[16];
    if (LISTED && left < 16) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            x[i] = i < left ? number_of(row[__ldg(list.at + first + i)]) : 0.0f;
        return;
    }
#pragma unroll
    for (int i = 0; i < 16; i++)
        columns[i] = first + i;
    if (LISTED)
#pragma unroll
        for (int i = 0; i < 16; i += 4)
            ni_list_four(columns + i, list.at + first + i);
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = number_of(row[columns[i]]);
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
static __device__ void eight_row(const float *x, const split_copy &copy, int64_t at, bool live) {
    uint32_t codes[4], values[8];
    const uint8_t byte = ni_eight_scale(copy.rule, x);
    ni_encode_eights(copy.rule, byte, x, values, codes);
    if (!live)
        return;
    const uint64_t to = ni_global(copy.values + at);
    ni_store_words(to, make_uint4(values[0], values[1], values[2], values[3]));
    ni_store_words(to + 16, make_uint4(values[4], values[5], values[6], values[7]));
    ni_store_words(ni_global(copy.codes + at), make_uint4(codes[0], codes[1], codes[2], codes[3]));
    if (threadIdx.x % 2 == 0)
        copy.scales[(uint64_t)at >> 5] = byte;
}

/* ---- the kernel ---- */

/* A matrix and its copies. */
typedef struct split_work {
    const void *numbers;
    int64_t rows, stride;
    ni_columns of_eight, of_four;
    split_copy eight, four;
    int cols, eights, doubles; /* columns of the matrix, and of each copy, which are at least those of its list */
    int shift, pitch;          /* a block has 1 << shift rows, in shared memory so many words apart */
    uint32_t first_block;
} split_work;

typedef struct split_works {
    split_work at[NI_CUDA_SPLITS];
    int count;
} split_works;
static_assert(sizeof(split_works) <= 4096, "a kernel's arguments");

/* How many times a warp takes 32 sixteens until it has `cols` columns of 1 << shift rows. */
static __host__ __device__ __forceinline__ int turns_of(int cols, int shift) {
    return ((cols / 16 << shift) + 31) / 32;
}

/* Rows of a block as they lie, all on their way at once: threads that have one row are neighbours. */
template <typename T> static __device__ void load_rows(uint32_t *tile, const split_work &w, int64_t r0) {
    const int across = w.cols * (int)sizeof(T) / 8, threads = THREADS >> w.shift, r = (int)threadIdx.x / threads;
    const uint2 *const from = (const uint2 *)((const T *)w.numbers + (r0 + r) * w.stride);
    uint32_t *const to = tile + r * w.pitch;
    if (r0 + r < w.rows)
#pragma unroll 4
        for (int i = (int)threadIdx.x % threads; i < across; i += threads)
            copy_async8(to + 2 * i, from + i);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
}

/* Where a thread begins, if LANES neighbours take sixteens of a row side by side, and how far it goes on, counted in such
 * LANES sixteens. */
typedef struct thread_place {
    int row, at, at_of_warp, step; /* at_of_warp: of the warp's first thread */
} thread_place;

/* Warps come in turns, that with the number `from`, modulo WARPS, first. */
template <int LANES> static __device__ __forceinline__ thread_place place_of(int shift, int from) {
    const int warp = ((int)threadIdx.x / 32 - from) & (WARPS - 1), lane = (int)threadIdx.x % 32;
    const int group = (32 * warp + lane) / LANES;
    return {group & ((1 << shift) - 1), group >> shift, 32 / LANES * warp >> shift, THREADS / LANES >> shift};
}

/* f(first column, whether it is there) for a thread's sixteens of `cols` columns; all lanes of a warp come. */
template <int LANES, typename F> static __device__ __forceinline__ void each_sixteen(thread_place p, int cols, F f) {
    enum { SPAN = 16 * LANES };
    for (; SPAN * p.at_of_warp < cols; p.at_of_warp += p.step, p.at += p.step) {
        const int first = SPAN * p.at + (int)threadIdx.x % LANES * 16;
        f(min(first, cols - 16), first < cols);
    }
}

template <typename T>
static __device__ __noinline__ void wild_row(const T *row, const split_work &w, int first, int64_t at, bool live) {
    float x[16];
    chosen<true>(x, row, w.of_four, first);
    double_numbers<0, false, false>(x, copy_of(w.four), ni_philox_shared(), 0, at, live);
}

template <typename T>
static __device__ __forceinline__ void doubles_of(const uint32_t *tile, const split_work &w, const split_work &all,
                                                  int64_t r0) {
    const ni_cuda_tile_copy copy = copy_of(w.four);
    const thread_place p = place_of<8>(w.shift, 0);
    const T *const row = (const T *)(tile + p.row * w.pitch);
    const int64_t at = (r0 + p.row) * w.four.stride;
    const bool live = r0 + p.row < w.rows;
    each_sixteen<8>(p, w.doubles, [&](int first, bool there) {
        float x[16];
        chosen<true>(x, row, w.of_four, first);
        if (!double_numbers<0, false, true>(x, copy, ni_philox_shared(), 0, at + first, live && there))
            wild_row(row, all, first, at + first, live && there);
    });
}

template <bool LISTED, typename T>
static __device__ __forceinline__ void eights_of(const uint32_t *tile, const split_work &w, int64_t r0) {
    const thread_place p = place_of<2>(w.shift, turns_of(w.doubles, w.shift));
    const T *const row = (const T *)(tile + p.row * w.pitch);
    const int64_t at = (r0 + p.row) * w.eight.stride;
    const bool live = r0 + p.row < w.rows;
    each_sixteen<2>(p, w.eights, [&](int first, bool there) {
        float x[16];
        chosen<LISTED>(x, row, w.of_eight, first);
        eight_row(x, w.eight, at + first, live && there);
    });
}

/* What a thread reads of its work again and again it has by itself: arguments at a place that is found here are slow. */
template <typename T>
static __global__ void __launch_bounds__(THREADS, BLOCKS_EACH) split_rows(const __grid_constant__ split_works works) {
    extern __shared__ uint4 room[];
    const split_work &all = works.at[ni_listed(works, &split_work::first_block)];
    const split_work w = all;
    uint32_t *const tile = (uint32_t *)room;
    const int64_t r0 = (int64_t)(blockIdx.x - w.first_block) << w.shift;
    ni_wait_for_it();
    ni_let_follow();
    load_rows<T>(tile, w, r0);
    doubles_of<T>(tile, w, all, r0);
    if (w.of_eight.at)
        eights_of<true, T>(tile, w, r0);
    else
        eights_of<false, T>(tile, w, r0);
}

/* ---- the host's side ---- */

bool ni_cuda_split_fits(const nb_mat *x) {
    return x->cols * (int64_t)nb_dtype_size(x->dtype) <= MOST_ROOM;
}

static split_copy left_of(const ni_cuda_tile_copy *c) {
    return {c->values, c->codes, c->scales, c->outer_scales, c->stride, c->quantizer.rule, c->quantizer.outer};
}

/* Two banks further with each row. */
static int pitch_of(int64_t bytes) {
    return (int)((bytes / 4 + 29) / 32 * 32) + 2;
}

/* Few rows a block where that keeps all multiprocessors at work; `rows`: of the whole launch. Else as many as there is room
 * for, unless fewer leave fewer of its warps without work in their last turn. */
static int shift_of(const ni_cuda_split *s, int64_t bytes, int64_t rows, int multiprocessors) {
    const int64_t busy = ni_divide_up(rows, (int64_t)multiprocessors * BLOCKS_EACH), room = ROOM / bytes;
    int64_t most = room < MOST_ROWS ? room : MOST_ROWS, turns_of_best = INT32_MAX;
    int best = 0;
    most = most < busy ? most : busy;
    for (int shift = 0; INT64_C(1) << shift <= most || shift == 0; shift++) {
        const int64_t turns = ni_divide_up(turns_of((int)s->doubles, shift) + turns_of((int)s->eights, shift), WARPS);
        if (turns <= turns_of_best << (shift - best)) {
            best = shift;
            turns_of_best = turns;
        }
    }
    return best;
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
        const int pitch = pitch_of(bytes), shift = shift_of(s, 4 * pitch, rows, multiprocessors);
        split_work &w = works.at[works.count++];
        w = {x->data, x->rows, x->stride, s->of_eight, s->of_four, left_of(&s->eight), left_of(&s->four)};
        w.cols = (int)x->cols;
        w.eights = (int)s->eights;
        w.doubles = (int)s->doubles;
        w.shift = shift;
        w.pitch = pitch;
        w.first_block = blocks;
        blocks += (uint32_t)ni_divide_up(x->rows, 1 << shift);
        const int64_t room = (int64_t)(4 * pitch) << shift;
        most = room > most ? room : most;
    }
    if (!works.count)
        return cudaSuccess;
    return ni_launch_following((cudaStream_t)stream,
                               splits->numbers.dtype == NB_F32 ? split_rows<float> : split_rows<uint16_t>, blocks,
                               THREADS, (size_t)most, works);
}
