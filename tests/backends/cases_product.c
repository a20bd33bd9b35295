/* cases_product.c: products. A sum of K products is right within K roundings of the sum of their magnitudes, and the
 * store's own; what operands decode to is exact, so that magnitudes are those of the quantized numbers. */
#include "fp8_units.h"
#include "operands.h"

/* A slice of the weights of a sparse product has 16, 128, 16, 32 and 64 columns on a GPU. */
static const int64_t SIZES[][3] = {{1, 16, 64}, {48, 128, 128}, {70, 48, 256}, {17, 32, 1024}, {40, 64, 256}};
static const int64_t ODD[][3] = {{1, 1, 1}, {7, 5, 3}, {33, 17, 65}, {128, 128, 128}, {200, 130, 300}};
enum { SHAPES = 5, ODD_SHAPES = 5 };

static double depth(const trial *t) {
    return 2 * (double)SIZES[t->shape][2] + 16;
}

static double odd_depth(const trial *t) {
    return (double)ODD[t->shape][2] + 4;
}

/* ---- plain ---- */

static void run_gemm(trial *t) {
    const int64_t m = ODD[t->shape][0], n = ODD[t->shape][1], k = ODD[t->shape][2];
    nb_backend *be = t->be;
    for (int i = 0; i < 16; i++) {
        const bool trans_a = i & 1, trans_b = i & 2, accumulate = i & 4;
        const nb_dtype type = i & 8 ? be->real : be->act;
        const nb_mat a = normal_mat(t, be->act, 1, trans_a ? k : m, trans_a ? m : k),
                     b = normal_mat(t, be->act, 2, trans_b ? n : k, trans_b ? k : n);
        const nb_mat c = accumulate ? normal_mat(t, type, 3, m, n)
                                    : nb_mat_of(scratch(t, (size_t)(m * n) * nb_dtype_size(type)), type, m, n);
        char what[64];
        snprintf(what, sizeof what, "%s%s%s", trans_a ? "A^T" : "A", trans_b ? " B^T" : " B", accumulate ? " +=" : "");
        EXPECT_OK(t, be->ops->gemm(be, &c, &a, trans_a, &b, trans_b, accumulate, &err));
        keep(t, what, c.data, type, m * n, false);
    }
    const uint8_t named = be->ops->gemm_kernel(be, be->act, be->act) != NULL;
    record(t, "has a name", &named, NB_U8, 1, true);
}

/* Masters as they are, in FP32. */
static void run_gemm_real(trial *t) {
    const int64_t m = ODD[t->shape][0], n = ODD[t->shape][1], k = ODD[t->shape][2];
    nb_backend *be = t->be;
    const nb_mat a = nb_mat_of(input_real(t, 1, m * k, 0, 1), be->real, m, k),
                 b = nb_mat_of(input_real(t, 2, n * k, 0, 1), be->real, n, k),
                 c = nb_mat_of(output(t, "C", be->real, m * n), be->real, m, n);
    EXPECT_OK(t, be->ops->gemm(be, &c, &a, false, &b, true, false, &err));
}

/* A backend takes the sums that it names, and refuses those that nobody has. */
static void run_sums(trial *t) {
    nb_backend *be = t->be;
    char text[64] = "";
    nb_error err = {0};
    be->ops->gemm_sums(be, be->act, be->act, text, sizeof text);
    const int32_t statuses[2] = {(int32_t)be->ops->gemm_take(be, be->act, be->act, text, &err),
                                 (int32_t)be->ops->gemm_take(be, be->act, be->act, "nobody's", &err)};
    record(t, "taken, refused", statuses, NB_I32, 2, true);
}

