/* fuzz_metrics.c: any bytes as the metrics.jsonl of a run that goes on. What is kept are whole lines of the file in
 * their order, and keeping them again changes nothing. */
#include "fuzz.h"

#include "train/metrics.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char *text = malloc(size + 1);
    FUZZ_CHECK(text);
    memcpy(text, bytes, size);
    bool damaged;
    size_t kept = ni_metrics_keep(text, size, 3, 2, &damaged);
    FUZZ_CHECK(kept <= size);
    FUZZ_CHECK(kept == 0 || text[kept - 1] == '\n');
    size_t from = 0;
    for (size_t at = 0; at < kept;) { /* each line is one of the file, behind the one before */
        size_t length = (size_t)((const char *)memchr(text + at, '\n', kept - at) - (text + at)) + 1;
        while (from + length <= size && memcmp(bytes + from, text + at, length) != 0) {
            const uint8_t *newline = memchr(bytes + from, '\n', size - from);
            FUZZ_CHECK(newline);
            from = (size_t)(newline - bytes) + 1;
        }
        FUZZ_CHECK(from + length <= size);
        from += length;
        at += length;
    }
    FUZZ_CHECK(ni_metrics_keep(text, kept, 3, 2, &damaged) == kept && !damaged);
    free(text);
    return 0;
}
