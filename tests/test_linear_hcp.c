/* test_linear_hcp.c: the Hot-Channel Patch (arXiv:2602.02047) inside the linear layer, against products made by hand.
 */
#include "linear_case.h"

#include "linear/hcp.h"

static const nb_pass pass0 = {.step = 0, .steps = 10, .rounding_seed = 5};

static nb_hcp patch_of(double share) {
    return (nb_hcp){.share = share, .order = 2, .refresh = 200, .ema = 0.9, .freeze = 1};
}

static nb_plan plan_hcp(const nb_hcp *how) {
    nb_plan p = plan_nvfp4();
    p.mechanisms.has_hcp = true;
    p.mechanisms.hcp = *how;
    return p;
}

static ni_hcp_state *state_of(const linear_case *c) {
    return c->group->mechanisms[0].state;
}

/* Some channels of X are loud. */
static void make_loud(linear_case *c, float by) {
    uint16_t *x = c->x.data;
    for (int r = 0; r < M; r++)
        for (int k = 5; k < K; k += 9)
            x[r * K + k] = ni_bf16_even(by * ni_bf16_value(x[r * K + k]));
}

static linear_case loud_case(nb_backend *be, const nb_hcp *how) {
    nb_plan plan = plan_hcp(how);
    linear_case c = make_group(be, &plan, 1, NULL);
    make_loud(&c, 20);
    return c;
}

static void after_step(linear_case *c, const nb_pass *pass) {
    nb_error err = {0};
    if (ni_linear_group_after_step(c->group, pass, &c->scratch, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c->scratch.used + c->scratch.kept, 0);
}

/* A step is taken, so that the next pass patches. */
static void choose(linear_case *c) {
    run_forward(c, &pass0);
    after_step(c, &pass0);
}

static linear_case chosen_case(nb_backend *be, const nb_hcp *how) {
    linear_case c = loud_case(be, how);
    choose(&c);
    return c;
}

static void channels_of(const linear_case *c, int32_t *out) {
    c->be->ops->download(c->be, out, state_of(c)->layers[0].channels, sizeof *out * (size_t)state_of(c)->k);
}

static float score_of(const linear_case *c, int channel) {
    float score;
    c->be->ops->download(c->be, &score, state_of(c)->layers[0].scores + channel, sizeof score);
    return score;
}

/* ---- by hand ---- */

/* The k channels of largest mean |dX| + mean |dW| (absolute), or weighed by the other side's rms. */
static void choose_by_hand(const double *x, const double *xq, const double *w, const double *wq, bool normalized, int k,
                           int32_t *out) {
    double score[K];
    bool taken[K] = {false};
    for (int c = 0; c < K; c++) {
        double dx = 0, dw = 0, xx = 0, ww = 0;
        for (int r = 0; r < M; r++) {
            dx += fabs(x[r * K + c] - xq[r * K + c]) / M;
            xx += x[r * K + c] * x[r * K + c] / M;
        }
        for (int r = 0; r < N; r++) {
            dw += fabs(w[r * K + c] - wq[r * K + c]) / N;
            ww += w[r * K + c] * w[r * K + c] / N;
        }
        score[c] = normalized ? dx * sqrt(ww) + dw * sqrt(xx) : dx + dw;
    }
    for (int i = 0; i < k; i++) {
        int best = -1;
        for (int c = 0; c < K; c++)
            if (!taken[c] && (best < 0 || score[c] > score[best]))
                best = c;
        taken[best] = true;
    }
    for (int c = 0, i = 0; c < K; c++)
        if (taken[c])
            out[i++] = c;
}

/* Columns of `x` [rows, K], quantized in blocks of 1x16 under the tensor scale that `amax` makes, and decoded. */
static double *columns_coded(nb_backend *be, const double *x, int64_t rows, const int32_t *channels, int k,
                             double amax) {
    double *with = zeros(rows * (k + 16)), *out = zeros(rows * k);
    for (int64_t r = 0; r < rows; r++)
        for (int i = 0; i < k; i++)
            with[r * (k + 16) + i] = x[r * K + channels[i]];
    with[k] = amax;
    nb_quantizer q = nvfp4(1, NB_ROUND_EVEN);
    nb_mat m = nb_mat_of(put(NB_F32, with, rows * (k + 16)), NB_F32, rows, k + 16);
    nb_qtensor t = by_hand(be, &q, &m, false, &pass0, "x", NB_FPROP_X, "x");
    double *wide = decoded(be, &t);
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * k, wide + r * (k + 16), sizeof(double) * (size_t)k);
    return out;
}

static double *columns(const double *x, int64_t rows, const int32_t *channels, int k) {
    double *out = zeros(rows * k);
    for (int64_t r = 0; r < rows; r++)
        for (int i = 0; i < k; i++)
            out[r * k + i] = x[r * K + channels[i]];
    return out;
}

