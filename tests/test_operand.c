/* test_operand.c: what the reference makes of a source, held against the functions over the canonical layout (other
 * backends are held against the reference: tests/backends/cases_operand.c); and, on every backend of the CPU, sums of
 * products to the bit.
 */
#include "backend/table.h"
#include "quantize_cases.h"

#include "backend/cpu/cpu.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/gemm_q.h"
#include "backend/ref/quantize.h"

enum { BACKENDS = 4, M = 48, N = 32, K = 128, PICKED = 32 };
static nb_backend *backends[BACKENDS];
static const uint32_t at_step_3[2] = {3, 2};
static const nb_noise noise = {.seed = 5, .tensor = 0x1234567, .signs = 0x89abcdef, .clock = at_step_3};

static int make_backends(void **state) {
    (void)state;
    static const nb_isa isas[BACKENDS] = {NB_ISA_SCALAR, NB_ISA_PORTABLE, NB_ISA_AVX2, NB_ISA_AVX512};
    for (int i = 0; i < BACKENDS; i++) {
        nb_backend_options options = {i == 2 ? 3 : 1, isas[i]};
        if (ni_isa_available(isas[i]))
            assert_int_equal(nb_backend_open("cpu", &options, &backends[i], NULL), NB_OK);
    }
    return 0;
}

static int free_backends(void **state) {
    (void)state;
    for (int i = 0; i < BACKENDS; i++)
        nb_backend_free(backends[i]);
    return 0;
}

/* ---- making things ---- */

static nb_operand placed(nb_backend *be, const nb_quantizer *q, int64_t rows, int64_t cols, ni_side side,
                         const nb_quantizer *other) {
    nb_operand o = {.quantizer = *q, .other = *other, .rows = rows, .cols = cols, .side = side, .reread = true};
    o.memory = poisoned(be->ops->operand_bytes(be, &o));
    return o;
}

