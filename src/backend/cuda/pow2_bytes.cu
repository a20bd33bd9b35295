/* pow2_bytes.cu: see pow2_bytes.h. */
#include "backend/cuda/pow2_bytes.h"

#include "backend/cuda/byte_tile.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/list.cuh"
#include "backend/cuda/vector.cuh"
#include "format/vector_scales.h"

enum { TOP = 6, SPREAD = 14, NOTHING = INT32_MIN };

/* ---- where things lie ---- */

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

size_t ni_cuda_pow2_room(const nb_quantizer *q, int64_t rows, int64_t cols) {
    const size_t one_way = rounded((size_t)(rows * cols));
    if (q->element != NB_ELEMENT_E2M1)
        return one_way;
    return 2 * one_way + 256 + rounded((size_t)(ni_has_row_scales(q) ? rows : cols) * sizeof(uint32_t));
}

ni_cuda_pow2 ni_cuda_pow2_place(const nb_qtensor *codes, void *room) {
    const size_t one_way = rounded((size_t)(codes->rows * codes->cols));
    ni_cuda_pow2 p = {*codes, codes->codes, (uint8_t *)room, codes->tensor_scale, NULL, NULL};
    if (codes->quantizer.element != NB_ELEMENT_E2M1)
        return p;
    uint32_t *const words = (uint32_t *)(void *)((char *)room + 2 * one_way);
    p.bytes = (uint8_t *)room + one_way;
    p.scale = (float *)words;
    p.wide = words + 1;
    p.list = words + 64;
    return p;
}

/* ---- which vectors are exact ---- */

enum { SCALES_THREADS = 1024 };

/* What the kernels read of an operand. */
typedef struct listed {
    const uint8_t *codes;
    const float *scales;
    uint8_t *bytes, *turned;
    float *scale;
    uint32_t *wide, *list;
    int32_t rows, cols;
    uint32_t first_block;
    bool columns; /* scales are of these */
} listed;

typedef struct operand_list {
    listed at[NI_CUDA_LIST_MOST];
    int count;
    uint32_t blocks;
} operand_list;

static __device__ int vector_count(const listed &l) {
    return l.columns ? l.cols : l.rows;
}

static __device__ bool is_good(float scale) {
    return scale > 0.0f && scale < INFINITY;
}

static __device__ int exponent_of(float scale) {
    return ilogbf(scale);
}

/* Zeros have the scale 1, and so has much else. */
static __device__ bool is_empty(const listed &l, int i) {
    const int64_t across = l.cols / 2;
    if (l.columns) {
        for (int r = 0; r < l.rows; r++)
            if (l.codes[r * across + i / 2] >> (4 * (i % 2)) & 7u)
                return false;
        return true;
    }
    const uint2 *const words = (const uint2 *)(l.codes + i * across);
    for (int k = 0; k < l.cols / 16; k++)
        if ((words[k].x | words[k].y) & 0x77777777u)
            return false;
    return true;
}

static __device__ int largest_of_block(int x, int *room) {
    x = __reduce_max_sync(~0u, x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < SCALES_THREADS / 32; i++)
        x = max(x, room[i]);
    return x;
}

/* The exponent of the largest scale; of scales of 1 only what is needed is looked at. */
static __device__ int find_largest(const listed &l, int *room) {
    const int n = vector_count(l);
    int largest = NOTHING, ones = 0;
    for (int i = threadIdx.x; i < n; i += SCALES_THREADS) {
        const float s = l.scales[i];
        if (s == 1.0f)
            ones = 1;
        else if (is_good(s))
            largest = max(largest, exponent_of(s));
    }
    __syncwarp();
    largest = largest_of_block(largest, room);
    if (largest < 0 && __syncthreads_or(ones)) {
        int found = NOTHING;
        for (int i = threadIdx.x; i < n && found != 0; i += SCALES_THREADS)
            if (l.scales[i] == 1.0f && !is_empty(l, i))
                found = 0;
        __syncwarp();
        largest = max(largest, largest_of_block(found, room));
    }
    return largest == NOTHING ? 0 : largest;
}

