/* cases_tiles.c: operands of whole tiles: what a backend may make of BF16 numbers in one reading. */
#include "operands.h"

/* Four bits under a scale a block. */
static bool is_tiled(const nb_quantizer *q) {
    return (q->element == NB_ELEMENT_E2M1 || q->element == NB_ELEMENT_S1P2) && q->block_cols != NB_BLOCK_ALL &&
           q->block_cols != 1 && q->block_rows == 1;
}

/* Blocks whose scale is no maximum under the tensor's. */
static bool has_rule(const nb_quantizer *q) {
    return q->outer > NB_OUTER_UNIT || q->scale_type != NB_SCALE_E4M3 || q->four_six || q->rule == NB_RULE_EDEN;
}

/* Neighbours that are made together. */
static int32_t span_of(const nb_quantizer *q) {
    const int32_t block = q->outer > NB_OUTER_UNIT ? 128 : q->block_cols;
    return block > q->hadamard_size ? block : q->hadamard_size;
}

/* Or one scale a row or a tensor. */
static bool is_vector(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_F32 && q->block_cols == NB_BLOCK_ALL;
}

enum { TILE_ROWS = 128, TILE_COLS = 384, TILE_STRIDE = 392 };

/* Both ways at once, from ordinary and from hard numbers. */
static void run_tiles(trial *t) {
    static const data_kind kinds[] = {DATA_NORMAL, DATA_CORNERS, DATA_WIDE, DATA_NAN, DATA_INF, DATA_ZERO, DATA_TINY};
    const quantizer_list *list = quantizers_of(t);
    const nb_noise noise = noise_at(t);
    for (int32_t i = 0, seen = 0; i < list->count; i++) {
        const nb_quantizer *q = &list->q[i], straight = unrotated(q);
        if ((!is_tiled(q) && !is_vector(q)) || seen++ % parts_of(t) != t->shape)
            continue;
        const data_kind kind = kinds[(seen / parts_of(t)) % (int)(sizeof kinds / sizeof *kinds)];
        const nb_mat x =
            uploaded(t, kind, seen / parts_of(t) % 3 ? NB_BF16 : NB_F32, TILE_ROWS, TILE_COLS, TILE_STRIDE);
        const nb_quantizer *row = is_tiled(q) && has_rule(q) ? q : &straight;
        nb_operand a = placed(t, row, TILE_ROWS, TILE_COLS, NI_LEFT, q);
        nb_operand b = placed(t, q, TILE_COLS, TILE_ROWS, NI_RIGHT, row), alone = b;
        alone.memory = scratch(t, t->be->ops->operand_bytes(t->be, &alone));
        const ni_making both[2] = {{.out = &a, .noise = &noise}, {.out = &b, .transpose = true, .noise = &noise}};
        make(t, &(ni_source){.numbers = &x}, both, 2);
        make(t, &(ni_source){.numbers = &x}, &(ni_making){.out = &alone, .transpose = true, .noise = &noise}, 1);
        char format[200], what[300];
        snprintf(what, sizeof what, "%s, numbers of kind %d", nb_quantizer_text(q, format, sizeof format), (int)kind);
        keep_operand(t, what, &a);
        keep_operand(t, what, &b);
        keep_operand(t, what, &alone);
        if (!is_tiled(q) || !has_rule(q))
            continue;
        /* made anew of another's codes, down their columns */
        const nb_operand from = made(t, &straight, &x, NI_LEFT, q);
        nb_operand anew = placed(t, q, TILE_COLS, TILE_ROWS, NI_RIGHT, row);
        make(t, &(ni_source){.operand = &from}, &(ni_making){.out = &anew, .transpose = true, .noise = &noise}, 1);
        keep_operand(t, what, &anew);
    }
}

/* What products read of both copies, made without codes: through identities. */
static void keep_values(trial *t, const nb_quantizer *row, const nb_quantizer *column, int64_t rows, int64_t cols) {
    const nb_noise noise = noise_at(t);
    const nb_mat x = uploaded(t, DATA_NORMAL, NB_BF16, rows, cols, cols + 8);
    const nb_operand right = identity(t, row, cols, NI_RIGHT), left = identity(t, column, rows, NI_LEFT);
    nb_operand a = placed(t, row, rows, cols, NI_LEFT, &right.quantizer);
    nb_operand b = placed(t, column, cols, rows, NI_RIGHT, &left.quantizer);
    a.reread = b.reread = false;
    const ni_making both[2] = {{.out = &a, .noise = &noise}, {.out = &b, .transpose = true, .noise = &noise}};
    make(t, &(ni_source){.numbers = &x}, both, 2);
    char what[200];
    nb_quantizer_text(column, what, sizeof what);
    const nb_mat straight = nb_mat_of(output(t, what, NB_F32, rows * cols), NB_F32, rows, cols);
    const nb_mat turned = nb_mat_of(output(t, what, NB_F32, rows * cols), NB_F32, rows, cols);
    EXPECT_OK(t, t->be->ops->multiply(t->be, &straight, &(ni_term){.a = &a, .b = &right}, 1, false, &err));
    EXPECT_OK(t, t->be->ops->multiply(t->be, &turned, &(ni_term){.a = &left, .b = &b}, 1, false, &err));
}

