/* clamp.cu: clamping with a sparse rest (OCC): order statistics without sorting. BF16 has 65,536 values, ordered by a
 * 16-bit key.
 *
 *     a row in the registers of a warp     few numbers lie beyond both bounds; they are found first, and the bounds are
 *                                          theirs of a rank: the rank-th of the lanes' own extremes is a threshold that
 *                                          at least rank numbers are beyond, and seldom many more
 *     the same, where that does not go     the key of a rank bit by bit, from the highest: a bit stays set where no more
 *                                          keys than the rank are smaller
 *     the same into codes of E2M1          what was clamped stays in registers: its largest magnitude is that of a bound
 *     any other row                        a block counts the upper bytes of keys, then the lower bytes of those that share
 *                                          the upper one
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/vector.cuh"
#include "format/ieee.h"

/* ---- keys ---- */

static __device__ uint16_t key_of(uint16_t bits) {
    return bits & 0x8000u ? (uint16_t)~bits : (uint16_t)(bits | 0x8000u);
}

static __device__ uint16_t bits_of(uint16_t key) {
    return key & 0x8000u ? (uint16_t)(key & 0x7fffu) : (uint16_t)~key;
}

/* ---- a row in the registers of a warp ---- */

enum { CLAMP_ROWS = 4 };

/* Lane l's vector i are the eight numbers from column 256 i + 8 l on. */
static __device__ bool is_live(int i, int lane, int64_t cols) {
    return 256 * i + 8 * lane < cols;
}

/* Both halves of a word: negative numbers are turned over, the sign bit of others is set; and back. */
static __device__ uint32_t keys_of(uint32_t pair) {
    return pair ^ (pair >> 15 & 0x00010001u) * 0x7fffu ^ 0x80008000u;
}

static __device__ uint32_t twice(uint32_t key) {
    return key | key << 16;
}

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

/* The value at c (a half of a word), clamped; and whether something was cut off. */
static __device__ uint16_t clamped_half(uint16_t bits, float low, float high, uint16_t *rest, bool *cut) {
    const float v = ni_bf16_value(bits), clamped = v < low ? low : v > high ? high : v; /* NaN stays */
    *cut = v == v && v != clamped;
    *rest = ni_bf16_even(ni_f32_sub(v, clamped));
    return ni_bf16_even(clamped);
}

/* Where a clamped row goes. begin: its largest magnitude (the bits of a BF16 number) is known; false: it goes the other
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

typedef struct clamped_codes {
    const ni_cuda_vector &v;
    int64_t cols;
    ni_scaling scaling;
    ni_vector_lane lane;

    __device__ float inner() const {
        return v.whole ? scaling.decode : 1.0f;
    }

    __device__ bool begin(int64_t r, uint32_t amax) {
        lane = ni_vector_lane_of(v, r * cols);
        scaling = ni_vector_scaling_of<NB_ELEMENT_E2M1>(v, amax << 16);
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
        ni_put_eight_up(lane, i, eight, ni_f32_mul(scaling.multiplier, NI_UP_FACTOR), inner());
    }

    __device__ void put_wild(int64_t r, int c, const uint4 &eight) const {
        ni_put_eight<NB_ELEMENT_E2M1, NB_ROUND_UP>(v, r * cols + c, ni_eight_of(eight), scaling.multiplier,
                                                   scaling.decode);
    }
} clamped_codes;

static __device__ clamped_numbers clamped_into(const nb_mat &out, int64_t) {
    return (clamped_numbers){out, NULL};
}

static __device__ clamped_codes clamped_into(const ni_cuda_vector &v, int64_t cols) {
    return (clamped_codes){v, cols, {1.0f, 1.0f}, {NULL, NULL, NULL}};
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

/* ---- by those who are beyond a threshold ---- */

/* Pairs are compared as the numbers that they are; NaN wins. */
static __device__ uint32_t smaller_pair(uint32_t a, uint32_t b) {
    uint32_t smaller;
    asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(smaller) : "r"(a), "r"(b));
    return smaller;
}

static __device__ uint32_t larger_pair(uint32_t a, uint32_t b) {
    uint32_t larger;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
}

