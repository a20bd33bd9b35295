/* cases_operand.c: operands: sources, makings, pieces, turning, decoding; the codes and numbers bit for bit. */
#include "operands.h"

#include "format/hadamard.h"
#include "format/noise.h"

enum { M = 48, N = 32, K = 128, PICKED = 32, PARTS = 6 };

/* Few quantizers are gone through in two shapes, whose first ones are all that such a run makes. */
static int32_t parts_of(const trial *t) {
    return t->few ? 2 : PARTS;
}

static nb_quantizer nvfp4(int32_t block_rows) {
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.block_rows = block_rows;
    return q;
}

static nb_quantizer rows_of(const char *family) {
    nb_quantizer q = ni_format_family_find(family)->defaults;
    q.block_rows = 1;
    q.block_cols = NB_BLOCK_ALL;
    return q;
}

/* Two operands of one call, one turned, of numbers and of an operand's decoded values; and the same made apart. */
static void run_two(trial *t) {
    const quantizer_list *list = quantizers_of(t);
    const nb_quantizer source_format = rows_of("e2m1");
    const nb_noise noise = noise_at(t);
    for (int32_t i = t->shape; i < list->count; i += parts_of(t)) {
        const nb_quantizer *q = &list->q[i], *second = &list->q[(i + 7) % list->count];
        const nb_mat x = uploaded(t, DATA_CORNERS, i % 2 ? NB_F32 : NB_BF16, 128, 128, 131);
        const nb_operand from = made(t, &source_format, &x, NI_LEFT, q);
        for (int kind = 0; kind < 2; kind++) {
            const ni_source source = {.numbers = kind ? NULL : &x, .operand = kind ? &from : NULL};
            for (int apart = 0; apart < 2; apart++) {
                if (t->few && apart != kind)
                    continue;
                nb_operand a = placed(t, q, 128, 128, NI_LEFT, second), b = placed(t, second, 128, 128, NI_RIGHT, q);
                const ni_making both[2] = {{.out = &a, .noise = &noise},
                                           {.out = &b, .transpose = true, .noise = &noise}};
                if (apart) {
                    make(t, &source, &both[0], 1);
                    make(t, &source, &both[1], 1);
                } else {
                    make(t, &source, both, 2);
                }
                char format[200], what[300];
                snprintf(what, sizeof what, "%s of %s, %s", nb_quantizer_text(q, format, sizeof format),
                         kind ? "codes" : "numbers", apart ? "apart" : "two in one call");
                keep_operand(t, what, &a);
                keep_operand(t, what, &b);
            }
        }
    }
}

static const int32_t *picked(trial *t) {
    int32_t *columns = poisoned(sizeof *columns * PICKED);
    for (int i = 0; i < PICKED; i++)
        columns[i] = 3 * i + i % 2;
    return upload(t, columns, sizeof *columns * PICKED);
}

/* Columns, residuals and folded scales, each in FP32; plain numbers where they are asked for. */
static void run_derived(trial *t) {
    const nb_quantizer q = nvfp4(1), rows = rows_of("e2m1"), plain = nb_quantizer_bf16();
    const nb_noise noise = noise_at(t);
    const int32_t *columns = picked(t);
    const nb_mat x = uploaded(t, DATA_WIDE, NB_BF16, M, K, K + 3), w = uploaded(t, DATA_NORMAL, NB_F32, K, N, N),
                 y = uploaded(t, DATA_NORMAL, NB_F32, M, N, N);
    const nb_operand minus = made(t, &q, &x, NI_LEFT, &q), by_row = made(t, &rows, &y, NI_RIGHT, &plain),
                     by_col = made(t, &rows, &w, NI_LEFT, &plain);
    const ni_source sources[3] = {
        {.numbers = &x, .columns = columns, .column_count = PICKED},
        {.numbers = &x, .minus = &minus, .columns = columns, .column_count = PICKED},
        {.numbers = &x, .row_scales = &by_row, .column_scales = &by_col},
    };
    nb_operand out[3] = {placed(t, &q, M, PICKED, NI_LEFT, &q), placed(t, &rows, PICKED, M, NI_LEFT, &q),
                         placed(t, &q, M, K, NI_LEFT, &q)};
    static const char *const what[3] = {"columns", "residual, turned", "folded"};
    for (int i = 0; i < 3; i++) {
        make(t, &sources[i], &(ni_making){.out = &out[i], .transpose = i == 1, .noise = &noise}, 1);
        keep_operand(t, what[i], &out[i]);
    }
    nb_operand numbers = {.quantizer = plain, .rows = K, .cols = M, .transposed = true};
    numbers.numbers = nb_mat_of(output(t, "plain numbers", NB_BF16, M * K), NB_BF16, M, K);
    make(t, &sources[2], &(ni_making){.out = &numbers, .transpose = true, .noise = &noise}, 1);
}

