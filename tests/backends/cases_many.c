/* cases_many.c: many operands in one call: a matrix and patches of its columns, its columns in two formats, weights of
 * a model, many turned.
 */
#include "operands.h"

#include "format/hadamard.h"
#include "format/noise.h"

enum { PICKED = 32 }; /* columns of a patch */

/* A whole matrix, what it loses of some columns and those columns, side by side in one operand: at once, with an amax
 * that is known; at once without; and one after the other. */
static void run_patched(trial *t) {
    const nb_quantizer q = nvfp4(1);
    const int64_t rows = t->shape ? 48 : 2, cols = t->shape ? 272 : 144, width = cols + 2 * PICKED;
    const int32_t *columns = picked(t, PICKED);
    for (int kind = 0; kind < DATA_KINDS; kind++)
        for (int how = 0; how < 3; how++) {
            const uint32_t bits = largest_bits(kind, rows, cols, cols + 8);
            nb_mat x = uploaded(t, kind, NB_BF16, rows, cols, cols + 8);
            x.amax = how == 0 ? upload(t, &bits, sizeof bits) : NULL;
            nb_operand right = identity(t, &q, width, NI_RIGHT);
            nb_operand o = placed(t, &q, rows, width, NI_LEFT, &right.quantizer);
            const ni_source picks = {.numbers = &x, .columns = columns, .column_count = PICKED};
            ni_source sources[3] = {{.numbers = &x}, picks, picks};
            const ni_making makings[3] = {
                {.out = &o}, {.out = &o, .at = cols, .under = &o}, {.out = &o, .at = cols + PICKED, .under = &o}};
            sources[1 + kind % 2].minus = &o;
            if (how < 2)
                EXPECT_OK(t, t->be->ops->make_many(t->be, sources, makings, 3, &err));
            for (int i = 0; i < 3 && how == 2; i++)
                make(t, &sources[i], &makings[i], 1);
            keep_operand(t, how < 2 ? "at once" : "apart", &o);
            keep(t, "outer scale", o.outer, NB_F32, 1, true);
            if (kind != DATA_NORMAL)
                continue;
            const nb_mat values = nb_mat_of(output(t, "values", NB_F32, rows * width), NB_F32, rows, width);
            EXPECT_OK(t, t->be->ops->multiply(t->be, &values, &(ni_term){.a = &o, .b = &right}, 1, false, &err));
        }
}

/* The largest magnitude of a matrix, and of its columns turned by sixteens where they come in whole ones. */
static void find_maxima(trial *t, data_kind kind, nb_mat *x) {
    const nb_mat host = data_matrix(kind, NB_BF16, x->rows, x->cols, x->stride);
    const ni_noise_key none = {0};
    const ni_sign_mask signs = ni_signs_of(NB_SIGNS_FIXED, &none);
    uint32_t most[2] = {0, 0};
    for (int64_t i = 0; i < x->rows * x->cols; i++) {
        float column[16];
        const int64_t r = i / x->cols, c = i % x->cols;
        const uint16_t *from = (const uint16_t *)host.data + r * host.stride + c;
        const uint32_t its = ni_f32_magnitude(ni_bf16_value(*from));
        most[0] = its > most[0] ? its : most[0];
        if (r % 16 || r + 16 > x->rows)
            continue;
        for (int j = 0; j < 16; j++)
            column[j] = ni_bf16_value(from[j * host.stride]);
        ni_hadamard(column, 16, signs);
        for (int j = 0; j < 16; j++) {
            const uint32_t turned = ni_f32_magnitude(ni_bf16_round(column[j]));
            most[1] = turned > most[1] ? turned : most[1];
        }
    }
    x->amax = upload(t, most, sizeof most);
    x->turned_amax = x->amax + 1;
}

/* Six such operands of one matrix in one call (one of a wide matrix), each with columns of its own, that are multiplied
 * and not read again; the fifth has a single piece. Behind them comes the matrix down its columns, turned. */
