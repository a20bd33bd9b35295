/* finish_sparse.cu: the end of a product into BF16 with a sparse one beside it (finish.h), by tensor cores:
 *
 *     out[r, n] = bf16(sum[r, n] (row[r] col[n]) + S[r, 0] w[k0, n] + S[r, 1] w[k1, n] + ...)
 *
 * Entries of eight rows are gathered first, sixteen at a time: a product of sixteen columns of W by sixteen gathered rows
 * with those sixteen entries, each in the column of its own row of S and zeros elsewhere. So a number of W is read once an
 * entry, as it must be, but multiplied for eight rows at once.
 *
 *     mma.m16n8k16    A: w turned, [16 columns, 16 entries]     B: [16 entries, 8 rows of S]     C: [16 columns, 8 rows]
 *
 * A block keeps a slice of the weights, decoded and turned, in shared memory, in parts of 32 columns (or 16); a warp takes
 * eight rows through it. In the registers of lane 4 g + t are columns 4 g to 4 g + 3 of each part of C, of rows 2 t and
 * 2 t + 1; and of A entries 4 t to 4 t + 3 of sixteen. Half a warp asks for 32 bytes of four entries' rows: they lie in
 * different banks where k mod 4 differs, so the entries of lane t are those with k mod 4 = t as far as they come out even.
 *
 *     what leaves FP32's range     the product of two numbers from 2^-60 to 2^60 (or 0) cannot; entries of eight rows, or a
 *                                  slice, with others are added one by one
 */
#include "backend/cuda/finish.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/mma.cuh"
#include "format/ieee.h"

/* ---- gathered entries ----
 *
 *     31           16 15     13 12           0
 *     value, BF16     row of 8  where row k of the slice begins, in 32 bytes: at_row
 */

#ifndef T128
#define T128 512
#define T64 512
#define T32 1024
#endif
enum { GROUP_ROWS = 8, CHUNK = 16, CLASSES = 4, BASE_BITS = 13, WILD = 1u << 31 };

static int64_t groups_of(int64_t rows) {
    return ni_divide_up(rows, GROUP_ROWS);
}

/* Of sixteen entries each, that a group may have. */
static __host__ __device__ uint32_t most_chunks(int64_t room) {
    return (uint32_t)((GROUP_ROWS * room + CHUNK - 1) / CHUNK);
}

/* Behind a word a group: how many sixteens it has, and whether one of its values is wild. */
static size_t header_bytes(int64_t rows) {
    return (size_t)ni_divide_up(groups_of(rows), 64) * 256;
}

size_t ni_cuda_gathered_bytes(const ni_sparse *s, int64_t rows) {
    return header_bytes(rows) + (size_t)groups_of(rows) * most_chunks(s->room) * CHUNK * sizeof(uint32_t);
}

/* Neither 0 nor from 2^-60 to 2^60, by the bits of a BF16 number. */
static __device__ bool is_wild(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffu;
    return magnitude && magnitude - (67u << 7) > (120u << 7);
}

/* Sixteen columns have 32 bytes. Which of a row's come first changes with k, by exclusive or, so that four rows of different
 * k mod 4 have the same columns in different banks. */
template <int COLS> static __device__ uint32_t at_row(uint32_t k) {
    return k * (COLS / 16) ^ (COLS >= 64 ? k & 3u : COLS == 32 ? k >> 1 & 1u : 0u);
}

typedef struct gathering {
    ni_sparse sparse;
    int64_t rows;
    uint32_t *headers, *entries;
} gathering;

/* An entry of a group: number i of 8 room places. */
typedef struct place {
    uint32_t row, column, value;
    bool live;
} place;

static __device__ place place_at(const gathering &g, int64_t first, int i, int counts) {
    const int room = (int)g.sparse.room, row = i / room, e = i - row * room;
    const int count = __shfl_sync(~0u, counts, row & 31);
    place p = {(uint32_t)row, 0, 0, row < GROUP_ROWS && e < count};
    if (p.live) {
        const int64_t at = (first + row) * room + e;
        p.column = (uint32_t)__ldg(g.sparse.column + at);
        p.value = __ldg(g.sparse.value + at);
    }
    return p;
}

/* A warp a group. Entries with k mod 4 = t go to the places of lane t, those for which it has none left to what others
 * have free. */
