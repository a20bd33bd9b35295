/* fuzz_safetensors.c: any bytes as a tensor file. What is accepted tiles its data and is found under its names. */
#include "fuzz.h"

#include "files/safetensors.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    ni_safetensors *file;
    nb_error err = {0};
    nb_status status = ni_safetensors_parse(bytes, size, &file, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status != NB_OK)
        return 0;
    const uint8_t *end = bytes + size;
    size_t total = 0;
    uint64_t header;
    memcpy(&header, bytes, sizeof header);
    for (int32_t i = 0; i < ni_safetensors_count(file); i++) {
        const ni_file_tensor *t = ni_safetensors_at(file, i);
        size_t elements = 1;
        for (int32_t d = 0; d < t->rank; d++)
            elements *= (size_t)t->shape[d];
        FUZZ_CHECK(elements * ni_tensor_dtype_size(t->dtype) == t->bytes);
        FUZZ_CHECK((const uint8_t *)t->data >= bytes && (const uint8_t *)t->data + t->bytes <= end);
        FUZZ_CHECK(ni_safetensors_find(file, t->name) == t);
        total += t->bytes;
    }
    FUZZ_CHECK(total == size - 8 - header);
    ni_safetensors_metadata(file, "format");
    ni_safetensors_close(file);
    return 0;
}
