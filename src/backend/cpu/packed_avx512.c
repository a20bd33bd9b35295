/* packed_avx512.c: packed products by AVX-512 VNNI, which multiplies unsigned by signed bytes, four to a lane.
 *
 * Panel of A, a step:  uint8 integer+offset[8 rows][16]   float scale[8]   (padded)                        192 bytes
 * Panel of B, a step:  int8 integer[4 quads of k][32 cols][4]   int32 start[32 cols]   float scale[32]     768 bytes
 *
 * A quad of one row of A (one dword) is broadcast from memory against a quad of 16 columns of B. The offset that makes
 * A unsigned adds offset * sum(b) to a dot; it is taken back by starting at `start` = -offset * sum(b).
 */
#include "backend/cpu/packed_tile.h"

#include <immintrin.h>

enum { ROWS = 8, GROUPS = 2, COLS = 16 * GROUPS, QUADS = 4 };

typedef struct step_a {
    uint8_t integer[ROWS][NI_PACKED_STEP];
    float scale[ROWS];
    char padding[32];
} step_a;

typedef struct step_b {
    int8_t integer[QUADS][GROUPS][16][4];
    int32_t start[COLS];
    float scale[COLS];
} step_b;

/* ---- panels ---- */

/* HiFloat4's integers, doubled where the masks say. */
static inline __m512i doubled(__m512i integers, const uint32_t once[16], const uint32_t twice[16]) {
    integers = _mm512_add_epi8(integers, _mm512_and_si512(integers, _mm512_loadu_si512(once)));
    return _mm512_add_epi8(integers, _mm512_and_si512(integers, _mm512_loadu_si512(twice)));
}

/* Of a step of four rows, one after another. */
static __m512i doubled_rows(__m512i integers, const ni_packed_operand *t, int64_t row, int64_t s) {
    uint32_t once[16], twice[16];
    for (int64_t i = 0; i < 4; i++) {
        const ni_doublings d = ni_packed_doublings(t, row + i, s);
        memcpy(once + 4 * i, d.once, sizeof d.once);
        memcpy(twice + 4 * i, d.twice, sizeof d.twice);
    }
    return doubled(integers, once, twice);
}

/* Of quad q of a step of 16 rows, a lane each. */
static __m512i doubled_quads(__m512i integers, const ni_packed_operand *t, int64_t row, int64_t s, int q) {
    uint32_t once[16], twice[16];
    for (int64_t i = 0; i < 16; i++) {
        const ni_doublings d = ni_packed_doublings(t, row + i, s);
        once[i] = d.once[q];
        twice[i] = d.twice[q];
    }
    return doubled(integers, once, twice);
}

static inline __attribute__((always_inline)) void unpack_a(void *panel, const ni_packed_operand *a, int64_t first_row,
                                                           bool inner) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)a->integer));
    const __m512i low = _mm512_set1_epi8(0x0f), offset = _mm512_set1_epi8(a->offset);
    step_a *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < a->depth; s++, to++) {
        for (int64_t i = 0; i < ROWS; i += 4) {
            int64_t row = first_row + i;
            __m256i codes = _mm256_setr_epi64x(
                (int64_t)ni_packed_codes(a, row, s, inner), (int64_t)ni_packed_codes(a, row + 1, s, inner),
                (int64_t)ni_packed_codes(a, row + 2, s, inner), (int64_t)ni_packed_codes(a, row + 3, s, inner));
            __m512i pairs = _mm512_cvtepu8_epi16(codes);                                                  /* 00HL */
            __m512i nibbles = _mm512_and_si512(_mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4)), low); /* 0H0L */
            __m512i integers = _mm512_shuffle_epi8(table, nibbles);
            if (a->scale_bytes == NI_HIF4_BYTES)
                integers = doubled_rows(integers, a, row, s);
            _mm512_storeu_si512(to->integer[i], _mm512_add_epi8(integers, offset));
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

/* Eight rows of 16 codes. */
static inline __m512i codes_of_8(const ni_packed_operand *b, int64_t row, int64_t s, bool inner) {
    return _mm512_setr_epi64(
        (int64_t)ni_packed_codes(b, row, s, inner), (int64_t)ni_packed_codes(b, row + 1, s, inner),
        (int64_t)ni_packed_codes(b, row + 2, s, inner), (int64_t)ni_packed_codes(b, row + 3, s, inner),
        (int64_t)ni_packed_codes(b, row + 4, s, inner), (int64_t)ni_packed_codes(b, row + 5, s, inner),
        (int64_t)ni_packed_codes(b, row + 6, s, inner), (int64_t)ni_packed_codes(b, row + 7, s, inner));
}