static double *minus(const double *a, const double *b, int64_t n) {
    double *out = zeros(n);
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] - b[i];
    return out;
}

static void add(double *to, const double *from, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        to[i] += from[i];
}

typedef struct numbers {
    double *x, *w, *xq, *wq, *dx, *dw;
} numbers;

static numbers numbers_of(const linear_case *c) {
    nb_quantizer qx = nvfp4(1, NB_ROUND_EVEN), qw = nvfp4(16, NB_ROUND_EVEN);
    nb_mat master = nb_mat_of(c->w[0], NB_F32, N, K);
    nb_qtensor tx = by_hand(c->be, &qx, &c->x, false, &pass0, "x", NB_FPROP_X, "x");
    nb_qtensor tw = by_hand(c->be, &qw, &master, false, &pass0, "w", NB_FPROP_W, "w");
    numbers n = {.x = get(NB_BF16, c->x.data, M * K), .w = get(NB_F32, c->w[0], N * K)};
    n.xq = decoded(c->be, &tx);
    n.wq = decoded(c->be, &tw);
    n.dx = minus(n.x, n.xq, M * K);
    n.dw = minus(n.w, n.wq, N * K);
    return n;
}

static double *patched_by_hand(const linear_case *c, const nb_hcp *how, int k) {
    nb_backend *be = c->be;
    numbers n = numbers_of(c);
    int32_t channels[K], chosen[K];
    choose_by_hand(n.x, n.xq, n.w, n.wq, how->score == NB_HCP_NORMALIZED, k, channels);
    channels_of(c, chosen);
    assert_memory_equal(chosen, channels, sizeof *channels * (size_t)k);
    double ax = largest(n.x, M * K), aw = largest(n.w, N * K), *y = product(n.xq, M, n.wq, N, K);
    double *rx = columns_coded(be, n.dx, M, channels, k, ax), *rw = columns_coded(be, n.dw, N, channels, k, aw);
    bool exact = how->copy == NB_HCP_EXACT;
    double *cx = exact ? columns(n.xq, M, channels, k) : columns_coded(be, n.x, M, channels, k, ax);
    double *cw = exact ? columns(n.wq, N, channels, k) : columns_coded(be, n.w, N, channels, k, aw);
    if (how->form == NB_HCP_PRINTED) {
        add(y, product(rx, M, rw, N, k), M * N);
        return y;
    }
    if (how->side != NB_HCP_WEIGHT)
        add(y, product(rx, M, cw, N, k), M * N);
    if (how->side != NB_HCP_ACTIVATION)
        add(y, product(cx, M, rw, N, k), M * N);
    return y;
}

/* Every form, side, copy and kernel is the sum that its formula says, in the channels that the score says. Y is rounded
 * to BF16 (2^-9 of an element). */
static void formula(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int i = 0; i < 32; i++) {
        nb_hcp how = patch_of(0.25);
        how.side = (nb_hcp_side)(i % 4 % 3);
        how.form = i % 4 == 3 ? NB_HCP_PRINTED : NB_HCP_CANCEL;
        how.order = how.side == NB_HCP_BOTH ? 2 : 1;
        how.kernel = i & 4 ? NB_HCP_DUAL : NB_HCP_SINGLE;
        how.copy = i & 8 ? NB_HCP_EXACT : NB_HCP_REQUANTIZE;
        how.score = i & 16 ? NB_HCP_NORMALIZED : NB_HCP_ABSOLUTE;
        linear_case c = chosen_case(be, &how);
        run_forward(&c, &pass0);
        double *want = patched_by_hand(&c, &how, 16), *got = get(NB_BF16, c.y[0].data, M * N), *bound = zeros(M * N);
        for (int e = 0; e < M * N; e++)
            bound[e] = fabs(want[e]) / 256 + 1e-5 * largest(want, M * N);
        check_within("Y", got, want, bound, M * N);
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* One GEMM or two: the same products, summed in another order. */
static void single_is_dual(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int copy = 0; copy < 2; copy++) {
        double *y[2];
        for (int kernel = 0; kernel < 2; kernel++) {
            nb_hcp how = patch_of(0.5);
            how.kernel = (nb_hcp_kernel)kernel;
            how.copy = (nb_hcp_copy)copy;
            linear_case c = chosen_case(be, &how);
            run_forward(&c, &pass0);
            y[kernel] = get(NB_BF16, c.y[0].data, M * N);
            ni_linear_group_free(c.group);
        }
        check_close("single, dual", y[0], y[1], 0x1p-8, M * N);
        int apart = 0;
        for (int i = 0; i < M * N; i++)
            apart += y[0][i] != y[1][i];
        assert_true(apart < M * N / 50); /* a rounding boundary, here and there */
    }
    nb_backend_free(be);
}

