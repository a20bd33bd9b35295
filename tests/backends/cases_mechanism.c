/* cases_mechanism.c: what mechanisms of recipes ask for; bits but for the power in DGE. */
#include "operands.h"

static nb_quantizer tiles_or_rows(int which) {
    nb_quantizer q = ni_format_family_find(which >= 2 ? "e2m1" : "nvfp4")->defaults;
    q.block_rows = which == 1 ? 16 : which == 3 ? NB_BLOCK_ALL : 1;
    q.block_cols = which == 2 ? NB_BLOCK_ALL : which == 3 ? 1 : 16;
    q.rule = which == 3 ? NB_RULE_POW2 : q.rule;
    return q;
}

enum { ROWS = 48, COLS = 160, LENGTH = ROWS * COLS };

/* Codes of w under the quantizer of this shape. */
static nb_operand codes_of(trial *t, const nb_mat *w) {
    const nb_quantizer q = tiles_or_rows(t->shape);
    nb_operand codes = {.quantizer = q, .other = q, .rows = ROWS, .cols = COLS, .side = NI_RIGHT, .reread = true};
    codes.memory = scratch(t, t->be->ops->operand_bytes(t->be, &codes));
    const ni_making making = {.out = &codes};
    EXPECT_OK(t, t->be->ops->make_operands(t->be, &(ni_source){.numbers = w}, &making, 1, &err));
    return codes;
}

static nb_mat weights(trial *t, uint32_t stream) {
    return nb_mat_of(input(t, NB_F32, normals_in(NB_F32, stream, LENGTH, 0, 1), LENGTH), NB_F32, ROWS, COLS);
}

static void run_dge(trial *t) {
    const nb_mat w = weights(t, 1);
    const nb_operand codes = codes_of(t, &w);
    void *dw = input_real(t, 2, LENGTH, 0, 1), *narrow = input_real(t, 3, LENGTH, 0, 1);
    const ni_scaled masters = {.data = w.data, .dtype = NB_F32},
                    halves = {.data = scratch(t, LENGTH * sizeof(uint16_t)),
                              .dtype = NB_F16,
                              .rule = NB_RULE_POW2,
                              .scale = scratch(t, sizeof(float))};
    t->be->ops->scaled_encode(t->be, &halves, w.data, LENGTH);
    t->be->ops->dge(t->be, dw, &masters, &codes, 5, 3);
    keep(t, "dw", dw, NB_F32, LENGTH, false);
    t->be->ops->dge(t->be, narrow, &halves, &codes, 3, 3);
    keep(t, "dw of masters in FP16", narrow, NB_F32, LENGTH, false);
}

/* x and t are the same FP32 operations everywhere; the power is right within a few roundings. */
static double of_a_power(const trial *t) {
    (void)t;
    return 16;
}

static void run_bins(trial *t) {
    const nb_mat w = weights(t, 1), guide = weights(t, 3);
    nb_operand codes = codes_of(t, &w);
    t->be->ops->bin_widths(t->be, output(t, "widths", NB_F32, LENGTH), &codes);
    t->be->ops->round_by(t->be, &codes, w.data, guide.data);
    nb_qtensor seen = new_codes(t, &codes.quantizer, ROWS, COLS);
    EXPECT_OK(t, t->be->ops->canonical(t->be, &seen, &codes, &err));
    keep_codes(t, "rounded by a guide", &seen);
}

static void run_weights(trial *t) {
    const int64_t n = t->shape ? 40001 : 17;
    double *moved = normals_in(NB_F32, 4, n, 0, 1), *moved_q = normals_in(NB_F32, 5, n, 0, 4);
    for (int64_t i = 0; i < n; i++) {
        moved[i] = i % 5 ? fabs(moved[i]) : 0;
        moved_q[i] = fabs(moved_q[i]);
    }
    float *w = input_real(t, 1, n, 0, 1), *q = input_real(t, 2, n, 0, 1), *distance = input_real(t, 3, n, 1, 0.1);
    t->be->ops->add_distance(t->be, distance, w, q, n);
    keep(t, "distance", distance, NB_F32, n, true);
    int64_t *resets = scratch(t, sizeof *resets), count;
    t->be->ops->fill_zero(t->be, resets, sizeof *resets);
    t->be->ops->reset_where(t->be, resets, w, q, input(t, NB_F32, moved, n), input(t, NB_F32, moved_q, n), NULL, 0, n,
                            4);
    t->be->ops->download(t->be, &count, resets, sizeof count);
    const double as_double = (double)count;
    record(t, "resets", &as_double, NB_F64, 1, true);
    keep(t, "w", w, NB_F32, n, true);
}

