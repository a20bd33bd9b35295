/* gemm.c: cuts a matrix product into fixed output tiles and gives each to a library or a kernel of ours, one thread a
 * tile.
 *
 * Each runs on one thread, and where bits depend on the tiles, they follow from the shape of C alone: the number of
 * threads changes no bit. Which library multiplies what is in docs/gemm.md; F64 is reference arithmetic and runs as
 * such.
 */
#include "backend/cpu/gemm.h"

#include "backend/cpu/ops_kernels.h"
#include "backend/ref/gemm.h"

#include <omp.h>

nb_mat ni_mat_part(const nb_mat *m, int64_t row, int64_t col, int64_t rows, int64_t cols) {
    nb_mat part = *m;
    size_t size = m->dtype == NB_BF16 ? 2 : 4;
    part.data = (char *)m->data + (size_t)(row * m->stride + col) * size;
    part.rows = rows;
    part.cols = cols;
    return part;
}

/* ---- tiles ---- */

typedef struct tiling {
    int64_t rows, cols; /* of one tile */
    int64_t down, across;
} tiling;

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* The largest tiles of a list of which there are enough. A library copies the operand that is not in its own order once
 * a tile: B is copied seldom in tall tiles, a transposed A in wide ones (measured: docs/ledger.md). A kernel of ours
 * copies both. */
static tiling choose_tiling(int64_t rows, int64_t cols, const int16_t (*sizes)[2], int64_t enough) {
    tiling t = {0, 0, 0, 0};
    for (; sizes[0][0]; sizes++) {
        t.rows = sizes[0][0];
        t.cols = sizes[0][1];
        t.down = divide_up(rows, t.rows);
        t.across = divide_up(cols, t.cols);
        if (t.down * t.across >= enough)
            break;
    }
    return t;
}

typedef struct product {
    const ni_gemm_engine *engine;
    ni_gemm_tile whole;
    bool through_f32; /* a tile is summed in scratch and finished from there */
    tiling tiling;
    size_t tile_bytes, scratch_bytes;
} product;

static ni_gemm_tile cut(const product *p, int64_t row, int64_t col, float *sum) {
    const ni_gemm_tile *w = &p->whole;
    int64_t rows = w->c.rows - row < p->tiling.rows ? w->c.rows - row : p->tiling.rows;
    int64_t cols = w->c.cols - col < p->tiling.cols ? w->c.cols - col : p->tiling.cols;
    ni_gemm_tile t = *w;
    t.a = w->trans_a ? ni_mat_part(&w->a, 0, row, w->a.rows, rows) : ni_mat_part(&w->a, row, 0, rows, w->a.cols);
    t.b = w->trans_b ? ni_mat_part(&w->b, col, 0, cols, w->b.cols) : ni_mat_part(&w->b, 0, col, w->b.rows, cols);
    t.c = ni_mat_part(&w->c, row, col, rows, cols);
    if (w->row_scale) {
        t.row_scale = w->row_scale + row;
        t.col_scale = w->col_scale + col;
    }
    if (p->through_f32) {
        t.c = nb_mat_of(sum, NB_F32, rows, cols);
        t.c.stride = p->tiling.cols;
        t.accumulate = false;
        t.row_scale = t.col_scale = NULL;
    }
    return t;
}

static void finish(nb_backend *be, const product *p, int64_t row, int64_t col, const nb_mat *sum) {
    const ni_cpu_kernels *kernels = ni_cpu_kernels_of(be);
    const nb_mat c = ni_mat_part(&p->whole.c, row, col, sum->rows, sum->cols);
    const float *rows = p->whole.row_scale, *cols = rows ? p->whole.col_scale + col : NULL;
    bool bf16 = c.dtype == NB_BF16;
    for (int64_t i = 0; i < sum->rows; i++)
        kernels->finish((char *)c.data + (size_t)(i * c.stride) * nb_dtype_size(c.dtype), bf16, p->whole.accumulate,
                        (const float *)sum->data + i * sum->stride, rows ? rows[row + i] : 1, cols, sum->cols);
}

/* ---- the call ---- */

