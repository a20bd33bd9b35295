/* quantize_stats.cu: what a quantization did: counts are exact, sums are over an order that the shape alone decides.
 * Threads' sums are added in a tree over their index, and so are blocks' by one block more.
 *
 *     any codes     against what was quantized, in FP32: a block a band of 16 rows, sums in double
 *     tiles         codes that quantize_tile.cu made, against its BF16 source: a thread a scale block, which turns its
 *                   numbers once more where they were turned. The 16 numbers of a block are added up in FP32, where
 *                   their squares are far from its ends, and blocks in double
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/sixteen.cuh"

enum { THREADS = 256, CHUNK_ROWS = 16, MOST_BLOCKS = NI_CUDA_STATS_PARTS };

/* ---- one number ---- */

static __device__ float saturation_limit(float largest, float scale) {
    scale = ni_f32_abs(scale);
    return scale > 0.0f ? ni_f32_mul(ni_f32_mul(largest, scale), 1.0f + 0x1p-20f) : ni_f32_from(NI_F32_INF_BITS);
}

/* Of a thread; 32 bits hold its share. */
typedef struct counted {
    uint32_t amax, nonzero, flushed, saturated, zero_scales;
    double sum_sq, sum_sq_error, sum_product;
} counted;

static __device__ void count(counted *s, float x, float back, float limit) {
    const uint32_t magnitude = ni_f32_magnitude(x);
    const double wide = x, decoded = back, error = wide - decoded;
    s->amax = max(s->amax, magnitude);
    s->nonzero += magnitude != 0;
    s->flushed += magnitude != 0 && ni_f32_magnitude(back) == 0;
    s->saturated += ni_f32_abs(x) > limit;
    s->sum_sq += wide * wide;
    s->sum_sq_error += error * error;
    s->sum_product += wide * decoded;
}

/* ---- sums of threads, and of blocks ---- */

static __device__ void join(nb_quantize_stats *a, const nb_quantize_stats &b) {
    a->amax = b.amax > a->amax || isnan(b.amax) ? b.amax : a->amax; /* a NaN is the largest */
    a->nonzero += b.nonzero;
    a->flushed += b.flushed;
    a->saturated += b.saturated;
    a->zero_scales += b.zero_scales;
    a->sum_sq += b.sum_sq;
    a->sum_sq_error += b.sum_sq_error;
    a->sum_product += b.sum_product;
}

/* Over lanes, then over warps: for thread 0. */
static __device__ void leave_total(nb_quantize_stats *out, const counted &c) {
    __shared__ nb_quantize_stats warps[THREADS / 32];
    nb_quantize_stats mine = {};
    mine.amax = (double)ni_f32_from(ni_warp_max(c.amax));
    mine.nonzero = __reduce_add_sync(~0u, c.nonzero);
    mine.flushed = __reduce_add_sync(~0u, c.flushed);
    mine.saturated = __reduce_add_sync(~0u, c.saturated);
    mine.zero_scales = __reduce_add_sync(~0u, c.zero_scales);
    mine.sum_sq = ni_warp_sum(c.sum_sq);
    mine.sum_sq_error = ni_warp_sum(c.sum_sq_error);
    mine.sum_product = ni_warp_sum(c.sum_product);
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (int i = 1; i < THREADS / 32; i++)
        join(&mine, warps[i]);
    *out = mine;
}

static __global__ void total_of_parts(nb_quantize_stats *total, const nb_quantize_stats *parts, int64_t count,
                                      int64_t elements, int64_t blocks) {
    __shared__ nb_quantize_stats of[THREADS];
    nb_quantize_stats mine = {};
    for (int64_t i = threadIdx.x; i < count; i += THREADS)
        join(&mine, parts[i]);
    of[threadIdx.x] = mine;
    for (unsigned stride = THREADS / 2; stride; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride)
            join(&of[threadIdx.x], of[threadIdx.x + stride]);
    }
    if (threadIdx.x != 0)
        return;
    of[0].elements = elements;
    of[0].blocks = blocks;
    *total = of[0];
}

/* ---- a block of 16: rounding keeps signs, so magnitudes tell everything ---- */

typedef struct coded_block {
    uint2 codes;
    float scale;
    uint8_t byte;
} coded_block;

static __device__ float scale_of_tensor(const nb_qtensor &t) {
    return t.tensor_scale ? *t.tensor_scale : 1.0f;
}

static __device__ coded_block block_of(uint2 codes, uint8_t byte, float of_tensor) {
    return {codes, ni_f32_mul(ni_e4m3_value(byte), of_tensor), byte};
}

