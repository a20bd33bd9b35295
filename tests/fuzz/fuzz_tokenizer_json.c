/* fuzz_tokenizer_json.c: any bytes as the tokenizer.json or tokenizer_config.json of somebody else. A piece that opens
 * texts fits its room; what is made of a file opens texts as it was asked to, and making it again changes nothing. What
 * a file that is accepted makes of a text are ids of its vocabulary, the same ones again, and they can be decoded. */
#include "fuzz.h"

#include "data/bpe.h"
#include "data/tokenizer_files.h"

#include <string.h>

/* Room for what NFC gives is part of it: e and U+0301, a jamo. */
static void check_pairs(const char *json, size_t size) {
    static const char text[] = "the tokens of 12\n\n  it's cafe\xcc\x81 <|endoftext|>\xe1\x84\x80\xe1\x85\xa1 x<mask> ";
    ni_bpe *bpe;
    nb_error err = {0};
    ni_tokens once = {0}, again = {0};
    const nb_status status = ni_bpe_parse(json, size, &bpe, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0) && (status == NB_OK) == (bpe != NULL));
    if (status != NB_OK)
        return;
    const int32_t vocab = ni_bpe_vocab(bpe);
    if (ni_bpe_encode(bpe, text, sizeof text - 2, 1, &once, NULL) == NB_OK) {
        char *back;
        size_t back_size;
        for (int64_t i = 0; i < once.count; i++)
            FUZZ_CHECK(once.ids[i] >= 0 && once.ids[i] < vocab);
        FUZZ_CHECK(ni_bpe_encode(bpe, text, sizeof text - 2, 1, &again, NULL) == NB_OK && once.count == again.count);
        FUZZ_CHECK(!once.count || memcmp(once.ids, again.ids, (size_t)once.count * sizeof *once.ids) == 0);
        FUZZ_CHECK(ni_bpe_decode(bpe, once.ids, once.count, &back, &back_size, NULL) == NB_OK);
        FUZZ_CHECK(back[back_size] == 0);
        free(back);
    }
    for (int32_t id = 0; id < vocab; id += 1 + vocab / 64) {
        const char *added = ni_bpe_added(bpe, id);
        FUZZ_CHECK(!added || ni_bpe_id(bpe, added) >= 0);
    }
    ni_tokens_free(&once);
    ni_tokens_free(&again);
    ni_bpe_free(bpe);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    const char *json = (const char *)bytes, opening[] = "<fuzz>";
    char piece[NI_PIECE_ROOM];
    memset(piece, 'x', sizeof piece);
    if (ni_config_opens(json, size, piece))
        FUZZ_CHECK(memchr(piece, 0, sizeof piece) && piece[0]);
    memset(piece, 'x', sizeof piece);
    ni_json_opens(json, size, piece);
    FUZZ_CHECK(memchr(piece, 0, sizeof piece));
    FUZZ_CHECK(!ni_is_bytes_config(json, size) || ni_is_own_config(json, size));

    char *config = ni_config_opening_with(json, size, opening);
    FUZZ_CHECK(config);
    FUZZ_CHECK(ni_config_opens(config, strlen(config), piece) && strcmp(piece, opening) == 0);
    char *again = ni_config_opening_with(config, strlen(config), opening);
    FUZZ_CHECK(again && strcmp(config, again) == 0);
    free(config);
    free(again);

    char *tokenizer = ni_json_opening_with(json, size, opening, 7);
    if (tokenizer) {
        FUZZ_CHECK(ni_json_opens(tokenizer, strlen(tokenizer), piece) && strcmp(piece, opening) == 0);
        again = ni_json_opening_with(tokenizer, strlen(tokenizer), opening, 7);
        FUZZ_CHECK(again && strcmp(tokenizer, again) == 0);
        free(again);
    }
    free(tokenizer);
    check_pairs(json, size);
    return 0;
}
