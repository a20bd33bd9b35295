/* quantize_vector.cu: one FP32 scale a row or a tensor, from BF16 or FP32 numbers straight into codes and values, rounded
 * to nearest or up.
 *
 *     a scale a tensor            every thread takes eight numbers, four times
 *     a scale a row of BF16       a warp holds the row in registers, for the formats that recipes have there
 *     any other row               a block finds the maximum first, and reads again what the first level of the cache holds;
 *                                 of weights, rows of many matrices a launch
 *
 * Bits are those of quantize.cu; E2M1 comes of rounding with constants, 8-bit formats of the GPU's own conversion where it
 * has one.
 */
#include "backend/cuda/list.cuh"
#include "backend/cuda/vector.cuh"

static __device__ ni_eight load_eight(const uint16_t *from) {
    return ni_load_eight(from);
}

static __device__ ni_eight load_eight(const float *from) {
    const float4 a = *(const float4 *)from, b = *(const float4 *)(from + 4);
    return (ni_eight){{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

static __device__ uint32_t largest_of(const ni_eight &e) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        largest = max(largest, ni_f32_magnitude(e.x[i]));
    return largest;
}

/* ---- a scale a tensor, or none ---- */

enum { FLAT_EIGHTS = 4 };

/* `across` eights a row, or all of them in one. */
template <nb_element ELEMENT, nb_rounding ROUND>
static __global__ void __launch_bounds__(NI_THREADS)
    quantize_flat(const uint16_t *from, int64_t stride, uint32_t across, int64_t eights,
                  const __grid_constant__ ni_cuda_vector v) {
    /* the end first: what was written last lies in the cache still, and products begin where this ends */
    const int64_t first = (gridDim.x - 1 - blockIdx.x) * (int64_t)(FLAT_EIGHTS * NI_THREADS) + threadIdx.x;
    uint4 in[FLAT_EIGHTS];
#pragma unroll
    for (int i = 0; i < FLAT_EIGHTS; i++) {
        const int64_t at = first + i * NI_THREADS;
        const uint32_t r = across ? (uint32_t)at / across : 0, c = (uint32_t)at - r * across;
        if (at < eights)
            in[i] = *(const uint4 *)(across ? from + r * stride + 8 * c : from + 8 * at);
    }
    ni_scaling s = {1.0f, 1.0f};
    if (v.quantizer.scale_type == NB_SCALE_F32) {
        s = ni_vector_scaling_of<ELEMENT>(v, *v.amax);
        if (blockIdx.x == 0 && threadIdx.x == 0)
            *v.tensor_scale = s.decode;
    }
#pragma unroll
    for (int i = 0; i < FLAT_EIGHTS; i++)
        if (first + i * NI_THREADS < eights)
            ni_put_eight<ELEMENT, ROUND>(v, 8 * (first + i * NI_THREADS), ni_eight_of(in[i]), s.multiplier, s.decode);
}

template <nb_element ELEMENT, nb_rounding ROUND>
static void launch_flat(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const int64_t eights = s->rows * s->cols / 8;
    quantize_flat<ELEMENT, ROUND><<<(unsigned)ni_divide_up(eights, FLAT_EIGHTS * NI_THREADS), NI_THREADS, 0, on>>>(
        (const uint16_t *)s->numbers, s->stride, s->stride == s->cols ? 0 : (uint32_t)(s->cols / 8), eights, *v);
}

/* ---- a scale a row: a warp each ---- */

enum { WARP_ROWS = 4, MOST_VECTORS = 24 };

/* Lane l's vector i are the eight numbers from column 256 i + 8 l on. */
template <nb_element ELEMENT, nb_rounding ROUND, int VECTORS>
static __global__ void __launch_bounds__(32 * WARP_ROWS)
    quantize_in_warps(const uint16_t *from, int64_t stride, int64_t rows, int cols,
                      const __grid_constant__ ni_cuda_vector v) {
    const int lane = threadIdx.x % 32;
    const int64_t r = blockIdx.x * (int64_t)WARP_ROWS + threadIdx.x / 32;
    uint4 in[VECTORS];
    uint32_t pairs = 0;
    if (r >= rows)
        return;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int c = 256 * i + 8 * lane;
        in[i] = c < cols ? *(const uint4 *)(from + r * stride + c) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        pairs = ni_larger_of_four(pairs, in[i]);
    const uint32_t amax = ni_warp_max(ni_larger_half(pairs));
    const ni_scaling s = ni_vector_scaling_of<ELEMENT>(v, amax);
    if (lane == 0)
        v.row_scales[r] = s.decode;
    if (ELEMENT == NB_ELEMENT_E2M1 && ROUND == NB_ROUND_UP && ni_is_tame_row(amax)) {
        const float multiplier = ni_f32_mul(s.multiplier, NI_UP_FACTOR), inner = v.whole ? s.decode : 1.0f;
        const ni_vector_lane to = ni_vector_lane_of(v, r * cols);
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            if (256 * i + 8 * lane < cols)
                ni_put_eight_up(to, i, in[i], multiplier, inner);
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int c = 256 * i + 8 * lane;
        if (c < cols)
            ni_put_eight<ELEMENT, ROUND>(v, r * cols + c, ni_eight_of(in[i]), s.multiplier, s.decode);
    }
}

template <nb_element ELEMENT, nb_rounding ROUND, int VECTORS>
static void launch_vectors(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    quantize_in_warps<ELEMENT, ROUND, VECTORS><<<(unsigned)ni_divide_up(s->rows, WARP_ROWS), 32 * WARP_ROWS, 0, on>>>(
        (const uint16_t *)s->numbers, s->stride, s->rows, (int)s->cols, *v);
}

template <nb_element ELEMENT, nb_rounding ROUND>
static void launch_in_warps(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const int64_t vectors = ni_divide_up(s->cols, 256);
    if (vectors <= 4)
        launch_vectors<ELEMENT, ROUND, 4>(on, s, v);
    else if (vectors <= 8)
        launch_vectors<ELEMENT, ROUND, 8>(on, s, v);
    else
        launch_vectors<ELEMENT, ROUND, MOST_VECTORS>(on, s, v);
}

/* False: rows are too long, or of a format that no recipe has there. */
static bool quantize_by_warps(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const nb_quantizer *q = &v->quantizer;
    if (s->wide || s->cols > 256 * MOST_VECTORS)
        return false;
    if (q->element == NB_ELEMENT_E2M1)
        q->round == NB_ROUND_UP ? launch_in_warps<NB_ELEMENT_E2M1, NB_ROUND_UP>(on, s, v)
                                : launch_in_warps<NB_ELEMENT_E2M1, NB_ROUND_EVEN>(on, s, v);
    else if (q->element == NB_ELEMENT_E4M3 && q->round == NB_ROUND_EVEN)
        launch_in_warps<NB_ELEMENT_E4M3, NB_ROUND_EVEN>(on, s, v);
    else
        return false;
    return true;
}

/* ---- a block a row ---- */

/* The maximum of a row, for all threads of its block. */
template <typename T> static __device__ uint32_t amax_of_row(const T *row, int64_t cols) {
    __shared__ uint32_t parts[NI_THREADS / 32];
    uint32_t largest = 0;
    for (int64_t c = 8 * threadIdx.x; c < cols; c += 8 * blockDim.x)
        largest = max(largest, largest_of(load_eight(row + c)));
    largest = ni_warp_max(largest);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = largest;
    __syncthreads();
    for (unsigned i = 0; i < blockDim.x / 32; i++)
        largest = max(largest, parts[i]);
    return largest;
}

template <typename T, nb_element ELEMENT, nb_rounding ROUND>
static __device__ void quantize_row(const T *row, int64_t r, int64_t cols, const ni_cuda_vector &v) {
    ni_scaling s = {1.0f, 1.0f};
    if (v.quantizer.scale_type == NB_SCALE_F32) {
        s = ni_vector_scaling_of<ELEMENT>(v, v.amax ? *v.amax : amax_of_row(row, cols));
        if (threadIdx.x == 0 && !v.amax)
            v.row_scales[r] = s.decode;
        else if (threadIdx.x == 0 && r == 0)
            *v.tensor_scale = s.decode;
    }
    for (int64_t c = 8 * threadIdx.x; c < cols; c += 8 * blockDim.x)
        ni_put_eight<ELEMENT, ROUND>(v, r * cols + c, load_eight(row + c), s.multiplier, s.decode);
}

template <typename T, nb_element ELEMENT, nb_rounding ROUND>
static __global__ void __launch_bounds__(NI_THREADS)
    quantize_rows(const T *from, int64_t stride, int64_t cols, const __grid_constant__ ni_cuda_vector v) {
    quantize_row<T, ELEMENT, ROUND>(from + blockIdx.x * stride, blockIdx.x, cols, v);
}

template <typename T, nb_element ELEMENT, nb_rounding ROUND>
static void launch_rows(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const unsigned threads = s->cols >= 8 * NI_THREADS ? NI_THREADS
                             : s->cols > 8 * 64        ? 128
                                                       : 64,
                   grid = (unsigned)s->rows;
    quantize_rows<T, ELEMENT, ROUND><<<grid, threads, 0, on>>>((const T *)s->numbers, s->stride, s->cols, *v);
}

/* ---- which of them ---- */

template <nb_element ELEMENT, nb_rounding ROUND>
static void launch(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const bool rows = v->quantizer.scale_type == NB_SCALE_F32 && !v->amax;
    if (!s->wide && !rows && s->rows * s->cols / 8 <= INT32_MAX)
        launch_flat<ELEMENT, ROUND>(on, s, v);
    else if (!rows || !quantize_by_warps(on, s, v))
        s->wide ? launch_rows<float, ELEMENT, ROUND>(on, s, v) : launch_rows<uint16_t, ELEMENT, ROUND>(on, s, v);
}

template <nb_element ELEMENT>
static void launch_element(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    v->quantizer.round == NB_ROUND_UP ? launch<ELEMENT, NB_ROUND_UP>(on, s, v)
                                      : launch<ELEMENT, NB_ROUND_EVEN>(on, s, v);
}

int ni_cuda_quantize_vector(void *stream, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    cudaStream_t on = (cudaStream_t)stream;
    switch (v->quantizer.element) {
    case NB_ELEMENT_E2M1:
        launch_element<NB_ELEMENT_E2M1>(on, s, v);
        break;
    case NB_ELEMENT_INT4:
        launch_element<NB_ELEMENT_INT4>(on, s, v);
        break;
    case NB_ELEMENT_E4M3:
        launch_element<NB_ELEMENT_E4M3>(on, s, v);
        break;
    default:
        launch_element<NB_ELEMENT_E5M2>(on, s, v);
        break;
    }
    return cudaGetLastError();
}

/* ---- weights: rows of many matrices a launch ---- */

enum { LISTED_THREADS = 128, LISTED_ROWS = 4 /* of a block */ };

typedef struct listed_rows {
    const float *from;
    uint16_t *values;
    uint8_t *bytes, *codes;
    float *row_scales;
    int64_t stride;
    uint32_t rows, cols, first_block;
    nb_scale_rule rule;
    bool whole;
} listed_rows;

typedef struct row_list {
    listed_rows at[NI_CUDA_LIST_MOST];
    int count;
    uint32_t blocks;
} row_list;

template <nb_rounding ROUND>
static __global__ void __launch_bounds__(LISTED_THREADS) quantize_many_rows(const __grid_constant__ row_list list) {
    const listed_rows &l = list.at[ni_listed(list, &listed_rows::first_block)];
    const uint32_t first = (blockIdx.x - l.first_block) * LISTED_ROWS;
    ni_cuda_vector v = {};
    v.quantizer.scale_type = NB_SCALE_F32;
    v.quantizer.rule = l.rule;
    v.values = l.values;
    v.bytes = l.bytes;
    v.codes = l.codes;
    v.row_scales = l.row_scales;
    v.whole = l.whole;
    for (uint32_t r = first; r < l.rows && r < first + LISTED_ROWS; r++) {
        quantize_row<float, NB_ELEMENT_E2M1, ROUND>(l.from + r * l.stride, r, l.cols, v);
        __syncthreads(); /* what the row's maximum was found in is the next one's */
    }
}

static int launch_row_list(cudaStream_t on, row_list *list, nb_rounding round) {
    if (list->blocks && round == NB_ROUND_UP)
        quantize_many_rows<NB_ROUND_UP><<<list->blocks, LISTED_THREADS, 0, on>>>(*list);
    else if (list->blocks)
        quantize_many_rows<NB_ROUND_EVEN><<<list->blocks, LISTED_THREADS, 0, on>>>(*list);
    list->count = 0;
    list->blocks = 0;
    return cudaGetLastError();
}

int ni_cuda_quantize_many_rows(void *stream, const ni_cuda_double_source *s, const ni_cuda_vector *v, int count) {
    cudaStream_t on = (cudaStream_t)stream;
    row_list list = {};
    int code = cudaSuccess;
    for (int i = 0; i < count && !code; i++) {
        if (list.count == NI_CUDA_LIST_MOST || (i && v[i].quantizer.round != v[i - 1].quantizer.round) ||
            list.blocks + ni_divide_up(s[i].rows, LISTED_ROWS) > INT32_MAX)
            code = launch_row_list(on, &list, v[i - 1].quantizer.round);
        listed_rows l = {};
        l.from = (const float *)s[i].numbers;
        l.values = v[i].values;
        l.bytes = v[i].bytes;
        l.codes = v[i].codes;
        l.row_scales = v[i].row_scales;
        l.stride = s[i].stride;
        l.cols = (uint32_t)s[i].cols;
        l.rows = (uint32_t)s[i].rows;
        l.first_block = list.blocks;
        l.rule = v[i].quantizer.rule;
        l.whole = v[i].whole;
        list.at[list.count++] = l;
        list.blocks += (uint32_t)ni_divide_up(s[i].rows, LISTED_ROWS);
    }
    return code || !count ? code : launch_row_list(on, &list, v[count - 1].quantizer.round);
}

/* ---- and back: four bits under a scale a row ---- */

enum { DECODED_EIGHTS = 4 };

typedef struct decoded_rows {
    uint16_t *to;
    const uint8_t *codes;
    const float *scales;
    int64_t stride, eights;
    uint32_t across, first_block;
} decoded_rows;

typedef struct decode_list {
    decoded_rows at[NI_CUDA_LIST_MOST];
    int count;
    uint32_t blocks;
} decode_list;

static __global__ void __launch_bounds__(NI_THREADS) decode_many_rows(const __grid_constant__ decode_list list) {
    const int which = ni_listed(list, &decoded_rows::first_block);
    const decoded_rows &t = list.at[which];
    const int64_t first = (int64_t)(blockIdx.x - t.first_block) * (DECODED_EIGHTS * NI_THREADS) + threadIdx.x;
    uint32_t codes[DECODED_EIGHTS];
#pragma unroll
    for (int i = 0; i < DECODED_EIGHTS; i++)
        codes[i] = first + i * NI_THREADS < t.eights ? ((const uint32_t *)t.codes)[first + i * NI_THREADS] : 0;
#pragma unroll
    for (int i = 0; i < DECODED_EIGHTS; i++) {
        const int64_t at = first + i * NI_THREADS;
        if (at >= t.eights)
            return;
        const uint32_t r = (uint32_t)at / t.across, c = ((uint32_t)at - r * t.across) * 8;
        const float scale = t.scales[r];
        ni_eight e;
#pragma unroll
        for (int k = 0; k < 8; k++)
            e.x[k] = ni_f32_mul(ni_element_value(NB_ELEMENT_E2M1, codes[i] >> (4 * k) & 15u), scale);
        ni_store_eight(t.to + r * t.stride + c, e);
    }
}

static int launch_decode_list(cudaStream_t on, decode_list *list) {
    if (list->blocks)
        decode_many_rows<<<list->blocks, NI_THREADS, 0, on>>>(*list);
    list->count = 0;
    list->blocks = 0;
    return cudaGetLastError();
}

int ni_cuda_decode_rows(void *stream, const nb_mat *out, const nb_qtensor *from, int count) {
    decode_list list = {};
    int code = cudaSuccess;
    for (int i = 0; i < count && !code; i++) {
        decoded_rows t = {};
        t.to = (uint16_t *)out[i].data;
        t.codes = from[i].codes;
        t.scales = from[i].outer_scales;
        t.stride = out[i].stride;
        t.across = (uint32_t)(from[i].cols / 8);
        t.eights = from[i].rows * t.across;
        t.first_block = list.blocks;
        list.at[list.count++] = t;
        list.blocks += (uint32_t)ni_divide_up(t.eights, DECODED_EIGHTS * NI_THREADS);
        if (list.count == NI_CUDA_LIST_MOST)
            code = launch_decode_list((cudaStream_t)stream, &list);
    }
    return code ? code : launch_decode_list((cudaStream_t)stream, &list);
}

/* ---- with what was clamped off: a warp a row ----
 *
 * Under one scale a code is one of eight magnitudes, in BF16: their lower and their upper bytes are a table of two words
 * each, of which PRMT picks four at a time. */

typedef struct row_table {
    uint32_t low[2], high[2];
} row_table;

static __device__ uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
    return bytes;
}

static __device__ row_table table_of(float scale) {
    const uint32_t pairs[4] = {ni_pack_two(ni_f32_mul(0.0f, scale), ni_f32_mul(0.5f, scale)),
                               ni_pack_two(scale, ni_f32_mul(1.5f, scale)),
                               ni_pack_two(ni_f32_mul(2.0f, scale), ni_f32_mul(3.0f, scale)),
                               ni_pack_two(ni_f32_mul(4.0f, scale), ni_f32_mul(6.0f, scale))};
    row_table t;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        t.low[i] = pick_bytes(pairs[2 * i], pairs[2 * i + 1], 0x6420);
        t.high[i] = pick_bytes(pairs[2 * i], pairs[2 * i + 1], 0x7531);
    }
    return t;
}