/* All bits of a half that is `least` or below, or `most` or above. */
static __device__ uint32_t not_between(uint32_t pair, uint32_t least, uint32_t most) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t below, above;
    asm("set.le.u32.bf16x2 %0, %1, %2;" : "=r"(below) : "r"(pair), "r"(least));
    asm("set.ge.u32.bf16x2 %0, %1, %2;" : "=r"(above) : "r"(pair), "r"(most));
    return below | above;
#else
    return __vcmpleu2(keys_of(pair), keys_of(least)) | __vcmpgeu2(keys_of(pair), keys_of(most));
#endif
}

static __device__ bool is_nan_in(uint32_t pair) {
    return (pair & 0x7fffu) > 0x7f80u || (pair & 0x7fff0000u) > 0x7f800000u;
}

/* Keys of GROUPS parts of a pair of extremes each: 1, 2 or 4 parts; `turned`: of the keys turned over. */
template <int GROUPS> static __device__ void keys_of_parts(uint32_t *keys, const uint32_t *pairs, uint32_t turned) {
    const uint32_t low = keys_of(pairs[0]) ^ turned;
    keys[0] = GROUPS == 1 ? min(low & 0xffffu, low >> 16) : low & 0xffffu;
    if (GROUPS > 1)
        keys[1] = low >> 16;
    if (GROUPS == 4) {
        const uint32_t high = keys_of(pairs[1]) ^ turned;
        keys[2] = high & 0xffffu;
        keys[3] = high >> 16;
    }
}

/* Smallest keys of parts of a lane's numbers, and smallest ones of the keys turned over; false: a NaN. */
template <int VECTORS, int GROUPS>
static __device__ bool extremes_of(uint32_t *least, uint32_t *most, const uint32_t *words, int64_t cols) {
    uint32_t low[2] = {0x7f807f80u, 0x7f807f80u}, high[2] = {0xff80ff80u, 0xff80ff80u};
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (is_live(i, threadIdx.x % 32, cols)) {
            const int part = GROUPS == 4 ? i % 2 : 0;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                low[part] = smaller_pair(low[part], words[4 * i + k]);
                high[part] = larger_pair(high[part], words[4 * i + k]);
            }
        }
    keys_of_parts<GROUPS>(least, low, 0);
    keys_of_parts<GROUPS>(most, high, ~0u);
    return !(is_nan_in(low[0]) || (GROUPS == 4 && is_nan_in(low[1])));
}

/* The key at that rank of all lanes' least: the smallest is taken away that often, of equal ones the first lane's. */
static __device__ uint32_t threshold_of_lanes(uint32_t least, uint32_t rank) {
    uint32_t mine = least << 5 | threadIdx.x % 32, smallest = __reduce_min_sync(~0u, mine);
    for (uint32_t i = 0; i < rank; i++) {
        mine = mine == smallest ? ~0u : mine;
        smallest = __reduce_min_sync(~0u, mine);
    }
    return smallest >> 5;
}

/* Of all groups' least: bit by bit. */
template <int GROUPS> static __device__ uint32_t threshold_of_groups(const uint32_t *least, uint32_t rank) {
    uint32_t key = 0;
    for (uint32_t bit = 0x8000u; bit; bit >>= 1) {
        uint32_t below = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            below += __popc(__ballot_sync(~0u, least[g] < (key | bit)));
        if (below <= rank)
            key |= bit;
    }
    return key;
}

template <int GROUPS> static __device__ uint32_t threshold_of(const uint32_t *least, uint32_t rank) {
    return GROUPS == 1 ? threshold_of_lanes(least[0], rank) : threshold_of_groups<GROUPS>(least, rank);
}

/* Which of a vector's eight numbers are not between, a bit each. */
static __device__ uint32_t outside(const uint32_t *words, uint32_t least, uint32_t most) {
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < 4; k++)
        bits |= not_between(words[k], least, most) & (0x00020001u << 2 * k);
    return (bits | bits >> 16) & 0xffu;
}

/* Lists those who are not between, and zeros of either sign with those at 0, key above and column below, columns ascending; their number, of which `room` at most
 * are listed. */
