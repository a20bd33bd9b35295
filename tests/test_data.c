/* test_data.c: token shards and the loader over them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "data/dataset.h"
#include "data/shard.h"
#include "files/file.h"
#include "temporary.h"

static void write_shard(const char *path, int32_t width, const int32_t *tokens, int64_t count) {
    ni_shard_writer *writer;
    nb_error err = {0};
    assert_int_equal(ni_shard_writer_open(path, width, &writer, &err), NB_OK);
    assert_int_equal(ni_shard_writer_put(writer, tokens, count / 2, &err), NB_OK);
    assert_int_equal(ni_shard_writer_put(writer, tokens + count / 2, count - count / 2, &err), NB_OK);
    assert_int_equal(ni_shard_writer_commit(writer, &err), NB_OK);
}

/* Tokens 0, 1, 2, ... from `first`. */
static void write_counting(const char *path, int32_t width, int32_t first, int32_t count) {
    int32_t *tokens = malloc(sizeof *tokens * (size_t)(count + 1));
    for (int32_t i = 0; i < count; i++)
        tokens[i] = first + i;
    write_shard(path, width, tokens, count);
    free(tokens);
}

static int64_t first_beyond(const ni_shard *shard, int64_t vocab) {
    ni_shard_survey seen;
    assert_int_equal(ni_shard_survey_all(shard, vocab, &seen, NULL), NB_OK);
    return seen.beyond;
}

static void shard_round_trip(void **state) {
    const int32_t tokens[] = {0, 65535, 7, 3, 2, 1};
    for (int32_t width = 2; width <= 4; width += 2) {
        const char *path = in_folder(state, "a.bin");
        write_shard(path, width, tokens, 6);
        ni_shard shard;
        int32_t back[4];
        assert_int_equal(ni_shard_open(path, &shard, NULL), NB_OK);
        assert_int_equal(shard.count, 6);
        assert_int_equal(shard.width, width);
        assert_int_equal(ni_shard_read(&shard, 1, 4, back, NULL), NB_OK);
        assert_memory_equal(back, tokens + 1, sizeof back);
        assert_int_equal(first_beyond(&shard, 65536), -1);
        assert_int_equal(first_beyond(&shard, 65535), 1);
        assert_int_equal(first_beyond(&shard, 5), 1);
        ni_shard_close(&shard);
    }
}

static void shard_of_numpy(void **state) {
    (void)state;
    ni_shard shard;
    nb_error err = {0};
    int32_t back[3];
    assert_int_equal(ni_shard_open(NI_TEST_GOLDEN "/files/u2.npy", &shard, &err), NB_OK);
    assert_int_equal(ni_shard_read(&shard, 0, 3, back, NULL), NB_OK);
    assert_int_equal(shard.count, 3);
    assert_int_equal(back[2], 65535);
    ni_shard_close(&shard);
    assert_int_equal(ni_shard_open(NI_TEST_GOLDEN "/files/f4.npy", &shard, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "expected uint16 or uint32"));
}

static void shard_writer_refuses_what_does_not_fit(void **state) {
    ni_shard_writer *writer;
    nb_error err = {0};
    const int32_t wide = 65536, negative = -1;
    assert_int_equal(ni_shard_writer_open(in_folder(state, "a.bin"), 2, &writer, &err), NB_OK);
    assert_int_equal(ni_shard_writer_put(writer, &wide, 1, &err), NB_BAD_USAGE);
    assert_int_equal(ni_shard_writer_put(writer, &negative, 1, &err), NB_BAD_USAGE);
    ni_shard_writer_abandon(writer);
    assert_int_not_equal(access(in_folder(state, "a.bin"), F_OK), 0);
}

