/* cmocka.h: the few assertions that tests/harness.h and tests/quantize_cases.h use, for a program that is carried to
 * machines without cmocka: what fails is said, and the program ends. */
#ifndef NI_TEST_PLAIN_CMOCKA_H
#define NI_TEST_PLAIN_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define print_error(...) fprintf(stderr, __VA_ARGS__)
#define fail_msg(...) (fprintf(stderr, __VA_ARGS__), fprintf(stderr, "\n"), exit(1))
#define assert_true(condition)                                                                                         \
    ((condition) ? (void)0 : (void)fail_msg("%s:%d: not true: %s", __FILE__, __LINE__, #condition))
#define assert_int_equal(a, b) assert_true((a) == (b))
#define assert_non_null(p) assert_true((p) != NULL)

#endif
