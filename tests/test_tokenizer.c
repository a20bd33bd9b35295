/* test_tokenizer.c: bytes and SentencePiece tokenizers, and the shards that `nibble tokenize` makes with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "base/philox.h"
#include "data/sentencepiece.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "data/tokenizer_corpus.h"
#include "data/utf8.h"
#include "files/file.h"
#include "temporary.h"

/* English-looking lines from a small grammar, the same at every run. */
static char *make_text(size_t size, uint32_t seed) {
    static const char *const words[] = {"the",    "of",          "quantizer", "block",  "scale",  "rounds",
                                        "a",      "tensor",      "model",     "learns", "from",   "noise",
                                        "and",    "caf\xc3\xa9", "1913",      "(see",   "below)", "  two",
                                        "number", "bits",        "four",      "holds",  "into",   "weight"};
    char *text = malloc(size + 64);
    size_t used = 0;
    for (uint32_t i = 0; used < size; i++) {
        ni_philox_words r = ni_philox(seed, 1, i, 0, 0, 0);
        const char *end = r.w[1] % 11 == 0 ? ".\n" : r.w[1] % 37 == 0 ? "\n\n   " : " ";
        used += (size_t)snprintf(text + used, 64, "%s%s", words[r.w[0] % 24], end);
    }
    while (size > 0 && ((unsigned char)text[size] & 0xC0) == 0x80)
        size--; /* end with a whole character */
    text[size] = 0;
    return text;
}

/* One small model for all tests. */
static ni_tokenizer *trained;
static char *corpus;

static int train_once(void **state) {
    (void)state;
    nb_error err = {0};
    corpus = make_text(200000, 1);
    ni_text text = {corpus, strlen(corpus)};
    if (ni_tokenizer_train(&text, 1, 400, &trained, &err) != NB_OK) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    return 0;
}

static int free_trained(void **state) {
    (void)state;
    ni_tokenizer_free(trained);
    free(corpus);
    return 0;
}

static void check_round_trip(const ni_tokenizer *tokenizer, const char *text, size_t size) {
    ni_tokens ids = {0};
    nb_error err = {0};
    char *back;
    size_t back_size;
    assert_int_equal(ni_tokenizer_encode(tokenizer, text, size, false, &ids, NULL, &err), NB_OK);
    for (int64_t i = 0; i < ids.count; i++)
        assert_in_range(ids.ids[i], 0, ni_tokenizer_vocab(tokenizer) - 1);
    assert_int_equal(ni_tokenizer_decode(tokenizer, ids.ids, ids.count, &back, &back_size, &err), NB_OK);
    assert_int_equal(back_size, size);
    assert_memory_equal(back, text, size);
    assert_int_equal(back[size], 0);
    free(back);
    ni_tokens_free(&ids);
}

static void bytes_are_their_own_ids(void **state) {
    (void)state;
    ni_tokenizer *bytes;
    assert_int_equal(ni_tokenizer_load("bytes", &bytes, NULL), NB_OK);
    assert_int_equal(ni_tokenizer_vocab(bytes), 257);
    assert_int_equal(ni_tokenizer_end_of_text(bytes), 256);
    char all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    check_round_trip(bytes, all, sizeof all);
    const int32_t ids[] = {'a', 256, 'b'}, bad = 257;
    char *text;
    size_t size;
    assert_int_equal(ni_tokenizer_decode(bytes, ids, 3, &text, &size, NULL), NB_OK);
    assert_string_equal(text, "ab");
    free(text);
    assert_int_equal(ni_tokenizer_decode(bytes, &bad, 1, &text, &size, NULL), NB_BAD_USAGE);
    ni_tokenizer_free(bytes);
}

