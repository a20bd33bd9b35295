/* clamp_warp.cu: a row of BF16 in the registers of a warp, clamped (clamp.cu): into numbers, or into codes of E2M1, for
 * what was clamped stays in registers, and its largest magnitude is that of a bound.
 *
 *     by a threshold    clamp_threshold.cuh
 *     bit by bit        where that does not go: from the highest bit of a key, which stays set where no more keys than
 *                       the rank are smaller
 */
#include "backend/cuda/clamp_threshold.cuh"
#include "backend/cuda/vector.cuh"
#include "format/ieee.h"

enum { CLAMP_ROWS = 4 };

/* ---- where a clamped row goes ---- */

/* The value at c (a half of a word), clamped; and whether something was cut off. */
static __device__ uint16_t clamped_half(uint16_t bits, float low, float high, uint16_t *rest, bool *cut) {
    const float v = ni_bf16_value(bits), clamped = v < low ? low : v > high ? high : v; /* NaN stays */
    *cut = v == v && v != clamped;
    *rest = ni_bf16_even(ni_f32_sub(v, clamped));
    return ni_bf16_even(clamped);
}

/* begin: its largest magnitude (the bits of a BF16 number) is known; false: it goes the other
 * way, which begins with the row as it lies, NaN among it. */
typedef struct clamped_numbers {
    const nb_mat &out;
    uint16_t *lane;

    __device__ bool begin(int64_t r, uint32_t) {
        lane = (uint16_t *)out.data + r * out.stride + 8 * (threadIdx.x % 32);
        return true;
    }

    __device__ void begin_wild(int64_t, const uint16_t *, int, float, float) {
    }

    __device__ void put(int i, const uint4 &eight) const {
        *(uint4 *)(lane + 256 * i) = eight;
    }

    __device__ void put_wild(int64_t r, int c, const uint4 &eight) const {
        *(uint4 *)((uint16_t *)out.data + r * out.stride + c) = eight;
    }
} clamped_numbers;

template <nb_element ELEMENT, nb_rounding ROUND> struct clamped_codes {
    const ni_cuda_vector &v;
    int64_t cols;
    ni_scaling scaling;
    ni_vector_lane lane;
    int64_t row;

    __device__ float inner() const {
        return v.whole ? scaling.decode : 1.0f;
    }

    __device__ bool begin(int64_t r, uint32_t amax) {
        row = r * cols;
        lane = ni_vector_lane_of(v, row);
        scaling = ni_vector_scaling_of<ELEMENT>(v, amax << 16);
        if (threadIdx.x % 32 == 0)
            v.row_scales[r] = scaling.decode;
        return ni_is_tame_row(amax << 16);
    }

    __device__ void begin_wild(int64_t r, const uint16_t *from, int count, float lo, float hi) {
        uint32_t amax = 0;
        for (int c = threadIdx.x % 32; c < count; c += 32) {
            uint16_t left;
            bool cut;
            amax = max(amax, (uint32_t)clamped_half(from[c], lo, hi, &left, &cut) & 0x7fffu);
        }
        __syncwarp();
        begin(r, ni_warp_max(amax));
    }

    __device__ void put(int i, const uint4 &eight) const {
        if (ELEMENT == NB_ELEMENT_E2M1)
            ni_put_eight_up(lane, i, eight, ni_f32_mul(scaling.multiplier, NI_UP_FACTOR), inner());
        else
            ni_put_eight<ELEMENT, ROUND>(v, row + 256 * i + 8 * (threadIdx.x % 32), ni_eight_of(eight),
                                         scaling.multiplier, scaling.decode);
    }

    __device__ void put_wild(int64_t r, int c, const uint4 &eight) const {
        ni_put_eight<ELEMENT, ROUND>(v, r * cols + c, ni_eight_of(eight), scaling.multiplier, scaling.decode);
    }
};

/* INT4, in the place of E2M1. */
typedef struct int4_vector {
    ni_cuda_vector v;
} int4_vector;

static __device__ clamped_numbers clamped_into(const nb_mat &out, int64_t) {
    return (clamped_numbers){out, NULL};
}

static __device__ clamped_codes<NB_ELEMENT_E2M1, NB_ROUND_UP> clamped_into(const ni_cuda_vector &v, int64_t cols) {
    return {v, cols, {1.0f, 1.0f}, {NULL, NULL, NULL}, 0};
}

static __device__ clamped_codes<NB_ELEMENT_INT4, NB_ROUND_EVEN> clamped_into(const int4_vector &to, int64_t cols) {
    return {to.v, cols, {1.0f, 1.0f}, {NULL, NULL, NULL}, 0};
}

/* ---- bit by bit ---- */

