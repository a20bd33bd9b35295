/* gemm_own_avx2.c: one output tile of a plain product with AVX2 and FMA: BF16 operands are widened while they are
 * packed, and sums are scaled, added to C and rounded as they leave the registers.
 *
 * A and B are packed for DEPTH of the contraction at a time: B in panels of 16 columns, one of which stays in the
 * first-level cache; A in blocks of rows that stay in the second. Every element of C is one chain of fused
 * multiply-adds over each DEPTH, in order.
 */
#include "backend/cpu/gemm.h"
#include "backend/cpu/lanes.h"

enum { ROWS = 6, COLS = 16, HALF = COLS / 2, DEPTH = 256, BLOCK_ROWS = 32 * ROWS };

#define MULTIPLY_ADD(a, b, c) (vf32) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

/* ---- packing ---- */

/* `count` numbers from element (row, col) on. */
LANE_FN vf32 load(const nb_mat *m, bool bf16, int64_t row, int64_t col, int64_t count) {
    int64_t at = row * m->stride + col;
    return bf16 ? load_bf16((const uint16_t *)m->data + at, count) : load_f32((const float *)m->data + at, count);
}

LANE_FN void transpose(__m256 r[8]) {
    __m256 pair[8], four[8];
    for (int i = 0; i < 4; i++) {
        pair[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        pair[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        four[4 * i] = _mm256_shuffle_ps(pair[4 * i], pair[4 * i + 2], 0x44);
        four[4 * i + 1] = _mm256_shuffle_ps(pair[4 * i], pair[4 * i + 2], 0xee);
        four[4 * i + 2] = _mm256_shuffle_ps(pair[4 * i + 1], pair[4 * i + 3], 0x44);
        four[4 * i + 3] = _mm256_shuffle_ps(pair[4 * i + 1], pair[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
}

/* A panel [depth, 16] of B from rows of its transpose, those from `first` on; zeros beyond the last. */
LANE_FN void pack_rows_of_b(float *panel, const nb_mat *b, bool bf16, int64_t first, int64_t k, int64_t depth) {
    for (int64_t half = 0; half < COLS; half += HALF) {
        int64_t there = b->rows - first - half;
        for (int64_t at = 0; at < depth; at += HALF) {
            int64_t count = depth - at < HALF ? depth - at : HALF;
            __m256 part[HALF];
            for (int64_t i = 0; i < HALF; i++)
                part[i] = i < there ? (__m256)load(b, bf16, first + half + i, k + at, count) : _mm256_setzero_ps();
            transpose(part);
            for (int64_t i = 0; i < count; i++)
                _mm256_storeu_ps(panel + (at + i) * COLS + half, part[i]);
        }
    }
}

LANE_FN void pack_cols_of_b(float *panel, const nb_mat *b, bool bf16, int64_t first, int64_t k, int64_t depth) {
    for (int64_t half = 0; half < COLS; half += HALF) {
        int64_t there = b->cols - first - half;
        int64_t count = there > HALF ? HALF : there > 0 ? there : 0;
        for (int64_t at = 0; at < depth; at++)
            store_f32(panel + at * COLS + half, load(b, bf16, k + at, first + half, count), LANES);
    }
}

static void pack_b(float *panels, const nb_gemm_tile *t, int64_t k, int64_t depth) {
    bool bf16 = t->b.dtype == NB_BF16;
    for (int64_t first = 0; first < t->c.cols; first += COLS) {
        float *panel = panels + first * DEPTH;
        if (t->trans_b && bf16)
            pack_rows_of_b(panel, &t->b, true, first, k, depth);
        else if (t->trans_b)
            pack_rows_of_b(panel, &t->b, false, first, k, depth);
        else if (bf16)
            pack_cols_of_b(panel, &t->b, true, first, k, depth);
        else
            pack_cols_of_b(panel, &t->b, false, first, k, depth);
    }
}

/* Rows of A as they lie, DEPTH apart. */
LANE_FN void pack_rows_of_a(float *block, const nb_mat *a, bool bf16, int64_t first, int64_t rows, int64_t k,
                            int64_t depth) {
    for (int64_t r = 0; r < rows; r++)
        FOR_LANES(depth, { store_f32(block + r * DEPTH + i, load(a, bf16, first + r, k + i, count), count); });
}

/* Columns of the transpose of A, in panels [depth, 6]. A store of eight numbers spills into the next step, and that of
 * the last step into the next panel: both are written afterwards. */
LANE_FN void pack_cols_of_a(float *block, const nb_mat *a, bool bf16, int64_t first, int64_t rows, int64_t k,
                            int64_t depth) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        int64_t there = a->cols - first - r, count = there > LANES ? LANES : there;
        for (int64_t at = 0; at < depth; at++)
            store_f32(block + r * DEPTH + at * ROWS, load(a, bf16, k + at, first + r, count), LANES);
    }
}

static void pack_a(float *block, const nb_gemm_tile *t, int64_t first, int64_t rows, int64_t k, int64_t depth) {
    bool bf16 = t->a.dtype == NB_BF16;
    if (t->trans_a && bf16)
        pack_cols_of_a(block, &t->a, true, first, rows, k, depth);
    else if (t->trans_a)
        pack_cols_of_a(block, &t->a, false, first, rows, k, depth);
    else if (bf16)
        pack_rows_of_a(block, &t->a, true, first, rows, k, depth);
    else
        pack_rows_of_a(block, &t->a, false, first, rows, k, depth);
}

/* ---- products ---- */

/* sums[rows, 16] = A[rows, depth] B[depth, 16], or added to them; element (r, k) of A is a[r * a_row + k * a_k]. */
LANE_FN void multiply(int rows, float *sums, int64_t pitch, bool add, const float *a, int64_t a_row, int64_t a_k,
                      const float *b, int64_t depth) {
    vf32 sum[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++)
            sum[r][half] = add ? load_f32(sums + r * pitch + half * HALF, LANES) : (vf32){0};
    for (int64_t k = 0; k < depth; k++) {
        vf32 left = load_f32(b + k * COLS, LANES), right = load_f32(b + k * COLS + HALF, LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vf32 factor = splat(a[r * a_row + k * a_k]);
            sum[r][0] = MULTIPLY_ADD(factor, left, sum[r][0]);
            sum[r][1] = MULTIPLY_ADD(factor, right, sum[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++)
            store_f32(sums + r * pitch + half * HALF, sum[r][half], LANES);
}

/* An odd row count takes a row too many: block and sums have room for it, and nobody reads its sums. */
#define MULTIPLY_UP_TO_SIX(a_row, a_k)                                                                                 \
    do {                                                                                                               \
        if (rows > 4)                                                                                                  \
            multiply(6, sums, pitch, add, a, a_row, a_k, b, depth);                                                    \
        else if (rows > 2)                                                                                             \
            multiply(4, sums, pitch, add, a, a_row, a_k, b, depth);                                                    \
        else                                                                                                           \
            multiply(2, sums, pitch, add, a, a_row, a_k, b, depth);                                                    \
    } while (0)

static void multiply_rows(int64_t rows, float *sums, int64_t pitch, bool add, const float *a, const float *b,
                          int64_t depth) {
    MULTIPLY_UP_TO_SIX(DEPTH, 1);
}

static void multiply_panel(int64_t rows, float *sums, int64_t pitch, bool add, const float *a, const float *b,
                           int64_t depth) {
    MULTIPLY_UP_TO_SIX(1, ROWS);
}

/* ---- C ---- */

/* Sums [rows, 16] become elements of C from (row, col) on: scaled, added to C where asked, rounded once. */
static void finish(const nb_gemm_tile *t, const float *sums, int64_t pitch, int64_t row, int64_t col, int64_t rows) {
    int64_t cols = t->c.cols - col < COLS ? t->c.cols - col : COLS;
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (row + r) * t->c.stride + col;
        FOR_LANES(cols, {
            vf32 sum = load_f32(sums + r * pitch + i, count);
            if (t->row_scale)
                sum = sum * (t->row_scale[row + r] * load_f32(t->col_scale + col + i, count));
            if (t->accumulate)
                sum = load(&t->c, t->c.dtype == NB_BF16, row + r, col + i, count) + sum;
            if (t->c.dtype == NB_BF16)
                store_bf16((uint16_t *)t->c.data + at + i, sum, count);
            else
                store_f32((float *)t->c.data + at + i, sum, count);
        });
    }
}

/* One block of rows of A times all panels of B, `depth` deep. Sums that are not whole yet stay in `sums`. */
static void run_block(const nb_gemm_tile *t, float *sums, const float *block, const float *panels, int64_t first,
                      int64_t rows, int64_t k, int64_t depth) {
    bool last = k + depth == (t->trans_a ? t->a.rows : t->a.cols);
    int64_t width = round_up(t->c.cols, COLS);
    for (int64_t col = 0; col < t->c.cols; col += COLS) {
        for (int64_t r = 0; r < rows; r += ROWS) {
            int64_t count = rows - r < ROWS ? rows - r : ROWS;
            float whole[ROWS * COLS], *to = sums + (first + r) * width + col;
            bool once = last && k == 0;
            (t->trans_a ? multiply_panel : multiply_rows)(count, once ? whole : to, once ? COLS : width, k > 0,
                                                          block + r * DEPTH, panels + col * DEPTH, depth);
            if (last)
                finish(t, once ? whole : to, once ? COLS : width, first + r, col, count);
        }
    }
}

/* Scratch: panels of B, a block of A with room for a spilling store, sums where they do not fit one DEPTH. */
static size_t floats_of_b(const nb_gemm_tile *t) {
    return (size_t)round_up(t->c.cols, COLS) * DEPTH;
}

static const size_t floats_of_a = (size_t)(BLOCK_ROWS + ROWS) * DEPTH;

static nb_status prepare(nb_backend *be, const nb_gemm_tile *t, size_t *scratch, nb_error *err) {
    (void)be;
    (void)err;
    bool once = (t->trans_a ? t->a.rows : t->a.cols) <= DEPTH;
    size_t sums = once ? 0 : (size_t)(round_up(t->c.rows, ROWS) * round_up(t->c.cols, COLS));
    *scratch = (floats_of_b(t) + floats_of_a + sums) * sizeof(float);
    return NB_OK;
}

static bool run(nb_backend *be, const nb_gemm_tile *t, void *scratch) {
    (void)be;
    float *panels = scratch, *block = panels + floats_of_b(t), *sums = block + floats_of_a;
    int64_t depth = t->trans_a ? t->a.rows : t->a.cols;
    for (int64_t k = 0; k < depth; k += DEPTH) {
        int64_t deep = depth - k < DEPTH ? depth - k : DEPTH;
        pack_b(panels, t, k, deep);
        for (int64_t first = 0; first < t->c.rows; first += BLOCK_ROWS) {
            int64_t rows = t->c.rows - first < BLOCK_ROWS ? t->c.rows - first : BLOCK_ROWS;
            pack_a(block, t, first, rows, k, deep);
            run_block(t, sums, block, panels, first, rows, k, deep);
        }
    }
    return true;
}

static int enter(void) {
    return 0;
}

static void leave(int before) {
    (void)before;
}

const nb_gemm_library nb_gemm_own_avx2 = {"avx2", prepare, run, true, true, enter, leave};