static __device__ coded_block block_at(const nb_qtensor &t, int64_t block, float of_tensor) {
    return block_of(((const uint2 *)t.codes)[block], t.scales[block], of_tensor);
}

/* Bytes of a and b by the nibbles of a selector; with 8 added eight times the sign of that byte. (__byte_perm leaves the
 * 8 out.) */
static __device__ uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
    return bytes;
}

/* Of eight codes: the upper two bytes of their values, and then those values. */
static __device__ void magnitudes_of(float *q, uint32_t codes) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t which = (codes & 0x77777777u) >> 16 * half;
        const uint32_t first = pick_bytes(0x3f3f3f00u, 0x40404040u, which),
                       second = pick_bytes(0xc0800000u, 0xc0804000u, which);
#pragma unroll
        for (int i = 0; i < 4; i++)
            q[4 * half + i] = __uint_as_float(pick_bytes(first, second, 0x0488u + 0x1100u * i));
    }
}

/* One bit a code that is not zero. */
static __device__ uint32_t nonzero_codes(uint32_t codes) {
    return (codes & 0x77777777u) + 0x77777777u & 0x88888888u;
}

/* Squares of such numbers are far from the ends of FP32. */
static __device__ bool is_near_one(float x) {
    return x >= 0x1p-50f && x <= 0x1p40f;
}

static __device__ void add_errors(counted *s, const float *x, const float *q, float scale) {
    float squares = 0, errors = 0, products = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float back = ni_f32_mul(q[i], scale), error = ni_f32_sub(x[i], back);
        squares = __fmaf_rn(x[i], x[i], squares);
        errors = __fmaf_rn(error, error, errors);
        products = __fmaf_rn(x[i], back, products);
    }
    s->sum_sq += (double)squares;
    s->sum_sq_error += (double)errors;
    s->sum_product += (double)products;
}

static __device__ void add_wide_errors(counted *s, const float *x, const float *q, float scale) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const double wide = x[i], back = ni_f32_mul(q[i], scale), error = wide - back;
        s->sum_sq += wide * wide;
        s->sum_sq_error += error * error;
        s->sum_product += wide * back;
        s->saturated -= x[i] != x[i]; /* count_pairs took a NaN for a large number */
    }
}

/* But for what count_pairs counts; `amax`: the bits of the largest of x [16]. */
static __device__ void count_block(counted *s, const float *x, uint32_t amax, const coded_block &b) {
    float q[16];
    magnitudes_of(q, b.codes.x);
    magnitudes_of(q + 8, b.codes.y);
    s->amax = max(s->amax, amax);
    s->zero_scales += b.byte == 0 && amax != 0;
    s->flushed -= __popc(nonzero_codes(b.codes.x) | nonzero_codes(b.codes.y) >> 1); /* a number 0 has the code 0 */
    if (amax == 0 || (is_near_one(ni_f32_from(amax)) && b.scale <= 0x1p40f))
        add_errors(s, x, q, b.scale);
    else
        add_wide_errors(s, x, q, b.scale);
}

/* ---- any codes ---- */

/* Blocks with something in them whose scale byte is 0; a tile of 16x16 counts once. */
static __device__ uint32_t zero_scales(const nb_qtensor &t, const float *x, int64_t r0, int64_t rows) {
    uint32_t found = 0;
    const int64_t tile = t.quantizer.block_rows;
    if (t.quantizer.scale_type != NB_SCALE_E4M3)
        return 0;
    for (int64_t b = threadIdx.x; b < (rows + tile - 1) / tile * (t.cols / 16); b += blockDim.x) {
        int64_t r = r0 + b / (t.cols / 16) * tile, c = b % (t.cols / 16) * 16;
        uint32_t any = 0;
        if (t.scales[r * (t.cols / 16) + c / 16])
            continue;
        for (int64_t i = r; i < r + tile && i < r0 + rows; i++)
            for (int64_t k = c; k < c + 16; k++)
                any |= ni_f32_magnitude(x[i * t.cols + k]);
        found += any != 0;
    }
    return found;
}