/* An operand of pieces: tiles of 16x16 beside rows of 1x16 under the first piece's scale; pieces that cannot be. */
static void run_pieces(trial *t) {
    const nb_quantizer tiles = nvfp4(16), q = nvfp4(1);
    const nb_noise noise = noise_at(t);
    const int32_t *columns = picked(t);
    const nb_mat w = uploaded(t, DATA_NORMAL, t->shape ? NB_BF16 : NB_F32, N, K, K);
    nb_operand o = placed(t, &q, N, K + 2 * PICKED, NI_RIGHT, &q);
    const ni_source all = {.numbers = &w},
                    residual = {.numbers = &w, .minus = &o, .columns = columns, .column_count = PICKED},
                    again = {.numbers = &w, .columns = columns, .column_count = PICKED};
    make(t, &all, &(ni_making){.out = &o, .quantizer = &tiles, .noise = &noise}, 1);
    make(t, &residual, &(ni_making){.out = &o, .at = K, .under = &o, .noise = &noise}, 1);
    make(t, &again, &(ni_making){.out = &o, .at = K + PICKED, .under = &o, .noise = &noise}, 1);
    keep_operand(t, "pieces", &o);
    keep(t, "outer scale", o.outer, NB_F32, 1, true);
    const ni_making misfits[2] = {{.out = &o, .at = K}, {.out = &o, .at = K + 8, .under = &o}};
    for (int i = 0; i < 2; i++) {
        nb_error err = {0};
        const int32_t status = (int32_t)t->be->ops->make_operands(t->be, &again, &misfits[i], 1, &err);
        record(t, "refused", &status, NB_I32, 1, true);
    }
}

/* The maximum of turned columns may come with the numbers: it makes no other codes than a search for it. */
static void run_turned_amax(trial *t, const nb_mat *x) {
    const nb_noise noise = noise_at(t);
    const ni_noise_key none = {0};
    const ni_sign_mask signs = ni_signs_of(NB_SIGNS_FIXED, &none);
    nb_quantizer q = nvfp4(1);
    q.hadamard_size = 16;
    q.hadamard_signs = NB_SIGNS_FIXED;
    q.hadamard_round_bf16 = true;
    uint32_t bits = 0;
    for (int64_t i = 0; i < M / 16 * K; i++) {
        float column[16];
        for (int j = 0; j < 16; j++)
            column[j] = ni_bf16_value(ni_bf16_even(datum(DATA_NORMAL, 11, (i / K * 16 + j) * K + i % K)));
        ni_hadamard(column, 16, signs);
        for (int j = 0; j < 16; j++) {
            const uint32_t its = ni_f32_magnitude(ni_bf16_round(column[j]));
            bits = its > bits ? its : bits;
        }
    }
    for (int known = 0; known < 2; known++) {
        nb_mat from = *x;
        from.turned_amax = known ? upload(t, &bits, sizeof bits) : NULL;
        nb_operand o = placed(t, &q, K, M, NI_RIGHT, &q);
        make(t, &(ni_source){.numbers = &from}, &(ni_making){.out = &o, .transpose = true, .noise = &noise}, 1);
        keep_operand(t, known ? "columns known" : "columns measured", &o);
    }
}

/* An amax that comes with the numbers decides the scale; a rotated operand measures for itself. */
static void run_amax(trial *t) {
    nb_quantizer q = nvfp4(1), turned = q;
    turned.hadamard_size = 16;
    nb_mat x = uploaded(t, DATA_NORMAL, NB_BF16, M, K, K);
    const nb_operand plain[2] = {made(t, &q, &x, NI_LEFT, &q), made(t, &turned, &x, NI_LEFT, &q)};
    const nb_noise noise = noise_at(t);
    nb_operand two[2] = {placed(t, &q, M, K, NI_LEFT, &turned), placed(t, &turned, K, M, NI_RIGHT, &q)};
    const ni_making both[2] = {{.out = &two[0], .noise = &noise}, {.out = &two[1], .transpose = true, .noise = &noise}};
    make(t, &(ni_source){.numbers = &x}, both, 2);
    uint32_t bits = 0;
    for (int64_t i = 0; i < M * K; i++) {
        const uint32_t its = ni_f32_magnitude(ni_bf16_value(ni_bf16_even(datum(DATA_NORMAL, 11, i))));
        bits = its > bits ? its : bits;
    }
    x.amax = upload(t, &bits, sizeof bits);
    const nb_operand known[2] = {made(t, &q, &x, NI_LEFT, &q), made(t, &turned, &x, NI_LEFT, &q)};
    run_turned_amax(t, &x);
    for (int i = 0; i < 2; i++) {
        keep_operand(t, "measured", &plain[i]);
        keep_operand(t, "known", &known[i]);
        keep_operand(t, "both measured at once", &two[i]);
    }
}

