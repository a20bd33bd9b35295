/* cases_way.c: operands as few products take them: MXFP4 for units for 8 bits, made both ways at once, and rows of
 * codes that are turned for a product alone. Codes bit for bit, and numbers that a product with ones picks out. */
#include "operands.h"

#include <math.h>

/* ---- MXFP4 ---- */

enum { WAYS = 6 };

/* Wider tiles than one, edges within a tile, rows and columns of more blocks than a warp has lanes, and than fit a
 * block of threads. */
static const int64_t WAY_SIZES[WAYS][2] = {{64, 128}, {96, 160}, {32, 32}, {1056, 64}, {192, 1088}, {32, 16416}};

/* Every third row in blocks that are 19 powers of two apart, so that units for 8 bits do not hold it. */
static nb_mat far_apart(trial *t, nb_dtype type, int64_t rows, int64_t cols, int64_t stride) {
    const nb_mat m = data_matrix(DATA_NORMAL, NB_F32, rows, cols, stride);
    float *x = m.data;
    uint16_t *narrow = poisoned(sizeof *narrow * (size_t)(rows * stride));
    for (int64_t i = 0; i < rows * stride; i++) {
        const int64_t r = i / stride, block = i % stride / 32;
        x[i] = i % stride < cols && r % 3 == 2 ? (float)ldexp(x[i], (int)(block % 2) * -19) : x[i];
        narrow[i] = ni_bf16_even(x[i]);
    }
    const bool wide = type == NB_F32;
    return (nb_mat){upload(t, wide ? (void *)x : narrow, (size_t)(rows * stride) * nb_dtype_size(type)),
                    type,
                    rows,
                    cols,
                    stride,
                    .amax = NULL};
}

static void run_mx_ways(trial *t) {
    static const data_kind kinds[] = {DATA_NORMAL, DATA_CORNERS, DATA_WIDE, DATA_NAN, DATA_INF, DATA_ZERO, DATA_TINY};
    static const nb_scale_rule rules[] = {NB_RULE_FLOOR, NB_RULE_CEIL, NB_RULE_CEIL_LOG2};
    enum { KINDS = sizeof kinds / sizeof *kinds };
    const int64_t rows = WAY_SIZES[t->shape][0], cols = WAY_SIZES[t->shape][1], stride = cols + 8;
    const nb_noise noise = noise_at(t);
    nb_backend *be = t->be;
    EXPECT_OK(t, be->ops->permit(be, &(ni_permits){.mxfp4_fp8 = true}, &err));
    const int step = rows * cols > 20000 ? KINDS : 1, count = (t->few ? 2 : 4) * KINDS;
    for (int i = 0; i < count; i += step) {
        const bool turned = i / KINDS & 1, last = i % KINDS == 0;
        const nb_dtype type = i / KINDS & 2 ? NB_F32 : NB_BF16;
        nb_quantizer row = ni_format_family_find("mxfp4")->defaults, column;
        row.rule = rules[i % 3];
        column = row;
        column.hadamard_size = turned ? 16 : 0;
        const nb_mat x =
            last ? far_apart(t, type, rows, cols, stride) : uploaded(t, kinds[i % KINDS], type, rows, cols, stride);
        nb_operand a = placed(t, &row, rows, cols, NI_LEFT, &row), b = placed(t, &column, cols, rows, NI_RIGHT, &row),
                   c = placed(t, &row, rows, cols, NI_LEFT, &row), d = placed(t, &column, cols, rows, NI_RIGHT, &row);
        const ni_making both[2] = {{.out = &a, .noise = &noise}, {.out = &b, .transpose = true, .noise = &noise}};
        make(t, &(ni_source){.numbers = &x}, both, 2);
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &c, .noise = &noise}, 1);
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &d, .transpose = true, .noise = &noise}, 1);
        char format[200], what[300];
        snprintf(what, sizeof what, "%s, %s, numbers of kind %d", nb_quantizer_text(&column, format, sizeof format),
                 nb_dtype_name(type), last ? -1 : (int)kinds[i % KINDS]);
        keep_operand(t, what, &a);
        keep_operand(t, what, &b);
        keep_operand(t, what, &c);
        keep_operand(t, what, &d);
        if (!last)
            continue;
        row.rule = NB_RULE_FLOOR;
        const nb_operand right = picker(t, &row, 16, cols, NI_RIGHT, &a.quantizer),
                         left = picker(t, &row, 16, rows, NI_LEFT, &column);
        const nb_mat of_rows = nb_mat_of(output(t, what, NB_F32, rows * 16), NB_F32, rows, 16),
                     of_columns = nb_mat_of(output(t, what, NB_F32, 16 * cols), NB_F32, 16, cols);
        EXPECT_OK(t, be->ops->multiply(be, &of_rows, &(ni_term){.a = &a, .b = &right}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &of_columns, &(ni_term){.a = &left, .b = &b}, 1, false, &err));
    }
    EXPECT_OK(t, be->ops->permit(be, &(ni_permits){.mxfp4_fp8 = false}, &err));
}

