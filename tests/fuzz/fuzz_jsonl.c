/* fuzz_jsonl.c: any bytes as a metrics.jsonl that is looked at and goes on where it stands, whatever the step: no line
 * that is one is lost but those beyond, and a file of such lines is not damaged. */
#include "fuzz.h"

#include "train/metrics.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char *all = malloc(size + 1), *some = malloc(size + 1);
    bool damaged, damaged_too;
    FUZZ_CHECK(all && some);
    memcpy(all, bytes, size);
    memcpy(some, bytes, size);
    size_t most = ni_metrics_keep(all, size, INT64_MAX, INT64_MAX, &damaged);
    size_t fewer = ni_metrics_keep(some, size, 100, 100, &damaged_too);
    FUZZ_CHECK(fewer <= most && damaged == damaged_too); /* damage does not depend on where a run resumes */
    FUZZ_CHECK(ni_metrics_keep(all, most, 100, 100, &damaged) == fewer && !damaged);
    FUZZ_CHECK(memcmp(all, some, fewer) == 0);
    free(all);
    free(some);
    return 0;
}
