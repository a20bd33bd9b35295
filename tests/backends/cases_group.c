/* cases_group.c: products of the layers that read one input: dX as a sum of their terms, dW side by side. Bounds are
 * those of cases_product.c.
 */
#include "operands.h"

/* ---- sums of products, as dX of a group ---- */

/* On a GPU one contraction where nothing hinders it: tiles of 128 x 256, 64 of the contraction at a time, two by two.
 */
enum { GROUP_TERMS = 4, GROUP_SHAPES = 4 };
static const int64_t GROUP_SIZES[][2] = {{1, 16}, {70, 48}, {128, 256}, {260, 272}};
static const int64_t GROUP_DEPTHS[GROUP_TERMS] = {208, 16, 64, 128};

/* How the terms of a sum are. */
typedef struct group_kind {
    const char *name;
    bool turned;                 /* B lies as [K, N] */
    bool apart;                  /* A is columns of a wider matrix */
    int64_t less;                /* of every contraction */
    uint32_t coded;              /* terms of NVFP4, a bit each */
    double factors[GROUP_TERMS]; /* of A where it is numbers; 0, 0, 0, 0: none */
} group_kind;
static const group_kind GROUP_KINDS[] = {
    {"numbers, B turned", true, true, 0, 0, {0}},
    {"numbers", false, false, 0, 0, {0.37, 1.9e-3, 7.7, -0.37}},
    {"numbers, factors far apart", true, false, 0, 0, {1e-3, 1e-20, 0, 1e12}},
    {"codes", false, false, 0, 15, {0}},
    {"codes, B turned", true, false, 0, 15, {0}},
    {"numbers and codes", true, false, 0, 5, {0, 3, 0, 1e-9}},
    {"odd contractions", true, false, 3, 0, {0}},
};
enum { GROUPS_OF_TERMS = sizeof GROUP_KINDS / sizeof *GROUP_KINDS };

static double group_depth(const trial *t) {
    double sum = 16;
    (void)t;
    for (int i = 0; i < GROUP_TERMS; i++)
        sum += 2 * (double)GROUP_DEPTHS[i] + 8;
    return sum;
}

static nb_operand numbers_as(nb_mat numbers, bool turned, const float *factor) {
    return (nb_operand){.quantizer = nb_quantizer_bf16(),
                        .other = nb_quantizer_bf16(),
                        .rows = turned ? numbers.cols : numbers.rows,
                        .cols = turned ? numbers.rows : numbers.cols,
                        .numbers = numbers,
                        .transposed = turned,
                        .factor = factor};
}

static void numbers_of_term(trial *t, const group_kind *kind, int i, nb_operand *a, nb_operand *b) {
    const int64_t m = GROUP_SIZES[t->shape][0], n = GROUP_SIZES[t->shape][1], k = GROUP_DEPTHS[i] - kind->less,
                  wide = kind->apart ? k + 24 : k;
    const uint32_t stream = 40 + 2 * (uint32_t)i;
    nb_mat x = normal_mat(t, NB_BF16, stream, m, wide);
    x.cols = k;
    if (kind->apart)
        x.data = (uint16_t *)x.data + 8;
    const nb_mat w = kind->turned ? normal_mat(t, NB_BF16, stream + 1, k, n) : normal_mat(t, NB_BF16, stream + 1, n, k);
    const bool scaled = kind->factors[0] != 0 || kind->factors[1] != 0;
    *a = numbers_as(x, false, scaled ? input(t, NB_F32, &kind->factors[i], 1) : NULL);
    *b = numbers_as(w, kind->turned, NULL);
}

