/* test_train_memory.c: the memory table is what the process holds, within 5 %, and steps take no more of it; it is
 * known before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train_case.h"

#include <malloc.h>

static void table_equals_process(void **state, const char *recipe) {
    nb_run_config config = case_config(state, "memory", "model=" NI_TEST_SOURCE "/models/llama-tiny.yaml", recipe,
                                       "seq=32", "micro_batch=4", "accumulation=4", "checkpoint.every=0",
                                       "eval.every=0", "lens.every=0", "steps=3", NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer *trainer;
    nb_error err = {0};
    nb_peak peak;
    assert_int_equal(nb_measure_peak(be, &peak, &err), NB_OK); /* libraries take their own memory here */
    malloc_trim(0); /* what an earlier test left in the heap is no part of this one */
    double before = anonymous_bytes();
#ifdef NI_TEST_SANITIZED
    before = 0; /* a sanitizer's shadow memory is no part of the table */
#endif
    if (before == 0) {
        nb_backend_free(be);
        skip();
    }
    assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
    nb_step_report report;
    assert_int_equal(nb_trainer_step(trainer, &report, &err), NB_OK);
    double after_one = anonymous_bytes();
    assert_int_equal(nb_trainer_step(trainer, &report, &err), NB_OK);
    assert_int_equal(nb_trainer_step(trainer, &report, &err), NB_OK);
    double after_three = anonymous_bytes(), table = 0;
    nb_memory_row rows[32];
    int32_t count = nb_trainer_memory(trainer, rows, 32);
    assert_in_range(count, 5, 32);
    for (int32_t i = 0; i < count; i++)
        table += (double)rows[i].bytes;
    printf("%s: table %.1f MiB, process %.1f MiB\n", recipe, table / 1048576, (after_one - before) / 1048576);
    assert_true(table > 0.95 * (after_one - before) && table < 1.05 * (after_one - before));
    assert_true(after_three - after_one < 0.01 * table);
    nb_trainer_free(trainer);
    nb_backend_free(be);
}

static int32_t rows_of(nb_backend *be, const nb_run_config *config, bool on_paper, nb_memory_row rows[32]) {
    const nb_trainer_options how = {.recipes_dir = NI_TEST_SOURCE "/recipes", .on_paper = on_paper};
    nb_trainer *trainer;
    nb_error err = {0};
    if (nb_trainer_create(be, config, &how, &trainer, &err) != NB_OK)
        fail_msg("%s", err.message);
    const int32_t count = nb_trainer_memory(trainer, rows, 32);
    nb_trainer_free(trainer);
    nb_backend_free(be);
    return count;
}

/* What `nibble train` shows where it could not have it: the same rows, of a trainer on paper. */
static void rows_before_the_first_byte(void **state) {
    static const char *const recipes[] = {"recipe=bf16", "recipe=nvfp4",     "recipe=chon", "recipe=fp4-msamp",
                                          "recipe=fp8",  "recipe=quartet-2", "recipe=mxfp4"};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        const nb_run_config config =
            case_config(state, "before", "model=" NI_TEST_SOURCE "/models/llama-tiny.yaml", recipes[i], "seq=32",
                        "micro_batch=4", "accumulation=2", "lens.every=0", "steps=3", NULL);
        const nb_backend_options how = {.threads = config.threads};
        nb_backend *paper;
        nb_memory_row planned[32], held[32];
        assert_int_equal(nb_backend_open("paper", &how, &paper, NULL), NB_OK);
        const int32_t count = rows_of(paper, &config, true, planned);
        assert_int_equal(rows_of(case_backend(&config), &config, false, held), count);
        assert_in_range(count, 5, 32);
        for (int32_t r = 0; r < count; r++) {
            assert_string_equal(planned[r].what, held[r].what);
            assert_int_equal(planned[r].bytes, held[r].bytes);
        }
    }
}

static void bf16_table(void **state) {
    table_equals_process(state, "recipe=bf16");
}

static void nvfp4_table(void **state) {
    table_equals_process(state, "recipe=nvfp4");
}

static void narrow_table(void **state) {
    table_equals_process(state, "recipe=fp4-msamp");
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {CASE(nvfp4_table), CASE(bf16_table), CASE(narrow_table),
                                       CASE(rows_before_the_first_byte)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