/* Fewer than half a block: nothing is patched, and every bit is the base's. */
static void nothing_to_patch(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.1);
    how.dgrad = how.wgrad = true;
    nb_plan plans[2][2] = {{plan_hcp(&how), plan_hcp(&how)}, {plan_nvfp4(), plan_nvfp4()}};
    linear_case c[2];
    for (int i = 0; i < 2; i++) {
        c[i] = make_group(be, plans[i], 2, NULL);
        choose(&c[i]);
        run_forward(&c[i], &pass0);
        run_backward(&c[i], &pass0);
    }
    for (int i = 0; i < 2; i++) {
        assert_memory_equal(c[0].y[i].data, c[1].y[i].data, M * N * 2);
        assert_memory_equal(c[0].dw[i], c[1].dw[i], N * K * 4);
    }
    assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
    ni_linear_group_free(c[0].group);
    ni_linear_group_free(c[1].group);
    nb_backend_free(be);
}

/* Blocks of 16 channels whose residuals NVFP4 holds exactly: 5.25 makes the tensor's decode scale 2^-9 and a block's
 * 0.875, the others are +-(0.875 + r/32) with r in {1, 2, 3, 4, 6}, and 6 in every row. The 5.25 of X meets a zero of W
 * and the other way round. Channels of the other blocks are zero. */
static void fill_exactly(linear_case *c, int blocks) {
    static const int steps[] = {1, 2, 3, 4, 6};
    memset(c->x.data, 0, M * K * 2);
    memset(c->w[0], 0, N * K * 4);
    for (int side = 0; side < 2; side++)
        for (int row = 0; row < (side ? N : M); row++)
            for (int k = 0; k < 16 * blocks; k++) {
                uint32_t bits = ni_philox(77, (uint32_t)side, (uint32_t)row, (uint32_t)k, 0, 0).w[0];
                int step = k % 16 == 2 ? 6 : steps[bits % 5];
                double v = (bits >> 8 & 1 ? -1 : 1) * (0.875 + step / 32.0);
                v = k % 16 == side ? 5.25 : k % 16 == 1 - side ? 0 : v;
                if (side)
                    c->w[0][row * K + k] = (float)v;
                else
                    ((uint16_t *)c->x.data)[row * K + k] = ni_bf16_even((float)v);
            }
}

/* With residuals that are exact nothing of first order is left on the patched channels: Y = X W^T - dX dW^T, whether
 * only the 16 patched channels are not zero or every channel is patched; adding that last product by hand is X W^T. */