static void trained_model_is_lossless(void **state) {
    (void)state;
    assert_int_equal(ni_tokenizer_vocab(trained), 400);
    assert_int_equal(ni_tokenizer_end_of_text(trained), 2);
    const char *const texts[] = {"",
                                 "a",
                                 " ",
                                 "  two  spaces ",
                                 "tab\tand\r\nlines\n\n\n",
                                 "\n",
                                 "unseen \xe2\x82\xac \xf0\x9f\x8e\x88",
                                 "<s> </s> <unk> <0x41>"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        check_round_trip(trained, texts[i], strlen(texts[i]));
    check_round_trip(trained, corpus, strlen(corpus));
    ni_tokens ids = {0};
    assert_int_equal(ni_tokenizer_encode(trained, corpus, strlen(corpus), false, &ids, NULL, NULL), NB_OK);
    assert_true(ids.count * 2 < (int64_t)strlen(corpus)); /* it learned something */
    ni_tokens_free(&ids);
}

static void training_is_deterministic(void **state) {
    ni_tokenizer *again;
    nb_error err = {0};
    ni_text text = {corpus, strlen(corpus)};
    assert_int_equal(ni_tokenizer_train(&text, 1, 400, &again, &err), NB_OK);
    char *a, *b;
    size_t a_size, b_size;
    assert_int_equal(ni_tokenizer_save(trained, *state, &err), NB_OK);
    assert_int_equal(ni_file_read(in_folder(state, "tokenizer.model"), 1 << 20, &a, &a_size, &err), NB_OK);
    assert_int_equal(ni_tokenizer_save(again, *state, &err), NB_OK);
    assert_int_equal(ni_file_read(in_folder(state, "tokenizer.model"), 1 << 20, &b, &b_size, &err), NB_OK);
    assert_int_equal(a_size, b_size);
    assert_memory_equal(a, b, a_size);
    free(a);
    free(b);
    ni_tokenizer_free(again);
}

static void bad_training_is_refused(void **state) {
    (void)state;
    ni_tokenizer *t;
    nb_error err = {0};
    ni_text empty = {"", 0}, small = {"only a few words", 16};
    assert_int_equal(ni_tokenizer_train(&empty, 1, 400, &t, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "empty"));
    assert_int_equal(ni_tokenizer_train(&small, 1, 4000, &t, &err), NB_BAD_FILE);
    assert_int_equal(ni_tokenizer_train(&small, 1, 200, &t, &err), NB_BAD_USAGE);
    assert_null(t);
}

/* The parts that ni_tokenizer_encode cuts a text into give the ids of the whole text in one call of the library. */
static void cuts_change_no_token(void **state) {
    char why[NI_SP_WHY], *model;
    size_t size;
    assert_int_equal(ni_tokenizer_save(trained, *state, NULL), NB_OK);
    assert_int_equal(ni_file_read(in_folder(state, "tokenizer.model"), 1 << 20, &model, &size, NULL), NB_OK);
    ni_sp *sp = ni_sp_load(model, size, why);
    assert_non_null(sp);
    char *text = make_text(300000, 2);
    int32_t *whole;
    size_t count;
    assert_true(ni_sp_encode(sp, text, strlen(text), &whole, &count, why));
    ni_tokens ids = {0};
    assert_int_equal(ni_tokenizer_encode(trained, text, strlen(text), false, &ids, NULL, NULL), NB_OK);
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.ids, whole, count * sizeof *whole);
    ids.count = 0;
    for (size_t at = 0, n; at < strlen(text); at += n) { /* smaller parts, each its own call */
        n = ni_tokenizer_cut(text + at, strlen(text) - at, 500);
        assert_int_equal(ni_tokenizer_encode(trained, text + at, n, at > 0, &ids, NULL, NULL), NB_OK);
    }
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.ids, whole, count * sizeof *whole);
    ni_tokens_free(&ids);
    free(whole);
    free(text);
    free(model);
    ni_sp_free(sp);
}

static void cuts_fall_where_they_should(void **state) {
    (void)state;
    assert_int_equal(ni_tokenizer_cut("abc", 3, 10), 3);
    assert_int_equal(ni_tokenizer_cut("aaaaaaa\nb\nc d", 13, 10), 10);
    assert_int_equal(ni_tokenizer_cut("aaaaaaa\nb\n\nd", 12, 10), 8);
    assert_int_equal(ni_tokenizer_cut("aaaaaa bcdefghi", 15, 10), 6);
    assert_int_equal(ni_tokenizer_cut("aaaaaaaaa\xe2\x82\xac", 12, 10), 9);
    char noise[64];
    memset(noise, 0x80, sizeof noise);
    assert_in_range(ni_tokenizer_cut(noise, sizeof noise, 10), 5, 10);
}

