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
 * A block keeps a slice of the weights, decoded, in shared memory, row k after row k; a warp takes eight rows of S through
 * it. `ldmatrix` turns and gathers: each lane says where 16 bytes of its entry's row of W lie. Eight of these are read at a
 * time, and are in different banks where k mod 8 differs, so entries with k mod 8 = i take places i and i + 8 of sixteen as
 * far as they come out even.
 *
 *     what leaves FP32's range     the product of two numbers from 2^-60 to 2^60 (or 0) cannot; entries of eight rows, or a
 *                                  slice, with others are added one by one
 */
#include "backend/cuda/finish.h"

#include "backend/cuda/follow.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/mma.cuh"
#include "format/ieee.h"

#ifndef T128
#define T128 512
#define W128 128
#define T64 512
#define T32 1024
#endif

/* ---- gathered entries ----
 *
 * Of a place: where its row of W begins in the slice (at_row), in 16 bytes; and its value above the bit of its row of eight.
 * Both lie as lanes read them: places 2 t, 2 t + 1, 2 t + 8, 2 t + 9 are neighbours. */

enum { GROUP_ROWS = 8, CHUNK = 16, CLASSES = 8, MORE_CHUNKS = 4, WILD = 1u << 31 };

/* Where place i of sixteen lies. */
static __device__ uint32_t at_place(uint32_t i) {
    return i % 8 / 2 * 4 + i / 8 * 2 + i % 2;
}

/* A word a group (how many sixteens it has, and whether one of its values is wild), entries, where their rows begin. */
typedef struct gathered {
    uint32_t *headers;
    uint32_t *entries; /* [groups, most, CHUNK] */
    uint16_t *begins;  /* the same */
    uint32_t groups, most;
} gathered;

static int64_t groups_of(int64_t rows) {
    return ni_divide_up(rows, GROUP_ROWS);
}

/* Sixteens that a group may have. */
static int64_t most_chunks(const ni_sparse *s) {
    return ni_divide_up(GROUP_ROWS * s->room, CHUNK);
}

static size_t header_bytes(int64_t rows) {
    return (size_t)ni_divide_up(groups_of(rows), 64) * 256;
}

static int64_t places_of(const ni_sparse *s, int64_t rows) {
    return groups_of(rows) * most_chunks(s) * CHUNK;
}

size_t ni_cuda_gathered_bytes(const ni_sparse *s, int64_t rows) {
    return header_bytes(rows) +
           (size_t)(places_of(s, rows) + MORE_CHUNKS * CHUNK) * (sizeof(uint32_t) + sizeof(uint16_t));
}

static gathered gathered_in(void *memory, const ni_sparse *s, int64_t rows) {
    uint32_t *const headers = (uint32_t *)memory, *const entries = headers + header_bytes(rows) / sizeof *headers;
    return (gathered){headers, entries, (uint16_t *)(entries + places_of(s, rows) + MORE_CHUNKS * CHUNK),
                      (uint32_t)groups_of(rows), (uint32_t)most_chunks(s)};
}

/* Neither 0 nor from 2^-60 to 2^60, by the bits of a BF16 number. */
static __device__ bool is_wild(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffu;
    return magnitude && magnitude - (67u << 7) > (120u << 7);
}

/* Eight columns have 16 bytes. Which of a row's come first changes with k, by exclusive or, so that eight rows of different
 * k mod 8 have the same columns in different banks. */
template <int COLS> static __device__ uint32_t at_row(uint32_t k) {
    return k * (COLS / 8) ^ (COLS >= 64 ? k & 7u : COLS == 32 ? k >> 1 & 3u : k >> 2 & 1u);
}

/* An entry of a group: number i of 8 room. */
typedef struct entry {
    uint32_t row, column, value;
    bool live;
} entry;

static __device__ entry entry_at(const ni_sparse &s, int64_t first, int i, int counts) {
    const int room = (int)s.room, row = i / room, e = i - row * room, count = __shfl_sync(~0u, counts, row & 31);
    entry p = {(uint32_t)row, 0, 0, row < GROUP_ROWS && e < count};
    if (p.live) {
        const int64_t at = (first + row) * room + e;
        p.column = (uint32_t)s.column[at];
        p.value = s.value[at];
    }
    return p;
}