/* ---- outliers ---- */

enum { OUTLIER_ROWS = 33, OUTLIER_COLS = 200, OUTLIER_SIXTEENS = 48 };

static uint16_t *heavy_tails(int64_t rows, int64_t cols) {
    const int64_t n = rows * cols;
    uint16_t *x = poisoned((size_t)n * 2);
    for (int64_t i = 0; i < n; i++)
        x[i] = ni_bf16_even((float)(normal(1, i) * (i % 61 == 0 ? 20 : 1)));
    for (int64_t i = 0; i < cols; i++)
        x[n - 1 - i] = ni_bf16_even(2.0f); /* a row of one value: nothing to clamp */
    for (int64_t i = 0; i < cols; i += 2)
        x[cols + i] = (uint16_t)(i % 4 << 14); /* zeros of both signs */
    const uint16_t none[] = {0x7f80, 0xff80, 0x7fc1, 0xffa0};
    for (int i = 0; i < 4; i++)
        x[2 * cols + 5 + 50 * i % 190] = none[i];
    for (int64_t i = 0; i < cols; i++)
        x[3 * cols + i] &= 0x7fff; /* none below 0 */
    return x;
}

/* Entries beyond the count of a row are nobody's. */
static void keep_sparse(trial *t, const ni_sparse *s) {
    const size_t entries = (size_t)(s->rows * s->room);
    int32_t *count = poisoned((size_t)s->rows * 4), *column = poisoned(entries * 4);
    const size_t width = s->exact ? 4 : 2;
    char *value = poisoned(entries * width);
    t->be->ops->download(t->be, count, s->count, (size_t)s->rows * 4);
    t->be->ops->download(t->be, column, s->column, entries * 4);
    t->be->ops->download(t->be, value, s->exact ? (const void *)s->exact : s->value, entries * width);
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t i = count[r] < 0 ? 0 : count[r]; i < s->room; i++) {
            column[r * s->room + i] = 0;
            memset(value + (size_t)(r * s->room + i) * width, 0, width);
        }
    record(t, "counts", count, NB_I32, s->rows, true);
    record(t, "columns", column, NB_I32, (int64_t)entries, true);
    record(t, "residuals", value, s->exact ? NB_F32 : NB_BF16, (int64_t)entries, true);
}

typedef struct clamping {
    int64_t cols, low, high; /* ranks */
    bool whole, wanted, exact;
} clamping;

static void clamp_as(trial *t, const clamping *how) {
    const int64_t cols = how->cols, room = how->whole ? cols : how->low + cols - 1 - how->high;
    const size_t entries = (size_t)(OUTLIER_ROWS * room);
    const nb_mat x = nb_mat_of(upload(t, heavy_tails(OUTLIER_ROWS, cols), (size_t)(OUTLIER_ROWS * cols) * 2), NB_BF16,
                               OUTLIER_ROWS, cols);
    nb_mat out = x;
    out.data = output_exact(t, "clamped", NB_BF16, OUTLIER_ROWS * cols);
    const ni_sparse rest = {.rows = OUTLIER_ROWS,
                            .cols = cols,
                            .room = room,
                            .count = scratch(t, OUTLIER_ROWS * 4),
                            .column = scratch(t, entries * 4),
                            .value = how->exact ? NULL : scratch(t, entries * 2),
                            .exact = how->exact ? scratch(t, entries * 4) : NULL};
    EXPECT_OK(
        t, t->be->ops->clamp_rows(t->be, &out, how->wanted ? &rest : NULL, &x, how->low, how->high, how->whole, &err));
    if (how->wanted)
        keep_sparse(t, &rest);
    nb_error err = {0};
    const int32_t refused = (int32_t)t->be->ops->clamp_rows(t->be, &out, NULL, &x, -1, 5, false, &err);
    record(t, "refused", &refused, NB_I32, 1, true);
}