static void only_the_second_order_is_left(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int i = 0; i < 4; i++) {
        bool all = i / 2;
        nb_hcp how = patch_of(all ? 1 : 0.25);
        how.copy = i % 2 ? NB_HCP_EXACT : NB_HCP_REQUANTIZE;
        nb_plan plan = plan_hcp(&how);
        linear_case c = make_group(be, &plan, 1, NULL);
        fill_exactly(&c, all ? K / 16 : 1);
        choose(&c);
        run_forward(&c, &pass0);
        numbers n = numbers_of(&c);
        double *got = get(NB_BF16, c.y[0].data, M * N), *whole = product(n.x, M, n.w, N, K);
        double *left = product(n.dx, M, n.dw, N, K), *want = minus(whole, left, M * N), *bound = zeros(M * N);
        for (int e = 0; e < M * N; e++)
            bound[e] = fabs(want[e]) / 256 + 1e-6 * largest(want, M * N);
        check_within("Y", got, want, bound, M * N);
        double off = 0, seen = 0;
        for (int e = 0; e < M * N; e++) {
            off += fabs(got[e] - whole[e]);
            seen += fabs(left[e]);
        }
        assert_true(seen > 0.02 * M * N && fabs(off / seen - 1) < 0.2); /* what is left is there */
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

/* ---- how much it helps ---- */

enum { TOY_M = 256, TOY_N = 256, TOY_K = 1024, TOY_HOT = 24 };

/* ||Y - XW|| / ||XW|| of a layer with 24 hot channels, `by` times as loud as the others. */
static double toy_error(nb_backend *be, const nb_hcp *how, double by) {
    const buffer *before = buffers;
    nb_plan plan = plan_nvfp4();
    nb_error err = {0};
    if (how)
        plan = plan_hcp(how);
    double *x = normals(1, TOY_M * TOY_K, 0, 1), *w = normals(2, TOY_N * TOY_K, 0, 0.02), error = 0, norm = 0;
    for (int i = 0; i < TOY_HOT; i++)
        for (int r = 0; r < TOY_M; r++)
            x[r * TOY_K + i * 41 + 7] *= by;
    nb_mat xm = nb_mat_of(put(NB_BF16, x, TOY_M * TOY_K), NB_BF16, TOY_M, TOY_K);
    nb_mat y = nb_mat_of(put(NB_BF16, NULL, TOY_M * TOY_N), NB_BF16, TOY_M, TOY_N);
    float *wm = put(NB_F32, w, TOY_N * TOY_K);
    const ni_linear_spec layer = {.name = "up",
                                  .out = TOY_N,
                                  .plan = &plan,
                                  .master = wm,
                                  .grad = put(NB_F32, zeros(TOY_N * TOY_K), TOY_N * TOY_K)};
    const ni_group_spec spec = {
        .input = "in", .in = TOY_K, .max_rows = TOY_M, .training = true, .layers = &layer, .count = 1};
    ni_linear_group *group;
    if (ni_linear_group_create(be, &spec, &group, &err) != NB_OK)
        fail_msg("%s", err.message);
    ni_scratch scratch = {.size = group->scratch_bytes, .memory = poisoned(group->scratch_bytes)};
    for (int step = 0; step < 2; step++)
        if (ni_linear_group_forward(group, &pass0, &scratch, true, &xm, &y, &err) != NB_OK ||
            ni_linear_group_after_step(group, &pass0, &scratch, &err) != NB_OK)
            fail_msg("%s", err.message);
    double *got = get(NB_BF16, y.data, TOY_M * TOY_N);
    double *want = product(get(NB_BF16, xm.data, TOY_M * TOY_K), TOY_M, get(NB_F32, wm, TOY_N * TOY_K), TOY_N, TOY_K);
    for (int i = 0; i < TOY_M * TOY_N; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    ni_linear_group_free(group);
    release_buffers_until(before);
    return sqrt(error / norm);
}

/* The error falls with k; residuals of W make most of it (hot activations times weight errors); the printed stacks
 * cancel neither first-order term. The program of the derivation found a ratio of .105/.170 for 16 channels; where the
 * hot channels lay in it is not recorded, and the ratio depends on that a little. */
static void hot_channel_toy(void **state) {
    (void)state;
    nb_backend *be = cpu();
    double base = toy_error(be, NULL, 60), last = base, at[4];
    const int channels[4] = {16, 32, 64, 128};
    for (int i = 0; i < 4; i++) {
        nb_hcp how = patch_of(channels[i] / 1024.0);
        at[i] = toy_error(be, &how, 60);
        assert_true(at[i] < last);
        last = at[i];
    }
    nb_hcp how = patch_of(0.125);
    how.order = 1;
    how.side = NB_HCP_ACTIVATION;
    double activation = toy_error(be, &how, 60);
    how.side = NB_HCP_WEIGHT;
    double weight = toy_error(be, &how, 60);
    how = patch_of(0.125);
    how.form = NB_HCP_PRINTED;
    double printed = toy_error(be, &how, 60);
    print_message("base %.4f k=16 %.4f 32 %.4f 64 %.4f 128 %.4f; activation %.4f weight %.4f printed %.4f\n", base,
                  at[0], at[1], at[2], at[3], activation, weight, printed);
    assert_true(fabs(at[0] / base - 0.105 / 0.170) < 0.06);
    assert_true(at[3] < weight && weight < activation && activation < base);
    assert_true(fabs(printed - base) < 0.02 * base);
    nb_backend_free(be);
}

/* ---- backward ---- */

/* Distance of the columns `channels` of [rows, K] from what they should be. */
static double distance_on(const double *got, const double *want, int64_t rows, const int32_t *channels, int k) {
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int i = 0; i < k; i++) {
            double d = got[r * K + channels[i]] - want[r * K + channels[i]];
            sum += d * d;
        }
    return sqrt(sum);
}

/* With dY left in BF16 in both GEMMs, what is wrong with dX and dW is W's and X's error: on I the patch takes most of
 * it away, elsewhere it changes nothing. wgrad.x is rotated (fixed or fresh signs) or not. */
static void gradients_exact_on_channels(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int rotation = 0; rotation < 3; rotation++) {
        double dx_error[2], dw_error[2], *dx[2], *dw[2];
        int32_t channels[16];
        for (int i = 0; i < 2; i++) {
            nb_hcp how = patch_of(0.25);
            how.dgrad = how.wgrad = i == 1;
            nb_plan plan = plan_hcp(&how);
            plan.roles[NB_DGRAD_DY].quantizer = nb_quantizer_bf16();
            plan.roles[NB_WGRAD_DY].quantizer = plan.roles[NB_WGRAD_X].quantizer = nvfp4(1, NB_ROUND_EVEN);
            if (rotation)
                plan.roles[NB_WGRAD_DY].quantizer = plan.roles[NB_WGRAD_X].quantizer =
                    rotated(nvfp4(1, NB_ROUND_EVEN), rotation == 1 ? NB_SIGNS_FIXED : NB_SIGNS_FRESH);
            linear_case c = make_group(be, &plan, 1, NULL);
            make_loud(&c, 20);
            for (int e = 0; e < M * N; e++) /* two levels a row: exact in E2M1 if not rotated */
                ((uint16_t *)c.dy[0].data)[e] = ni_bf16_even(e % 7 < 3 ? 0.25F : -0.25F);
            choose(&c);
            run_forward(&c, &pass0);
            run_backward(&c, &pass0);
            channels_of(&c, channels);
            double *x = get(NB_BF16, c.x.data, M * K), *w = get(NB_F32, c.w[0], N * K),
                   *dy = get(NB_BF16, c.dy[0].data, M * N);
            dx[i] = get(NB_BF16, c.dx.data, M * K);
            dw[i] = get(NB_F32, c.dw[0], N * K);
            dx_error[i] = distance_on(dx[i], product(dy, M, transposed(w, N, K), K, N), M, channels, 16);
            dw_error[i] =
                distance_on(dw[i], product(transposed(dy, M, N), N, transposed(x, M, K), K, M), N, channels, 16);
            ni_linear_group_free(c.group);
        }
        assert_true(dx_error[1] < 0.25 * dx_error[0]);
        assert_true(dw_error[1] < (rotation ? 0.9 : 0.25) * dw_error[0]); /* rotated, dY has an error of its own */
        for (int e = 0; e < N * K; e++) {
            bool hot = false;
            for (int i = 0; i < 16; i++)
                hot |= channels[i] == e % K;
            assert_true(hot || dw[0][e] == dw[1][e]);
        }
    }
    nb_backend_free(be);
}

