/* test_bpe.c: tokenizer.json of byte-level BPE: ids of the tokenizers package (scripts/golden_tokenizers.py), what is
 * refused, and training. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>

#include "base/philox.h"
#include "data/pretokenizer.h"
#include "data/tokenizer.h"
#include "data/tokenizer_corpus.h"
#include "files/file.h"
#include "temporary.h"

static const char *const kinds[] = {"gpt2", "llama3", "qwen", "olmo2"};
enum { KINDS = 4, GPT2 = 0, LLAMA3 = 1, QWEN = 2 };

static const char *golden(const char *kind, const char *ending) {
    static char path[512];
    snprintf(path, sizeof path, "%s/tokenizers/%s.%s", NI_TEST_GOLDEN, kind, ending);
    return path;
}

static ni_tokenizer *load(const char *name) {
    ni_tokenizer *t = NULL;
    nb_error err = {0};
    if (ni_tokenizer_load(name, &t, &err) != NB_OK)
        fail_msg("%s", err.message);
    return t;
}

static ni_tokens encode(const ni_tokenizer *t, const char *text, size_t size) {
    ni_tokens ids = {0};
    nb_error err = {0};
    if (ni_tokenizer_encode(t, text, size, false, &ids, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    return ids;
}

static void read_golden(const char *path, char **text) {
    size_t size;
    nb_error err = {0};
    if (ni_file_read(path, 1 << 22, text, &size, &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* ---- the ids of the tokenizers package ---- */

static void check_line(const ni_tokenizer *t, const char *kind, char *line) {
    static char text[1 << 16];
    char *at = strchr(line, '\t');
    size_t size = 0;
    for (const char *hex = line; hex + 1 < at; hex += 2, size++) {
        const char two[3] = {hex[0], hex[1], 0};
        text[size] = (char)strtol(two, NULL, 16);
    }
    ni_tokens ids = encode(t, text, size);
    at++;
    for (int64_t i = 0; i < ids.count; i++) {
        const long want = isdigit((unsigned char)*at) ? strtol(at, &at, 10) : -1;
        if (want != ids.ids[i])
            fail_msg("%s: token %d of '%.*s' is %d, and %ld of tokenizers", kind, (int)i, (int)size, text, ids.ids[i],
                     want);
        at += *at == ' ';
    }
    if (*at)
        fail_msg("%s: '%.*s' lacks tokens: %.40s", kind, (int)size, text, at);
    ni_tokens_free(&ids);
}

static void ids_are_those_of_tokenizers(void **state) {
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        ni_tokenizer *t = load(golden(kinds[k], "json"));
        char *text;
        int lines = 0;
        read_golden(golden(kinds[k], "ids"), &text);
        for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
            *end = 0;
            check_line(t, kinds[k], line);
        }
        assert_true(lines > 90);
        assert_string_equal(ni_tokenizer_kind(t), "bpe");
        free(text);
        ni_tokenizer_free(t);
    }
}

/* ---- long texts ---- */

/* Words, runs of white space of every kind, digits, marks, emoji: as a corpus of strangers may have them. */
static char *make_text(size_t size, uint32_t seed) {
    static const char *const parts[] = {" the",
                                        " quick",
                                        "Brown",
                                        "\n",
                                        "\n\n",
                                        "  ",
                                        "    ",
                                        "\t",
                                        "12",
                                        " 345",
                                        ".",
                                        ",\n",
                                        "it's",
                                        "\xc3\xa9",
                                        "e\xcc\x81",
                                        "\xe4\xb8\x80",
                                        " \xf0\x9f\x98\x80",
                                        "\xc2\xa0",
                                        "\r\n",
                                        "<|endoftext|>",
                                        "\xe2\x80\xa9",
                                        "())",
                                        " =",
                                        "\xff"};
    char *text = malloc(size + 64);
    size_t used = 0;
    for (uint32_t i = 0; used < size; i++)
        used += (size_t)snprintf(text + used, 64, "%s", parts[ni_philox(seed, 1, i, 0, 0, 0).w[0] % 24]);
    text[used] = 0;
    return text;
}

/* Whatever the parts that a text is cut into: a part sees what lies behind it. */
static void cuts_change_no_token(void **state) {
    (void)state;
    char *text = make_text(200000, 3);
    const size_t size = strlen(text);
    for (int k = 0; k < KINDS; k++) {
        ni_tokenizer *t = load(golden(kinds[k], "json"));
        ni_tokens whole = encode(t, text, size), parts = {0};
        for (size_t at = 0, n; at < size; at += n) {
            n = ni_tokenizer_cut(text + at, size - at, 700);
            assert_int_equal(ni_tokenizer_encode_part(t, text + at, n, size - at - n, at > 0, &parts, NULL, NULL),
                             NB_OK);
        }
        assert_int_equal(whole.count, parts.count);
        assert_memory_equal(whole.ids, parts.ids, (size_t)whole.count * sizeof *whole.ids);
        ni_tokens_free(&whole);
        ni_tokens_free(&parts);
        ni_tokenizer_free(t);
    }
    free(text);
}