static void run_clamp(trial *t) {
    const bool whole = t->shape & 1;
    const int64_t n = whole ? OUTLIER_ROWS * OUTLIER_COLS : OUTLIER_COLS, low = (int64_t)(0.03 * (double)n);
    const clamping how = {.cols = OUTLIER_COLS,
                          .low = low,
                          .high = n - 1 - low,
                          .whole = whole,
                          .wanted = t->shape < 2 || t->shape > 3,
                          .exact = t->shape > 3};
    clamp_as(t, &how);
}

/* Rows of models, ranks near their ends and far from them, as far from one as from the other and not. */
static void run_clamp_wide(trial *t) {
    static const int64_t widths[] = {768, 1024, 2048, 2816, 5632, 6400};
    const int64_t cols = widths[t->shape], lows[] = {cols / 100, cols / 15, 0}, tops[] = {cols / 100, cols / 15, 3};
    for (int i = 0; i < 3; i++) {
        const clamping how = {.cols = cols, .low = lows[i], .high = cols - 1 - tops[i], .wanted = true};
        clamp_as(t, &how);
    }
}

/* Those of models, and one that is none. */
static const int64_t clamped_widths[] = {
    768, 1024, 2048, 2816, 5632, 208, /* those of the longest case; then the others */
    512, 1536, 1792, 3072, 4096, 5120, 6144};
enum { CLAMPED_WIDTHS = sizeof clamped_widths / sizeof *clamped_widths };

/* Rows of models into codes at once, and back with what was clamped off. A row is far smaller than any that is tame. */
static void run_make_clamped(trial *t) {
    const int64_t cols = clamped_widths[t->shape], n = OUTLIER_ROWS * cols, lows[] = {cols / 100, cols / 15},
                  tops[] = {cols / 100, 3};
    nb_quantizer q = tiles_or_rows(2);
    for (int i = 0; i < 5; i++) {
        q.element = i > 2 ? NB_ELEMENT_INT4 : NB_ELEMENT_E2M1;
        q.round = i < 2 ? NB_ROUND_UP : NB_ROUND_EVEN;
        const int64_t low = lows[i % 2], top = tops[i % 2], room = low + top;
        const size_t entries = (size_t)(OUTLIER_ROWS * room);
        uint16_t *numbers = heavy_tails(OUTLIER_ROWS, cols);
        for (int64_t c = 4 * cols; c < 5 * cols; c++)
            numbers[c] = ni_bf16_even(ni_bf16_value(numbers[c]) * 0x1p-80f);
        const nb_mat x = nb_mat_of(upload(t, numbers, (size_t)n * 2), NB_BF16, OUTLIER_ROWS, cols),
                     clamped = nb_mat_of(scratch(t, (size_t)n * 2), NB_BF16, OUTLIER_ROWS, cols),
                     back =
                         nb_mat_of(output_exact(t, "decoded with the rest", NB_BF16, n), NB_BF16, OUTLIER_ROWS, cols);
        const ni_sparse rest = {.rows = OUTLIER_ROWS,
                                .cols = cols,
                                .room = room,
                                .count = scratch(t, OUTLIER_ROWS * 4),
                                .column = scratch(t, entries * 4),
                                .value = scratch(t, entries * 2)};
        const ni_clamping how = {.x = &x, .clamped = &clamped, .rest = &rest, .low = low, .high = cols - 1 - top};
        nb_operand codes = placed(t, &q, OUTLIER_ROWS, cols, NI_LEFT, &q);
        EXPECT_OK(t, t->be->ops->make_clamped(t->be, &how, &(ni_making){.out = &codes}, &err));
        keep_operand(t, "codes of clamped rows", &codes);
        keep_sparse(t, &rest);
        EXPECT_OK(t, t->be->ops->decode_with_rest(t->be, &back, &codes, &rest, &err));
    }
}

