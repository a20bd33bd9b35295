/* cases_operand.c: operands: sources, makings, pieces, turning, decoding; the codes and numbers bit for bit. */
#include "operands.h"

#include "format/hadamard.h"
#include "format/noise.h"

enum { M = 48, N = 32, K = 128, PICKED = 32 };

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

/* Columns, residuals and folded scales, each in FP32; plain numbers where they are asked for. */
static void run_derived(trial *t) {
    const nb_quantizer q = nvfp4(1), rows = rows_of("e2m1"), plain = nb_quantizer_bf16();
    const nb_noise noise = noise_at(t);
    const int32_t *columns = picked(t, PICKED);
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
    const int32_t *columns = picked(t, PICKED);
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
    const uint32_t bits = largest_bits(DATA_NORMAL, M, K, K);
    x.amax = upload(t, &bits, sizeof bits);
    const nb_operand known[2] = {made(t, &q, &x, NI_LEFT, &q), made(t, &turned, &x, NI_LEFT, &q)};
    run_turned_amax(t, &x);
    for (int i = 0; i < 2; i++) {
        keep_operand(t, "measured", &plain[i]);
        keep_operand(t, "known", &known[i]);
        keep_operand(t, "both measured at once", &two[i]);
    }
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
        const nb_quantizer straight = unrotated(q);
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

/* Numbers of types that nobody reads, and under a scale by whom nobody asked takes_kept: columns of theirs, all of
 * them, by one call and by many. */
static void run_unread(trial *t) {
    const nb_quantizer q = nvfp4(1), plain = nb_quantizer_bf16();
    const float one = 1, *scale = upload(t, &one, sizeof one);
    const int32_t first[16] = {0}, *columns = upload(t, first, sizeof first);
    const nb_mat room = uploaded(t, DATA_NORMAL, NB_F32, M, K, K);
    nb_operand codes = placed(t, &q, M, K, NI_RIGHT, &q), few = placed(t, &q, M, 16, NI_RIGHT, &q),
               numbers = {.quantizer = plain,
                          .rows = M,
                          .cols = K,
                          .numbers = nb_mat_of(scratch(t, M * K * 2), NB_BF16, M, K)};
    for (int i = 0; i < 4; i++) {
        const nb_mat x = nb_mat_of(room.data, i == 0 ? NB_F32 : i == 1 ? NB_E4M3 : NB_F16, M, K);
        const float *under = i == 0 || i == 3 ? scale : NULL;
        const ni_source all = {.numbers = &x, .scale = under},
                        some = {.numbers = &x, .scale = under, .columns = columns, .column_count = 16};
        const ni_making makings[3] = {{.out = &codes}, {.out = &few}, {.out = &numbers}};
        for (int k = 0; k < 3; k++) {
            nb_error err = {0};
            const ni_source *from = k == 1 ? &some : &all;
            const int32_t status[2] = {(int32_t)t->be->ops->make_operands(t->be, from, &makings[k], 1, &err),
                                       (int32_t)t->be->ops->make_many(t->be, from, &makings[k], 1, &err)};
            record(t, "refused", status, NB_I32, 2, true);
        }
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
        const ni_columns all = {at, K};
        EXPECT_OK(t, t->be->ops->decode(t->be, &spread, &o, false, &all, true, &err));
        for (int mode = 0; mode < 2; mode++) {
            const nb_dtype type = mode ? NB_BF16 : NB_F32;
            const ni_columns some = {at, K - 37};
            const nb_mat few = nb_mat_of(output(t, what, type, N * 2 * K), type, N, 2 * K);
            EXPECT_OK(t, t->be->ops->decode(t->be, &few, &o, false, &some, !mode, &err));
        }
    }
}

/* Two operands into columns of one matrix: all of its columns, and some of them, whose neighbours stay. The third shape
 * has longer rows than a kernel may hold; operands of the others have columns behind their lists, which go nowhere.
 * Lists begin at whole vectors, and in the last shape one right behind the other. */
enum { DECODED_SHAPES = 6 };
static void run_decode_columns(trial *t) {
    static const int64_t ROWS[DECODED_SHAPES] = {5, 70, 3, 70, 5, 7},
                         EIGHTS[DECODED_SHAPES] = {32, 128, 2944, 51, 3, 102},
                         FOURS[DECODED_SHAPES] = {128, 768, 9472, 461, 13, 922};
    const int64_t rows = ROWS[t->shape], some_eights = EIGHTS[t->shape], some_fours = FOURS[t->shape],
                  cols = some_eights + some_fours, eights = (some_eights + 31) / 32 * 32,
                  fours = (some_fours + 127) / 128 * 128, apart = t->shape < 5 ? eights : some_eights;
    const nb_quantizer bytes = ni_format_family_find("mxfp8")->defaults;
    nb_quantizer blocks = nvfp4(1);
    blocks.outer = NB_OUTER_ROW128;
    const int32_t *first = two_lists(t, some_eights, apart, some_fours);
    const ni_columns at[2] = {{first, some_eights}, {first + apart, some_fours}};
    for (int i = 0; i < 4; i++) {
        const int64_t wide = i % 2 ? cols + 12 : cols;
        const data_kind kind = i / 2 ? DATA_CORNERS : DATA_NORMAL;
        const nb_mat x = uploaded(t, kind, NB_F32, rows, eights, eights),
                     y = uploaded(t, kind, NB_F32, rows, fours, fours);
        const nb_operand eight = made(t, &bytes, &x, NI_RIGHT, &bytes),
                         four = made(t, &blocks, &y, NI_RIGHT, &blocks), *const from[2] = {&eight, &four};
        const nb_mat whole = nb_mat_of(output(t, "of two", NB_F32, rows * wide), NB_F32, rows, wide),
                     half = nb_mat_of(output(t, "of one", NB_F32, rows * wide), NB_F32, rows, wide);
        EXPECT_OK(t, t->be->ops->decode_columns(t->be, &whole, from, at, 2, &err));
        EXPECT_OK(t, t->be->ops->decode_columns(t->be, &half, &from[1], &at[1], 1, &err));
    }
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

static const test_case OPERANDS[] = {
    {"operand_bytes make_operands canonical", "two in one call, and apart", BITS, PARTS, run_two, NULL, NULL},
    {"make_operands", "columns, residuals, folding", BITS, 1, run_derived, NULL, NULL},
    {"make_operands", "pieces", BITS, 2, run_pieces, NULL, NULL},
    {"make_operands", "amax known", BITS, 1, run_amax, NULL, NULL},
    {"make_operands", "scales of the step before", BITS, PARTS, run_delayed, NULL, NULL},
    {"make_operands", "scales of no step before", BITS, 1, run_delayed_misfits, NULL, NULL},
    {"make_operands make_many", "what nobody reads", BITS, 1, run_unread, NULL, NULL},
    {"make_operands", "long rows", BITS, 3, run_long_rows, NULL, NULL},
    {"make_operands", "a weight larger than a small GPU holds", BITS, 1, run_large_weight, NULL, NULL},
    {"turn", "tiles, rows", BITS, 1, run_turn, NULL, NULL},
    {"decode", "every format", BITS, PARTS, run_decode, NULL, NULL},
    {"decode_columns", "two formats", BITS, DECODED_SHAPES, run_decode_columns, NULL, NULL},
};
const case_list operand_cases = {OPERANDS, sizeof OPERANDS / sizeof *OPERANDS};