/* Numbers 2 i and 2 i + 1 of four: their bytes, and the signs of codes 2 j and 2 j + 1 of a word, whose bits are the
 * uppermost of byte j of the word shifted by a code and of the word. */
template <int I, int J> static __device__ uint32_t pair_of_codes(uint32_t low, uint32_t high, uint32_t word) {
    constexpr uint32_t SIGNS = 0xc080u + 0x1010u * J;
    return pick_bytes(low, high, I ? 0x7362u : 0x5140u) ^ (pick_bytes(word << 4, word, SIGNS) & NI_PAIR_SIGNS);
}

static __device__ uint4 eight_of_codes(const row_table &t, uint32_t word) {
    const uint32_t first = word & 0x7777u, second = word >> 16 & 0x7777u;
    const uint32_t low = pick_bytes(t.low[0], t.low[1], first), high = pick_bytes(t.high[0], t.high[1], first),
                   later_low = pick_bytes(t.low[0], t.low[1], second),
                   later_high = pick_bytes(t.high[0], t.high[1], second);
    return make_uint4(pair_of_codes<0, 0>(low, high, word), pair_of_codes<1, 1>(low, high, word),
                      pair_of_codes<0, 2>(later_low, later_high, word),
                      pair_of_codes<1, 3>(later_low, later_high, word));
}