static void hostile_shards(void **state) {
    (void)state;
    int32_t bytes[260] = {20240520, 1, 8};
    ni_shard shard;
    nb_error err = {0};
    const size_t whole = 1024 + 16;
    assert_int_equal(ni_shard_parse(bytes, whole, &shard, &err), NB_OK);
    assert_int_equal(shard.count, 8);
    for (size_t size = 0; size < 1024; size++)
        assert_int_equal(ni_shard_parse(bytes, size, &shard, &err), NB_BAD_FILE);
    assert_int_equal(ni_shard_parse(bytes, whole - 1, &shard, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "cut short"));
    assert_int_equal(ni_shard_parse(bytes, whole - 16, &shard, &err), NB_BAD_FILE);
    bytes[2] = -1;
    assert_int_equal(ni_shard_parse(bytes, whole, &shard, &err), NB_BAD_FILE);
    bytes[2] = 7;
    assert_int_equal(ni_shard_parse(bytes, whole, &shard, &err), NB_BAD_FILE);
    bytes[2] = 8;
    bytes[1] = 7;
    assert_int_equal(ni_shard_parse(bytes, whole, &shard, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "version 7"));
    bytes[0] = 20240801;
    bytes[2] = 4;
    assert_int_equal(ni_shard_parse(bytes, whole, &shard, &err), NB_OK);
    bytes[259] = -1; /* an id of 2^32 - 1 */
    int32_t id;
    assert_int_equal(ni_shard_read(&shard, 3, 1, &id, NULL), NB_OK);
    assert_int_equal(id, INT32_MAX);
    assert_int_equal(first_beyond(&shard, 100), 3);
    bytes[0] = 0x6f6c6c65;
    assert_int_equal(ni_shard_parse(bytes, whole, &shard, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "magic"));
}

/* ---- loader ---- */

enum { SEQ = 8, BATCH = 3 };

typedef struct arrays {
    int32_t tokens[BATCH * SEQ], targets[BATCH * SEQ], positions[BATCH * SEQ], doc_start[BATCH * SEQ];
} arrays;

static ni_dataset_buffers buffers(arrays *a) {
    return (ni_dataset_buffers){a->tokens, a->targets, a->positions, a->doc_start};
}

static ni_dataset *open_dataset(const char *path, ni_dataset_options options) {
    ni_dataset *data;
    nb_error err = {0};
    if (ni_dataset_open(&path, 1, &options, &data, &err) != NB_OK)
        fail_msg("%s", err.message);
    return data;
}

static void an_epoch_shows_every_sequence_once(void **state) {
    write_counting(in_folder(state, "t_0.bin"), 2, 0, 100);
    write_counting(in_folder(state, "t_1.bin"), 4, 100, 5); /* sequences span shards and widths */
    write_counting(in_folder(state, "t_2.bin"), 2, 105, 140);
    ni_dataset_options o = {.seq = SEQ, .vocab = 1000, .end_of_text = -1, .shuffle = true, .seed = 5};
    ni_dataset *data = open_dataset(in_folder(state, "t_*.bin"), o);
    assert_int_equal(ni_dataset_tokens(data), 245);
    assert_int_equal(ni_dataset_sequences(data), 30);
    int order[2][30], moved = 0;
    arrays a;
    ni_dataset_buffers to = buffers(&a);
    for (int epoch = 0; epoch < 2; epoch++) {
        int seen[30] = {0};
        for (int m = 0; m < 10; m++) {
            assert_int_equal(ni_dataset_fill(data, epoch * 10 + m, BATCH, &to, NULL), NB_OK);
            for (int b = 0; b < BATCH; b++) {
                int first = a.tokens[b * SEQ];
                assert_int_equal(first % SEQ, 0);
                seen[first / SEQ]++;
                order[epoch][m * BATCH + b] = first / SEQ;
                for (int t = 0; t < SEQ; t++) {
                    assert_int_equal(a.tokens[b * SEQ + t], first + t);
                    assert_int_equal(a.targets[b * SEQ + t], first + t + 1);
                    assert_int_equal(a.positions[b * SEQ + t], t);
                    assert_int_equal(a.doc_start[b * SEQ + t], 0);
                }
            }
        }
        for (int i = 0; i < 30; i++)
            assert_int_equal(seen[i], 1);
    }
    for (int i = 0; i < 30; i++)
        moved += order[0][i] != order[1][i] && order[0][i] != i;
    assert_true(moved > 20);
    ni_dataset_free(data);
}

