/* quantize_remade.cu: W of dgrad made anew of its codes, double blocks down columns (double_columns.cuh), of many layers a
 * launch: one layer's is done in little more time than a launch takes. The codes are double blocks, or parts: a thread of
 * a block that puts 128 rows of 64 columns together has one column, and so one place in every row of one of the parts.
 */
#include "backend/cuda/double_columns.cuh"
#include "backend/cuda/eights.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/list.cuh"
#include "backend/cuda/quantize_remade.h"

#include <string.h>

enum { THREADS = 32 * COLUMN_WARPS, COLUMNS = 2 * COLUMN_PAIRS };

/* ---- the list ---- */

typedef struct remade {
    const uint8_t *codes, *scales; /* of double blocks */
    const float *outer_scales;
    const uint8_t *bytes, *byte_scales; /* MXFP8 */
    const int32_t *places;
    uint16_t *values;
    uint32_t seed, tensor, signs;
    int32_t rows, cols, stride;
    int32_t doubles, eights; /* columns of the parts */
    uint32_t first_block;
} remade;

typedef struct remade_list {
    remade at[NI_CUDA_REMADE];
    const uint32_t *clock;
    nb_scale_rule rule;
    nb_outer_scale outer;
    nb_signs signs;
    bool round_bf16;
    int count;
} remade_list;
static_assert(sizeof(remade_list) <= 4096, "a kernel's arguments");

/* What is left of a copy. */
static __device__ __forceinline__ ni_cuda_tile_copy copy_of(const remade_list &list, const remade &w) {
    ni_cuda_tile_copy copy = {};
    copy.quantizer.rule = list.rule;
    copy.quantizer.outer = list.outer;
    copy.quantizer.hadamard_signs = list.signs;
    copy.quantizer.hadamard_round_bf16 = list.round_bf16;
    copy.values = w.values;
    copy.stride = w.stride;
    copy.noise.seed = w.seed;
    copy.noise.tensor = w.tensor;
    copy.noise.signs = w.signs;
    copy.noise.clock = list.clock;
    copy.keys = ni_philox_keys_of(w.seed, w.tensor);
    return copy;
}

static __device__ __forceinline__ ni_cuda_double_source source_of(const remade &w) {
    ni_cuda_double_source s = {};
    s.rows = w.rows;
    s.cols = w.cols;
    s.codes.cols = w.cols;
    s.codes.codes = (uint8_t *)w.codes;
    s.codes.scales = (uint8_t *)w.scales;
    s.codes.outer_scales = (float *)w.outer_scales;
    return s;
}

/* ---- parts ---- */

/* One column of a part: where its first row's code and scales are, and how far the next row's. */
typedef struct place {
    const uint8_t *code, *scale;
    const float *outer;
    uint32_t codes, scales, outers;
    int shift; /* of four bits */
    bool eight;
} place;

static __device__ __forceinline__ place find_place(const remade &w, int64_t r, int64_t c) {
    const int where = __ldg(w.places + c), j = where / NI_PARTS_MOST;
    place p;
    p.eight = where % NI_PARTS_MOST == 0;
    p.shift = j % 2 * 4;
    p.codes = (uint32_t)(p.eight ? w.eights : w.doubles / 2);
    p.scales = (uint32_t)(p.eight ? w.eights / 32 : w.doubles / 16);
    p.outers = (uint32_t)w.doubles / 128;
    p.code = p.eight ? w.bytes + r * p.codes + j : w.codes + r * p.codes + j / 2;
    p.scale = p.eight ? w.byte_scales + r * p.scales + j / 32 : w.scales + r * p.scales + j / 16;
    p.outer = w.outer_scales + r * p.outers + (p.eight ? 0 : j / 128);
    return p;
}

static __device__ __forceinline__ float decoded(uint32_t code, uint32_t scale, float outer, const place &p) {
    float pair[2];
    ni_e4m3_pair(code, pair);
    const float of_eight = ni_f32_mul(pair[0], ni_e8m0_value((uint8_t)scale)),
                of_four = ni_f32_mul(ni_e2m1_of(code >> p.shift), ni_f32_mul(ni_byte_value(scale), outer));
    return ni_f32_add(0.0f, p.eight ? of_eight : of_four); /* as scatter_columns */
}