/* The largest key that no more than `rank` keys of a row are below: the key at that rank. */
static __device__ uint32_t key_at(const uint16_t *from, int cols, uint32_t rank) {
    uint32_t key = 0;
    for (uint32_t bit = 0x8000u; bit; bit >>= 1) {
        uint32_t below = 0;
#pragma unroll 1
        for (int c = 8 * (threadIdx.x % 32); c < cols; c += 256) {
            const uint4 v = *(const uint4 *)(from + c);
            const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int k = 0; k < 4; k++)
                below += __vsetltu2(keys_of(w[k]), twice(key | bit)); /* a count a half */
        }
        if (__reduce_add_sync(~0u, (below & 0xffffu) + (below >> 16)) <= rank)
            key |= bit;
    }
    return key;
}

/* Whatever the row holds; it is read again for each bit. */
template <typename T>
static __device__ __noinline__ void clamp_by_bits(const T &to, const ni_sparse &rest, const uint16_t *from, int64_t r,
                                                  int cols, uint32_t low, uint32_t high) {
    auto out = clamped_into(to, cols);
    const int lane = threadIdx.x % 32;
    const float lo = ni_bf16_value(bits_of((uint16_t)key_at(from, cols, low))),
                hi = ni_bf16_value(bits_of((uint16_t)key_at(from, cols, high)));
    int found = 0;
    out.begin_wild(r, from, cols, lo, hi);
#pragma unroll 1
    for (int first = 0; first < cols; first += 256) {
        const int c = first + 8 * lane;
        const uint4 v = c < cols ? *(const uint4 *)(from + c) : make_uint4(0, 0, 0, 0);
        const uint32_t in[4] = {v.x, v.y, v.z, v.w};
        uint32_t cuts = 0, halves[8], w[4];
#pragma unroll
        for (int k = 0; k < 8; k++) {
            uint16_t left;
            bool cut;
            const uint16_t half = clamped_half((uint16_t)(in[k / 2] >> (16 * (k % 2))), lo, hi, &left, &cut);
            w[k / 2] = k % 2 ? w[k / 2] | (uint32_t)half << 16 : half;
            halves[k] = left;
            cuts |= (uint32_t)(cut && c < cols) << k;
        }
        if (c < cols)
            out.put_wild(r, c, make_uint4(w[0], w[1], w[2], w[3]));
        if (!rest.count)
            continue;
        const int mine = __popc(cuts);
        int before = mine; /* of lanes up to this one, then of those before it */
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(~0u, before, step);
            before += lane >= step ? other : 0;
        }
        const int all = __shfl_sync(~0u, before, 31);
        int64_t at = r * rest.room + found + before - mine;
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (cuts >> k & 1u) {
                rest.column[at] = c + k;
                rest.value[at++] = (uint16_t)halves[k];
            }
        found += all;
    }
    if (rest.count && lane == 0)
        rest.count[r] = found;
}

/* ---- by a threshold ---- */

/* False, and nothing is done: NaN, ranks too far from the ends, a bound of 0 (whose two keys are one number), or too
 * many beyond the thresholds. */
template <int VECTORS, int GROUPS, typename T>
static __device__ bool clamp_by_threshold(uint32_t *list, uint16_t *numbers, int room, T out, const ni_sparse &rest,
                                          const uint16_t *from, const uint32_t *words, int64_t r, int64_t cols,
                                          uint32_t low, uint32_t high) {
    const int lane = threadIdx.x % 32;
    const uint32_t from_top = (uint32_t)cols - 1 - high;
    uint32_t least[GROUPS], most[GROUPS]; /* `most` turned over */
    if (low >= 32 * GROUPS || from_top >= 32 * GROUPS)
        return false;
    if (__any_sync(~0u, !extremes_of<VECTORS, GROUPS>(least, most, words, cols)))
        return false;
    const uint32_t bottom = threshold_of<GROUPS>(least, low), top = 0xffffu - threshold_of<GROUPS>(most, from_top);
    if (bottom + 2 > top)
        return false;
    const int count = list_outside<VECTORS>(list, numbers, room, from, words, cols, twice(bits_of((uint16_t)bottom)),
                                            twice(bits_of((uint16_t)top)));
    if (count > room)
        return false;
    if (lane < 7)
        numbers[count + lane] = 0x7fffu;
    __syncwarp();
    uint32_t lo = 0, hi = 0;
    keys_at(numbers, count, low, (uint32_t)count - 1 - from_top, &lo, &hi);
    if (is_zero_key(lo) || is_zero_key(hi))
        return false;
    const uint32_t lows = twice(bits_of((uint16_t)lo)), highs = twice(bits_of((uint16_t)hi));
    if (!out.begin(r, max(bits_of((uint16_t)lo) & 0x7fffu, bits_of((uint16_t)hi) & 0x7fffu)))
        return false;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            w[k] = smaller_pair(larger_pair(words[4 * i + k], lows), highs);
        if (is_live(i, lane, cols))
            out.put(i, make_uint4(w[0], w[1], w[2], w[3]));
    }
    if (rest.count)
        store_rest(rest, r, list, count, lo, hi);
    return true;
}

