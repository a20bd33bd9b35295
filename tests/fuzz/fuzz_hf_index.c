/* fuzz_hf_index.c: any bytes as Hugging Face's model.safetensors.index.json. The files that an accepted one names lie
 * in its folder, and there is one at least. */
#include "fuzz.h"

#include "model/hf.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    json_t *files, *seen;
    const char *name;
    nb_error err = {0};
    nb_status status = ni_hf_index_parse((const char *)bytes, size, "fuzz/model.safetensors.index.json", &files, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0) && (status == NB_OK) == (files != NULL));
    FUZZ_CHECK(status != NB_OK || json_object_size(files) > 0);
    json_object_foreach(files, name, seen) FUZZ_CHECK(*name && *name != '.' && !strchr(name, '/'));
    json_decref(files);
    return 0;
}