/* Threads of a row are neighbours, so what they read of a part is near, and stays in the first level of the cache. */
static __device__ __forceinline__ void load_parts(float_tile *tile, const remade &w, int64_t r0, int64_t c0) {
    enum { AT_ONCE = 8, STEP = THREADS / COLUMNS };
    const int column = threadIdx.x % COLUMNS, first = threadIdx.x / COLUMNS;
    place p = find_place(w, r0 + first, c0 + column);
    for (int r = first; r < 128; r += AT_ONCE * STEP) {
        uint32_t code[AT_ONCE], scale[AT_ONCE];
        float outer[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            code[i] = __ldg(p.code + (uint32_t)(i * STEP) * p.codes);
            scale[i] = __ldg(p.scale + (uint32_t)(i * STEP) * p.scales);
            outer[i] = __ldg(p.outer + (uint32_t)(i * STEP) * p.outers);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            tile->at[r + i * STEP][column] = decoded(code[i], scale[i], outer[i], p);
        p.code += (uint32_t)(AT_ONCE * STEP) * p.codes;
        p.scale += (uint32_t)(AT_ONCE * STEP) * p.scales;
        p.outer += (uint32_t)(AT_ONCE * STEP) * p.outers;
    }
}

/* ---- the kernel ---- */

template <int KIND> struct remade_tile { typedef coded_tile type; };

template <> struct remade_tile<3> { typedef float_tile type; };

static __device__ __forceinline__ void load_tile(coded_tile *tile, const remade &w, int64_t r0, int64_t c0) {
    load_coded(tile, source_of(w).codes, r0, c0);
}

static __device__ __forceinline__ void load_tile(float_tile *tile, const remade &w, int64_t r0, int64_t c0) {
    load_parts(tile, w, r0, c0);
}

template <int KIND, int ROUND, bool TURN, typename T>
static __device__ __noinline__ void wild_remade(const remade_list &list, const remade &w, column_room &room,
                                                const T *tile, int64_t r0, int64_t c0) {
    const column_words<KIND> none = {};
    __syncthreads(); /* as wild_column */
    double_column<KIND, ROUND, TURN, false, false>(none, source_of(w), copy_of(list, w), room, tile, r0, c0);
}

/* KIND: 2 codes, 3 parts. What a thread reads of its matrix again and again it has by itself. */
template <int KIND, int ROUND, bool TURN>
static __global__ void __launch_bounds__(THREADS, 4) remade_columns(const __grid_constant__ remade_list list) {
    __shared__ column_room room;
    __shared__ __align__(16) typename remade_tile<KIND>::type tile;
    const remade &all = list.at[ni_listed(list, &remade::first_block)];
    const remade w = all;
    const int across = w.cols / COLUMNS, b = (int)(blockIdx.x - w.first_block), band = b / across;
    const int64_t r0 = (int64_t)band * 128, c0 = (int64_t)(b - band * across) * COLUMNS;
    ni_wait_for_it();
    ni_let_follow();
    load_tile(&tile, w, r0, c0);
    const ni_cuda_tile_copy copy = copy_of(list, w);
    if (ROUND || TURN)
        share_words<TURN>(&room.words, copy, ni_tile_noise(copy.noise));
    __syncthreads();
    const column_words<KIND> none = {};
    if (!double_column<KIND, ROUND, TURN, false, true>(none, source_of(w), copy, room, &tile, r0, c0))
        wild_remade<KIND, ROUND, TURN>(list, all, room, &tile, r0, c0);
}

/* ---- the host's side ---- */

bool ni_cuda_remade_alike(const ni_cuda_remade *a, const ni_cuda_remade *b) {
    const nb_quantizer *q = &a->copy.quantizer, *p = &b->copy.quantizer;
    return nb_quantizer_equal(q, p) && a->copy.noise.clock == b->copy.noise.clock && !a->places == !b->places;
}

template <int KIND, int ROUND> static int launch(cudaStream_t on, const remade_list &list, unsigned blocks, bool turn) {
    return turn ? ni_launch_following(on, remade_columns<KIND, ROUND, true>, blocks, THREADS, 0, list)
                : ni_launch_following(on, remade_columns<KIND, ROUND, false>, blocks, THREADS, 0, list);
}

template <int KIND>
static int launch(cudaStream_t on, const remade_list &list, unsigned blocks, const nb_quantizer *q) {
    const bool turn = q->hadamard_size != 0;
    const int round = q->round == NB_ROUND_STOCHASTIC ? q->sr_bits : 0;
    return round == 0   ? launch<KIND, 0>(on, list, blocks, turn)
           : round == 8 ? launch<KIND, 8>(on, list, blocks, turn)
                        : launch<KIND, 16>(on, list, blocks, turn);
}

int ni_cuda_quantize_remade(void *stream, const ni_cuda_remade *wanted, int count) {
    const nb_quantizer *const q = &wanted->copy.quantizer;
    remade_list list = {};
    uint32_t blocks = 0;
    list.clock = wanted->copy.noise.clock;
    list.rule = q->rule;
    list.outer = q->outer;
    list.signs = q->hadamard_signs;
    list.round_bf16 = q->hadamard_round_bf16;
    for (int i = 0; i < count; i++) {
        const ni_cuda_remade *const w = &wanted[i];
        remade &to = list.at[list.count++];
        to = {w->doubles.codes, w->doubles.scales, w->doubles.outer_scales, w->eights.codes,      w->eights.scales,
              w->places,        w->copy.values,    w->copy.noise.seed,      w->copy.noise.tensor, w->copy.noise.signs};
        to.rows = (int32_t)w->rows;
        to.cols = (int32_t)w->cols;
        to.stride = (int32_t)w->copy.stride;
        to.doubles = (int32_t)w->doubles.cols;
        to.eights = (int32_t)w->eights.cols;
        to.first_block = blocks;
        blocks += (uint32_t)(w->rows / 128 * (w->cols / COLUMNS));
    }
    if (!blocks)
        return cudaSuccess;
    return wanted->places ? launch<3>((cudaStream_t)stream, list, blocks, q)
                          : launch<2>((cudaStream_t)stream, list, blocks, q);
}