static uint32_t largest_bits(data_kind kind, int64_t rows, int64_t cols, int64_t stride) {
    const nb_mat host = data_matrix(kind, NB_BF16, rows, cols, stride);
    uint32_t bits = 0;
    for (int64_t i = 0; i < rows * cols; i++) {
        const uint32_t its = ni_f32_magnitude(ni_bf16_value(((uint16_t *)host.data)[i / cols * stride + i % cols]));
        bits = its > bits ? its : bits;
    }
    return bits;
}

/* Under the scale of another step, both ways: what was larger then, what is larger now by little and by much, and what
 * no scale can be made of; the maximum of this step comes out. The last columns stand alone in a tile. */
static void run_delayed(trial *t) {
    static const float past_of[] = {1, 0.7f, 0.1f, 1e-6f, 30, 0, NAN, INFINITY};
    enum { PASTS = sizeof past_of / sizeof *past_of, ROWS = 32, COLS = 272 };
    const quantizer_list *list = quantizers_of(t);
    const nb_noise noise = noise_at(t);
    for (int32_t i = 0, seen = 0; i < list->count; i++) {
        const nb_quantizer *q = &list->q[i];
        if (q->scale_type != NB_SCALE_E4M3 || q->outer != NB_OUTER_TENSOR ||
            nb_quantizer_check_shape(q, COLS, ROWS, NULL) != NB_OK || seen++ % parts_of(t) != t->shape)
            continue;
        nb_quantizer straight = *q;
        straight.hadamard_size = 0;
        if (straight.rule == NB_RULE_EDEN) /* exists only rotated */
            straight.rule = NB_RULE_ABSMAX;
        for (int kind = 0; kind < DATA_KINDS; kind++) {
            const int with = (seen + kind) % PASTS;
            const nb_mat x = uploaded(t, kind, kind % 4 == 3 ? NB_F32 : NB_BF16, ROWS, COLS, COLS + 8);
            const float own = ni_f32_from(largest_bits(kind, ROWS, COLS, COLS + 8)),
                        past = own > 0 && own < INFINITY ? past_of[with] * own : past_of[with];
            const float *word = upload(t, &past, sizeof past);
            uint32_t *now = output(t, "maxima of this step", NB_F32, 2);
            nb_operand a = placed(t, &straight, ROWS, COLS, NI_LEFT, q),
                       b = placed(t, q, COLS, ROWS, NI_RIGHT, &straight);
            const ni_making both[2] = {
                {.out = &a, .past = with ? word : NULL, .headroom = 2, .now = now, .noise = &noise},
                {.out = &b, .transpose = true, .past = word, .headroom = 1, .now = now + 1, .noise = &noise}};
            make(t, &(ni_source){.numbers = &x}, both, 2);
            char format[200], what[300];
            snprintf(what, sizeof what, "%s, numbers of kind %d, %g of their maximum",
                     nb_quantizer_text(q, format, sizeof format), kind, (double)past_of[with]);
            keep_operand(t, what, &a);
            keep_operand(t, what, &b);
        }
    }
}

/* What has no such scale. */
static void run_delayed_misfits(trial *t) {
    const nb_quantizer q = nvfp4(1), mx = ni_format_family_find("mxfp4")->defaults;
    const nb_mat x = uploaded(t, DATA_NORMAL, NB_BF16, M, K, K);
    const float one = 1;
    const float *past = upload(t, &one, sizeof one);
    nb_operand a = made(t, &q, &x, NI_LEFT, &q), b = placed(t, &mx, M, K, NI_LEFT, &mx), c = a;
    const ni_source numbers = {.numbers = &x}, codes = {.operand = &a};
    c.memory = scratch(t, t->be->ops->operand_bytes(t->be, &c));
    const ni_making misfits[3] = {{.out = &b, .past = past, .headroom = 1},
                                  {.out = &c, .past = past, .headroom = 1},
                                  {.out = &c, .past = past, .under = &a}};
    for (int i = 0; i < 3; i++) {
        nb_error err = {0};
        const int32_t status =
            (int32_t)t->be->ops->make_operands(t->be, i == 1 ? &codes : &numbers, &misfits[i], 1, &err);
        record(t, "refused", &status, NB_I32, 1, true);
    }
}

