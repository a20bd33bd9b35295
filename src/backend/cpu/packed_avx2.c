/* packed_avx2.c: packed products by AVX2, which multiplies unsigned by signed bytes into pairs of 16 bits.
 *
 * Panel of A, a step:  uint8 integer+offset[4 rows][8 pairs of k][2, twice]   float scale[4]            144 bytes
 * Panel of B, a step:  int8 integer[8 pairs of k][8][2 cols: j, j+8][2]   int16 start[8][2]   float scale[16]
 *                                                                                                       352 bytes
 * A pair of one row of A, twice in a dword, is broadcast against that pair of 16 columns of B, so a lane of 16 bits
 * holds the whole dot of a column: no sum over neighbours, which would cost the unit that multiplies. The offset that
 * makes A unsigned adds offset * sum(b) to a dot; it is taken back by starting at `start` = -offset * sum(b).
 * A dot is at most 16*12*12 = 2304, and within a step at most 16*24*12 = 4608 more: 16 bits hold the dots of a few
 * steps. HiFloat4's integers reach 28: its steps take 16*56*28 = 25088, and 16 bits hold one.
 */
#include "backend/cpu/packed_tile.h"

#include <immintrin.h>

enum { ROWS = 4, GROUPS = 2, COLS = 8 * GROUPS, PAIRS = NI_PACKED_STEP / 2 };

typedef struct step_a {
    uint8_t integer[ROWS][PAIRS][4];
    float scale[ROWS];
} step_a;

typedef struct step_b {
    int8_t integer[PAIRS][8][GROUPS][2];
    int16_t start[8][GROUPS];
    float scale[COLS];
} step_b;

/* ---- panels ---- */

/* 16 codes as bytes, in order. */
static inline __m128i spread_codes(uint64_t codes) {
    __m128i x = _mm_cvtsi64_si128((int64_t)codes), low = _mm_set1_epi8(0x0f);
    return _mm_unpacklo_epi8(_mm_and_si128(x, low), _mm_and_si128(_mm_srli_epi16(x, 4), low));
}

/* HiFloat4's 16 integers of a step, doubled. */
static inline __m128i doubled(__m128i bytes, const ni_packed_operand *t, int64_t row, int64_t step) {
    const ni_doublings d = ni_packed_doublings(t, row, step);
    bytes = _mm_add_epi8(bytes, _mm_and_si128(bytes, _mm_loadu_si128((const void *)d.once)));
    return _mm_add_epi8(bytes, _mm_and_si128(bytes, _mm_loadu_si128((const void *)d.twice)));
}

/* The integers of the 16 codes of a step. */
static inline __attribute__((always_inline)) __m128i integers_of(const ni_packed_operand *t, __m128i table, int64_t row,
                                                                 int64_t step, bool inner) {
    __m128i bytes = _mm_shuffle_epi8(table, spread_codes(ni_packed_codes(t, row, step, inner)));
    return t->scale_bytes == NI_HIF4_BYTES ? doubled(bytes, t, row, step) : bytes;
}

static inline __attribute__((always_inline)) void unpack_a(void *panel, const ni_packed_operand *a, int64_t first_row,
                                                           bool inner) {
    const __m128i table = _mm_loadu_si128((const void *)a->integer), offset = _mm_set1_epi8(a->offset);
    step_a *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < a->depth; s++, to++) {
        for (int64_t i = 0; i < ROWS; i++) {
            __m128i bytes = _mm_add_epi8(integers_of(a, table, first_row + i, s, inner), offset);
            _mm_storeu_si128((void *)to->integer[i][0], _mm_unpacklo_epi16(bytes, bytes));
            _mm_storeu_si128((void *)to->integer[i][4], _mm_unpackhi_epi16(bytes, bytes));
        }
        ni_packed_scales(to->scale, a, first_row, ROWS, s);
    }
}

static void pack_a(void *panel, const ni_packed_operand *a, int64_t first_row) {
    if (ni_packed_inner(a, first_row, ROWS))
        unpack_a(panel, a, first_row, true);
    else
        unpack_a(panel, a, first_row, false);
}

