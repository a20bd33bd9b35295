/* JSON is read whole or not at all, whichever allocation of the parser fails. */
#include "harness.h"

#include "files/json.h"

static int left;

static void *sparing(size_t size) {
    return left-- == 0 ? NULL : malloc(size);
}

/* Pieces longer than any before them, so that the lexer's buffer grows in every one. */
static const char *const good[] = {
    "{}",
    "[]",
    "{\"a\": 1, \"a name of more than sixteen bytes\": [12345678901234567, -1.2345678901234567890123456789e-10]}",
    "[\"\", \"0123456789abcdef\", \"0123456789abcdef0123456789abcdef\", \"quotes \\\" and \\\\\", \"\\\\\"]",
    "[true, \"\\u00e9\\ud83d\\ude00 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"]",
    "  {\"x\": {\"y\": [null, {\"z\": \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789\"}]}} \n",
};

static void test_whole_or_nothing(void **state) {
    (void)state;
    json_malloc_t was_malloc;
    json_free_t was_free;
    json_get_alloc_funcs(&was_malloc, &was_free);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *expected = json_loads(good[i], 0, NULL);
        int failed = 0;
        assert_non_null(expected);
        for (int n = 0;; n++) { /* the n-th fails */
            json_error_t where;
            left = n;
            json_set_alloc_funcs(sparing, free);
            json_t *read = ni_json_load(good[i], strlen(good[i]), &where);
            json_set_alloc_funcs(was_malloc, was_free);
            const bool reached = left < 0;
            if (read)
                assert_true(json_equal(read, expected));
            else
                assert_true(ni_json_lacked_memory(&where));
            failed += !read;
            json_decref(read);
            if (!reached)
                break;
        }
        assert_int_equal(failed, 0); /* one that fails is made up for by a second reading */
        json_decref(expected);
    }
}

static void *none_from_here(size_t size) {
    return left-- <= 0 ? NULL : malloc(size);
}

static void test_no_memory(void **state) {
    (void)state;
    json_malloc_t was_malloc;
    json_free_t was_free;
    json_get_alloc_funcs(&was_malloc, &was_free);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *expected = json_loads(good[i], 0, NULL), *read = NULL;
        for (int n = 0; !read; n++) {
            json_error_t where;
            left = n;
            json_set_alloc_funcs(none_from_here, free);
            read = ni_json_load(good[i], strlen(good[i]), &where);
            json_set_alloc_funcs(was_malloc, was_free);
            if (read)
                assert_true(json_equal(read, expected));
        }
        json_decref(read);
        json_decref(expected);
    }
}

/* What is around it must not make a text of what is none, nor the other way round. */
static void test_as_jansson_does(void **state) {
    (void)state;
    static const char *const texts[] = {"",
                                        " ",
                                        "1",
                                        "\"a\"",
                                        "{} {}",
                                        "{}]",
                                        "{},{}",
                                        "1,{}",
                                        "],[",
                                        "{}],[{}",
                                        "[",
                                        "]",
                                        "{\"a\":1",
                                        "{\"a\":",
                                        "[\"a",
                                        "[\"a\\",
                                        "[1,]",
                                        "[01]",
                                        "{\"a\":1,\"a\":2}",
                                        "[\"\\u0000\"]",
                                        "[\"\xff\"]",
                                        "[1e999]",
                                        "nul",
                                        "[tru]",
                                        "{}",
                                        "[ [] ]",
                                        "[\"\\\\\"]",
                                        "[\"\\\"\"]"};
    static const size_t flags[] = {JSON_REJECT_DUPLICATES, JSON_ALLOW_NUL};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (int f = 0; f < 2; f++) {
            json_error_t plain, ours;
            json_t *expected = json_loadb(texts[i], strlen(texts[i]), flags[f], &plain);
            json_t *read = ni_json_read(texts[i], strlen(texts[i]), flags[f], &ours);
            assert_int_equal(read != NULL, expected != NULL);
            if (read)
                assert_true(json_equal(read, expected));
            else
                assert_string_equal(ours.text, plain.text);
            json_decref(read);
            json_decref(expected);
        }
    json_t *nul = ni_json_read("{}\0", 3, 0, NULL);
    assert_null(nul);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_or_nothing),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_as_jansson_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