static void run_turn(trial *t) {
    const nb_quantizer tiles = nvfp4(16), rows = rows_of("int4"), q = nvfp4(1);
    nb_quantizer none = rows;
    none.scale_type = NB_SCALE_NONE;
    none.block_rows = none.block_cols = NB_BLOCK_ALL;
    const nb_mat w = uploaded(t, DATA_NORMAL, NB_F32, N, K, K);
    nb_backend *be = t->be;
    const nb_operand a = made(t, &tiles, &w, NI_LEFT, &q), b = made(t, &rows, &w, NI_LEFT, &rows);
    nb_operand turned = placed(t, &tiles, K, N, NI_RIGHT, &q), bare = placed(t, &none, K, N, NI_RIGHT, &rows);
    EXPECT_OK(t, be->ops->turn(be, &turned, &a, &err));
    EXPECT_OK(t, be->ops->turn(be, &bare, &b, &err));
    keep_operand(t, "turned tiles", &turned);
    const nb_mat whole = nb_mat_of(output(t, "turned rows", NB_F32, N * K), NB_F32, K, N);
    EXPECT_OK(t, be->ops->decode(be, &whole, &bare, false, NULL, true, &err));
    nb_operand wrong = placed(t, &q, K, N, NI_RIGHT, &q), one = made(t, &q, &w, NI_LEFT, &q);
    nb_error err = {0};
    const int32_t status = (int32_t)be->ops->turn(be, &wrong, &one, &err);
    record(t, "refused", &status, NB_I32, 1, true);
}

/* Every format, both ways, with and without what is outside of a sum; into columns, whose neighbours stay. */
static void run_decode(trial *t) {
    const quantizer_list *list = formats_of(t);
    const nb_quantizer other = nvfp4(1);
    const nb_mat w = uploaded(t, DATA_CORNERS, NB_F32, N, K, K);
    int32_t *columns = poisoned(K * sizeof *columns);
    for (int c = 0; c < K; c++)
        columns[c] = 2 * (K - 1 - c) + 1;
    const int32_t *at = upload(t, columns, K * sizeof *columns);
    for (int32_t i = t->shape; i < list->count; i += parts_of(t)) {
        const nb_operand o = made(t, &list->q[i], &w, NI_RIGHT, &other);
        char what[200];
        nb_quantizer_text(&list->q[i], what, sizeof what);
        for (int mode = 0; mode < 8; mode++) {
            const nb_dtype type = mode & 4 ? NB_BF16 : NB_F32;
            const nb_mat out = nb_mat_of(output(t, what, type, N * K), type, mode & 1 ? K : N, mode & 1 ? N : K);
            EXPECT_OK(t, t->be->ops->decode(t->be, &out, &o, mode & 1, NULL, mode & 2, &err));
        }
        const nb_mat spread = nb_mat_of(output(t, what, NB_F32, N * 2 * K), NB_F32, N, 2 * K);
        EXPECT_OK(t, t->be->ops->decode(t->be, &spread, &o, false, at, true, &err));
    }
}

/* ---- whole tiles: what a backend may make of BF16 numbers in one reading ---- */

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

/* The same format without rotation, as the other copy of a rotated operand has it. */
static nb_quantizer unrotated(const nb_quantizer *q) {
    nb_quantizer straight = *q;
    straight.hadamard_size = 0;
    if (straight.rule == NB_RULE_EDEN) /* exists only rotated */
        straight.rule = NB_RULE_ABSMAX;
    return straight;
}

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

/* The last rows of an identity of n, under the format of q, neither rotated nor random: its ones have few bits in what
 * a product reads. */
static nb_operand some_of_identity(trial *t, const nb_quantizer *q, int64_t rows, int64_t n, ni_side side) {
    nb_quantizer format = unrotated(q);
    format.round = NB_ROUND_EVEN;
    if (format.scale_type == NB_SCALE_E8M0) /* 3/4 of a one is none, and QuEST clips it */
        format.rule = NB_RULE_FLOOR;
    float *one = poisoned(sizeof *one * (size_t)(rows * n));
    for (int64_t i = 0; i < rows * n; i++)
        one[i] = i % n == n - rows + i / n;
    const nb_mat numbers = nb_mat_of(upload(t, one, sizeof *one * (size_t)(rows * n)), NB_F32, rows, n);
    return made(t, &format, &numbers, side, q);
}