/* Where tiles decide bits there are enough for more threads than most machines have, whatever this one has. */
static tiling tiling_of(nb_backend *be, const product *p) {
    static const int16_t tall[][2] = {{1024, 128}, {512, 128}, {256, 128}, {128, 128}, {64, 128}, {64, 64}, {0, 0}};
    static const int16_t wide[][2] = {{128, 1024}, {128, 512}, {128, 256}, {128, 128}, {128, 64}, {64, 64}, {0, 0}};
    static const int16_t even[][2] = {{512, 256}, {256, 256}, {256, 128}, {128, 128}, {64, 64}, {0, 0}};
    const nb_mat *c = &p->whole.c;
    if (p->engine->any_tiles)
        return choose_tiling(c->rows, c->cols, even, 4 * (int64_t)ni_cpu_of(be)->threads);
    return choose_tiling(c->rows, c->cols, p->whole.trans_a ? wide : tall, 16);
}

/* Makes the library ready for each of the up to four shapes of tile: inner, right edge, bottom edge, corner. */
static nb_status prepare(nb_backend *be, product *p, nb_error *err) {
    int64_t last_row = (p->tiling.down - 1) * p->tiling.rows, last_col = (p->tiling.across - 1) * p->tiling.cols;
    p->tile_bytes = p->through_f32 ? (size_t)(p->tiling.rows * p->tiling.cols) * sizeof(float) : 0;
    p->scratch_bytes = 0;
    for (int corner = 0; corner < 4; corner++) {
        ni_gemm_tile tile = cut(p, corner & 1 ? last_row : 0, corner & 2 ? last_col : 0, NULL);
        size_t bytes = 0;
        NB_TRY(p->engine->prepare(be, &tile, &bytes, err));
        p->scratch_bytes = bytes > p->scratch_bytes ? bytes : p->scratch_bytes;
    }
    return NB_OK;
}

static bool run_tile(nb_backend *be, const product *p, int64_t index) {
    int64_t row = index / p->tiling.across * p->tiling.rows, col = index % p->tiling.across * p->tiling.cols;
    char *scratch = ni_cpu_scratch(be, omp_get_thread_num(), p->tile_bytes + p->scratch_bytes);
    if (!scratch)
        return false;
    ni_gemm_tile tile = cut(p, row, col, (float *)(void *)scratch);
    if (!p->engine->run(be, &tile, scratch + p->tile_bytes))
        return false;
    if (p->through_f32)
        finish(be, p, row, col, &tile.c);
    return true;
}

static nb_status run_product(nb_backend *be, product *p, nb_error *err) {
    p->tiling = tiling_of(be, p);
    int before = p->engine->enter ? p->engine->enter() : 0;
    nb_status status = prepare(be, p, err);
    int64_t tiles = p->tiling.down * p->tiling.across;
    int64_t depth = p->whole.trans_a ? p->whole.a.rows : p->whole.a.cols;
    int32_t team = ni_cpu_team(be, 2.0 * (double)(p->whole.c.rows * p->whole.c.cols) * (double)depth);
    bool failed = false;
    if (status == NB_OK) {
#pragma omp parallel num_threads(team)
        {
            omp_set_num_threads(1); /* of this thread's own regions: the library's */
#pragma omp for schedule(dynamic) reduction(|| : failed)
            for (int64_t i = 0; i < tiles; i++)
                failed = failed || !run_tile(be, p, i);
        }
    }
    if (p->engine->leave)
        p->engine->leave(before);
    if (failed)
        return nb_fail(err, NB_INTERNAL, "gemm: %s refused a tile of C [%lld, %lld], or there is no memory",
                       p->engine->name, (long long)p->whole.c.rows, (long long)p->whole.c.cols);
    return status;
}

nb_status ni_cpu_gemm_scaled(nb_backend *be, const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b,
                             bool trans_b, const float *rows, const float *cols, bool accumulate, nb_error *err) {
    NB_TRY(ni_gemm_check(c, a, trans_a, b, trans_b, err));
    int64_t depth = trans_a ? a->rows : a->cols;
    if (!c->rows || !c->cols)
        return NB_OK;
    if (!depth || c->dtype == NB_F64) /* empty sums, and F64, need no library */
        return ni_ref_gemm(be, c, a, trans_a, b, trans_b, accumulate, err);
    product p = {.engine = ni_cpu_of(be)->products[a->dtype == NB_BF16 && b->dtype == NB_BF16]};
    p.whole = (ni_gemm_tile){*a, *b, *c, trans_a, trans_b, accumulate, rows, cols};
    p.through_f32 = (rows && !p.engine->scales) || (c->dtype == NB_BF16 && !p.engine->stores_bf16);
    return run_product(be, &p, err);
}

nb_status ni_cpu_gemm(nb_backend *be, const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b, bool trans_b,
                      bool accumulate, nb_error *err) {
    return ni_cpu_gemm_scaled(be, c, a, trans_a, b, trans_b, NULL, NULL, accumulate, err);
}
