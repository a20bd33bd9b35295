/* cases_permit.c: products of codes under what a run may permit or forbid: in BF16 where there are units for 8 bits
 * (fp8_units: none), and by units for four bits (native_fp4). Bounds as in cases_product.c. */
#include "operands.h"

/* The last but one is no multiple of 16, the last none of 8. */
static const int64_t SIZES[][3] = {{1, 16, 64}, {48, 32, 128}, {70, 64, 256}, {40, 24, 96}, {33, 20, 64}};
enum { SHAPES = sizeof SIZES / sizeof *SIZES };

static double depth(const trial *t) {
    return 2 * (double)SIZES[t->shape][2] + 16;
}

/* Into both types, written and added to. */
static void multiply_pair(trial *t, const nb_quantizer *a, const nb_quantizer *b) {
    const int64_t m = SIZES[t->shape][0], n = SIZES[t->shape][1], k = SIZES[t->shape][2];
    const nb_mat x = normal_mat(t, NB_BF16, 7, m, k), w = normal_mat(t, NB_F32, 8, n, k);
    const nb_operand left = made(t, a, &x, NI_LEFT, b), right = made(t, b, &w, NI_RIGHT, a);
    char format[200];
    nb_quantizer_text(a, format, sizeof format);
    for (int i = 0; i < 4; i++) {
        const nb_mat c = normal_mat(t, i & 1 ? NB_F32 : NB_BF16, 9, m, n);
        EXPECT_OK(t, t->be->ops->multiply(t->be, &c, &(ni_term){.a = &left, .b = &right}, 1, (i & 2) != 0, &err));
        keep(t, format, c.data, c.dtype, m * n, false);
    }
}

/* Plain numbers times codes under one scale that were made to meet codes, turned: their scale goes into what is read.
 */
static void multiply_turned(trial *t) {
    const int64_t m = SIZES[t->shape][0], n = SIZES[t->shape][1], k = SIZES[t->shape][2];
    const nb_quantizer whole = format_of("e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL), plain = nb_quantizer_bf16();
    const nb_mat w = normal_mat(t, NB_BF16, 8, n, k);
    const nb_operand straight = made(t, &whole, &w, NI_LEFT, &whole),
                     y = {.quantizer = plain, .rows = m, .cols = n, .numbers = normal_mat(t, NB_BF16, 7, m, n)};
    nb_operand turned = {.quantizer = whole, .other = whole, .rows = k, .cols = n, .side = NI_RIGHT, .turned = true};
    turned.memory = scratch(t, t->be->ops->operand_bytes(t->be, &turned));
    EXPECT_OK(t, t->be->ops->turn(t->be, &turned, &straight, &err));
    const nb_mat c = nb_mat_of(output(t, "numbers by turned codes", NB_F32, m * k), NB_F32, m, k);
    EXPECT_OK(t, t->be->ops->multiply(t->be, &c, &(ni_term){.a = &y, .b = &turned}, 1, false, &err));
}

/* Scales of rows are put on the sum, those of a tensor go into the product's factor. */
static void run_without_fp8(trial *t) {
    const nb_quantizer e2m1 = rows_of("e2m1"), int4 = rows_of("int4"), e4m3 = rows_of("e4m3"),
                       whole = format_of("e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL);
    EXPECT_OK(t, t->be->ops->permit(t->be, &(ni_permits){.no_fp8 = true}, &err));
    multiply_pair(t, &e2m1, &int4);
    multiply_pair(t, &e4m3, &whole);
    multiply_pair(t, &whole, &whole);
    if (SIZES[t->shape][1] % 8 == 0) /* what a contraction has to be */
        multiply_turned(t);
    EXPECT_OK(t, t->be->ops->permit(t->be, &(ni_permits){.no_fp8 = false}, &err));
}

/* A GPU without such units says so. The CPU, which has none either, is what it is compared with. */
static void run_native(trial *t) {
    const nb_quantizer rows = nvfp4(1), tiles = nvfp4(16), mxfp4 = format_of("mxfp4", 1, 32);
    const int64_t n = SIZES[t->shape][1];
    if (strncmp(t->be->name, "cuda", 4) == 0)
        EXPECT_OK(t, t->be->ops->permit(t->be, &(ni_permits){.native_fp4 = true}, &err));
    if (t->refusal[0])
        return;
    multiply_pair(t, &rows, n % 16 == 0 ? &tiles : &rows);
    multiply_pair(t, &mxfp4, &mxfp4);
    EXPECT_OK(t, t->be->ops->permit(t->be, &(ni_permits){.native_fp4 = false}, &err));
}

static const test_case PERMITS[] = {
    {"multiply permit turn", "rows and tensors without FP8 units", CODES, SHAPES, run_without_fp8, NULL, depth},
    {"multiply permit", "by units for four bits", CODES, SHAPES, run_native, NULL, depth},
};
const case_list permit_cases = {PERMITS, sizeof PERMITS / sizeof *PERMITS};