/* GPT-2's pattern gives of two line breaks the first alone where a word follows, and both where none does. */
static void a_part_sees_what_follows(void **state) {
    (void)state;
    ni_tokenizer *t = load(golden(kinds[GPT2], "json"));
    ni_tokens joint = {0}, alone = {0};
    assert_int_equal(ni_tokenizer_encode_part(t, "a\n\nb", 3, 1, false, &joint, NULL, NULL), NB_OK);
    assert_int_equal(ni_tokenizer_encode_part(t, "a\n\nb", 3, 0, false, &alone, NULL, NULL), NB_OK);
    assert_int_equal(joint.count, 3);
    assert_int_equal(alone.count, 2);
    ni_tokens_free(&joint);
    ni_tokens_free(&alone);
    ni_tokenizer_free(t);
}

/* The corpus cuts documents into units of its own: one document's shard holds the ids of one call. */
static void shards_hold_the_ids_of_the_whole(void **state) {
    ni_tokenizer *t = load(golden(kinds[GPT2], "json"));
    char *text = make_text(3000000, 5);
    for (char *c = text; *c; c++) /* one document */
        *c = *c == '\xff' ? 'x' : *c;
    ni_text whole = {text, strlen(text)};
    ni_corpus_options o = {.shard_tokens = 100000000};
    ni_corpus_counts counts;
    nb_error err = {0};
    assert_int_equal(ni_corpus_write(t, &whole, 1, *state, &o, &counts, &err), NB_OK);
    ni_tokens ids = encode(t, text, strlen(text));
    assert_int_equal(counts.train.tokens, ids.count + 1);
    char *shard;
    size_t size;
    assert_int_equal(ni_file_read(in_folder(state, "train_000000.bin"), 1 << 26, &shard, &size, &err), NB_OK);
    const uint16_t *stored = (const uint16_t *)(const void *)(shard + 1024);
    assert_int_equal(size, 1024 + 2 * (size_t)(ids.count + 1));
    for (int64_t i = 0; i < ids.count; i++)
        assert_int_equal(stored[i], ids.ids[i]);
    ni_tokens_free(&ids);
    free(shard);
    free(text);
    ni_tokenizer_free(t);
}

static void texts_come_back(void **state) {
    (void)state;
    char *text = make_text(20000, 7), *back;
    size_t size;
    for (char *c = text; *c; c++)
        *c = *c == '\xff' ? 'x' : *c;
    for (int k = 0; k < KINDS; k++) {
        ni_tokenizer *t = load(golden(kinds[k], "json"));
        ni_tokens ids = encode(t, text, strlen(text));
        assert_int_equal(ni_tokenizer_decode(t, ids.ids, ids.count, &back, &size, NULL), NB_OK);
        if (k != QWEN) { /* whose texts are composed */
            assert_int_equal(size, strlen(text));
            assert_memory_equal(back, text, size);
        }
        free(back);
        ni_tokens_free(&ids);
        ni_tokenizer_free(t);
    }
    free(text);
}

/* ---- folders ---- */

