/* fuzz_nibble_json.c: any bytes as the nibble.json of a folder on disk, as `nibble verify` and a resume read it: with a
 * seal that does not agree they are refused whatever they say, and with one that agrees nothing outside the folder is
 * looked at. */
#include "fuzz.h"

#include "train/manifest.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char *text = malloc(size + 1);
    ni_manifest m;
    nb_error err = {0};
    FUZZ_CHECK(text);
    memcpy(text, bytes, size);
    text[size] = 0;
    nb_status raw = ni_manifest_parse(text, size, "nibble.json", &m, &err);
    FUZZ_CHECK((raw == NB_OK) == (err.message[0] == 0));
    if (raw == NB_OK)
        ni_manifest_free(&m);
    memcpy(text, bytes, size);
    if (ni_manifest_seal(text, size) && ni_manifest_parse(text, size, "nibble.json", &m, &err) == NB_OK) {
        const char *name;
        json_t *entry;
        json_object_foreach(json_object_get(m.root, "files"), name, entry) {
            nb_error why = {0};
            FUZZ_CHECK(ni_manifest_lists(&m, name));
            FUZZ_CHECK(ni_manifest_verify_file("/nowhere/at/all", &m, name, &why) == NB_BAD_FILE && why.message[0]);
        }
        FUZZ_CHECK(m.at.evaluated >= 0 && m.at.evaluated <= m.at.step);
        ni_manifest_free(&m);
    }
    free(text);
    return 0;
}