/* ---- when channels are chosen ---- */

typedef struct heard {
    int overlaps;
    double overlap;
} heard;

static void hear(void *context, const char *module, const char *name, double value) {
    heard *h = context;
    assert_string_equal(module, "layers.0.self_attn.q_proj");
    if (strcmp(name, "hcp_overlap") == 0) {
        h->overlaps++;
        h->overlap = value;
    }
}

/* What is chosen in a step is patched in the next one: before the first choice the layer is the base's, bit for bit. */
static void a_choice_waits_for_its_step(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25);
    nb_plan base = plan_nvfp4();
    linear_case c = loud_case(be, &how), plain = make_group(be, &base, 1, NULL);
    make_loud(&plain, 20);
    run_forward(&plain, &pass0);
    nb_pass second = pass0;
    second.micro_batch = 1;
    run_forward(&c, &pass0);
    assert_memory_equal(c.y[0].data, plain.y[0].data, M * N * 2);
    run_forward(&c, &second); /* nor in the rest of its own step */
    assert_memory_equal(c.y[0].data, plain.y[0].data, M * N * 2);
    assert_int_equal(state_of(&c)->refreshed, 0);
    after_step(&c, &pass0);
    assert_int_equal(state_of(&c)->refreshed, 1);
    run_forward(&c, &pass0);
    assert_memory_not_equal(c.y[0].data, plain.y[0].data, M * N * 2);
    ni_linear_group_free(c.group);
    ni_linear_group_free(plain.group);
    nb_backend_free(be);
}

static void refreshes(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25);
    how.refresh = 4;
    how.freeze = 6;
    linear_case c = loud_case(be, &how);
    ni_hcp_state *h = state_of(&c);
    heard said = {0};
    const nb_lens lens = {.context = &said, .scalar = hear};
    nb_pass pass = pass0;
    nb_error err = {0};
    pass.lens = &lens;
    assert_int_equal(ni_linear_group_forward(c.group, &pass, &c.scratch, false, &c.x, c.y, &err), NB_OK);
    after_step(&c, &pass);
    assert_int_equal(h->refreshed, 0); /* an evaluation chooses nothing */
    run_forward(&c, &pass);
    run_forward(&c, &pass); /* the step is taken again */
    after_step(&c, &pass);
    assert_true(h->refreshed == 1 && h->choices == 1 && said.overlaps == 0);
    for (pass.step = 1; pass.step < 4; pass.step++) {
        run_forward(&c, &pass);
        after_step(&c, &pass);
    }
    assert_int_equal(h->refreshed, 1);
    pass.micro_batch = 1; /* only the first micro-batch of a step is looked at */
    run_forward(&c, &pass);
    after_step(&c, &pass);
    assert_int_equal(h->refreshed, 1);
    pass.micro_batch = 0;
    run_forward(&c, &pass);
    pass.step = 5; /* step 4 went bad and was passed over: what it gathered is not used */
    after_step(&c, &pass);
    assert_int_equal(h->refreshed, 1);
    pass.step = 4;
    run_forward(&c, &pass);
    after_step(&c, &pass);
    assert_true(h->refreshed == 5 && h->choices == 2 && said.overlaps == 1 && said.overlap == 1);
    pass.step = 8; /* frozen */
    run_forward(&c, &pass);
    after_step(&c, &pass);
    assert_int_equal(h->refreshed, 5);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* Of n choices the i-th last weighs ema^i (1 - ema) / (1 - ema^n): channel 5 of X grows from choice to choice; what it
 * scores alone, each time, is what a group with ema 0 says. */
