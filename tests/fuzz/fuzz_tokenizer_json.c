/* fuzz_tokenizer_json.c: any bytes as the tokenizer.json or tokenizer_config.json of somebody else. A piece that opens
 * texts fits its room; what is made of a file opens texts as it was asked to, and making it again changes nothing. */
#include "fuzz.h"

#include "data/tokenizer_files.h"

#include <string.h>

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
    return 0;
}