static nb_operand identity(trial *t, const nb_quantizer *q, int64_t n, ni_side side) {
    return some_of_identity(t, q, n, n, side);
}

/* What products read of them, without codes: through identities. */
static void run_tile_values(trial *t) {
    const quantizer_list *list = quantizers_of(t);
    const nb_noise noise = noise_at(t);
    for (int32_t i = 0, seen = 0; i < list->count; i++) {
        const nb_quantizer *q = &list->q[i];
        const int32_t span = span_of(q);
        const int64_t rows = span > 64 ? 128 : span > 16 ? 64 : 32, cols = span > 64 ? 128 : span > 16 ? 192 : 272;
        if (!is_tiled(q) || nb_quantizer_check_shape(q, rows, cols, NULL) != NB_OK ||
            nb_quantizer_check_shape(q, cols, rows, NULL) != NB_OK || seen++ % parts_of(t) != t->shape)
            continue;
        const nb_mat x = uploaded(t, DATA_NORMAL, NB_BF16, rows, cols, cols + 8);
        const nb_operand right = identity(t, q, cols, NI_RIGHT), left = identity(t, q, rows, NI_LEFT);
        nb_operand a = placed(t, q, rows, cols, NI_LEFT, &right.quantizer);
        nb_operand b = placed(t, q, cols, rows, NI_RIGHT, &left.quantizer);
        a.reread = b.reread = false;
        const ni_making both[2] = {{.out = &a, .noise = &noise}, {.out = &b, .transpose = true, .noise = &noise}};
        make(t, &(ni_source){.numbers = &x}, both, 2);
        char what[200];
        nb_quantizer_text(q, what, sizeof what);
        const nb_mat straight = nb_mat_of(output(t, what, NB_F32, rows * cols), NB_F32, rows, cols);
        const nb_mat turned = nb_mat_of(output(t, what, NB_F32, rows * cols), NB_F32, rows, cols);
        EXPECT_OK(t, t->be->ops->multiply(t->be, &straight, &(ni_term){.a = &a, .b = &right}, 1, false, &err));
        EXPECT_OK(t, t->be->ops->multiply(t->be, &turned, &(ni_term){.a = &left, .b = &b}, 1, false, &err));
    }
}

/* A whole matrix, what it loses of some columns and those columns, side by side in one operand: at once, with an amax
 * that is known; at once without; and one after the other. */
