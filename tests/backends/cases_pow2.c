/* cases_pow2.c: the three products of a layer whose scales are powers of two a token and an input channel, with E5M2
 * under one of the tensor: by BF16, and by units for 8 bits that carry the scales in their exponents. */
#include "operands.h"

static const int64_t SIZES[][3] = {{48, 128, 128}, {160, 144, 272}, {64, 48, 256}, {33, 17, 66}, {1, 16, 64}};
enum { SHAPES = 5, WAYS = 2 };

static nb_quantizer under_pow2(const char *family, int32_t block_rows, int32_t block_cols, nb_rounding round) {
    nb_quantizer q = format_of(family, block_rows, block_cols);
    q.rule = NB_RULE_POW2;
    q.round = round;
    return q;
}

static void set(nb_mat *m, int64_t i, double x) {
    if (m->dtype == NB_BF16)
        ((uint16_t *)m->data)[i] = ni_bf16_even((float)x);
    else
        ((float *)m->data)[i] = (float)x;
}

/* A matrix whose scales are of its rows or of its columns: one of these vectors is zeros, and neighbours are a factor
 * of two apart. Where some are far from others, the last of every few is so much smaller that E4M3 holds it beside none
 * of the rest, and some sums have nothing but those. */
typedef struct vectors {
    nb_dtype type;
    uint32_t seed;
    bool columns;
    int64_t zeros, every;
    int smaller; /* exponent */
} vectors;

static const vectors TOKENS = {NB_BF16, 21, false, 0, 3, -22}, CHANNELS = {NB_F32, 22, true, 1, 5, -25};

static nb_mat matrix_of(trial *t, const vectors *v, int64_t rows, int64_t cols, bool far) {
    nb_mat x = data_matrix(DATA_NORMAL, v->type, rows, cols, cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        const int64_t r = i / cols, c = i % cols, vector = v->columns ? c : r, along = v->columns ? r : c;
        const bool small = far && vector % v->every == v->every - 1,
                   zero = vector == v->zeros || (far && along % 4 == 3 && !small);
        set(&x, i, zero ? 0 : ldexp(datum(DATA_NORMAL, v->seed, i), small ? v->smaller : -(int)(vector % 2)));
    }
    return input_mat(t, &x);
}

static nb_operand turned(trial *t, const nb_operand *from, const nb_quantizer *other, ni_side side) {
    nb_operand o = {.quantizer = from->quantizer,
                    .other = *other,
                    .rows = from->cols,
                    .cols = from->rows,
                    .side = side,
                    .turned = true};
    o.quantizer.block_rows = from->quantizer.block_cols;
    o.quantizer.block_cols = from->quantizer.block_rows;
    o.memory = scratch(t, t->be->ops->operand_bytes(t->be, &o));
    EXPECT_OK(t, t->be->ops->turn(t->be, &o, from, &err));
    return o;
}

static void multiply(trial *t, const char *what, const nb_operand *a, const nb_operand *b) {
    const int64_t n = a->rows * b->rows;
    for (int i = 0; i < 4; i++) {
        const nb_dtype type = i & 1 ? NB_F32 : NB_BF16;
        const nb_mat c = nb_mat_of(input(t, type, normals_in(NB_BF16, 9, n, 0, 1), n), type, a->rows, b->rows);
        const ni_term term = {.a = a, .b = b};
        EXPECT_OK(t, t->be->ops->multiply(t->be, &c, &term, 1, (i & 2) != 0, &err));
        keep(t, what, c.data, type, n, false);
    }
}

typedef struct layer {
    nb_operand x, w, dy;
} layer;

