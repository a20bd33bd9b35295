/* mutate.c: libFuzzer's mutations, their checksums repaired where a target can (fuzz_repair). */
#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t most, unsigned int seed);

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t most, unsigned int seed) {
    size = LLVMFuzzerMutate(bytes, size, most);
    if (fuzz_repair && seed % 8 != 0)
        fuzz_repair(bytes, size);
    return size;
}