/* The same where the rest is lost: codes alone, or beside what a product reads. */
static void run_make_lossy(trial *t) {
    const int64_t cols = clamped_widths[t->shape], n = OUTLIER_SIXTEENS * cols, ranks[] = {cols / 100, cols * 3 / 100};
    const nb_quantizer by_column = tiles_or_rows(3);
    nb_quantizer q = tiles_or_rows(2);
    q.round = NB_ROUND_UP;
    for (int i = 0; i < 4; i++) {
        q.rule = i < 2 ? NB_RULE_POW2 : NB_RULE_ABSMAX;
        const nb_mat x = nb_mat_of(upload(t, heavy_tails(OUTLIER_SIXTEENS, cols), (size_t)n * 2), NB_BF16,
                                   OUTLIER_SIXTEENS, cols),
                     clamped = nb_mat_of(scratch(t, (size_t)n * 2), NB_BF16, OUTLIER_SIXTEENS, cols);
        const ni_clamping how = {.x = &x, .clamped = &clamped, .low = ranks[i % 2], .high = cols - 1 - ranks[1]};
        nb_operand codes = placed(t, &q, OUTLIER_SIXTEENS, cols, NI_LEFT, i < 2 ? &by_column : &q);
        EXPECT_OK(t, t->be->ops->make_clamped(t->be, &how, &(ni_making){.out = &codes}, &err));
        keep_operand(t, "codes of clamped rows", &codes);
    }
}

/* Clamped, rounded, the rest added, rounded again: all of it at once. NaN, which one scale carries to all, in the last
 * round alone. */
