/* ggml.h: rows of our codes and scales in the blocks of ggml (types 40 and 39 of its files).
 *
 *     NVFP4, 64 elements       d0 d1 d2 d3   q[32]        36 bytes
 *     MXFP4, 32 elements       e             q[16]        17 bytes
 *
 * d0..d3 are the E4M3 bytes of four blocks of 16, e is the E8M0 byte of one of 32. A block of n codes is split in half:
 * byte j has element j in the low nibble and element j + n/2 in the high one (ours: 2j and 2j + 1). ggml decodes half
 * of a scale and doubles the elements (0 1 2 3 4 6 8 12), which gives the same numbers; E4M3's byte 0x7f is 0 to it,
 * not NaN. What stands above the block scales is no part of a block: NVFP4's tensor scale travels as a tensor of its
 * own.
 */
#ifndef NI_FORMAT_GGML_H
#define NI_FORMAT_GGML_H

#include <stdint.h>

enum { NI_GGML_NVFP4_BLOCK = 64, NI_GGML_NVFP4_BYTES = 36, NI_GGML_MXFP4_BLOCK = 32, NI_GGML_MXFP4_BYTES = 17 };

/* codes [cols/2], two a byte as docs/formats.md has them. nvfp4: scales [cols/16], cols divide by 64, out [cols/64*36].
 * mxfp4: scales [cols/32], cols divide by 32, out [cols/32*17]. */
void ni_ggml_nvfp4_row(const uint8_t *codes, const uint8_t *scales, int64_t cols, uint8_t *out);
void ni_ggml_mxfp4_row(const uint8_t *codes, const uint8_t *scales, int64_t cols, uint8_t *out);

#endif