template <int VECTORS>
static __device__ int list_outside(uint32_t *list, uint16_t *numbers, int room, const uint16_t *from,
                                   const uint32_t *words, int64_t cols, uint32_t least, uint32_t most) {
    const int lane = threadIdx.x % 32;
    int found = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i += 3) { /* three sums over lanes in a word: each is 256 at most */
        uint32_t bits[3] = {0, 0, 0}, mine = 0;
#pragma unroll
        for (int j = 0; j < 3 && i + j < VECTORS; j++) {
            bits[j] = is_live(i + j, lane, cols) ? outside(words + 4 * (i + j), least, most) : 0;
            mine |= (uint32_t)__popc(bits[j]) << 10 * j;
        }
        uint32_t upto = mine;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const uint32_t other = __shfl_up_sync(~0u, upto, step);
            upto += lane >= step ? other : 0;
        }
        const uint32_t all = __shfl_sync(~0u, upto, 31);
        upto -= mine;
#pragma unroll
        for (int j = 0; j < 3 && i + j < VECTORS; j++) {
            int at = found + (int)(upto >> 10 * j & 1023u);
            for (uint32_t left = bits[j]; left && at < room; left &= left - 1) { /* seldom one; they lie in the cache */
                const int c = 256 * (i + j) + 8 * lane + __ffs((int)left) - 1;
                numbers[at] = from[c];
                list[at++] = (uint32_t)key_of(from[c]) << 16 | (uint32_t)c;
            }
            found += (int)(all >> 10 * j & 1023u);
        }
    }
    return found;
}

/* How many of two numbers a word are smaller than this one is, both halves of `mine`; more with each call. */
static __device__ uint32_t count_smaller(uint32_t so_far, uint32_t pair, uint32_t mine) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t smaller, sum; /* ones and zeros in BF16, which counts to 256 */
    asm("set.lt.bf16x2.bf16x2 %0, %1, %2;" : "=r"(smaller) : "r"(pair), "r"(mine));
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(so_far), "r"(smaller));
    return sum;
#else
    return so_far + __vsetltu2(keys_of(pair), keys_of(mine));
#endif
}

static __device__ uint32_t counted(uint32_t pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    return (uint32_t)(ni_low_of(pair) + ni_high_of(pair));
#else
    return (pair & 0xffffu) + (pair >> 16);
#endif
}

/* Keys at two ranks of `count` numbers, behind which lie seven NaN: the largest that no more than so many are smaller
 * than. Zeros of either sign count as one. */
static __device__ void keys_at(const uint16_t *numbers, int count, uint32_t low, uint32_t high, uint32_t *lo,
                               uint32_t *hi) {
    const int lane = threadIdx.x % 32;
    uint32_t at_low = 0, at_high = 0;
    for (int first = 0; first < count; first += 32) {
        const bool live = first + lane < count;
        const uint32_t mine = live ? numbers[first + lane] : 0x7fffu;
        uint32_t smaller = 0;
        for (int i = 0; i < count; i += 8) {
            const uint4 v = *(const uint4 *)(numbers + i);
            smaller = count_smaller(smaller, v.x, twice(mine));
            smaller = count_smaller(smaller, v.y, twice(mine));
            smaller = count_smaller(smaller, v.z, twice(mine));
            smaller = count_smaller(smaller, v.w, twice(mine));
        }
        const uint32_t rank = counted(smaller), key = live ? key_of((uint16_t)mine) : 0;
        at_low = rank <= low ? max(at_low, key) : at_low;
        at_high = rank <= high ? max(at_high, key) : at_high;
    }
    *lo = __reduce_max_sync(~0u, at_low);
    *hi = __reduce_max_sync(~0u, at_high);
}

/* What lies beyond the bounds, less the bound. */
static __device__ void store_rest(const ni_sparse &rest, int64_t r, const uint32_t *list, int count, uint32_t lo,
                                  uint32_t hi) {
    const int lane = threadIdx.x % 32;
    int found = 0;
    for (int first = 0; first < count; first += 32) {
        const uint32_t mine = first + lane < count ? list[first + lane] : lo << 16, key = mine >> 16;
        const bool cut = key < lo || key > hi;
        const uint32_t all = __ballot_sync(~0u, cut);
        if (cut) {
            const float v = ni_bf16_value(bits_of((uint16_t)key)),
                        bound = ni_bf16_value(bits_of((uint16_t)(key < lo ? lo : hi)));
            const int64_t at = r * rest.room + found + __popc(all & ((1u << lane) - 1));
            rest.column[at] = (int32_t)(mine & 0xffffu);
            rest.value[at] = ni_bf16_even(ni_f32_sub(v, bound));
        }
        found += __popc(all);
    }
    if (lane == 0)
        rest.count[r] = found;
}

