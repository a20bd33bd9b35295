/* test_linear_weights.c: the mechanisms that move or round weights: OsciReset (arXiv:2510.27527), Q-EMA (2502.20853).
 */
#include "backend/table.h"
#include "linear_case.h"

#include "backend/ref/ref.h"
#include "format/e2m1.h"

static nb_plan plan_osci(nb_osci_variant variant) {
    nb_plan p = plan_nvfp4();
    p.roles[NB_FPROP_W].quantizer.block_rows = p.roles[NB_DGRAD_W].quantizer.block_rows = 16;
    p.mechanisms.has_oscireset = true;
    p.mechanisms.oscireset = (nb_oscireset){
        .variant = variant, .start = 20, .period = 20, .window = 10, .threshold = 8, .top = 0.1, .edge = 0.45};
    return p;
}

/* Every weight on a grid point of a block of scale 1 (S is 448, the byte 1, since the largest is 6 in every tile). */
static void set_weights(float *w) {
    for (int i = 0; i < N * K; i++)
        w[i] = i % 16 == 0 ? 6.0f : 1.0f;
}

static void step(linear_case *c, uint32_t at) {
    nb_pass pass = {.step = at, .steps = 100};
    nb_error err = {0};
    c->scratch.used = c->scratch.kept = 0;
    if (ni_linear_group_after_step(c->group, &pass, &c->scratch, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static float *forward_weight(nb_backend *be, linear_case *c) {
    nb_pass pass = {0};
    float *out = poisoned(sizeof(float) * N * K);
    assert_int_equal(ni_weight_decode(c->group, &c->group->layers[0], &c->scratch, &pass, c->w[0], out, NULL, NULL),
                     NB_OK);
    (void)be;
    return out;
}

enum { OSCILLATES = 5 * K + 3, DRIFTS = 9 * K + 7 };

/* One element hops over the edge between 1 and 1.5 by 0.01 a step: R = 0.5/0.01 = 50. One drifts inside its bin. */
static void move(float *w, uint32_t at) {
    w[OSCILLATES] = 1.25f + (at % 2 ? 0.005f : -0.005f);
    w[DRIFTS] = 1.0f + 0.002f * (float)(at % 20);
}

static void reset_by_ratio(void **state) {
    (void)state;
    for (int variant = NB_OSCI_RATIO; variant <= NB_OSCI_RATIO_TOP; variant++) {
        nb_backend *be = cpu();
        nb_plan plan = plan_osci((nb_osci_variant)variant);
        linear_case c = make_group(be, &plan, 1, NULL);
        set_weights(c.w[0]);
        for (uint32_t at = 0; at <= 31; at++) {
            move(c.w[0], at);
            float before = c.w[0][OSCILLATES];
            float *q = forward_weight(be, &c);
            c.group->layers[0].maximum_found = c.group->layers[0].weight_found = true;
            step(&c, at);
            assert_false(c.group->layers[0].maximum_found); /* what the optimizer left is not of these masters */
            assert_false(c.group->layers[0].weight_found);
            if (at < 31) { /* before the start, and inside the window: nothing moves */
                assert_true(c.w[0][OSCILLATES] == before);
                continue;
            }
            assert_true(c.w[0][OSCILLATES] == (at % 2 ? 1.5f : 1.0f)); /* the centre of the bin it was in */
            assert_true(c.w[0][DRIFTS] == 1.0f + 0.002f * 11);
            for (int i = 0; i < N * K; i++)
                assert_true(i == OSCILLATES || i == DRIFTS || c.w[0][i] == (i % 16 == 0 ? 6.0f : 1.0f));
            assert_memory_equal(q, forward_weight(be, &c), sizeof(float) * N * K); /* codes stay */
        }
        ni_linear_group_free(c.group);
        nb_backend_free(be);
    }
}

/* Threshold 51 is just above the ratio that theory gives, 49 just below. */
static void ratio_is_what_theory_gives(void **state) {
    (void)state;
    for (int threshold = 49; threshold <= 51; threshold += 2) {
        nb_backend *be = cpu();
        nb_plan plan = plan_osci(NB_OSCI_RATIO);
        plan.mechanisms.oscireset.threshold = threshold;
        linear_case c = make_group(be, &plan, 1, NULL);
        set_weights(c.w[0]);
        for (uint32_t at = 20; at <= 31; at++) {
            move(c.w[0], at);
            step(&c, at);
        }
        assert_true((c.w[0][OSCILLATES] == 1.5f) == (threshold == 49));
        ni_linear_group_free(c.group);
        nb_backend_free(be);
    }
}

static void reset_at_the_edge(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_osci(NB_OSCI_BIN_EDGE);
    linear_case c = make_group(be, &plan, 1, NULL);
    set_weights(c.w[0]);
    c.w[0][OSCILLATES] = 1.24f; /* 0.48 of a bin away */
    c.w[0][DRIFTS] = 1.22f;     /* 0.44 */
    step(&c, 0);
    step(&c, 19);
    assert_true(c.w[0][OSCILLATES] == 1.24f);
    step(&c, 20);
    assert_true(c.w[0][OSCILLATES] == 1.0f && c.w[0][DRIFTS] == 1.22f);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* A share of the run is rounded to the nearest period: 0.25 of 100 steps begins at 20, not at 25 without a snapshot. */
static void start_as_a_share(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_osci(NB_OSCI_RATIO);
    plan.mechanisms.oscireset.start = 0.25;
    linear_case c = make_group(be, &plan, 1, NULL);
    set_weights(c.w[0]);
    for (uint32_t at = 0; at <= 31; at++) {
        move(c.w[0], at);
        float before = c.w[0][OSCILLATES];
        step(&c, at);
        assert_true((c.w[0][OSCILLATES] == before) == (at < 31));
    }
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* One weight hops over an edge once in a window of ten steps, 0.01 a step: R = 0.5 / 0.1 = 5, where ten times as many
 * steps of the same walk give 0.5. By the published threshold times 50 / T0 it stays; and where two hops are asked for,
 * whatever the threshold. The one that oscillates is reset all the same. */
static void single_hops_in_short_windows(void **state) {
    (void)state;
    enum { HOPS = 20 * K + 9 };
    for (int variant = NB_OSCI_RATIO; variant <= NB_OSCI_RATIO_TOP; variant++)
        for (int option = 0; option < 3; option++) {
            nb_backend *be = cpu();
            nb_plan plan = plan_osci((nb_osci_variant)variant);
            nb_oscireset *how = &plan.mechanisms.oscireset;
            how->threshold = 4;
            how->scale_threshold = option == 1; /* 20 */
            how->flips = option == 2 ? 2 : 0;
            how->top = 1;
            linear_case c = make_group(be, &plan, 1, NULL);
            set_weights(c.w[0]);
            for (uint32_t at = 20; at <= 31; at++) {
                move(c.w[0], at);
                c.w[0][HOPS] = 1.195f + 0.01f * (float)(at - 20); /* the edge is at 1.25 */
                step(&c, at);
            }
            assert_true((c.w[0][HOPS] == 1.5f) == (option == 0));
            assert_true(c.w[0][OSCILLATES] == 1.5f);
            assert_true(c.w[0][DRIFTS] == 1.0f + 0.002f * 11);
            ni_linear_group_free(c.group);
            nb_backend_free(be);
        }
}

/* ratio-top keeps q of the step before. An element of 1 stands still in a tile whose largest weight, which is not
 * followed, grows until its code decodes to less: q moves with the tile's scale, though made anew from the tile as it
 * is now nothing would have moved. */
static void followed_elements_keep_their_q(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_osci(NB_OSCI_RATIO_TOP);
    plan.mechanisms.oscireset.top = 1.0 / (N * K);
    plan.mechanisms.oscireset.threshold = 3;
    linear_case c = make_group(be, &plan, 1, NULL);
    set_weights(c.w[0]);
    double expected = 0, moved = 0;
    float q_before = 0, w_before = 0;
    for (uint32_t at = 20; at <= 30; at++) {
        float w = 1.2f + 0.001f * (float)(at - 20);
        c.w[0][OSCILLATES] = w;
        c.w[0][5 * K] = 6.0f + 0.3f * (float)(at - 20); /* the tile's largest */
        float q = forward_weight(be, &c)[OSCILLATES];
        expected += at > 20 ? fabs((double)q - q_before) : 0;
        moved += at > 20 ? fabs((double)w - w_before) : 0;
        q_before = q;
        w_before = w;
        step(&c, at);
    }
    ni_mechanism_tensor all[8];
    const ni_attached_mechanism *m = &c.group->mechanisms[0];
    int32_t count = m->table->tensors(m->state, all, 8), seen = 0;
    for (int32_t i = 0; i < count; i++) {
        float value;
        int32_t element;
        assert_int_equal(all[i].combine, NI_COMBINE_SAME);
        memcpy(&value, all[i].data, sizeof value);
        memcpy(&element, all[i].data, sizeof element);
        seen += strcmp(all[i].name, "oscireset.chosen") == 0 && element == OSCILLATES;
        seen += strcmp(all[i].name, "oscireset.q") == 0 && value == q_before;
        seen += strcmp(all[i].name, "oscireset.dist_w") == 0 && fabs(value - moved) < 1e-6;
        seen += strcmp(all[i].name, "oscireset.dist_q") == 0 && fabs(value - expected) < 1e-5 && expected > 0.4;
    }
    assert_int_equal(seen, 4);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

static void hear(void *context, const char *module, const char *name, double value) {
    assert_string_equal(module, "layers.0.self_attn.q_proj");
    if (strcmp(name, "reset_share") == 0)
        *(double *)context = value;
}

/* The share of resets is one of the weights in FP4: half of them where OutControl takes half of the channels. */
static void shares_are_of_weights_in_fp4(void **state) {
    (void)state;
    for (int split = 0; split < 2; split++) {
        nb_backend *be = cpu();
        nb_plan plan = plan_osci(NB_OSCI_BIN_EDGE);
        plan.mechanisms.oscireset.edge = 0.3;
        plan.mechanisms.has_outcontrol = split;
        plan.mechanisms.outcontrol = (nb_outcontrol){.share = 0.5, .multiple = 32, .start = 0, .window = 2};
        linear_case c = make_group(be, &plan, 1, NULL);
        double told = -1;
        const nb_lens lens = {.context = &told, .scalar = hear};
        nb_pass pass = {.step = 0, .steps = 100};
        int64_t moved = 0;
        for (; pass.step < 20; pass.step++) {
            run_forward(&c, &pass);
            step(&c, pass.step);
        }
        double *before = get(NB_F32, c.w[0], N * K);
        nb_error err = {0};
        pass.lens = &lens;
        assert_int_equal(ni_linear_group_after_step(c.group, &pass, &c.scratch, &err), NB_OK);
        for (int i = 0; i < N * K; i++)
            moved += c.w[0][i] != (float)before[i];
        assert_true(moved > N * K / 20);
        assert_true(told == (double)moved / (N * K / (split ? 2 : 1)));
        ni_linear_group_free(c.group);
        nb_backend_free(be);
    }
}

/* Saved in the middle of a window and loaded into a fresh group, the reset comes as if nothing had happened; begun in
 * the middle without a snapshot, it does not come. */
static void windows_survive_a_resume(void **state) {
    (void)state;
    for (int restored = 0; restored < 2; restored++) {
        nb_backend *be = cpu();
        nb_plan plan = plan_osci(NB_OSCI_RATIO);
        linear_case c[2] = {make_group(be, &plan, 1, NULL), make_group(be, &plan, 1, NULL)};
        set_weights(c[0].w[0]);
        for (uint32_t at = 0; at <= 25; at++) {
            move(c[0].w[0], at);
            step(&c[0], at);
        }
        memcpy(c[1].w[0], c[0].w[0], sizeof(float) * N * K);
        ni_mechanism_tensor from[8], to[8];
        const ni_mechanism *m = c[0].group->mechanisms[0].table;
        int32_t count = m->tensors(c[0].group->mechanisms[0].state, from, 8);
        assert_int_equal(m->tensors(c[1].group->mechanisms[0].state, to, 8), count);
        assert_int_equal(count, 4);
        for (int32_t i = 0; i < count && restored; i++)
            memcpy(to[i].data, from[i].data, (size_t)from[i].elements * nb_dtype_size(from[i].dtype));
        for (uint32_t at = 26; at <= 31; at++) {
            move(c[1].w[0], at);
            step(&c[1], at);
        }
        assert_true(c[1].w[0][OSCILLATES] == (restored ? 1.5f : 1.255f));
        ni_linear_group_free(c[0].group);
        ni_linear_group_free(c[1].group);
        nb_backend_free(be);
    }
}

/* ---- Q-EMA ---- */

static void rounding_follows_the_average(void **state) {
    (void)state;
    static const struct {
        float w, average, want;
    } cases[] = {
        {1.2f, 1.2f, 1.0f},    {1.2f, 1.4f, 1.5f},    {1.3f, 1.2f, 1.0f},  {1.3f, 1.25f, 1.5f},
        {-1.2f, -1.4f, -1.5f}, {-1.3f, -1.2f, -1.0f}, {1.2f, -3.0f, 1.0f}, {5.5f, 4.9f, 4.0f},
        {4.5f, 5.1f, 6.0f},    {0.1f, 0.3f, 0.5f},    {6.0f, 0.0f, 6.0f},  {1.0f, 0.2f, 1.0f},
    };
    enum { COUNT = sizeof cases / sizeof *cases };
    float w[16] = {0}, guide[16] = {0}, got[16];
    for (int i = 0; i < COUNT; i++) {
        w[i] = cases[i].w;
        guide[i] = cases[i].average;
    }
    w[15] = guide[15] = 6; /* scale 1 */
    nb_backend *be = cpu();
    nb_quantizer q = nvfp4(1, NB_ROUND_EVEN);
    nb_mat source = nb_mat_of(w, NB_F32, 1, 16), out = nb_mat_of(got, NB_F32, 1, 16);
    nb_operand t = {.quantizer = q, .other = q, .rows = 1, .cols = 16, .side = NI_RIGHT, .reread = true};
    t.memory = poisoned(be->ops->operand_bytes(be, &t));
    const ni_source from = {.numbers = &source};
    const ni_making making = {.out = &t};
    assert_int_equal(be->ops->make_operands(be, &from, &making, 1, NULL), NB_OK);
    be->ops->round_by(be, &t, w, guide);
    assert_int_equal(be->ops->decode(be, &out, &t, false, NULL, true, NULL), NB_OK);
    for (int i = 0; i < COUNT; i++)
        if (fabsf(got[i] - cases[i].want) > 1e-5f)
            fail_msg("w %g, average %g: got %g, wanted %g", cases[i].w, cases[i].average, got[i], cases[i].want);
    nb_backend_free(be);
}

/* The average begins at W, moves by 1 - beta, and decides after its warm-up. */
static void average_of_a_weight(void **state) {
    (void)state;
    nb_backend *be = cpu();
    nb_plan plan = plan_osci(NB_OSCI_RATIO);
    plan.mechanisms = (nb_mechanism_set){.has_qema = true, .qema = {.beta = 0.75, .warmup = 2}};
    linear_case c = make_group(be, &plan, 1, NULL);
    nb_pass pass = {0};
    set_weights(c.w[0]);
    c.w[0][OSCILLATES] = 1.0f;
    step(&c, 0); /* average 1 */
    c.w[0][OSCILLATES] = 1.3f;
    ni_linear_group_changed(c.group);
    for (int updates = 1; updates <= 3; updates++) {
        nb_operand w;
        float decoded_w[N * K];
        ni_linear_call call = {
            .group = c.group, .be = be, .pass = &pass, .scratch = &c.scratch, .x = &c.x, .training = true};
        nb_mat out = nb_mat_of(decoded_w, NB_F32, N, K);
        c.scratch.used = c.scratch.kept = 0;
        ni_linear_group_changed(c.group);
        assert_int_equal(ni_weight_operand(&call, &c.group->layers[0], NB_FPROP_W, &w, NULL), NB_OK);
        assert_int_equal(be->ops->decode(be, &out, &w, false, NULL, true, NULL), NB_OK);
        /* averages 1, 1.075, 1.131: all nearer to 1 than 1.3 is; before the warm-up W itself decides */
        assert_true(decoded_w[OSCILLATES] == (updates < 2 ? 1.5f : 1.0f));
        step(&c, (uint32_t)updates);
    }
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* ---- quantize_from: bf16 ---- */

static nb_plan plan_of_mechanism(int which) {
    nb_plan p = plan_double();
    if (which == 1) {
        p.mechanisms.has_outcontrol = true;
        p.mechanisms.outcontrol = (nb_outcontrol){.share = 0.1, .multiple = 1, .start = 0, .window = 1};
    }
    if (which == 2) {
        p.roles[NB_FPROP_W].quantizer.block_rows = 16;
        p.roles[NB_DGRAD_W] =
            (nb_operand_rule){.from = true, .source = NB_FPROP_W, .quantizer = p.roles[NB_FPROP_W].quantizer};
        p.roles[NB_DGRAD_DY].quantizer.hadamard_size = 0;
        p.roles[NB_DGRAD_DY].quantizer.hadamard_signs = NB_SIGNS_NONE;
        p.mechanisms.has_hcp = true;
        p.mechanisms.hcp = (nb_hcp){.share = 0.25, .order = 2, .refresh = 1, .freeze = 1, .dgrad = true};
    }
    return p;
}

/* The layer of masters that were rounded to BF16 beforehand, bit for bit, alone and under what makes operands of W by
 * itself; and another one than without the key. */
static void a_copy_in_bf16_is_quantized(void **state) {
    (void)state;
    nb_backend *be = cpu();
    for (int which = 0; which < 3; which++) {
        nb_plan plans[3];
        linear_case c[3];
        for (int i = 0; i < 3; i++) {
            plans[i] = plan_of_mechanism(which);
            plans[i].quantize_from = i == 0 ? NB_BF16 : NB_F32;
            c[i] = make_group(be, &plans[i], 1, NULL);
            for (int e = 0; i == 1 && e < N * K; e++)
                c[i].w[0][e] = ni_bf16_value(ni_bf16_even(c[i].w[0][e]));
            for (uint32_t at = 0; at < 3; at++) {
                const nb_pass pass = {.step = at, .steps = 10, .rounding_seed = 9};
                run_forward(&c[i], &pass);
                run_backward(&c[i], &pass);
                if (at < 2)
                    step(&c[i], at);
            }
        }
        assert_memory_equal(c[0].y[0].data, c[1].y[0].data, M * N * 2);
        assert_memory_equal(c[0].dx.data, c[1].dx.data, M * K * 2);
        assert_memory_equal(c[0].dw[0], c[1].dw[0], N * K * 4);
        assert_memory_not_equal(c[0].y[0].data, c[2].y[0].data, M * N * 2);
        assert_memory_equal(c[0].w[0], c[2].w[0], N * K * 4); /* masters stay what they are */
        for (int i = 0; i < 3; i++)
            ni_linear_group_free(c[i].group);
    }
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_by_ratio),
        cmocka_unit_test(ratio_is_what_theory_gives),
        cmocka_unit_test(reset_at_the_edge),
        cmocka_unit_test(start_as_a_share),
        cmocka_unit_test(windows_survive_a_resume),
        cmocka_unit_test(single_hops_in_short_windows),
        cmocka_unit_test(followed_elements_keep_their_q),
        cmocka_unit_test(shares_are_of_weights_in_fp4),
        cmocka_unit_test(rounding_follows_the_average),
        cmocka_unit_test(average_of_a_weight),
        cmocka_unit_test(a_copy_in_bf16_is_quantized),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
