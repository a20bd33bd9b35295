/* cases_quantize.c: operands of every quantizer of the grammar, their codes bit for bit in the canonical layout, and
 * the digests of these codes.
 */
#include "trial.h"

#include <xxhash.h>

typedef struct source {
    data_kind kind;
    nb_dtype dtype;
    int64_t rows, cols, extra; /* of the operand; stride beyond the columns */
} source;

/* One shape of a case is one source: ordinary numbers in shapes that blocks divide, hard numbers, odd shapes. */
static const source SOURCES[] = {
    {DATA_NORMAL, NB_F32, 1, 128, 0},   {DATA_CORNERS, NB_F32, 19, 256, 3}, {DATA_CORNERS, NB_BF16, 19, 256, 3},
    {DATA_NORMAL, NB_BF16, 33, 384, 0}, {DATA_NORMAL, NB_F32, 48, 128, 8},  {DATA_WIDE, NB_F32, 17, 128, 0},
    {DATA_NAN, NB_F32, 17, 128, 0},     {DATA_NAN, NB_BF16, 16, 128, 0},    {DATA_INF, NB_F32, 17, 128, 0},
    {DATA_INF, NB_BF16, 16, 128, 0},    {DATA_ZERO, NB_F32, 17, 128, 0},    {DATA_TINY, NB_F32, 17, 128, 0},
    {DATA_NORMAL, NB_F32, 1, 1, 0},     {DATA_NORMAL, NB_BF16, 5, 7, 2},    {DATA_NORMAL, NB_F32, 17, 31, 0},
    {DATA_NORMAL, NB_BF16, 16, 129, 1}, {DATA_NORMAL, NB_F32, 50, 140, 0},
};
enum { SOURCE_SHAPES = sizeof SOURCES / sizeof *SOURCES };

static nb_mat host_matrix(const source *s, bool transpose) {
    const int64_t rows = transpose ? s->cols : s->rows, cols = transpose ? s->rows : s->cols;
    return data_matrix(s->kind, s->dtype, rows, cols, cols + s->extra);
}

static void keep_stats(trial *t, const char *what, const nb_quantize_stats *s) {
    const double counts[] = {(double)s->elements,
                             (double)s->nonzero,
                             (double)s->flushed,
                             (double)s->saturated,
                             (double)s->blocks,
                             (double)s->zero_scales,
                             s->amax};
    char name[320];
    snprintf(name, sizeof name, "%.290s: counts", what);
    record(t, name, counts, NB_F64, 7, true);
    const double sums[] = {s->sum_sq, s->sum_sq_error, s->sum_product};
    for (int i = 0; i < 3; i++) { /* sums in double, over an order of the backend's own */
        const float rounded = isfinite(sums[i]) ? (float)sums[i] : 0;
        snprintf(name, sizeof name, "%.290s: sum %d", what, i);
        record(t, name, &rounded, NB_F32, 1, false);
    }
}

/* What a float holds of a double. */
static double stats_rounded(const trial *t) {
    (void)t;
    return 4;
}

static void describe(char *text, size_t size, const nb_quantizer *q, bool transpose) {
    char format[200];
    snprintf(text, size, "%s%s", nb_quantizer_text(q, format, sizeof format), transpose ? " turned" : "");
}

/* ---- operands that stay on the backend ---- */

static nb_operand placed(trial *t, const nb_quantizer *q, int64_t rows, int64_t cols) {
    nb_operand o = {.quantizer = *q, .other = *q, .rows = rows, .cols = cols, .side = NI_LEFT, .reread = true};
    o.memory = scratch(t, t->be->ops->operand_bytes(t->be, &o));
    return o;
}

static nb_operand made(trial *t, const nb_quantizer *q, const ni_source *from, int64_t rows, int64_t cols,
                       bool transpose, const nb_noise *noise, nb_quantize_stats *stats) {
    nb_operand o = placed(t, q, rows, cols);
    nb_quantize_stats *counted = stats ? scratch(t, sizeof *stats) : NULL;
    const ni_making making = {.out = &o, .transpose = transpose, .noise = noise, .stats = counted};
    EXPECT_OK(t, t->be->ops->make_operands(t->be, from, &making, 1, &err));
    if (stats)
        t->be->ops->download(t->be, stats, counted, sizeof *stats);
    return o;
}

static nb_qtensor codes_of(trial *t, const nb_operand *o) {
    nb_qtensor codes = new_codes(t, &o->quantizer, o->rows, o->cols);
    EXPECT_OK(t, t->be->ops->canonical(t->be, &codes, o, &err));
    return codes;
}

static void keep_operand(trial *t, const char *what, const nb_operand *o) {
    const nb_qtensor codes = codes_of(t, o);
    keep_codes(t, what, &codes);
}

