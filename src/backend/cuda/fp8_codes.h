/* fp8_codes.h: 4-bit codes as E4M3 bytes: exact for E2M1 (2 significant bits, up to 6) and for INT4 (3 bits, up to 7).
 */
#ifndef NI_BACKEND_CUDA_FP8_CODES_H
#define NI_BACKEND_CUDA_FP8_CODES_H

#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/int4.h"
#include "nibble/format.h"

/* The byte of code c, from bit 8 (c % 8) of half[c / 8] on. */
typedef struct ni_fp8_codes {
    uint64_t half[2];
} ni_fp8_codes;

static inline ni_fp8_codes ni_fp8_table(nb_element element) {
    ni_fp8_codes table = {{0, 0}};
    for (uint32_t code = 0; code < 16; code++) {
        const float x = element == NB_ELEMENT_INT4 ? ni_int4_value((uint8_t)code) : ni_e2m1_value((uint8_t)code);
        table.half[code / 8] |= (uint64_t)ni_e4m3_even(x) << 8 * (code % 8);
    }
    return table;
}

static inline NI_HD uint8_t ni_fp8_of_code(ni_fp8_codes table, uint32_t code) {
    return (uint8_t)((code < 8 ? table.half[0] : table.half[1]) >> 8 * (code & 7));
}

#endif