static __device__ bool is_zero_key(uint32_t key) {
    return key == 0x7fffu || key == 0x8000u;
}

/* False, and nothing is done: NaN, ranks too far from the ends, a bound of 0 (whose two keys are one number), or too many
 * beyond the thresholds. */
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

/* Rows of so many eights, which lie so, are held by warps. */
static bool fits_warps(const nb_mat *x) {
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
        launch_warps<24, 4, 256>(on, to, rest, x, low, high);
}

int ni_cuda_launch_clamp_codes(void *stream, const ni_cuda_vector *v, const ni_sparse *rest, const nb_mat *x,
                               int64_t low, int64_t high) {
    const ni_sparse none = {};
    clamp_by_warps((cudaStream_t)stream, v, rest ? rest : &none, x, low, high);
    return cudaGetLastError();
}

bool ni_cuda_clamps_into_codes(const ni_cuda_vector *v, const ni_sparse *rest, const nb_mat *x) {
    const nb_quantizer *q = &v->quantizer;
    return fits_warps(x) && x->rows > 0 && !(rest && rest->exact) && q->element == NB_ELEMENT_E2M1 &&
           q->round == NB_ROUND_UP && q->scale_type == NB_SCALE_F32 && q->block_rows == 1;
}

/* ---- a row of a block ---- */

enum { BINS = 256 };

/* The bin in which rank lies, and the rank within it; by a warp, eight bins a lane. */
static __device__ int find_bin(const uint32_t *counts, int64_t rank, int64_t *within) {
    const int lane = threadIdx.x % 32;
    uint32_t mine = 0;
    for (int i = 0; i < BINS / 32; i++)
        mine += counts[BINS / 32 * lane + i];
    uint32_t upto = mine;
    for (int step = 1; step < 32; step *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, upto, step);
        upto += lane >= step ? other : 0;
    }
    const uint32_t passed = __ballot_sync(~0u, rank >= (int64_t)upto); /* lanes whose bins all lie below */
    const int owner = passed == ~0u ? 31 : __popc(passed);
    int64_t rest = rank - __shfl_sync(~0u, upto - mine, owner);
    int bin = BINS / 32 * owner;
    while (bin < BINS - 1 && bin < BINS / 32 * (owner + 1) - 1 && rest >= (int64_t)counts[bin])
        rest -= counts[bin++];
    *within = rest;
    return bin;
}