/* What was chosen for shapes that ran can be chosen again, to the same bits; what nobody chose cannot. */
static void run_choices(trial *t) {
    nb_backend *be = t->be;
    const int64_t m = 128, n = 96, k = 160;
    const nb_mat a = normal_mat(t, be->act, 1, m, k), b = normal_mat(t, be->act, 2, n, k);
    void *first = poisoned((size_t)(m * n) * 4), *second = poisoned((size_t)(m * n) * 4);
    int32_t facts[5] = {0};
    for (int i = 0; i < 2; i++) {
        const nb_mat c = nb_mat_of(scratch(t, (size_t)(m * n) * 4), NB_F32, m, n);
        EXPECT_OK(t, be->ops->gemm(be, &c, &a, false, &b, true, false, &err));
        be->ops->download(be, i ? second : first, c.data, (size_t)(m * n) * 4);
        char *text = be->ops->gemm_choices(be);
        facts[i] = text != NULL;
        if (text)
            EXPECT_OK(t, be->ops->gemm_choose(be, text, &err));
        free(text);
    }
    facts[2] = memcmp(first, second, (size_t)(m * n) * 4);
    facts[3] = (int32_t)be->ops->gemm_choose(be, "nobody's\n", NULL);
    facts[4] = (int32_t)be->ops->permit(be, &(ni_permits){.any_order = false}, NULL);
    record(t, "chosen again, equal, refused", facts, NB_I32, 5, true);
}

/* ---- codes ---- */

/* Under scales of blocks, then under scales of rows or of the tensor. */
enum { BLOCK_PAIRS = 9, OUTER_PAIRS = 6, PAIRS = BLOCK_PAIRS + OUTER_PAIRS };
static void pairs_of(nb_quantizer pairs[PAIRS][2]) {
    const nb_quantizer row128 = {.element = NB_ELEMENT_E2M1,
                                 .scale_type = NB_SCALE_E4M3,
                                 .outer = NB_OUTER_ROW128,
                                 .block_rows = 1,
                                 .block_cols = 16};
    nb_quantizer three_quarters = format_of("mxfp4", 1, 32);
    three_quarters.rule = NB_RULE_THREE_QUARTERS;
    const nb_quantizer all[PAIRS][2] = {
        {nvfp4(1), nvfp4(16)},
        {nvfp4(1), nvfp4(1)},
        {format_of("mxfp4", 1, 32), format_of("mxfp4", 1, 32)},
        {format_of("mxfp8", 1, 32), format_of("mxfp8-e5m2", 1, 32)},
        {format_of("mxfp8", 1, 32), format_of("mxfp4", 1, 32)},
        {row128, row128},
        {three_quarters, three_quarters},
        {format_of("mxfp4", 1, 32), three_quarters},
        {format_of("hifloat4", 1, 64), format_of("hifloat4", 1, 64)},
        {rows_of("e2m1"), rows_of("int4")},
        {rows_of("int4"), format_of("e2m1", NB_BLOCK_ALL, NB_BLOCK_ALL)},
        {format_of("e2m1", NB_BLOCK_ALL, NB_BLOCK_ALL), format_of("e2m1", NB_BLOCK_ALL, NB_BLOCK_ALL)},
        {rows_of("e4m3"), rows_of("e4m3")},
        {format_of("e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL), format_of("e5m2", NB_BLOCK_ALL, NB_BLOCK_ALL)},
        {format_of("e5m2", NB_BLOCK_ALL, NB_BLOCK_ALL), format_of("e5m2", NB_BLOCK_ALL, NB_BLOCK_ALL)},
    };
    memcpy(pairs, all, sizeof all);
}

static nb_mat left_of(trial *t) {
    return data_mat(t, DATA_NORMAL, NB_BF16, SIZES[t->shape][0], SIZES[t->shape][2]);
}

static nb_mat right_of(trial *t, data_kind kind) {
    return data_mat(t, kind, NB_F32, SIZES[t->shape][1], SIZES[t->shape][2]);
}

static bool fits(const nb_quantizer pair[2], const int64_t size[3]) {
    return nb_quantizer_check_shape(&pair[0], size[0], size[2], NULL) == NB_OK &&
           nb_quantizer_check_shape(&pair[1], size[1], size[2], NULL) == NB_OK;
}

/* One term: every pair, twice with the same operands, again after B was made anew, into both types, with and without
 * accumulation, with B made for this product or for another. */
static void run_one_term_of(trial *t, int begin, int end) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1];
    nb_backend *be = t->be;
    const nb_mat x = left_of(t), w[2] = {right_of(t, DATA_NORMAL), right_of(t, DATA_CORNERS)};
    const nb_quantizer other = rows_of("e5m2");
    nb_quantizer pairs[PAIRS][2];
    pairs_of(pairs);
    for (int p = begin; p < end; p++) {
        if (!fits(pairs[p], size))
            continue;
        const nb_operand left = made(t, &pairs[p][0], &x, NI_LEFT, &pairs[p][1]);
        nb_operand right[2] = {placed(t, &pairs[p][1], w[0].rows, w[0].cols, NI_RIGHT, &pairs[p][0]),
                               placed(t, &pairs[p][1], w[0].rows, w[0].cols, NI_RIGHT, &other)};
        for (int i = 0; i < 16; i++) {
            nb_operand *r = &right[i >> 3];
            if (i % 4 == 0)
                make(t, &(ni_source){.numbers = &w[i >> 2 & 1]}, &(ni_making){.out = r}, 1);
            if (t->few && i % 4 != (i >> 2 & 1) * 3) /* written as BF16, added to as FP32 */
                continue;
            const nb_mat c = normal_mat(t, i & 1 ? NB_F32 : NB_BF16, 9, m, n);
            const ni_term term = {.a = &left, .b = r};
            EXPECT_OK(t, be->ops->multiply(be, &c, &term, 1, i & 2, &err));
            char format[200];
            keep(t, nb_quantizer_text(&pairs[p][0], format, sizeof format), c.data, c.dtype, m * n, false);
        }
        const char *name = be->ops->product_kernel(be, &pairs[p][0], &pairs[p][1]);
        const uint8_t sensible = !name || name[0] != '\0';
        record(t, "name", &sensible, NB_U8, 1, true);
    }
}