static void run_patched(trial *t) {
    const nb_quantizer q = nvfp4(1);
    const int64_t rows = t->shape ? 48 : 2, cols = t->shape ? 272 : 144, width = cols + 2 * PICKED;
    const int32_t *columns = picked(t);
    for (int kind = 0; kind < DATA_KINDS; kind++)
        for (int how = 0; how < 3; how++) {
            const nb_mat host = data_matrix(kind, NB_BF16, rows, cols, cols + 8);
            nb_mat x = uploaded(t, kind, NB_BF16, rows, cols, cols + 8);
            uint32_t bits = 0;
            for (int64_t i = 0; i < rows * cols; i++) {
                const uint16_t *row = (const uint16_t *)host.data + i / cols * host.stride;
                const uint32_t its = ni_f32_magnitude(ni_bf16_value(row[i % cols]));
                bits = its > bits ? its : bits;
            }
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
    const bool in_rows = i % 10 == 9;
    m->plain[i] = in_rows ? placed(t, &by_row, rows, cols, NI_RIGHT, &by_row)
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
        list_weight(t, &m, i, &q, &tiles, picked(t));
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

/* ---- what a producer writes, straight into operands ---- */

enum { PRODUCED_ROWS = 48, PRODUCED_COLS = 272, PRODUCED_MOST = 2048, PRODUCED = PRODUCED_ROWS * PRODUCED_COLS };

/* Both operands of one matrix of a producer, and what is left for the next step. */
typedef struct produced_pair {
    nb_mat numbers;
    nb_operand row, column;
    uint32_t *now;
    ni_making makings[2];
} produced_pair;

static void place_pair(trial *t, produced_pair *p, int64_t cols, const nb_quantizer *row, const nb_quantizer *column,
                       const float *past, bool reread, const nb_noise *noise) {
    p->numbers = nb_mat_of(scratch(t, (size_t)(PRODUCED_ROWS * cols) * sizeof(uint16_t)), NB_BF16, PRODUCED_ROWS, cols);
    p->row = placed(t, row, PRODUCED_ROWS, cols, NI_LEFT, row);
    p->column = placed(t, column, cols, PRODUCED_ROWS, NI_RIGHT, column);
    p->row.reread = p->column.reread = reread;
    p->now = scratch(t, 2 * sizeof *p->now);
    p->makings[0] = (ni_making){.out = &p->row, .past = past, .headroom = 2, .now = p->now, .noise = noise};
    p->makings[1] = (ni_making){
        .out = &p->column, .transpose = true, .past = past, .headroom = 1, .now = p->now + 1, .noise = noise};
}

static int32_t differing(trial *t, const void *a, const void *b, size_t bytes) {
    uint8_t *x = poisoned(bytes), *y = poisoned(bytes);
    int32_t count = 0;
    t->be->ops->download(t->be, x, a, bytes);
    t->be->ops->download(t->be, y, b, bytes);
    for (size_t i = 0; i < bytes; i++)
        count += x[i] != y[i];
    return count;
}

/* Bytes in which two pairs are not one: operands whole, as the backend keeps them. */
static void expect_alike(trial *t, const char *what, const produced_pair *a, const produced_pair *b, bool kept) {
    const size_t row = t->be->ops->operand_bytes(t->be, &a->row), column = t->be->ops->operand_bytes(t->be, &a->column);
    const int32_t bytes[5] = {differing(t, a->row.memory, b->row.memory, row),
                              differing(t, a->column.memory, b->column.memory, column),
                              differing(t, a->now, b->now, 2 * sizeof *a->now),
                              kept ? differing(t, a->numbers.data, b->numbers.data,
                                               (size_t)(a->numbers.rows * a->numbers.cols) * sizeof(uint16_t))
                                   : 0,
                              a->row.form != b->row.form || a->column.form != b->column.form};
    record(t, what, bytes, NB_I32, 5, true);
}

/* Some where exp overflows and vanishes, a few threads' only. */
static void *far_gates(trial *t) {
    static const float far[] = {-200, -95, -88.5f, -87.5f, -87, -86.5f, 95, 200};
    double *g = normals_in(NB_BF16, 1, PRODUCED, 0, 2);
    for (int i = 0; i < 8; i++)
        g[PRODUCED / 2 + 37 * i] = far[i];
    return input(t, NB_BF16, g, PRODUCED);
}

/* The producer by itself. */
static void run_alone(nb_backend *be, const ni_producer *from, const nb_mat *a, const nb_mat *b) {
    if (from->kind == NI_PRODUCER_SWIGLU) {
        be->ops->swiglu_forward(be, a, from->gate, from->up);
    } else if (from->kind == NI_PRODUCER_SWIGLU_SLOPES) {
        be->ops->swiglu_backward(be, a, b, from->dy, from->gate, from->up);
    } else if (from->kind == NI_PRODUCER_TURNED_BACK) {
        be->ops->rope(be, a, from->positions, from->heads[0], from->rope, true);
        be->ops->rope(be, b, from->positions, from->heads[1], from->rope, true);
    } else if (from->change)
        be->ops->add_rmsnorm_forward(be, from->sum, a, from->rstd, from->x, from->change, from->w, from->eps);
    else
        be->ops->rmsnorm_forward(be, a, from->rstd, from->x, from->w, from->eps);
}

static ni_producer producer_of(trial *t, int kind, int64_t cols, int64_t head_dim, int turn) {
    ni_producer from = {.kind = (ni_producer_kind)kind};
    if (kind == NI_PRODUCER_NORM) {
        from.x = input_act(t, 4, PRODUCED_ROWS * cols, 3);
        from.change = turn % 2 ? input_act(t, 5, PRODUCED_ROWS * cols, 1) : NULL;
        from.w = input_real(t, 6, cols, 1, 0.3);
        from.eps = 1e-5;
    } else if (kind == NI_PRODUCER_TURNED_BACK) { /* some positions lie beyond the table of angles */
        static const ni_rope how = {.theta = 10000};
        from.positions = upload(t, integers(PRODUCED_ROWS, 2 * PRODUCED_ROWS), PRODUCED_ROWS * sizeof(int32_t));
        from.rope = &how;
        from.heads[0] = cols / head_dim;
        from.heads[1] = cols / head_dim - 1;
    } else {
        from.gate = far_gates(t);
        from.up = input_act(t, 2, PRODUCED, 1);
        from.dy = kind == NI_PRODUCER_SWIGLU_SLOPES ? input_act(t, 3, PRODUCED, turn == 2 ? 1e20 : 1) : NULL;
    }
    return from;
}

/* Slopes as attention leaves them; without a past their maxima are asked for, and those of the third are known. */
static void place_slopes(trial *t, produced_pair *p, int m, const ni_producer *from, int64_t head_dim, bool known,
                         double size) {
    static const int32_t nowhere[PRODUCED_ROWS];
    p->numbers.data = input_act(t, 7 + (uint32_t)m, p->numbers.rows * p->numbers.cols, size);
    if (!known)
        return;
    p->numbers.amax = scratch(t, 2 * sizeof *p->numbers.amax);
    p->numbers.turned_amax = p->numbers.amax + 1;
    if (m == 2)
        t->be->ops->rope(t->be, &p->numbers, upload(t, nowhere, sizeof nowhere), p->numbers.cols / head_dim, from->rope,
                         true);
}

/* Operands of one producer made at once, beside those of its matrices. */
static void produce_both_ways(trial *t, int kind, int64_t cols, int64_t head_dim, const nb_quantizer q[2],
                              const float *past, int turn) {
    static const char *const names[] = {"swiglu", "slopes", "norm", "turned back"};
    static const int32_t counts[] = {1, 2, 1, 3};
    const bool kept = turn % 2, reread = turn % 3 == 0, turned = kind == NI_PRODUCER_TURNED_BACK;
    const nb_noise noise = noise_at(t);
    const int32_t count = counts[kind];
    ni_producer at_once_from = producer_of(t, kind, cols, head_dim, turn), apart_from = at_once_from;
    ni_producer *const both[2] = {&at_once_from, &apart_from};
    produced_pair at_once[NI_PRODUCED_MOST], apart[NI_PRODUCED_MOST];
    ni_produced out[NI_PRODUCED_MOST];
    for (int i = 0; i < 2; i++) {
        both[i]->sum = scratch(t, (size_t)(PRODUCED_ROWS * cols) * sizeof(uint16_t));
        both[i]->rstd = scratch(t, PRODUCED_ROWS * sizeof(float));
    }
    for (int m = 0; m < count; m++) {
        const int64_t wide = turned && m ? cols - head_dim : cols;
        place_pair(t, &at_once[m], wide, &q[0], &q[1], past, reread, &noise);
        place_pair(t, &apart[m], wide, &q[0], &q[1], past, reread, &noise);
        for (int i = 0; i < 2 && turned; i++)
            place_slopes(t, i ? &apart[m] : &at_once[m], m, &at_once_from, head_dim, !past, turn == 2 ? 1e20 : 1);
        out[m] = (ni_produced){.numbers = &at_once[m].numbers, .kept = kept, .makings = at_once[m].makings, .count = 2};
    }
    EXPECT_OK(t, t->be->ops->make_produced(t->be, &at_once_from, out, count, &err));
    run_alone(t->be, &apart_from, &apart[0].numbers, &apart[count > 1].numbers);
    for (int m = 0; m < count; m++) {
        char what[200];
        make(t, &(ni_source){.numbers = &apart[m].numbers}, apart[m].makings, 2);
        snprintf(what, sizeof what, "%s, matrix %d, past %d%s%s", names[kind], m, turn, kept ? ", numbers kept" : "",
                 reread ? ", codes" : "");
        expect_alike(t, what, &at_once[m], &apart[m], kept);
    }
    const int32_t beside[2] = {
        differing(t, at_once_from.sum, apart_from.sum, (size_t)(PRODUCED_ROWS * cols) * sizeof(uint16_t)),
        differing(t, at_once_from.rstd, apart_from.rstd, PRODUCED_ROWS * sizeof(float))};
    record(t, "what a norm leaves", beside, NB_I32, 2, true);
}

/* One shape to nearest, one stochastic, one that no kernel makes at once; under what is known of another step, and in a
 * first step. */
static void run_produced(trial *t) {
    static const float pasts[] = {1, 0.05f, 1e-6f, 40, 0, NAN};
    enum { PASTS = sizeof pasts / sizeof *pasts };
    nb_quantizer q[2] = {nvfp4(1), nvfp4(1)};
    q[0].round = q[1].round = t->shape ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN;
    q[0].sr_bits = q[1].sr_bits = 8;
    if (t->shape < 2) {
        q[1].hadamard_size = 16;
        q[1].hadamard_signs = NB_SIGNS_FIXED;
        q[1].hadamard_round_bf16 = true;
    }
    for (int i = 0; i <= PASTS; i++)
        for (int kind = NI_PRODUCER_SWIGLU; kind <= NI_PRODUCER_TURNED_BACK; kind++)
            produce_both_ways(t, kind, PRODUCED_COLS, 16, q, i < PASTS ? upload(t, &pasts[i], sizeof *pasts) : NULL, i);
    for (int64_t cols = 256; cols <= PRODUCED_MOST && t->shape == 0;
         cols += 256) /* rows of norms, as long as registers hold */
        produce_both_ways(t, NI_PRODUCER_NORM, cols, 0, q, upload(t, &pasts[0], sizeof *pasts), (int)(cols / 256));
    for (int64_t head_dim = 32; head_dim <= 256 && t->shape == 1; head_dim *= 2)
        produce_both_ways(t, NI_PRODUCER_TURNED_BACK, 3 * head_dim, head_dim, q, upload(t, &pasts[1], sizeof *pasts),
                          (int)(head_dim / 32));
}

/* One scale a row: as many numbers as a warp may hold of it in registers, and more. */
static void run_long_rows(trial *t) {
    static const int64_t widths[] = {1040, 2064, 6160};
    nb_quantizer formats[3] = {rows_of("e2m1"), rows_of("e2m1"), rows_of("e4m3")};
    formats[1].round = NB_ROUND_UP;
    const nb_mat x =
        uploaded(t, t->shape % 2 ? DATA_WIDE : DATA_NORMAL, NB_BF16, 3, widths[t->shape], widths[t->shape] + 8);
    for (int i = 0; i < 3; i++) {
        const nb_operand o = made(t, &formats[i], &x, NI_LEFT, &formats[i]);
        keep_operand(t, "long rows", &o);
    }
}

/* On two multiprocessors, as tests/plugin/launches.c describes a small GPU, one that is measured before it is read. */
static void run_large_weight(trial *t) {
    const nb_quantizer tiles = nvfp4(16), q = nvfp4(1);
    const nb_mat w = uploaded(t, DATA_NORMAL, NB_F32, 512, 272, 272);
    const nb_operand o = made(t, &tiles, &w, NI_RIGHT, &q);
    keep_operand(t, "tiles of a weight", &o);
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

static const test_case OPERANDS[] = {
    {"operand_bytes make_operands canonical", "two in one call, and apart", BITS, PARTS, run_two, NULL, NULL},
    {"make_operands canonical", "whole tiles", BITS, PARTS, run_tiles, NULL, NULL},
    {"make_operands multiply", "values of whole tiles", BITS, PARTS, run_tile_values, NULL, NULL},
    {"make_operands", "columns, residuals, folding", BITS, 1, run_derived, NULL, NULL},
    {"make_operands", "pieces", BITS, 2, run_pieces, NULL, NULL},
    {"make_many", "a patch beside the whole", BITS, 2, run_patched, NULL, NULL},
    {"make_many", "patches beside one whole, and its columns", BITS, 3, run_patches, NULL, NULL},
    {"make_many", "numbers of weights", BITS, 1, run_many_numbers, NULL, NULL},
    {"make_many", "weights of a model, some with a patch", BITS, 2, run_many, NULL, NULL},
    {"make_operands", "amax known", BITS, 1, run_amax, NULL, NULL},
    {"make_operands", "scales of the step before", BITS, PARTS, run_delayed, NULL, NULL},
    {"make_operands", "scales of no step before", BITS, 1, run_delayed_misfits, NULL, NULL},
    {"make_produced", "beside the numbers that a producer writes", BITS, 3, run_produced, NULL, NULL},
    {"make_operands", "long rows", BITS, 3, run_long_rows, NULL, NULL},
    {"make_operands", "a weight larger than a small GPU holds", BITS, 1, run_large_weight, NULL, NULL},
    {"turn", "tiles, rows", BITS, 1, run_turn, NULL, NULL},
    {"turn_many", "tiles, rows", BITS, 1, run_turn_many, NULL, NULL},
    {"decode", "every format", BITS, PARTS, run_decode, NULL, NULL},
};
const case_list operand_cases = {OPERANDS, sizeof OPERANDS / sizeof *OPERANDS};
