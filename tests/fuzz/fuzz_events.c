/* fuzz_events.c: any bytes as an event file. What is good is inside, is good again by itself, and a tail is torn only
 * where there is one. */
#include "fuzz.h"

#include "lens/tensorboard.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    bool torn;
    size_t good = ni_events_good(bytes, size, &torn);
    FUZZ_CHECK(good <= size && !(torn && good == size));
    FUZZ_CHECK(ni_events_good(bytes, good, &torn) == good && !torn);
    return 0;
}
