/* test_model_masters.c: two models that share masters out compute, of each other's codes, what one does that has all.
 */
#include "backend/table.h"
#include "model_case.h"

#include "model/handed.h"
#include "model/masters.h"
#include "nibble/lens.h"

static const nb_pass first = {.step = 3, .steps = 10, .rounding_seed = 9};

/* Masters of the tensors begin .. end - 1, and, `all`, those of the others. */
static nb_model *part_of(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe, int32_t begin,
                         int32_t end, bool all) {
    const nb_model_options how = {.batch = CASE_BATCH, .seq = CASE_SEQ, .training = true};
    const ni_model_shared shared = {.hands_codes = true, .parted = true};
    nb_model *model = NULL;
    nb_error err = {0};
    if (ni_model_create(be, config, recipe, &how, &shared, &model, &err) != NB_OK ||
        ni_model_part_masters(model, begin, end, all, &err) != NB_OK)
        fail_msg("%s", err.message);
    nb_model_init(model, 1234);
    return model;
}

static size_t bytes_of(const nb_model *model, int32_t index) {
    const nb_param *p = nb_model_param(model, index);
    return (size_t)(p->rows * p->cols) * sizeof(float);
}

/* Everything that `to` lacks of what `from` has; returns how many tensors. */
static int hand(nb_model *from, nb_model *to) {
    int count = 0;
    nb_error err = {0};
    for (int32_t i = 0; i < nb_model_param_count(from); i++) {
        if (!ni_model_master(from, i).data || ni_model_master(to, i).data)
            continue;
        void *parcel = poisoned(ni_model_handed_bytes(from, i));
        if (ni_model_put(from, i, &first, parcel, &err) != NB_OK || ni_model_take(to, i, parcel, &err) != NB_OK)
            fail_msg("%s", err.message);
        count++;
    }
    return count;
}

static void count_seen(void *context, const nb_lens_operand *seen) {
    (void)seen;
    (*(int *)context)++;
}

/* One's loss and gradients are the whole model's, whether or not a lens that counts looks at it. */
static void expect_same(nb_model *part, nb_model *whole) {
    case_batch b;
    int seen = 0;
    const nb_lens lens = {.context = &seen, .counts = true, .operand = count_seen};
    const size_t bytes = (size_t)nb_model_param_elements(whole) * sizeof(float);
    make_case_batch(&b, nb_model_get_config(whole)->vocab, 5);
    for (int looked_at = 0; looked_at < 2; looked_at++) {
        nb_pass pass = first;
        pass.lens = looked_at ? &lens : NULL;
        memset(nb_model_grads(part), 0, bytes);
        memset(nb_model_grads(whole), 0, bytes);
        assert_true(loss_and_grads_of(part, &b, &pass) == loss_and_grads_of(whole, &b, &first));
        check_equal_bytes("gradients", nb_model_grads(part), nb_model_grads(whole), bytes);
    }
    assert_true(seen > 0);
}

/* Every family, tied or not. */
static void parts_compute_what_the_whole_does(void **state) {
    (void)state;
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    for (int kind = 0; kind < 8; kind++) {
        nb_model_config config = case_config((nb_family)(kind / 2), kind % 2);
        nb_recipe recipe = kind % 2 ? nvfp4_recipe() : bf16_recipe();
        nb_model *whole = case_model(be, &config, &recipe, true);
        const int32_t count = nb_model_param_count(whole), half = count / 2;
        nb_model *a = part_of(be, &config, &recipe, 0, half, false);
        nb_model *b = part_of(be, &config, &recipe, half, count, false);
        int lacking[2] = {0, 0};
        for (int32_t i = 0; i < count; i++) {
            const float *in[] = {ni_model_master(a, i).data, ni_model_master(b, i).data};
            const float *there = (const float *)nb_model_params(whole) + nb_model_param(whole, i)->offset;
            assert_true(in[0] || in[1]);
            assert_true(!(in[0] && in[1]) || nb_model_param(whole, i)->rank == 1 ||
                        nb_model_param(whole, i)->embedding);
            for (int m = 0; m < 2; m++) {
                lacking[m] += !in[m];
                if (in[m])
                    check_equal_bytes(nb_model_param(whole, i)->name, in[m], there, bytes_of(whole, i));
            }
        }
        assert_null(nb_model_params(a));
        assert_int_equal(hand(a, b), lacking[1]);
        assert_int_equal(hand(b, a), lacking[0]);
        assert_true(lacking[0] > 2 && lacking[1] > 2);
        expect_same(a, whole);
        expect_same(b, whole);
        nb_model_free(a);
        nb_model_free(b);
        nb_model_free(whole);
    }
    nb_backend_free(be);
}

/* A copy holds what is here; who has a place for all gets no more than that back. */
static void copies_hold_what_is_here(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_recipe recipe = nvfp4_recipe();
    nb_model *probe = case_model(be, &config, &recipe, true);
    const int32_t count = nb_model_param_count(probe), half = count / 2;
    nb_model *part = part_of(be, &config, &recipe, 0, half, false);
    nb_model *all = part_of(be, &config, &recipe, 0, half, true);
    nb_error err = {0};
    ni_master_copy copy;
    assert_int_equal(ni_model_copy_masters(part, &copy, &err), NB_OK);
    nb_model_init(all, 99);
    ni_model_restore_masters(all, &copy);
    nb_model_init(part, 99);
    int changed = 0;
    for (int32_t i = 0; i < count; i++) {
        const float *now = ni_model_master(all, i).data, *other = ni_model_master(part, i).data;
        const float *old = (const float *)nb_model_params(probe) + nb_model_param(probe, i)->offset;
        assert_non_null(now);
        if (!other) {
            changed += memcmp(now, old, bytes_of(probe, i)) != 0;
            continue;
        }
        check_equal_bytes(nb_model_param(probe, i)->name, now, old, bytes_of(probe, i));
    }
    assert_true(changed > 2); /* what the copy does not hold is as it was drawn anew */
    ni_master_copy_free(&copy);
    nb_model_free(part);
    nb_model_free(all);
    nb_model_free(probe);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_compute_what_the_whole_does),
                                       cmocka_unit_test(copies_hold_what_is_here)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