template <int VECTORS, int GROUPS, int ROOM, typename T>
static __global__ void __launch_bounds__(32 * CLAMP_ROWS)
    clamp_in_warps(const __grid_constant__ T to, const __grid_constant__ ni_sparse rest,
                   const __grid_constant__ nb_mat x, uint32_t low, uint32_t high) {
    __shared__ uint32_t lists[CLAMP_ROWS][ROOM];
    __shared__ __align__(16) uint16_t numbers[CLAMP_ROWS][ROOM + 8];
    const int lane = threadIdx.x % 32;
    /* the last rows first: they were written last, and lie in the cache still */
    const int64_t r = (gridDim.x - 1 - blockIdx.x) * (int64_t)CLAMP_ROWS + threadIdx.x / 32;
    if (r >= x.rows)
        return;
    const uint16_t *from = (const uint16_t *)x.data + r * x.stride;
    uint32_t words[4 * VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const uint4 v = is_live(i, lane, x.cols) ? *(const uint4 *)(from + 256 * i + 8 * lane) : make_uint4(0, 0, 0, 0);
        words[4 * i] = v.x;
        words[4 * i + 1] = v.y;
        words[4 * i + 2] = v.z;
        words[4 * i + 3] = v.w;
    }
    if (!clamp_by_threshold<VECTORS, GROUPS>(lists[threadIdx.x / 32], numbers[threadIdx.x / 32], ROOM,
                                             clamped_into(to, x.cols), rest, from, words, r, x.cols, low, high))
        clamp_by_bits(to, rest, from, r, (int)x.cols, low, high);
}

template <int VECTORS, int GROUPS, int ROOM, typename T>
static void launch_warps(cudaStream_t on, const T *to, const ni_sparse *rest, const nb_mat *x, int64_t low,
                         int64_t high) {
    clamp_in_warps<VECTORS, GROUPS, ROOM><<<(unsigned)ni_divide_up(x->rows, CLAMP_ROWS), 32 * CLAMP_ROWS, 0, on>>>(
        *to, *rest, *x, (uint32_t)low, (uint32_t)high);
}

bool ni_cuda_clamps_by_warps(const nb_mat *x) {
    return x->cols % 8 == 0 && ni_divide_up(x->cols, 256) <= 24 && x->stride % 8 == 0 && ni_aligned(x->data);
}

template <typename T>
static void clamp_by_warps(cudaStream_t on, const T *to, const ni_sparse *rest, const nb_mat *x, int64_t low,
                           int64_t high) {
    const int64_t vectors = ni_divide_up(x->cols, 256), far = low > x->cols - 1 - high ? low : x->cols - 1 - high;
    if (vectors <= 3 && far < 16)
        launch_warps<3, 1, 64>(on, to, rest, x, low, high);
    else if (vectors <= 4)
        far < 16 ? launch_warps<4, 1, 96>(on, to, rest, x, low, high)
                 : launch_warps<4, 4, 256>(on, to, rest, x, low, high);
    else if (vectors <= 8)
        far < 32 ? launch_warps<8, 2, 128>(on, to, rest, x, low, high)
                 : launch_warps<8, 4, 256>(on, to, rest, x, low, high);
    else if (vectors <= 12)
        launch_warps<12, 4, 256>(on, to, rest, x, low, high);
    else
        far < 96 ? launch_warps<24, 4, 256>(on, to, rest, x, low, high)
                 : launch_warps<24, 16, 512>(on, to, rest, x, low, high); /* two counts of BF16 hold 512 */
}

int ni_cuda_clamp_by_warps(cudaStream_t on, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                           int64_t high) {
    clamp_by_warps(on, out, rest, x, low, high);
    return cudaGetLastError();
}

int ni_cuda_launch_clamp_codes(void *stream, const ni_cuda_vector *v, const ni_sparse *rest, const nb_mat *x,
                               int64_t low, int64_t high) {
    const ni_sparse none = {};
    const int4_vector int4 = {*v};
    if (v->quantizer.element == NB_ELEMENT_INT4)
        clamp_by_warps((cudaStream_t)stream, &int4, rest ? rest : &none, x, low, high);
    else
        clamp_by_warps((cudaStream_t)stream, v, rest ? rest : &none, x, low, high);
    return cudaGetLastError();
}

bool ni_cuda_clamps_into_codes(const ni_cuda_vector *v, const ni_sparse *rest, const nb_mat *x) {
    const nb_quantizer *q = &v->quantizer;
    return ni_cuda_clamps_by_warps(x) && x->rows > 0 && !(rest && rest->exact) &&
           ((q->element == NB_ELEMENT_E2M1 && q->round == NB_ROUND_UP) ||
            (q->element == NB_ELEMENT_INT4 && q->round == NB_ROUND_EVEN)) &&
           q->scale_type == NB_SCALE_F32 && q->block_rows == 1;
}
