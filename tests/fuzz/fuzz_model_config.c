/* fuzz_model_config.c: any bytes as a model file. What is accepted passes the check of its sizes. */
#include "fuzz.h"

#include "model/config_keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    ni_yaml doc;
    ni_model_file file;
    nb_error err = {0};
    if (ni_yaml_parse((const char *)bytes, size, "fuzz.yaml", &doc, &err) != NB_OK) {
        FUZZ_CHECK(err.message[0] && !doc.memory);
        return 0;
    }
    nb_status status = ni_keys_read(&ni_model_keys, &file, doc.root, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    FUZZ_CHECK(status == NB_OK || status == NB_BAD_CONFIG);
    if (status == NB_OK)
        FUZZ_CHECK(nb_model_config_check(&file.config, &err) == NB_OK);
    ni_yaml_free(&doc);
    return 0;
}
