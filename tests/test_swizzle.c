/* test_swizzle.c: the layout of block scales that units for four bits read, against tables written from its
 * documentation, and the bytes that hold E2M1 and INT4 codes exactly in E4M3. */
#include "harness.h"

#include "backend/cuda/fp8_codes.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/int4.h"
#include "format/swizzle.h"

/* One tile as the documentation draws it: 32 lines of 16 bytes; line i has rows i, 32 + i, 64 + i and 96 + i. */
static void one_tile(void **state) {
    (void)state;
    for (int line = 0; line < 32; line++)
        for (int quarter = 0; quarter < 4; quarter++)
            for (int block = 0; block < 4; block++)
                assert_int_equal(ni_swizzled_at(quarter * 32 + line, block, 4), line * 16 + quarter * 4 + block);
    assert_int_equal(ni_swizzled_at(0, 0, 4), 0);
    assert_int_equal(ni_swizzled_at(32, 0, 4), 4);
    assert_int_equal(ni_swizzled_at(96, 3, 4), 15);
    assert_int_equal(ni_swizzled_at(1, 0, 4), 16);
    assert_int_equal(ni_swizzled_at(127, 3, 4), 511);
}

/* Tiles of the same rows lie behind each other; the next rows come after all of them. */
static void many_tiles(void **state) {
    (void)state;
    assert_int_equal(ni_swizzled_at(0, 4, 12), 512);
    assert_int_equal(ni_swizzled_at(0, 8, 12), 1024);
    assert_int_equal(ni_swizzled_at(128, 0, 12), 3 * 512);
    assert_int_equal(ni_swizzled_at(129, 5, 12), 4 * 512 + 16 + 1);
    assert_int_equal(ni_swizzled_bytes(128, 4), 512);
    assert_int_equal(ni_swizzled_bytes(1, 1), 512);
    assert_int_equal(ni_swizzled_bytes(129, 5), 4 * 512);
    assert_int_equal(ni_swizzled_bytes(0, 5), 0);
}

/* Every scale lies somewhere of its own, and what is left is padding of zeros. */
static void all_of_it(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {16, 4}, {128, 4}, {130, 9}, {256, 16}, {300, 6}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t rows = shapes[s][0], blocks = shapes[s][1];
        const size_t bytes = ni_swizzled_bytes(rows, blocks);
        uint8_t *scales = poisoned((size_t)(rows * blocks)), *out = poisoned(bytes);
        int64_t found = 0;
        for (int64_t i = 0; i < rows * blocks; i++)
            scales[i] = (uint8_t)(1 + i % 255);
        ni_swizzle_scales(out, scales, rows, blocks);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t b = 0; b < blocks; b++) {
                const size_t at = ni_swizzled_at(r, b, blocks);
                assert_true(at < bytes);
                assert_int_equal(out[at], scales[r * blocks + b]);
            }
        for (size_t i = 0; i < bytes; i++)
            found += out[i] != 0;
        assert_int_equal(found, rows * blocks);
    }
    release_buffers_until(NULL);
}

static void codes_in_fp8(void **state) {
    (void)state;
    for (int code = 0; code < 16; code++) {
        const float e2m1 = ni_e4m3_value(ni_fp8_of_code(ni_fp8_table(NB_ELEMENT_E2M1), (uint32_t)code));
        const float int4 = ni_e4m3_value(ni_fp8_of_code(ni_fp8_table(NB_ELEMENT_INT4), (uint32_t)code));
        assert_true(e2m1 == ni_e2m1_value((uint8_t)code) && !signbit(e2m1) == !signbit(ni_e2m1_value((uint8_t)code)));
        if (code != 8) /* no INT4 number */
            assert_true(int4 == ni_int4_value((uint8_t)code));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_tile), cmocka_unit_test(many_tiles),
                                       cmocka_unit_test(all_of_it), cmocka_unit_test(codes_in_fp8)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
