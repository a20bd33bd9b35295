/* test_linear_outcontrol.c: OutControl (arXiv:2510.27527): choosing channels, the split products, its two ends. */
#include "linear_case.h"

static const nb_pass before = {.step = 4, .steps = 100, .rounding_seed = 9}, watching = {.step = 5, .steps = 100},
                     after = {.step = 7, .steps = 100, .rounding_seed = 9};

static nb_plan plan_out(nb_plan p, double share) {
    p.mechanisms.has_outcontrol = true;
    p.mechanisms.outcontrol = (nb_outcontrol){.share = share, .multiple = 32, .start = 5, .window = 2};
    return p;
}

static void after_step(linear_case *c, const nb_pass *pass) {
    nb_error err = {0};
    if (ni_linear_group_after_step(c->group, pass, &c->scratch, &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* Takes the watching steps, so that the next pass has its channels chosen. */
static linear_case watched_group(nb_backend *be, const nb_plan *plans, int32_t layers) {
    linear_case c = make_group(be, plans, layers, NULL);
    uint16_t *x = c.x.data;
    for (int r = 0; r < M; r++) /* odd channels are loud */
        for (int k = 1; k < K; k += 2)
            x[r * K + k] = ni_bf16_even(10 * ni_bf16_value(x[r * K + k]));
    for (uint32_t step = 5; step < 7; step++) {
        nb_pass pass = watching;
        pass.step = step;
        run_forward(&c, &pass);
        after_step(&c, &pass);
    }
    return c;
}

static linear_case watched(nb_backend *be, const nb_plan *plan) {
    return watched_group(be, plan, 1);
}

static double *part(const double *all, int64_t rows, int first) { /* every other column */
    double *out = zeros(rows * K / 2);
    for (int64_t r = 0; r < rows; r++)
        for (int k = 0; k < K / 2; k++)
            out[r * K / 2 + k] = all[r * K + 2 * k + first];
    return out;
}

static double *through(nb_backend *be, const nb_quantizer *q, const double *x, int64_t rows, int64_t cols) {
    nb_mat m = nb_mat_of(put(NB_F32, x, rows * cols), NB_F32, rows, cols);
    nb_qtensor t = by_hand(be, q, &m, false, &after, "x", NB_FPROP_X, "x");
    return decoded(be, &t);
}

static const nb_quantizer mxfp8 = {
    .element = NB_ELEMENT_E4M3, .scale_type = NB_SCALE_E8M0, .rule = NB_RULE_CEIL, .block_rows = 1, .block_cols = 32};

/* The 32 odd channels of 64 go to MXFP8, though the order inside each part is that of the norms: with a scale a row the
 * order does not matter to the FP4 part, and MXFP8's one block of 32 holds them all. */
static void split_by_hand(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_out(plan_rows(NB_VIA_BF16, nb_quantizer_bf16()), 0.3); /* 19 channels, rounded up to 32 */
    linear_case c = watched(be, &plan);
    nb_quantizer q = row_fp4();
    double *x = get(NB_BF16, c.x.data, M * K), *w = get(NB_F32, c.w[0], N * K), *dy = get(NB_BF16, c.dy[0].data, M * N);
    double *x4 = through(be, &q, part(x, M, 0), M, K / 2), *w4 = through(be, &q, part(w, N, 0), N, K / 2);
    double *x8 = through(be, &mxfp8, part(x, M, 1), M, K / 2), *w8 = through(be, &mxfp8, part(w, N, 1), N, K / 2);
    double *y4 = product(x4, M, w4, N, K / 2), *y8 = product(x8, M, w8, N, K / 2);
    for (int i = 0; i < M * N; i++)
        y4[i] += y8[i];
    run_forward(&c, &after);
    run_backward(&c, &after);
    check_close("Y", get(NB_BF16, c.y[0].data, M * N), y4, 0.01, M * N);
    double *dw = get(NB_F32, c.dw[0], N * K), *dyt = transposed(dy, M, N);
    check_close("dW4", part(dw, N, 0), product(dyt, N, transposed(x4, M, K / 2), K / 2, M), 0.01, N * K / 2);
    double *dyf = through(be, &mxfp8, dyt, N, M), *x8f = through(be, &mxfp8, transposed(x8, M, K / 2), K / 2, M);
    check_close("dW8", part(dw, N, 1), product(dyf, N, x8f, K / 2, M), 0.01, N * K / 2);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

static nb_status multiply_each(nb_backend *be, const ni_sum *products, int32_t count, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(
            be->ops->multiply(be, &products[i].c, products[i].terms, products[i].count, products[i].accumulate, err));
    return NB_OK;
}

/* A backend that gains by it is asked for dW of the group once: the same bits, whether or not the layers read X along
 * the tokens alike. */
static void gradients_together(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int alike = 0; alike < 2; alike++) {
        nb_plan plans[2] = {plan_out(plan_double(), 0.3), plan_out(plan_double(), 0.3)};
        linear_case c[2];
        if (!alike)
            plans[1].roles[NB_WGRAD_X].quantizer.round = NB_ROUND_EVEN;
        for (int i = 0; i < 2; i++) {
            be->multiply_many = i ? multiply_each : NULL;
            c[i] = watched_group(be, plans, 2);
            run_forward(&c[i], &after);
            run_backward(&c[i], &after);
        }
        for (int k = 0; k < 2; k++)
            assert_memory_equal(c[1].dw[k], c[0].dw[k], N * K * 4);
        assert_memory_equal(c[1].dx.data, c[0].dx.data, M * K * 2);
        ni_linear_group_free(c[0].group);
        ni_linear_group_free(c[1].group);
    }
    nb_backend_free(be);
}

static void run_both(nb_backend *be, const nb_plan plans[2], const nb_pass *pass, bool same) {
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = watched(be, &plans[i]);
        run_forward(&c[i], pass);
        run_backward(&c[i], pass);
    }
    assert_true((memcmp(c[0].y[0].data, c[1].y[0].data, M * N * 2) == 0) == same);
    assert_true((memcmp(c[0].dw[0], c[1].dw[0], N * K * 4) == 0) == same);
    if (same)
        assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
    for (int i = 0; i < 2; i++)
        ni_linear_group_free(c[i].group);
}

/* Share 0 is the base recipe; and so is every step before the channels are chosen. */
static void none_is_base(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[2] = {plan_out(plan_nvfp4(), 0), plan_nvfp4()};
    run_both(be, plans, &after, true);
    plans[0] = plan_out(plan_nvfp4(), 0.5);
    run_both(be, plans, &after, false);
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, &plans[i], 1, NULL);
        run_forward(&c[i], &before);
        run_backward(&c[i], &before);
    }
    expect_same_results(c);
    nb_backend_free(be);
}