static void run_make_compensated(trial *t) {
    const int64_t cols = clamped_widths[t->shape], n = OUTLIER_SIXTEENS * cols, low = cols * 3 / 100;
    const nb_quantizer whole = format_of("e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL);
    nb_quantizer q = tiles_or_rows(2);
    for (int i = 0; i < 4; i++) {
        q.element = i == 1 ? NB_ELEMENT_E2M1 : NB_ELEMENT_INT4;
        const int64_t top = i == 2 ? 3 : low, room = low + top;
        const size_t entries = (size_t)(OUTLIER_SIXTEENS * room);
        uint16_t *numbers = heavy_tails(OUTLIER_SIXTEENS, cols);
        for (int64_t c = 0; c < cols; c++) {
            numbers[2 * cols + c] = i < 3 ? numbers[5 * cols + c] : numbers[2 * cols + c];
            numbers[4 * cols + c] = ni_bf16_even(ni_bf16_value(numbers[4 * cols + c]) * 0x1p-80f);
        }
        const nb_mat x = nb_mat_of(upload(t, numbers, (size_t)n * 2), NB_BF16, OUTLIER_SIXTEENS, cols),
                     sum =
                         nb_mat_of(output_exact(t, "compensated numbers", NB_BF16, n), NB_BF16, OUTLIER_SIXTEENS, cols);
        const ni_sparse rest = {.rows = OUTLIER_SIXTEENS,
                                .cols = cols,
                                .room = room,
                                .count = scratch(t, OUTLIER_SIXTEENS * 4),
                                .column = scratch(t, entries * 4),
                                .value = scratch(t, entries * 2)};
        const ni_clamping how = {.x = &x, .clamped = &sum, .rest = &rest, .low = low, .high = cols - 1 - top};
        nb_operand first = placed(t, &q, OUTLIER_SIXTEENS, cols, NI_LEFT, &q),
                   dense = placed(t, &whole, OUTLIER_SIXTEENS, cols, NI_LEFT, &whole);
        EXPECT_OK(t, t->be->ops->make_compensated(t->be, &how, &(ni_making){.out = &first}, &(ni_making){.out = &dense},
                                                  &err));
        keep_operand(t, "codes of the compensated", &dense);
    }
}

/* ---- delayed scales ---- */

/* Two types; no past, one that is none, a smaller and a larger one; numbers that are none. */
static void run_under(trial *t) {
    enum { WIDE = COLS + 5 };
    static const float pasts[] = {0, 0.5f, 64, INFINITY};
    for (int i = 0; i < 5; i++) {
        double *numbers = normals_in(NB_BF16, 1, ROWS * WIDE, 0, 1);
        if (i == 4) {
            numbers[7] = NAN;
            numbers[WIDE + 3] = -INFINITY;
        }
        nb_mat x = nb_mat_of(input(t, NB_BF16, numbers, ROWS * WIDE), NB_BF16, ROWS, COLS);
        const nb_mat out = nb_mat_of(output_exact(t, "rounded", NB_BF16, ROWS * COLS), NB_BF16, ROWS, COLS);
        const float *past = i < 4 ? upload(t, &pasts[i], sizeof *pasts) : NULL;
        float *now = i % 2 ? output_exact(t, "amax", NB_F32, 1) : NULL;
        x.stride = WIDE;
        t->be->ops->round_under(t->be, &out, &x, t->shape ? NB_E4M3 : NB_E5M2, now, past);
    }
}

/* ---- columns ---- */

static void run_columns(trial *t) {
    enum { PICKED = 24, WIDE = COLS + 5 };
    const nb_dtype type = t->shape ? NB_BF16 : NB_F32;
    int32_t *columns = poisoned(PICKED * sizeof *columns);
    for (int i = 0; i < PICKED; i++)
        columns[i] = (i * 67 + 3) % COLS;
    const int32_t *at = upload(t, columns, PICKED * sizeof *columns);
    nb_mat x = nb_mat_of(input(t, type, normals_in(NB_BF16, 1, ROWS * WIDE, 0, 1), ROWS * WIDE), type, ROWS, COLS);
    x.stride = WIDE;
    const nb_mat few = nb_mat_of(output_exact(t, "gathered", type, ROWS * PICKED), type, ROWS, PICKED);
    t->be->ops->gather_columns(t->be, &few, &x, at);
    t->be->ops->scatter_columns(t->be, &x, &few, at, type == NB_F32);
    keep(t, "scattered", x.data, type, ROWS * WIDE, true);
    float *norms = input_real(t, 2, COLS, 1, 0.1);
    t->be->ops->column_norms(t->be, norms, &x);
    keep(t, "norms", norms, NB_F32, COLS, true);
}

/* More than one chunk of rows, an odd width and a view among other columns, pairs of columns; more than a block's. */
static void run_norms(trial *t) {
    enum { SHAPES = 4 };
    static const int64_t of_rows[SHAPES] = {700, 513, 256, 1}, of_cols[SHAPES] = {COLS + 3, COLS, 1030, COLS};
    const nb_dtype type = t->shape % 2 ? NB_F32 : NB_BF16;
    const int64_t rows = of_rows[t->shape / 2], cols = of_cols[t->shape / 2], wide = cols + 2 * (cols % 2 + 1);
    nb_mat x = nb_mat_of(input(t, type, normals_in(type, 1, rows * wide, 3, 1), rows * wide), type, rows, cols);
    float *norms = input_real(t, 2, cols, 1, 0.1);
    x.stride = wide;
    for (int i = 0; i < 2; i++)
        t->be->ops->column_norms(t->be, norms, &x);
    keep(t, "norms", norms, NB_F32, cols, true);
}

/* More than one chunk of rows, an odd width, a view among other columns; in place and not; one row that a vector of
 * eight fits; pairs of columns. */
static void run_means(trial *t) {
    const nb_dtype type = t->shape % 2 ? NB_BF16 : NB_F32;
    const bool one = t->shape / 2 == 1;
    const int64_t rows = one ? 1 : 700, cols = t->shape < 2 ? COLS + 3 : COLS, wide = one ? cols : cols + 2;
    nb_mat x = nb_mat_of(input(t, type, normals_in(type, 1, rows * wide, 3, 1), rows * wide), type, rows, cols);
    const nb_mat means = nb_mat_of(output_exact(t, "means", type, cols), type, 1, cols);
    const nb_mat apart = nb_mat_of(output_exact(t, "residuals", type, rows * cols), type, rows, cols);
    x.stride = wide;
    t->be->ops->column_means(t->be, &means, &x);
    t->be->ops->subtract_row(t->be, &apart, &x, &means);
    t->be->ops->subtract_row(t->be, &x, &x, &means);
    keep(t, "in place", x.data, type, rows * wide, true);
}

/* Every size, every kind of signs, a view among other columns. */
static void run_rotate(trial *t) {
    enum { GROUPS = 3, WIDE = COLS + 5 };
    const int32_t size = 16 << t->shape;
    for (int signs = NB_SIGNS_NONE; signs <= NB_SIGNS_FRESH; signs++) {
        const int64_t n = (int64_t)GROUPS * size * WIDE;
        nb_mat x = nb_mat_of(input_real(t, (uint32_t)(3 + signs), n, 0, 1), NB_F32, GROUPS * size, COLS);
        const nb_noise noise = noise_at(t);
        x.stride = WIDE;
        t->be->ops->rotate_rows(t->be, &x, size, (nb_signs)signs, &noise);
        keep(t, "rotated", x.data, NB_F32, n, true);
    }
}

/* Every size and both kinds of signs, masked and not, gradients in either type, a view among other columns. */
static void run_quest(trial *t) {
    enum { WIDE = COLS + 5, CASES = 4 };
    const nb_dtype type = t->shape % 2 ? NB_BF16 : NB_F32;
    for (int i = 0; i < CASES; i++) {
        nb_quantizer q = ni_format_family_find("mxfp4")->defaults;
        q.rule = NB_RULE_QUEST;
        q.hadamard_size = t->shape < 2 && i == 3 ? 0 : 16 << (t->shape / 2 + i % 2);
        q.hadamard_signs = i / 2 ? NB_SIGNS_FIXED : NB_SIGNS_NONE;
        const int64_t cols = COLS / 128 * 128, n = ROWS * WIDE;
        nb_mat g = nb_mat_of(input(t, type, normals_in(type, (uint32_t)(50 + i), n, 0, 1), n), type, ROWS, cols);
        nb_mat x = nb_mat_of(input(t, type, normals_in(type, (uint32_t)(60 + i), n, 0, 1), n), type, ROWS, cols);
        g.stride = x.stride = WIDE;
        t->be->ops->quest_backward(t->be, &g, i == 2 ? NULL : &x, &q);
        keep(t, "gradients", g.data, type, n, true);
    }
}

static const test_case MECHANISMS[] = {
    {"dge", "rows, tiles, whole rows, columns", CODES, 4, run_dge, NULL, of_a_power},
    {"bin_widths round_by", "rows, tiles, whole rows", BITS, 3, run_bins, NULL, NULL},
    {"add_distance reset_where", "f32", BITS, 2, run_weights, NULL, NULL},
    {"round_under", "two types, four pasts", BITS, 2, run_under, NULL, NULL},
    {"clamp_rows", "by row and whole, with residual", BITS, 6, run_clamp, NULL, NULL},
    {"clamp_rows", "long rows", BITS, 6, run_clamp_wide, NULL, NULL},
    {"make_clamped decode_with_rest", "long rows", BITS, 6, run_make_clamped, NULL, NULL},
    {"make_clamped", "the rest lost", BITS, CLAMPED_WIDTHS, run_make_lossy, NULL, NULL},
    {"make_compensated", "long rows", BITS, CLAMPED_WIDTHS, run_make_compensated, NULL, NULL},
    {"rotate_rows", "every size, every kind of signs", BITS, 4, run_rotate, NULL, NULL},
    {"quest_backward", "sizes, signs, types, masked and not", BITS, 6, run_quest, NULL, NULL},
    {"column_means subtract_row", "f32, bf16, strided, one row", BITS, 6, run_means, NULL, NULL},
    {"column_norms", "f32, bf16, strided, more than a chunk", BITS, 8, run_norms, NULL, NULL},
    {"gather_columns scatter_columns column_norms", "f32, bf16, strided", BITS, 2, run_columns, NULL, NULL},
};
const case_list mechanism_cases = {MECHANISMS, sizeof MECHANISMS / sizeof *MECHANISMS};