static void run_patches(trial *t) {
    enum { OPERANDS = 6 };
    const nb_quantizer q = nvfp4(1);
    nb_quantizer down = q;
    down.hadamard_size = 16;
    down.hadamard_signs = NB_SIGNS_FIXED;
    down.hadamard_round_bf16 = true;
    const int64_t rows = t->shape == 1 ? 48 : t->shape ? 32 : 2, cols = t->shape == 1 ? 272 : t->shape ? 2816 : 144;
    const int64_t width = cols + 2 * PICKED;
    const int32_t operands = t->shape == 2 ? 1 : OPERANDS;
    const bool turned = rows % 16 == 0;
    const data_kind kinds[] = {DATA_NORMAL, DATA_WIDE};
    for (int kind = 0; kind < 2; kind++) {
        nb_mat x = uploaded(t, kinds[kind], NB_BF16, rows, cols, cols);
        nb_operand right[OPERANDS], o[OPERANDS], column;
        ni_source sources[3 * OPERANDS + 1];
        ni_making makings[3 * OPERANDS + 1];
        int32_t count = 0;
        find_maxima(t, kinds[kind], &x);
        for (int i = 0; i < operands; i++) {
            int32_t *columns = poisoned(sizeof *columns * PICKED);
            for (int k = 0; k < PICKED; k++)
                columns[k] = 3 * k + (k + i) % 3;
            const int64_t own = i == 4 ? width - PICKED : width;
            const ni_source picks = {
                .numbers = &x, .columns = upload(t, columns, sizeof *columns * PICKED), .column_count = PICKED};
            right[i] = some_of_identity(t, &q, t->shape == 2 ? 320 : own, own, NI_RIGHT);
            o[i] = placed(t, &q, rows, own, NI_LEFT, &right[i].quantizer);
            sources[count] = (ni_source){.numbers = &x};
            makings[count++] = (ni_making){.out = &o[i], .spent = true};
            for (int64_t at = cols; at < own; at += PICKED) {
                sources[count] = picks;
                sources[count].minus = at == cols ? &o[i] : NULL;
                makings[count++] = (ni_making){.out = &o[i], .at = at, .under = &o[i]};
            }
        }
        if (turned) {
            column = placed(t, &down, cols, rows, NI_RIGHT, &q);
            sources[count] = (ni_source){.numbers = &x};
            makings[count++] = (ni_making){.out = &column, .transpose = true};
        }
        EXPECT_OK(t, t->be->ops->make_many(t->be, sources, makings, count, &err));
        for (int i = 0; i < operands; i++) {
            const nb_mat values =
                nb_mat_of(output(t, "values", NB_F32, rows * right[i].rows), NB_F32, rows, right[i].rows);
            EXPECT_OK(t, t->be->ops->multiply(t->be, &values, &(ni_term){.a = &o[i], .b = &right[i]}, 1, false, &err));
            keep(t, "outer scale", o[i].outer, NB_F32, 1, true);
        }
        if (!turned)
            continue;
        const nb_operand left = identity(t, &q, rows, NI_LEFT);
        const nb_mat values = nb_mat_of(output(t, "turned values", NB_F32, rows * cols), NB_F32, rows, cols);
        EXPECT_OK(t, t->be->ops->multiply(t->be, &values, &(ni_term){.a = &left, .b = &column}, 1, false, &err));
        keep_operand(t, "turned", &column);
        keep(t, "turned outer scale", column.outer, NB_F32, 1, true);
    }
}

/* Weights of many shapes, more than one launch holds, each alone or as the codes of two operands, the second with a
 * patch of its columns under its scale; among them what is no weight in tiles. */
enum { MANY_WEIGHTS = 61, MANY_MOST = 4 * MANY_WEIGHTS };

typedef struct many {
    nb_mat numbers[MANY_WEIGHTS];
    nb_operand plain[MANY_WEIGHTS], patched[MANY_WEIGHTS];
    ni_source sources[MANY_MOST];
    ni_making makings[MANY_MOST];
    int32_t count;
} many;

static void list_one(many *m, const ni_source *source, const ni_making *making) {
    m->sources[m->count] = *source;
    m->makings[m->count++] = *making;
}