/* Pairs `first` to first+3 of four columns and their neighbours: a 4x4 transposition of dwords. */
static inline void store_pairs(step_b *to, int64_t first, int64_t col, const __m128i c[4]) {
    __m128i low01 = _mm_unpacklo_epi32(c[0], c[1]), low23 = _mm_unpacklo_epi32(c[2], c[3]);
    __m128i high01 = _mm_unpackhi_epi32(c[0], c[1]), high23 = _mm_unpackhi_epi32(c[2], c[3]);
    _mm_storeu_si128((void *)to->integer[first][col], _mm_unpacklo_epi64(low01, low23));
    _mm_storeu_si128((void *)to->integer[first + 1][col], _mm_unpackhi_epi64(low01, low23));
    _mm_storeu_si128((void *)to->integer[first + 2][col], _mm_unpacklo_epi64(high01, high23));
    _mm_storeu_si128((void *)to->integer[first + 3][col], _mm_unpackhi_epi64(high01, high23));
}

static inline __attribute__((always_inline)) void unpack_b(void *panel, const ni_packed_operand *b, int64_t first_row,
                                                           bool inner) {
    const __m128i table = _mm_loadu_si128((const void *)b->integer);
    const __m256i ones = _mm256_set1_epi8(1), offset = _mm256_set1_epi16(-b->other_offset);
    step_b *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < b->depth; s++, to++) {
        for (int64_t col = 0; col < 8; col += 4) {
            __m128i low[4], high[4];
            for (int64_t j = 0; j < 4; j++) {
                int64_t row = first_row + col + j;
                __m128i one = integers_of(b, table, row, s, inner), two = integers_of(b, table, row + 8, s, inner);
                low[j] = _mm_unpacklo_epi16(one, two);
                high[j] = _mm_unpackhi_epi16(one, two);
            }
            store_pairs(to, 0, col, low);
            store_pairs(to, 4, col, high);
        }
        __m256i sums = _mm256_setzero_si256();
        for (int p = 0; p < PAIRS; p++)
            sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(ones, _mm256_load_si256((const void *)to->integer[p])));
        _mm256_store_si256((void *)to->start, _mm256_mullo_epi16(sums, offset));
        ni_packed_scales(to->scale, b, first_row, COLS, s);
    }
}

static void pack_b(void *panel, const ni_packed_operand *b, int64_t first_row) {
    if (ni_packed_inner(b, first_row, COLS))
        unpack_b(panel, b, first_row, true);
    else
        unpack_b(panel, b, first_row, false);
}

/* ---- micro-tiles ---- */

typedef struct tile {
    __m256 sum[ROWS][GROUPS];
} tile;

/* The dots of a row with 16 columns, which lie as 0, 8, 1, 9, ..., added to `dots`. */
static inline __attribute__((always_inline)) __m256i add_dots(__m256i dots, const step_a *a, int i, const step_b *b) {
    dots = _mm256_add_epi16(dots, _mm256_load_si256((const void *)b->start));
#pragma GCC unroll 8
    for (int p = 0; p < PAIRS; p++) {
        __m256i pair = _mm256_castps_si256(_mm256_broadcast_ss((const void *)a->integer[i][p]));
        __m256i pairs = _mm256_load_si256((const void *)b->integer[p]);
        dots = _mm256_add_epi16(dots, _mm256_maddubs_epi16(pair, pairs));
    }
    return dots;
}

/* Columns 0 to 7, or 8 to 15, as int32. */
static inline __m256i group_of(__m256i dots, int g) {
    return _mm256_srai_epi32(g == 0 ? _mm256_slli_epi32(dots, 16) : dots, 16);
}

/* sum[i] += dots * scales of one step. Sixteen columns share their scale (16x16 blocks), or each has its own. */
static inline __attribute__((always_inline)) void add_scaled(tile *t, int i, __m256i dots, const step_a *a,
                                                             const step_b *b, bool shared) {
    __m256 all = shared ? _mm256_set1_ps(a->scale[i] * b->scale[0]) : _mm256_broadcast_ss(&a->scale[i]);
#pragma GCC unroll 2
    for (int g = 0; g < GROUPS; g++) {
        __m256 scale = shared ? all : _mm256_mul_ps(_mm256_load_ps(&b->scale[8 * g]), all);
        t->sum[i][g] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(group_of(dots, g)), scale, t->sum[i][g]);
    }
}

/* The dots of a row are scaled after those of the next are on their way: the processor's queues are too short to wait
 * for one and begin the other. */