/* A warp a group. Entries for which their class has no place left go where others have one. */
template <int COLS>
static __global__ void __launch_bounds__(NI_THREADS)
    gather(const __grid_constant__ gathered to, const __grid_constant__ ni_sparse s, int64_t rows) {
    const int lane = threadIdx.x % 32;
    const int64_t group = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32, first = group * GROUP_ROWS,
                  begin = group * to.most * CHUNK;
    ni_let_follow();
    if (first >= rows)
        return;
    const int counts = lane < GROUP_ROWS && first + lane < rows ? s.count[first + lane] : 0,
              most = GROUP_ROWS * (int)s.room;
    const uint32_t below = (1u << lane) - 1, chunks = ((uint32_t)__reduce_add_sync(~0u, counts) + CHUNK - 1) / CHUNK;
    const int share = (int)chunks * CHUNK / CLASSES;
    int of_class[CLASSES] = {}, before[CLASSES], taken[CLASSES] = {};
    bool wild = false;
    for (int i = lane; i - lane < most; i += 32) {
        const entry p = entry_at(s, first, i, counts);
        wild |= is_wild(p.value);
#pragma unroll
        for (uint32_t c = 0; c < CLASSES; c++)
            of_class[c] += __popc(__ballot_sync(~0u, p.live && p.column % CLASSES == c));
    }
    for (uint32_t i = lane; i < (to.most + (group + 1 == to.groups ? MORE_CHUNKS : 0)) * CHUNK; i += 32) {
        to.entries[begin + i] = 0;
        to.begins[begin + i] = 0;
    }
    __syncwarp();
#pragma unroll
    for (int c = 0, over = 0; c < CLASSES; c++) {
        before[c] = over;
        over += max(of_class[c] - share, 0);
    }
    for (int i = lane; i - lane < most; i += 32) {
        const entry p = entry_at(s, first, i, counts);
        uint32_t own = p.column % CLASSES;
        int rank = 0, over = 0;
#pragma unroll
        for (uint32_t c = 0; c < CLASSES; c++) {
            const uint32_t same = __ballot_sync(~0u, p.live && p.column % CLASSES == c);
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
        if (p.live) {
            const int64_t at = begin + rank / 2 * CHUNK + at_place(own + rank % 2 * CLASSES);
            to.entries[at] = p.value << 16 | 1u << p.row;
            to.begins[at] = (uint16_t)at_row<COLS>(p.column);
        }
    }
    wild = __any_sync(~0u, wild);
    if (lane == 0)
        to.headers[group] = chunks | (wild ? WILD : 0u);
}

/* ---- the slice ---- */

/* Columns of a slice and of a warp. Of 32 columns four are a lane's, of sixteen two, neighbours: one of each 16 bytes, in
 * which columns are EACH apart. */
template <int COLS_, int WARP_COLS_, int THREADS_> struct shape {
    enum {
        COLS = COLS_,
        WARP_COLS = WARP_COLS_,
        THREADS = THREADS_,
        ABREAST = COLS / WARP_COLS,
        GROUPS = THREADS / 32 / ABREAST,
        PART = COLS < 32 ? COLS : 32,
        PARTS = WARP_COLS / PART,
        EACH = PART / 8,
        TILES = EACH / 2
    };
};

/* Where column n lies in a row. */
template <typename S> static __device__ uint32_t at_column(uint32_t n) {
    const uint32_t within = n % S::PART;
    return n / S::PART * (2 * S::PART) + within % S::EACH * 16 + within / S::EACH * 2;
}

/* Eight numbers of columns n and n + EACH, from row k on, k a multiple of eight. */
template <typename S>
static __device__ void store_weights(char *slice, uint32_t k, uint32_t n, const ni_eight &a, const ni_eight &b,
                                     float first, float second) {
    char *const to = slice + (at_row<S::COLS>(k) << 4);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
        *(uint32_t *)(to + ((at_row<S::COLS>(i) << 4) ^ at_column<S>(n))) =
            ni_pack_two(ni_f32_mul(a.x[i], first), ni_f32_mul(b.x[i], second));
}

/* w[k, n - first] of the slice: values [n, k] times their row's scale, rounded to BF16. Whether a scale is such that a
 * weight may be wild: a number of eight bits is one from 2^-16 to 2^16. */
template <typename S>
static __device__ bool load_slice(char *slice, const uint16_t *values, const float *scales, int64_t first,
                                  uint32_t depth) {
    enum { PAIRS = S::COLS / 2, STEP = 16 };
    const uint32_t pair = threadIdx.x % PAIRS, n = pair / S::EACH * (2 * S::EACH) + pair % S::EACH;
    const uint16_t *const from = values + (first + n) * depth, *const beside = from + S::EACH * depth;
    const float scale = scales[first + n], other = scales[first + n + S::EACH];
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

/* ---- what another kernel gathered meanwhile, and shared memory by addresses ---- */

static __device__ uint32_t load_word(const uint32_t *from) {
    uint32_t word;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(word) : "l"(ni_global(from)) : "memory");
    return word;
}

static __device__ uint32_t load_half(uint64_t from) {
    uint16_t half;
    asm volatile("ld.global.b16 %0, [%1];" : "=h"(half) : "l"(from) : "memory");
    return half;
}

/* As load_matrix_trans, which wants a pointer. */
static __device__ void load_turned(uint32_t (&w)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(at)
                 : "memory");
}

