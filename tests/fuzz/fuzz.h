/* fuzz.h: what a fuzz target is.
 *
 * tests/fuzz/fuzz_NAME.c defines LLVMFuzzerTestOneInput, which reads any bytes and must neither crash nor contradict
 * itself; seeds are in tests/fuzz/corpus/NAME. `make fuzz` runs it under libFuzzer with ASan and UBSan. In every other
 * build replay.c feeds it the seeds and some thousand mutations of them, as test fuzz_NAME.
 */
#ifndef NI_TESTS_FUZZ_H
#define NI_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* A target of checksummed files may have this one: makes the checksums of a mutated input hold, so that what lies
 * behind them is reached. Seven in eight mutations are repaired. */
__attribute__((weak)) void fuzz_repair(uint8_t *bytes, size_t size);

/* A finding. */
#define FUZZ_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                              \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#endif
