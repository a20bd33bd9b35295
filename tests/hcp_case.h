/* hcp_case.h: a layer under the Hot-Channel Patch, its channels and its products made by hand. */
#ifndef NI_TEST_HCP_CASE_H
#define NI_TEST_HCP_CASE_H

#include "linear_case.h"

#include "linear/hcp.h"

static const nb_pass pass0 = {.step = 0, .steps = 10, .rounding_seed = 5};

static UNUSED nb_hcp patch_of(double share) {
    return (nb_hcp){.share = share, .order = 2, .refresh = 200, .ema = 0.9, .freeze = 1};
}

static UNUSED nb_plan plan_hcp(const nb_hcp *how) {
    nb_plan p = plan_nvfp4();
    p.mechanisms.has_hcp = true;
    p.mechanisms.hcp = *how;
    return p;
}

static UNUSED ni_hcp_state *state_of(const linear_case *c) {
    return c->group->mechanisms[0].state;
}

/* Some channels of X are loud. */
static UNUSED void make_loud(linear_case *c, float by) {
    uint16_t *x = c->x.data;
    for (int r = 0; r < M; r++)
        for (int k = 5; k < K; k += 9)
            x[r * K + k] = ni_bf16_even(by * ni_bf16_value(x[r * K + k]));
}

static UNUSED linear_case loud_case(nb_backend *be, const nb_hcp *how) {
    nb_plan plan = plan_hcp(how);
    linear_case c = make_group(be, &plan, 1, NULL);
    make_loud(&c, 20);
    return c;
}

static UNUSED void after_step(linear_case *c, const nb_pass *pass) {
    nb_error err = {0};
    if (ni_linear_group_after_step(c->group, pass, &c->scratch, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c->scratch.used + c->scratch.kept, 0);
}

/* A step is taken, so that the next pass patches. */
static UNUSED void choose(linear_case *c) {
    run_forward(c, &pass0);
    after_step(c, &pass0);
}

static UNUSED linear_case chosen_case(nb_backend *be, const nb_hcp *how) {
    linear_case c = loud_case(be, how);
    choose(&c);
    return c;
}

static UNUSED void channels_of(const linear_case *c, int32_t *out) {
    c->be->ops->download(c->be, out, state_of(c)->layers[0].channels, sizeof *out * (size_t)state_of(c)->k);
}

static UNUSED float score_of(const linear_case *c, int channel) {
    float score;
    c->be->ops->download(c->be, &score, state_of(c)->layers[0].scores + channel, sizeof score);
    return score;
}

/* ---- by hand ---- */

/* The k channels of largest mean |dX| + mean |dW| (absolute), or weighed by the other side's rms. */
static UNUSED void choose_by_hand(const double *x, const double *xq, const double *w, const double *wq, bool normalized,
                                  int k, int32_t *out) {
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
static UNUSED double *columns_coded(nb_backend *be, const double *x, int64_t rows, const int32_t *channels, int k,
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

static UNUSED double *columns(const double *x, int64_t rows, const int32_t *channels, int k) {
    double *out = zeros(rows * k);
    for (int64_t r = 0; r < rows; r++)
        for (int i = 0; i < k; i++)
            out[r * k + i] = x[r * K + channels[i]];
    return out;
}

static UNUSED double *minus(const double *a, const double *b, int64_t n) {
    double *out = zeros(n);
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] - b[i];
    return out;
}

static UNUSED void add(double *to, const double *from, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        to[i] += from[i];
}

typedef struct numbers {
    double *x, *w, *xq, *wq, *dx, *dw;
} numbers;

static UNUSED numbers numbers_of(const linear_case *c) {
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

static UNUSED double *patched_by_hand(const linear_case *c, const nb_hcp *how, int k) {
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

#endif