static void run_tile_values(trial *t) {
    const quantizer_list *list = quantizers_of(t);
    for (int32_t i = 0, seen = 0; i < list->count; i++) {
        const nb_quantizer *q = &list->q[i];
        const int32_t span = span_of(q);
        const int64_t rows = span > 64 ? 128 : span > 16 ? 64 : 32, cols = span > 64 ? 128 : span > 16 ? 192 : 272;
        if (!is_tiled(q) || nb_quantizer_check_shape(q, rows, cols, NULL) != NB_OK ||
            nb_quantizer_check_shape(q, cols, rows, NULL) != NB_OK || seen++ % parts_of(t) != t->shape)
            continue;
        keep_values(t, q, q, rows, cols);
    }
}

/* ---- what recipes ask for, whose kernels know it when they are compiled ---- */

enum { RECIPES = 10, RECIPE_ROWS = 80, RECIPE_COLS = 304 }; /* no whole number of tiles; MS-EDEN takes whole groups */

/* The column copy of recipe i; its row copy is not turned but by MS-EDEN. */
static nb_quantizer recipe_of(int i) {
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    if (i >= 8) {
        q.rule = NB_RULE_EDEN;
        q.sr_bits = i == 8 ? 16 : 8;
        q.hadamard_size = 128;
        q.hadamard_signs = NB_SIGNS_FRESH;
        q.hadamard_round_bf16 = i == 9;
        return q;
    }
    q.four_six = i & 1 ? NB_FOUR_SIX_MAE : NB_FOUR_SIX_MSE;
    q.four_six_top = i & 1 ? 448 : 256;
    q.four_six_order = i & 1 ? NB_FOUR_SIX_IN_ORDER : NB_FOUR_SIX_IN_EIGHTS;
    if (i & 2) {
        q.rule = NB_RULE_HEADROOM;
        q.round = NB_ROUND_STOCHASTIC;
        q.sr_bits = 8;
    }
    if (i & 4) {
        q.hadamard_size = 16;
        q.hadamard_signs = NB_SIGNS_FIXED;
        q.hadamard_round_bf16 = true;
    }
    return q;
}

/* A row copy, a column copy, and both at once; of ordinary numbers what products read of them too. Blocks of few
 * different numbers (DATA_CORNERS) err alike under both scales of Four Over Six, or nearly. */
static void run_recipes(trial *t) {
    const data_kind kind = (data_kind)t->shape;
    const nb_noise noise = noise_at(t);
    for (int i = 0; i < RECIPES; i++) {
        const nb_quantizer q = recipe_of(i), row = q.rule == NB_RULE_EDEN ? q : unrotated(&q);
        const bool eden = q.rule == NB_RULE_EDEN;
        const int64_t rows = eden ? 256 : RECIPE_ROWS, cols = eden ? 128 : RECIPE_COLS;
        const nb_mat x = uploaded(t, kind, NB_BF16, rows, cols, cols + 8);
        char format[200], what[300];
        snprintf(what, sizeof what, "%s, numbers of kind %d", nb_quantizer_text(&q, format, sizeof format), (int)kind);
        for (int ways = 1; ways < 4; ways++) {
            nb_operand a = placed(t, &row, rows, cols, NI_LEFT, &q), b = placed(t, &q, cols, rows, NI_RIGHT, &row);
            const ni_making both[2] = {{.out = &a, .noise = &noise}, {.out = &b, .transpose = true, .noise = &noise}};
            make(t, &(ni_source){.numbers = &x}, ways == 2 ? both + 1 : both, ways == 3 ? 2 : 1);
            if (ways & 1)
                keep_operand(t, what, &a);
            if (ways & 2)
                keep_operand(t, what, &b);
        }
        if (kind == DATA_NORMAL)
            keep_values(t, &row, &q, rows, cols);
    }
}

static const test_case TILES[] = {
    {"make_operands canonical", "whole tiles", BITS, PARTS, run_tiles, NULL, NULL},
    {"make_operands multiply", "values of whole tiles", BITS, PARTS, run_tile_values, NULL, NULL},
    {"make_operands canonical multiply", "as recipes have them", BITS, DATA_KINDS, run_recipes, NULL, NULL},
};
const case_list tile_cases = {TILES, sizeof TILES / sizeof *TILES};
