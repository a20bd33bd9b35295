/* test_linear_ready.c: the weights of many groups made by one call, before a step's passes and before a backward pass:
 * the same bits as one by one, nothing of them is left for a pass, and what cannot be listed is made as before.
 */
#include "hcp_case.h"

enum { GROUPS = 45, STEPS = 3 };

/* ---- a backend that counts what is made of masters ---- */

static int32_t made_alone, made_listed, turned_alone, turned_listed;
static const ni_backend_ops *real_ops;

static bool is_of_master(const ni_source *source) {
    return source->numbers && source->numbers->dtype == NB_F32 && source->numbers->rows == N;
}

static nb_status count_operands(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                                nb_error *err) {
    made_alone += is_of_master(source) ? count : 0;
    return real_ops->make_operands(be, source, makings, count, err);
}

static nb_status count_many(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                            nb_error *err) {
    made_listed += count;
    return real_ops->make_many(be, sources, makings, count, err);
}

static nb_status count_turn(nb_backend *be, nb_operand *out, const nb_operand *from, nb_error *err) {
    turned_alone += from->rows == N;
    return real_ops->turn(be, out, from, err);
}

static nb_status count_turns(nb_backend *be, nb_operand *const *out, const nb_operand *const *from, int32_t count,
                             nb_error *err) {
    turned_listed += count;
    return real_ops->turn_many(be, out, from, count, err);
}

/* ---- plans ---- */

typedef struct kind {
    const char *name;
    nb_plan plan;
    int32_t made, turned; /* of a layer, once channels are chosen; -1: as before, when they are read */
} kind;

static nb_plan with_mechanism(nb_plan p, int which) {
    if (which == 0)
        p.mechanisms.has_dge = true, p.mechanisms.dge = (nb_dge){.k = 5, .cap = 3};
    if (which == 1)
        p.mechanisms.has_qema = true, p.mechanisms.qema = (nb_qema){.beta = 0.5, .warmup = 0};
    if (which == 2)
        p.mechanisms.has_outcontrol = true,
        p.mechanisms.outcontrol = (nb_outcontrol){.share = 0.1, .multiple = 1, .start = 0, .window = 1};
    return p;
}

static kind kind_of(int which) {
    nb_hcp hcp = patch_of(0.25), exact = hcp;
    nb_plan bf16 = plan_nvfp4(), anew = plan_nvfp4();
    exact.copy = NB_HCP_EXACT;
    bf16.quantize_from = NB_BF16;
    anew.roles[NB_DGRAD_W] = (nb_operand_rule){.quantizer = nvfp4(1, NB_ROUND_EVEN)};
    switch (which) {
    case 0:
        return (kind){"tiles", plan_nvfp4(), 1, 1};
    case 1:
        return (kind){"rows, DGE", with_mechanism(plan_rows(NB_VIA_BF16, nb_quantizer_bf16()), 0), 1, 0};
    case 2:
        return (kind){"rows, folded", plan_rows(NB_VIA_FOLD, row_fp4()), 1, 1};
    case 3:
        return (kind){"both ways of numbers", anew, 2, 0};
    case 4:
        return (kind){"random dgrad.w", plan_double(), 1, 0};
    case 5:
        return (kind){"a patch", plan_hcp(&hcp), 4, 1};
    case 6:
        return (kind){"an exact patch", plan_hcp(&exact), 1, 1};
    case 7:
        return (kind){"of BF16", bf16, -1, -1};
    case 8:
        return (kind){"Q-EMA", with_mechanism(plan_nvfp4(), 1), -1, -1};
    case 9:
        return (kind){"numbers", (nb_plan){.quantized = false}, 1, 0};
    default:
        return (kind){"OutControl, its parts", with_mechanism(plan_double(), 2), 2, 0};
    }
}

/* Of W in a pass all the same: an exact patch, and W put together again for dgrad. */
static bool makes_more(int which) {
    return which == 6 || which == 10;
}

/* ---- steps ---- */

