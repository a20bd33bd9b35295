/* test_linear_hcp_choice.c: which channels the Hot-Channel Patch (arXiv:2602.02047) chooses, when, and what it says of
 * them. */
#include "hcp_case.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_choice_waits_for_its_step, release_buffers),
        cmocka_unit_test_teardown(refreshes, release_buffers),
        cmocka_unit_test_teardown(averages_are_corrected_for_their_beginning, release_buffers),
        cmocka_unit_test_teardown(choices_are_the_same_everywhere, release_buffers),
        cmocka_unit_test_teardown(follows_the_master, release_buffers),
        cmocka_unit_test_teardown(resumes, release_buffers),
        cmocka_unit_test_teardown(blocks_are_told, release_buffers),
        cmocka_unit_test_teardown(normalized_scores_find_what_hurts, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