template <int COLS>
static __global__ void __launch_bounds__(NI_THREADS) gather(const __grid_constant__ gathering g) {
    const int lane = threadIdx.x % 32;
    const int64_t group = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32, first = group * GROUP_ROWS;
    ni_let_follow();
    if (first >= g.rows)
        return;
    const int counts = lane < GROUP_ROWS && first + lane < g.rows ? g.sparse.count[first + lane] : 0,
              places = GROUP_ROWS * (int)g.sparse.room;
    const uint32_t below = (1u << lane) - 1, chunks = ((uint32_t)__reduce_add_sync(~0u, counts) + CHUNK - 1) / CHUNK;
    uint32_t *const to = g.entries + group * most_chunks(g.sparse.room) * CHUNK;
    int of_class[CLASSES] = {0, 0, 0, 0}, before[CLASSES], taken[CLASSES] = {0, 0, 0, 0};
    bool wild = false;
    for (int i = lane; i - lane < places; i += 32) {
        const place p = place_at(g, first, i, counts);
        wild |= is_wild(p.value);
#pragma unroll
        for (uint32_t c = 0; c < CLASSES; c++)
            of_class[c] += __popc(__ballot_sync(~0u, p.live && (p.column & 3u) == c));
    }
    for (uint32_t i = lane; i < chunks * CHUNK / 4; i += 32)
        ((uint4 *)to)[i] = make_uint4(0, 0, 0, 0);
    __syncwarp();
    const int share = (int)chunks * CHUNK / CLASSES;
    for (int c = 0, over = 0; c < CLASSES; c++) {
        before[c] = over;
        over += max(of_class[c] - share, 0);
    }
    for (int i = lane; i - lane < places; i += 32) {
        const place p = place_at(g, first, i, counts);
        uint32_t own = p.column & 3u;
        int rank = 0, over = 0;
#pragma unroll
        for (uint32_t c = 0; c < CLASSES; c++) {
            const uint32_t same = __ballot_sync(~0u, p.live && own == c);
            if (own == c) {
                rank = taken[c] + __popc(same & below);
                over = rank - share + before[c];
            }
            taken[c] += __popc(same);
        }
        if (rank >= share) /* the over-th free place */
#pragma unroll
            for (uint32_t c = 0, passed = 0; c < CLASSES; c++) {
                const int free = max(share - of_class[c], 0), within = over - (int)passed;
                if (within >= 0 && within < free) {
                    own = c;
                    rank = of_class[c] + within;
                }
                passed += (uint32_t)free;
            }
        if (p.live)
            to[rank / 4 * CHUNK + own * 4 + rank % 4] = p.value << 16 | p.row << BASE_BITS | at_row<COLS>(p.column);
    }
    wild = __any_sync(~0u, wild);
    if (lane == 0)
        g.headers[group] = chunks | (wild ? WILD : 0u);
}

/* ---- the slice ---- */

/* Columns of a slice, of a part; of a lane in a part; tiles of sixteen columns. */
template <int COLS_, int THREADS_> struct shape {
    enum {
        COLS = COLS_,
        THREADS = THREADS_,
        WARPS = THREADS / 32,
        PART = COLS < 32 ? COLS : 32,
        PARTS = COLS / PART,
        EACH = PART / 8,
        TILES = EACH / 2
    };
};

/* Eight numbers of two columns, from row k on, k a multiple of eight. */
template <typename S>
static __device__ void store_weights(char *slice, uint32_t k, uint32_t n, const ni_eight &a, const ni_eight &b,
                                     float first, float second) {
    char *const to = slice + (at_row<S::COLS>(k) << 5);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
        *(uint32_t *)(to + ((at_row<S::COLS>(i) << 5) ^ 2 * n)) =
            ni_pack_two(ni_f32_mul(a.x[i], first), ni_f32_mul(b.x[i], second));
}

/* w[k, n - first] of the slice: values [n, k] times their row's scale, rounded to BF16. Whether a scale is such that a
 * weight may be wild: a number of eight bits is one from 2^-16 to 2^16. */
