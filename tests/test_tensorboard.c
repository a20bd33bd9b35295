/* test_tensorboard.c: event files, against the checksum's known answers and by walking through the records.
 * scripts/check_tensorboard.py reads such a file with TensorBoard's own reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "files/file.h"
#include "files/folder.h"
#include "lens/tensorboard.h"
#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

/* RFC 3720 appendix B.4. */
static void crc32c_known_answers(void **state) {
    (void)state;
    unsigned char bytes[32] = {0};
    assert_int_equal(ni_crc32c(bytes, 32), 0x8a9136aau);
    memset(bytes, 0xff, 32);
    assert_int_equal(ni_crc32c(bytes, 32), 0x62a8ab43u);
    for (int i = 0; i < 32; i++)
        bytes[i] = (unsigned char)i;
    assert_int_equal(ni_crc32c(bytes, 32), 0x46dd794eu);
}

static void records_are_whole(void **state) {
    (void)state;
    char folder[] = "/tmp/nibble-events-XXXXXX";
    assert_non_null(mkdtemp(folder));
    ni_tensorboard *tb;
    nb_error err = {0};
    assert_int_equal(ni_tensorboard_open(folder, &tb, &err), NB_OK);
    for (int step = 0; step < 5; step++)
        assert_int_equal(ni_tensorboard_scalar(tb, "loss", step * 100, 3.5, &err), NB_OK);
    const double limits[3] = {-1, 0, 1}, counts[3] = {2, 5, 1};
    assert_int_equal(ni_tensorboard_histogram(tb, "scales", 400, limits, counts, 3, &err), NB_OK);
    assert_int_equal(ni_tensorboard_close(tb, &err), NB_OK);

    DIR *dir = opendir(folder);
    char path[512] = "";
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.')
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    closedir(dir);
    assert_non_null(strstr(path, "tfevents"));
    char *bytes;
    size_t size, at = 0;
    int records = 0;
    assert_int_equal(ni_file_read(path, 1 << 20, &bytes, &size, &err), NB_OK);
    for (; at < size; records++) {
        uint64_t length;
        uint32_t crc, want;
        memcpy(&length, bytes + at, 8);
        assert_true(length < size - at);
        memcpy(&crc, bytes + at + 12 + length, 4);
        want = ni_crc32c(bytes + at + 12, length);
        want = ((want >> 15) | (want << 17)) + 0xa282ead8u;
        assert_int_equal(crc, want);
        at += 16 + length;
    }
    assert_int_equal(at, size);
    assert_int_equal(records, 7);
    static const char scalar[] = "\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x60\x40"; /* summary{value{tag, 3.5f}} */
    assert_memory_equal(bytes + (8 + 4 + 26 + 4) + 12 + 9 + 2, scalar, sizeof scalar - 1);
    free(bytes);
    unlink(path);
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_known_answers),
        cmocka_unit_test(records_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
