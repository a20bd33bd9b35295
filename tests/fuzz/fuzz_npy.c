/* fuzz_npy.c: any bytes as a NumPy array. What is accepted lies inside the bytes and fills them. */
#include "fuzz.h"

#include "files/npy.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    ni_npy view, copy;
    nb_error err = {0};
    nb_status status = ni_npy_view(bytes, size, &view, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    FUZZ_CHECK(ni_npy_parse(bytes, size, &copy, NULL) == status);
    if (status == NB_OK) {
        FUZZ_CHECK((const uint8_t *)view.tensor.data + view.tensor.bytes == bytes + size);
        FUZZ_CHECK(view.tensor.bytes == copy.tensor.bytes && view.tensor.rank == copy.tensor.rank);
        FUZZ_CHECK(memcmp(view.tensor.data, copy.tensor.data, copy.tensor.bytes) == 0);
        ni_npy_free(&copy);
    }
    return 0;
}