static __device__ bool is_wide(const listed &l, int i, int largest) {
    const float s = l.scales[i];
    return !is_good(s) || (largest - exponent_of(s) > SPREAD && !(s == 1.0f && is_empty(l, i)));
}

/* Threads whose `yes` is set, in order: how many are before this one; *all: how many there are. */
static __device__ int rank_in_block(bool yes, int *room, int *all) {
    const uint32_t vote = __ballot_sync(~0u, yes);
    const int warp = threadIdx.x / 32;
    int before = __popc(vote & ((1u << threadIdx.x % 32) - 1));
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        room[warp] = __popc(vote);
    __syncthreads();
    *all = 0;
    for (int i = 0; i < SCALES_THREADS / 32; i++) {
        before += i < warp ? room[i] : 0;
        *all += room[i];
    }
    return before;
}

/* A block an operand. */
static __global__ void __launch_bounds__(SCALES_THREADS) find_scales(const __grid_constant__ operand_list list) {
    __shared__ int room[SCALES_THREADS / 32];
    const listed &l = list.at[blockIdx.x];
    ni_let_follow(); /* codes are there, and who follows reads them meanwhile */
    const int n = vector_count(l), largest = find_largest(l, room);
    int found = 0;
    for (int first = 0; first < n; first += SCALES_THREADS) {
        const int i = first + (int)threadIdx.x;
        const bool wide = i < n && is_wide(l, i, largest);
        if (!__syncthreads_or(wide))
            continue;
        int all;
        const int at = rank_in_block(wide, room, &all);
        if (wide)
            l.list[found + at] = (uint32_t)i;
        found += all;
    }
    if (threadIdx.x == 0) {
        *l.scale = ldexpf(1.0f, largest - TOP); /* scales are 2^-127 and more (ni_vector_encode): never 0 */
        *l.wide = (uint32_t)found;
    }
}

/* ---- bytes both ways ---- */