template <typename S>
static __device__ bool load_slice(char *slice, const uint16_t *values, const float *scales, int64_t first,
                                  uint32_t depth) {
    enum { PAIRS = S::COLS / 2, STEP = 16 };
    const uint32_t n = 2 * (threadIdx.x % PAIRS);
    const uint16_t *const from = values + (first + n) * depth, *const beside = from + depth;
    const float scale = scales[first + n], other = scales[first + n + 1];
#pragma unroll 2
    for (uint32_t k = STEP * (threadIdx.x / PAIRS); k < depth; k += STEP * (S::THREADS / PAIRS)) {
        const bool more = k + 8 < depth;
        const uint4 none = make_uint4(0, 0, 0, 0), a = __ldg((const uint4 *)(from + k)),
                    b = __ldg((const uint4 *)(beside + k)), c = more ? __ldg((const uint4 *)(from + k + 8)) : none,
                    d = more ? __ldg((const uint4 *)(beside + k + 8)) : none;
        store_weights<S>(slice, k, n, ni_eight_of(a), ni_eight_of(b), scale, other);
        if (more)
            store_weights<S>(slice, k + 8, n, ni_eight_of(c), ni_eight_of(d), scale, other);
    }
    const float least = fminf(fabsf(scale), fabsf(other)), most = fmaxf(fabsf(scale), fabsf(other));
    return !(least >= 0x1p-40f && most <= 0x1p40f) || scale != scale || other != other;
}

/* ---- eight rows ---- */

/* Of a lane: rows 2 t and 2 t + 1, columns EACH g on of each part. */
template <typename S> struct numbers {
    float x[2][S::PARTS][S::EACH];
};

template <int N> static __device__ void load_floats(float *to, const float *from) {
    if constexpr (N == 4) {
        const float4 v = __ldcs((const float4 *)from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else {
        const float2 v = __ldcs((const float2 *)from);
        to[0] = v.x, to[1] = v.y;
    }
}

template <typename S> static __device__ numbers<S> load_rows(const ni_cuda_finish &f, uint32_t group, int n) {
    const uint32_t t = threadIdx.x % 4;
    numbers<S> a = {};
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t r = GROUP_ROWS * group + 2 * t + i;
        if (r < (uint32_t)f.rows_count)
#pragma unroll
            for (int p = 0; p < S::PARTS; p++)
                load_floats<S::EACH>(a.x[i][p], f.sum + (r * (uint32_t)f.cols + n + S::PART * p));
    }
    return a;
}

static __device__ float at_or_one(const ni_cuda_outer &o, int64_t i) {
    return o.at ? o.at[i * o.step] : 1.0f;
}

/* The scales of rows and columns, where they are not in the sum. */
template <typename S> static __device__ void put_scales(const ni_cuda_finish &f, numbers<S> *a, uint32_t group, int n) {
    const uint32_t t = threadIdx.x % 4;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t r = GROUP_ROWS * group + 2 * t + i;
        const float scale = r < (uint32_t)f.rows_count ? at_or_one(f.rows, r) : 1.0f;
#pragma unroll
        for (int p = 0; p < S::PARTS; p++)
#pragma unroll
            for (int e = 0; e < S::EACH; e++)
                a->x[i][p][e] =
                    ni_f32_mul(a->x[i][p][e], ni_f32_mul(scale, at_or_one(f.columns, n + S::PART * p + e)));
    }
}

template <typename S>
static __device__ void store_rows(const ni_cuda_finish &f, const numbers<S> &a, uint32_t group, int n) {
    const uint32_t t = threadIdx.x % 4;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t r = GROUP_ROWS * group + 2 * t + i;
        if (r < (uint32_t)f.rows_count)
#pragma unroll
            for (int p = 0; p < S::PARTS; p++) {
                uint16_t *const to = f.out + r * f.out_stride + n + S::PART * p;
                const float *const x = a.x[i][p];
                if constexpr (S::EACH == 4)
                    __stcg((uint2 *)to, make_uint2(ni_pack_two(x[0], x[1]), ni_pack_two(x[2], x[3])));
                else
                    __stcg((uint32_t *)to, ni_pack_two(x[0], x[1]));
            }
    }
}

/* Where this lane's columns of an entry begin: of even parts, of odd ones. */
typedef struct weight_row {
    const char *at[2];
} weight_row;

template <typename S> static __device__ weight_row row_of(const char *slice, uint32_t entry) {
    const uint32_t g = threadIdx.x % 32 / 4,
                   at = (entry << 5 & ((1u << BASE_BITS) - 1) << 5) ^ 2 * S::EACH * g;
    return (weight_row){{slice + at, slice + (at ^ 2 * S::PART)}};
}

/* EACH columns of a part, two a word. */
template <typename S> static __device__ void load_weights(uint32_t *w, const weight_row &row, int part) {
    const char *const from = row.at[part % 2] + part / 2 * 4 * S::PART;
    if constexpr (S::EACH == 4) {
        const uint2 v = *(const uint2 *)from;
        w[0] = v.x, w[1] = v.y;
    } else {
        w[0] = *(const uint32_t *)from;
    }
}