static inline __attribute__((always_inline)) void unpack_b(void *panel, const ni_packed_operand *b, int64_t first_row,
                                                           bool inner) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)b->integer));
    const __m512i offset = _mm512_set1_epi8(b->other_offset);
    uint16_t quad_words[32];
    for (int col = 0; col < 32; col++)
        quad_words[col] = (uint16_t)(4 * (col % 16)); /* word of quad 0 of each column, in two registers */
    const __m512i words = _mm512_loadu_si512(quad_words);
    step_b *to = panel;
    for (int64_t s = 0; s * NI_PACKED_STEP < b->depth; s++, to++) {
        for (int g = 0; g < GROUPS; g++) {
            __m512i left = codes_of_8(b, first_row + 16 * g, s, inner),
                    right = codes_of_8(b, first_row + 16 * g + 8, s, inner);
            __m512i taken = _mm512_setzero_si512();
            for (int q = 0; q < QUADS; q++) {
                __m512i index = _mm512_add_epi16(words, _mm512_set1_epi16((int16_t)q));
                __m512i quads = _mm512_cvtepu16_epi32(
                    _mm512_castsi512_si256(_mm512_permutex2var_epi16(left, index, right))); /* 0000 dcba */
                quads = _mm512_and_si512(_mm512_or_si512(quads, _mm512_slli_epi32(quads, 8)),
                                         _mm512_set1_epi32(0x00ff00ff)); /* 00dc 00ba */
                quads = _mm512_and_si512(_mm512_or_si512(quads, _mm512_slli_epi32(quads, 4)),
                                         _mm512_set1_epi8(0x0f)); /* 0d0c 0b0a */
                __m512i integers = _mm512_shuffle_epi8(table, quads);
                if (b->scale_bytes == NI_HIF4_BYTES)
                    integers = doubled_quads(integers, b, first_row + 16 * g, s, q);
                taken = _mm512_dpbusd_epi32(taken, offset, integers);
                _mm512_storeu_si512(to->integer[q][g], integers);
            }
            _mm512_storeu_si512(&to->start[16 * g], _mm512_sub_epi32(_mm512_setzero_si512(), taken));
        }
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
    __m512 sum[ROWS][GROUPS];
} tile;

static inline __m512i broadcast_quad(const step_a *a, int i, int q) {
    int32_t quad;
    memcpy(&quad, &a->integer[i][4 * q], sizeof quad);
    return _mm512_set1_epi32(quad);
}

static inline __m512i dot_step(__m512i start, const step_a *a, int i, const __m512i b[QUADS]) {
    for (int q = 0; q < QUADS; q++)
        start = _mm512_dpbusd_epi32(start, broadcast_quad(a, i, q), b[q]);
    return start;
}

static inline void load_step(__m512i quads[GROUPS][QUADS], const step_b *b) {
    for (int g = 0; g < GROUPS; g++)
        for (int q = 0; q < QUADS; q++)
            quads[g][q] = _mm512_load_si512(b->integer[q][g]);
}

/* One step into every sum. `tile_scale` (NULL: none): the scale of each [group][row], where 16 columns share theirs. */
static inline __attribute__((always_inline)) void add_step(tile *t, const step_a *a, const step_b *b,
                                                           const float *tile_scale) {
    __m512i quads[GROUPS][QUADS];
    load_step(quads, b);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
        for (int g = 0; g < GROUPS; g++) {
            __m512i dot = dot_step(_mm512_load_si512(&b->start[16 * g]), a, i, quads[g]);
            __m512 scale = tile_scale ? _mm512_set1_ps(tile_scale[g * ROWS + i])
                                      : _mm512_mul_ps(_mm512_load_ps(&b->scale[16 * g]), _mm512_set1_ps(a->scale[i]));
            t->sum[i][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, t->sum[i][g]);
        }
    }
}

static inline void fetch(const char *ahead, int64_t step) {
    _mm_prefetch(ahead + 128 * step, _MM_HINT_T1);
    _mm_prefetch(ahead + 128 * step + 64, _MM_HINT_T1);
}

static void sum_e4m3(tile *t, const step_a *a, const step_b *b, int64_t steps, const char *ahead) {
    for (int64_t s = 0; s < steps; s++) {
        fetch(ahead, s);
        add_step(t, a + s, b + s, NULL);
    }
}

/* The products of scales are made for many steps ahead: a vector multiplication serves 16 sums, and its result is out
 * of the store queue when it is broadcast from memory. */