static nb_quantizer scaled_rows(int i) {
    nb_quantizer q = rows_of("e2m1");
    q.round = i % 4 == 1 ? NB_ROUND_UP : NB_ROUND_EVEN;
    return q;
}

static void list_weight(trial *t, many *m, int i, const nb_quantizer *q, const nb_quantizer *tiles,
                        const int32_t *columns) {
    const int64_t rows = i == 7 ? 272 : i % 9 == 8 ? 24 : 16 * (1 + i % 3), cols = 128 + 16 * (i % 4);
    const nb_dtype type = i % 11 == 5 ? NB_BF16 : NB_F32;
    const nb_mat *w = &m->numbers[i];
    m->numbers[i] = uploaded(t, (data_kind)(i % DATA_KINDS), type, rows, cols, i % 13 == 3 ? cols + 8 : cols);
    const ni_source all = {.numbers = w}, picks = {.numbers = w, .columns = columns, .column_count = PICKED};
    ni_source residual = picks;
    const nb_quantizer by_row = scaled_rows(i);
    nb_quantizer blocks = nvfp4(1);
    blocks.outer = NB_OUTER_ROW128;
    const bool in_rows = i % 10 == 9, doubles = i % 20 == 4;
    m->plain[i] = in_rows   ? placed(t, &by_row, rows, cols, NI_RIGHT, &by_row)
                  : doubles ? placed(t, &blocks, rows, cols, NI_RIGHT, &blocks)
                            : placed(t, rows % 16 ? q : tiles, rows, cols, NI_RIGHT, q);
    list_one(m, &all, &(ni_making){.out = &m->plain[i]});
    if (i % 2 || rows % 16 || q->outer != NB_OUTER_TENSOR)
        return;
    nb_operand *o = &m->patched[i];
    *o = placed(t, q, rows, cols + 2 * PICKED, NI_RIGHT, q);
    residual.minus = o;
    list_one(m, &all, &(ni_making){.out = o, .quantizer = tiles});
    list_one(m, &picks, &(ni_making){.out = o, .at = cols, .under = o});
    list_one(m, &residual, &(ni_making){.out = o, .at = cols + PICKED, .under = o});
}

/* Weights as numbers in act: more than one launch holds, some of an odd size or with gaps, one the other way up. */
static void run_many_numbers(trial *t) {
    nb_operand outs[MANY_WEIGHTS];
    many m;
    m.count = 0;
    for (int i = 0; i < MANY_WEIGHTS; i++) {
        const int64_t rows = i == 7 ? 272 : 1 + i % 24, cols = i % 9 == 8 ? 37 : 8 * (1 + i % 40);
        const bool turned = i % 10 == 3;
        m.numbers[i] = uploaded(t, DATA_NORMAL, NB_F32, rows, cols, i % 13 == 3 ? cols + 8 : cols);
        void *to = output_exact(t, "numbers", NB_BF16, rows * cols);
        outs[i] =
            (nb_operand){.quantizer = nb_quantizer_bf16(),
                         .other = nb_quantizer_bf16(),
                         .rows = rows,
                         .cols = cols,
                         .side = NI_RIGHT,
                         .numbers = turned ? nb_mat_of(to, NB_BF16, cols, rows) : nb_mat_of(to, NB_BF16, rows, cols),
                         .transposed = turned};
        list_one(&m, &(ni_source){.numbers = &m.numbers[i]}, &(ni_making){.out = &outs[i]});
    }
    EXPECT_OK(t, t->be->ops->make_many(t->be, m.sources, m.makings, m.count, &err));
}

static void run_many(trial *t) {
    nb_quantizer tiles = nvfp4(16), q = nvfp4(1);
    many m;
    m.count = 0;
    if (t->shape) /* no maximum decides a scale */
        tiles.outer = q.outer = NB_OUTER_UNIT;
    for (int i = 0; i < MANY_WEIGHTS; i++)
        list_weight(t, &m, i, &q, &tiles, picked(t, PICKED));
    EXPECT_OK(t, t->be->ops->make_many(t->be, m.sources, m.makings, m.count, &err));
    for (int i = 0; i < m.count; i++) {
        nb_operand *const o = m.makings[i].out;
        if (m.makings[i].at)
            continue;
        keep_operand(t, "one of many", o);
        if (o->outer)
            keep(t, "outer scale", o->outer, NB_F32, 1, true);
    }
}