static __device__ uint16_t shared_half(uint32_t at) {
    uint16_t half;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(half) : "r"(at) : "memory");
    return half;
}

/* ---- eight rows ---- */

/* Of lane 4 g + t: rows 2 t and 2 t + 1, columns EACH g on of each part. */
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

/* Sixteen entries: values of places 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, and where the row of the lane's own place begins. */
typedef struct chunk {
    uint4 entries;
    uint32_t begin;
} chunk;

template <typename S> static __device__ void add_chunk(numbers<S> *a, uint32_t slice, const chunk &c) {
    const uint32_t e[4] = {c.entries.x, c.entries.y, c.entries.z, c.entries.w}, mine = 1u << threadIdx.x % 32 / 4,
                   at = slice + (c.begin << 4);
    uint32_t own[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        own[i] = e[i] & mine ? e[i] : 0u;
    const uint32_t b0 = __byte_perm(own[0], own[1], 0x7632), b1 = __byte_perm(own[2], own[3], 0x7632),
                   half = threadIdx.x & 8u ? 16 : 0; /* two lanes a row of sixteen columns */
#pragma unroll
    for (int p = 0; p < S::PARTS; p++)
#pragma unroll
        for (int j = 0; j < S::TILES; j++) {
            const uint32_t tile = p * S::TILES + j;
            uint32_t w[4];
            load_turned(w, (at ^ half ^ 32 * (tile % 4)) + 128 * (tile / 4));
            float x[4] = {a->x[0][p][2 * j], a->x[1][p][2 * j], a->x[0][p][2 * j + 1], a->x[1][p][2 * j + 1]};
            mma(x, w, b0, b1);
            a->x[0][p][2 * j] = x[0];
            a->x[1][p][2 * j] = x[1];
            a->x[0][p][2 * j + 1] = x[2];
            a->x[1][p][2 * j + 1] = x[3];
        }
}

/* The same, one by one. */
template <typename S> static __device__ void add_each(numbers<S> *a, uint32_t slice, const chunk &c) {
    const uint32_t mine[4] = {c.entries.x, c.entries.y, c.entries.z, c.entries.w}, g = threadIdx.x % 32 / 4,
                   t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll 1
        for (int from = 0; from < 4; from++) {
            const uint32_t e = __shfl_sync(~0u, mine[i], from, 4), row = __ffs(e & 0xffu) - 1,
                           place = 2 * from + i / 2 * 8 + i % 2,
                           at = slice + (__shfl_sync(~0u, c.begin, place % 8 + place / 8 * 16) << 4);
            const float v = __uint_as_float(e & 0xffff0000u);
            if (e == 0 || row / 2 != t)
                continue;
#pragma unroll
            for (int p = 0; p < S::PARTS; p++)
#pragma unroll
                for (int n = 0; n < S::EACH; n++) {
                    const uint32_t unit = p * S::EACH + n;
                    const float x = ni_bf16_value(shared_half((at ^ 16 * (unit % 8)) + 128 * (unit / 8) + 2 * g)),
                                sum = ni_f32_add(row % 2 ? a->x[1][p][n] : a->x[0][p][n], ni_f32_mul(v, x));
                    a->x[0][p][n] = row % 2 ? a->x[0][p][n] : sum;
                    a->x[1][p][n] = row % 2 ? sum : a->x[1][p][n];
                }
        }
}

template <typename S>
static __device__ void add(numbers<S> *a, uint32_t slice, const chunk &c, bool usual) {
    if (usual)
        add_chunk<S>(a, slice, c);
    else
        add_each<S>(a, slice, c);
}

static __device__ uint32_t header_at(const gathered &g, uint32_t group) {
    return group < g.groups ? load_word(g.headers + group) : 0;
}

/* Where a lane reads chunk after chunk: of its own place, lane % 8 of the first eight or of the last, the row. Nobody looks at
 * what is read behind the last (MORE_CHUNKS). */
typedef struct stream {
    uint64_t entries, begins;
} stream;

static __device__ stream stream_of(const gathered &g, uint32_t group) {
    const uint32_t lane = threadIdx.x % 32, at = (group < g.groups ? group : 0) * g.most * CHUNK;
    return (stream){ni_global(g.entries + at + 4 * (lane % 4)),
                    ni_global(g.begins + at + at_place(lane % 8 + lane / 16 * 8))};
}

static __device__ chunk next_of(stream *s) {
    const chunk c = {ni_load_words(s->entries), load_half(s->begins)};
    s->entries += CHUNK * sizeof(uint32_t);
    s->begins += CHUNK * sizeof(uint16_t);
    return c;
}

/* Entries are on their way for two chunks, numbers and first entries of the next group for a whole one. The slice is loaded
 * while entries are gathered still. */
template <typename S>
static __global__ void __launch_bounds__(S::THREADS, 1)
    finish_sparse(const __grid_constant__ ni_cuda_finish f, const __grid_constant__ gathered of) {
    extern __shared__ __align__(256) char slice[];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, beside = S::WARP_COLS * (warp % S::ABREAST),
                   stride = gridDim.y * S::GROUPS, from = shared_address(slice) + 2 * beside;
    const int first = (int)blockIdx.x * S::COLS, n = first + (int)(beside + S::EACH * (lane / 4));
    uint32_t group = blockIdx.y * S::GROUPS + warp / S::ABREAST;
    const bool scaled = f.rows.at || f.columns.at;
    numbers<S> next = load_rows<S>(f, group, n);
    const bool tame = !__syncthreads_or(load_slice<S>(slice, f.weights, f.weight_scales, first, (uint32_t)f.depth));
    ni_wait_for_it();
    uint32_t header = header_at(of, group);
    stream s = stream_of(of, group);
    chunk even = next_of(&s), odd = next_of(&s);
    while (group < of.groups) {
        const uint32_t now = group, chunks = header & ~WILD;
        const bool usual = tame && !(header & WILD);
        numbers<S> a = next;
        group += stride;
        const uint32_t next_header = header_at(of, group);
        next = load_rows<S>(f, group, n);
        if (scaled)
            put_scales<S>(f, &a, now, n);
        for (uint32_t c = 0; c < chunks; c += 2) {
            add<S>(&a, from, even, usual);
            even = next_of(&s);
            if (c + 1 < chunks)
                add<S>(&a, from, odd, usual);
            odd = next_of(&s);
        }
        header = next_header;
        s = stream_of(of, group);
        even = next_of(&s);
        odd = next_of(&s);
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
    const gathered to = gathered_in(memory, &f->sparse, f->rows_count);
    const int64_t slices = f->cols / S::COLS, bands = multiprocessors / slices,
                  most = ni_divide_up(to.groups, S::GROUPS);
    const cudaError_t code =
        cudaFuncSetAttribute(finish_sparse<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (code != cudaSuccess)
        return code;
    gather<S::COLS>
        <<<(unsigned)ni_divide_up(to.groups, NI_WARPS), NI_THREADS, 0, on>>>(to, f->sparse, f->rows_count);
    return ni_launch_following(on, finish_sparse<S>,
                               dim3((unsigned)slices, (unsigned)(bands < 1 ? 1 : bands < most ? bands : most)), S::THREADS,
                               bytes, *f, to);
}

int ni_cuda_launch_finish_sparse(void *stream, const ni_cuda_finish *f, void *memory, int multiprocessors) {
    cudaStream_t on = (cudaStream_t)stream;
    switch (slice_of(f)) {
    case 128:
        return launch<shape<128, W128, T128>>(on, f, memory, multiprocessors);
    case 64:
        return launch<shape<64, 64, T64>>(on, f, memory, multiprocessors);
    case 32:
        return launch<shape<32, 32, T32>>(on, f, memory, multiprocessors);
    default:
        return launch<shape<16, 16, 1024>>(on, f, memory, multiprocessors);
    }
}