/* ---- codes of numbers ---- */

/* Codes of every quantizer, and of every fourth what was counted; `counted`: of all of them, and no codes. */
static void run_quantize(trial *t, const source *s, bool turned, bool counted) {
    const nb_mat host = host_matrix(s, turned);
    nb_mat from = host;
    from.data = upload(t, host.data, (size_t)(host.rows * host.stride) * nb_dtype_size(s->dtype));
    const quantizer_list *list = quantizers_of(t);
    const nb_noise noise = noise_at(t);
    for (int32_t k = 0; k < list->count; k++) {
        const nb_quantizer *q = &list->q[k];
        if (nb_quantizer_check_shape(q, s->rows, s->cols, NULL) != NB_OK)
            continue;
        char what[300];
        describe(what, sizeof what, q, turned);
        const bool counts = counted || k % 4 == 0;
        nb_quantize_stats stats = {0};
        const nb_operand o =
            made(t, q, &(ni_source){.numbers = &from}, s->rows, s->cols, turned, &noise, counts ? &stats : NULL);
        if (!counted)
            keep_operand(t, what, &o);
        if (counts)
            keep_stats(t, what, &stats);
    }
}

static void run_straight(trial *t) {
    run_quantize(t, &SOURCES[t->shape], false, false);
}

static void run_turned(trial *t) {
    run_quantize(t, &SOURCES[t->shape], true, false);
}

/* What was counted of matrices that kernels of their own take, whole tiles of BF16, and of weights. */
static const source COUNTED[] = {{DATA_NORMAL, NB_BF16, 64, 384, 0},
                                 {DATA_CORNERS, NB_BF16, 32, 128, 8},
                                 {DATA_TINY, NB_BF16, 48, 80, 0},
                                 {DATA_NORMAL, NB_F32, 48, 128, 0},
                                 {DATA_CORNERS, NB_F32, 32, 256, 0}};
enum { COUNTED_SHAPES = 2 * sizeof COUNTED / sizeof *COUNTED };

static void run_counted(trial *t) {
    run_quantize(t, &COUNTED[t->shape / 2], t->shape % 2, true);
}

/* ---- codes of codes ---- */

/* Every third shape starts elsewhere in the list, so that pairs differ. */
static void run_requantize(trial *t) {
    enum { ROWS = 128, COLS = 256 };
    const quantizer_list *list = formats_of(t), *to = quantizers_of(t);
    const nb_mat data = data_matrix(DATA_NORMAL, NB_F32, ROWS, COLS, COLS);
    nb_mat from = data;
    from.data = upload(t, data.data, ROWS * COLS * 4);
    const nb_noise noise = noise_at(t);
    for (int32_t k = t->shape; k < list->count; k += 3) {
        const nb_quantizer *q = &to->q[k * 37 % to->count];
        const bool transpose = k % 3 != 0;
        char what[300];
        describe(what, sizeof what, q, transpose);
        const nb_operand first = made(t, &list->q[k], &(ni_source){.numbers = &from}, ROWS, COLS, false, &noise, NULL),
                         second = made(t, q, &(ni_source){.operand = &first}, transpose ? COLS : ROWS,
                                       transpose ? ROWS : COLS, transpose, &noise, NULL);
        keep_operand(t, what, &second);
    }
}

static const int64_t DECODED[][2] = {{37, 256}, {16, 45}, {48, 80}};

/* By way of the canonical layout: what a file holds is what was made. */
static void run_taken(trial *t) {
    const int64_t rows = DECODED[t->shape][0], cols = DECODED[t->shape][1];
    const quantizer_list *list = formats_of(t);
    const nb_mat data = data_matrix(DATA_CORNERS, NB_F32, rows, cols, cols);
    nb_mat from = data;
    from.data = upload(t, data.data, (size_t)(rows * cols) * 4);
    const nb_noise noise = noise_at(t);
    for (int32_t k = 0; k < list->count; k++) {
        if (nb_quantizer_check_shape(&list->q[k], rows, cols, NULL) != NB_OK)
            continue;
        const nb_operand first = made(t, &list->q[k], &(ni_source){.numbers = &from}, rows, cols, false, &noise, NULL);
        const nb_qtensor codes = codes_of(t, &first);
        nb_operand taken = placed(t, &list->q[k], rows, cols);
        EXPECT_OK(t, t->be->ops->take_codes(t->be, &taken, &codes, &err));
        for (int mode = 0; mode < 4; mode++) {
            const nb_dtype type = (mode + k) % 2 ? NB_BF16 : NB_F32;
            char what[300];
            describe(what, sizeof what, &list->q[k], mode & 1);
            const nb_mat out =
                nb_mat_of(output(t, what, type, rows * cols), type, mode & 1 ? cols : rows, mode & 1 ? rows : cols);
            EXPECT_OK(t, t->be->ops->decode(t->be, &out, &taken, mode & 1, NULL, mode & 2, &err));
        }
        keep_operand(t, "taken", &taken);
    }
    const nb_quantizer *one = &list->q[0];
    nb_operand narrow = placed(t, one, rows, 16);
    const nb_qtensor wide = new_codes(t, one, rows, 32);
    const int32_t refused = (int32_t)t->be->ops->take_codes(t->be, &narrow, &wide, NULL);
    record(t, "refused", &refused, NB_I32, 1, true);
}

