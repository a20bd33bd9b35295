/* test_train_memory.c: the memory table is what the process holds, within 5 %, and steps take no more of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train_case.h"

#include <malloc.h>

/* Memory of the process that no file backs, in bytes; 0 where the system does not say. */
static double anonymous_bytes(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    double kilobytes = 0;
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "RssAnon:", 8) == 0)
            kilobytes = strtod(line + 8, NULL);
    if (status)
        fclose(status);
    return kilobytes * 1024;
}

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
    const struct CMUnitTest tests[] = {CASE(nvfp4_table), CASE(bf16_table), CASE(narrow_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