/* ---- rows of codes ---- */

/* Numbers of an operand that is turned for a product alone: rows of codes, whose scales lie on its contraction. */
static void run_turned_product(trial *t) {
    enum { N = 32, K = 128 };
    const nb_quantizer rows = ni_format_family_find("e2m1")->defaults, one = ni_format_family_find("e5m2")->defaults;
    nb_quantizer columns = rows;
    columns.block_rows = NB_BLOCK_ALL;
    columns.block_cols = 1;
    const nb_mat w = uploaded(t, DATA_NORMAL, NB_F32, N, K, K);
    const nb_operand from = made(t, &rows, &w, NI_LEFT, &rows), left = picker(t, &one, N, N, NI_LEFT, &columns);
    nb_operand turned = placed(t, &columns, K, N, NI_RIGHT, &one);
    turned.reread = false;
    turned.turned = true;
    EXPECT_OK(t, t->be->ops->turn(t->be, &turned, &from, &err));
    const nb_mat c = nb_mat_of(output(t, "columns", NB_F32, N * K), NB_F32, N, K);
    EXPECT_OK(t, t->be->ops->multiply(t->be, &c, &(ni_term){.a = &left, .b = &turned}, 1, false, &err));
}

/* The first columns of codes, but for some, down a product. */
static void keep_leading_but(trial *t, const nb_operand *codes, const nb_quantizer *q, const nb_operand *left,
                             const nb_noise *noise, int64_t left_out) {
    const int64_t count = codes->cols - left_out;
    int32_t *columns = poisoned(sizeof *columns * (size_t)count);
    for (int64_t c = 0; c < count; c++)
        columns[c] = (int32_t)c;
    nb_operand some = placed(t, q, count, codes->rows, NI_RIGHT, &left->quantizer);
    some.reread = false;
    const ni_source source = {.operand = codes,
                              .columns = upload(t, columns, sizeof *columns * (size_t)count),
                              .column_count = count,
                              .leading = true};
    make(t, &source, &(ni_making){.out = &some, .transpose = true, .noise = noise}, 1);
    const nb_mat out = nb_mat_of(output(t, "first columns of codes", NB_F32, 16 * count), NB_F32, 16, count);
    EXPECT_OK(t, t->be->ops->multiply(t->be, &out, &(ni_term){.a = left, .b = &some}, 1, false, &err));
}

/* As many as there are of 512 and of 64 where a true tenth is left to MXFP8: 461 and 51. */
static void keep_leading(trial *t, const nb_operand *codes, const nb_quantizer *q, const nb_operand *left,
                         const nb_noise *noise) {
    keep_leading_but(t, codes, q, left, noise, 5);
    if (codes->cols % 64 == 0)
        keep_leading_but(t, codes, q, left, noise, codes->cols == 64 ? 13 : 51);
}

