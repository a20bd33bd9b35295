/* fuzz_run.c: any bytes as a run file. Lines before the first that starts with '%' are the file, the line itself
 * (without
 * '%') is a --set. What is accepted survives being written as run.yaml and read again. */
#include "fuzz.h"

#include "nibble/train.h"

#include <string.h>

static void check_round_trip(const nb_run_config *config) {
    nb_run_config again;
    nb_error err = {0};
    char *text = nb_run_config_text(config);
    FUZZ_CHECK(text);
    FUZZ_CHECK(nb_run_config_parse(text, strlen(text), "run.yaml", NULL, 0, &again, &err) == NB_OK);
    char *text_again = nb_run_config_text(&again);
    FUZZ_CHECK(text_again && strcmp(text, text_again) == 0);
    free(text);
    free(text_again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char set[256] = "";
    const char *text = (const char *)bytes, *override = NULL;
    size_t file_size = size;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] == '%' && (i == 0 || bytes[i - 1] == '\n') && size - i - 1 < sizeof set) {
            memcpy(set, bytes + i + 1, size - i - 1);
            override = set;
            file_size = i;
            break;
        }
    nb_run_config config;
    nb_error err = {0};
    nb_status status = nb_run_config_parse(text, file_size, "fuzz.yaml", &override, override ? 1 : 0, &config, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status == NB_OK)
        check_round_trip(&config);
    return 0;
}