static void sum_e4m3_tiles(tile *t, const step_a *a, const step_b *b, int64_t steps, const char *ahead) {
    enum { AHEAD = 64 };
    _Alignas(64) float scale[AHEAD][GROUPS * ROWS];
    for (int64_t first = 0; first < steps; first += AHEAD) {
        int64_t end = first + AHEAD < steps ? first + AHEAD : steps;
        for (int64_t s = first; s < end; s++) {
            __m512 rows = _mm512_broadcast_f32x8(_mm256_load_ps(a[s].scale));
            __m512 groups = _mm512_insertf32x8(_mm512_set1_ps(b[s].scale[0]), _mm256_set1_ps(b[s].scale[16]), 1);
            _mm512_store_ps(scale[s - first], _mm512_mul_ps(rows, groups));
        }
        for (int64_t s = first; s < end; s++) {
            fetch(ahead, s);
            add_step(t, a + s, b + s, scale[s - first]);
        }
    }
}

static void sum_e8m0(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    for (int64_t s = 0; s < steps; s += 2, a += 2, b += 2) {
        __m512i quads[GROUPS][QUADS], more[GROUPS][QUADS];
        load_step(quads, b);
        load_step(more, b + 1);
        __m512i start[GROUPS];
        for (int g = 0; g < GROUPS; g++)
            start[g] = _mm512_add_epi32(_mm512_load_si512(&b[0].start[16 * g]), _mm512_load_si512(&b[1].start[16 * g]));
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
            for (int g = 0; g < GROUPS; g++) {
                __m512i dot = dot_step(start[g], a, i, quads[g]);
                dot = dot_step(dot, a + 1, i, more[g]);
                __m512 scale = _mm512_mul_ps(_mm512_load_ps(&b->scale[16 * g]), _mm512_set1_ps(a->scale[i]));
                t->sum[i][g] = _mm512_add_ps(t->sum[i][g], _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale));
            }
        }
    }
}

static void sum_hif4(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    enum { STEPS = NI_HIF4_GROUP / NI_PACKED_STEP };
    for (int64_t s = 0; s < steps; s += STEPS, a += STEPS, b += STEPS) {
        __m512i dot[ROWS][GROUPS];
        for (int i = 0; i < ROWS; i++)
            for (int g = 0; g < GROUPS; g++)
                dot[i][g] = _mm512_setzero_si512();
        for (int k = 0; k < STEPS; k++) {
            __m512i quads[GROUPS][QUADS];
            load_step(quads, b + k);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                for (int g = 0; g < GROUPS; g++) {
                    __m512i start = _mm512_load_si512(&b[k].start[16 * g]);
                    dot[i][g] = dot_step(_mm512_add_epi32(dot[i][g], start), a + k, i, quads[g]);
                }
        }
        for (int i = 0; i < ROWS; i++)
            for (int g = 0; g < GROUPS; g++) {
                __m512 scale = _mm512_mul_ps(_mm512_load_ps(&b->scale[16 * g]), _mm512_set1_ps(a->scale[i]));
                t->sum[i][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][g]), scale, t->sum[i][g]);
            }
    }
}

static void sum_whole(tile *t, const step_a *a, const step_b *b, int64_t steps) {
    __m512i dot[ROWS][GROUPS];
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            dot[i][g] = _mm512_setzero_si512();
    __m512i start[GROUPS] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int64_t s = 0; s < steps; s++, a++, b++) {
        __m512i quads[GROUPS][QUADS];
        load_step(quads, b);
        for (int g = 0; g < GROUPS; g++)
            start[g] = _mm512_add_epi32(start[g], _mm512_load_si512(&b->start[16 * g]));
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
            for (int g = 0; g < GROUPS; g++)
                dot[i][g] = dot_step(dot[i][g], a, i, quads[g]);
    }
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            t->sum[i][g] = _mm512_cvtepi32_ps(_mm512_add_epi32(dot[i][g], start[g]));
}

static void multiply(ni_packed_sum sum, const void *panel_a, const void *panel_b, int64_t steps,
                     const ni_packed_result *to, const ni_packed_place *at) {
    tile t;
    for (int i = 0; i < ROWS; i++)
        for (int g = 0; g < GROUPS; g++)
            t.sum[i][g] = _mm512_setzero_ps();
    switch (sum) {
    case NI_SUM_E4M3:
        sum_e4m3(&t, panel_a, panel_b, steps, at->ahead);
        break;
    case NI_SUM_E4M3_TILES:
        sum_e4m3_tiles(&t, panel_a, panel_b, steps, at->ahead);
        break;
    case NI_SUM_HIF4:
        sum_hif4(&t, panel_a, panel_b, steps);
        break;
    case NI_SUM_E8M0:
        sum_e8m0(&t, panel_a, panel_b, steps);
        break;
    default:
        sum_whole(&t, panel_a, panel_b, steps);
        break;
    }
    ni_packed_store((const float *)(const void *)t.sum, COLS, to, at);
}

const ni_packed_kernel ni_packed_avx512 = {"packed avx512-vnni", ROWS,   COLS,   sizeof(step_a),
                                           sizeof(step_b),       pack_a, pack_b, multiply};