/* Numbers of double blocks for a product alone, down columns: of numbers, and of codes. */
static void run_double_ways(trial *t) {
    static const int64_t sizes[3][2] = {{256, 256}, {128, 640}, {128, 512}};
    static const int bits[] = {0, 8, 16};
    const int64_t rows = sizes[t->shape][0], cols = sizes[t->shape][1];
    const nb_noise noise = noise_at(t);
    nb_backend *be = t->be;
    for (int i = 0; i < 12; i++) {
        nb_quantizer row = ni_format_family_find("nvfp4")->defaults, column;
        row.outer = NB_OUTER_ROW128;
        column = row;
        column.rule = i & 1 ? NB_RULE_HEADROOM : NB_RULE_ABSMAX;
        column.hadamard_size = i & 1 ? 16 : 0;
        column.hadamard_signs = i & 1 ? NB_SIGNS_FRESH : NB_SIGNS_NONE;
        column.round = bits[i / 2 % 3] ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN;
        column.sr_bits = bits[i / 2 % 3] == 16 ? 16 : 8;
        const nb_mat x = uploaded(t, i % 5 ? DATA_NORMAL : DATA_WIDE, i / 6 ? NB_F32 : NB_BF16, rows, cols, cols + 8);
        nb_operand down = placed(t, &column, cols, rows, NI_RIGHT, &row), anew = down,
                   codes = placed(t, &row, rows, cols, NI_LEFT, &row);
        down.reread = anew.reread = false;
        anew.memory = scratch(t, be->ops->operand_bytes(be, &anew));
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &down, .transpose = true, .noise = &noise}, 1);
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &codes, .noise = &noise}, 1);
        make(t, &(ni_source){.operand = &codes}, &(ni_making){.out = &anew, .transpose = true, .noise = &noise}, 1);
        const nb_operand left = picker(t, &row, 16, rows, NI_LEFT, &column);
        const nb_mat of_down = nb_mat_of(output(t, "columns", NB_F32, 16 * cols), NB_F32, 16, cols),
                     of_anew = nb_mat_of(output(t, "columns of codes", NB_F32, 16 * cols), NB_F32, 16, cols);
        EXPECT_OK(t, be->ops->multiply(be, &of_down, &(ni_term){.a = &left, .b = &down}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &of_anew, &(ni_term){.a = &left, .b = &anew}, 1, false, &err));
        keep_leading(t, &codes, &column, &left, &noise);
    }
}

static nb_mat ones_of(trial *t, nb_dtype type, int64_t rows, int64_t cols, bool down) {
    const int64_t apart = down ? rows / cols : cols / rows;
    float *wide = poisoned(sizeof *wide * (size_t)(rows * cols));
    uint16_t *narrow = poisoned(sizeof *narrow * (size_t)(rows * cols));
    for (int64_t i = 0; i < rows * cols; i++) {
        wide[i] = down ? i / cols == i % cols * apart : i % cols == i / cols * apart;
        narrow[i] = ni_bf16_even(wide[i]);
    }
    return nb_mat_of(upload(t, type == NB_F32 ? (void *)wide : narrow, (size_t)(rows * cols) * nb_dtype_size(type)),
                     type, rows, cols);
}