/* INT4 in two's complement: 2^23 + 8 + the number is a float. */
static __device__ uint4 eight_of_ints(float scale, uint32_t word) {
    ni_eight e;
#pragma unroll
    for (int k = 0; k < 8; k++)
        e.x[k] = ni_f32_mul(__uint_as_float(0x4b000000u | ((word >> 4 * k & 15u) ^ 8u)) - 8388616.0f, scale);
    return ni_word_of(e);
}

template <nb_element ELEMENT>
static __global__ void __launch_bounds__(NI_THREADS)
    decode_with_rest(const __grid_constant__ nb_mat out, const __grid_constant__ nb_qtensor t,
                     const __grid_constant__ ni_sparse s) {
    const int lane = threadIdx.x % 32;
    const int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32;
    if (r >= t.rows)
        return;
    const uint8_t *codes = t.codes + r * (t.cols / 2);
    const float scale = t.outer_scales[r];
    const int count = s.count[r], eights = (int)(t.cols / 8);
    const row_table table = table_of(scale);
    uint16_t *to = (uint16_t *)out.data + r * out.stride;
    for (int first = lane; first < eights; first += 32 * DECODED_EIGHTS) {
        uint32_t words[DECODED_EIGHTS];
#pragma unroll
        for (int i = 0; i < DECODED_EIGHTS; i++)
            words[i] = first + 32 * i < eights ? ((const uint32_t *)codes)[first + 32 * i] : 0;
#pragma unroll
        for (int i = 0; i < DECODED_EIGHTS; i++)
            if (first + 32 * i < eights)
                ni_store_words(ni_global(to + 8 * (first + 32 * i)), ELEMENT == NB_ELEMENT_INT4
                                                                         ? eight_of_ints(scale, words[i])
                                                                         : eight_of_codes(table, words[i]));
    }
    __syncwarp(); /* an entry is written over what another lane wrote */
    for (int i = lane; i < count; i += 32) {
        const int64_t at = r * s.room + i;
        const uint32_t c = (uint32_t)s.column[at], code = codes[c / 2] >> (4 * (c % 2)) & 15u;
        const float decoded = ni_bf16_round(ni_f32_mul(ni_element_value(ELEMENT, code), scale));
        to[c] = ni_bf16_even(ni_f32_add(decoded, ni_bf16_value(s.value[at])));
    }
}

int ni_cuda_launch_decode_with_rest(void *stream, const nb_mat *out, const nb_qtensor *from, const ni_sparse *s) {
    (from->quantizer.element == NB_ELEMENT_INT4
         ? decode_with_rest<NB_ELEMENT_INT4>
         : decode_with_rest<
               NB_ELEMENT_E2M1>)<<<(unsigned)ni_divide_up(from->rows, NI_WARPS), NI_THREADS, 0, (cudaStream_t)stream>>>(
        *out, *from, *s);
    return cudaGetLastError();
}
