/* fuzz_megatron.c: any bytes as Megatron-LM's index of tokens of so many bytes beside it; the first eight bytes say how
 * many. What is accepted counts all tokens, and for one size alone. */
#include "fuzz.h"

#include "data/shard_foreign.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    int64_t beside;
    if (size < sizeof beside)
        return 0;
    memcpy(&beside, bytes, sizeof beside);
    beside &= INT64_MAX; /* the size of a file */
    ni_foreign_shard shard = {0}, other = {0};
    nb_error err = {0};
    nb_status status = ni_megatron_parse(bytes + sizeof beside, size - sizeof beside, beside, &shard, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    FUZZ_CHECK(!shard.path);
    if (status != NB_OK)
        return 0;
    FUZZ_CHECK((shard.width == 2 || shard.width == 4) && shard.count >= 0);
    FUZZ_CHECK(shard.count * shard.width == beside);
    if (beside < INT64_MAX)
        FUZZ_CHECK(ni_megatron_parse(bytes + sizeof beside, size - sizeof beside, beside + 1, &other, NULL) != NB_OK);
    return 0;
}