static void averages_are_corrected_for_their_beginning(void **state) {
    (void)state;
    enum { CHOICES = 5 };
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25), alone = how;
    how.refresh = alone.refresh = 1;
    how.ema = 0.75;
    alone.ema = 0;
    linear_case c = loud_case(be, &how), each = loud_case(be, &alone);
    double now[CHOICES];
    for (int n = 0; n < CHOICES; n++) {
        nb_pass pass = pass0;
        double sum = 0, weights = 0;
        pass.step = (uint32_t)n;
        run_forward(&c, &pass);
        after_step(&c, &pass);
        run_forward(&each, &pass);
        after_step(&each, &pass);
        now[n] = score_of(&each, 5);
        for (int i = 0; i <= n; i++) {
            sum += pow(0.75, i) * now[n - i];
            weights += pow(0.75, i);
        }
        assert_true(fabs(score_of(&c, 5) - sum / weights) < 1e-6 * sum / weights);
        make_loud(&c, 1.5F);
        make_loud(&each, 1.5F);
    }
    assert_true(now[CHOICES - 1] > 3 * now[0]);
    ni_linear_group_free(c.group);
    ni_linear_group_free(each.group);
    nb_backend_free(be);
}

/* A choice is a function of the numbers: the same on every thread count and instruction set, so on every rank that
 * holds the same sums. */
static void choices_are_the_same_everywhere(void **state) {
    (void)state;
    const nb_backend_options where[] = {{1, NB_ISA_AUTO}, {3, NB_ISA_AUTO}, {1, NB_ISA_SCALAR}, {2, NB_ISA_PORTABLE}};
    int32_t channels[4][16];
    float scores[4][K];
    for (int i = 0; i < 4; i++) {
        nb_backend *be = NULL;
        assert_int_equal(nb_backend_open("cpu", &where[i], &be, NULL), NB_OK);
        nb_hcp how = patch_of(0.25);
        how.refresh = 2;
        linear_case c = loud_case(be, &how);
        for (uint32_t step = 0; step < 3; step++) {
            nb_pass pass = pass0;
            pass.step = step;
            run_forward(&c, &pass);
            after_step(&c, &pass);
        }
        assert_int_equal(state_of(&c)->refreshed, 3);
        channels_of(&c, channels[i]);
        be->ops->download(be, scores[i], state_of(&c)->layers[0].scores, sizeof scores[i]);
        assert_memory_equal(channels[i], channels[0], sizeof channels[0]);
        assert_memory_equal(scores[i], scores[0], sizeof scores[0]);
        ni_linear_group_free(c.group);
        nb_backend_free(be);
    }
}

/* The weight's side follows the master. */
static void follows_the_master(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25);
    linear_case c = chosen_case(be, &how);
    nb_pass pass = pass0;
    run_forward(&c, &pass);
    for (int i = 0; i < N * K; i++)
        c.w[0][i] *= -2;
    ni_linear_group_changed(c.group);
    double *before = get(NB_BF16, c.y[0].data, M * N);
    pass.step = 1;
    run_forward(&c, &pass);
    double *after = get(NB_BF16, c.y[0].data, M * N);
    for (int i = 0; i < M * N; i++)
        assert_true(after[i] == -2 * before[i]); /* powers of two change no code */
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* ---- checkpoints, refusals ---- */