static inline __attribute__((always_inline)) tile sum_e4m3(const step_a *a, const step_b *b, int64_t steps,
                                                           bool shared) {
    tile t = {{{{0}}}};
    if (steps == 0)
        return t;
    __m256i ready = add_dots(_mm256_setzero_si256(), a, 0, b);
    for (int64_t s = 0; s < steps; s++, a++, b++) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            bool wraps = i + 1 == ROWS, more = !wraps || s + 1 < steps;
            __m256i next = more ? add_dots(_mm256_setzero_si256(), a + wraps, (i + 1) % ROWS, b + wraps) : ready;
            add_scaled(&t, i, ready, a, b, shared);
            ready = next;
        }
    }
    return t;
}

static void sum_blocks(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    *t = sum_e4m3(a, b, steps, false);
}

static void sum_tiles(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    *t = sum_e4m3(a, b, steps, true);
}

static void sum_e8m0(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    for (int64_t s = 0; s < steps; s += 2, a += 2, b += 2) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            __m256i dots = add_dots(add_dots(_mm256_setzero_si256(), a, i, b), a + 1, i, b + 1);
#pragma GCC unroll 2
            for (int g = 0; g < GROUPS; g++) {
                __m256 dot = _mm256_cvtepi32_ps(group_of(dots, g));
                __m256 scale = _mm256_mul_ps(_mm256_load_ps(&b->scale[8 * g]), _mm256_set1_ps(a->scale[i]));
                t->sum[i][g] = _mm256_add_ps(t->sum[i][g], _mm256_mul_ps(dot, scale));
            }
        }
    }
}

static void sum_hif4(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    enum { STEPS = NI_HIF4_GROUP / NI_PACKED_STEP };
    for (int64_t s = 0; s < steps; s += STEPS, a += STEPS, b += STEPS) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            __m256i total[GROUPS] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (int k = 0; k < STEPS; k++) {
                __m256i dots = add_dots(_mm256_setzero_si256(), a + k, i, b + k);
                for (int g = 0; g < GROUPS; g++)
                    total[g] = _mm256_add_epi32(total[g], group_of(dots, g));
            }
#pragma GCC unroll 2
            for (int g = 0; g < GROUPS; g++) {
                __m256 scale = _mm256_mul_ps(_mm256_load_ps(&b->scale[8 * g]), _mm256_set1_ps(a->scale[i]));
                t->sum[i][g] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[g]), scale, t->sum[i][g]);
            }
        }
    }
}

static void sum_whole(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    enum { STEPS = 4 }; /* that 16 bits hold */
    __m256i total[ROWS][GROUPS];
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            total[i][g] = _mm256_setzero_si256();
    for (int64_t s = 0; s < steps; s += STEPS) {
        int64_t end = s + STEPS < steps ? s + STEPS : steps;
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            __m256i dots = _mm256_setzero_si256();
            for (int64_t at = s; at < end; at++)
                dots = add_dots(dots, a + at, i, b + at);
            for (int g = 0; g < GROUPS; g++)
                total[i][g] = _mm256_add_epi32(total[i][g], group_of(dots, g));
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            t->sum[i][g] = _mm256_cvtepi32_ps(total[i][g]);
}

static void multiply(ni_packed_sum sum, const void *panel_a, const void *panel_b, int64_t steps,
                     const ni_packed_result *to, const ni_packed_place *at) {
    tile t;
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            t.sum[i][g] = _mm256_setzero_ps();
    if (sum == NI_SUM_WHOLE)
        sum_whole(&t, panel_a, panel_b, steps);
    else if (sum == NI_SUM_HIF4)
        sum_hif4(&t, panel_a, panel_b, steps);
    else if (sum == NI_SUM_E8M0)
        sum_e8m0(&t, panel_a, panel_b, steps);
    else if (sum == NI_SUM_E4M3_TILES)
        sum_tiles(&t, panel_a, panel_b, steps);
    else
        sum_blocks(&t, panel_a, panel_b, steps);
    ni_packed_store((const float *)(const void *)t.sum, COLS, to, at);
}

const ni_packed_kernel ni_packed_avx2 = {"packed avx2",  ROWS,   COLS,   sizeof(step_a),
                                         sizeof(step_b), pack_a, pack_b, multiply};