/* dY under one scale, times rows of codes that are turned, and turned itself times plain numbers. */
static void run_by_numbers(trial *t) {
    enum { M = 64, N = 96, PICKED = 16 };
    static const data_kind kinds[] = {DATA_NORMAL, DATA_WIDE, DATA_TINY, DATA_ZERO};
    const nb_quantizer rows = ni_format_family_find("e2m1")->defaults, one = ni_format_family_find("e5m2")->defaults,
                       plain = nb_quantizer_bf16();
    nb_backend *be = t->be;
    nb_quantizer columns = rows;
    columns.block_rows = NB_BLOCK_ALL;
    columns.block_cols = 1;
    const nb_mat w = ones_of(t, NB_F32, N, PICKED, true), x = ones_of(t, NB_BF16, PICKED, M, false);
    const nb_operand from = made(t, &rows, &w, NI_LEFT, &rows),
                     numbers = {.quantizer = plain, .rows = PICKED, .cols = M, .side = NI_RIGHT, .numbers = x};
    nb_operand right = placed(t, &columns, PICKED, N, NI_RIGHT, &one);
    right.reread = false;
    right.turned = true;
    EXPECT_OK(t, be->ops->turn(be, &right, &from, &err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const nb_mat dy = uploaded(t, kinds[i], NB_BF16, M, N, N + 8);
        nb_operand left = placed(t, &one, M, N, NI_LEFT, &columns), turned = placed(t, &one, N, M, NI_LEFT, &columns);
        left.reread = turned.reread = false;
        turned.turned = true;
        left.memory = scratch(t, be->ops->operand_bytes(be, &left));
        make(t, &(ni_source){.numbers = &dy}, &(ni_making){.out = &left}, 1);
        EXPECT_OK(t, be->ops->turn(be, &turned, &left, &err));
        const nb_mat dx = nb_mat_of(output(t, "dX", NB_F32, M * PICKED), NB_F32, M, PICKED),
                     dw = nb_mat_of(output(t, "dW", NB_F32, N * PICKED), NB_F32, N, PICKED);
        EXPECT_OK(t, be->ops->multiply(be, &dx, &(ni_term){.a = &left, .b = &right}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &dw, &(ni_term){.a = &turned, .b = &numbers}, 1, false, &err));
    }
}

/* Numbers of MXFP8 for a product alone: rows and columns of the same numbers, at once and apart, and columns of codes;
 * of large matrices fewer kinds. */
static void run_eight_bits(trial *t) {
    static const data_kind kinds[] = {DATA_NORMAL, DATA_CORNERS, DATA_ZERO};
    const int64_t rows = WAY_SIZES[t->shape][0], cols = WAY_SIZES[t->shape][1], stride = cols + 8;
    const nb_quantizer q = ni_format_family_find("mxfp8")->defaults, blocks = nvfp4(1);
    const nb_noise noise = noise_at(t);
    nb_backend *be = t->be;
    for (int i = 0; i < (rows * cols > 20000 ? 2 : 6); i++) {
        const nb_mat x = uploaded(t, kinds[i / 2], i % 2 ? NB_F32 : NB_BF16, rows, cols, stride);
        nb_operand a = placed(t, &q, rows, cols, NI_LEFT, &q), b = placed(t, &q, cols, rows, NI_RIGHT, &q), alone = b;
        a.reread = b.reread = alone.reread = false;
        alone.memory = scratch(t, be->ops->operand_bytes(be, &alone));
        const ni_making both[2] = {{.out = &a, .noise = &noise}, {.out = &b, .transpose = true, .noise = &noise}};
        make(t, &(ni_source){.numbers = &x}, both, 2);
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &alone, .transpose = true, .noise = &noise}, 1);
        nb_operand row = placed(t, &q, rows, cols, NI_LEFT, &q), anew = placed(t, &q, cols, rows, NI_RIGHT, &q),
                   codes = placed(t, &blocks, rows, cols, NI_LEFT, &blocks);
        row.reread = anew.reread = false;
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &row, .noise = &noise}, 1);
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &codes, .noise = &noise}, 1);
        make(t, &(ni_source){.operand = &codes}, &(ni_making){.out = &anew, .transpose = true, .noise = &noise}, 1);
        nb_operand bytes = placed(t, &q, rows, cols, NI_LEFT, &q), again = placed(t, &q, cols, rows, NI_RIGHT, &q);
        again.reread = false;
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &bytes, .noise = &noise}, 1);
        make(t, &(ni_source){.operand = &bytes}, &(ni_making){.out = &again, .transpose = true, .noise = &noise}, 1);
        const nb_operand right = picker(t, &q, 16, cols, NI_RIGHT, &q), left = picker(t, &q, 16, rows, NI_LEFT, &q);
        const nb_mat of_rows = nb_mat_of(output(t, "rows", NB_F32, rows * 16), NB_F32, rows, 16),
                     of_columns = nb_mat_of(output(t, "columns", NB_F32, 16 * cols), NB_F32, 16, cols),
                     of_alone = nb_mat_of(output(t, "columns alone", NB_F32, 16 * cols), NB_F32, 16, cols),
                     of_row = nb_mat_of(output(t, "rows alone", NB_F32, rows * 16), NB_F32, rows, 16),
                     of_anew = nb_mat_of(output(t, "columns of codes", NB_F32, 16 * cols), NB_F32, 16, cols),
                     of_again = nb_mat_of(output(t, "columns of bytes", NB_F32, 16 * cols), NB_F32, 16, cols);
        EXPECT_OK(t, be->ops->multiply(be, &of_rows, &(ni_term){.a = &a, .b = &right}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &of_columns, &(ni_term){.a = &left, .b = &b}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &of_alone, &(ni_term){.a = &left, .b = &alone}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &of_row, &(ni_term){.a = &row, .b = &right}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &of_anew, &(ni_term){.a = &left, .b = &anew}, 1, false, &err));
        EXPECT_OK(t, be->ops->multiply(be, &of_again, &(ni_term){.a = &left, .b = &again}, 1, false, &err));
        keep_leading(t, &bytes, &q, &left, &noise);
    }
}