static void codes_of_term(trial *t, const group_kind *kind, int i, nb_operand *a, nb_operand *b) {
    const nb_quantizer q = nvfp4(1), tiles = nvfp4(16);
    const int64_t m = GROUP_SIZES[t->shape][0], n = GROUP_SIZES[t->shape][1], k = GROUP_DEPTHS[i];
    const nb_mat x = data_mat(t, DATA_NORMAL, NB_BF16, m, k),
                 w = kind->turned ? data_mat(t, DATA_NORMAL, NB_F32, k, n) : data_mat(t, DATA_NORMAL, NB_F32, n, k);
    *a = made(t, &q, &x, NI_LEFT, &tiles);
    if (!kind->turned) {
        *b = made(t, &tiles, &w, NI_RIGHT, &q);
        return;
    }
    nb_operand *straight = poisoned(sizeof *straight);
    *straight = made(t, &tiles, &w, NI_RIGHT, &q);
    *b = placed(t, &tiles, n, k, NI_RIGHT, &q);
    EXPECT_OK(t, t->be->ops->turn(t->be, b, straight, &err));
}

static void run_group(trial *t) {
    const int64_t m = GROUP_SIZES[t->shape][0], n = GROUP_SIZES[t->shape][1];
    for (int kind = 0; kind < GROUPS_OF_TERMS; kind++) {
        const group_kind *of = &GROUP_KINDS[kind];
        nb_operand a[GROUP_TERMS], b[GROUP_TERMS];
        ni_term terms[GROUP_TERMS];
        for (int i = 0; i < GROUP_TERMS; i++) {
            (of->coded >> i & 1 ? codes_of_term : numbers_of_term)(t, of, i, &a[i], &b[i]);
            terms[i] = (ni_term){.a = &a[i], .b = &b[i]};
        }
        for (int i = 0; i < (t->shape < 2 ? 4 : 1); i++) { /* the last three are no one contraction */
            const nb_mat c = normal_mat(t, i & 1 ? NB_F32 : NB_BF16, 9, m, n);
            EXPECT_OK(t, t->be->ops->multiply(t->be, &c, terms, i ? 2 : GROUP_TERMS, i & 2, &err));
            keep(t, of->name, c.data, c.dtype, m * n, false);
        }
    }
}

/* ---- products over many tokens, side by side: dW of a group. On a GPU their contractions are cut into equal shares
 * ---- */

/* On 66 clusters: 14 tall tiles in four parts; as many wide ones, of codes; 36 in two, of which others than the owners
 * take two each; 66 whole ones, and two that are left. */
enum { SIDES = 7, SIDE_SHAPES = 4, SIDE_DEPTH = 2064 };
static const int64_t SIDE_ROWS[SIDE_SHAPES][SIDES] = {
    {514, 514, 514, 514, 514, 514, 514}, {16, 16, 16, 16, 16, 16, 16}, {2, 2}, {2, 2, 2, 2}};
static const int64_t SIDE_COLS[SIDE_SHAPES] = {8, 272, 4360, 4104};

static double side_depth(const trial *t) {
    (void)t;
    return 2.0 * SIDE_DEPTH + 24;
}

/* X or dY as it lies, the contraction down its columns: numbers, or codes made of them. */
static nb_operand down(trial *t, const nb_mat *numbers_of_it, ni_side which, const float *factor) {
    const nb_quantizer q = nvfp4(1);
    if (t->shape != 1)
        return numbers_as(*numbers_of_it, true, factor);
    nb_operand o = placed(t, &q, numbers_of_it->cols, SIDE_DEPTH, which, &q);
    make(t, &(ni_source){.numbers = numbers_of_it}, &(ni_making){.out = &o, .transpose = true}, 1);
    return o;
}

static void multiply_sides(trial *t, const ni_sum *products, int32_t count) {
    if (t->be->multiply_many)
        EXPECT_OK(t, t->be->multiply_many(t->be, products, count, &err));
    for (int i = 0; i < count; i++) {
        const ni_sum *p = &products[i];
        if (!t->be->multiply_many)
            EXPECT_OK(t, t->be->ops->multiply(t->be, &p->c, p->terms, p->count, p->accumulate, &err));
        keep(t, "dW", p->c.data, NB_F32, p->c.rows * p->c.cols, false);
    }
}

