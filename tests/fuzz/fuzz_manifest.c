/* fuzz_manifest.c: any bytes as a checkpoint's nibble.json, with a checksum that agrees, so that what it says is read.
 * What is accepted says positions that a run can have, survives being written and read again, and its list of files
 * leads nowhere outside the folder. */
#include "fuzz.h"

#include "train/manifest.h"

#include <string.h>

static void check_round_trip(const ni_manifest *m) {
    ni_manifest again;
    nb_error err = {0};
    char *text = ni_manifest_text(m, json_object_get(m->root, "files"));
    FUZZ_CHECK(text && ni_manifest_parse(text, strlen(text), "nibble.json", &again, &err) == NB_OK);
    char *text_again = ni_manifest_text(&again, json_object_get(again.root, "files"));
    FUZZ_CHECK(text_again && strcmp(text, text_again) == 0);
    FUZZ_CHECK(again.at.step == m->at.step && again.updates == m->updates);
    ni_manifest_free(&again);
    free(text);
    free(text_again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char *text = malloc(size + 1);
    FUZZ_CHECK(text);
    memcpy(text, bytes, size);
    text[size] = 0;
    ni_manifest_seal(text, size);
    ni_manifest m;
    nb_error err = {0};
    nb_status status = ni_manifest_parse(text, size, "nibble.json", &m, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    FUZZ_CHECK((status == NB_OK) == (m.root != NULL));
    free(text);
    if (status != NB_OK)
        return 0;
    FUZZ_CHECK(m.updates <= m.at.step && m.at.step <= m.at.next_batch);
    FUZZ_CHECK(m.at.passed_count >= 0 && m.at.passed_count <= NI_PASSED_MAX);
    check_round_trip(&m);
    FUZZ_CHECK(ni_manifest_verify("/dev/null", &m, &err) != NB_OK && err.message[0]);
    ni_manifest_free(&m);
    return 0;
}