static void invalid_utf8_is_replaced_and_counted(void **state) {
    (void)state;
    const char text[] = "a\xff\xc0\xaf\xed\xa0\x80z\xe2\x82";
    ni_tokens ids = {0};
    int64_t invalid = 0;
    assert_int_equal(ni_tokenizer_encode(trained, text, sizeof text - 1, false, &ids, &invalid, NULL), NB_OK);
    assert_int_equal(invalid, 8);
    char *back;
    size_t size;
    assert_int_equal(ni_tokenizer_decode(trained, ids.ids, ids.count, &back, &size, NULL), NB_OK);
#define R "\xef\xbf\xbd"
    assert_string_equal(back, "a" R R R R R R "z" R R);
    free(back);
    ni_tokens_free(&ids);
    assert_int_equal(ni_utf8_character("\xf4\x8f\xbf\xbf", 4), 4);
    assert_int_equal(ni_utf8_character("\xf4\x90\x80\x80", 4), 0);
    assert_int_equal(ni_utf8_character("\xe0\x9f\xbf", 3), 0);
    assert_int_equal(ni_utf8_character("\xf0\x8f\xbf\xbf", 4), 0);
}

static void saved_tokenizers_come_back(void **state) {
    ni_tokenizer *bytes, *back;
    nb_error err = {0};
    const char *folder = in_folder(state, "b"), *other = in_folder(state, "s");
    assert_int_equal(ni_make_folders(folder, &err), NB_OK);
    assert_int_equal(ni_make_folders(other, &err), NB_OK);
    assert_int_equal(ni_tokenizer_load("bytes", &bytes, &err), NB_OK);
    assert_int_equal(ni_tokenizer_save(bytes, folder, &err), NB_OK);
    assert_int_equal(ni_tokenizer_load(folder, &back, &err), NB_OK);
    assert_string_equal(ni_tokenizer_kind(back), "bytes");
    assert_int_equal(ni_tokenizer_save(back, folder, &err), NB_OK);
    ni_tokenizer_free(back);
    ni_tokenizer_free(bytes);
    assert_int_equal(ni_tokenizer_save(trained, other, &err), NB_OK);
    assert_int_equal(ni_tokenizer_load(other, &back, &err), NB_OK);
    assert_string_equal(ni_tokenizer_kind(back), "sentencepiece");
    assert_int_equal(ni_tokenizer_vocab(back), 400);
    ni_tokenizer_free(back);
    assert_int_equal(ni_tokenizer_load(*state, &back, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "no tokenizer that nibble reads"));
    assert_int_equal(ni_tokenizer_load(in_folder(state, "none"), &back, &err), NB_IO_ERROR);
    assert_int_equal(ni_file_write(in_folder(state, "x"), "hello", 5, &err), NB_OK);
    assert_int_equal(ni_tokenizer_load(in_folder(state, "x"), &back, &err), NB_BAD_FILE);
    assert_int_equal(ni_tokenizer_parse("", 0, &back, &err), NB_BAD_FILE);
}

/* Whatever four bytes of a model say, its table of normalisation never leads outside of itself. */
static void damaged_tables_are_refused(void **state) {
    (void)state;
    char *model;
    size_t size;
    int damaged = 0;
    nb_error err = {0};
    assert_int_equal(
        ni_file_read(NI_TEST_SOURCE "/tests/fuzz/corpus/tokenizer/rules.model", 1 << 20, &model, &size, &err), NB_OK);
    for (size_t at = 0; at + 4 <= size; at++) {
        char was[4];
        ni_tokenizer *t = NULL;
        memcpy(was, model + at, 4);
        memset(model + at, 0x7f, 4);
        if (ni_tokenizer_parse(model, size, &t, &err) != NB_OK)
            damaged += strstr(err.message, "points outside itself") != NULL;
        ni_tokenizer_free(t);
        memcpy(model + at, was, 4);
    }
    assert_true(damaged > 500);
    ni_tokenizer *t = NULL;
    assert_int_equal(ni_tokenizer_parse(model, size, &t, &err), NB_OK);
    ni_tokenizer_free(t);
    assert_int_equal(ni_tokenizer_parse(model, size - 1, &t, &err), NB_BAD_FILE);
    free(model);
}