/* A block finds both order statistics of one row. */
static __device__ void row_bounds(const uint16_t *x, int64_t n, int64_t low, int64_t high, float bound[2]) {
    __shared__ uint32_t upper[BINS], lower[2][BINS];
    __shared__ int bin[2];
    __shared__ int64_t within[2];
    for (int i = threadIdx.x; i < BINS; i += blockDim.x)
        upper[i] = lower[0][i] = lower[1][i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        atomicAdd(&upper[key_of(x[i]) >> 8], 1u);
    __syncthreads();
    const int warp = threadIdx.x / 32;
    if (warp < 2) {
        int64_t inside;
        const int found = find_bin(upper, warp ? high : low, &inside);
        bin[warp] = found;
        within[warp] = inside;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        uint16_t key = key_of(x[i]);
        for (int side = 0; side < 2; side++)
            if (key >> 8 == bin[side])
                atomicAdd(&lower[side][key & 255], 1u);
    }
    __syncthreads();
    for (int side = 0; side < 2; side++) {
        int64_t last;
        bound[side] = ni_bf16_value(bits_of((uint16_t)(bin[side] << 8 | find_bin(lower[side], within[side], &last))));
    }
}

/* Clamps a row and lists what was cut off, columns ascending: 256 columns at a time, each thread behind those before
 * it. */
static __device__ void clamp_row(uint16_t *to, const ni_sparse &rest, int64_t row, const uint16_t *from, int64_t cols,
                                 float lo, float hi) {
    __shared__ int warp_count[NI_WARPS];
    int found = 0;
    for (int64_t c0 = 0; c0 < cols; c0 += NI_THREADS) {
        int64_t c = c0 + threadIdx.x;
        float v = c < cols ? ni_bf16_value(from[c]) : 0.0f, clamped = v < lo ? lo : v > hi ? hi : v; /* NaN stays */
        bool cut = c < cols && v == v && v != clamped;
        if (c < cols)
            to[c] = ni_bf16_even(clamped);
        if (!rest.count)
            continue;
        uint32_t vote = __ballot_sync(~0u, cut);
        if (threadIdx.x % 32 == 0)
            warp_count[threadIdx.x / 32] = __popc(vote);
        __syncthreads();
        int before = found, total = 0;
        for (int i = 0; i < NI_WARPS; i++) {
            before += i < (int)threadIdx.x / 32 ? warp_count[i] : 0;
            total += warp_count[i];
        }
        if (cut) {
            int64_t at = row * rest.room + before + __popc(vote & ((1u << threadIdx.x % 32) - 1));
            rest.column[at] = (int32_t)c;
            if (rest.exact)
                rest.exact[at] = ni_f32_sub(v, clamped);
            else
                rest.value[at] = ni_bf16_even(ni_f32_sub(v, clamped));
        }
        found += total;
        __syncthreads();
    }
    if (rest.count && threadIdx.x == 0)
        rest.count[row] = found;
}

static __global__ void clamp_rows(nb_mat out, ni_sparse rest, nb_mat x, int64_t low, int64_t high) {
    const int64_t r = blockIdx.x;
    const uint16_t *from = (const uint16_t *)x.data + r * x.stride;
    float bound[2];
    row_bounds(from, x.cols, low, high, bound);
    clamp_row((uint16_t *)out.data + r * out.stride, rest, r, from, x.cols, bound[0], bound[1]);
}

/* The same over a whole tensor: counts of all 65,536 keys in memory. */
enum { KEYS = 1 << 16 };

static __global__ void count_keys(unsigned long long *counts, nb_mat x) {
    for (NI_EACH(i, x.rows * x.cols))
        atomicAdd(&counts[key_of(((const uint16_t *)x.data)[i / x.cols * x.stride + i % x.cols])], 1ull);
}

static __global__ void find_bounds(float *bound, const unsigned long long *counts, int64_t low, int64_t high) {
    int64_t rank = threadIdx.x ? high : low;
    int key = 0;
    while (key < KEYS - 1 && rank >= (int64_t)counts[key])
        rank -= (int64_t)counts[key++];
    bound[threadIdx.x] = ni_bf16_value(bits_of((uint16_t)key));
}

static __global__ void clamp_whole(nb_mat out, ni_sparse rest, nb_mat x, const float *bound) {
    const int64_t r = blockIdx.x;
    clamp_row((uint16_t *)out.data + r * out.stride, rest, r, (const uint16_t *)x.data + r * x.stride, x.cols, bound[0],
              bound[1]);
}

size_t ni_cuda_clamp_bytes(bool whole) {
    return whole ? KEYS * sizeof(unsigned long long) + 256 : 0;
}

int ni_cuda_launch_clamp(void *stream, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                         int64_t high, bool whole, void *scratch) {
    cudaStream_t on = (cudaStream_t)stream;
    ni_sparse none = {};
    if (x->rows * x->cols == 0)
        return cudaSuccess;
    if (!whole && !(rest && rest->exact) && fits_warps(x) && out->stride % 8 == 0 && ni_aligned(out->data)) {
        clamp_by_warps(on, out, rest ? rest : &none, x, low, high);
        return cudaGetLastError();
    }
    if (!whole) {
        clamp_rows<<<(unsigned)x->rows, NI_THREADS, 0, on>>>(*out, rest ? *rest : none, *x, low, high);
        return cudaGetLastError();
    }
    unsigned long long *counts = (unsigned long long *)scratch;
    float *bound = (float *)(counts + KEYS);
    cudaMemsetAsync(counts, 0, KEYS * sizeof *counts, on);
    count_keys<<<ni_grid(ni_divide_up(x->rows * x->cols, NI_THREADS)), NI_THREADS, 0, on>>>(counts, *x);
    find_bounds<<<1, 2, 0, on>>>(bound, counts, low, high);
    clamp_whole<<<(unsigned)x->rows, NI_THREADS, 0, on>>>(*out, rest ? *rest : none, *x, bound);
    return cudaGetLastError();
}
