/* fuzz_hf_config.c: any bytes as Hugging Face's config.json. What is accepted survives being written and read again. */
#include "fuzz.h"

#include "model/hf.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    nb_model_config config, again;
    nb_error err = {0};
    nb_status status = ni_hf_config_parse((const char *)bytes, size, "fuzz/config.json", &config, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status != NB_OK)
        return 0;
    char *text = ni_hf_config_text(&config, NI_ST_BF16, (ni_hf_marks){1, 1});
    FUZZ_CHECK(text && ni_hf_config_parse(text, strlen(text), "fuzz/config.json", &again, &err) == NB_OK);
    char *text_again = ni_hf_config_text(&again, NI_ST_BF16, (ni_hf_marks){1, 1});
    FUZZ_CHECK(text_again && strcmp(text, text_again) == 0);
    free(text);
    free(text_again);
    return 0;
}