/* Double blocks and MXFP8 of the same columns, for products alone, in one reading: as each of them alone; behind a copy
 * of rows, and without one. */
static void run_two_formats_down(trial *t) {
    static const int64_t sizes[2][2] = {{256, 80}, {128, 128}};
    static const int bits[] = {0, 8, 16};
    enum { NUMBERS = 4 };
    const int64_t rows = sizes[t->shape][0], cols = sizes[t->shape][1], stride = cols + 8;
    const nb_noise noise = noise_at(t);
    for (int i = 0; i < 6 * NUMBERS; i++) {
        const int kind = i / 6, way = i % 6;
        const bool with_rows = cols % 128 == 0 && way % 2 == 0;
        const nb_dtype type = i == 4 ? NB_F32 : NB_BF16;
        if (kind > 0 && way % 3 != kind % 3)
            continue;
        nb_quantizer row = ni_format_family_find("nvfp4")->defaults, column,
                     q = ni_format_family_find("mxfp8")->defaults;
        row.outer = NB_OUTER_ROW128;
        column = row;
        column.rule = way & 1 ? NB_RULE_HEADROOM : NB_RULE_ABSMAX;
        column.hadamard_size = way & 1 ? 16 : 0;
        column.hadamard_signs = way & 1 ? NB_SIGNS_FRESH : NB_SIGNS_NONE;
        column.round = bits[way / 2] ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN;
        column.sr_bits = bits[way / 2] == 16 ? 16 : 8;
        q.rule = way % 3 == 0 ? NB_RULE_CEIL : way % 3 == 1 ? NB_RULE_FLOOR : NB_RULE_CEIL_LOG2;
        const nb_mat x = kind < 2 ? uploaded(t, kind ? DATA_WIDE : DATA_NORMAL, type, rows, cols, stride)
                                  : wild_columns(t, type, rows, cols, stride, kind == 2);
        nb_operand a = placed(t, &row, rows, cols, NI_LEFT, &row),
                   four = placed(t, &column, cols, rows, NI_RIGHT, &row),
                   eight = placed(t, &q, cols, rows, NI_RIGHT, &q), alone[2] = {four, eight};
        four.reread = eight.reread = false;
        for (int k = 0; k < 2; k++) {
            alone[k].reread = false;
            alone[k].memory = scratch(t, t->be->ops->operand_bytes(t->be, &alone[k]));
            make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &alone[k], .transpose = true, .noise = &noise}, 1);
        }
        const ni_making all[3] = {{.out = &a, .noise = &noise},
                                  {.out = &four, .transpose = true, .noise = &noise},
                                  {.out = &eight, .transpose = true}};
        make(t, &(ni_source){.numbers = &x}, with_rows ? all : all + 1, with_rows ? 3 : 2);
        expect_same_memory(t, "double blocks, with and without MXFP8", &four, &alone[0]);
        expect_same_memory(t, "MXFP8, with and without double blocks", &eight, &alone[1]);
        if (kind == 3)
            continue;
        keep_columns(t, "double blocks", &row, &four);
        keep_columns(t, "MXFP8", &q, &eight);
    }
}

static const test_case OPERAND_WAYS[] = {
    {"make_operands multiply permit", "MXFP4 for units for 8 bits, both ways", BITS, WAYS, run_mx_ways, NULL, NULL},
    {"make_operands multiply", "MXFP8, numbers alone", BITS, WAYS, run_eight_bits, NULL, NULL},
    {"turn multiply", "numbers of rows, for a product", BITS, 1, run_turned_product, NULL, NULL},
    {"make_operands multiply", "double blocks, numbers alone", BITS, 3, run_double_ways, NULL, NULL},
    {"make_operands multiply", "double blocks and MXFP8 down the same columns", BITS, 2, run_two_formats_down, NULL,
     NULL},
    {"turn multiply", "one scale, times codes and times numbers", BITS, 1, run_by_numbers, NULL, NULL},
};
const case_list way_cases = {OPERAND_WAYS, sizeof OPERAND_WAYS / sizeof *OPERAND_WAYS};