/* Many at once, tiles and rows, for products alone and for others: what each becomes alone. */
static void run_turn_many(trial *t) {
    enum { MANY = 51 };
    const nb_quantizer tiles = nvfp4(16), q = nvfp4(1), rows = rows_of("e2m1");
    nb_quantizer columns = rows;
    columns.block_rows = NB_BLOCK_ALL;
    columns.block_cols = 1;
    nb_operand made_of[MANY], out[MANY], *to[MANY];
    const nb_operand *from[MANY];
    for (int i = 0; i < MANY; i++) {
        const bool tiled = i % 5 == 4;
        const int64_t n = 16 * (1 + i % 3), k = 64 + 16 * (i % 2);
        const nb_mat w = uploaded(t, (data_kind)(i % DATA_KINDS), NB_F32, n, k, k);
        made_of[i] = made(t, tiled ? &tiles : &rows, &w, NI_LEFT, tiled ? &q : &rows);
        out[i] = placed(t, tiled ? &tiles : &columns, k, n, NI_RIGHT, tiled ? &q : &rows);
        out[i].reread = i % 4 == 1;
        to[i] = &out[i];
        from[i] = &made_of[i];
    }
    EXPECT_OK(t, t->be->ops->turn_many(t->be, to, from, MANY, &err));
    for (int i = 0; i < MANY; i++) {
        nb_operand alone = placed(t, &out[i].quantizer, out[i].rows, out[i].cols, NI_RIGHT, &out[i].other);
        alone.reread = out[i].reread;
        EXPECT_OK(t, t->be->ops->turn(t->be, &alone, from[i], &err));
        const size_t bytes = t->be->ops->operand_bytes(t->be, &alone);
        const int32_t unlike = differing(t, out[i].memory, alone.memory, bytes) + (out[i].form != alone.form);
        record(t, "turned with others and alone", &unlike, NB_I32, 1, true);
        if (out[i].reread)
            keep_operand(t, "turned", &alone);
    }
}

/* All columns of a matrix in an order of their own, the first ones in MXFP8 and the others in double blocks: both at
 * once, one of them, and MXFP8 of the matrix as it lies. The last shape has longer rows than a kernel may hold. */
static void keep_product(trial *t, const char *what, const nb_operand *left) {
    const nb_operand right = some_of_identity(t, &left->quantizer, 16, left->cols, NI_RIGHT);
    const nb_mat values = nb_mat_of(output(t, what, NB_F32, left->rows * 16), NB_F32, left->rows, 16);
    EXPECT_OK(t, t->be->ops->multiply(t->be, &values, &(ni_term){.a = left, .b = &right}, 1, false, &err));
}

typedef struct both_parts {
    nb_operand eight, four;
} both_parts;

/* Both, and each alone. */
static both_parts split_columns(trial *t, const nb_mat *x, const int32_t *first, int64_t eights, int64_t fours) {
    const nb_quantizer bytes = ni_format_family_find("mxfp8")->defaults;
    nb_quantizer blocks = nvfp4(1);
    blocks.outer = NB_OUTER_ROW128;
    const ni_source sources[2] = {{.numbers = x, .columns = first, .column_count = eights},
                                  {.numbers = x, .columns = first + eights, .column_count = fours}};
    both_parts made = {placed(t, &bytes, x->rows, eights, NI_LEFT, &bytes),
                       placed(t, &blocks, x->rows, fours, NI_LEFT, &blocks)};
    nb_operand alone[2] = {placed(t, &bytes, x->rows, eights, NI_LEFT, &bytes),
                           placed(t, &blocks, x->rows, fours, NI_LEFT, &blocks)};
    const ni_making makings[2] = {{.out = &made.eight}, {.out = &made.four}};
    EXPECT_OK(t, t->be->ops->make_many(t->be, sources, makings, 2, &err));
    for (int part = 0; part < 2; part++) {
        make(t, &sources[part], &(ni_making){.out = &alone[part]}, 1);
        keep_operand(t, "alone", &alone[part]);
    }
    keep_operand(t, "eights", &made.eight);
    keep_operand(t, "fours", &made.four);
    return made;
}