/* Gradients in BF16 or FP32 under one scale, in E5M2 or E4M3. */
static layer made_layer_of(trial *t, bool far, nb_dtype type, const char *family) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1], k = size[2];
    const nb_quantizer by_token = under_pow2("e2m1", 1, NB_BLOCK_ALL, NB_ROUND_UP),
                       by_channel = under_pow2("e2m1", NB_BLOCK_ALL, 1, NB_ROUND_UP),
                       by_row = under_pow2("e2m1", 1, NB_BLOCK_ALL, NB_ROUND_UP),
                       whole = under_pow2(family, NB_BLOCK_ALL, NB_BLOCK_ALL, NB_ROUND_EVEN);
    const nb_mat x = matrix_of(t, &TOKENS, m, k, far), w = matrix_of(t, &CHANNELS, n, k, far),
                 dy = nb_mat_of(input(t, type, normals_in(NB_BF16, 23, m * n, 0, 1), m * n), type, m, n);
    layer l = {made(t, &by_token, &x, NI_LEFT, &by_channel), made(t, &by_channel, &w, NI_RIGHT, &by_token),
               made(t, &whole, &dy, NI_LEFT, &by_row)};
    return l;
}

static layer made_layer(trial *t, bool far) {
    return made_layer_of(t, far, NB_BF16, "e5m2");
}

static void backward(trial *t, const layer *l) {
    const nb_operand w = turned(t, &l->w, &l->dy.quantizer, NI_RIGHT);
    multiply(t, "dgrad", &l->dy, &w);
    nb_quantizer by_column = l->x.quantizer;
    by_column.block_rows = NB_BLOCK_ALL;
    by_column.block_cols = 1;
    const nb_operand dy = turned(t, &l->dy, &by_column, NI_LEFT), x = turned(t, &l->x, &l->dy.quantizer, NI_RIGHT);
    multiply(t, "wgrad", &dy, &x);
}

static nb_status permit(nb_backend *be, bool no_fp8) {
    return be->ops->permit(be, &(ni_permits){.no_fp8 = no_fp8}, NULL);
}

/* BF16 holds a code times a power of two: nothing is lost. */
static void run_in_bf16(trial *t) {
    permit(t->be, true);
    for (int far = 0; far < WAYS; far++) {
        const layer l = made_layer(t, far);
        multiply(t, "fprop", &l.x, &l.w);
        backward(t, &l);
    }
    permit(t->be, false);
}

/* Sums of products of four bits whose scales differ by 2 at most are below what 14 bits hold; and what is far apart is
 * summed in FP32. */
static void run_exact(trial *t) {
    const layer l = made_layer(t, false);
    multiply(t, "fprop", &l.x, &l.w);
    keep_operand(t, "X", &l.x);
    keep_operand(t, "W", &l.w);
    keep_operand(t, "dY", &l.dy);
}

static void run_cut(trial *t) {
    if (t->be->mended)
        t->be->mended(t->be);
    const layer l = made_layer(t, true);
    multiply(t, "fprop", &l.x, &l.w);
    backward(t, &l);
    const layer wide = made_layer_of(t, true, NB_F32, "e5m2"), fine = made_layer_of(t, true, NB_BF16, "e4m3");
    backward(t, &wide);
    backward(t, &fine);
    if (!t->be->mended)
        return;
    const bool fp8 = strncmp(t->be->ops->product_kernel(t->be, &l.x.quantizer, &l.w.quantizer), "fp8", 3) == 0,
               sixteens = SIZES[t->shape][0] % 16 == 0, mended = t->be->mended(t->be) > 0;
    if (mended != (fp8 && sixteens))
        fail_trial(t, "vectors that FP8 does not hold", NB_INTERNAL, &(nb_error){.message = "not counted"});
}

/* Four-bit weights rounded to E4M3 under one scale, as they lie and turned; X and dY in eight bits under one, all three
 * products. */
