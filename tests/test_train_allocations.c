/* test_train_allocations.c: a training step asks for memory only the first time. (Mechanisms that decide anew every so
 * many steps, as hcp.refresh, hold lists on the host while they do; such steps are not among these.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train_case.h"

/* The linker gives the library and this test these functions for those of the C library (--wrap in CMakeLists.txt).
 * What shared libraries allocate for themselves is not seen. */
static int64_t allocations;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);

static void count_one(void) {
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
}

void *__wrap_malloc(size_t size) {
    count_one();
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
    count_one();
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size) {
    count_one();
    return __real_realloc(memory, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    count_one();
    return __real_aligned_alloc(alignment, size);
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t size) {
    count_one();
    return __real_posix_memalign(memory, alignment, size);
}

/* As small as all block formats allow. */
static const char *const families[] = {
    "family: llama\nkv_heads: 1\n",
    "family: gla\n",
};

/* Three steps under `recipe`; the first may allocate. */
static void later_steps(void **state, const char *family, const char *recipe) {
    char model[512], recipe_key[64], model_key[700];
    nb_error err = {0};
    snprintf(model, sizeof model,
             "name: small\nvocab: 64\nhidden: 128\nlayers: 3\nheads: 1\nintermediate: 128\nmax_seq: 32\n%s", family);
    assert_int_equal(ni_file_write(in_folder(state, "small.yaml"), model, strlen(model), &err), NB_OK);
    snprintf(model_key, sizeof model_key, "model=%s", in_folder(state, "small.yaml"));
    snprintf(recipe_key, sizeof recipe_key, "recipe=%s", recipe);
    nb_run_config config = case_config(state, "allocations", model_key, recipe_key, "seq=32", "micro_batch=4",
                                       "accumulation=2", "checkpoint.every=0", "eval.every=0", "steps=8", NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer *trainer;
    nb_step_report report;
    int64_t before_any = allocations;
    if (case_create(be, &config, NULL, &trainer, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_true(allocations > before_any); /* they are seen */
    for (int step = 1; step <= 3; step++) {
        int64_t before = allocations;
        assert_int_equal(nb_trainer_step(trainer, &report, &err), NB_OK);
        if (step > 1 && allocations != before)
            fail_msg("%.12s under %s: %lld allocations in step %d", family, recipe, (long long)(allocations - before),
                     step);
    }
    nb_trainer_free(trainer);
    nb_backend_free(be);
}

static void softmax_attention(void **state) {
    static const char *const recipes[] = {"bf16",     "nvfp4",       "fp8",         "fp4-dge-occ",        "fp4-msamp",
                                          "fp4-fork", "tetrajet-v1", "tetrajet-v2", "tetrajet-v2-memeff", "chon"};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        later_steps(state, families[0], recipes[i]);
}

static void gated_linear_attention(void **state) {
    later_steps(state, families[1], "bf16");
    later_steps(state, families[1], "chon");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)

int main(void) {
    const struct CMUnitTest tests[] = {CASE(softmax_attention), CASE(gated_linear_attention)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