/* Of 16 neighbours at a time, in E2M1 under a byte of E4M3 each; a thread some of so many rows. */
static __device__ void count_sixteens(counted *s, const nb_qtensor &t, const float *x, int64_t r0, int64_t rows) {
    const float of_tensor = scale_of_tensor(t);
    const int64_t first = r0 * (t.cols / 16);
    for (int i = threadIdx.x; i < (int)(rows * (t.cols / 16)); i += THREADS) {
        const coded_block b = block_at(t, first + i, of_tensor);
        const float limit = saturation_limit(6.0f, b.scale);
        float numbers[16], q[16];
        ni_load_sixteen(numbers, x + (first + i) * 16);
        magnitudes_of(q, b.codes.x);
        magnitudes_of(q + 8, b.codes.y);
#pragma unroll
        for (int k = 0; k < 16; k++)
            count(s, ni_f32_abs(numbers[k]), ni_f32_mul(q[k], b.scale), limit);
    }
}

static __device__ bool are_sixteens(const nb_qtensor &t, const float *x) {
    return t.quantizer.element == NB_ELEMENT_E2M1 && t.quantizer.scale_type == NB_SCALE_E4M3 && !t.outer_scales &&
           t.cols % 16 == 0 && (uintptr_t)t.codes % 8 == 0 && (uintptr_t)x % 16 == 0;
}

static __global__ void __launch_bounds__(THREADS)
    stats_of_chunk(nb_quantize_stats *chunks, nb_qtensor t, const float *x) {
    const int64_t r0 = (int64_t)blockIdx.x * CHUNK_ROWS, rows = t.rows - r0 < CHUNK_ROWS ? t.rows - r0 : CHUNK_ROWS;
    const float largest = ni_element_max(t.quantizer.element);
    const bool sixteens = are_sixteens(t, x);
    counted mine = {};
    if (sixteens)
        count_sixteens(&mine, t, x, r0, rows);
    for (int64_t i = threadIdx.x; !sixteens && i < rows * t.cols; i += blockDim.x) {
        const int64_t r = r0 + i / t.cols, c = i % t.cols;
        count(&mine, x[r0 * t.cols + i], ni_decoded(t, r, c, true),
              saturation_limit(largest, ni_scale_of(t, r, c, true)));
    }
    mine.zero_scales = zero_scales(t, x, r0, rows);
    leave_total(&chunks[blockIdx.x], mine);
}

int ni_cuda_quantize_stats(void *stream, nb_quantize_stats *total, nb_quantize_stats *chunks, const nb_qtensor *t,
                           int64_t blocks, const float *x) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t bands = (t->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (bands > 0)
        stats_of_chunk<<<(unsigned)bands, THREADS, 0, on>>>(chunks, *t, x);
    total_of_parts<<<1, THREADS, 0, on>>>(total, chunks, bands, t->rows * t->cols, blocks);
    return cudaGetLastError();
}

/* ---- magnitudes in pairs of BF16 numbers ---- */

/* What a magnitude may be, as BF16; halves of one pair may be of two blocks. */
static __device__ uint32_t limit_of(const coded_block &b) {
    return __float_as_uint(saturation_limit(6.0f, b.scale)) >> 16;
}

template <int PAIRS> static __device__ uint32_t largest_pair(const uint32_t *pairs) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
        largest = __vmaxu2(largest, pairs[i]);
    return largest;
}

/* How many are not 0, and how many lie beyond their limits. */
template <int PAIRS> static __device__ void count_pairs(counted *s, const uint32_t *pairs, uint32_t limits) {
    const uint32_t room = NI_PAIR_MAGNITUDE - limits;
    uint32_t least = NI_PAIR_MAGNITUDE, beyond = 0, nonzero = 2 * PAIRS;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        least = __vminu2(least, pairs[i]);
        beyond = beyond >> 1 | (pairs[i] + room & NI_PAIR_SIGNS);
    }
    if ((least & 0xffffu) == 0 || least >> 16 == 0) {
        nonzero = 0;
#pragma unroll
        for (int i = 0; i < PAIRS; i++)
            nonzero += ((pairs[i] & 0xffffu) != 0) + (pairs[i] >> 16 != 0);
    }
    s->nonzero += nonzero;
    s->flushed += nonzero; /* but for those whose codes are not zero: count_block */
    s->saturated += __popc(beyond);
}

/* ---- tiles ---- */

