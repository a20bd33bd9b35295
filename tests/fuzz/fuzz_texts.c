/* fuzz_texts.c: any bytes as a file that somebody has text in: gzip, zstd, JSON lines, plain. What is unpacked is
 * unpacked the same again, what is taken of JSON lines is no longer than they are, and each failure is said. (Parquet
 * is Arrow's to parse, and its makers fuzz it; tests/test_data_parquet.sh has damaged files of it.) */
#include "fuzz.h"

#include "data/text_file.h"

#include <string.h>

/* The texts of JSON lines end in a NUL each, and are the same when they are taken again. */
static void take(const char *name, const char *bytes, size_t size) {
    char *texts, *again;
    size_t length, length_again;
    nb_error err = {0};
    if (!ni_text_is_json_lines(name, bytes, size))
        return;
    nb_status status = ni_text_take_field(name, bytes, size, "text", &texts, &length, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status != NB_OK)
        return;
    FUZZ_CHECK(length <= size && (length == 0 || texts[length - 1] == 0));
    FUZZ_CHECK(ni_text_take_field(name, bytes, size, "text", &again, &length_again, &err) == NB_OK);
    FUZZ_CHECK(length == length_again && memcmp(texts, again, length) == 0);
    free(texts);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char *unpacked;
    size_t length;
    nb_error err = {0};
    nb_status status = ni_text_unpack("input", (const char *)bytes, size, &unpacked, &length, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status == NB_OK && unpacked) {
        take("input", unpacked, length);
        free(unpacked);
    }
    err = (nb_error){0};
    ni_text_doubts doubts;
    for (int separated = 0; separated < 2; separated++) {
        status = ni_text_check("input", (const char *)bytes, size, separated, &doubts, &err);
        FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
        err = (nb_error){0};
    }
    status = ni_text_check_json("input", (const char *)bytes, size, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    for (size_t most = 0; most < 40; most += 13) {
        char words[40] = {0};
        ni_text_first_words(&(ni_text){(const char *)bytes, size}, most, words);
        FUZZ_CHECK(strlen(words) <= most);
    }
    take("input", (const char *)bytes, size);
    take("input.jsonl", (const char *)bytes, size);
    return 0;
}
