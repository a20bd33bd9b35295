/* JSON is read whole or not at all, whichever allocation of the parser fails. */
#include "harness.h"

#include "files/json.h"

#include <stdlib.h>
#include <unistd.h>

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
            left = n;
            json_set_alloc_funcs(sparing, free);
            json_t *read = ni_json_load(good[i], strlen(good[i]), NULL);
            json_set_alloc_funcs(was_malloc, was_free);
            const bool reached = left < 0;
            if (read)
                assert_true(json_equal(read, expected));
            failed += !read;
            json_decref(read);
            if (!reached)
                break;
        }
        assert_int_equal(failed, 0); /* one that fails is made up for by a second reading */
        json_decref(expected);
    }
}

/* Memory of which there is so much and no more. */
enum { HEAD = 16 };
static size_t limit, used;

static void *within_limit(size_t size) {
    size_t *all = size <= limit - used ? malloc(size + HEAD) : NULL;
    if (!all)
        return NULL;
    used += *all = size;
    return (char *)all + HEAD;
}

static void give_back(void *memory) {
    if (!memory)
        return;
    size_t *all = (size_t *)((char *)memory - HEAD);
    used -= *all;
    free(all);
}

static void test_no_memory(void **state) {
    (void)state;
    json_malloc_t was_malloc;
    json_free_t was_free;
    json_get_alloc_funcs(&was_malloc, &was_free);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *expected = json_loads(good[i], 0, NULL);
        bool whole = false;
        for (limit = 0; !whole; limit += 8) {
            json_error_t where;
            json_set_alloc_funcs(within_limit, give_back);
            json_t *read = ni_json_load(good[i], strlen(good[i]), &where);
            whole = read;
            if (read)
                assert_true(json_equal(read, expected));
            else
                assert_true(ni_json_lacked_memory(&where));
            json_decref(read);
            json_set_alloc_funcs(was_malloc, was_free);
            assert_int_equal(used, 0);
        }
        json_decref(expected);
    }
}

/* "An error is never taken for an absence" (docs/reliability.md). */
static void test_if_there(void **state) {
    (void)state;
    static const struct {
        const char *holds;
        nb_status status;
    } files[] = {
        {NULL, NB_OK}, {"{\"a\": 1}", NB_OK}, {"{\"a\": ", NB_BAD_FILE}, {"", NB_BAD_FILE}, {"[]", NB_BAD_FILE}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[] = "/tmp/nibble-json-XXXXXX";
        const int file = mkstemp(path);
        nb_error err;
        json_t *read;
        assert_true(file >= 0);
        if (files[i].holds)
            assert_int_equal(write(file, files[i].holds, strlen(files[i].holds)), strlen(files[i].holds));
        else
            unlink(path);
        close(file);
        assert_int_equal(ni_json_load_if_there(path, &read, &err), files[i].status);
        assert_int_equal(read != NULL, files[i].holds && files[i].status == NB_OK);
        json_decref(read);
        unlink(path);
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
        cmocka_unit_test(test_if_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