static void make_from(nb_backend *be, const ni_source *source, nb_operand *out, bool transpose) {
    ni_making making = {.out = out, .transpose = transpose, .noise = &noise};
    nb_error err = {0};
    if (be->ops->make_operands(be, source, &making, 1, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static nb_operand made(nb_backend *be, const nb_quantizer *q, const nb_mat *from, ni_side side,
                       const nb_quantizer *other) {
    nb_operand o = placed(be, q, from->rows, from->cols, side, other);
    make_from(be, &(ni_source){.numbers = from}, &o, false);
    return o;
}

static nb_qtensor canonical(nb_backend *be, const nb_operand *o) {
    nb_qtensor t = new_operand(&o->quantizer, o->rows, o->cols);
    assert_int_equal(be->ops->canonical(be, &t, o, NULL), NB_OK);
    return t;
}

static nb_qtensor by_reference(const nb_quantizer *q, const nb_mat *from, bool transpose) {
    nb_qtensor t = new_operand(q, transpose ? from->cols : from->rows, transpose ? from->rows : from->cols);
    assert_int_equal(ni_ref_quantize(NULL, &t, from, transpose, &noise, NULL, NULL), NB_OK);
    return t;
}

static nb_mat decoded_by_reference(const nb_qtensor *t) {
    nb_mat m = nb_mat_of(poisoned((size_t)(t->rows * t->cols) * 4), NB_F32, t->rows, t->cols);
    assert_int_equal(ni_ref_dequantize(NULL, &m, t, false, true, NULL), NB_OK);
    return m;
}

static float at(const nb_mat *m, int64_t r, int64_t c) {
    return (float)element(m->data, m->dtype, r * m->stride + c);
}

#define REFERENCE(be) for (nb_backend *be = backends[0]; be; be = NULL)
#define EACH_BACKEND(be)                                                                                               \
    for (int each = 0; each < BACKENDS; each++)                                                                        \
        for (nb_backend *be = backends[each]; be; be = NULL)

/* ---- sources ---- */

/* Two operands of one call, one turned, of numbers and of an operand's decoded values: as if made alone. */
static void of_numbers_and_of_codes(void **state) {
    (void)state;
    const quantizer_list *list = all_quantizers();
    const nb_quantizer source_format = rows_of("e2m1");
    for (int32_t i = 0; i < list->count; i += 3) {
        const buffer *before = test_buffers;
        const nb_quantizer *q = &list->q[i], *second = &list->q[(i + 7) % list->count];
        nb_mat x = data_matrix(DATA_CORNERS, i % 2 ? NB_F32 : NB_BF16, 128, 128, 131);
        nb_qtensor codes = by_reference(&source_format, &x, false);
        nb_mat values = decoded_by_reference(&codes);
        nb_qtensor want[4] = {by_reference(q, &x, false), by_reference(second, &x, true),
                              by_reference(q, &values, false), by_reference(second, &values, true)};
        REFERENCE(be) {
            nb_operand from = made(be, &source_format, &x, NI_LEFT, q);
            for (int kind = 0; kind < 2; kind++) {
                nb_operand a = placed(be, q, 128, 128, NI_LEFT, second), b = placed(be, second, 128, 128, NI_RIGHT, q);
                const ni_source source = {.numbers = kind ? NULL : &x, .operand = kind ? &from : NULL};
                const ni_making both[2] = {{.out = &a, .noise = &noise},
                                           {.out = &b, .transpose = true, .noise = &noise}};
                assert_int_equal(be->ops->make_operands(be, &source, both, 2, NULL), NB_OK);
                nb_qtensor got_a = canonical(be, &a), got_b = canonical(be, &b);
                same_operand(&want[2 * kind], &got_a, nb_isa_name(ni_cpu_of(be)->isa));
                same_operand(&want[2 * kind + 1], &got_b, nb_isa_name(ni_cpu_of(be)->isa));
            }
        }
        release_buffers_until(before);
    }
}

static void pick_columns(int32_t *columns) {
    for (int i = 0; i < PICKED; i++)
        columns[i] = 3 * i + i % 2;
}

/* Columns, residuals and folded scales, each in FP32. */
static void of_derived_numbers(void **state) {
    (void)state;
    const nb_quantizer q = nvfp4(1), rows = rows_of("e2m1"), plain = nb_quantizer_bf16();
    int32_t *columns = poisoned(sizeof *columns * PICKED);
    pick_columns(columns);
    nb_mat x = data_matrix(DATA_WIDE, NB_BF16, M, K, K + 3), w = data_matrix(DATA_NORMAL, NB_F32, K, N, N);
    nb_mat y = data_matrix(DATA_NORMAL, NB_F32, M, N, N);
    nb_qtensor held = by_reference(&q, &x, false), scaled_rows = by_reference(&rows, &y, false);
    nb_qtensor scaled_cols = by_reference(&rows, &w, false);
    nb_mat values = decoded_by_reference(&held);
    nb_mat picked = nb_mat_of(poisoned(M * PICKED * 4), NB_F32, M, PICKED), residual = picked, folded = x;
    residual.data = poisoned(M * PICKED * 4);
    folded = nb_mat_of(poisoned(M * K * 4), NB_F32, M, K);
    for (int r = 0; r < M; r++) {
        for (int i = 0; i < PICKED; i++) {
            ((float *)picked.data)[r * PICKED + i] = at(&x, r, columns[i]);
            ((float *)residual.data)[r * PICKED + i] = at(&x, r, columns[i]) - at(&values, r, columns[i]);
        }
        for (int c = 0; c < K; c++)
            ((float *)folded.data)[r * K + c] =
                at(&x, r, c) * scaled_rows.outer_scales[r] * scaled_cols.outer_scales[c];
    }
    nb_qtensor want[3] = {by_reference(&q, &picked, false), by_reference(&rows, &residual, true),
                          by_reference(&q, &folded, false)};
    REFERENCE(be) {
        nb_operand minus = made(be, &q, &x, NI_LEFT, &q), by_row = made(be, &rows, &y, NI_RIGHT, &plain),
                   by_col = made(be, &rows, &w, NI_LEFT, &plain);
        const ni_source sources[3] = {
            {.numbers = &x, .columns = columns, .column_count = PICKED},
            {.numbers = &x, .minus = &minus, .columns = columns, .column_count = PICKED},
            {.numbers = &x, .row_scales = &by_row, .column_scales = &by_col},
        };
        for (int i = 0; i < 3; i++) {
            nb_operand o = placed(be, &want[i].quantizer, want[i].rows, want[i].cols, NI_LEFT, &q);
            make_from(be, &sources[i], &o, i == 1);
            nb_qtensor got = canonical(be, &o);
            same_operand(&want[i], &got, nb_isa_name(ni_cpu_of(be)->isa));
        }
        /* plain numbers, where they are asked for; folding rounds once */
        nb_operand numbers = {.quantizer = plain, .rows = K, .cols = M, .transposed = true};
        numbers.numbers = nb_mat_of(poisoned(M * K * 2), NB_BF16, M, K);
        make_from(be, &sources[2], &numbers, true);
        for (int i = 0; i < M * K; i++)
            assert_int_equal(((uint16_t *)numbers.numbers.data)[i], ni_bf16_even(((float *)folded.data)[i]));
    }
}

/* An operand of pieces: tiles of 16x16 beside rows of 1x16 under the first piece's scale. What a piece's own scale
 * would be does not enter: the reference sees the base's largest magnitude in a block of its own. */
static void of_pieces(void **state) {
    (void)state;
    const nb_quantizer tiles = nvfp4(16), q = nvfp4(1);
    int32_t *columns = poisoned(sizeof *columns * PICKED);
    pick_columns(columns);
    nb_mat w = data_matrix(DATA_NORMAL, NB_F32, N, K, K);
    nb_qtensor base = by_reference(&tiles, &w, false);
    nb_mat values = decoded_by_reference(&base), wide = nb_mat_of(zeros(N * (2 * PICKED + 16)), NB_F32, N, 0);
    wide.cols = wide.stride = 2 * PICKED + 16;
    float *x = wide.data, amax = 0;
    for (int r = 0; r < N; r++)
        for (int c = 0; c < K; c++)
            amax = fmaxf(amax, fabsf(at(&w, r, c)));
    for (int r = 0; r < N; r++)
        for (int i = 0; i < PICKED; i++) {
            x[r * wide.stride + i] = at(&w, r, columns[i]) - at(&values, r, columns[i]);
            x[r * wide.stride + PICKED + i] = at(&w, r, columns[i]);
        }
    x[2 * PICKED] = amax;
    nb_qtensor pieces = by_reference(&q, &wide, false);
    REFERENCE(be) {
        nb_operand o = placed(be, &q, N, K + 2 * PICKED, NI_RIGHT, &q);
        const ni_source all = {.numbers = &w},
                        residual = {.numbers = &w, .minus = &o, .columns = columns, .column_count = PICKED},
                        again = {.numbers = &w, .columns = columns, .column_count = PICKED};
        const ni_making makings[3] = {{.out = &o, .quantizer = &tiles},
                                      {.out = &o, .at = K, .under = &o},
                                      {.out = &o, .at = K + PICKED, .under = &o}};
        assert_int_equal(be->ops->make_operands(be, &all, &makings[0], 1, NULL), NB_OK);
        assert_int_equal(be->ops->make_operands(be, &residual, &makings[1], 1, NULL), NB_OK);
        assert_int_equal(be->ops->make_operands(be, &again, &makings[2], 1, NULL), NB_OK);
        nb_qtensor got = canonical(be, &o);
        assert_true(*got.tensor_scale == *base.tensor_scale && *o.outer == *base.tensor_scale);
        for (int r = 0; r < N; r++) {
            same_buffer("codes", "base", base.codes + r * K / 2, got.codes + r * got.cols / 2, K / 2);
            same_buffer("scales", "base", base.scales + r * K / 16, got.scales + r * got.cols / 16, K / 16);
            same_buffer("codes", "pieces", pieces.codes + r * wide.cols / 2, got.codes + (r * got.cols + K) / 2,
                        PICKED);
            same_buffer("scales", "pieces", pieces.scales + r * wide.cols / 16, got.scales + (r * got.cols + K) / 16,
                        PICKED / 8);
        }
        nb_error err = {0};
        const ni_making apart = {.out = &o, .at = K}, crooked = {.out = &o, .at = K + 8, .under = &o};
        assert_int_equal(be->ops->make_operands(be, &again, &apart, 1, &err), NB_BAD_USAGE);
        assert_int_equal(be->ops->make_operands(be, &again, &crooked, 1, &err), NB_BAD_USAGE);
    }
}

/* Numbers in F32 or BF16 are read, and no others for them; those under a scale by whom takes_kept says. */
static void what_nobody_reads_is_refused(void **state) {
    (void)state;
    const nb_quantizer q = nvfp4(1), plain = nb_quantizer_bf16();
    void *data = poisoned(N * K * sizeof(double));
    memset(data, 0, N * K * sizeof(double));
    static const nb_dtype types[] = {NB_F16, NB_E4M3, NB_I32, NB_U8, NB_F64};
    const float *one = put(NB_F32, (double[]){1}, 1);
    EACH_BACKEND(be) {
        nb_operand codes = placed(be, &q, N, K, NI_RIGHT, &q),
                   numbers = {.quantizer = plain,
                              .rows = N,
                              .cols = K,
                              .numbers = nb_mat_of(poisoned(N * K * 2), NB_BF16, N, K)};
        const ni_making coded = {.out = &codes}, copied = {.out = &numbers};
        for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
            const nb_mat x = nb_mat_of(data, types[i], N, K);
            const ni_source source = {.numbers = &x};
            char expected[64];
            nb_error err = {0};
            snprintf(expected, sizeof expected, "source is %s, expected f32 or bf16", nb_dtype_name(types[i]));
            assert_int_equal(be->ops->make_operands(be, &source, &coded, 1, &err), NB_BAD_USAGE);
            assert_non_null(strstr(err.message, expected));
            assert_int_equal(be->ops->make_many(be, &source, &coded, 1, NULL), NB_BAD_USAGE);
            if (types[i] != NB_F64) /* formulas in double are checked with those */
                assert_int_equal(be->ops->make_operands(be, &source, &copied, 1, NULL), NB_BAD_USAGE);
        }
        for (int narrow = 0; narrow < 2; narrow++) {
            const nb_mat x = nb_mat_of(data, narrow ? NB_F16 : NB_F32, N, K);
            const ni_source source = {.numbers = &x, .scale = one};
            nb_error err = {0};
            assert_int_equal(be->ops->make_operands(be, &source, &coded, 1, &err), NB_BAD_USAGE);
            assert_non_null(strstr(err.message, "under a scale"));
            assert_int_equal(be->ops->make_many(be, &source, &coded, 1, NULL), NB_BAD_USAGE);
        }
        const nb_operand from = placed(be, &q, N, K, NI_RIGHT, &q);
        const ni_parts parts = {.rows = N, .cols = K, .count = 1, .codes = {&from}};
        nb_error err = {0};
        assert_int_equal(be->ops->make_operands(be, &(ni_source){.parts = &parts}, &coded, 1, &err), NB_BAD_USAGE);
        assert_non_null(strstr(err.message, "parts: by make_many alone"));
    }
}

/* An amax that comes with the numbers decides the scale; a rotated operand measures for itself. */
static void amax_travels(void **state) {
    (void)state;
    nb_quantizer q = nvfp4(1), turned = q;
    turned.hadamard_size = 16;
    nb_mat x = data_matrix(DATA_NORMAL, NB_BF16, M, K, K);
    nb_qtensor want = by_reference(&turned, &x, false);
    float larger = 1000;
    uint32_t *bits = poisoned(sizeof *bits);
    memcpy(bits, &larger, sizeof larger);
    x.amax = bits;
    EACH_BACKEND(be) {
        nb_operand a = made(be, &turned, &x, NI_LEFT, &q);
        nb_qtensor got = canonical(be, &a);
        same_operand(&want, &got, "rotated");
        if (ni_cpu_of(be)->isa == NB_ISA_SCALAR)
            continue; /* the reference measures always */
        nb_operand b = made(be, &q, &x, NI_LEFT, &q);
        assert_true(*b.outer == 1 / (2688.0f / 1000));
    }
}

/* ---- turning, decoding ---- */

static void turned_and_decoded(void **state) {
    (void)state;
    const nb_quantizer tiles = nvfp4(16), rows = rows_of("int4"), q = nvfp4(1);
    nb_quantizer none = rows;
    none.scale_type = NB_SCALE_NONE;
    none.block_rows = none.block_cols = NB_BLOCK_ALL;
    nb_mat w = data_matrix(DATA_NORMAL, NB_F32, N, K, K);
    nb_qtensor want = by_reference(&tiles, &w, true), by_rows = by_reference(&rows, &w, false);
    nb_mat values = decoded_by_reference(&by_rows);
    REFERENCE(be) {
        nb_operand a = made(be, &tiles, &w, NI_LEFT, &q), t = placed(be, &tiles, K, N, NI_RIGHT, &q);
        assert_int_equal(be->ops->turn(be, &t, &a, NULL), NB_OK);
        nb_qtensor got = canonical(be, &t);
        same_operand(&want, &got, "turned");
        nb_operand b = made(be, &rows, &w, NI_LEFT, &rows), bare = placed(be, &none, K, N, NI_RIGHT, &rows);
        assert_int_equal(be->ops->turn(be, &bare, &b, NULL), NB_OK);
        nb_mat whole = nb_mat_of(poisoned(N * K * 4), NB_F32, K, N),
               inner = nb_mat_of(poisoned(N * K * 2), NB_BF16, N, K);
        assert_int_equal(be->ops->decode(be, &whole, &bare, false, NULL, true, NULL), NB_OK);
        assert_int_equal(be->ops->decode(be, &inner, &b, false, NULL, false, NULL), NB_OK);
        for (int r = 0; r < N; r++)
            for (int c = 0; c < K; c++) {
                assert_true(at(&whole, c, r) * by_rows.outer_scales[r] == at(&values, r, c));
                assert_true(at(&whole, c, r) == at(&inner, r, c));
            }
        nb_operand wrong = placed(be, &q, K, N, NI_RIGHT, &q), one = made(be, &q, &w, NI_LEFT, &q);
        assert_int_equal(be->ops->turn(be, &wrong, &one, NULL), NB_BAD_USAGE);
        /* into columns: the others stay */
        int32_t columns[K];
        for (int c = 0; c < K; c++)
            columns[c] = 2 * (K - 1 - c) + 1;
        nb_mat spread = nb_mat_of(poisoned(N * 2 * K * 4), NB_F32, N, 2 * K);
        const ni_columns all = {columns, K};
        assert_int_equal(be->ops->decode(be, &spread, &b, false, &all, true, NULL), NB_OK);
        for (int r = 0; r < N; r++)
            for (int c = 0; c < K; c++)
                assert_true(at(&spread, r, columns[c]) == at(&values, r, c) && isnan(at(&spread, r, columns[c] - 1)));
    }
}

/* ---- products ---- */

/* What one term adds to C in F32, by the reference over the canonical layout. */
static void add_by_reference(const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, bool accumulate) {
    assert_int_equal(ni_ref_gemm_q(NULL, c, a, b, accumulate, NULL), NB_OK);
}

static nb_mat like(const nb_mat *m, nb_dtype type) {
    return nb_mat_of(poisoned((size_t)(m->rows * m->cols) * nb_dtype_size(type)), type, m->rows, m->cols);
}

static void same_matrix(const char *what, const nb_mat *want, const nb_mat *got) {
    same_buffer("numbers", what, want->data, got->data, (size_t)(want->rows * want->cols) * nb_dtype_size(want->dtype));
}

/* S with two entries a row. */
static ni_sparse two_a_row(void) {
    ni_sparse s = {.rows = M, .cols = K, .room = 3};
    s.count = poisoned(M * sizeof *s.count);
    s.column = poisoned(3 * M * sizeof *s.column);
    s.value = poisoned(3 * M * sizeof *s.value);
    for (int r = 0; r < M; r++) {
        s.count[r] = r % 3;
        for (int i = 0; i < 2; i++) {
            s.column[3 * r + i] = (7 * r + 50 * i) % K;
            s.value[3 * r + i] = ni_bf16_even((float)normal(4, 2 * r + i));
        }
    }
    return s;
}

/* Codes, codes into some columns, a sparse term, and plain numbers times factors: in their order, in F32, rounded once.
 */
static void sums_of_terms(void **state) {
    (void)state;
    const nb_quantizer q = nvfp4(1), tiles = nvfp4(16), plain = nb_quantizer_bf16();
    nb_mat x = data_matrix(DATA_NORMAL, NB_BF16, M, K, K), w = data_matrix(DATA_NORMAL, NB_F32, N, K, K), half = w;
    half.rows = N / 2;
    half.data = (float *)w.data + 3 * K;
    ni_sparse s = two_a_row();
    int32_t *columns = poisoned(sizeof *columns * N / 2);
    for (int i = 0; i < N / 2; i++)
        columns[i] = 2 * i + 1;
    float *factors = put(NB_F32, (double[]){0.5, 3}, 2);
    nb_mat px = like(&x, NB_BF16), pw = like(&w, NB_BF16);
    ni_ref_scale(NULL, &px, &x, NULL, NULL);
    ni_ref_scale(NULL, &pw, &w, NULL, NULL);
    nb_qtensor a = by_reference(&q, &x, false), b = by_reference(&tiles, &w, false),
               b_half = by_reference(&tiles, &half, false);
    nb_mat wt = nb_mat_of(poisoned(N * K * 2), NB_BF16, K, N), part = nb_mat_of(poisoned(M * N * 4), NB_F32, M, N);
    assert_int_equal(ni_ref_dequantize(NULL, &wt, &b, true, true, NULL), NB_OK);
    for (int from = 0; from < 2; from++) {
        nb_mat want = nb_mat_of(put(NB_F32, normals(9, M * N, 0, 1), M * N), NB_F32, M, N);
        nb_mat start = nb_mat_of(put(NB_BF16, normals(9, M * N, 0, 1), M * N), NB_BF16, M, N);
        ni_ref_scale(NULL, &want, &start, NULL, NULL);
        add_by_reference(&want, &a, &b, from);
        part.cols = part.stride = N / 2;
        add_by_reference(&part, &a, &b_half, false);
        ni_ref_scatter_columns(NULL, &want, &part, columns, true);
        ni_ref_sparse_product(&want, &s, &wt);
        part.cols = part.stride = N;
        EACH_BACKEND(be) {
            nb_operand left = made(be, &q, &x, NI_LEFT, &tiles), right = made(be, &tiles, &w, NI_RIGHT, &q);
            nb_operand right_half = made(be, &tiles, &half, NI_RIGHT, &q);
            nb_operand numbers = {.quantizer = plain, .rows = M, .cols = K, .numbers = px, .factor = factors},
                       weights = {.quantizer = plain, .rows = N, .cols = K, .numbers = pw, .factor = factors + 1};
            const ni_term terms[4] = {{.a = &left, .b = &right},
                                      {.a = &left, .b = &right_half, .columns = columns},
                                      {.sparse = &s, .b = &right},
                                      {.a = &numbers, .b = &weights}};
            nb_mat all = like(&want, NB_F32), rounded = like(&want, NB_BF16), sum = like(&want, NB_F32);
            ni_ref_scale(NULL, &all, &start, NULL, NULL);
            ni_ref_scale(NULL, &rounded, &start, NULL, NULL);
            memcpy(sum.data, want.data, M * N * 4);
            assert_int_equal(be->ops->gemm(be, &part, &px, false, &pw, true, false, NULL), NB_OK);
            for (int i = 0; i < M * N; i++)
                ((float *)sum.data)[i] += 1.5f * ((float *)part.data)[i];
            assert_int_equal(be->ops->multiply(be, &all, terms, 4, from, NULL), NB_OK);
            assert_int_equal(be->ops->multiply(be, &rounded, terms, 4, from, NULL), NB_OK);
            same_matrix("four terms", &sum, &all);
            for (int i = 0; i < M * N; i++)
                assert_int_equal(((uint16_t *)rounded.data)[i], ni_bf16_even(((float *)sum.data)[i]));
            nb_error err = {0};
            assert_int_equal(be->ops->multiply(be, &all, &terms[2], 1, false, &err), NB_BAD_USAGE);
            assert_int_equal(be->ops->multiply(be, &all, terms, 0, false, &err), NB_BAD_USAGE);
            nb_operand narrow = made(be, &tiles, &half, NI_RIGHT, &q);
            const ni_term misfit = {.a = &left, .b = &narrow};
            assert_int_equal(be->ops->multiply(be, &all, &misfit, 1, false, &err), NB_BAD_USAGE);
        }
    }
}

/* Codes times plain numbers, both ways round: what has codes is decoded, scales and all, and rounded to BF16; but one
 * scale of all codes is multiplied afterwards. */
static void codes_times_numbers_of(nb_backend *be, const nb_quantizer *q, bool one_scale) {
    const nb_quantizer plain = nb_quantizer_bf16();
    nb_mat x = data_matrix(DATA_NORMAL, NB_BF16, M, K, K), w = data_matrix(DATA_NORMAL, NB_BF16, N, K, K);
    nb_operand coded_x = made(be, q, &x, NI_LEFT, &plain), coded_w = made(be, q, &w, NI_RIGHT, &plain);
    nb_operand plain_x = {.quantizer = plain, .rows = M, .cols = K, .numbers = x},
               plain_w = {.quantizer = plain, .rows = N, .cols = K, .numbers = w};
    for (int i = 0; i < 2; i++) {
        const ni_term term = {.a = i ? &plain_x : &coded_x, .b = i ? &coded_w : &plain_w};
        nb_mat got = nb_mat_of(poisoned(M * N * 4), NB_F32, M, N), want = nb_mat_of(poisoned(M * N * 4), NB_F32, M, N);
        nb_qtensor t = by_reference(q, i ? &w : &x, false);
        nb_mat values = nb_mat_of(poisoned((size_t)(t.rows * K) * 2), NB_BF16, t.rows, K);
        assert_int_equal(ni_ref_dequantize(NULL, &values, &t, false, !one_scale, NULL), NB_OK);
        assert_int_equal(be->ops->gemm(be, &want, i ? &x : &values, false, i ? &values : &w, true, false, NULL), NB_OK);
        for (int64_t j = 0; j < M * N && one_scale; j++)
            ((float *)want.data)[j] *= *t.tensor_scale;
        for (int again = 0; again < 2; again++) {
            assert_int_equal(be->ops->multiply(be, &got, &term, 1, false, NULL), NB_OK);
            same_matrix("mixed", &want, &got);
        }
        assert_null(be->ops->product_kernel(be, &term.a->quantizer, &term.b->quantizer));
    }
}

static void codes_times_numbers(void **state) {
    (void)state;
    const nb_quantizer rows = rows_of("e2m1"), one = ni_format_family_find("e5m2")->defaults;
    EACH_BACKEND(be) {
        codes_times_numbers_of(be, &rows, false);
        codes_times_numbers_of(be, &one, true);
    }
}

/* The double-precision reference has plain numbers alone. */
static void in_double(void **state) {
    (void)state;
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("ref64", NULL, &be, NULL), NB_OK);
    double *x = normals(1, M * K, 0, 1), *w = normals(2, K * N, 0, 1), *c = normals(3, M * N, 0, 1),
           *want = zeros(M * N);
    for (int r = 0; r < M; r++)
        for (int j = 0; j < N; j++) {
            want[r * N + j] = c[r * N + j];
            for (int k = 0; k < K; k++)
                want[r * N + j] += 2 * x[r * K + k] * w[k * N + j];
        }
    const nb_quantizer plain = nb_quantizer_bf16();
    nb_operand a = {.quantizer = plain, .rows = M, .cols = K, .numbers = nb_mat_of(x, NB_F64, M, K)},
               b = {
                   .quantizer = plain, .rows = N, .cols = K, .numbers = nb_mat_of(w, NB_F64, K, N), .transposed = true};
    const ni_term terms[2] = {{.a = &a, .b = &b}, {.a = &a, .b = &b}};
    nb_mat to = nb_mat_of(c, NB_F64, M, N);
    assert_int_equal(be->ops->multiply(be, &to, terms, 2, true, NULL), NB_OK);
    for (int i = 0; i < M * N; i++)
        assert_true(fabs(c[i] - want[i]) < 1e-12);
    assert_null(be->ops->canonical);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(of_numbers_and_of_codes, release_buffers),
        cmocka_unit_test_teardown(of_derived_numbers, release_buffers),
        cmocka_unit_test_teardown(of_pieces, release_buffers),
        cmocka_unit_test_teardown(what_nobody_reads_is_refused, release_buffers),
        cmocka_unit_test_teardown(amax_travels, release_buffers),
        cmocka_unit_test_teardown(turned_and_decoded, release_buffers),
        cmocka_unit_test_teardown(sums_of_terms, release_buffers),
        cmocka_unit_test_teardown(codes_times_numbers, release_buffers),
        cmocka_unit_test_teardown(in_double, release_buffers),
    };
    return cmocka_run_group_tests(tests, make_backends, free_backends);
}
