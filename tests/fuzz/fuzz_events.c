/* fuzz_events.c: any bytes as an event file. What is good is inside, is good again by itself, and a tail is torn only
 * where there is one. */
#include "fuzz.h"

#include "lens/tensorboard.h"

#include <string.h>

/* As TensorBoard's record writer masks it. */
static uint32_t checksum(const void *bytes, size_t size) {
    uint32_t crc = ni_crc32c(bytes, size);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

void fuzz_repair(uint8_t *bytes, size_t size) {
    for (size_t at = 0; at + 16 <= size;) {
        uint64_t length;
        memcpy(&length, bytes + at, sizeof length);
        length = length > size - at - 16 ? size - at - 16 : length;
        memcpy(bytes + at, &length, sizeof length);
        uint32_t of_length = checksum(&length, sizeof length), of_bytes = checksum(bytes + at + 12, length);
        memcpy(bytes + at + 8, &of_length, sizeof of_length);
        memcpy(bytes + at + 12 + length, &of_bytes, sizeof of_bytes);
        at += 16 + length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    bool torn;
    size_t good = ni_events_good(bytes, size, &torn);
    FUZZ_CHECK(good <= size && !(torn && good == size));
    FUZZ_CHECK(ni_events_good(bytes, good, &torn) == good && !torn);
    return 0;
}