/* ---- texts to shards ---- */

static void check_documents(ni_split split, const char *separator, const char *text, size_t size, const char *want) {
    ni_corpus_options o = {.split = split, .separator = separator};
    ni_text whole = {text, size}, document;
    ni_document_reader reader = ni_documents(&whole);
    char got[256] = "";
    while (ni_document_next(&reader, &o, &document))
        snprintf(got + strlen(got), sizeof got - strlen(got), "[%.*s]", (int)document.size, document.bytes);
    assert_string_equal(got, want);
}

static void documents_are_found(void **state) {
    (void)state;
    const char text[] = "a\nb\n\n \nc\0\0d\n\ne";
    check_documents(NI_SPLIT_FILE, NULL, text, sizeof text - 1, "[a\nb\n\n \nc][d\n\ne]");
    check_documents(NI_SPLIT_BLANK, NULL, text, sizeof text - 1, "[a\nb\n][c][d\n][e]");
    check_documents(NI_SPLIT_LINE, NULL, text, sizeof text - 1, "[a][b][ ][c][d][e]");
    check_documents(NI_SPLIT_BLANK, NULL, "\n\n a\n", 5, "[ a\n]");
    check_documents(NI_SPLIT_BLANK, NULL, "a\n\n", 3, "[a\n]");
    check_documents(NI_SPLIT_BLANK, NULL, "\n \n\0\n", 5, "");
    check_documents(NI_SPLIT_TEXT, "<|e|>", "one<|e|>two<|e|><|e|><|e", 24, "[one][two][<|e]");
    check_documents(NI_SPLIT_FILE, NULL, "", 0, "");
    check_documents(NI_SPLIT_LINE, NULL, NULL, 0, "");
}

/* Reads back all shards of one side. */
static ni_tokens read_side(void **state, const char *name, int64_t shards) {
    ni_tokens all = {0};
    for (int64_t i = 0; i < shards; i++) {
        char file[64];
        ni_shard shard;
        snprintf(file, sizeof file, "%s_%06d.bin", name, (int)i);
        assert_int_equal(ni_shard_open(in_folder(state, file), &shard, NULL), NB_OK);
        int32_t *ids = malloc(sizeof *ids * (size_t)(shard.count + 1));
        assert_int_equal(ni_shard_read(&shard, 0, shard.count, ids, NULL), NB_OK);
        assert_int_equal(ni_tokens_add(&all, ids, shard.count, NULL), NB_OK);
        free(ids);
        ni_shard_close(&shard);
    }
    return all;
}

static void shards_hold_the_text(void **state) {
    ni_corpus_options o = {.split = NI_SPLIT_BLANK, .shard_tokens = 10000};
    ni_corpus_counts counts;
    nb_error err = {0};
    ni_text text = {corpus, strlen(corpus)}, document;
    assert_int_equal(ni_corpus_write(trained, &text, 1, *state, &o, &counts, &err), NB_OK);
    assert_true(counts.train.shards == (counts.train.tokens + 9999) / 10000 && counts.train.shards > 2);
    assert_int_equal(counts.val.tokens, 0);
    ni_tokens all = read_side(state, "train", counts.train.shards);
    assert_int_equal(all.count, counts.train.tokens);
    ni_document_reader reader = ni_documents(&text);
    int64_t at = 0, documents = 0;
    while (ni_document_next(&reader, &o, &document)) {
        int64_t end = at;
        while (end < all.count && all.ids[end] != ni_tokenizer_end_of_text(trained))
            end++;
        char *back;
        size_t size;
        assert_int_equal(ni_tokenizer_decode(trained, all.ids + at, end - at, &back, &size, NULL), NB_OK);
        assert_int_equal(size, document.size);
        assert_memory_equal(back, document.bytes, size);
        free(back);
        at = end + 1;
        documents++;
    }
    assert_int_equal(at, all.count);
    assert_int_equal(documents, counts.train.documents);
    ni_tokens_free(&all);
}