/* What units for 8 bits lose, where they are what multiplies: of the 16 results (--few: 4) and the name that each pair
 * has. */
static double *lost_in_one_term(const trial *t, int index) {
    const int results = t->few ? 5 : 17, made_of = index % results;
    const bool corners = t->few ? made_of & 1 : made_of >> 2 & 1;
    const int64_t *size = SIZES[t->shape];
    nb_quantizer pairs[PAIRS][2];
    pairs_of(pairs);
    int p = BLOCK_PAIRS;
    for (int left = index / results; p < PAIRS && (left > 0 || !fits(pairs[p], size)); p++)
        left -= fits(pairs[p], size);
    assert_true(p < PAIRS);
    const char *name = t->be->ops->product_kernel(t->be, &pairs[p][0], &pairs[p][1]);
    if (made_of == results - 1 || !name || strncmp(name, "fp8", 3) != 0)
        return zeros(size[0] * size[1]);
    const nb_mat x = data_matrix(DATA_NORMAL, NB_BF16, size[0], size[2], size[2]),
                 w = data_matrix(corners ? DATA_CORNERS : DATA_NORMAL, NB_F32, size[1], size[2], size[2]);
    return fp8_units_cut(pairs[p], &x, &w);
}

static void run_one_term(trial *t) {
    run_one_term_of(t, 0, BLOCK_PAIRS);
}

static void run_one_outer_term(trial *t) {
    run_one_term_of(t, BLOCK_PAIRS, PAIRS);
}

/* S with fewer than `room` entries a row. */
static ni_sparse some(trial *t, int64_t rows, int64_t cols, int64_t room) {
    ni_sparse s = {.rows = rows, .cols = cols, .room = room};
    const int64_t part = cols / (room - 1);
    int32_t *count = poisoned((size_t)rows * sizeof *count), *column = poisoned((size_t)(room * rows) * sizeof *column);
    double *value = zeros(room * rows);
    for (int64_t r = 0; r < rows; r++) {
        count[r] = (int32_t)(r % room);
        for (int64_t i = 0; i < room; i++) {
            column[room * r + i] = (int32_t)((7 * r) % part + i * part);
            value[room * r + i] = normal(4, room * r + i);
        }
    }
    s.count = upload(t, count, (size_t)rows * sizeof *count);
    s.column = upload(t, column, (size_t)(room * rows) * sizeof *column);
    s.value = input(t, NB_BF16, value, room * rows);
    return s;
}

static ni_sparse few(trial *t, int64_t rows, int64_t cols) {
    return some(t, rows, cols, 3);
}

/* The same with residuals in F32, of all their bits. */
static ni_sparse few_exact(trial *t, int64_t rows, int64_t cols) {
    ni_sparse s = few(t, rows, cols);
    s.value = NULL;
    s.exact = (float *)input_real(t, 11, 3 * rows, 0, 1);
    return s;
}