static void the_order_is_a_function_of_seed_and_index(void **state) {
    const char *path = in_folder(state, "a.bin");
    write_counting(path, 2, 0, 8 * 1000 + 1);
    ni_dataset_options o = {.seq = SEQ, .vocab = 10000, .end_of_text = -1, .shuffle = true, .seed = 7};
    ni_dataset *one = open_dataset(path, o), *same = open_dataset(path, o);
    o.seed = 8;
    ni_dataset *other = open_dataset(path, o);
    int equal = 0;
    double distance = 0;
    for (int64_t i = 1999; i >= 0; i--) { /* backwards: nothing is kept between calls */
        assert_int_equal(ni_dataset_sequence_of(one, i), ni_dataset_sequence_of(same, i));
        equal += ni_dataset_sequence_of(one, i) == ni_dataset_sequence_of(other, i);
        distance += llabs((long long)(ni_dataset_sequence_of(one, i) - i % 1000));
    }
    assert_true(equal < 20);                                     /* 2 are expected of two random orders */
    assert_true(distance / 2000 > 300 && distance / 2000 < 367); /* n/3 = 333 is expected, sd 236/sqrt(2000) = 5 */
    assert_int_equal(ni_dataset_sum(one), ni_dataset_sum(same));
    ni_dataset_free(one);
    ni_dataset_free(same);
    ni_dataset_free(other);
}

/* Any bit of a shard that we wrote, its header included. */
static void a_flip_in_a_shard_is_found(void **state) {
    const char *path = in_folder(state, "a.bin");
    write_counting(path, 2, 0, 3000);
    const char *const only = path;
    ni_dataset_options o = {.seq = SEQ, .vocab = 65536, .end_of_text = -1};
    ni_dataset *data;
    nb_error err = {0};
    for (long at = 0; at < 1024 + 6000; at += at < 24 ? 1 : 97) {
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        fseek(file, at, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ (1 << at % 8), file);
        fclose(file);
        if (ni_dataset_open(&only, 1, &o, &data, &err) != NB_BAD_FILE)
            fail_msg("byte %ld: unseen", at);
        file = fopen(path, "r+b");
        assert_non_null(file);
        fseek(file, at, SEEK_SET);
        fputc(byte, file);
        fclose(file);
    }
    assert_int_equal(ni_dataset_open(&only, 1, &o, &data, &err), NB_OK);
    ni_dataset_free(data);
}

/* Other bytes in the middle are other data, sealed or not; a file that is cut while it is read is an error. */
static void a_change_in_the_middle_changes_the_sum(void **state) {
    const char *path = in_folder(state, "a.bin");
    ni_dataset_options o = {.seq = SEQ, .vocab = 65536, .end_of_text = -1};
    write_counting(path, 2, 0, 30000);
    ni_dataset *before = open_dataset(path, o);
    ni_dataset_buffers to = {calloc(SEQ, 4), calloc(SEQ, 4), calloc(SEQ, 4), calloc(SEQ, 4)};
    nb_error err = {0};
    int32_t *tokens = malloc(30000 * sizeof *tokens);
    for (int32_t i = 0; i < 30000; i++)
        tokens[i] = i == 15000 ? 7 : i;
    write_shard(in_folder(state, "b.bin"), 2, tokens, 30000);
    ni_dataset *after = open_dataset(in_folder(state, "b.bin"), o);
    assert_true(ni_dataset_sum(before) != ni_dataset_sum(after));
    assert_int_equal(truncate(path, 20000), 0);
    assert_int_equal(ni_dataset_fill(before, 100, 1, &to, &err), NB_OK);
    assert_int_equal(ni_dataset_fill(before, 30000 / SEQ - 2, 1, &to, &err), NB_IO_ERROR);
    assert_non_null(strstr(err.message, "a.bin: the file ends before byte "));
    free(tokens);
    free(to.tokens);
    free(to.targets);
    free(to.positions);
    free(to.doc_start);
    ni_dataset_free(before);
    ni_dataset_free(after);
}

/* Each of the 24 orders of four sequences comes up about equally often over seeds. */
static void small_orders_are_fair(void **state) {
    const char *path = in_folder(state, "a.bin");
    write_counting(path, 2, 0, 4 * SEQ + 1);
    int count[256] = {0}, orders = 0, rounds = 4800;
    ni_dataset_options o = {.seq = SEQ, .vocab = 1000, .end_of_text = -1, .shuffle = true, .seed = 1};
    ni_dataset *data = open_dataset(path, o);
    for (int epoch = 0; epoch < rounds; epoch++) {
        int code = 0;
        for (int i = 0; i < 4; i++)
            code = code * 4 + (int)ni_dataset_sequence_of(data, epoch * 4 + i);
        count[code]++;
    }
    for (int i = 0; i < 256; i++) {
        orders += count[i] > 0;
        if (count[i]) /* mean 200, sd 14: within 5 sd */
            assert_in_range(count[i], 130, 270);
    }
    assert_int_equal(orders, 24);
    ni_dataset_free(data);
}