static void run_sides(trial *t) {
    static const double factor = 0.37;
    const int64_t *rows = SIDE_ROWS[t->shape], cols = SIDE_COLS[t->shape];
    const float *scaled = input(t, NB_F32, &factor, 1);
    const nb_mat x = normal_mat(t, NB_BF16, 49, SIDE_DEPTH, cols);
    const nb_operand b = down(t, &x, NI_RIGHT, NULL);
    nb_operand a[SIDES];
    ni_term terms[SIDES];
    ni_sum products[SIDES];
    int32_t count = 0;
    for (; count < SIDES && rows[count]; count++) {
        const int i = count;
        nb_mat dy = normal_mat(t, NB_BF16, 50 + (uint32_t)i, SIDE_DEPTH, (rows[i] + 7) / 8 * 8);
        dy.cols = rows[i];
        a[i] = down(t, &dy, NI_LEFT, i == 2 ? scaled : NULL);
        terms[i] = (ni_term){.a = &a[i], .b = &b};
        products[i] = (ni_sum){.c = normal_mat(t, NB_F32, 60 + (uint32_t)i, rows[i], cols),
                               .terms = &terms[i],
                               .count = 1,
                               .accumulate = i % 2};
    }
    multiply_sides(t, products, count);
}

/* Each a sum of products that have columns of their own, which are all of C but in the second shape. Tiles: high and
 * narrow ones beside the others; the same of codes; wide ones alone; of widths that are no whole vectors. */
enum { SPREADS = 3, SPREAD_PARTS = 3, SPREAD_SHAPES = 4 };
static const int64_t SPREAD_ROWS[SPREAD_SHAPES] = {258, 272, 2, 258};
static const int64_t SPREAD_WIDTHS[SPREAD_SHAPES][SPREAD_PARTS] = {
    {8, 264, 8}, {16, 272, 16}, {1800, 2288, 16}, {51, 333, 3}};
static const int64_t SPREAD_COLS[SPREAD_SHAPES] = {280, 320, 4104, 387};

static void run_spread_sides(trial *t) {
    const int64_t rows = SPREAD_ROWS[t->shape], cols = SPREAD_COLS[t->shape], *widths = SPREAD_WIDTHS[t->shape];
    const int32_t *at = shuffled(t, cols);
    nb_operand a[SPREADS][2], b[SPREAD_PARTS];
    ni_term terms[SPREADS][SPREAD_PARTS];
    ni_sum products[SPREADS];
    for (int part = 0; part < SPREAD_PARTS; part++) {
        nb_mat x = normal_mat(t, NB_BF16, 70 + (uint32_t)part, SIDE_DEPTH, (widths[part] + 7) / 8 * 8);
        x.cols = widths[part];
        b[part] = down(t, &x, NI_RIGHT, NULL);
    }
    for (int i = 0; i < SPREADS; i++) {
        const int32_t *columns_of_part = at;
        for (int k = 0; k < 2; k++) {
            nb_mat dy = normal_mat(t, NB_BF16, 80 + (uint32_t)(2 * i + k), SIDE_DEPTH, (rows + 7) / 8 * 8);
            dy.cols = rows;
            a[i][k] = down(t, &dy, NI_LEFT, NULL);
        }
        for (int part = 0; part < SPREAD_PARTS; part++) {
            terms[i][part] = (ni_term){.a = &a[i][part % 2], .b = &b[part], .columns = columns_of_part};
            columns_of_part += widths[part];
        }
        products[i] = (ni_sum){.c = normal_mat(t, NB_F32, 90 + (uint32_t)i, rows, cols),
                               .terms = terms[i],
                               .count = SPREAD_PARTS,
                               .accumulate = i % 2};
    }
    multiply_sides(t, products, SPREADS);
}

/* The same as OutControl has them where neither part fills its last block: the first columns of what X was multiplied
 * as, anew along the tokens. Of five layers on a GPU at once; of one, whose tiles are few, the library's products. */
