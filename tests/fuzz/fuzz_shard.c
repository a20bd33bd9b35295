/* fuzz_shard.c: any bytes as a file of tokens. Every token of an accepted one can be read. */
#include "fuzz.h"

#include "data/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    ni_shard shard;
    nb_error err = {0};
    nb_status status = ni_shard_parse(bytes, size, &shard, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status != NB_OK)
        return 0;
    const int64_t vocab = 1000;
    ni_shard_survey seen;
    if (ni_shard_survey_all(&shard, vocab, &seen, &err) != NB_OK) { /* sealed, and not by us */
        FUZZ_CHECK(shard.sealed && err.message[0]);
        ni_shard_close(&shard);
        return 0;
    }
    int64_t beyond = seen.beyond;
    FUZZ_CHECK(beyond >= -1 && beyond < shard.count);
    for (int64_t i = 0; i < shard.count; i++) {
        int32_t token;
        FUZZ_CHECK(ni_shard_read(&shard, i, 1, &token, NULL) == NB_OK);
        FUZZ_CHECK(token >= 0);
        FUZZ_CHECK(i == beyond ? token >= vocab : token < vocab || (beyond >= 0 && i > beyond));
    }
    ni_shard_close(&shard);
    return 0;
}
