/* test_cudnn_kept.c: which of cuDNN's plans are kept (src/backend/cuda/cudnn_kept.c). */
#include "harness.h"

#include "backend/cuda/cudnn_kept.h"

static ni_cudnn_shape of_length(int64_t seq) {
    return (ni_cudnn_shape){.batch = 2, .seq = seq, .heads = 4, .kv_heads = 2, .head_dim = 64, .q_stride = 256};
}

/* Asks, and fills what is not there yet with a plan that says which shape it is of: an address in `plans`. */
static ni_cudnn_kept *ask(ni_cudnn_kept_list *list, int64_t seq, char *plans, bool expected) {
    const ni_cudnn_shape shape = of_length(seq);
    bool found;
    ni_cudnn_kept *kept = ni_cudnn_kept_find(list, &shape, &found);
    assert_int_equal(found, expected);
    assert_int_equal(kept->shape.seq, seq);
    if (!found)
        kept->plan.plan = plans + seq;
    assert_ptr_equal(kept->plan.plan, plans + seq);
    return kept;
}

static void every_number_of_a_shape_counts(void **state) {
    (void)state;
    ni_cudnn_kept_list list = {0};
    const ni_cudnn_shape first = of_length(8);
    bool found;
    ni_cudnn_kept *kept = ni_cudnn_kept_find(&list, &first, &found);
    assert_false(found);
    assert_ptr_equal(ni_cudnn_kept_find(&list, &first, &found), kept);
    assert_true(found);
    for (size_t i = 0; i < sizeof first / sizeof(int64_t); i++) {
        ni_cudnn_shape other = first;
        int64_t words[sizeof first / sizeof(int64_t)];
        memcpy(words, &other, sizeof words);
        words[i]++;
        memcpy(&other, words, sizeof other);
        assert_ptr_not_equal(ni_cudnn_kept_find(&list, &other, &found), kept);
        assert_false(found);
    }
    assert_ptr_equal(ni_cudnn_kept_find(&list, &first, &found), kept);
    assert_true(found);
}

/* What no library has is known again, with the reason. */
static void a_refusal_is_kept(void **state) {
    (void)state;
    ni_cudnn_kept_list list = {0};
    const ni_cudnn_shape shape = of_length(3);
    bool found;
    ni_cudnn_kept *kept = ni_cudnn_kept_find(&list, &shape, &found);
    snprintf(kept->why, sizeof kept->why, "no engine");
    kept = ni_cudnn_kept_find(&list, &shape, &found);
    assert_true(found);
    assert_null(kept->plan.plan);
    assert_string_equal(kept->why, "no engine");
}

/* All places taken: the shape goes that was asked for longest ago, and its plan comes back to be freed. */
static void the_oldest_gives_way(void **state) {
    (void)state;
    static char plans[4 * NI_CUDNN_KEPT];
    ni_cudnn_kept_list list = {0};
    bool found;
    for (int64_t seq = 1; seq <= NI_CUDNN_KEPT; seq++)
        ask(&list, seq, plans, false);
    for (int64_t seq = 1; seq <= NI_CUDNN_KEPT; seq++)
        ask(&list, seq, plans, true);
    ask(&list, 1, plans, true); /* now 2 is the oldest */
    const ni_cudnn_shape next = of_length(NI_CUDNN_KEPT + 1);
    ni_cudnn_kept *kept = ni_cudnn_kept_find(&list, &next, &found);
    assert_false(found);
    assert_ptr_equal(kept->plan.plan, plans + 2);
    assert_string_equal(kept->why, "");
    kept->plan.plan = plans + NI_CUDNN_KEPT + 1;
    ask(&list, 1, plans, true);
    for (int64_t seq = 4; seq <= NI_CUDNN_KEPT + 1; seq++)
        ask(&list, seq, plans, true);
    const ni_cudnn_shape gone = of_length(2);
    kept = ni_cudnn_kept_find(&list, &gone, &found);
    assert_false(found);
    assert_ptr_equal(kept->plan.plan, plans + 3); /* 3 was asked for before all of those */
}

/* Lengths that grow one by one for longer than the list is: the shape that is asked for between them stays. */
static void what_is_in_use_stays(void **state) {
    (void)state;
    static char plans[4 * NI_CUDNN_KEPT];
    ni_cudnn_kept_list list = {0};
    ni_cudnn_kept *in_use = ask(&list, 0, plans, false);
    for (int64_t seq = 1; seq < 4 * NI_CUDNN_KEPT; seq++) {
        const ni_cudnn_shape shape = of_length(seq);
        bool found;
        ni_cudnn_kept *kept = ni_cudnn_kept_find(&list, &shape, &found);
        assert_false(found);
        const int64_t oldest = seq - (NI_CUDNN_KEPT - 1);
        assert_ptr_equal(kept->plan.plan, oldest > 0 ? plans + oldest : NULL);
        kept->plan.plan = plans + seq;
        assert_ptr_equal(ask(&list, 0, plans, true), in_use);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_a_shape_counts),
        cmocka_unit_test(a_refusal_is_kept),
        cmocka_unit_test(the_oldest_gives_way),
        cmocka_unit_test(what_is_in_use_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
