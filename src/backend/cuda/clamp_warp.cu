/* clamp_warp.cu: a row of BF16 in the registers of a warp, clamped (clamp.cu): into numbers, or into codes of E2M1, for
 * what was clamped stays in registers, and its largest magnitude is that of a bound.
 *
 *     by a threshold    clamp_threshold.cuh
 *     bit by bit        where that does not go (clamp_bits.cuh)
 */
#include "backend/cuda/clamp_bits.cuh"
#include "backend/cuda/clamp_threshold.cuh"

/* ---- into numbers ---- */

typedef struct clamped_numbers {
    const nb_mat &out;
    uint16_t *lane;

    __device__ bool begin(int64_t r, uint32_t) {
        lane = (uint16_t *)out.data + r * out.stride + 8 * (threadIdx.x % 32);
        return true;
    }

    __device__ void begin_wild(int64_t, const uint16_t *, int, float, float) {
    }

    template <bool> __device__ void put(int i, const uint4 &clamped, const uint4 &) const {
        *(uint4 *)(lane + 256 * i) = clamped;
    }

    __device__ void put_wild(int64_t r, int c, const uint4 &clamped, const clamp_cuts &) const {
        *(uint4 *)((uint16_t *)out.data + r * out.stride + c) = clamped;
    }

    __device__ void finish() const {
    }
} clamped_numbers;

static __device__ clamped_numbers clamped_into(const nb_mat &out, int64_t) {
    return {out, NULL};
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
            out.template put<false>(i, make_uint4(w[0], w[1], w[2], w[3]), eight_at(words, i));
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
    if (!rest && ni_cuda_clamps_by_counting(x))
        return ni_cuda_clamp_by_counting((cudaStream_t)stream, v, x, low, high);
    clamp_by_warps((cudaStream_t)stream, v, rest ? rest : &none, x, low, high);
    return cudaGetLastError();
}

bool ni_cuda_clamps_into_codes(const ni_cuda_vector *v, const ni_sparse *rest, const nb_mat *x) {
    const nb_quantizer *q = &v->quantizer;
    return ni_cuda_clamps_by_warps(x) && x->rows > 0 && !(rest && rest->exact) && q->element == NB_ELEMENT_E2M1 &&
           q->round == NB_ROUND_UP && q->scale_type == NB_SCALE_F32 && q->block_rows == 1;
}