static void resumes(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25);
    how.ema = 0.5;
    linear_case a = chosen_case(be, &how), b = loud_case(be, &how);
    const ni_mechanism *table = a.group->mechanisms[0].table;
    ni_mechanism_tensor from[8], to[8];
    int32_t count = table->tensors(state_of(&a), from, 8);
    assert_int_equal(count, 4);
    assert_int_equal(table->tensors(state_of(&b), to, 8), 4);
    for (int32_t i = 0; i < count; i++) {
        memcpy(to[i].data, from[i].data, nb_dtype_size(from[i].dtype) * (size_t)from[i].elements);
        assert_int_equal(from[i].combine, NI_COMBINE_FIRST); /* facts of micro-batch 0 */
    }
    assert_int_equal(table->loaded(state_of(&b), NULL), NB_OK);
    make_loud(&a, 1.5F);
    make_loud(&b, 1.5F);
    for (uint32_t step = 200; step < 202; step++) { /* a choice that averages, and what it patches */
        nb_pass pass = pass0;
        pass.step = step;
        run_forward(&a, &pass);
        run_forward(&b, &pass);
        assert_memory_equal(a.y[0].data, b.y[0].data, M * N * 2);
        after_step(&a, &pass);
        after_step(&b, &pass);
    }
    assert_int_equal(state_of(&b)->choices, 2);
    assert_memory_equal(state_of(&a)->layers[0].scores, state_of(&b)->layers[0].scores, K * sizeof(float));
    state_of(&b)->layers[0].channels[3] = K;
    assert_int_equal(table->loaded(state_of(&b), NULL), NB_BAD_FILE);
    ni_linear_group_free(a.group);
    ni_linear_group_free(b.group);
    nb_backend_free(be);
}

/* ---- which channels, and what is said of them ---- */

/* The lens's view of one number. */
static void hear_blocks(void *context, const char *module, const char *name, double value) {
    (void)module;
    if (strcmp(name, "hcp_blocks") == 0)
        *(double *)context = value;
}

static int64_t blocks_by_hand(const int32_t *channels, int k) {
    bool seen[K / 16] = {false};
    int64_t blocks = 0;
    for (int i = 0; i < k; i++) {
        blocks += !seen[channels[i] / 16];
        seen[channels[i] / 16] = true;
    }
    return blocks;
}

static void text_of(const linear_case *c, char *text, size_t size) {
    c->group->mechanisms[0].table->text(state_of(c), &c->group->layers[0], NI_GEMM_FPROP, text, size);
}

/* How many blocks of 16 the set comes from is told to the lens and in the census; a patch of nothing says so. */
static void blocks_are_told(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25);
    linear_case c = loud_case(be, &how);
    char text[64], want[64];
    double told = 0;
    nb_lens lens = {.context = &told, .scalar = hear_blocks};
    nb_pass pass = pass0;
    int32_t channels[K];
    pass.lens = &lens;
    text_of(&c, text, sizeof text);
    assert_string_equal(text, "hcp 16 of 64 channels");
    run_forward(&c, &pass);
    after_step(&c, &pass);
    channels_of(&c, channels);
    assert_int_equal((int64_t)told, blocks_by_hand(channels, 16));
    text_of(&c, text, sizeof text);
    snprintf(want, sizeof want, "hcp 16 of 64 channels, of %d blocks of 16", (int)told);
    assert_string_equal(text, want);
    ni_linear_group_free(c.group);

    how = patch_of(0.1); /* 0.4 of a block */
    c = loud_case(be, &how);
    text_of(&c, text, sizeof text);
    assert_string_equal(text, "hcp patches none of 64 channels (share too small)");
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* Channels 2, 7, 12, ... carry weights eight times as large, and X is as loud everywhere: the error of Y lies
 * there. The published sum is one of the residuals of X, of order 1 where W is of order 0.01; weighed by what each side
 * is multiplied with, the planted channels come first. */
static int planted_found(nb_backend *be, nb_hcp_score score) {
    nb_hcp how = patch_of(0.25);
    how.score = score;
    linear_case c = loud_case(be, &how);
    uint16_t *x = put(NB_BF16, normals(77, M * K, 0, 1), M * K);
    memcpy(c.x.data, x, sizeof *x * M * K);
    for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++)
            c.w[0][n * K + k] *= k % 5 == 2 ? 0.16F : 0.02F;
    ni_linear_group_changed(c.group);
    choose(&c);
    int32_t channels[K];
    int found = 0, planted = 0;
    channels_of(&c, channels);
    for (int k = 2; k < K && planted < 12; k += 5, planted++)
        for (int i = 0; i < 16; i++)
            found += channels[i] == k;
    ni_linear_group_free(c.group);
    return found;
}

static void normalized_scores_find_what_hurts(void **state) {
    (void)state;
    nb_backend *be = cpu();
    int published = planted_found(be, NB_HCP_ABSOLUTE), weighed = planted_found(be, NB_HCP_NORMALIZED);
    print_message("of 12 planted channels: %d by absolute scores, %d by normalized ones\n", published, weighed);
    assert_int_equal(weighed, 12);
    assert_true(published < 9);
    nb_backend_free(be);
}

typedef struct stand_in {
    int count;
    double error[K]; /* sum of squares of X less what stands for it, by channel */
} stand_in;

