/* test_base.c: status sentences and the counter-based generator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/philox.h"
#include "base/whole.h"
#include "nibble/status.h"
#include <math.h>

/* Known answers of Random123 1.x (kat_vectors, philox4x32 10 rounds). */
static void philox_known_answers(void **state) {
    (void)state;
    ni_philox_words zero = ni_philox(0, 0, 0, 0, 0, 0);
    const uint32_t want_zero[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    assert_memory_equal(zero.w, want_zero, sizeof want_zero);
    ni_philox_words ones = ni_philox(~0u, ~0u, ~0u, ~0u, ~0u, ~0u);
    const uint32_t want_ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    assert_memory_equal(ones.w, want_ones, sizeof want_ones);
    ni_philox_words pi = ni_philox(0xa4093822, 0x299f31d0, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344);
    const uint32_t want_pi[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    assert_memory_equal(pi.w, want_pi, sizeof want_pi);
}

/* What many counters have in common, done once, changes no word. */
static void philox_in_common(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 2000; i++) {
        const ni_philox_words r = ni_philox(i, 1, 2, 3, 4, 5), s = ni_philox(i, 6, 7, 8, 9, 10);
        const ni_philox_keys keys = ni_philox_keys_of(r.w[0], r.w[1]);
        const ni_philox_shared shared = ni_philox_share(&keys, r.w[3], s.w[0]);
        const ni_philox_words want = ni_philox(r.w[0], r.w[1], r.w[2], r.w[3], s.w[0], s.w[1]),
                              got = ni_philox_next(&keys, &shared, r.w[2], s.w[1]);
        assert_memory_equal(got.w, want.w, sizeof want.w);
    }
}

static void messages_stay_one_line(void **state) {
    (void)state;
    nb_error err = {0};
    assert_int_equal(nb_fail(&err, NB_BAD_FILE, "x\ny: expected %d", 3), NB_BAD_FILE);
    assert_string_equal(err.message, "x y: expected 3");
    assert_int_equal(nb_fail_within(&err, "a.yaml:%d", 7), NB_BAD_FILE);
    assert_string_equal(err.message, "a.yaml:7: x y: expected 3");
    assert_int_equal(nb_fail(NULL, NB_IO_ERROR, "nobody listens"), NB_IO_ERROR);
}

static void exit_statuses(void **state) {
    (void)state;
    assert_int_equal(nb_status_exit(NB_OK), 0);
    assert_int_equal(nb_status_exit(NB_BAD_CONFIG), 2);
    assert_int_equal(nb_status_exit(NB_BAD_NUMBER), 1);
}

static void measured_numbers_become_whole_ones(void **state) {
    (void)state;
    assert_int_equal(ni_whole(-7.9), -7);
    assert_int_equal(ni_whole((double)NAN), 0);
    assert_int_equal(ni_whole((double)INFINITY), (int64_t)1 << 53);
    assert_int_equal(ni_whole(-(double)INFINITY), -((int64_t)1 << 53));
    assert_int_equal(ni_whole(1e300), (int64_t)1 << 53);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(philox_in_common),
        cmocka_unit_test(messages_stay_one_line),
        cmocka_unit_test(exit_statuses),
        cmocka_unit_test(measured_numbers_become_whole_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