static void ends_and_openings_are_found(void **state) {
    nb_error err = {0};
    ni_tokenizer *t = load(golden(kinds[LLAMA3], "json")), *back;
    char *text;
    size_t size;
    const int32_t begin = ni_tokenizer_begin_of_text(t), end = ni_tokenizer_end_of_text(t);
    assert_int_equal(ni_tokenizer_decode(t, &begin, 1, &text, &size, NULL), NB_OK);
    assert_string_equal(text, "<|begin_of_text|>");
    free(text);
    assert_int_equal(ni_tokenizer_decode(t, &end, 1, &text, &size, NULL), NB_OK);
    assert_string_equal(text, "<|end_of_text|>");
    free(text);
    assert_int_equal(ni_tokenizer_save(t, *state, &err), NB_OK);
    back = load(*state);
    assert_true(ni_tokenizer_equal(t, back));
    assert_int_equal(ni_tokenizer_begin_of_text(back), begin);
    assert_int_equal(ni_tokenizer_open_with_end(back, &err), NB_OK); /* what a run of nibble does */
    assert_int_equal(ni_tokenizer_save(back, *state, &err), NB_OK);
    ni_tokenizer_free(back);
    back = load(*state);
    assert_int_equal(ni_tokenizer_begin_of_text(back), end);
    assert_true(ni_tokenizer_equal(t, back));
    ni_tokenizer_free(back);
    ni_tokenizer_free(t);
    t = load(golden(kinds[QWEN], "json"));
    assert_int_equal(ni_tokenizer_begin_of_text(t), -1);
    assert_int_equal(ni_tokenizer_save(t, *state, &err), NB_OK);
    static const char config[] = "{\"eos_token\": {\"content\": \"<|im_end|>\"}, \"model_max_length\": "
                                 "1000000000000000019884624838656}";
    assert_int_equal(ni_file_write(in_folder(state, "tokenizer_config.json"), config, sizeof config - 1, &err), NB_OK);
    back = load(*state);
    assert_int_equal(ni_tokenizer_end_of_text(back), ni_tokenizer_end_of_text(t) + 2);
    assert_true(ni_tokenizer_equal(t, back));
    ni_tokenizer *other = load(golden(kinds[GPT2], "json"));
    assert_false(ni_tokenizer_equal(t, other));
    ni_tokenizer_free(other);
    ni_tokenizer_free(back);
    ni_tokenizer_free(t);
}

/* ---- what is refused ---- */