static void run_exchange(trial *t) {
    static const int64_t shapes[][2] = {{48, 80}, {7, 45}, {256, 128}};
    const int64_t rows = shapes[t->shape][0], cols = shapes[t->shape][1];
    const quantizer_list *list = formats_of(t);
    const nb_mat data = data_matrix(DATA_NORMAL, NB_F32, rows, cols, cols);
    nb_mat from = data;
    from.data = upload(t, data.data, (size_t)(rows * cols) * 4);
    const nb_noise noise = noise_at(t);
    for (int32_t k = 0; k < list->count; k++) {
        nb_quantizer q = list->q[k], exchanged = q;
        exchanged.block_rows = q.block_cols;
        exchanged.block_cols = q.block_rows;
        if (nb_quantizer_check_shape(&q, rows, cols, NULL) != NB_OK ||
            nb_quantizer_check_shape(&exchanged, cols, rows, NULL) != NB_OK)
            continue;
        char what[300];
        describe(what, sizeof what, &q, true);
        const nb_operand straight = made(t, &q, &(ni_source){.numbers = &from}, rows, cols, false, &noise, NULL);
        nb_operand turned = placed(t, &exchanged, cols, rows);
        EXPECT_OK(t, t->be->ops->turn(t->be, &turned, &straight, &err));
        keep_operand(t, what, &turned);
    }
}

/* ---- small code spaces, whole ---- */

/* Every BF16 number; every float next to a code or halfway between two; by every rounding. */
static void run_code_space(trial *t) {
    const nb_element element = (nb_element)(NB_ELEMENT_E2M1 + t->shape);
    const ni_element_row *row = ni_element_info(element);
    nb_quantizer q = ni_format_family_find(row->name)->defaults;
    q.scale_type = NB_SCALE_NONE;
    q.block_rows = q.block_cols = NB_BLOCK_ALL;
    const int codes = row->bits == 4 ? 8 : 0x7c;
    uint16_t *every = poisoned(65536 * 2);
    for (int i = 0; i < 65536; i++)
        every[i] = (uint16_t)i;
    float *edges = poisoned((size_t)codes * 12 * 4);
    for (int m = 0; m < codes; m++)
        for (int i = 0; i < 12; i++) {
            const float low = row->value((uint8_t)(m ? m - 1 : 0)), high = row->value((uint8_t)m);
            float x = i / 3 % 2 ? (low + high) / 2 : high;
            x = i % 3 ? nextafterf(x, i % 3 == 1 ? INFINITY : -INFINITY) : x;
            edges[12 * m + i] = i < 6 ? x : -x;
        }
    const nb_mat all = nb_mat_of(upload(t, every, 65536 * 2), NB_BF16, 256, 256),
                 near = nb_mat_of(upload(t, edges, (size_t)codes * 12 * 4), NB_F32, codes, 12);
    const nb_noise noise = noise_at(t);
    for (int k = 0; k < 4; k++) {
        q.round = k < 2 ? (nb_rounding)k : NB_ROUND_STOCHASTIC;
        q.sr_bits = k == 2 ? 8 : 16;
        const nb_operand a = made(t, &q, &(ni_source){.numbers = &all}, 256, 256, false, &noise, NULL),
                         b = made(t, &q, &(ni_source){.numbers = &near}, k % 2 ? 12 : codes, k % 2 ? codes : 12, k % 2,
                                  &noise, NULL);
        keep_operand(t, "all of bf16", &a);
        keep_operand(t, "edges", &b);
    }
    uint8_t *bytes = poisoned(32 * 32);
    for (int i = 0; i < 32 * 32; i++)
        bytes[i] = (uint8_t)i;
    nb_qtensor codes_of_all = new_codes(t, &q, 32, 32);
    codes_of_all.codes = upload(t, bytes, 32 * 32);
    nb_operand every_code = placed(t, &q, 32, 32);
    EXPECT_OK(t, t->be->ops->take_codes(t->be, &every_code, &codes_of_all, &err));
    for (int turned = 0; turned < 2; turned++) {
        const nb_dtype type = turned ? NB_BF16 : NB_F32;
        const nb_mat out = nb_mat_of(output(t, "every code", type, 32 * 32), type, 32, 32);
        EXPECT_OK(t, t->be->ops->decode(t->be, &out, &every_code, turned, NULL, true, &err));
    }
}

