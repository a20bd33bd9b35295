/* test_decode_stream.c: tokens that come one by one give the text of all of them, of every kind of tokenizer, by
 * windows that stay short. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "data/decode_stream.h"
#include "data/sentencepiece.h"
#include "files/file.h"

static const char text[] = " two  spaces\n\n \ttab, caf\xc3\xa9, \xe2\x82\xac and \xf0\x9f\x8e\x88 \xf0\x9f\x8e\x88;"
                           " bex axe exe, the end of the text \xe4\xb8\xad\xe6\x96\x87.  ";

/* What ends in U+FFFD waits. */
static bool waits(const char *decoded, size_t size) {
    return size >= 3 && memcmp(decoded + size - 3, "\xef\xbf\xbd", 3) == 0;
}

/* After each token the stream has said what is there when all tokens up to it are decoded. `longest`: of its window. */
static int64_t check(const ni_tokenizer *t, const int32_t *ids, int64_t first, int64_t count) {
    char *said = calloc(1, 1), *whole, *more;
    size_t said_size = 0, size, more_size;
    int64_t longest = 0;
    ni_decode_stream s;
    nb_error err = {0};
    assert_int_equal(ni_decode_stream_open(t, &s, &err), NB_OK);
    for (int64_t at = 0, next = first; next <= count; at = next, next = at + 1) {
        if (ni_decode_stream_add(&s, ids + at, next - at, &more, &more_size, &err) != NB_OK)
            fail_msg("%s", err.message);
        assert_int_equal(more[more_size], 0);
        said = realloc(said, said_size + more_size + 1);
        memcpy(said + said_size, more, more_size + 1);
        said_size += more_size;
        assert_int_equal(ni_tokenizer_decode(t, ids, next, &whole, &size, &err), NB_OK);
        assert_true(said_size <= size);
        assert_memory_equal(said, whole, said_size);
        if (!waits(whole, size))
            assert_int_equal(said_size, size);
        if (s.window.count > longest)
            longest = s.window.count;
        free(whole);
        free(more);
    }
    ni_decode_stream_free(&s);
    free(said);
    return longest;
}

/* The ids of a text, then any ids: bytes that make no character, beginnings and ends among them. */
static ni_tokens make_ids(const ni_tokenizer *t, uint32_t seed, int64_t noise) {
    ni_tokens ids = {0};
    if (seed % 2 == 0)
        assert_int_equal(ni_tokenizer_encode(t, text, sizeof text - 1, false, &ids, NULL, NULL), NB_OK);
    for (int64_t i = 0; i < noise; i++) {
        int32_t id = (int32_t)(ni_philox(seed, 7, (uint32_t)i, 0, 0, 0).w[0] % (uint32_t)ni_tokenizer_vocab(t));
        assert_int_equal(ni_tokens_add(&ids, &id, 1, NULL), NB_OK);
    }
    return ids;
}

/* Frees the tokenizer. */
static void check_tokenizer(ni_tokenizer *t, const char *name, bool keeps_all) {
    int64_t longest = 0;
    for (uint32_t seed = 0; seed < 40; seed++) {
        ni_tokens ids = make_ids(t, seed, 20 + 5 * seed);
        int64_t window = check(t, ids.ids, 1 + seed % 4, ids.count);
        longest = window > longest ? window : longest;
        ni_tokens_free(&ids);
    }
    print_message("%s: windows of at most %d tokens\n", name, (int)longest);
    if (!keeps_all)
        assert_true(longest <= 32);
    ni_tokenizer_free(t);
}

static ni_tokenizer *load(const char *path) {
    ni_tokenizer *t;
    nb_error err = {0};
    if (ni_tokenizer_load(path, &t, &err) != NB_OK)
        fail_msg("%s", err.message);
    return t;
}

static void bytes_and_byte_pairs(void **state) {
    (void)state;
    check_tokenizer(load("bytes"), "bytes", false);
    check_tokenizer(load(NI_TEST_GOLDEN "/tokenizers/gpt2.json"), "gpt2", false);
    check_tokenizer(load(NI_TEST_GOLDEN "/tokenizers/olmo2.json"), "olmo2", false);
}

/* A model of bytes with fields behind it, which win over those before. */
static ni_tokenizer *with(const char *model, size_t size, const char *fields, size_t more) {
    ni_tokenizer *t;
    nb_error err = {0};
    char *bytes = malloc(size + more);
    memcpy(bytes, model, size);
    memcpy(bytes + size, fields, more);
    if (ni_tokenizer_parse(bytes, size + more, &t, &err) != NB_OK)
        fail_msg("%s", err.message);
    free(bytes);
    return t;
}

/* The space before a text, which is not decoded, and all spaces before it, where the model takes away such. */
static void sentencepiece_at_the_beginning(void **state) {
    (void)state;
    static const char said[3][7] = {"\x1a\x04\x18\x00\x20\x00", "\x1a\x04\x18\x01\x20\x00", "\x1a\x04\x18\x01\x20\x01"};
    ni_tokenizer *small;
    ni_text given = {text, sizeof text - 1};
    const void *model;
    size_t size;
    nb_error err = {0};
    if (ni_tokenizer_train(&given, 1, 290, &small, &err) != NB_OK)
        fail_msg("%s", err.message);
    const ni_sp *sp = ni_tokenizer_sp(small, &model, &size);
    for (int i = 0; i < 3; i++) {
        ni_tokenizer *t = with(model, size, said[i], 6);
        const int32_t space = ni_sp_id(sp, "\xe2\x96\x81"), opening[5] = {1, space, space, 1, space};
        assert_true(space >= 0);
        for (int64_t first = 1; first <= 4; first++)
            check(t, opening, first, 5);
        check_tokenizer(t, i == 0 ? "as trained" : i == 1 ? "dummy prefix" : "fewer spaces", false);
    }
    ni_tokenizer_free(small);
    check_tokenizer(load(NI_TEST_GOLDEN "/hf/llama-text/tokenizer.model"), "llama", false);
}

/* The table of rules.model, which turns characters into others, is given to decoded text as well. */
static void sentencepiece_that_rewrites(void **state) {
    (void)state;
    enum { SPEC = 878, SPEC_SIZE = 1065 };
    char *model, rewritten[SPEC_SIZE];
    size_t size;
    assert_int_equal(
        ni_file_read(NI_TEST_SOURCE "/tests/fuzz/corpus/tokenizer/rules.model", 1 << 20, &model, &size, NULL), NB_OK);
    assert_int_equal(size, SPEC + SPEC_SIZE);
    check_tokenizer(with(model, size, "", 0), "rules", false);
    memcpy(rewritten, model + SPEC, SPEC_SIZE);
    assert_int_equal(rewritten[0], 3 << 3 | 2);
    rewritten[0] = 5 << 3 | 2;
    check_tokenizer(with(model, size, rewritten, SPEC_SIZE), "rules, and for decoded text", true);
    free(model);
}

static void what_is_no_token_is_refused(void **state) {
    (void)state;
    ni_tokenizer *t = load("bytes");
    ni_decode_stream s;
    nb_error err = {0};
    const int32_t bad = 257;
    char *more;
    size_t size;
    assert_int_equal(ni_decode_stream_open(t, &s, &err), NB_OK);
    assert_int_equal(ni_decode_stream_add(&s, &bad, 1, &more, &size, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "not in the tokenizer's vocabulary"));
    ni_decode_stream_free(&s);
    ni_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_byte_pairs),
        cmocka_unit_test(sentencepiece_at_the_beginning),
        cmocka_unit_test(sentencepiece_that_rewrites),
        cmocka_unit_test(what_is_no_token_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