static void documents_begin_at_end_of_text(void **state) {
    const char *path = in_folder(state, "a.bin");
    const int32_t tokens[9] = {5, 6, 0, 7, 8, 9, 0, 1, 2};
    write_shard(path, 2, tokens, 9);
    ni_dataset_options o = {.seq = SEQ, .vocab = 10, .end_of_text = 0};
    arrays a;
    ni_dataset_buffers to = buffers(&a);
    ni_dataset *data = open_dataset(path, o);
    assert_int_equal(ni_dataset_fill(data, 3, 1, &to, NULL), NB_OK);
    const int32_t positions[SEQ] = {0, 1, 0, 1, 2, 3, 0, 1}, starts[SEQ] = {0, 0, 2, 2, 2, 2, 6, 6};
    assert_memory_equal(a.tokens, tokens, sizeof positions);
    assert_memory_equal(a.targets, tokens + 1, sizeof positions);
    assert_memory_equal(a.positions, positions, sizeof positions);
    assert_memory_equal(a.doc_start, starts, sizeof starts);
    ni_dataset_free(data);
    o.cross_documents = true;
    data = open_dataset(path, o);
    assert_int_equal(ni_dataset_fill(data, 0, 1, &to, NULL), NB_OK);
    for (int t = 0; t < SEQ; t++)
        assert_true(a.positions[t] == t && a.doc_start[t] == 0);
    ni_dataset_free(data);
}

static void validation_spreads_its_sequences(void **state) {
    const char *path = in_folder(state, "a.bin");
    write_counting(path, 2, 0, 10 * SEQ + 1);
    ni_dataset_options o = {.seq = SEQ, .vocab = 1000, .end_of_text = -1, .sequences = 4};
    ni_dataset *data = open_dataset(path, o);
    assert_int_equal(ni_dataset_sequences(data), 4);
    const int64_t want[4] = {0, 2, 5, 7};
    for (int i = 0; i < 8; i++)
        assert_int_equal(ni_dataset_sequence_of(data, i), want[i % 4]);
    ni_dataset_free(data);
}

static void bad_data_is_refused(void **state) {
    const char *path = in_folder(state, "a.bin"), *none = in_folder(state, "x*.bin");
    ni_dataset_options o = {.seq = SEQ, .vocab = 100, .end_of_text = -1};
    ni_dataset *data;
    nb_error err = {0};
    write_counting(path, 2, 0, SEQ);
    assert_int_equal(ni_dataset_open(&path, 1, &o, &data, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "8 tokens are too few for one sequence of 8"));
    write_counting(path, 2, 0, 0);
    assert_int_equal(ni_dataset_open(&path, 1, &o, &data, &err), NB_BAD_FILE);
    write_counting(path, 2, 90, 30);
    assert_int_equal(ni_dataset_open(&path, 1, &o, &data, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "token 100 at position 10 is beyond the vocabulary of 100"));
    assert_int_equal(ni_dataset_open(&none, 1, &o, &data, &err), NB_IO_ERROR);
    assert_int_equal(ni_dataset_open(NULL, 0, &o, &data, &err), NB_BAD_USAGE);
    o.end_of_text = 100;
    assert_int_equal(ni_dataset_open(&path, 1, &o, &data, &err), NB_BAD_CONFIG);
    o.end_of_text = -1;
    o.seq = 0;
    assert_int_equal(ni_dataset_open(&path, 1, &o, &data, &err), NB_BAD_USAGE);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, temporary_folder, remove_temporary_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(shard_round_trip),
        IN_FOLDER(a_flip_in_a_shard_is_found),
        IN_FOLDER(a_change_in_the_middle_changes_the_sum),
        cmocka_unit_test(shard_of_numpy),
        IN_FOLDER(shard_writer_refuses_what_does_not_fit),
        cmocka_unit_test(hostile_shards),
        IN_FOLDER(an_epoch_shows_every_sequence_once),
        IN_FOLDER(the_order_is_a_function_of_seed_and_index),
        IN_FOLDER(small_orders_are_fair),
        IN_FOLDER(documents_begin_at_end_of_text),
        IN_FOLDER(validation_spreads_its_sequences),
        IN_FOLDER(bad_data_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
