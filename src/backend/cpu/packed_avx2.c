/* packed_avx2.c: packed products by AVX2, which multiplies unsigned by signed bytes into pairs of 16 bits.
 *
 * Panel of A, a step:  uint8 integer+offset[4 rows][16]   float scale[4]   (padded)              128 bytes
 * Panel of B, a step:  int8 integer[4 quads of k][16 cols][4]   int16 start[16 cols][2]   float scale[16]   384 bytes
 *
 * A quad of one row of A (one dword) is broadcast against a quad of 8 columns of B. The offset that makes A unsigned
 * adds offset * sum(b) to a dot; it is taken back by starting at `start` = -offset * (the sums of b's two pairs).
 * In 16 bits: 8 products of at most 24*12 = 2304 a lane, and a start of at most 8*12*12 = 1152.
 */
#include "backend/cpu/packed_tile.h"

#include <immintrin.h>

enum { ROWS = 4, GROUPS = 2, COLS = 8 * GROUPS, QUADS = 4 };

typedef struct step_a {
    uint8_t integer[ROWS][NB_PACKED_STEP];
    float scale[ROWS];
    char padding[48];
} step_a;

typedef struct step_b {
    int8_t integer[QUADS][GROUPS][8][4];
    int16_t start[GROUPS][8][2];
    float scale[COLS];
} step_b;

/* ---- panels ---- */

/* 16 codes as bytes, in order. */
static inline __m128i spread_codes(uint64_t codes) {
    __m128i x = _mm_cvtsi64_si128((int64_t)codes), low = _mm_set1_epi8(0x0f);
    return _mm_unpacklo_epi8(_mm_and_si128(x, low), _mm_and_si128(_mm_srli_epi16(x, 4), low));
}

static inline __attribute__((always_inline)) void unpack_a(void *panel, const nb_packed_operand *a, int64_t first_row,
                                                           bool inner) {
    const __m128i table = _mm_add_epi8(_mm_loadu_si128((const void *)a->integer), _mm_set1_epi8(a->offset));
    step_a *to = panel;
    for (int64_t s = 0; s * NB_PACKED_STEP < a->depth; s++, to++) {
        for (int64_t i = 0; i < ROWS; i++) {
            __m128i codes = spread_codes(nb_packed_codes(a, first_row + i, s, inner));
            _mm_storeu_si128((void *)to->integer[i], _mm_shuffle_epi8(table, codes));
        }
        nb_packed_scales(to->scale, a, first_row, ROWS, s);
    }
}

static void pack_a(void *panel, const nb_packed_operand *a, int64_t first_row) {
    if (nb_packed_inner(a, first_row, ROWS))
        unpack_a(panel, a, first_row, true);
    else
        unpack_a(panel, a, first_row, false);
}

/* Four columns' quads: a 4x4 transposition of dwords. */
static inline void store_quads(step_b *to, int64_t col, __m128i c0, __m128i c1, __m128i c2, __m128i c3) {
    __m128i low01 = _mm_unpacklo_epi32(c0, c1), low23 = _mm_unpacklo_epi32(c2, c3);
    __m128i high01 = _mm_unpackhi_epi32(c0, c1), high23 = _mm_unpackhi_epi32(c2, c3);
    int64_t g = col / 8, j = col % 8;
    _mm_storeu_si128((void *)to->integer[0][g][j], _mm_unpacklo_epi64(low01, low23));
    _mm_storeu_si128((void *)to->integer[1][g][j], _mm_unpackhi_epi64(low01, low23));
    _mm_storeu_si128((void *)to->integer[2][g][j], _mm_unpacklo_epi64(high01, high23));
    _mm_storeu_si128((void *)to->integer[3][g][j], _mm_unpackhi_epi64(high01, high23));
}