static const test_case QUANTIZERS[] = {
    {"make_operands canonical", "whole grammar, hard numbers", CODES, SOURCE_SHAPES, run_straight, NULL, stats_rounded},
    {"make_operands canonical", "whole grammar, turned", CODES, SOURCE_SHAPES, run_turned, NULL, stats_rounded},
    {"make_operands counted", "whole grammar, whole tiles", CODES, COUNTED_SHAPES, run_counted, NULL, stats_rounded},
    {"make_operands", "every format into another", BITS, 3, run_requantize, NULL, NULL},
    {"take_codes decode", "every format, both ways", BITS, 3, run_taken, NULL, NULL},
    {"turn", "every format, tiles and tensors", BITS, 3, run_exchange, NULL, NULL},
    {"make_operands take_codes decode", "small code spaces, whole", BITS, 4, run_code_space, NULL, NULL},
};
const case_list quantize_cases = {QUANTIZERS, sizeof QUANTIZERS / sizeof *QUANTIZERS};

/* ---- digests ---- */

/* Codes and scales of every source, straight and turned, by one quantizer. */
static uint64_t digest_of(nb_backend *be, const nb_quantizer *q) {
    XXH64_state_t *state = XXH64_createState();
    assert_non_null(state);
    XXH64_reset(state, 0);
    for (int i = 0; i < 2 * SOURCE_SHAPES; i++) {
        const source *s = &SOURCES[i / 2];
        if (nb_quantizer_check_shape(q, s->rows, s->cols, NULL) != NB_OK)
            continue;
        trial t = {.be = be};
        const nb_mat host = host_matrix(s, i % 2);
        nb_mat from = host;
        from.data = upload(&t, host.data, (size_t)(host.rows * host.stride) * nb_dtype_size(host.dtype));
        const nb_noise noise = noise_at(&t);
        const nb_operand o = made(&t, q, &(ni_source){.numbers = &from}, s->rows, s->cols, i % 2, &noise, NULL);
        keep_operand(&t, "codes", &o);
        fetch_results(&t);
        if (t.failure[0])
            fail_msg("%s: %s", be->name, t.failure);
        for (int k = 0; k < t.count; k++)
            XXH64_update(state, t.results[k].bytes, (size_t)t.results[k].n * nb_dtype_size(t.results[k].type));
        end_trial(&t);
        assert_true(release_buffers_until(NULL) == 0);
    }
    const uint64_t digest = XXH64_digest(state);
    XXH64_freeState(state);
    return digest;
}

static quantizer_list *all_for_long(void) { /* beyond the buffers of a case */
    quantizer_list *kept = malloc(sizeof *kept);
    assert_non_null(kept);
    *kept = *all_quantizers();
    return kept;
}

int64_t write_digests(nb_backend *be, const char *file, const struct ni_safetensors *saved) {
    FILE *out = fopen(file, "w");
    if (!out)
        return -1;
    quantizer_list *list = all_for_long();
    for (int32_t k = 0; k < list->count; k++) {
        char format[200];
        const uint64_t digest = saved ? trained_digest(be, &list->q[k], saved) : digest_of(be, &list->q[k]);
        fprintf(out, "%016llx %s\n", (unsigned long long)digest, nb_quantizer_text(&list->q[k], format, sizeof format));
    }
    free(list);
    return fclose(out) == 0 ? 0 : -1;
}

int64_t check_digests(nb_backend *be, const char *file, const struct ni_safetensors *saved) {
    FILE *in = fopen(file, "r");
    if (!in)
        return -1;
    quantizer_list *list = all_for_long();
    int64_t wrong = 0;
    for (int32_t k = 0; k < list->count; k++) {
        char format[200], want[256] = "", got[256];
        const uint64_t digest = saved ? trained_digest(be, &list->q[k], saved) : digest_of(be, &list->q[k]);
        snprintf(got, sizeof got, "%016llx %s\n", (unsigned long long)digest,
                 nb_quantizer_text(&list->q[k], format, sizeof format));
        if (!fgets(want, sizeof want, in) || strcmp(got, want) != 0) {
            if (wrong++ == 0)
                printf("    %.*s is expected to be %s", (int)strlen(got) - 1, got, want[0] ? want : "nothing\n");
        }
    }
    free(list);
    fclose(in);
    return wrong;
}