static void run_split(trial *t) {
    enum { SHAPES = 3 };
    static const int64_t ROWS[SHAPES] = {5, 70, 3}, EIGHTS[SHAPES] = {32, 128, 2944}, FOURS[SHAPES] = {128, 768, 9216};
    static const data_kind kinds[] = {DATA_NORMAL, DATA_WIDE, DATA_CORNERS, DATA_ZERO};
    const int64_t rows = ROWS[t->shape], eights = EIGHTS[t->shape], fours = FOURS[t->shape], cols = eights + fours;
    const nb_quantizer bytes = ni_format_family_find("mxfp8")->defaults;
    const int32_t *first = shuffled(t, cols);
    for (int i = 0; i < 8; i++) {
        const nb_mat x = uploaded(t, kinds[i / 2], i % 2 ? NB_F32 : NB_BF16, rows, cols, cols + 8);
        const both_parts parts = split_columns(t, &x, first, eights, fours);
        nb_operand whole = placed(t, &bytes, rows, cols, NI_LEFT, &bytes);
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &whole}, 1);
        keep_operand(t, "as it lies", &whole);
        if (kinds[i / 2] == DATA_CORNERS) /* NaN and Inf: sums of them are not compared */
            continue;
        keep_product(t, "values of eights", &parts.eight);
        keep_product(t, "values of fours", &parts.four);
    }
}

/* So many rows that a block of threads has several, the last one not all of its own: on two multiprocessors, as
 * tests/plugin/launches.c describes a small GPU, and on some 130. */
static void run_split_rows(trial *t, int64_t rows, int64_t eights, int64_t fours) {
    const int32_t *first = shuffled(t, eights + fours);
    for (int i = 0; i < 4; i++) {
        const nb_mat x = uploaded(t, i / 2 ? DATA_CORNERS : DATA_NORMAL, i % 2 ? NB_F32 : NB_BF16, rows, eights + fours,
                                  eights + fours + 8);
        split_columns(t, &x, first, eights, fours);
    }
}

static void run_split_small(trial *t) {
    run_split_rows(t, t->shape ? 27 : 93, t->shape ? 544 : 96, t->shape ? 2304 : 640);
}

static void run_split_large(trial *t) {
    run_split_rows(t, 5549, 32, 128);
}

/* 16 columns of an operand, from `first` on. */
static void keep_values(trial *t, const char *what, const nb_operand *left, int64_t first) {
    float *one = poisoned(sizeof *one * (size_t)(16 * left->cols));
    for (int64_t i = 0; i < 16 * left->cols; i++)
        one[i] = i % left->cols == first + i / left->cols;
    const nb_mat ones = nb_mat_of(upload(t, one, sizeof *one * (size_t)(16 * left->cols)), NB_F32, 16, left->cols);
    const nb_operand right = made(t, &left->quantizer, &ones, NI_RIGHT, &left->quantizer);
    const nb_mat values = nb_mat_of(output(t, what, NB_F32, left->rows * 16), NB_F32, left->rows, 16);
    EXPECT_OK(t, t->be->ops->multiply(t->be, &values, &(ni_term){.a = left, .b = &right}, 1, false, &err));
}

/* The same where the channels of neither part fill its last block, a true tenth of them: zeros do. Lists begin at whole
 * vectors, as kernels of one reading take them, and one right behind the other. The first part is wider than the matrix
 * in the third shape; the last has longer rows than a kernel may hold. */