/* All channels, loudest first as they are: the layer of a recipe with MXFP8 in fprop and wgrad and dX in FP4, bit for
 * bit. */
static void all_is_mxfp8(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plans[2] = {plan_out(plan_double(), 1), plan_double()};
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
        if (role != NB_DGRAD_DY && role != NB_DGRAD_W)
            plans[1].roles[role].quantizer = mxfp8;
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, &plans[i], 1, NULL);
        uint16_t *x = c[i].x.data;
        for (int r = 0; r < M; r++)
            for (int k = 0; k < K; k++)
                x[r * K + k] = ni_bf16_even((float)(2 * K - k) + ni_bf16_value(x[r * K + k]));
        for (uint32_t step = 5; step < 8; step++) {
            nb_pass pass = after;
            pass.step = step;
            run_forward(&c[i], &pass);
            if (step < 7)
                after_step(&c[i], &pass);
        }
        run_backward(&c[i], &after);
    }
    expect_same_results(c);
    nb_backend_free(be);
}

/* OsciReset leaves alone what is not in FP4: decode_w gives those columns as they are, with bins of no width. */
static void columns_in_mxfp8_have_no_bins(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int all = 0; all < 2; all++) {
        nb_plan plan = plan_out(plan_nvfp4(), all ? 1 : 0.5);
        linear_case c = watched(be, &plan);
        float *q = poisoned(sizeof(float) * N * K), *widths = poisoned(sizeof(float) * N * K);
        void *room = poisoned(c.group->scratch_bytes + 64 * N * K);
        ni_scratch scratch = {.memory = room, .size = c.group->scratch_bytes + 64 * N * K};
        run_forward(&c, &after);
        assert_int_equal(ni_weight_decode(c.group, &c.group->layers[0], &scratch, &after, c.w[0], q, widths, NULL),
                         NB_OK);
        int moved = 0;
        for (int i = 0; i < N * K; i++) {
            bool fp8 = all || i % 2 == 1;
            assert_true((widths[i] > 0) == !fp8);
            assert_true(!fp8 || q[i] == c.w[0][i]);
            moved += q[i] != c.w[0][i];
        }
        assert_true(all ? moved == 0 : moved > N * K / 4);
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* A run that begins after the steps whose norms decide cannot choose. */
static void a_late_fork_is_told(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_out(plan_nvfp4(), 0.5);
    linear_case c = make_group(be, &plan, 1, NULL);
    nb_error err = {0};
    assert_int_equal(ni_linear_group_forward(c.group, &after, &c.scratch, true, &c.x, c.y, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "norms of steps 5 to 6"));
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* Right after the step that ends the window, so that an evaluation between the steps has the channels; after the first
 * step that is taken where that one was passed over. */
static void chosen_after_the_window(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_out(plan_nvfp4(), 0.5);
    for (int passed_over = 0; passed_over < 2; passed_over++) {
        linear_case c = make_group(be, &plan, 1, NULL);
        ni_mechanism_tensor tensors[4];
        const ni_attached_mechanism *m = &c.group->mechanisms[0];
        int64_t chosen = 0;
        for (uint32_t step = 4; step < 8; step++) {
            nb_pass pass = watching;
            pass.step = step;
            run_forward(&c, &pass);
            if (!(passed_over && step == 6))
                after_step(&c, &pass);
            assert_int_equal(m->table->tensors(m->state, tensors, 4), 4);
            assert_int_equal(tensors[3].combine, NI_COMBINE_SUM); /* every rank sees its own micro-batches */
            assert_true((tensors[3].data != NULL) == (passed_over && step == 6));
            memcpy(&chosen, tensors[2].data, sizeof chosen);
            assert_int_equal(chosen, step >= (passed_over ? 7 : 6));
        }
        assert_int_equal(tensors[0].combine, NI_COMBINE_SAME);
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* ---- what the lens sees ---- */

typedef struct sight {
    int32_t x, w;
    int64_t w_columns;
} sight;

static void look(void *context, const nb_lens_operand *seen) {
    sight *s = context;
    if (seen->role == NB_FPROP_X) {
        s->x++;
        assert_int_equal(seen->source->cols, K);
    }
    if (seen->role == NB_FPROP_W) {
        s->w++;
        s->w_columns = seen->quantized->cols;
        assert_int_equal(seen->source->cols, seen->quantized->cols);
    }
}

static void the_lens_sees_x_whole_and_w_in_fp4(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_out(plan_nvfp4(), 0.3);
    linear_case c = watched(be, &plan);
    sight s = {0};
    nb_lens lens = {.context = &s, .operand = look};
    nb_pass pass = after;
    pass.lens = &lens;
    run_forward(&c, &pass);
    assert_int_equal(s.x, 1);
    assert_int_equal(s.w, 1);
    assert_int_equal(s.w_columns, 32);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* Norms, order and choice travel in a checkpoint; an order that is none is refused. */
static void choice_survives(int32_t multiple) {
    nb_backend *be = cpu();
    nb_plan plan = plan_out(plan_nvfp4(), 0.3);
    plan.mechanisms.outcontrol.multiple = multiple;
    linear_case c[2] = {watched(be, &plan), make_group(be, &plan, 1, NULL)};
    ni_mechanism_tensor from[4], to[4];
    nb_error err = {0};
    run_forward(&c[0], &after);
    const ni_mechanism *m = c[0].group->mechanisms[0].table;
    void *fresh = c[1].group->mechanisms[0].state;
    assert_int_equal(m->tensors(c[0].group->mechanisms[0].state, from, 4), 4);
    m->tensors(fresh, to, 4);
    for (int i = 0; i < 3; i++)
        memcpy(to[i].data, from[i].data, (size_t)from[i].elements * 4);
    assert_int_equal(m->loaded(fresh, &err), NB_OK);
    memcpy(c[1].x.data, c[0].x.data, M * K * 2);
    run_forward(&c[1], &after);
    assert_memory_equal(c[0].y[0].data, c[1].y[0].data, M * N * 2);
    ((int32_t *)to[1].data)[3] = K;
    assert_int_equal(m->loaded(fresh, &err), NB_BAD_FILE);
    for (int i = 0; i < 2; i++)
        ni_linear_group_free(c[i].group);
    nb_backend_free(be);
}

static void choice_survives_a_resume(void **state) {
    (void)state;
    choice_survives(32);
    choice_survives(1); /* 19 of 64: neither part fills its last block */
}

/* ---- what the lens sees ---- */

typedef struct counted {
    nb_quantize_stats x;
    int inputs;
} counted;

static void see_operand(void *context, const nb_lens_operand *seen) {
    counted *c = context;
    if (seen->role != NB_FPROP_X)
        return;
    assert_int_equal(seen->source->cols, K);
    assert_non_null(seen->stats);
    c->x = *seen->stats;
    c->inputs++;
}

/* Errors of X are those of what is multiplied, its MXFP8 channels among them: by hand, part by part. */
static void the_lens_counts_both_parts(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_out(plan_rows(NB_VIA_BF16, nb_quantizer_bf16()), 0.3);
    linear_case c = watched(be, &plan);
    counted got = {.inputs = 0};
    nb_lens lens = {.context = &got, .counts = true, .operand = see_operand};
    nb_pass pass = after;
    pass.lens = &lens;
    run_forward(&c, &pass);
    nb_quantizer q = row_fp4();
    double *x = get(NB_BF16, c.x.data, M * K), squares = 0, error = 0;
    int64_t flushed = 0;
    for (int odd = 0; odd < 2; odd++) {
        double *p = part(x, M, odd), *d = through(be, odd ? &mxfp8 : &q, p, M, K / 2);
        for (int i = 0; i < M * K / 2; i++) {
            squares += p[i] * p[i];
            error += (p[i] - d[i]) * (p[i] - d[i]);
            flushed += p[i] != 0 && d[i] == 0;
        }
    }
    assert_int_equal(got.inputs, 1);
    assert_int_equal(got.x.elements, M * K);
    assert_int_equal(got.x.flushed, flushed);
    assert_true(fabs(got.x.sum_sq / squares - 1) < 1e-6 && fabs(got.x.sum_sq_error / error - 1) < 1e-4);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* Nothing is left in FP4, and the run is told. */
static void nothing_in_fp4_is_doubted(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_out(plan_rows(NB_VIA_BF16, nb_quantizer_bf16()), 0.1);
    for (int32_t multiple = 32; multiple <= 64; multiple += 32) {
        char text[256] = "";
        plan.mechanisms.outcontrol.multiple = multiple;
        linear_case c = make_group(be, &plan, 1, NULL);
        const ni_attached_mechanism *m = &c.group->mechanisms[0];
        assert_int_equal(m->table->doubt(m->state, text, sizeof text), multiple == 64);
        if (multiple == 64)
            assert_non_null(strstr(text, "puts all 64 channels"));
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* ---- a share that fills no blocks ---- */

enum { K8 = 6, K4 = K - K8, WIDE8 = 32 }; /* round(0.1 * 64), the rest, and one block of MXFP8; FP4's blocks end at K */

/* Columns [first, last) of [rows, K], then zeros up to `width`. */
static double *between_zeros(const double *all, int64_t rows, int64_t first, int64_t last, int64_t width) {
    double *out = zeros(rows * width);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = first; k < last; k++)
            out[r * width + k - first] = all[r * K + k];
    return out;
}

/* The first `cols` columns of [rows, width]. */
static double *without_zeros(const double *all, int64_t rows, int64_t cols, int64_t width) {
    double *out = zeros(rows * cols);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < cols; k++)
            out[r * cols + k] = all[r * width + k];
    return out;
}

/* Channel 0 is the loudest, and so on: the order of the norms is that of the channels. */
static linear_case in_order(nb_backend *be, const nb_plan *plan) {
    linear_case c = make_group(be, plan, 1, NULL);
    uint16_t *x = c.x.data;
    for (int r = 0; r < M; r++)
        for (int k = 0; k < K; k++)
            x[r * K + k] = ni_bf16_even((float)(K - k) * (r % 2 ? -1.F : 1.F) + ni_bf16_value(x[r * K + k]));
    for (uint32_t step = 5; step < 7; step++) {
        nb_pass pass = watching;
        pass.step = step;
        run_forward(&c, &pass);
        after_step(&c, &pass);
    }
    return c;
}

/* The released linear layer to nearest and unrotated, so that its six quantizers can be done again by hand. */
static nb_plan plan_tenth(void) {
    nb_plan p = plan_out(plan_double(), 0.1);
    p.mechanisms.outcontrol.multiple = 1;
    for (int role = 0; role < NB_ROLE_COUNT; role++)
        p.roles[role].quantizer = nvfp4(1, NB_ROUND_EVEN);
    return p;
}

/* multiple: 1 puts round(share K) channels into MXFP8, 6 of 64, and leaves 58, which end in the middle of a block. Its
 * scale is that of the channels in it: the products are those of parts that zeros fill up. */
static void a_true_tenth_by_hand(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_tenth();
    linear_case c = in_order(be, &plan);
    nb_quantizer q = nvfp4(1, NB_ROUND_EVEN);
    double *x = get(NB_BF16, c.x.data, M * K), *w = get(NB_F32, c.w[0], N * K), *dy = get(NB_BF16, c.dy[0].data, M * N);
    double *x4 = through(be, &q, between_zeros(x, M, K8, K, K), M, K);
    double *w4 = through(be, &q, between_zeros(w, N, K8, K, K), N, K);
    double *x8 = through(be, &mxfp8, between_zeros(x, M, 0, K8, WIDE8), M, WIDE8);
    double *w8 = through(be, &mxfp8, between_zeros(w, N, 0, K8, WIDE8), N, WIDE8);
    double *y = product(x4, M, w4, N, K), *y8 = product(x8, M, w8, N, WIDE8);
    for (int i = 0; i < M * N; i++)
        y[i] += y8[i];
    run_forward(&c, &after);
    run_backward(&c, &after);
    check_close("Y", get(NB_BF16, c.y[0].data, M * N), y, 0.01, M * N);

    double *wd = zeros(N * K);
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++)
            wd[n * K + k] = k < K8 ? w8[n * WIDE8 + k] : w4[n * K + k - K8];
    double *wt = through(be, &q, transposed(wd, N, K), K, N), *dyq = through(be, &q, dy, M, N);
    check_close("dX", get(NB_BF16, c.dx.data, M * K), product(dyq, M, wt, K, N), 0.01, M * K);

    double *dyt = transposed(dy, M, N), *dw = get(NB_F32, c.dw[0], N * K);
    double *dyt4 = through(be, &q, dyt, N, M), *dyt8 = through(be, &mxfp8, dyt, N, M);
    double *x4t = through(be, &q, transposed(without_zeros(x4, M, K4, K), M, K4), K4, M);
    double *x8t = through(be, &mxfp8, transposed(without_zeros(x8, M, K8, WIDE8), M, K8), K8, M);
    double *dw4 = product(dyt4, N, x4t, K4, M), *dw8 = product(dyt8, N, x8t, K8, M), *want = zeros(N * K);
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++)
            want[n * K + k] = k < K8 ? dw8[n * K8 + k] : dw4[n * K4 + k - K8];
    check_close("dW", dw, want, 0.01, N * K);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* OsciReset sees the centres of exactly the channels in FP4. */
static void a_true_tenth_has_no_bins(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_tenth();
    linear_case c = in_order(be, &plan);
    float *q = poisoned(sizeof(float) * N * K), *widths = poisoned(sizeof(float) * N * K);
    ni_scratch scratch = {.size = ni_weight_decode_scratch(c.group, &c.group->layers[0])};
    scratch.memory = poisoned(scratch.size);
    run_forward(&c, &after);
    assert_int_equal(ni_weight_decode(c.group, &c.group->layers[0], &scratch, &after, c.w[0], q, widths, NULL), NB_OK);
    double *w = get(NB_F32, c.w[0], N * K);
    nb_quantizer fp4 = nvfp4(1, NB_ROUND_EVEN);
    double *w4 = through(be, &fp4, between_zeros(w, N, K8, K, K), N, K);
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) {
            float want = k < K8 ? c.w[0][n * K + k] : (float)w4[n * K + k - K8];
            assert_true(q[n * K + k] == want && (widths[n * K + k] > 0) == (k >= K8));
        }
    const ni_attached_mechanism *m = &c.group->mechanisms[0];
    assert_int_equal(m->table->fp4_elements(m->state, &c.group->layers[0]), N * K4);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

typedef struct tenth_seen {
    nb_quantize_stats x, w;
    int64_t w_columns;
} tenth_seen;

static void see_tenth(void *context, const nb_lens_operand *seen) {
    tenth_seen *s = context;
    if (seen->role == NB_FPROP_X)
        s->x = *seen->stats;
    if (seen->role != NB_FPROP_W)
        return;
    s->w = *seen->stats;
    s->w_columns = seen->source->cols;
    assert_null(seen->quantized); /* its codes have columns of zeros that no channel stands for */
}

/* Zeros that fill blocks up are not counted, and W is counted over its channels in FP4. */
static void the_lens_does_not_see_zeros(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_tenth();
    linear_case c = in_order(be, &plan);
    tenth_seen s = {.w_columns = 0};
    nb_lens lens = {.context = &s, .counts = true, .operand = see_tenth};
    nb_pass pass = after;
    pass.lens = &lens;
    run_forward(&c, &pass);
    assert_int_equal(s.x.elements, M * K);
    assert_int_equal(s.w.elements, N * K4);
    assert_int_equal(s.w_columns, K4);
    double *w = get(NB_F32, c.w[0], N * K), squares = 0;
    for (int n = 0; n < N; n++)
        for (int k = K8; k < K; k++)
            squares += w[n * K + k] * w[n * K + k];
    assert_true(fabs(s.w.sum_sq / squares - 1) < 1e-6 && s.w.sum_sq_error > 0);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_together),
        cmocka_unit_test(split_by_hand),
        cmocka_unit_test(none_is_base),
        cmocka_unit_test(all_is_mxfp8),
        cmocka_unit_test(columns_in_mxfp8_have_no_bins),
        cmocka_unit_test(a_late_fork_is_told),
        cmocka_unit_test(chosen_after_the_window),
        cmocka_unit_test(the_lens_sees_x_whole_and_w_in_fp4),
        cmocka_unit_test(choice_survives_a_resume),
        cmocka_unit_test_teardown(the_lens_counts_both_parts, release_buffers),
        cmocka_unit_test_teardown(nothing_in_fp4_is_doubted, release_buffers),
        cmocka_unit_test_teardown(a_true_tenth_by_hand, release_buffers),
        cmocka_unit_test_teardown(a_true_tenth_has_no_bins, release_buffers),
        cmocka_unit_test_teardown(the_lens_does_not_see_zeros, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
