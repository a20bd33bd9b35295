/* test_series.c: the series file: round trip, torn tails, resuming, hostile bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "files/file.h"
#include "lens/series.h"
#include "lens/series_format.h"

static char path[64];

static int fresh_path(void **state) {
    (void)state;
    strcpy(path, "/tmp/nibble-series-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return 0;
}

static int remove_path(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

static void write_steps(int64_t from, int64_t to) {
    ni_series_writer *w;
    nb_error err = {0};
    assert_int_equal(ni_series_writer_open(path, from, &w, &err), NB_OK);
    for (int64_t step = from; step < to; step++) {
        const float vector[3] = {(float)step, -1.5f, 0.25f};
        char name[32];
        snprintf(name, sizeof name, "only/%d", (int)step); /* names appear as the run goes on */
        ni_series_put(w, "loss", 10.0 - (double)step);
        ni_series_put_vector(w, "hot", vector, 3);
        ni_series_put(w, name, 1.0);
        assert_int_equal(ni_series_commit(w, step, &err), NB_OK);
    }
    ni_series_writer_close(w);
}

/* What is forgotten leaves its names: the ids of later ones stand. */
static void forgotten_values_leave_their_names(void **state) {
    (void)state;
    const float vector[2] = {1, 2};
    nb_error err = {0};
    ni_series_writer *w;
    ni_series_reader *r;
    assert_int_equal(ni_series_writer_open(path, 0, &w, &err), NB_OK);
    ni_series_put(w, "a", 1);
    ni_series_put_vector(w, "b", vector, 2);
    ni_series_put(w, "a", 2);
    ni_series_forget(w);
    ni_series_forget(w);
    ni_series_put(w, "c", 3);
    ni_series_put(w, "b", 4);
    assert_int_equal(ni_series_commit(w, 7, &err), NB_OK);
    ni_series_writer_close(w);
    assert_int_equal(ni_series_read(path, &r, NULL, &err), NB_OK);
    assert_int_equal(ni_series_names(r), 3);
    assert_int_equal(ni_series_points(r, ni_series_find(r, "a")), 0);
    assert_int_equal(ni_series_points(r, ni_series_find(r, "b")), 1);
    const ni_series_point b = ni_series_at(r, ni_series_find(r, "b"), 0),
                          c = ni_series_at(r, ni_series_find(r, "c"), 0);
    assert_true(b.step == 7 && b.count == 1 && *b.values == 4 && *c.values == 3);
    ni_series_reader_free(r);
}

static void expect_steps(int64_t steps, int64_t want_cut) {
    ni_series_reader *r;
    nb_error err = {0};
    int64_t cut;
    assert_int_equal(ni_series_read(path, &r, &cut, &err), NB_OK);
    assert_int_equal(cut, want_cut);
    int32_t loss = ni_series_find(r, "loss"), hot = ni_series_find(r, "hot");
    assert_true(loss >= 0 && hot >= 0);
    assert_int_equal(ni_series_find(r, "absent"), -1);
    assert_int_equal(ni_series_names(r), 2 + steps);
    assert_int_equal(ni_series_points(r, loss), steps);
    for (int64_t i = 0; i < steps; i++) {
        ni_series_point scalar = ni_series_at(r, loss, i), vector = ni_series_at(r, hot, i);
        assert_int_equal(scalar.step, i);
        assert_int_equal(scalar.count, 1);
        assert_true(scalar.values[0] == (float)(10 - i));
        assert_int_equal(vector.count, 3);
        assert_true(vector.values[0] == (float)i && vector.values[1] == -1.5f);
    }
    ni_series_reader_free(r);
}

static void round_trip(void **state) {
    (void)state;
    write_steps(0, 700); /* past the growth of the name table */
    expect_steps(700, 0);
}

static void resuming_drops_later_steps(void **state) {
    (void)state;
    write_steps(0, 20);
    write_steps(12, 25);
    expect_steps(25, 0);
}

/* However many bytes a crash leaves of the last chunk, everything before it is read, and a writer goes on from there.
 */
static void torn_tail(void **state) {
    (void)state;
    write_steps(0, 4);
    char *three, *four;
    size_t size_three, size_four;
    nb_error err = {0};
    assert_int_equal(ni_file_read(path, 1 << 20, &four, &size_four, &err), NB_OK);
    write_steps(3, 3);
    assert_int_equal(ni_file_read(path, 1 << 20, &three, &size_three, &err), NB_OK);
    assert_true(size_three < size_four);
    for (size_t size = size_three; size < size_four; size++) {
        assert_int_equal(ni_file_write(path, four, size, &err), NB_OK);
        expect_steps(3, (int64_t)(size - size_three));
    }
    write_steps(3, 6);
    expect_steps(6, 0);
    free(three);
    free(four);
}