/* Blocks along the rows of the source: 16 neighbours a thread. */
static __global__ void __launch_bounds__(THREADS)
    count_rows(nb_quantize_stats *parts, ni_cuda_tile_source s, nb_qtensor t) {
    const int64_t across = s.cols / 16, blocks = s.rows * across, step = (int64_t)gridDim.x * THREADS;
    const float of_tensor = scale_of_tensor(t);
    counted mine = {};
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < blocks; i += step) {
        const int64_t at = s.stride == s.cols ? 16 * i : i / across * s.stride + i % across * 16;
        const uint4 in[2] = {((const uint4 *)(s.numbers + at))[0], ((const uint4 *)(s.numbers + at))[1]};
        uint32_t pairs[8] = {in[0].x, in[0].y, in[0].z, in[0].w, in[1].x, in[1].y, in[1].z, in[1].w};
        const coded_block block = block_at(t, i, of_tensor);
        float x[16];
#pragma unroll
        for (int k = 0; k < 8; k++) {
            pairs[k] &= NI_PAIR_MAGNITUDE;
            x[2 * k] = ni_low_of(pairs[k]);
            x[2 * k + 1] = ni_high_of(pairs[k]);
        }
        count_pairs<8>(&mine, pairs, limit_of(block) * 0x00010001u);
        count_block(&mine, x, ni_larger_half(largest_pair<8>(pairs)), block);
    }
    leave_total(&parts[blockIdx.x], mine);
}

/* How numbers were turned before they were quantized: not, or under TransformerEngine's signs and rounded to BF16. */
enum { AS_IT_IS, TURNED, ANYHOW };

/* Sixteen pairs, whose halves are two columns. */
static __device__ void turn_pairs(uint32_t *pairs) {
    float low[16], high[16];
#pragma unroll
    for (int r = 0; r < 16; r++) {
        const bool minus = NI_FIXED_SIGNS >> r & 1u;
        low[r] = minus ? -ni_low_of(pairs[r]) : ni_low_of(pairs[r]);
        high[r] = minus ? -ni_high_of(pairs[r]) : ni_high_of(pairs[r]);
    }
    ni_rotate_sixteen(low);
    ni_rotate_sixteen(high);
#pragma unroll
    for (int r = 0; r < 16; r++)
        pairs[r] = ni_pack_two(ni_f32_mul(low[r], 0.25f), ni_f32_mul(high[r], 0.25f));
}

/* As rotate of quantize.cu: signs, stages, factor, rounding. */
static __device__ void turn(float x[16], const nb_quantizer &q, uint32_t signs) {
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = signs >> i & 1u ? -x[i] : x[i];
    ni_rotate_sixteen(x);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        x[i] = ni_f32_mul(x[i], 0.25f);
        x[i] = q.hadamard_round_bf16 ? ni_bf16_round(x[i]) : x[i];
    }
}

static __device__ void count_turned(counted *s, const uint32_t *pairs, bool second, const coded_block &b,
                                    const nb_quantizer &quantizer, uint32_t signs) {
    float x[16], q[16];
    uint32_t any = 0;
    magnitudes_of(q, b.codes.x);
    magnitudes_of(q + 8, b.codes.y);
#pragma unroll
    for (int r = 0; r < 16; r++)
        x[r] = second ? ni_high_of(pairs[r]) : ni_low_of(pairs[r]);
    turn(x, quantizer, signs);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        any |= ni_f32_magnitude(x[i]);
        count(s, ni_f32_abs(x[i]), ni_f32_mul(q[i], b.scale), saturation_limit(6.0f, b.scale));
    }
    s->zero_scales += b.byte == 0 && any != 0;
}

/* Four blocks of a column, one below the other: their bytes, and the codes of two of them. A lane's are far from its
 * neighbours', so it reads as few times as it can, if they are ALIGNED. */
typedef struct blocks_below {
    uint32_t bytes;
    uint2 codes[2];
} blocks_below;

enum { BANDS = 4 };

static __device__ bool are_aligned(const nb_qtensor &t) {
    return t.cols % (16 * BANDS) == 0 && (uintptr_t)t.codes % 16 == 0 && (uintptr_t)t.scales % 4 == 0;
}

static __device__ void read_bytes(blocks_below *b, const nb_qtensor &t, int64_t block, uint32_t count, bool aligned) {
    b->bytes = aligned ? *(const uint32_t *)(t.scales + block) : 0;
    for (uint32_t i = 0; !aligned && i < count; i++)
        b->bytes |= (uint32_t)t.scales[block + i] << 8 * i;
}

static __device__ void read_codes(blocks_below *b, const nb_qtensor &t, int64_t block, uint32_t count, bool aligned) {
    const uint2 *const from = (const uint2 *)t.codes + block;
    if (aligned) {
        const uint4 both = *(const uint4 *)from;
        b->codes[0] = make_uint2(both.x, both.y);
        b->codes[1] = make_uint2(both.z, both.w);
        return;
    }
    b->codes[0] = from[0];
    if (count > 1)
        b->codes[1] = from[1];
}

