/* cases_remade.c: weights made anew of codes, or of the parts that OutControl splits them into, the other way up: more
 * in one call than a launch holds, each to the bits that it has alone.
 */
#include "operands.h"

enum { MATRICES = 40, ALIKE = 34, FEW = 9, COMPARED = 6 };

/* How those of one launch are quantized: the first ones alike, then one of each other kind, turned or not. */
enum { KINDS_OF_LAUNCH = 6 };
static nb_quantizer remade_as(int way) {
    static const int bits[KINDS_OF_LAUNCH] = {16, 8, 0, 8, 16, 0};
    const bool turned = way == 0 || way == 2 || way == 3;
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.outer = way == 1 ? NB_OUTER_ROW128_POW2 : NB_OUTER_ROW128;
    q.rule = way ? NB_RULE_ABSMAX : NB_RULE_HEADROOM;
    q.hadamard_size = turned ? 16 : 0;
    q.hadamard_signs = turned ? NB_SIGNS_FRESH : NB_SIGNS_NONE;
    q.hadamard_round_bf16 = way == 2;
    q.round = bits[way] ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN;
    q.sr_bits = bits[way] == 8 ? 8 : 16;
    return q;
}

static nb_mat weights(trial *t, int i, int64_t rows, int64_t cols) {
    static const data_kind kinds[] = {DATA_NORMAL, DATA_WIDE, DATA_ZERO};
    return i % 4 == 3 ? wild_columns(t, NB_F32, rows, cols, cols, i % 8 == 3)
                      : uploaded(t, kinds[i % 4], NB_F32, rows, cols, cols);
}

/* Columns in an order of their own: the first `eights` in MXFP8, the others in double blocks, each part filled up with
 * zeros to whole blocks. */
typedef struct split {
    nb_operand eight, four;
    ni_parts parts;
} split;

static void split_weight(trial *t, const nb_mat *w, int64_t eights, split *out) {
    const nb_quantizer bytes = ni_format_family_find("mxfp8")->defaults;
    nb_quantizer blocks = nvfp4(1);
    blocks.outer = NB_OUTER_ROW128;
    const int64_t fours = w->cols - eights, wide_eights = (eights + 31) / 32 * 32,
                  wide_fours = (fours + 127) / 128 * 128;
    const int32_t *first = two_lists(t, eights, wide_eights, fours);
    int32_t *order = poisoned(sizeof *order * (size_t)(wide_eights + fours)),
            *places = poisoned(sizeof *places * (size_t)w->cols);
    t->be->ops->download(t->be, order, first, sizeof *order * (size_t)(wide_eights + fours));
    for (int64_t i = 0; i < w->cols; i++)
        places[i < eights ? order[i] : order[wide_eights + i - eights]] =
            (int32_t)(i < eights ? NI_PARTS_MOST * i : NI_PARTS_MOST * (i - eights) + 1);
    out->eight = placed(t, &bytes, w->rows, wide_eights, NI_RIGHT, &bytes);
    out->four = placed(t, &blocks, w->rows, wide_fours, NI_RIGHT, &blocks);
    out->parts = (ni_parts){.rows = w->rows,
                            .cols = w->cols,
                            .count = 2,
                            .codes = {&out->eight, &out->four},
                            .columns = {{first, eights}, {first + wide_eights, fours}},
                            .places = upload(t, places, sizeof *places * (size_t)w->cols)};
    const ni_source sources[2] = {
        {.numbers = w, .columns = first, .column_count = eights, .zeros = wide_eights - eights},
        {.numbers = w, .columns = first + wide_eights, .column_count = fours, .zeros = wide_fours - fours}};
    const ni_making makings[2] = {{.out = &out->eight}, {.out = &out->four}};
    EXPECT_OK(t, t->be->ops->make_many(t->be, sources, makings, 2, &err));
}

/* What make_many makes of one source, by other calls. */
static void make_alone(trial *t, const ni_source *source, const ni_making *making) {
    const ni_parts *parts = source->parts;
    if (!parts) {
        make(t, source, making, 1);
        return;
    }
    const size_t bytes = sizeof(float) * (size_t)(parts->rows * parts->cols);
    const nb_mat whole = nb_mat_of(scratch(t, bytes), NB_F32, parts->rows, parts->cols);
    EXPECT_OK(t, t->be->ops->decode_columns(t->be, &whole, parts->codes, parts->columns, parts->count, &err));
    make(t, &(ni_source){.numbers = &whole}, making, 1);
}

/* Shape 0: of codes; 1: of parts in whole blocks; 2: of parts that do not fill theirs. */
static void run_remade(trial *t) {
    const nb_quantizer left = nvfp4(1);
    const int count = t->few ? FEW : MATRICES;
    nb_quantizer blocks = left;
    nb_operand codes[MATRICES], out[MATRICES], alone[MATRICES];
    split parted[MATRICES];
    ni_source sources[MATRICES];
    ni_making makings[MATRICES];
    nb_noise noises[MATRICES];
    blocks.outer = NB_OUTER_ROW128;
    for (int i = 0; i < count; i++) {
        const int alike = t->few ? FEW - 4 : ALIKE, way = i < alike ? 0 : 1 + (i - alike) % (KINDS_OF_LAUNCH - 1);
        const int64_t rows = i % 7 == 1 ? 256 : 128, cols = 128 * (1 + (t->shape > 0) + (i % 5 == 2));
        const nb_quantizer q = remade_as(way);
        const nb_mat w = weights(t, i, rows, cols);
        noises[i] = noise_at(t);
        noises[i].tensor += (uint32_t)i;
        noises[i].signs ^= (uint32_t)i;
        if (t->shape) {
            split_weight(t, &w, t->shape == 1 ? 128 : cols / 10, &parted[i]);
            sources[i] = (ni_source){.parts = &parted[i].parts};
        } else {
            codes[i] = made(t, &blocks, &w, NI_LEFT, &blocks);
            sources[i] = (ni_source){.operand = &codes[i]};
        }
        out[i] = placed(t, &q, cols, rows, NI_RIGHT, &left);
        alone[i] = placed(t, &q, cols, rows, NI_RIGHT, &left);
        out[i].reread = alone[i].reread = i == count - 1; /* its codes too, one by one */
        makings[i] = (ni_making){.out = &out[i], .transpose = true, .noise = &noises[i]};
    }
    EXPECT_OK(t, t->be->ops->make_many(t->be, sources, makings, count, &err));
    for (int i = 0; i < count; i++) {
        ni_making one = makings[i];
        one.out = &alone[i];
        make_alone(t, &sources[i], &one);
        expect_same_memory(t, "one of many, and alone", &out[i], &alone[i]);
        if (i < COMPARED && i % 4 != 3)
            keep_columns(t, "values", &left, &out[i]);
    }
    keep_operand(t, "codes", &out[count - 1]);
}

static const test_case REMADE[] = {
    {"make_many multiply", "anew of codes and of parts, the other way up", BITS, 3, run_remade, NULL, NULL},
};
const case_list remade_cases = {REMADE, sizeof REMADE / sizeof *REMADE};