static bool holds(const char *text, const ni_tokens *ids, int64_t from, int64_t to) {
    char *piece;
    size_t size;
    assert_int_equal(ni_tokenizer_decode(trained, ids->ids + from, to - from, &piece, &size, NULL), NB_OK);
    bool found = strstr(text, piece) != NULL;
    free(piece);
    return found;
}

static void validation_takes_its_share_of_one_document(void **state) {
    ni_corpus_options o = {.split = NI_SPLIT_FILE, .shard_tokens = 1000000, .val_share = 0.1};
    ni_corpus_counts counts;
    nb_error err = {0};
    ni_text text = {corpus, strlen(corpus)};
    assert_int_equal(ni_corpus_write(trained, &text, 1, *state, &o, &counts, &err), NB_OK);
    assert_int_equal(counts.train.bytes + counts.val.bytes, strlen(corpus));
    assert_in_range(counts.val.bytes, (int64_t)strlen(corpus) * 8 / 100, (int64_t)strlen(corpus) * 12 / 100);
    assert_true(counts.val.documents > 2);
    ni_tokens all = read_side(state, "val", 1);
    for (int64_t at = 0, end; at < all.count; at = end + 1) { /* each piece is text as it stands */
        for (end = at; all.ids[end] != ni_tokenizer_end_of_text(trained);)
            end++;
        assert_true(holds(corpus, &all, at, end));
    }
    ni_tokens_free(&all);
}

/* Short and long documents by turns: validation must hold both, as training does. */
static void validation_is_like_training(void **state) {
    enum { PAIRS = 3000 };
    ni_tokenizer *bytes;
    assert_int_equal(ni_tokenizer_load("bytes", &bytes, NULL), NB_OK);
    char *lines = malloc(PAIRS * 160), *at = lines;
    for (int i = 0; i < PAIRS * 2; i++)
        at += sprintf(at, "%0*d\n", i * 7 % 13 < 6 ? 100 : 5, i);
    ni_text text = {lines, (size_t)(at - lines)};
    ni_corpus_options o = {.split = NI_SPLIT_LINE, .shard_tokens = 10000000, .val_share = 0.1};
    ni_corpus_counts counts;
    assert_int_equal(ni_corpus_write(bytes, &text, 1, *state, &o, &counts, NULL), NB_OK);
    double train = (double)counts.train.bytes / (double)counts.train.documents;
    double val = (double)counts.val.bytes / (double)counts.val.documents;
    assert_true(val > 0.8 * train && val < 1.25 * train);
    free(lines);
    ni_tokenizer_free(bytes);
}

static void texts_that_are_too_small_are_refused(void **state) {
    ni_corpus_options o = {.shard_tokens = 100};
    ni_corpus_counts counts;
    nb_error err = {0};
    ni_text nuls = {"\0\0", 2}, few = {"few words", 9};
    assert_int_equal(ni_corpus_write(trained, &nuls, 1, *state, &o, &counts, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "empty"));
    o.val_share = 0.01;
    assert_int_equal(ni_corpus_write(trained, &few, 1, *state, &o, &counts, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "too few"));
    o.val_share = 1;
    assert_int_equal(ni_corpus_write(trained, &few, 1, *state, &o, &counts, &err), NB_BAD_USAGE);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, temporary_folder, remove_temporary_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_their_own_ids),
        cmocka_unit_test(trained_model_is_lossless),
        IN_FOLDER(training_is_deterministic),
        cmocka_unit_test(bad_training_is_refused),
        IN_FOLDER(cuts_change_no_token),
        cmocka_unit_test(cuts_fall_where_they_should),
        cmocka_unit_test(invalid_utf8_is_replaced_and_counted),
        IN_FOLDER(saved_tokenizers_come_back),
        cmocka_unit_test(damaged_tables_are_refused),
        cmocka_unit_test(documents_are_found),
        IN_FOLDER(shards_hold_the_text),
        IN_FOLDER(validation_takes_its_share_of_one_document),
        IN_FOLDER(validation_is_like_training),
        IN_FOLDER(texts_that_are_too_small_are_refused),
    };
    return cmocka_run_group_tests(tests, train_once, free_trained);
}