static inline __attribute__((always_inline)) void unpack_b(void *panel, const nb_packed_operand *b, int64_t first_row,
                                                           bool inner) {
    const __m128i table = _mm_loadu_si128((const void *)b->integer);
    const __m256i ones = _mm256_set1_epi8(1), offset = _mm256_set1_epi16(-b->other_offset);
    step_b *to = panel;
    for (int64_t s = 0; s * NB_PACKED_STEP < b->depth; s++, to++) {
        for (int64_t col = 0; col < COLS; col += 4) {
            __m128i c[4];
            for (int64_t j = 0; j < 4; j++)
                c[j] = _mm_shuffle_epi8(table, spread_codes(nb_packed_codes(b, first_row + col + j, s, inner)));
            store_quads(to, col, c[0], c[1], c[2], c[3]);
        }
        for (int g = 0; g < GROUPS; g++) {
            __m256i sums = _mm256_setzero_si256();
            for (int q = 0; q < QUADS; q++) {
                __m256i quads = _mm256_loadu_si256((const void *)to->integer[q][g]);
                sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(ones, quads));
            }
            _mm256_storeu_si256((void *)to->start[g], _mm256_mullo_epi16(sums, offset));
        }
        nb_packed_scales(to->scale, b, first_row, COLS, s);
    }
}

static void pack_b(void *panel, const nb_packed_operand *b, int64_t first_row) {
    if (nb_packed_inner(b, first_row, COLS))
        unpack_b(panel, b, first_row, true);
    else
        unpack_b(panel, b, first_row, false);
}

/* ---- micro-tiles ---- */

typedef struct tile {
    __m256 sum[ROWS][GROUPS];
} tile;

/* Dots of one row with 8 columns, as int32. */
static inline __m256i dot_step(const step_a *a, int i, const step_b *b, int g) {
    __m256i dot = _mm256_load_si256((const void *)b->start[g]);
    for (int q = 0; q < QUADS; q++) {
        int32_t quad;
        memcpy(&quad, &a->integer[i][4 * q], sizeof quad);
        __m256i quads = _mm256_load_si256((const void *)b->integer[q][g]);
        dot = _mm256_add_epi16(dot, _mm256_maddubs_epi16(_mm256_set1_epi32(quad), quads));
    }
    return _mm256_madd_epi16(dot, _mm256_set1_epi16(1));
}

static void sum_e4m3(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    for (int64_t s = 0; s < steps; s++, a++, b++) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
            for (int g = 0; g < GROUPS; g++) {
                __m256 dot = _mm256_cvtepi32_ps(dot_step(a, i, b, g));
                __m256 scale = _mm256_mul_ps(_mm256_load_ps(&b->scale[8 * g]), _mm256_set1_ps(a->scale[i]));
                t->sum[i][g] = _mm256_fmadd_ps(dot, scale, t->sum[i][g]);
            }
        }
    }
}

static void sum_e8m0(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    for (int64_t s = 0; s < steps; s += 2, a += 2, b += 2) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
            for (int g = 0; g < GROUPS; g++) {
                __m256i dot = _mm256_add_epi32(dot_step(a, i, b, g), dot_step(a + 1, i, b + 1, g));
                __m256 scale = _mm256_mul_ps(_mm256_load_ps(&b->scale[8 * g]), _mm256_set1_ps(a->scale[i]));
                t->sum[i][g] = _mm256_add_ps(t->sum[i][g], _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scale));
            }
        }
    }
}

static void sum_whole(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    __m256i total[ROWS][GROUPS];
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            total[i][g] = _mm256_setzero_si256();
    for (int64_t s = 0; s < steps; s++, a++, b++)
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
            for (int g = 0; g < GROUPS; g++)
                total[i][g] = _mm256_add_epi32(total[i][g], dot_step(a, i, b, g));
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            t->sum[i][g] = _mm256_cvtepi32_ps(total[i][g]);
}

static void multiply(nb_packed_sum sum, const void *panel_a, const void *panel_b, int64_t steps,
                     const nb_packed_result *to, const nb_packed_place *at) {
    tile t;
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            t.sum[i][g] = _mm256_setzero_ps();
    if (sum == NB_SUM_WHOLE)
        sum_whole(&t, panel_a, panel_b, steps);
    else if (sum == NB_SUM_E8M0)
        sum_e8m0(&t, panel_a, panel_b, steps);
    else
        sum_e4m3(&t, panel_a, panel_b, steps);
    nb_packed_store((const float *)(const void *)t.sum, COLS, to, at);
}

const nb_packed_kernel nb_packed_avx2 = {"packed avx2",  ROWS,   COLS,   sizeof(step_a),
                                         sizeof(step_b), pack_a, pack_b, multiply};