/* Codes, codes into some columns, a sparse term, and plain numbers times factors: in their order, rounded once. */
static void run_terms(trial *t) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1], k = size[2];
    nb_backend *be = t->be;
    const nb_quantizer q = nvfp4(1), tiles = nvfp4(16), plain = nb_quantizer_bf16();
    const nb_mat x = left_of(t), w = right_of(t, DATA_NORMAL), px = normal_mat(t, NB_BF16, 7, m, k),
                 pw = normal_mat(t, NB_BF16, 8, n, k);
    nb_mat half = w;
    half.rows = n / 2;
    int32_t *columns = poisoned((size_t)(n / 2) * sizeof *columns);
    for (int64_t i = 0; i < n / 2; i++)
        columns[i] = (int32_t)(2 * i + 1);
    const int32_t *at = upload(t, columns, (size_t)(n / 2) * sizeof *columns);
    const float *factors = input(t, NB_F32, (double[]){0.5, 3}, 2);
    const ni_sparse s[2] = {few(t, m, k), few_exact(t, m, k)};
    const nb_operand left = made(t, &q, &x, NI_LEFT, &q), right = made(t, &tiles, &w, NI_RIGHT, &q),
                     right_half = made(t, &tiles, &half, NI_RIGHT, &q);
    const nb_operand left_numbers = {.quantizer = plain, .rows = m, .cols = k, .numbers = px, .factor = factors},
                     right_numbers = {.quantizer = plain, .rows = n, .cols = k, .numbers = pw, .factor = factors + 1};
    ni_term terms[4] = {{.a = &left, .b = &right},
                        {.a = &left, .b = &right_half, .columns = at},
                        {.b = &right},
                        {.a = &left_numbers, .b = &right_numbers}};
    for (int i = 0; i < 8; i++) {
        const nb_mat c = normal_mat(t, i & 1 ? NB_F32 : NB_BF16, 9, m, n);
        terms[2].sparse = &s[i / 4];
        EXPECT_OK(t, be->ops->multiply(be, &c, terms, 4, i & 2, &err));
        keep(t, "four terms", c.data, c.dtype, m * n, false);
    }
    for (int64_t i = 0; i < n / 2; i++)
        columns[i] = (int32_t)(2 * i);
    const int32_t *beside = upload(t, columns, (size_t)(n / 2) * sizeof *columns);
    const ni_term parts[3] = {{.a = &left, .b = &right_half, .columns = beside},
                              {.a = &left, .b = &right_half, .columns = at},
                              {.a = &left, .b = &right_half, .columns = beside}};
    for (int i = 0; i < 4; i++) {
        const nb_mat c = normal_mat(t, NB_F32, 9, m, n);
        EXPECT_OK(t, be->ops->multiply(be, &c, i & 1 ? parts : parts + 1, i & 1 ? 3 : 2, i & 2, &err));
        keep(t, "terms of columns", c.data, c.dtype, m * n, false);
    }
    nb_error err = {0};
    const nb_mat c = normal_mat(t, NB_F32, 9, m, n);
    const int32_t refused[2] = {(int32_t)be->ops->multiply(be, &c, &terms[2], 1, false, &err),
                                (int32_t)be->ops->multiply(be, &c, terms, 0, false, &err)};
    record(t, "refused", refused, NB_I32, 2, true);
}

/* A product under scales of rows and a sparse one of the same weights, as clamping has them. */
enum { REST_PAIRS = 3, REST_ROOM = 20 };
static void rest_pairs_of(nb_quantizer pairs[REST_PAIRS][2]) {
    const nb_quantizer e2m1 = rows_of("e2m1"), int4 = rows_of("int4"), e4m3 = rows_of("e4m3");
    const nb_quantizer all[REST_PAIRS][2] = {{e2m1, e2m1}, {int4, e2m1}, {e4m3, e4m3}};
    memcpy(pairs, all, sizeof all);
}