/* Block i of them. */
static __device__ coded_block block_below(const blocks_below &b, uint32_t i, float of_tensor) {
    return block_of(i % 2 ? b.codes[1] : b.codes[0], (uint8_t)(b.bytes >> 8 * i), of_tensor);
}

/* Blocks down its columns: 16 numbers of two columns a thread, four times. */
template <int HOW>
static __global__ void __launch_bounds__(THREADS)
    count_columns(nb_quantize_stats *parts, ni_cuda_tile_source s, nb_qtensor t, ni_cuda_noise noise) {
    const uint32_t across = (uint32_t)(s.cols / 2), down = (uint32_t)(s.rows / 16),
                   units = (down + BANDS - 1) / BANDS * across;
    const float of_tensor = scale_of_tensor(t);
    const bool aligned = are_aligned(t);
    const ni_noise_key key = ni_tile_noise(noise);
    const uint32_t signs = HOW == ANYHOW ? ni_signs_of(t.quantizer.hadamard_signs, &key).w[0] : 0;
    counted mine = {};
    for (uint32_t unit = blockIdx.x * THREADS + threadIdx.x; unit < units; unit += gridDim.x * THREADS) {
        const uint32_t first = unit / across * BANDS, c = unit % across * 2, end = min(first + BANDS, down);
        blocks_below below[2];
        for (int64_t i = 0; i < 2; i++)
            read_bytes(&below[i], t, (c + i) * down + first, end - first, aligned);
        for (uint32_t band = first; band < end; band++) {
            uint32_t pairs[16];
#pragma unroll
            for (int r = 0; r < 16; r++)
                pairs[r] = *(const uint32_t *)(s.numbers + ((int64_t)16 * band + r) * s.stride + c);
            if (band % 2 == first % 2)
                for (int64_t i = 0; i < 2; i++)
                    read_codes(&below[i], t, (c + i) * down + band, end - band, aligned);
            const coded_block blocks[2] = {block_below(below[0], band - first, of_tensor),
                                           block_below(below[1], band - first, of_tensor)};
            if (HOW == ANYHOW) {
                for (int second = 0; second < 2; second++)
                    count_turned(&mine, pairs, second, blocks[second], t.quantizer, signs);
                continue;
            }
            if (HOW == TURNED)
                turn_pairs(pairs);
#pragma unroll
            for (int r = 0; r < 16; r++)
                pairs[r] &= NI_PAIR_MAGNITUDE;
            count_pairs<16>(&mine, pairs, limit_of(blocks[0]) | limit_of(blocks[1]) << 16);
            const uint32_t largest = largest_pair<16>(pairs);
#pragma unroll
            for (int second = 0; second < 2; second++) {
                float x[16];
#pragma unroll
                for (int r = 0; r < 16; r++)
                    x[r] = second ? ni_high_of(pairs[r]) : ni_low_of(pairs[r]);
                count_block(&mine, x, second ? largest & 0xffff0000u : largest << 16, blocks[second]);
            }
        }
    }
    leave_total(&parts[blockIdx.x], mine);
}

static int how_turned(const nb_quantizer *q) {
    if (q->hadamard_size == 0)
        return AS_IT_IS;
    return q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16 ? TURNED : ANYHOW;
}

int ni_cuda_tile_stats(void *stream, nb_quantize_stats *total, nb_quantize_stats *parts, const ni_cuda_tile_source *s,
                       const nb_qtensor *t, int64_t blocks, bool down, const ni_cuda_noise *noise) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t work = s->rows * s->cols / (down ? 128 : 16), wanted = (work + THREADS - 1) / THREADS;
    const unsigned grid = (unsigned)(wanted < 1 ? 1 : wanted < MOST_BLOCKS ? wanted : MOST_BLOCKS);
    const int how = how_turned(&t->quantizer);
    if (!down)
        count_rows<<<grid, THREADS, 0, on>>>(parts, *s, *t);
    else if (how == AS_IT_IS)
        count_columns<AS_IT_IS><<<grid, THREADS, 0, on>>>(parts, *s, *t, *noise);
    else if (how == TURNED)
        count_columns<TURNED><<<grid, THREADS, 0, on>>>(parts, *s, *t, *noise);
    else
        count_columns<ANYHOW><<<grid, THREADS, 0, on>>>(parts, *s, *t, *noise);
    total_of_parts<<<1, THREADS, 0, on>>>(total, parts, grid, t->rows * t->cols, blocks);
    return cudaGetLastError();
}
