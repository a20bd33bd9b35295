/* ggml.c: see ggml.h for the layouts. */
#include "format/ggml.h"

/* n codes from pairs of neighbours to pairs half a block apart. */
static void split_half(const uint8_t *codes, int n, uint8_t *out) {
    for (int j = 0; j < n / 2; j++) {
        const int far = j + n / 2;
        const uint8_t low = codes[j / 2] >> 4 * (j % 2) & 15, high = codes[far / 2] >> 4 * (far % 2) & 15;
        out[j] = (uint8_t)(low | high << 4);
    }
}

void ni_ggml_nvfp4_row(const uint8_t *codes, const uint8_t *scales, int64_t cols, uint8_t *out) {
    for (int64_t at = 0; at < cols; at += NI_GGML_NVFP4_BLOCK, out += NI_GGML_NVFP4_BYTES)
        for (int b = 0; b < 4; b++) {
            out[b] = scales[at / 16 + b];
            split_half(codes + (at + 16 * b) / 2, 16, out + 4 + 8 * b);
        }
}

void ni_ggml_mxfp4_row(const uint8_t *codes, const uint8_t *scales, int64_t cols, uint8_t *out) {
    for (int64_t at = 0; at < cols; at += NI_GGML_MXFP4_BLOCK, out += NI_GGML_MXFP4_BYTES) {
        out[0] = scales[at / 32];
        split_half(codes + at / 2, 32, out + 1);
    }
}