static void run_rest(trial *t) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1], k = size[2];
    const nb_mat x = left_of(t), w = right_of(t, DATA_NORMAL);
    const ni_sparse s = some(t, m, k, REST_ROOM);
    nb_quantizer pairs[REST_PAIRS][2];
    rest_pairs_of(pairs);
    for (int p = 0; p < REST_PAIRS; p++) {
        const nb_operand left = made(t, &pairs[p][0], &x, NI_LEFT, &pairs[p][1]),
                         right = made(t, &pairs[p][1], &w, NI_RIGHT, &pairs[p][0]);
        const ni_term terms[2] = {{.a = &left, .b = &right}, {.sparse = &s, .b = &right}};
        for (int i = 0; i < 4; i++) {
            const nb_mat c = normal_mat(t, i & 1 ? NB_F32 : NB_BF16, 9, m, n);
            EXPECT_OK(t, t->be->ops->multiply(t->be, &c, terms, 2, i & 2, &err));
            keep(t, i & 2 ? "added" : "written", c.data, c.dtype, m * n, false);
        }
    }
}

static double *lost_beside_rest(const trial *t, int index) {
    const int64_t *size = SIZES[t->shape];
    nb_quantizer pairs[REST_PAIRS][2];
    rest_pairs_of(pairs);
    const nb_quantizer *pair = pairs[index / 4];
    const char *name = t->be->ops->product_kernel(t->be, &pair[0], &pair[1]);
    if (!name || strncmp(name, "fp8", 3) != 0)
        return zeros(size[0] * size[1]);
    const nb_mat x = data_matrix(DATA_NORMAL, NB_BF16, size[0], size[2], size[2]),
                 w = data_matrix(DATA_NORMAL, NB_F32, size[1], size[2], size[2]);
    return fp8_units_cut(pair, &x, &w);
}

/* MXFP4 by units for 8 bits, where a run permits it: of three rows one whose blocks are alike, one whose exponents are
 * as far apart as E4M3 holds, one beyond that. */
enum { MX_PAIRS = 2, MX_PRODUCTS = 4, MX_RESULTS = MX_PRODUCTS + 1 };
static void mx_pairs_of(nb_quantizer pairs[MX_PAIRS][2]) {
    const nb_quantizer plain = format_of("mxfp4", 1, 32);
    pairs[0][0] = pairs[0][1] = pairs[1][0] = pairs[1][1] = plain;
    pairs[1][0].rule = NB_RULE_THREE_QUARTERS;
}

static nb_mat spread_out(nb_dtype type, int64_t rows, int64_t cols, int far) {
    const nb_mat m = data_matrix(DATA_NORMAL, type, rows, cols, cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        const int64_t r = i / cols, block = i % cols / 32;
        const int down = r % 3 == 0 ? 0 : r % 3 == 1 ? (int)(block * 5 % 10) : (int)(block * 7 % 4) * far;
        const float x = (float)ldexp(datum(DATA_NORMAL, 11, i), -down);
        if (type == NB_BF16)
            ((uint16_t *)m.data)[i] = ni_bf16_even(x);
        else
            ((float *)m.data)[i] = x;
    }
    return m;
}

static nb_status permit_mx(nb_backend *be, bool mx) {
    return be->ops->permit(be, &(ni_permits){.mxfp4_fp8 = mx}, NULL);
}

/* Once its codes were changed, an operand is what its codes say. */
static void round_and_multiply(trial *t, const nb_operand *a, nb_operand *b, const nb_mat *w) {
    const int64_t n = a->rows * b->rows;
    nb_backend *be = t->be;
    nb_operand again = placed(t, &b->quantizer, w->rows, w->cols, NI_RIGHT, &b->other);
    const nb_qtensor codes = new_codes(t, &b->quantizer, b->rows, b->cols);
    float *results[2] = {poisoned((size_t)n * sizeof(float)), poisoned((size_t)n * sizeof(float))};
    if (be->ops->round_by)
        be->ops->round_by(be, b, w->data, w->data);
    EXPECT_OK(t, be->ops->canonical(be, &codes, b, &err));
    EXPECT_OK(t, be->ops->take_codes(be, &again, &codes, &err));
    for (int i = 0; i < 2; i++) {
        const nb_mat c = normal_mat(t, NB_F32, 9, a->rows, b->rows);
        EXPECT_OK(t, be->ops->multiply(be, &c, &(ni_term){.a = a, .b = i ? &again : b}, 1, false, &err));
        be->ops->download(be, results[i], c.data, (size_t)n * sizeof(float));
    }
    const int32_t differ = memcmp(results[0], results[1], (size_t)n * sizeof(float)) != 0;
    record(t, "rounded anew, as its codes", &differ, NB_I32, 1, true);
}