/* A file of ours with one place changed. */
static void check_refusal(void **state, const char *from, const char *to, const char *why) {
    char *text, *at, *changed;
    ni_tokenizer *t;
    nb_error err = {0};
    read_golden(golden(kinds[QWEN], "json"), &text);
    at = strstr(text, from);
    assert_non_null(at);
    changed = malloc(strlen(text) + strlen(to) + 1);
    sprintf(changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_int_equal(ni_file_write(in_folder(state, "tokenizer.json"), changed, strlen(changed), &err), NB_OK);
    if (ni_tokenizer_load(in_folder(state, "tokenizer.json"), &t, &err) == NB_OK)
        fail_msg("%s is taken", to);
    if (!strstr(err.message, why))
        fail_msg("no '%s' in: %s", why, err.message);
    assert_null(t);
    free(changed);
    free(text);
}

static void what_would_be_cut_otherwise_is_refused(void **state) {
    check_refusal(state, "\"type\":\"NFC\"", "\"type\":\"Lowercase\"", "normalizer: Lowercase is not read");
    check_refusal(state, "\"type\":\"Split\"", "\"type\":\"Metaspace\"", "pre_tokenizer: Metaspace is not read");
    check_refusal(state, "\"Isolated\"", "\"MergedWithNext\"", "behavior MergedWithNext");
    check_refusal(state, "\"add_prefix_space\":false", "\"add_prefix_space\":true", "add_prefix_space");
    check_refusal(state, "\"byte_fallback\":false", "\"byte_fallback\":true", "byte_fallback is not read");
    check_refusal(state, "\"dropout\":null", "\"dropout\":0.1", "dropout is not read");
    check_refusal(state, "\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model: Unigram is not read");
    check_refusal(state, "\"single_word\":false", "\"single_word\":true", "single_word");
    check_refusal(state, "\"!\":0", "\"!\":1", "id 1");
    check_refusal(state, "\"!\":0", "\"!\":4194304", "has no id");
    check_refusal(state, "\"!\":0,", "", "byte 0x21 is no word");
    check_refusal(state, "\"merges\":[[", "\"merges\":[[\"!\",\"a\"],[", "merge 0 joins");
    check_refusal(state, "\"merges\":[[", "\"merges\":[\"a b c\",[", "merge 0 is no pair");
    check_refusal(state, "\"merges\":[[", "\"merges\":[7,[", "merge 0 is no pair");
    check_refusal(state, "(?i:'s|", "(?i:'s|(", "cannot be read");
    check_refusal(state, "[^\\\\r\\\\n\\\\p{L}", "[^\\\\h\\\\n\\\\p{L}", "\\h");
    check_refusal(state, "[^\\\\r\\\\n\\\\p{L}", "[^[\\\\n]\\\\p{L}", "a class in a class");
    check_refusal(state, "{", "{,", "line 1");
    check_refusal(state, "<|endoftext|>", "<|other|>", "no end-of-text");
    check_refusal(state, "\"content\":\"<|endoftext|>\"", "\"content\":\"!\"", "in the vocabulary");
}

/* A pattern that takes for ever is given up. */
static nb_status ignore(void *context, const char *piece, size_t size, nb_error *err) {
    (void)context, (void)piece, (void)size, (void)err;
    return NB_OK;
}

static void endless_patterns_are_given_up(void **state) {
    (void)state;
    ni_pretokenizer *p;
    nb_error err = {0};
    char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
    assert_int_equal(ni_pretokenizer_of_pattern("(?:(a+)+)+[^ab]", &p, &err), NB_OK);
    assert_int_equal(ni_pretokenizer_split(p, text, sizeof text - 1, 0, ignore, NULL, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "cannot be run"));
    ni_pretokenizer_free(p);
}

/* ---- training ---- */

static void a_trained_one_is_lossless_and_the_same_again(void **state) {
    char *text = make_text(60000, 11), *a, *b, *back;
    size_t a_size, b_size, size;
    nb_error err = {0};
    for (char *c = text; *c; c++)
        *c = *c == '\xff' ? 'x' : *c;
    ni_text whole = {text, strlen(text)};
    ni_tokenizer *t, *again;
    assert_int_equal(ni_tokenizer_train_bpe(&whole, 1, 300, &t, &err), NB_OK);
    assert_int_equal(ni_tokenizer_train_bpe(&whole, 1, 300, &again, &err), NB_OK);
    assert_int_equal(ni_tokenizer_vocab(t), 300);
    assert_int_equal(ni_tokenizer_end_of_text(t), 299);
    assert_int_equal(ni_tokenizer_begin_of_text(t), 299);
    assert_int_equal(ni_tokenizer_save(t, *state, &err), NB_OK);
    read_golden(in_folder(state, "tokenizer.json"), &a);
    assert_int_equal(ni_tokenizer_save(again, *state, &err), NB_OK);
    read_golden(in_folder(state, "tokenizer.json"), &b);
    a_size = strlen(a), b_size = strlen(b);
    assert_int_equal(a_size, b_size);
    assert_memory_equal(a, b, a_size);
    ni_tokenizer_free(again);
    again = load(*state);
    assert_true(ni_tokenizer_equal(t, again));
    assert_int_equal(ni_tokenizer_begin_of_text(again), 299);
    ni_tokens ids = encode(again, text, strlen(text));
    assert_true(ids.count * 2 < (int64_t)strlen(text)); /* it learned something */
    assert_int_equal(ni_tokenizer_decode(again, ids.ids, ids.count, &back, &size, NULL), NB_OK);
    assert_int_equal(size, strlen(text));
    assert_memory_equal(back, text, size);
    ni_tokenizer *none;
    assert_int_equal(ni_tokenizer_train_bpe(&whole, 1, 60000, &none, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "gives at most"));
    ni_tokens_free(&ids);
    free(back);
    free(a);
    free(b);
    free(text);
    ni_tokenizer_free(t);
    ni_tokenizer_free(again);
}

/* "ab" occurs most, then "abab", then of equals the pair of the smaller ids; the pair that occurs once is not joined.
 */
static void merges_are_those_of_the_counts(void **state) {
    ni_text text = {"abababab abab ab cd cd\nxy xy qz", 31};
    ni_tokenizer *t;
    nb_error err = {0};
    char *json;
    assert_int_equal(ni_tokenizer_train_bpe(&text, 1, 262, &t, &err), NB_OK);
    assert_int_equal(ni_tokenizer_save(t, *state, &err), NB_OK);
    read_golden(in_folder(state, "tokenizer.json"), &json);
    char *squeezed = json, *merges;
    for (char *c = json; *c; c++)
        if (*c != ' ' && *c != '\n')
            *squeezed++ = *c;
    *squeezed = 0;
    merges = strstr(json, "\"merges\":");
    static const char want[] =
        "\"merges\":[[\"a\",\"b\"],[\"ab\",\"ab\"],[\"\xc4\xa0\",\"c\"],[\"x\",\"y\"],[\"\xc4\xa0"
        "c\",\"d\"]]";
    if (strncmp(merges, want, sizeof want - 1) != 0)
        fail_msg("merges are %.120s", merges);
    free(json);
    ni_tokenizer_free(t);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, temporary_folder, remove_temporary_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_tokenizers),
        cmocka_unit_test(cuts_change_no_token),
        cmocka_unit_test(a_part_sees_what_follows),
        IN_FOLDER(shards_hold_the_ids_of_the_whole),
        cmocka_unit_test(texts_come_back),
        IN_FOLDER(ends_and_openings_are_found),
        IN_FOLDER(what_would_be_cut_otherwise_is_refused),
        cmocka_unit_test(endless_patterns_are_given_up),
        IN_FOLDER(a_trained_one_is_lossless_and_the_same_again),
        IN_FOLDER(merges_are_those_of_the_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
