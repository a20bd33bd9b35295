/* quantize_split.cu: two operands of chosen columns of one matrix, from one reading: the columns of one list in MXFP8,
 * those of another in double blocks (double.cuh), both to nearest with codes and values. Bits are those of quantize.cu.
 *
 *     a block      some rows in shared memory as they lie, so that columns of any order cost no reading of memory
 *     a thread     16 columns of a list: two lanes a block of MXFP8, eight an outer block of the others; zeros where the
 *                  list has ended within a block
 *
 * Without a list it is MXFP8 of a matrix as it lies.
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/double.cuh"

enum { THREADS = 256, MOST_ROWS = 16, ROOM = 24 * 1024, MOST_ROOM = 47 * 1024, BLOCKS_EACH = 4 };

/* ---- sixteen columns of a row in shared memory ---- */

static __device__ void list_columns(int *columns, const int32_t *list, int first) {
    if (!list) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            columns[i] = first + i;
        return;
    }
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
        const int4 four = __ldg((const int4 *)(list + first + i));
        columns[i] = four.x;
        columns[i + 1] = four.y;
        columns[i + 2] = four.z;
        columns[i + 3] = four.w;
    }
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

/* Columns `first` and on of a list, `count` of which are there. */
typedef struct split_list {
    const int32_t *at; /* NULL: the columns as they lie */
    int count;
} split_list;

template <typename T> static __device__ sixteen_words<T> chosen(const T *row, const split_list &list, int first) {
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

/* All lanes come. */
template <typename T>
static __device__ void eight_row(const sixteen_words<T> &in, const ni_cuda_tile_copy &copy, int64_t at, bool live) {
    const uint32_t no_signs[8] = {};
    float x[16];
    uint32_t codes[4], values[8];
    unpack<false>(x, in, no_signs);
    const uint8_t byte = ni_eight_scale(copy.quantizer.rule, x);
    ni_encode_eights(copy.quantizer.rule, byte, x, values, codes);
    if (!live)
        return;
    const uint64_t to = ni_global(copy.values + at);
    ni_store_words(to, make_uint4(values[0], values[1], values[2], values[3]));
    ni_store_words(to + 16, make_uint4(values[4], values[5], values[6], values[7]));
    ni_store_words(ni_global(copy.codes + at), make_uint4(codes[0], codes[1], codes[2], codes[3]));
    if (threadIdx.x % 2 == 0)
        copy.scales[at / 32] = byte;
}

template <typename T>
static __device__ __noinline__ void wild_row(const T *row, const split_list &list, int first,
                                             const ni_cuda_tile_copy &copy, const shared_words &none, int64_t at,
                                             bool live) {
    double_row<T, 0, false, false>(chosen(row, list, first), copy, none, 0, at, live);
}

/* ---- the kernel ---- */

/* f(row of the block, first column of a part's sixteen, whether it is there): warps come whole. */
template <typename F> static __device__ __forceinline__ void each_sixteen(int rows, int64_t left, int cols, F f) {
    const int across = cols / 16, units = rows * across;
    for (int first = (int)threadIdx.x / 32 * 32; first < units; first += THREADS) {
        const int unit = first + (int)threadIdx.x % 32, here = min(unit, units - 1), r = here / across;
        f(r, 16 * (here - r * across), unit < units && r < left);
    }
}

/* A copy without values is not made. */
typedef struct split_work {
    const void *numbers;
    int64_t rows, cols, stride;
    split_list of_eight, of_four;
    int eights, doubles; /* columns of each copy, which are at least those of its list */
    int each;            /* rows of a block */
    ni_cuda_tile_copy eight, four;
} split_work;

template <typename T>
static __global__ void __launch_bounds__(THREADS, 4) split_rows(const __grid_constant__ split_work w) {
    extern __shared__ uint4 room[];
    __shared__ shared_words none;
    const T *const tile = (const T *)room;
    const int64_t r0 = blockIdx.x * (int64_t)w.each, left = w.rows - r0;
    const int across = (int)(w.cols * (int64_t)sizeof(T) / 16);
    for (int i = (int)threadIdx.x; i < w.each * across; i += THREADS) {
        const int r = i / across;
        if (r < left)
            room[i] = __ldg((const uint4 *)((const T *)w.numbers + (r0 + r) * w.stride) + (i - r * across));
    }
    __syncthreads();
    each_sixteen(w.each, left, w.eights, [&](int r, int first, bool live) {
        eight_row(chosen(tile + r * w.cols, w.of_eight, first), w.eight, (r0 + r) * w.eight.stride + first, live);
    });
    each_sixteen(w.each, left, w.doubles, [&](int r, int first, bool live) {
        const T *const row = tile + r * w.cols;
        const int64_t at = (r0 + r) * w.four.stride + first;
        if (!double_row<T, 0, false, true>(chosen(row, w.of_four, first), w.four, none, 0, at, live))
            wild_row(row, w.of_four, first, w.four, none, at, live);
    });
}

/* ---- the host's side ---- */

bool ni_cuda_split_fits(const nb_mat *x) {
    return x->cols * (int64_t)nb_dtype_size(x->dtype) <= MOST_ROOM;
}

int ni_cuda_quantize_split(void *stream, const ni_cuda_split *s, int multiprocessors) {
    const nb_mat *const x = &s->numbers;
    const int64_t bytes = x->cols * (int64_t)nb_dtype_size(x->dtype), busy = (int64_t)multiprocessors * BLOCKS_EACH;
    int64_t each = ROOM / bytes < MOST_ROWS ? ROOM / bytes : MOST_ROWS;
    each = each < ni_divide_up(x->rows, busy) ? each : ni_divide_up(x->rows, busy);
    each = each > 1 ? each : 1;
    const split_list eight = {s->of_eight.at, (int)s->of_eight.count}, four = {s->of_four.at, (int)s->of_four.count};
    const split_work w = {x->data,        x->rows,         x->cols,   x->stride, eight,  four,
                          (int)s->eights, (int)s->doubles, (int)each, s->eight,  s->four};
    const unsigned grid = (unsigned)ni_divide_up(x->rows, each);
    if (x->rows == 0)
        return cudaSuccess;
    if (x->dtype == NB_F32)
        split_rows<float><<<grid, THREADS, (size_t)(each * bytes), (cudaStream_t)stream>>>(w);
    else
        split_rows<uint16_t><<<grid, THREADS, (size_t)(each * bytes), (cudaStream_t)stream>>>(w);
    return cudaGetLastError();
}