static void flipped_bit_ends_the_file(void **state) {
    (void)state;
    write_steps(0, 4);
    char *bytes;
    size_t size;
    nb_error err = {0};
    assert_int_equal(ni_file_read(path, 1 << 20, &bytes, &size, &err), NB_OK);
    for (size_t at = 0; at < size; at++) {
        bytes[at] ^= 4;
        ni_series_reader *r = NULL;
        int64_t cut = 0;
        nb_status status = ni_series_parse(bytes, size, &r, &cut, &err);
        assert_true(at < NI_SERIES_MAGIC_SIZE ? status == NB_BAD_FILE : status == NB_OK && cut > 0);
        ni_series_reader_free(r);
        bytes[at] ^= 4;
    }
    free(bytes);
}

/* A writer that finds damage keeps the file as it was under another name and goes on with what is good. */
static void damage_is_set_aside(void **state) {
    (void)state;
    char *bytes, *kept, aside[1024];
    size_t size, kept_size;
    nb_error err = {0};
    ni_series_writer *w;
    for (int how = 0; how < 3; how++) {
        unlink(path);
        write_steps(0, 4);
        assert_int_equal(ni_file_read(path, 1 << 20, &bytes, &size, &err), NB_OK);
        if (how == 0)
            bytes[size / 2] ^= 1; /* in the middle */
        else if (how == 1)
            memset(bytes + size - 40, 0, 40); /* a power cut */
        else
            bytes[3] ^= 1; /* nothing is good */
        assert_int_equal(ni_file_write(path, bytes, size, &err), NB_OK);
        if (ni_series_writer_open(path, 4, &w, &err) != NB_OK)
            fail_msg("%s", err.message);
        snprintf(aside, sizeof aside, "%s", ni_series_aside(w));
        ni_series_put(w, "loss", 1);
        assert_int_equal(ni_series_commit(w, 4, &err), NB_OK);
        ni_series_writer_close(w);
        assert_int_equal(ni_file_read(aside, 1 << 20, &kept, &kept_size, &err), NB_OK);
        assert_int_equal(size, kept_size);
        assert_memory_equal(bytes, kept, size);
        free(bytes);
        free(kept);
        unlink(aside);
        int64_t cut;
        ni_series_reader *r;
        assert_int_equal(ni_series_read(path, &r, &cut, &err), NB_OK);
        assert_int_equal(cut, 0);
        assert_int_equal(ni_series_points(r, ni_series_find(r, "loss")), how == 0 ? 2 : how == 1 ? 4 : 1);
        ni_series_reader_free(r);
    }
}

/* Chunks whose checksum is right and whose records are not. */
static void hostile_records(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
    } payloads[] = {
        {"S\0\0\0\0\0\0\0\0", 9},                        /* a value of a name that was never defined */
        {"N\1\0\0\0\1\0a", 8},                           /* the first id is not 0 */
        {"N\0\0\0\0\377\377a", 8},                       /* a name longer than the payload */
        {"N\0\0\0\0\0\0", 7},                            /* an empty name */
        {"N\0\0\0\0\2\0a\0", 9},                         /* a 0 inside a name */
        {"N\0\0\0\0\1\0aV\0\0\0\0\377\377\377\377", 17}, /* a vector longer than the payload */
        {"N\0\0\0\0\1\0aV\0\0\0\0\0\0\0\100", 17},       /* whose bytes overflow 32 bits */
        {"?\0\0\0\0", 5},                                /* no such record */
        {"S", 1},                                        /* cut inside a record */
    };
    for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++) {
        unsigned char file[128];
        ni_series_chunk head = {NI_SERIES_CHUNK_MAGIC, (uint32_t)payloads[i].size, 7,
                                ni_series_checksum(7, payloads[i].bytes, payloads[i].size)};
        memcpy(file, NI_SERIES_MAGIC, NI_SERIES_MAGIC_SIZE);
        memcpy(file + NI_SERIES_MAGIC_SIZE, &head, sizeof head);
        memcpy(file + NI_SERIES_MAGIC_SIZE + sizeof head, payloads[i].bytes, payloads[i].size);
        ni_series_reader *r;
        nb_error err = {0};
        int64_t cut;
        assert_int_equal(ni_series_parse(file, NI_SERIES_MAGIC_SIZE + sizeof head + payloads[i].size, &r, &cut, &err),
                         NB_OK);
        assert_int_equal(cut, sizeof head + payloads[i].size);
        assert_int_equal(ni_series_names(r), 0);
        ni_series_reader_free(r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(round_trip, fresh_path, remove_path),
        cmocka_unit_test_setup_teardown(resuming_drops_later_steps, fresh_path, remove_path),
        cmocka_unit_test_setup_teardown(torn_tail, fresh_path, remove_path),
        cmocka_unit_test_setup_teardown(forgotten_values_leave_their_names, fresh_path, remove_path),
        cmocka_unit_test_setup_teardown(flipped_bit_ends_the_file, fresh_path, remove_path),
        cmocka_unit_test_setup_teardown(damage_is_set_aside, fresh_path, remove_path),
        cmocka_unit_test(hostile_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