/* Sixteen entries, of which this lane has four. */
template <typename S> static __device__ void add_chunk(numbers<S> *a, const char *slice, uint4 entries) {
    const uint32_t e[4] = {entries.x, entries.y, entries.z, entries.w}, g = threadIdx.x % 32 / 4;
    weight_row row[4];
    uint32_t own[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        row[i] = row_of<S>(slice, e[i]);
        own[i] = ((e[i] ^ g << BASE_BITS) & 7u << BASE_BITS) == 0 ? e[i] : 0u;
    }
    const uint32_t b0 = __byte_perm(own[0], own[1], 0x7632), b1 = __byte_perm(own[2], own[3], 0x7632);
#pragma unroll
    for (int p = 0; p < S::PARTS; p++) {
        uint32_t w[4][S::TILES];
#pragma unroll
        for (int i = 0; i < 4; i++)
            load_weights<S>(w[i], row[i], p);
#pragma unroll
        for (int j = 0; j < S::TILES; j++) {
            const uint32_t tile[4] = {__byte_perm(w[0][j], w[1][j], 0x5410), __byte_perm(w[0][j], w[1][j], 0x7632),
                                      __byte_perm(w[2][j], w[3][j], 0x5410), __byte_perm(w[2][j], w[3][j], 0x7632)};
            float c[4] = {a->x[0][p][2 * j], a->x[1][p][2 * j], a->x[0][p][2 * j + 1], a->x[1][p][2 * j + 1]};
            mma(c, tile, b0, b1);
            a->x[0][p][2 * j] = c[0];
            a->x[1][p][2 * j] = c[1];
            a->x[0][p][2 * j + 1] = c[2];
            a->x[1][p][2 * j + 1] = c[3];
        }
    }
}

/* The same, one by one. */
template <typename S> static __device__ void add_one_by_one(numbers<S> *a, const char *slice, uint4 entries) {
    const uint32_t mine[4] = {entries.x, entries.y, entries.z, entries.w}, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll 1
        for (int from = 0; from < CLASSES; from++) {
            const uint32_t e = __shfl_sync(~0u, mine[i], from, CLASSES), r = e >> BASE_BITS & 7u;
            const float v = __uint_as_float(e & 0xffff0000u);
            const weight_row row = row_of<S>(slice, e);
            if (r / 2 != t || e == 0)
                continue;
#pragma unroll
            for (int p = 0; p < S::PARTS; p++) {
                uint32_t w[S::TILES];
                load_weights<S>(w, row, p);
#pragma unroll
                for (int n = 0; n < S::EACH; n++) {
                    const float x = __uint_as_float(n % 2 ? w[n / 2] & 0xffff0000u : w[n / 2] << 16),
                                sum = ni_f32_add(r % 2 ? a->x[1][p][n] : a->x[0][p][n], ni_f32_mul(v, x));
                    a->x[0][p][n] = r % 2 ? a->x[0][p][n] : sum;
                    a->x[1][p][n] = r % 2 ? sum : a->x[1][p][n];
                }
            }
        }
}

typedef struct gathered {
    const uint32_t *headers;
    const uint4 *entries; /* [groups, most_chunks, CLASSES] */
    uint32_t groups, most;
} gathered;

static __device__ uint32_t header_at(const gathered &g, uint32_t group) {
    return group < g.groups ? __ldg(g.headers + group) : 0;
}

static __device__ uint4 chunk_at(const gathered &g, uint32_t group, uint32_t chunk, uint32_t header) {
    return chunk < (header & ~WILD) ? __ldg(g.entries + (group * g.most + chunk) * CLASSES + threadIdx.x % 4)
                                    : make_uint4(0, 0, 0, 0);
}

/* Entries are on their way for two chunks, numbers and first entries of the next group for a whole one. The slice is loaded
 * while entries are gathered still. */
