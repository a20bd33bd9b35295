/* test_shard_foreign.c: token files of other programs: Megatron-LM's with an index, and tokens without a header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/dataset.h"
#include "data/shard.h"
#include "data/shard_foreign.h"
#include "temporary.h"

static const int32_t sizes[] = {3, 1, 4};
enum { SEQUENCES = 3, TOKENS = 8 };

typedef struct file {
    unsigned char bytes[256];
    size_t size;
} file;

static void put(file *f, const void *bytes, size_t size) {
    memcpy(f->bytes + f->size, bytes, size);
    f->size += size;
}

/* As megatron/core/datasets/indexed_dataset.py writes it: three sequences, each a document. */
static file index_of(uint8_t type, int64_t width) {
    file f = {.size = 0};
    const uint64_t version = 1, sequences = SEQUENCES, documents = SEQUENCES + 1;
    int64_t place = 0;
    put(&f, "MMIDIDX\0", 9);
    put(&f, &version, 8);
    put(&f, &type, 1);
    put(&f, &sequences, 8);
    put(&f, &documents, 8);
    put(&f, sizes, sizeof sizes);
    for (int i = 0; i < SEQUENCES; i++) {
        put(&f, &place, 8);
        place += sizes[i] * width;
    }
    for (int64_t i = 0; i <= SEQUENCES; i++)
        put(&f, &i, 8);
    return f;
}

static void write_file(const char *path, const void *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void holds_eight(const char *path, int32_t width) {
    ni_shard shard;
    int32_t back[TOKENS];
    nb_error err = {0};
    if (ni_shard_open(path, &shard, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(shard.count, TOKENS);
    assert_int_equal(shard.width, width);
    assert_int_equal(ni_shard_read(&shard, 0, TOKENS, back, &err), NB_OK);
    for (int i = 0; i < TOKENS; i++)
        assert_int_equal(back[i], 10 * i);
    ni_shard_close(&shard);
}

static void files_are_read(void **state) {
    char path[640], name[32];
    const uint16_t narrow[TOKENS] = {0, 10, 20, 30, 40, 50, 60, 70};
    const uint32_t wide[TOKENS] = {0, 10, 20, 30, 40, 50, 60, 70};
    for (int32_t width = 2; width <= 4; width += 2) {
        const file index = index_of(width == 2 ? 8 : 4, width);
        snprintf(name, sizeof name, "text_%d.bin", width);
        const char *tokens = in_folder(state, name);
        write_file(tokens, width == 2 ? (const void *)narrow : wide, (size_t)(TOKENS * width));
        snprintf(name, sizeof name, "text_%d.idx", width);
        write_file(in_folder(state, name), index.bytes, index.size);
        holds_eight(in_folder(state, name), width);
        snprintf(path, sizeof path, "uint%d:%s", 8 * width, tokens);
        holds_eight(path, width);
    }
    /* A pattern behind the word, as a run file names shards. */
    ni_dataset *data;
    nb_error err = {0};
    const ni_dataset_options options = {.seq = 3, .vocab = 71, .end_of_text = -1};
    snprintf(path, sizeof path, "uint16:%s", in_folder(state, "text_2*.bin"));
    if (ni_dataset_open(&(const char *){path}, 1, &options, &data, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(ni_dataset_tokens(data), TOKENS);
    ni_dataset_free(data);
}

static void expect(const file *index, int64_t tokens_size, const char *words) {
    ni_foreign_shard out = {.path = NULL};
    nb_error err = {0};
    assert_int_equal(ni_megatron_parse(index->bytes, index->size, tokens_size, &out, &err), NB_BAD_FILE);
    if (!strstr(err.message, words))
        fail_msg("says \"%s\"; expected \"%s\"", err.message, words);
}

static void damage_is_told(void **state) {
    (void)state;
    ni_foreign_shard out = {.path = NULL};
    const file whole = index_of(8, 2);
    file bad = whole;
    assert_int_equal(ni_megatron_parse(whole.bytes, whole.size, 2 * TOKENS, &out, NULL), NB_OK);
    assert_int_equal(out.count, TOKENS);
    expect(&whole, 2 * TOKENS + 2, "its sequences are 16 bytes, the tokens beside it are 18");
    expect(&whole, 2 * TOKENS - 2, "sequence 2 of 4 tokens lies at byte 8; expected byte 8 of the 14 of the tokens");
    bad.bytes[0] = 'm';
    expect(&bad, 2 * TOKENS, "expected it to begin with MMIDIDX");
    bad = whole;
    bad.bytes[9] = 2;
    expect(&bad, 2 * TOKENS, "an index of version 2; expected 1");
    bad = whole;
    bad.bytes[17] = 5;
    expect(&bad, 2 * TOKENS, "tokens of Megatron's type 5; expected 8 (uint16) or 4 (int32)");
    bad = whole;
    bad.bytes[25] = 0x80; /* 2^63 sequences */
    expect(&bad, 2 * TOKENS, "it is cut short");
    bad = whole;
    bad.bytes[34 + 12 + 8] = 4; /* the second sequence begins inside of the first */
    expect(&bad, 2 * TOKENS, "sequence 1 of 1 tokens lies at byte 4; expected byte 6");
    for (size_t size = 0; size < whole.size; size++) { /* no byte is read behind the end */
        unsigned char *cut = malloc(size ? size : 1);
        memcpy(cut, whole.bytes, size);
        assert_int_equal(ni_megatron_parse(cut, size, 2 * TOKENS, &out, NULL), NB_BAD_FILE);
        free(cut);
    }
}

static void odd_files_are_refused(void **state) {
    char path[640];
    ni_shard shard;
    nb_error err = {0};
    write_file(in_folder(state, "odd.bin"), "abc", 3);
    snprintf(path, sizeof path, "uint16:%s", in_folder(state, "odd.bin"));
    assert_int_equal(ni_shard_open(path, &shard, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "3 bytes are no whole number of 2-byte tokens"));
    assert_int_equal(ni_shard_open(in_folder(state, "none.idx"), &shard, &err), NB_IO_ERROR);
    assert_non_null(strstr(err.message, "none.bin"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_are_read, temporary_folder, remove_temporary_folder),
        cmocka_unit_test(damage_is_told),
        cmocka_unit_test_setup_teardown(odd_files_are_refused, temporary_folder, remove_temporary_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