static void run_mx(trial *t) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1], k = size[2];
    nb_backend *be = t->be;
    const nb_mat left_host = spread_out(NB_BF16, m, k, 19), right_host = spread_out(NB_F32, n, k, 23),
                 x = input_mat(t, &left_host), w = input_mat(t, &right_host);
    nb_quantizer pairs[MX_PAIRS][2];
    mx_pairs_of(pairs);
    const int32_t status = (int32_t)permit_mx(be, true);
    record(t, "permitted", &status, NB_I32, 1, true);
    for (int p = 0; p < MX_PAIRS && fits(pairs[p], size); p++) {
        const nb_operand a = made(t, &pairs[p][0], &x, NI_LEFT, &pairs[p][1]);
        nb_operand b = made(t, &pairs[p][1], &w, NI_RIGHT, &pairs[p][0]);
        for (int i = 0; i < MX_PRODUCTS; i++) {
            const nb_mat c = normal_mat(t, i & 1 ? NB_F32 : NB_BF16, 9, m, n);
            EXPECT_OK(t, be->ops->multiply(be, &c, &(ni_term){.a = &a, .b = &b}, 1, i & 2, &err));
            keep(t, i & 2 ? "added" : "written", c.data, c.dtype, m * n, false);
        }
        round_and_multiply(t, &a, &b, &w);
    }
    if (be->mended) { /* every third row is, where there is a fourth block */
        const bool seen = be->mended(be) > 0,
                   by_fp8 = strncmp(be->ops->product_kernel(be, &pairs[0][0], &pairs[0][1]), "fp8", 3) == 0;
        if (by_fp8 && seen != (k > 32 && (m > 2 || n > 2) && n % 16 == 0 && fits(pairs[0], size)))
            fail_trial(t, "rows that FP8 does not hold", NB_INTERNAL, &(nb_error){.message = "not counted"});
    }
    permit_mx(be, false);
}

static double *lost_in_mx(const trial *t, int index) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1], k = size[2];
    nb_quantizer pairs[MX_PAIRS][2];
    mx_pairs_of(pairs);
    if (index == 0 || (index - 1) % MX_RESULTS == MX_PRODUCTS)
        return zeros(1);
    const nb_quantizer *pair = pairs[(index - 1) / MX_RESULTS];
    permit_mx(t->be, true);
    const char *name = t->be->ops->product_kernel(t->be, &pair[0], &pair[1]);
    const bool fp8 = name && strncmp(name, "fp8", 3) == 0 && n % 16 == 0;
    permit_mx(t->be, false);
    if (!fp8)
        return zeros(m * n);
    const nb_mat x = spread_out(NB_BF16, m, k, 19), w = spread_out(NB_F32, n, k, 23);
    return fp8_units_cut(pair, &x, &w);
}

/* Codes and outer products, between and at the end of other terms: into both types, written and added to. */
static void run_outer(trial *t) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1];
    nb_backend *be = t->be;
    const nb_quantizer q = nvfp4(1);
    const nb_mat x = left_of(t), w = right_of(t, DATA_NORMAL);
    const nb_operand left = made(t, &q, &x, NI_LEFT, &q), right = made(t, &q, &w, NI_RIGHT, &q);
    const ni_outer row = {.count = 1, .right = {input_real(t, 31, n, 0, 1)}},
                   two = {.count = 2,
                          .left = {input_real(t, 32, m, 0, 1), input_real(t, 33, m, 0, 1)},
                          .right = {input_real(t, 34, n, 0, 1), input_real(t, 35, n, 0, 1)}};
    const ni_term terms[4] = {{.a = &left, .b = &right}, {.outer = &row}, {.a = &left, .b = &right}, {.outer = &two}};
    for (int i = 0; i < 8; i++) {
        const nb_mat c = normal_mat(t, i & 1 ? NB_F32 : NB_BF16, 9, m, n);
        EXPECT_OK(t, be->ops->multiply(be, &c, terms, i & 4 ? 4 : 2, i & 2, &err));
        keep(t, i & 4 ? "four terms" : "two terms", c.data, c.dtype, m * n, false);
    }
    nb_error err = {0};
    const nb_mat c = normal_mat(t, NB_F32, 9, m, n);
    const int32_t refused = (int32_t)be->ops->multiply(be, &c, &terms[1], 1, false, &err);
    record(t, "refused", &refused, NB_I32, 1, true);
}