static void see_stand_in(void *context, nb_backend *be, const char *module, const char *mechanism, const nb_mat *exact,
                         const nb_mat *approximate) {
    stand_in *s = context;
    (void)be, (void)module;
    assert_string_equal(mechanism, "hcp");
    for (int64_t i = 0; i < M * K; i++) {
        double d = element(exact->data, exact->dtype, i) - element(approximate->data, approximate->dtype, i);
        s->error[i % K] += d * d;
    }
    s->count++;
}

static void not_quantities(void *context, const nb_lens_operand *seen) {
    (void)context, (void)seen;
}

/* The lens sees what is multiplied in the place of X: on patched channels the residual's residual is left, elsewhere
 * the error of the base. */
static void the_lens_sees_the_patched_x(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int exact = 0; exact < 2; exact++) {
        nb_hcp how = patch_of(0.25);
        how.copy = exact ? NB_HCP_EXACT : NB_HCP_REQUANTIZE;
        linear_case c = chosen_case(be, &how);
        numbers n = numbers_of(&c);
        int32_t channels[K];
        bool hot[K] = {false};
        stand_in s = {0};
        nb_lens lens = {.context = &s, .operand = not_quantities, .approximation = see_stand_in};
        nb_pass pass = pass0;
        pass.step = 1;
        pass.lens = &lens;
        run_forward(&c, &pass);
        assert_int_equal(s.count, 1);
        channels_of(&c, channels);
        for (int i = 0; i < 16; i++)
            hot[channels[i]] = true;
        for (int k = 0; k < K; k++) {
            double base = 0;
            for (int r = 0; r < M; r++)
                base += n.dx[r * K + k] * n.dx[r * K + k];
            if (hot[k])
                assert_true(s.error[k] < 0.1 * base);
            else
                assert_true(fabs(s.error[k] - base) < 1e-5 * base);
        }
        ni_linear_group_free(c.group);
    }
    nb_backend_free(be);
}

static void refused(nb_backend *be, const nb_plan *plan, nb_status status, const char *words) {
    linear_case c;
    nb_error err = {0};
    assert_int_equal(try_group(be, &c, plan, 1, NULL, &err), status);
    if (!strstr(err.message, words))
        fail_msg("%s (expected: %s)", err.message, words);
}

static void refusals(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_hcp how = patch_of(0.25);
    how.order = 1;
    nb_plan plan = plan_hcp(&how);
    refused(be, &plan, NB_BAD_CONFIG, "order 1 is one of activation and weight");
    how.order = 2;
    how.side = NB_HCP_WEIGHT;
    plan = plan_hcp(&how);
    refused(be, &plan, NB_BAD_CONFIG, "order 2 needs both sides");
    how.form = NB_HCP_PRINTED;
    plan = plan_hcp(&how);
    refused(be, &plan, NB_BAD_CONFIG, "printed");
    how = patch_of(0.25);
    plan = plan_hcp(&how);
    plan.roles[NB_FPROP_X].quantizer = plan.roles[NB_FPROP_W].quantizer =
        rotated(nvfp4(1, NB_ROUND_EVEN), NB_SIGNS_FIXED);
    plan.roles[NB_DGRAD_W] = plan.roles[NB_FPROP_W];
    plan.roles[NB_DGRAD_W].quantizer = nvfp4(1, NB_ROUND_EVEN);
    refused(be, &plan, NB_UNSUPPORTED, "nvfp4 only");
    how.dgrad = true;
    plan = plan_hcp(&how);
    plan.roles[NB_DGRAD_W] = (nb_operand_rule){.quantizer = nvfp4(1, NB_ROUND_EVEN)};
    refused(be, &plan, NB_UNSUPPORTED, "hcp.dgrad");
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(formula, release_buffers),
        cmocka_unit_test_teardown(single_is_dual, release_buffers),
        cmocka_unit_test_teardown(nothing_to_patch, release_buffers),
        cmocka_unit_test_teardown(only_the_second_order_is_left, release_buffers),
        cmocka_unit_test_teardown(hot_channel_toy, release_buffers),
        cmocka_unit_test_teardown(gradients_exact_on_channels, release_buffers),
        cmocka_unit_test_teardown(a_choice_waits_for_its_step, release_buffers),
        cmocka_unit_test_teardown(refreshes, release_buffers),
        cmocka_unit_test_teardown(averages_are_corrected_for_their_beginning, release_buffers),
        cmocka_unit_test_teardown(choices_are_the_same_everywhere, release_buffers),
        cmocka_unit_test_teardown(follows_the_master, release_buffers),
        cmocka_unit_test_teardown(resumes, release_buffers),
        cmocka_unit_test_teardown(blocks_are_told, release_buffers),
        cmocka_unit_test_teardown(the_lens_sees_the_patched_x, release_buffers),
        cmocka_unit_test_teardown(normalized_scores_find_what_hurts, release_buffers),
        cmocka_unit_test_teardown(refusals, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