template <typename S>
static __global__ void __launch_bounds__(S::THREADS, 1)
    finish_sparse(const __grid_constant__ ni_cuda_finish f, const __grid_constant__ gathered of) {
    extern __shared__ __align__(256) char slice[];
    const int first = (int)blockIdx.x * S::COLS, n = first + S::EACH * ((int)threadIdx.x % 32 / 4);
    const uint32_t stride = gridDim.y * S::WARPS;
    uint32_t group = blockIdx.y * S::WARPS + threadIdx.x / 32;
    const bool scaled = f.rows.at || f.columns.at;
    numbers<S> next = load_rows<S>(f, group, n);
    const bool tame = !__syncthreads_or(load_slice<S>(slice, f.weights, f.weight_scales, first, (uint32_t)f.depth));
    ni_wait_for_it();
    uint32_t header = header_at(of, group);
    uint4 even = chunk_at(of, group, 0, header), odd = chunk_at(of, group, 1, header);
    while (group < of.groups) {
        const uint32_t now = group, chunks = header & ~WILD;
        const bool usual = tame && !(header & WILD);
        numbers<S> a = next;
        group += stride;
        const uint32_t next_header = header_at(of, group);
        next = load_rows<S>(f, group, n);
        if (scaled)
            put_scales<S>(f, &a, now, n);
        for (uint32_t c = 0; c < chunks && usual; c += 2) {
            add_chunk<S>(&a, slice, even);
            even = chunk_at(of, now, c + 2, header);
            if (c + 1 < chunks)
                add_chunk<S>(&a, slice, odd);
            odd = chunk_at(of, now, c + 3, header);
        }
        for (uint32_t c = 0; c < chunks && !usual; c++)
            add_one_by_one<S>(&a, slice, chunk_at(of, now, c, header));
        header = next_header;
        even = chunk_at(of, group, 0, header);
        odd = chunk_at(of, group, 1, header);
        store_rows<S>(f, a, now, n);
    }
}

/* ---- launches ---- */

static int64_t slice_bytes(const ni_cuda_finish *f, int cols) {
    return f->depth * cols * (int64_t)sizeof(uint16_t);
}

/* Columns of a slice; 0: none fits. */
static int slice_of(const ni_cuda_finish *f) {
    const int64_t most = ni_shared_bytes();
    for (int cols = 128; cols >= 16; cols /= 2)
        if (f->cols % cols == 0 && slice_bytes(f, cols) <= most)
            return cols;
    return 0;
}

bool ni_cuda_can_finish_sparse(const ni_cuda_finish *f) {
    const int64_t longest = f->cols > f->sparse.room ? f->cols : f->sparse.room;
    return f->rows_count > 0 && f->rows_count * longest <= INT32_MAX && f->depth % 8 == 0 && ni_aligned(f->sum) &&
           ni_aligned(f->weights) && ((uintptr_t)f->out & 7) == 0 && f->out_stride % 4 == 0 && slice_of(f) > 0;
}

/* A block a multiprocessor, each with its slice and its band of rows. */
template <typename S> static int launch(cudaStream_t on, const ni_cuda_finish *f, void *memory, int multiprocessors) {
    const size_t bytes = (size_t)slice_bytes(f, S::COLS);
    const int64_t slices = f->cols / S::COLS, bands = multiprocessors / slices,
                  most = ni_divide_up(groups_of(f->rows_count), S::WARPS);
    uint32_t *const headers = (uint32_t *)memory, *const entries = headers + header_bytes(f->rows_count) / sizeof(uint32_t);
    const gathering from = {f->sparse, f->rows_count, headers, entries};
    const gathered to = {headers, (const uint4 *)entries, (uint32_t)groups_of(f->rows_count), most_chunks(f->sparse.room)};
    const cudaError_t code =
        cudaFuncSetAttribute(finish_sparse<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess)
        return code;
    gather<S::COLS><<<(unsigned)ni_divide_up(to.groups, NI_WARPS), NI_THREADS, 0, on>>>(from);
    return ni_launch_following(on, finish_sparse<S>,
                               dim3((unsigned)slices, (unsigned)(bands < 1 ? 1 : bands < most ? bands : most)), S::THREADS,
                               bytes, *f, to);
}

int ni_cuda_launch_finish_sparse(void *stream, const ni_cuda_finish *f, void *memory, int multiprocessors) {
    cudaStream_t on = (cudaStream_t)stream;
    switch (slice_of(f)) {
    case 128:
        return launch<shape<128, T128>>(on, f, memory, multiprocessors);
    case 64:
        return launch<shape<64, T64>>(on, f, memory, multiprocessors);
    case 32:
        return launch<shape<32, T32>>(on, f, memory, multiprocessors);
    default:
        return launch<shape<16, 1024>>(on, f, memory, multiprocessors);
    }
}