static void run_split_filled(trial *t) {
    enum { SHAPES = 4 };
    static const int64_t ROWS[SHAPES] = {70, 5, 3, 3}, EIGHTS[SHAPES] = {51, 102, 3, 1217},
                         FOURS[SHAPES] = {461, 922, 13, 10943};
    static const data_kind kinds[] = {DATA_NORMAL, DATA_WIDE, DATA_CORNERS, DATA_ZERO};
    const int64_t rows = ROWS[t->shape], eights = EIGHTS[t->shape], fours = FOURS[t->shape], cols = eights + fours,
                  wide_eights = (eights + 31) / 32 * 32, wide_fours = (fours + 127) / 128 * 128;
    const nb_quantizer bytes = ni_format_family_find("mxfp8")->defaults;
    nb_quantizer blocks = nvfp4(1);
    blocks.outer = NB_OUTER_ROW128;
    for (int i = 0; i < 16; i++) {
        const int64_t apart = i % 2 ? wide_eights : eights;
        const nb_dtype type = i / 2 % 2 ? NB_F32 : NB_BF16;
        const data_kind kind = kinds[i / 4];
        if (t->few && kind == DATA_WIDE)
            continue;
        const int32_t *first = two_lists(t, eights, apart, fours);
        const nb_mat x = uploaded(t, kind, type, rows, cols, cols + 8);
        const ni_source sources[2] = {
            {.numbers = &x, .columns = first, .column_count = eights, .zeros = wide_eights - eights},
            {.numbers = &x, .columns = first + apart, .column_count = fours, .zeros = wide_fours - fours}};
        nb_operand eight = placed(t, &bytes, rows, wide_eights, NI_LEFT, &bytes),
                   four = placed(t, &blocks, rows, wide_fours, NI_LEFT, &blocks),
                   alone[2] = {placed(t, &bytes, rows, wide_eights, NI_LEFT, &bytes),
                               placed(t, &blocks, rows, wide_fours, NI_LEFT, &blocks)};
        const ni_making makings[2] = {{.out = &eight}, {.out = &four}};
        EXPECT_OK(t, t->be->ops->make_many(t->be, sources, makings, 2, &err));
        for (int part = 0; part < 2; part++) {
            make(t, &sources[part], &(ni_making){.out = &alone[part]}, 1);
            keep_operand(t, "alone", &alone[part]);
        }
        keep_operand(t, "eights", &eight);
        keep_operand(t, "fours", &four);
        if (kind == DATA_CORNERS) /* NaN and Inf: sums of them are not compared */
            continue;
        keep_values(t, "values of eights", &eight, wide_eights - 16);
        keep_values(t, "values of fours", &four, fours / 16 * 16 - 8 < 0 ? 0 : fours / 16 * 16 - 8);
    }
    const nb_mat x = uploaded(t, DATA_NORMAL, NB_F32, rows, cols, cols);
    nb_operand four = placed(t, &blocks, rows, wide_fours, NI_LEFT, &blocks);
    const ni_source misfits[2] = {{.numbers = &x, .zeros = wide_fours - cols},
                                  {.operand = &four,
                                   .columns = two_lists(t, fours, fours, 0),
                                   .column_count = fours,
                                   .zeros = wide_fours - fours}};
    for (int i = 0; i < 2; i++) {
        nb_error err = {0};
        const int32_t status =
            (int32_t)t->be->ops->make_operands(t->be, &misfits[i], &(ni_making){.out = &four}, 1, &err);
        record(t, "refused", &status, NB_I32, 1, true);
    }
}

static const test_case MANY[] = {
    {"make_many", "a patch beside the whole", BITS, 2, run_patched, NULL, NULL},
    {"make_many", "patches beside one whole, and its columns", BITS, 3, run_patches, NULL, NULL},
    {"make_many", "chosen columns in two formats", BITS, 3, run_split, NULL, NULL},
    {"make_many", "chosen columns in two formats, filled up", BITS, 4, run_split_filled, NULL, NULL},
    {"make_many", "several rows of two formats, a small GPU", BITS, 2, run_split_small, NULL, NULL},
    {"make_many", "several rows of two formats", BITS, 1, run_split_large, NULL, NULL},
    {"make_many", "numbers of weights", BITS, 1, run_many_numbers, NULL, NULL},
    {"make_many", "weights of a model, some with a patch", BITS, 2, run_many, NULL, NULL},
    {"turn_many", "tiles, rows", BITS, 1, run_turn_many, NULL, NULL},
};
const case_list many_cases = {MANY, sizeof MANY / sizeof *MANY};