enum { FILLED_PARTS = 2, FILLED_LAYERS = 5, FILLED_SHAPES = 2, FILLED_DEPTH = 2048, FILLED_ROWS = 16 };
static const int64_t CHANNELS[FILLED_PARTS] = {51, 461};

static double filled_depth(const trial *t) {
    (void)t;
    return 2.0 * FILLED_DEPTH + 24;
}

/* [rows, FILLED_DEPTH], for a product alone. */
static nb_operand only_multiplied(trial *t, const nb_quantizer *q, const ni_source *source, int64_t rows,
                                  ni_side side) {
    nb_operand o = placed(t, q, rows, FILLED_DEPTH, side, q);
    o.reread = false;
    make(t, source, &(ni_making){.out = &o, .transpose = true}, 1);
    return o;
}

static void run_filled_sides(trial *t) {
    const int64_t rows = FILLED_ROWS, cols = CHANNELS[0] + CHANNELS[1];
    const int32_t count = t->shape ? 1 : FILLED_LAYERS, *at = two_lists(t, CHANNELS[0], 64, CHANNELS[1]);
    nb_quantizer formats[FILLED_PARTS] = {ni_format_family_find("mxfp8")->defaults, nvfp4(1)};
    int32_t *places = poisoned(sizeof *places * (size_t)cols);
    nb_operand codes[FILLED_PARTS], a[FILLED_LAYERS][FILLED_PARTS], b[FILLED_PARTS];
    ni_term terms[FILLED_LAYERS][FILLED_PARTS];
    ni_sum products[FILLED_LAYERS];
    formats[1].outer = NB_OUTER_ROW128;
    for (int32_t c = 0; c < cols; c++)
        places[c] = c;
    const int32_t *first = upload(t, places, sizeof *places * (size_t)cols);
    for (int part = 0; part < FILLED_PARTS; part++) {
        const nb_mat x = normal_mat(t, NB_BF16, 100 + (uint32_t)part, FILLED_DEPTH, part ? 512 : 64);
        codes[part] = made(t, &formats[part], &x, NI_LEFT, &formats[part]);
        const ni_source leading = {
            .operand = &codes[part], .columns = first, .column_count = CHANNELS[part], .leading = true};
        b[part] = only_multiplied(t, &formats[part], &leading, CHANNELS[part], NI_RIGHT);
    }
    for (int i = 0; i < count; i++) {
        const nb_mat dy = normal_mat(t, NB_BF16, 110 + (uint32_t)i, FILLED_DEPTH, rows);
        for (int part = 0; part < FILLED_PARTS; part++) {
            a[i][part] = only_multiplied(t, &formats[part], &(ni_source){.numbers = &dy}, rows, NI_LEFT);
            terms[i][part] = (ni_term){.a = &a[i][part], .b = &b[part], .columns = part ? at + 64 : at};
        }
        products[i] = (ni_sum){.c = normal_mat(t, NB_F32, 120 + (uint32_t)i, rows, cols),
                               .terms = terms[i],
                               .count = FILLED_PARTS,
                               .accumulate = i % 2};
    }
    multiply_sides(t, products, count);
}

static const test_case GROUP_CASES[] = {
    {"multiply", "a group's terms", CODES, GROUP_SHAPES, run_group, NULL, group_depth},
    {"multiply make_operands", "products over many tokens, side by side", CODES, SIDE_SHAPES, run_sides, NULL,
     side_depth},
    {"multiply make_operands", "columns over many tokens, side by side", CODES, SPREAD_SHAPES, run_spread_sides, NULL,
     side_depth},
    {"multiply make_operands", "columns of parts that are filled up", CODES, FILLED_SHAPES, run_filled_sides, NULL,
     filled_depth},
};
const case_list group_cases = {GROUP_CASES, sizeof GROUP_CASES / sizeof *GROUP_CASES};