static __device__ uint32_t times_halves(uint32_t a, uint32_t b) {
    uint32_t product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

/* E4M3 bytes of eight codes times 2^6 and their factors, of which factors[i] has those of i and i + 4: all of it exact. */
static __device__ uint2 bytes_of_codes(uint32_t codes, const uint32_t *factors) {
    uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        pair[i] = ni_vector_bytes_of_halves(
            times_halves(times_halves(halves_of_codes(codes, i), 0x74007400u), factors[i])); /* 2^14 */
    const uint32_t low = __byte_perm(pair[0], pair[1], 0x5410), high = __byte_perm(pair[2], pair[3], 0x5410);
    return make_uint2(__byte_perm(low, high, 0x6420), __byte_perm(low, high, 0x7531));
}

/* 2^(6 - d) as a half; 0 for a vector that is not exact. */
static __device__ uint32_t factor_of(float scale, int largest) {
    const int d = is_good(scale) ? largest - exponent_of(scale) : SPREAD + 1;
    return d > SPREAD || d < 0 ? 0 : (uint32_t)(15 + TOP - d) << 10;
}

static __global__ void __launch_bounds__(NI_THREADS) bytes_of_fours(const __grid_constant__ operand_list list) {
    __shared__ byte_tile tile;
    __shared__ uint32_t factors[TILE];
    const listed &l = list.at[ni_listed(list, &listed::first_block)];
    const int across = (l.cols + TILE - 1) / TILE, b = (int)(blockIdx.x - l.first_block);
    const int64_t r0 = (int64_t)(b / across) * TILE, c0 = (int64_t)(b % across) * TILE;
    const int chunk = threadIdx.x % CHUNKS;
    const int64_t c = c0 + 16 * chunk;
    uint2 codes[TILE / TILE_ROWS_AT_ONCE];
#pragma unroll
    for (int i = 0; i < TILE / TILE_ROWS_AT_ONCE; i++) {
        const int64_t r = r0 + (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i;
        if (r < l.rows && c < l.cols)
            codes[i] = *(const uint2 *)(l.codes + (r * l.cols + c) / 2);
    }
    ni_wait_for_it();
    if (threadIdx.x < TILE) {
        const int64_t i = (l.columns ? c0 : r0) + threadIdx.x;
        const int largest = exponent_of(*l.scale) + TOP;
        factors[threadIdx.x] = i < vector_count(l) ? factor_of(l.scales[i], largest) : 0;
    }
    __syncthreads();
    uint32_t own[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int from = 16 * chunk + i / 4 * 8 + i % 4;
        own[i] = factors[from] | factors[from + 4] << 16;
    }
#pragma unroll
    for (int i = 0; i < TILE / TILE_ROWS_AT_ONCE; i++) {
        const int r = (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i;
        if (r0 + r >= l.rows || c >= l.cols)
            continue;
        if (!l.columns)
#pragma unroll
            for (int k = 0; k < 8; k++)
                own[k] = factors[r] * 0x10001u;
        const uint2 low = bytes_of_codes(codes[i].x, own), high = bytes_of_codes(codes[i].y, own + 4);
        const uint4 bytes = make_uint4(low.x, low.y, high.x, high.y);
        *(uint4 *)(l.bytes + (r0 + r) * l.cols + c) = bytes;
        put_chunk(tile, r, chunk, bytes);
    }
    __syncthreads();
    store_turned(tile, l.turned, l.rows, l.cols, r0, c0);
}

static listed listed_of(const ni_cuda_pow2 *p, uint32_t first_block) {
    const nb_quantizer *q = &p->codes.quantizer;
    listed l = {};
    l.codes = p->codes.codes;
    l.columns = ni_has_column_scales(q);
    l.scales = p->codes.outer_scales;
    l.bytes = p->bytes;
    l.turned = p->turned;
    l.scale = p->scale;
    l.wide = p->wide;
    l.list = p->list;
    l.rows = (int32_t)p->codes.rows;
    l.cols = (int32_t)p->codes.cols;
    l.first_block = first_block;
    return l;
}

static uint32_t tiles_of(const nb_qtensor *t) {
    return (uint32_t)(ni_divide_up(t->rows, TILE) * ni_divide_up(t->cols, TILE));
}

static int launch_list(cudaStream_t on, operand_list *list) {
    int code = cudaSuccess;
    if (list->blocks) {
        find_scales<<<(unsigned)list->count, SCALES_THREADS, 0, on>>>(*list);
        code = ni_launch_following(on, bytes_of_fours, dim3(list->blocks), NI_THREADS, 0, *list);
    }
    list->count = 0;
    list->blocks = 0;
    return code ? code : cudaGetLastError();
}

/* ---- 8-bit codes ---- */

typedef struct wide_operand {
    const uint8_t *codes;
    uint8_t *bytes, *turned;
    float *scale;
    int64_t rows, cols;
    nb_scale_rule rule;
} wide_operand;

static __global__ void __launch_bounds__(NI_THREADS) turn_bytes(const __grid_constant__ wide_operand o) {
    __shared__ byte_tile tile;
    int64_t r0, c0;
    open_tile(o.cols, &r0, &c0);
    const int chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (int i = 0; i < TILE / TILE_ROWS_AT_ONCE; i++) {
        const int r = (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i;
        if (r0 + r < o.rows && c0 + 16 * chunk < o.cols)
            put_chunk(tile, r, chunk, *(const uint4 *)(o.codes + (r0 + r) * o.cols + c0 + 16 * chunk));
    }
    __syncthreads();
    store_turned(tile, o.turned, o.rows, o.cols, r0, c0);
}

template <nb_element ELEMENT> static __device__ uint2 bytes_of_eight(const uint4 &in, float multiplier) {
    const ni_eight x = ni_eight_of(in);
    uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        pair[i] =
            ni_vector_bytes_of_two<ELEMENT>(ni_f32_mul(x.x[2 * i], multiplier), ni_f32_mul(x.x[2 * i + 1], multiplier));
    return make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
}

template <nb_element ELEMENT>
static __global__ void __launch_bounds__(NI_THREADS)
    bytes_of_numbers(const __grid_constant__ wide_operand o, const uint16_t *from, int64_t stride,
                     const uint32_t *amax) {
    __shared__ byte_tile tile;
    int64_t r0, c0;
    open_tile(o.cols, &r0, &c0);
    const int chunk = threadIdx.x % CHUNKS;
    uint4 in[TILE / TILE_ROWS_AT_ONCE][2];
#pragma unroll
    for (int i = 0; i < TILE / TILE_ROWS_AT_ONCE; i++) {
        const int r = (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i;
        if (r0 + r < o.rows && c0 + 16 * chunk < o.cols)
            for (int half = 0; half < 2; half++)
                in[i][half] = *(const uint4 *)(from + (r0 + r) * stride + c0 + 16 * chunk + 8 * half);
    }
    const float multiplier = ni_vector_encode(o.rule, ni_element_max(ELEMENT), ni_f32_from(*amax));
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *o.scale = ni_vector_decode(multiplier);
#pragma unroll
    for (int i = 0; i < TILE / TILE_ROWS_AT_ONCE; i++) {
        const int r = (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i;
        if (r0 + r >= o.rows || c0 + 16 * chunk >= o.cols)
            continue;
        const uint2 low = bytes_of_eight<ELEMENT>(in[i][0], multiplier),
                    high = bytes_of_eight<ELEMENT>(in[i][1], multiplier);
        const uint4 bytes = make_uint4(low.x, low.y, high.x, high.y);
        *(uint4 *)(o.bytes + (r0 + r) * o.cols + c0 + 16 * chunk) = bytes;
        put_chunk(tile, r, chunk, bytes);
    }
    __syncthreads();
    store_turned(tile, o.turned, o.rows, o.cols, r0, c0);
}

static wide_operand wide_of(const ni_cuda_pow2 *p) {
    wide_operand o = {p->codes.codes,         p->bytes, p->turned, p->scale, p->codes.rows, p->codes.cols,
                      p->codes.quantizer.rule};
    return o;
}

int ni_cuda_launch_pow2_numbers(void *stream, const ni_cuda_pow2 *to, const uint16_t *from, int64_t stride,
                                const uint32_t *amax) {
    cudaStream_t on = (cudaStream_t)stream;
    const uint32_t tiles = tiles_of(&to->codes);
    if (tiles && to->codes.quantizer.element == NB_ELEMENT_E5M2)
        bytes_of_numbers<NB_ELEMENT_E5M2><<<tiles, NI_THREADS, 0, on>>>(wide_of(to), from, stride, amax);
    else if (tiles)
        bytes_of_numbers<NB_ELEMENT_E4M3><<<tiles, NI_THREADS, 0, on>>>(wide_of(to), from, stride, amax);
    return cudaGetLastError();
}

int ni_cuda_launch_pow2_bytes(void *stream, const ni_cuda_pow2 *operands, int count) {
    cudaStream_t on = (cudaStream_t)stream;
    operand_list list = {};
    int code = cudaSuccess;
    for (int i = 0; i < count && !code; i++) {
        const ni_cuda_pow2 *const p = &operands[i];
        const uint32_t tiles = tiles_of(&p->codes);
        if (tiles && p->codes.quantizer.element != NB_ELEMENT_E2M1) {
            turn_bytes<<<tiles, NI_THREADS, 0, on>>>(wide_of(p));
        } else if (tiles) {
            list.at[list.count++] = listed_of(p, list.blocks);
            list.blocks += tiles;
        }
        if (list.count == NI_CUDA_LIST_MOST)
            code = launch_list(on, &list);
    }
    return code ? code : launch_list(on, &list);
}

/* ---- mending ---- */

/* One side of a product: row i of the operand, number k of its contraction. */
typedef struct mended_side {
    nb_qtensor codes;
    const uint32_t *wide, *list;
    bool turned;
    bool along; /* its vectors lie across the contraction: they are numbers of it, and not rows */
} mended_side;

typedef struct mending {
    nb_mat c;
    mended_side a, b;
    int64_t depth;
    uint32_t *mended;
} mending;

static __device__ float number_of(const mended_side &s, int64_t i, int64_t k) {
    return s.turned ? ni_decoded(s.codes, k, i, true) : ni_decoded(s.codes, i, k, true);
}

static __device__ uint32_t count_of(const mended_side &s, bool along) {
    return s.wide && s.along == along ? *s.wide : 0;
}

static __device__ bool is_listed(const mended_side &s, uint32_t count, uint32_t i) {
    uint32_t low = 0, high = count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (s.list[middle] < i)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && s.list[low] == i;
}

static __device__ void add_to(const nb_mat &c, int64_t r, int64_t col, float x) {
    const int64_t at = r * c.stride + col;
    if (c.dtype == NB_BF16) {
        uint16_t *const to = (uint16_t *)c.data + at;
        *to = ni_bf16_even(ni_f32_add(ni_bf16_value(*to), x));
    } else {
        float *const to = (float *)c.data + at;
        *to = ni_f32_add(*to, x);
    }
}

/* Sums of whole rows of A, and of whole rows of B but for those: a warp each. */
static __device__ void mend_rows(const mending &m, uint32_t of_a, uint32_t of_b) {
    const int64_t first = of_a * m.c.cols, all = first + of_b * m.c.rows, warps = (int64_t)gridDim.x * NI_WARPS;
    for (int64_t n = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32; n < all; n += warps) {
        const bool by_a = n < first;
        const int64_t i = by_a ? m.a.list[n / m.c.cols] : (n - first) % m.c.rows,
                      j = by_a ? n % m.c.cols : m.b.list[(n - first) / m.c.rows];
        if (!by_a && is_listed(m.a, of_a, (uint32_t)i))
            continue;
        float sum = 0.0f;
        for (int64_t k = threadIdx.x % 32; k < m.depth; k += 32)
            sum = __fmaf_rn(number_of(m.a, i, k), number_of(m.b, j, k), sum);
        sum = ni_warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            add_to(m.c, i, j, sum);
    }
}

/* What lies across the contraction, in all other sums: a thread each. */
static __device__ void mend_along(const mending &m, uint32_t of_a, uint32_t of_b) {
    const uint32_t rows_of_a = count_of(m.a, false), rows_of_b = count_of(m.b, false);
    for (NI_EACH(n, m.c.rows * m.c.cols)) {
        const int64_t i = n / m.c.cols, j = n % m.c.cols;
        if (is_listed(m.a, rows_of_a, (uint32_t)i) || is_listed(m.b, rows_of_b, (uint32_t)j))
            continue;
        float sum = 0.0f;
        for (uint32_t k = 0; k < of_a; k++)
            sum = __fmaf_rn(number_of(m.a, i, m.a.list[k]), number_of(m.b, j, m.a.list[k]), sum);
        for (uint32_t k = 0; k < of_b; k++)
            if (!is_listed(m.a, of_a, m.b.list[k]))
                sum = __fmaf_rn(number_of(m.a, i, m.b.list[k]), number_of(m.b, j, m.b.list[k]), sum);
        add_to(m.c, i, j, sum);
    }
}

static __global__ void __launch_bounds__(NI_THREADS) mend_pow2(const __grid_constant__ mending m) {
    ni_wait_for_it();
    const uint32_t rows_of_a = count_of(m.a, false), rows_of_b = count_of(m.b, false), along_a = count_of(m.a, true),
                   along_b = count_of(m.b, true), all = rows_of_a + rows_of_b + along_a + along_b;
    if (all == 0)
        return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        atomicAdd(m.mended, all);
    if (rows_of_a + rows_of_b)
        mend_rows(m, rows_of_a, rows_of_b);
    if (along_a + along_b)
        mend_along(m, along_a, along_b);
}

static mended_side side_of(const ni_cuda_pow2 *p, bool turned) {
    mended_side s = {p->codes, p->wide, p->list, turned, ni_has_column_scales(&p->codes.quantizer) != turned};
    return s;
}

static mending mending_of(const ni_cuda_pow2_mend *m) {
    const mending all = {m->c, side_of(&m->a, m->a_turned), side_of(&m->b, m->b_turned),
                         m->a_turned ? m->a.codes.rows : m->a.codes.cols, m->mended};
    return all;
}

int ni_cuda_launch_pow2_mend(void *stream, const ni_cuda_pow2_mend *m, int multiprocessors) {
    const mending all = mending_of(m);
    if (m->c.rows > 0 && m->c.cols > 0 && (all.a.wide || all.b.wide))
        return ni_launch_following((cudaStream_t)stream, mend_pow2, dim3((unsigned)multiprocessors), NI_THREADS, 0,
                                   all);
    return cudaSuccess;
}

/* ---- before a sum of products ---- */

typedef struct apart_term {
    mended_side a, b;
    int64_t depth;
} apart_term;

typedef struct apart_list {
    apart_term at[NI_CUDA_APART_MOST];
    float *room;
    int64_t rows, cols;
    int32_t count;
    uint32_t *found, *mended;
} apart_list;
static_assert(sizeof(apart_list) <= 4096, "a kernel's arguments");

static __device__ uint32_t count_of(const apart_list &list) {
    uint32_t all = 0;
    for (int t = 0; t < list.count; t++)
        all += (list.at[t].a.wide ? *list.at[t].a.wide : 0) + (list.at[t].b.wide ? *list.at[t].b.wide : 0);
    return all;
}

/* One sum's share. */
static __device__ float add_apart(float sum, const apart_term &t, int64_t i, int64_t j) {
    if (is_listed(t.a, count_of(t.a, false), (uint32_t)i) || is_listed(t.b, count_of(t.b, false), (uint32_t)j)) {
        for (int64_t k = 0; k < t.depth; k++)
            sum = __fmaf_rn(number_of(t.a, i, k), number_of(t.b, j, k), sum);
        return sum;
    }
    const uint32_t of_a = count_of(t.a, true), of_b = count_of(t.b, true);
    for (uint32_t k = 0; k < of_a; k++)
        sum = __fmaf_rn(number_of(t.a, i, t.a.list[k]), number_of(t.b, j, t.a.list[k]), sum);
    for (uint32_t k = 0; k < of_b; k++)
        if (!is_listed(t.a, of_a, t.b.list[k]))
            sum = __fmaf_rn(number_of(t.a, i, t.b.list[k]), number_of(t.b, j, t.b.list[k]), sum);
    return sum;
}

static __global__ void __launch_bounds__(NI_THREADS) sum_apart(const __grid_constant__ apart_list list) {
    ni_wait_for_it();
    ni_let_follow();
    const uint32_t all = count_of(list);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *list.found = all;
        if (all)
            atomicAdd(list.mended, all);
    }
    if (all == 0)
        return;
    for (NI_EACH(n, list.rows * list.cols)) {
        float sum = 0.0f;
        for (int t = 0; t < list.count; t++)
            sum = add_apart(sum, list.at[t], n / list.cols, n % list.cols);
        list.room[n] = sum;
    }
}

int ni_cuda_launch_pow2_apart(void *stream, const ni_cuda_pow2_apart *m, int multiprocessors) {
    apart_list list = {};
    list.room = m->room;
    list.rows = m->rows;
    list.cols = m->cols;
    list.found = m->found;
    list.mended = m->mended;
    list.count = m->count;
    for (int t = 0; t < m->count; t++) {
        const mending all = mending_of(&m->terms[t]);
        list.at[t].a = all.a;
        list.at[t].b = all.b;
        list.at[t].depth = all.depth;
    }
    return ni_launch_following((cudaStream_t)stream, sum_apart, dim3((unsigned)multiprocessors), NI_THREADS, 0, list);
}