/* Codes times plain numbers, both ways round: what has codes is decoded and rounded to BF16, scales and all but for one
 * of the tensor. */
static void run_mixed(trial *t) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1], k = size[2];
    const nb_quantizer quantizers[2] = {rows_of("e2m1"), format_of("e5m2", NB_BLOCK_ALL, NB_BLOCK_ALL)},
                       plain = nb_quantizer_bf16();
    const nb_mat x = normal_mat(t, NB_BF16, 7, m, k), w = normal_mat(t, NB_BF16, 8, n, k);
    const nb_operand plain_x = {.quantizer = plain, .rows = m, .cols = k, .numbers = x},
                     plain_w = {.quantizer = plain, .rows = n, .cols = k, .numbers = w};
    for (int i = 0; i < 8; i++) { /* rows or one scale; into FP32, or added to BF16 */
        const nb_quantizer *q = &quantizers[i / 4];
        const bool into_bf16 = i & 2;
        const nb_operand coded = i & 1 ? made(t, q, &w, NI_RIGHT, &plain) : made(t, q, &x, NI_LEFT, &plain);
        const ni_term term = {.a = i & 1 ? &plain_x : &coded, .b = i & 1 ? &coded : &plain_w};
        const nb_mat c = normal_mat(t, into_bf16 ? NB_BF16 : NB_F32, 9, m, n);
        EXPECT_OK(t, t->be->ops->multiply(t->be, &c, &term, 1, into_bf16, &err));
        keep(t, i & 1 ? "numbers x codes" : "codes x numbers", c.data, c.dtype, m * n, false);
    }
}

/* ---- sparse ---- */

static void run_sparse_add(trial *t) {
    const int64_t *size = SIZES[t->shape], m = size[0], k = size[2];
    const nb_mat x = normal_mat(t, NB_BF16, 5, m, k);
    const ni_sparse s = few(t, m, k);
    t->be->ops->sparse_add(t->be, &x, &s);
    const ni_sparse exact = few_exact(t, m, k);
    t->be->ops->sparse_add(t->be, &x, &exact);
    keep(t, "x", x.data, NB_BF16, m * k, true);
}

static const test_case PRODUCT_CASES[] = {
    {"gemm gemm_kernel", "bf16, all layouts", PRODUCTS, ODD_SHAPES, run_gemm, NULL, odd_depth},
    {"gemm", "f32", PRODUCTS, ODD_SHAPES, run_gemm_real, NULL, odd_depth},
    {"gemm_sums gemm_take", "its own, nobody's", BITS, 1, run_sums, NULL, NULL},
    {"gemm_choices gemm_choose permit", "its own, nobody's", BITS, 1, run_choices, NULL, NULL},
    {"multiply product_kernel", "one term, scales of blocks", CODES, SHAPES, run_one_term, NULL, depth},
    {"multiply product_kernel", "one term, of rows, tensors", CODES, SHAPES, run_one_outer_term, lost_in_one_term,
     depth},
    {"multiply", "four terms", CODES, SHAPES, run_terms, NULL, depth},
    {"multiply", "codes and a sparse rest", CODES, SHAPES, run_rest, lost_beside_rest, depth},
    {"multiply permit", "MXFP4 by units for 8 bits", CODES, SHAPES, run_mx, lost_in_mx, depth},
    {"multiply", "codes and outer products", CODES, SHAPES, run_outer, NULL, depth},
    {"multiply", "codes and plain numbers", CODES, SHAPES, run_mixed, NULL, depth},
    {"sparse_add", "few a row", BITS, SHAPES, run_sparse_add, NULL, NULL},
};
const case_list product_cases = {PRODUCT_CASES, sizeof PRODUCT_CASES / sizeof *PRODUCT_CASES};