static void run_whole(trial *t) {
    const int64_t *size = SIZES[t->shape], m = size[0], n = size[1], k = size[2];
    for (int i = 0; i < WAYS; i++) { /* scales of columns, of rows */
        nb_quantizer four = under_pow2("e2m1", i ? 1 : NB_BLOCK_ALL, i ? NB_BLOCK_ALL : 1, NB_ROUND_UP),
                     e4m3 = under_pow2("e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL, NB_ROUND_EVEN),
                     e5m2 = under_pow2("e5m2", NB_BLOCK_ALL, NB_BLOCK_ALL, NB_ROUND_EVEN);
        four.rule = NB_RULE_ABSMAX;
        e4m3.rule = e5m2.rule = i ? NB_RULE_POW2 : NB_RULE_ABSMAX;
        const nb_mat numbers = matrix_of(t, &CHANNELS, n, k, false),
                     x = nb_mat_of(input(t, NB_BF16, normals_in(NB_BF16, 24, m * k, 0, 1), m * k), NB_BF16, m, k),
                     dy = nb_mat_of(input(t, NB_BF16, normals_in(NB_BF16, 25, m * n, 0, 1), m * n), NB_BF16, m, n);
        const nb_operand coded = made(t, &four, &numbers, NI_RIGHT, &e4m3);
        layer l = {made(t, &e4m3, &x, NI_LEFT, &e4m3), placed(t, &e4m3, n, k, NI_RIGHT, &e4m3),
                   made(t, &e5m2, &dy, NI_LEFT, &e4m3)};
        nb_operand of_dgrad = placed(t, &e4m3, k, n, NI_RIGHT, &e5m2);
        l.w.reread = of_dgrad.reread = true;
        make(t, &(ni_source){.operand = &coded}, &(ni_making){.out = &l.w}, 1);
        make(t, &(ni_source){.operand = &coded}, &(ni_making){.out = &of_dgrad, .transpose = true}, 1);
        keep_operand(t, "codes anew", &l.w);
        keep_operand(t, "codes anew, turned", &of_dgrad);
        multiply(t, "fprop", &l.x, &l.w);
        multiply(t, "dgrad", &l.dy, &of_dgrad);
        const nb_operand turned_dy = turned(t, &l.dy, &e4m3, NI_LEFT), turned_x = turned(t, &l.x, &e5m2, NI_RIGHT);
        multiply(t, "wgrad", &turned_dy, &turned_x);
    }
}

/* dX of three layers that read one input, of which each has scales of its own, the second far below the others. */
static void run_group(trial *t) {
    enum { LAYERS = 3 };
    const int64_t *size = SIZES[t->shape], m = size[0], k = size[2];
    nb_operand dy[LAYERS], w[LAYERS];
    ni_term terms[LAYERS];
    for (int far = 0; far < WAYS; far++) {
        for (int i = 0; i < LAYERS; i++) {
            const int64_t n = size[1] * (1 + i % 2);
            const nb_quantizer by_token = under_pow2("e2m1", 1, NB_BLOCK_ALL, NB_ROUND_UP),
                               by_channel = under_pow2("e2m1", NB_BLOCK_ALL, 1, NB_ROUND_UP),
                               by_row = under_pow2("e2m1", 1, NB_BLOCK_ALL, NB_ROUND_UP),
                               whole = under_pow2(far ? "e5m2" : "e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL, NB_ROUND_EVEN);
            nb_mat gradients = data_matrix(DATA_NORMAL, NB_BF16, m, n, n);
            for (int64_t j = 0; j < m * n; j++)
                set(&gradients, j, ldexp(datum(DATA_NORMAL, 31 + (uint32_t)i, j), i == 1 ? -40 : 0));
            gradients = input_mat(t, &gradients);
            const nb_mat numbers = matrix_of(t, &CHANNELS, n, k, far);
            const nb_operand made_w = made(t, &by_channel, &numbers, NI_RIGHT, &by_token);
            dy[i] = made(t, &whole, &gradients, NI_LEFT, &by_row);
            w[i] = turned(t, &made_w, &whole, NI_RIGHT);
            terms[i] = (ni_term){.a = &dy[i], .b = &w[i]};
        }
        for (int count = 2; count <= LAYERS; count++) {
            const nb_mat dx = nb_mat_of(scratch(t, (size_t)(m * k) * sizeof(uint16_t)), NB_BF16, m, k);
            EXPECT_OK(t, t->be->ops->multiply(t->be, &dx, terms, count, false, &err));
            keep(t, "dX of a group", dx.data, NB_BF16, m * k, false);
        }
    }
}

/* Masters in FP16 under a scale, quantized as they are kept where a backend takes that, else decoded first; several at
 * once, from one a scale a channel is turned. Then those of dgrad, made anew of these codes. */
static void run_kept(trial *t) {
    enum { MASTERS = 3 };
    const nb_quantizer whole = format_of("e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL);
    const int64_t *size = SIZES[t->shape], n = size[1], k = size[2];
    nb_backend *be = t->be;
    nb_operand out[MASTERS], anew[MASTERS];
    nb_mat numbers[MASTERS];
    ni_source sources[MASTERS];
    ni_making makings[MASTERS];
    for (int i = 0; i < MASTERS; i++) {
        const nb_quantizer by_channel = under_pow2("e2m1", NB_BLOCK_ALL, 1, i ? NB_ROUND_UP : NB_ROUND_EVEN),
                           by_token = under_pow2("e2m1", 1, NB_BLOCK_ALL, NB_ROUND_UP);
        const int64_t rows = i == 2 ? 2 * n : n;
        const ni_scaled kept = {.data = scratch(t, (size_t)(rows * k) * sizeof(uint16_t)),
                                .dtype = NB_F16,
                                .rule = i ? NB_RULE_POW2 : NB_RULE_ABSMAX,
                                .scale = scratch(t, sizeof(float))};
        be->ops->scaled_encode(
            be, &kept, input(t, NB_F32, normals_in(NB_F32, 30 + (uint32_t)i, rows * k, 0, 1), rows * k), rows * k);
        out[i] = placed(t, &by_channel, rows, k, NI_RIGHT, &by_token);
        if (be->takes_kept && be->takes_kept(&by_channel, &kept, rows, k)) {
            numbers[i] = nb_mat_of(kept.data, NB_F16, rows, k);
            sources[i] = (ni_source){.numbers = &numbers[i], .scale = kept.scale};
        } else {
            numbers[i] = nb_mat_of(scratch(t, (size_t)(rows * k) * sizeof(float)), NB_F32, rows, k);
            be->ops->scaled_decode(be, numbers[i].data, &kept, rows * k);
            sources[i] = (ni_source){.numbers = &numbers[i]};
        }
        makings[i] = (ni_making){.out = &out[i]};
    }
    EXPECT_OK(t, be->ops->make_many(be, sources, makings, MASTERS, &err));
    for (int i = 0; i < MASTERS; i++)
        keep_operand(t, "a master's codes", &out[i]);
    for (int i = 0; i < MASTERS; i++) {
        anew[i] = placed(t, &whole, out[i].cols, out[i].rows, NI_RIGHT, &whole);
        sources[i] = (ni_source){.operand = &out[i]};
        makings[i] = (ni_making){.out = &anew[i], .transpose = true};
    }
    EXPECT_OK(t, be->ops->make_many(be, sources, makings, MASTERS, &err));
    for (int i = 0; i < MASTERS; i++)
        keep_operand(t, "codes of these codes", &anew[i]);
}

static double depth(const trial *t) {
    const int64_t *size = SIZES[t->shape];
    return 2 * (double)(size[0] + size[1] + size[2]) + 16;
}

/* An instruction loses 34 times 2^-13 of its largest addend at most, a sum four times that (fp8_units.h). */
static double cut_depth(const trial *t) {
    return depth(t) + 4 * 34 * 0x1p-13 / U;
}

static const test_case POW2[] = {
    {"multiply turn permit", "powers of two, in BF16", CODES, SHAPES, run_in_bf16, NULL, depth},
    {"multiply", "powers of two, near each other", CODES, SHAPES, run_exact, NULL, depth},
    {"multiply turn", "powers of two, far apart", CODES, SHAPES, run_cut, NULL, cut_depth},
    {"multiply turn", "powers of two, dX of a group", CODES, SHAPES, run_group, NULL, cut_depth},
    {"multiply turn make_operands", "one scale, codes of codes", CODES, SHAPES, run_whole, NULL, cut_depth},
    {"make_many scaled_decode", "masters as they are kept, codes of codes", CODES, SHAPES, run_kept, NULL, depth},
};
const case_list pow2_cases = {POW2, sizeof POW2 / sizeof *POW2};