static void ready(ni_linear_group *const *groups, int32_t count, const nb_pass *pass) {
    nb_error err = {0};
    if (ni_linear_groups_ready(groups, count, pass, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static void move_weights(linear_case *c) {
    for (int i = 0; i < N * K; i++)
        c->w[0][i] *= 1 + 0.01f * (float)(i % 7);
    ni_linear_group_changed(c->group);
}

static void end(nb_backend *be, linear_case *listed, linear_case *alone) {
    for (int g = 0; g < GROUPS; g++)
        ni_linear_group_free(listed[g].group);
    ni_linear_group_free(alone->group);
    be->ops = real_ops;
    nb_backend_free(be);
}

static void listed_or_not(void **state) {
    (void)state;
    for (int which = 0; which < 11; which++) {
        const kind k = kind_of(which);
        nb_backend *be = cpu();
        ni_backend_ops counting = *be->ops;
        linear_case listed[GROUPS], alone;
        ni_linear_group *groups[GROUPS];
        real_ops = be->ops;
        counting.make_operands = count_operands;
        counting.make_many = count_many;
        counting.turn = count_turn;
        counting.turn_many = count_turns;
        be->ops = &counting;
        for (int g = 0; g < GROUPS; g++) {
            listed[g] = make_group(be, &k.plan, 1, NULL);
            groups[g] = listed[g].group;
        }
        alone = make_group(be, &k.plan, 1, NULL);
        for (uint32_t at = 0; at < STEPS; at++) {
            const nb_pass pass = {.step = at, .steps = 10, .rounding_seed = 5};
            made_listed = turned_listed = 0;
            ready(groups, GROUPS, &pass);
            if (at == STEPS - 1) {
                assert_int_equal(made_listed, k.made < 0 ? 0 : k.made * GROUPS);
                assert_int_equal(turned_listed, k.turned < 0 ? 0 : k.turned * GROUPS);
            }
            made_alone = turned_alone = 0;
            ready(groups, GROUPS, &pass); /* all is there */
            for (int g = 0; g < GROUPS; g++) {
                run_forward(&listed[g], &pass);
                run_backward(&listed[g], &pass);
            }
            if (at == STEPS - 1 && k.made >= 0 && !makes_more(which))
                assert_int_equal(made_alone + turned_alone, 0);
            run_forward(&alone, &pass);
            run_backward(&alone, &pass);
            for (int g = 0; g < GROUPS; g++) {
                assert_memory_equal(listed[g].y[0].data, alone.y[0].data, M * N * 2);
                assert_memory_equal(listed[g].dx.data, alone.dx.data, M * K * 2);
                assert_memory_equal(listed[g].dw[0], alone.dw[0], N * K * 4);
            }
            for (int g = 0; g < GROUPS; g++) {
                after_step(&listed[g], &pass);
                move_weights(&listed[g]);
            }
            after_step(&alone, &pass);
            move_weights(&alone);
        }
        end(be, listed, &alone);
    }
}

/* ---- before a backward pass ---- */

static int32_t remade_alone;

static bool remakes_all(const nb_operand *out, const nb_operand *from) {
    return from->rows == N && !out->reread;
}

static nb_status count_remade(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                              nb_error *err) {
    remade_alone += makings->transpose && makings->out->rows == K && makings->out->cols == N;
    return real_ops->make_operands(be, source, makings, count, err);
}

static void ready_back(ni_linear_group *const *groups, int32_t count, const nb_pass *pass) {
    nb_error err = {0};
    if (ni_linear_groups_ready_back(groups, count, pass, &err) != NB_OK)
        fail_msg("%s", err.message);
}

static void see_any(void *context, const nb_lens_operand *seen) {
    *(int *)context += seen->role == NB_DGRAD_W;
}

/* W of dgrad that draws bits, of codes and of OutControl's parts: of all groups by one call for each micro-batch, to
 * the bits that it has when it is made alone; by none where a lens looks at it. */
static void before_backward(void **state) {
    (void)state;
    for (int which = 4; which <= 10; which += 6) {
        const kind k = kind_of(which);
        nb_backend *be = cpu();
        ni_backend_ops counting = *be->ops;
        linear_case listed[GROUPS], alone = make_group(be, &k.plan, 1, NULL);
        ni_linear_group *groups[GROUPS];
        real_ops = be->ops;
        counting.make_operands = count_remade;
        counting.make_many = count_many;
        be->ops = &counting;
        be->remakes = remakes_all;
        for (int g = 0; g < GROUPS; g++) {
            listed[g] = make_group(be, &k.plan, 1, NULL);
            groups[g] = listed[g].group;
        }
        for (uint32_t at = 0; at < 2 * STEPS;
             at++) { /* two micro-batches a step; a lens looks at the last one's first */
            int seen = 0;
            const nb_lens lens = {.context = &seen, .operand = see_any, .roles = 1u << NB_DGRAD_W};
            const nb_pass pass = {.step = at / 2,
                                  .micro_batch = at % 2,
                                  .steps = 10,
                                  .rounding_seed = 5,
                                  .lens = at == 2 * STEPS - 2 ? &lens : NULL};
            const nb_pass *const now = clocked(&pass);
            ready(groups, GROUPS, now);
            for (int g = 0; g < GROUPS; g++)
                run_forward(&listed[g], &pass);
            made_listed = 0;
            ready_back(groups, GROUPS, clocked(&pass));
            ready_back(groups, GROUPS, clocked(&pass)); /* all is there */
            assert_int_equal(made_listed, pass.lens ? 0 : GROUPS);
            remade_alone = 0;
            for (int g = 0; g < GROUPS; g++)
                run_backward(&listed[g], &pass);
            assert_int_equal(remade_alone, pass.lens ? GROUPS : 0);
            assert_int_equal(seen, pass.lens ? GROUPS : 0);
            run_forward(&alone, &pass);
            run_backward(&alone, &pass);
            for (int g = 0; g < GROUPS; g++) {
                assert_memory_equal(listed[g].dx.data, alone.dx.data, M * K * 2);
                assert_memory_equal(listed[g].dw[0], alone.dw[0], N * K * 4);
            }
            for (int g = 0; g < GROUPS && at % 2; g++) {
                after_step(&listed[g], &pass);
                move_weights(&listed[g]);
            }
            if (at % 2) {
                after_step(&alone, &pass);
                move_weights(&alone);
            }
        }
        end(be, listed, &alone);
    }
}

static void see_weight(void *context, const nb_lens_operand *seen) {
    assert_int_equal(seen->role, NB_FPROP_W);
    assert_non_null(seen->quantized);
    ++*(int *)context;
}

/* A lens that looks at weights alone sees each once a step, as it was listed. */
static void followed_weights(void **state) {
    (void)state;
    const nb_plan plan = plan_nvfp4();
    int seen = 0;
    const nb_lens lens = {.context = &seen, .operand = see_weight, .roles = 1u << NB_FPROP_W};
    const nb_pass pass = {.steps = 10, .rounding_seed = 5, .lens = &lens};
    nb_backend *be = cpu();
    linear_case c = make_group(be, &plan, 1, NULL);
    for (int step = 0; step < 2; step++) {
        ready(&c.group, 1, &pass);
        const uint32_t made = c.group->layers[0].own[NB_FPROP_W].made;
        run_forward(&c, &pass);
        run_backward(&c, &pass);
        assert_int_equal(seen, step + 1);
        assert_int_equal(c.group->layers[0].own[NB_FPROP_W].made, made);
        move_weights(&c);
    }
    run_forward(&c, &pass0); /* as an evaluation, for nobody to see: made anew where a lens comes then */
    run_forward(&c, &pass);
    assert_int_equal(seen, 3);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

/* Not under a lens that looks at more than weights, nor where a pass multiplies in BF16. */
static void passes_that_look_away(void **state) {
    (void)state;
    const nb_plan plan = plan_nvfp4();
    const nb_lens lens = {.operand = see_weight};
    const nb_pass passes[] = {{.lens = &lens}, {.forward_bf16 = true}, {.backward_bf16 = true}};
    nb_backend *be = cpu();
    linear_case c = make_group(be, &plan, 1, NULL);
    for (int i = 0; i < 3; i++) {
        ready(&c.group, 1, &passes[i]);
        assert_false(c.group->layers[0].own[NB_FPROP_W].fresh);
    }
    ready(&c.group, 1, &pass0);
    assert_true(c.group->layers[0].own[NB_FPROP_W].fresh && c.group->layers[0].own[NB_DGRAD_W].fresh);
    ready(NULL, 0, &pass0);
    ni_linear_group_free(c.group);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(listed_or_not, release_buffers),
                                       cmocka_unit_test_teardown(before_backward, release_buffers),
                                       cmocka_unit_test_teardown(followed_weights, release_buffers),
                                       cmocka_unit_test_teardown(passes_that_look_away, release_buffers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
